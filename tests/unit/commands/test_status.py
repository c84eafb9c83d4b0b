"""How status assesses what engine and daemon report."""

import io
import time
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from rich.console import Console

from jhswarmd import labels
from jhswarmd.commands import status
from jhswarmd.commands.status import Health, NodeState, Report, ServiceState, assess, show, warn
from jhswarmd.errors import JhswarmdError, UsageError


def make_daemon(**facts):
    servers = {
        "tracked": 1,
        "by_verdict": {"known": 1},
        "held": [],
        "removals": [],
        "last_pass_at_s": 1_000_000.0,
        **facts.pop("servers", {}),
    }
    accounts = {
        "names": 1,
        "refused": [],
        "plain": 0,
        "pending": 0,
        "delivered_to": ["c1"],
        "has_published_password": False,
        "removed_with_servers": [],
    }
    return {
        "version": "1",
        "up_s": 10.0,
        "is_active": True,
        "unready": "",
        "is_connected": True,
        "reconnects": 0,
        "unknown": {},
        "servers": servers,
        "accounts": {**accounts, **facts.pop("accounts", {})},
        "routes": {"restored_at_s": None},
        "rotation": {"doing": "", "units": {}, "version": 1},
        "prepull": {
            "images": ["i"],
            "nodes": 1,
            "pulling": {},
            "failed": [],
            "error": "",
            "version": 3,
            "asked": 1,
            "answered": 1,
        },
        **facts,
    }


def make_report(**facts):
    values = {
        "stack": "jupyterhub",
        "services": [
            ServiceState(role=role, running=1, desired=1, image="i")
            for role in ("hub", "proxy", "jhswarmd")
        ],
        "nodes": [NodeState(name="n1", role="manager", state="ready", availability="active")],
        "notebooks": {"running": 1},
        "secrets": [],
        "addresses_used": 3,
        "addresses": 1000,
        "daemon": make_daemon(),
    }
    return Report(**{**values, **facts})


def services(**running):
    return [
        ServiceState(role=role, running=running.get(role, 1), desired=1, image="i", error="boom")
        for role in ("hub", "proxy", "jhswarmd")
    ]


@pytest.mark.parametrize(
    ("facts", "health", "problem"),
    [
        pytest.param({}, Health.healthy, "", id="all is well"),
        pytest.param(
            {"services": services(hub=0)}, Health.down, "hub does not run (boom)", id="no hub"
        ),
        pytest.param({"services": []}, Health.down, "the service hub is missing", id="no stack"),
        pytest.param(
            {"daemon": None, "daemon_error": "silent"}, Health.down, "silent", id="no daemon"
        ),
        pytest.param(
            {"nodes": [NodeState(name="n2", role="worker", state="down", availability="active")]},
            Health.degraded,
            "node n2 is down",
            id="a lost node",
        ),
        pytest.param(
            {"daemon": make_daemon(servers={"held": ["x"]})},
            Health.degraded,
            "orphans approve",
            id="held orphans",
        ),
        pytest.param(
            {"daemon": make_daemon(unknown={"servers": "the hub is ill"})},
            Health.degraded,
            "the hub is ill",
            id="a failed reconcile",
        ),
        pytest.param(
            {"daemon": make_daemon(unready="it gets no events from the engine")},
            Health.degraded,
            "it gets no events from the engine",
            id="a daemon without events",
        ),
        pytest.param(
            {"daemon": make_daemon(accounts={"refused": ["line 3: no colon"]})},
            Health.degraded,
            "line 3: no colon",
            id="rejected lines",
        ),
        pytest.param(
            {"daemon": make_daemon(accounts={"delivered_to": []})},
            Health.degraded,
            "the hub has not received its accounts",
            id="a hub without accounts",
        ),
        pytest.param(
            {"addresses_used": 900}, Health.degraded, "NOTEBOOKS_SUBNET", id="addresses run out"
        ),
    ],
)
def test_the_worst_problem_decides_the_health(facts, health, problem):
    found, problems = assess(make_report(**facts))
    assert found is health
    assert any(problem in each for each in problems) or not problem
    assert bool(problems) == (health is not Health.healthy)


def test_the_report_shows_every_part(capsys):
    daemon = make_daemon(servers={"removals": [{"service": "s-x", "reason": "hub has no server"}]})
    report = make_report(health="healthy", daemon=daemon)
    show(report, Console(width=200))
    out = capsys.readouterr().out
    for part in ("jupyterhub is healthy", "1/1 running", "n1 (manager, ready)", "removed s-x"):
        assert part in out


def test_servers_that_do_not_answer_are_named(capsys):
    report = make_report(health="healthy", daemon=make_daemon(servers={"silent": ["ann", "bob:x"]}))
    show(report, Console(width=200))
    assert "running, but not answering: ann, bob:x" in capsys.readouterr().out


def test_the_report_reads_back_from_its_json():
    report = make_report()
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_files_on_several_nodes_are_a_warning_and_do_not_degrade():
    report = make_report(local_volume_nodes=["n1", "n2"])
    assert assess(report) == (Health.healthy, [])
    (warning,) = warn(report)
    assert "2 nodes (n1, n2)" in warning
    assert "NFS" in warning
    assert warn(make_report()) == []


@pytest.mark.parametrize(
    ("admins", "row"), [(["ann", "bob"], "ann, bob"), ([], "none"), (None, "")]
)
def test_the_admins_are_named(capsys, admins, row):
    show(make_report(health="healthy", daemon=make_daemon(admins=admins)), Console(width=200))
    text = capsys.readouterr().out
    lines = [
        line.strip().split(maxsplit=1) for line in text.splitlines() if line.startswith("admins")
    ]
    assert lines == ([["admins", row]] if row else [])


def test_a_warning_is_shown(capsys):
    show(make_report(health="healthy", warnings=["mind the gap"]), Console(width=200))
    assert "warning: mind the gap" in capsys.readouterr().out


def test_a_node_that_cannot_pull_degrades_and_is_named():
    failed = [{"node": "n2", "image": "r/x:1", "why": "No such image"}]
    view = {**make_daemon()["prepull"], "failed": failed, "nodes": 2}
    report = make_report(daemon=make_daemon(prepull=view))
    health, problems = assess(report)
    assert health is Health.degraded
    assert "node n2 cannot pull r/x:1: No such image" in problems[0]


def test_constraints_that_no_node_matches_degrade():
    view = {**make_daemon()["prepull"], "nodes": 0}
    health, problems = assess(make_report(daemon=make_daemon(prepull=view)))
    assert health is Health.degraded
    assert "none matches NOTEBOOK_CONSTRAINTS" in problems[0]


def test_plain_passwords_in_swarm_are_a_warning_and_do_not_degrade():
    report = make_report(daemon=make_daemon(accounts={"plain": 3}))
    assert assess(report) == (Health.healthy, [])
    (warning,) = warn(report)
    assert "3 passwords are stored as plain text" in warning


@pytest.mark.parametrize(
    ("host", "answering_at", "is_warned"),
    [
        ("localhost", [], False),
        ("", [], False),
        ("localhost", ["192.0.2.7"], True),
        ("hub.example.org", [], True),
    ],
)
def test_the_published_password_is_a_warning_when_the_hub_is_exposed(host, answering_at, is_warned):
    facts = {"host": host, "answering_at": answering_at}
    daemon = make_daemon(accounts={"has_published_password": True})
    found = warn(make_report(daemon=daemon, **facts))
    assert ["jhswarmd users passwd testuser" in each for each in found] == [True] * is_warned
    assert all(address in found[0] for address in answering_at)
    daemon = make_daemon(accounts={"has_published_password": False})
    assert warn(make_report(daemon=daemon, **facts)) == []


def test_servers_of_removed_users_are_shown_with_what_happens_to_them(capsys):
    daemon = make_daemon(accounts={"removed_with_servers": ["bob"]})
    report = make_report(health="healthy", daemon=daemon, removed_user_servers="keep")
    show(report, Console(width=200))
    assert "removed, server still running: bob (REMOVED_USER_SERVERS=keep)" in (
        capsys.readouterr().out
    )


def make_unit(**facts):
    day_s = 86400.0
    unit = {
        "generation": 2,
        "created_at_s": time.time() - 3 * day_s,
        "is_verified": True,
        "next_at_s": time.time() + 80 * day_s,
        "expires_at_s": None,
        "rejected": {},
        "put_right": "",
        "put_right_at_s": None,
    }
    return {**unit, **facts}


def make_rotation(doing="", **units):
    return make_daemon(rotation={"doing": doing, "units": units, "version": 1})


def test_each_secret_that_rotates_has_a_line_with_generation_age_next_rotation_and_result(capsys):
    units = {
        "cookie": make_unit(),
        "proxy": make_unit(is_verified=False, next_at_s=None),
        "tls": make_unit(expires_at_s=time.time() + 90 * 86400, rejected={"3": "no key"}),
    }
    daemon = make_rotation(doing="waiting for hub", **units)
    show(make_report(daemon=daemon, health="healthy"), Console(width=200))
    shown = capsys.readouterr().out
    assert "cookie g2, 3 d old, next rotation in 80 d, in use" in shown
    assert "proxy g2, 3 d old, no automatic rotation, being rotated: waiting for hub" in shown
    assert "tls g2, 3 d old, expires in 90 d, next rotation in 80 d, g3 was rolled back" in shown


def test_a_rotation_that_was_rolled_back_is_a_problem_with_its_reason():
    daemon = make_rotation(cookie=make_unit(rejected={"3": "the hub does not start with it"}))
    health, problems = assess(make_report(daemon=daemon))
    assert health is Health.degraded
    assert "the hub does not start with it" in problems[0]
    assert "jhswarmd rotate cookie" in problems[0]


def test_a_certificate_is_a_warning_before_it_expires_and_a_problem_after():
    soon = make_rotation(tls=make_unit(expires_at_s=time.time() + 3 * 86400 + 60))
    assert any("expires in 3 d" in each for each in warn(make_report(daemon=soon)))
    assert assess(make_report(daemon=soon))[0] is Health.healthy
    over = make_rotation(tls=make_unit(expires_at_s=time.time() - 60))
    assert "has expired" in assess(make_report(daemon=over))[1][0]
    later = make_rotation(tls=make_unit(expires_at_s=time.time() + 30 * 86400))
    assert warn(make_report(daemon=later)) == []


def test_mounts_changed_from_outside_are_reported_for_a_week():
    what = "hub used older secrets or none"
    unit = make_unit(put_right=what, put_right_at_s=time.time() - 3 * 86400 - 60)
    (warning,) = warn(make_report(daemon=make_rotation(cookie=unit)))
    assert warning.startswith(f"cookie: {what}, corrected 3 d ago")
    unit = make_unit(put_right=what, put_right_at_s=time.time() - 8 * 86400)
    assert warn(make_report(daemon=make_rotation(cookie=unit))) == []


def test_watch_shows_every_refresh_and_continues_after_a_failed_one(monkeypatch):
    results = [
        JhswarmdError("The engine is away", remedy="Wait."),
        make_report(health="healthy"),
        KeyboardInterrupt(),
    ]

    def refresh():
        one = results.pop(0)
        if isinstance(one, BaseException):
            raise one
        return one

    waited = []
    monkeypatch.setattr(status.time, "sleep", waited.append)
    monkeypatch.setenv("TERM", "xterm")  # a dumb terminal is shown no updates
    out = io.StringIO()
    status.watch(refresh, Console(file=out, force_terminal=True, width=100))
    assert results == []
    assert waited == [status.WATCH_INTERVAL_S] * 2
    assert "The engine is away" in out.getvalue()
    assert "Wait." in out.getvalue()
    assert "healthy" in out.getvalue()


MANAGER = {"LocalNodeState": "active", "ControlAvailable": True}


def make_client(services=(), secrets=(), hubs=(), networks=(), swarm=MANAGER):
    def listed(names):
        return [{"Spec": {"Labels": {labels.STACK: name} if name else {}}} for name in names]

    api = SimpleNamespace(
        services=lambda filters: listed(hubs if filters["label"].endswith("=hub") else services),
        secrets=lambda filters: listed(secrets),
        networks=lambda filters: [{"Name": name} for name in networks],
    )
    return SimpleNamespace(api=api, info=lambda: {"Swarm": swarm})


def test_the_one_stack_is_found_by_whatever_is_left_of_it():
    # 'down' removes hub and daemon first, and may be interrupted.
    assert status.find_stack(make_client(["a", "b"], hubs=["a"]), None) == "a"
    assert status.find_stack(make_client(["a", "a", ""]), None) == "a"
    assert status.find_stack(make_client([], ["a", "a"]), None, include_down=True) == "a"
    assert status.find_stack(make_client(["a"], ["b"]), None, include_down=True) == "a"
    assert status.find_stack(make_client(["mine", "a"]), "mine") == "mine"
    assert status.find_stack(make_client(["a"], ["mine"]), "mine", include_down=True) == "mine"
    # 'down --purge' kept a network that a foreign service uses.
    kept = make_client(networks=["mine_control"])
    assert status.find_stack(kept, "mine", include_down=True) == "mine"
    with pytest.raises(UsageError, match="2 deployments"):
        status.find_stack(make_client(["a", "b"]), None)


@pytest.mark.parametrize(
    ("client", "wanted", "expected"),
    [
        pytest.param(make_client(), None, ["There is no deployment on"], id="none"),
        pytest.param(make_client(), "nope", ["no deployment 'nope'", "it has none"], id="unknown"),
        pytest.param(
            make_client(["a", "b"]),
            "nope",
            ["no deployment 'nope'", "it has a, b"],
            id="others",
        ),
        pytest.param(make_client([], ["a"]), None, ["deployment a is down", "kept"], id="down"),
        pytest.param(make_client(["b"], ["a"]), "a", ["deployment a is down"], id="this one down"),
    ],
)
def test_a_missing_stack_is_distinguished_from_one_that_is_down(client, wanted, expected):
    with pytest.raises(UsageError) as caught:
        status.find_stack(client, wanted)
    for part in expected:
        assert part in str(caught.value)
    assert "up" in caught.value.remedy


@pytest.mark.parametrize(
    ("swarm", "expected"),
    [
        (
            {"LocalNodeState": "inactive", "ControlAvailable": False},
            "This machine is not in a swarm",
        ),
        ({"LocalNodeState": "active", "ControlAvailable": False}, "worker of its swarm"),
        ({"LocalNodeState": "locked"}, "in the state 'locked'"),
    ],
)
@pytest.mark.parametrize("wanted", [None, "mine"])
def test_a_node_that_cannot_list_deployments_says_so_with_a_remedy(swarm, expected, wanted):
    with pytest.raises(JhswarmdError) as caught:
        status.find_stack(make_client(swarm=swarm), wanted)
    assert expected in str(caught.value)
    assert caught.value.remedy


def crashing(**facts):
    hub = {
        "role": "hub",
        "running": 0,
        "desired": 1,
        "image": "i",
        "error": "task: non-zero exit (1)",
        "failures": 4,
        "last_words": ["Traceback (most recent call last):", "SyntaxError: '(' was never closed"],
    }
    return [ServiceState(**{**hub, **facts}), *services()[1:]]


def test_a_hub_that_fails_repeatedly_is_explained_by_its_last_log_lines_only():
    daemon = make_daemon(unknown={"servers": "the hub is silent"}, unready="no hub answers")
    report = make_report(services=crashing(), daemon=daemon)
    health, problems = assess(report)
    assert health is Health.down
    (problem,) = problems
    for part in ("non-zero exit (1), 4 times", "'(' was never closed", "'jhswarmd up'"):
        assert part in problem
    shown = io.StringIO()
    show(report.model_copy(update={"health": "down", "problems": problems}), Console(file=shown))
    assert "| Traceback" in shown.getvalue()


def test_a_hub_that_has_not_failed_is_starting():
    report = make_report(services=crashing(error="", failures=0, last_words=[], state="starting"))
    assert "hub does not run: its newest task: starting" in assess(report)[1][0]


def test_a_daemon_that_does_not_run_is_reported_once():
    stopped = [*services()[:2], *services(jhswarmd=0)[2:]]
    _, problems = assess(make_report(services=stopped, daemon=None, daemon_error="no container"))
    assert len(problems) == 1


NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def ended(minute, *, state="failed", version=7):
    return {
        "Status": {"State": state, "Timestamp": f"2026-03-01T11:{minute}:00.123456789Z"},
        "SpecVersion": {"Index": version},
    }


def test_only_recent_failures_of_the_running_specification_count():
    running = {"SpecVersion": {"Index": 7}}
    late = [ended(55), ended(56, state="rejected"), ended(57)]
    others = [ended(40), ended(58, version=6), ended(59, state="shutdown")]
    assert status._recent_failures([*late, *others], running, NOW) == late


def test_a_hub_that_runs_and_fails_repeatedly_is_degraded():
    health, (problem,) = assess(make_report(services=crashing(running=1)))
    assert health is Health.degraded
    for part in ("ended 4 times in 10 min", "non-zero exit (1)", "'(' was never closed"):
        assert part in problem


def test_a_lost_name_is_named_with_the_command_that_repairs_it():
    health, problems = assess(make_report(daemon=make_daemon(names={"lost": ["proxy"]})))
    assert health is Health.degraded
    assert "lost the name 'proxy'" in problems[0]
    assert "docker service update --force" in problems[0]
