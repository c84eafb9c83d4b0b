"""The findings of doctor."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jhswarmd import __version__
from jhswarmd.commands import doctor
from jhswarmd.commands.doctor import Grade
from jhswarmd.commands.status import warn
from jhswarmd.credentials import tls
from jhswarmd.credentials.generations import SecretVersion
from jhswarmd.deploy.profiles.profile import Profile
from jhswarmd.settings.settings import Settings
from tests.unit.commands.test_status import make_daemon, make_report


def make_node(id="n1", role="manager", state="ready", version="20.10.24"):
    return {
        "ID": id,
        "Status": {"State": state},
        "Spec": {"Role": role},
        "Description": {"Hostname": f"host-{id}", "Engine": {"EngineVersion": version}},
    }


def make_task(node_id="n1", stamped="2026-03-01T12:00:00.5Z", taken="2026-03-01T12:00:00.7Z"):
    return {
        "NodeID": node_id,
        "UpdatedAt": taken,
        "Status": {"State": "running", "Timestamp": stamped},
    }


def bad(findings):
    return [each.what for each in findings if each.grade is Grade.bad]


def test_an_engine_that_is_too_old_is_reported_with_the_minimum():
    assert not bad(doctor.engine({"Version": "20.10.24", "ApiVersion": "1.41"}))
    assert not bad(doctor.engine({"Version": "29.0.0", "ApiVersion": "1.100"}))
    (finding,) = doctor.engine({"Version": "19.03", "ApiVersion": "1.40"})
    assert finding.grade is Grade.bad
    assert "1.41" in finding.remedy


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        pytest.param([make_node()], [], id="one manager"),
        pytest.param([make_node(f"n{i}") for i in range(3)], [], id="three"),
        pytest.param([make_node(), make_node("n2")], ["two managers"], id="two"),
        pytest.param(
            [make_node(), make_node("n2", "worker", "down")], ["host-n2 is down"], id="one is down"
        ),
        pytest.param(
            [make_node(), make_node("n2", "worker", version="24.0.0")],
            ["20.10.24, 24.0.0"],
            id="two versions",
        ),
    ],
)
def test_problematic_nodes_are_reported(nodes, expected):
    found = bad(doctor.nodes(nodes))
    assert len(found) == len(expected)
    for what, part in zip(found, expected, strict=True):
        assert part in what


def test_a_clock_is_checked_by_the_state_that_was_stored_soonest():
    nodes = [make_node("n1"), make_node("n2", "worker"), make_node("n3", "worker")]
    tasks = [
        make_task("n1"),
        # Changed by the manager an hour later: says nothing about the clock.
        make_task("n1", taken="2026-03-01T13:00:00Z"),
        make_task("n2", stamped="2026-03-01T13:00:00Z"),
        make_task("n2", stamped="2026-03-01T13:10:00Z", taken="2026-03-01T12:05:00Z"),
    ]
    assert bad(doctor.clocks(nodes, tasks)) == ["host-n2 is 3600 s ahead"]
    assert bad(doctor.clocks(nodes, tasks[:2])) == []


def test_problems_of_status_and_the_expiry_of_a_certificate_are_findings():
    in_days = time.time() + 10.5 * 86400
    unit = {
        "generation": 1,
        "created_at_s": 0.0,
        "is_verified": True,
        "next_at_s": None,
        "expires_at_s": in_days,
        "rejected": {},
    }
    rotation = {"doing": "", "units": {"tls": unit}, "version": 1}
    daemon = make_daemon(version=__version__, rotation=rotation)
    report = make_report(daemon=daemon, problems=["no good"], warnings=["no matter"])
    findings = doctor.deployment(report)
    assert bad(findings) == ["no good", "no matter"]
    assert "expires in 10 days" in [each.what for each in findings]
    assert not bad(doctor.deployment(make_report(daemon=daemon)))


def test_a_daemon_of_another_version_is_reported():
    (what,) = bad(doctor.deployment(make_report(daemon=make_daemon(version="0.0.1"))))
    assert "0.0.1" in what
    assert __version__ in what


PUBLISHED = b"testuser:testpassword\n"


def make_profile(name="mine", host="localhost", users=b"ann:$6$saltsalt$" + b"a" * 86):
    return Profile(name, Settings(host=host), {"users": users}, Path("env") / name)


@pytest.mark.parametrize(
    ("profile", "is_published", "bad_ones"),
    [
        (make_profile("local"), True, 0),
        (make_profile(), True, 1),
        (make_profile(), False, 0),
        (make_profile(users=PUBLISHED), False, 1),  # the next 'up' deploys it
        (make_profile(users=PUBLISHED), True, 1),
        (make_profile(host="hub.example", users=PUBLISHED), True, 1),
        (make_profile("local", "hub.example", users=PUBLISHED), True, 1),
        (make_profile(users=b"testuser:another\n"), False, 0),
    ],
)
def test_the_published_password_is_only_for_the_profile_local_and_reported_once(
    profile, is_published, bad_ones
):
    daemon = make_daemon(accounts={"has_published_password": is_published}, version=__version__)
    report = make_report(host=profile.settings.host, daemon=daemon)
    report = report.model_copy(update={"warnings": warn(report)})
    found = bad(doctor.deployment(report)) + bad(doctor.accounts(report, profile))
    assert len(found) == bad_ones
    assert all("testuser" in each for each in found)


def test_a_list_is_checked_before_anything_is_deployed():
    (what,) = bad(doctor.accounts(None, make_profile(users=PUBLISHED)))
    assert "env/mine/user_list.txt" in what
    assert doctor.accounts(None, make_profile("local", users=PUBLISHED)) == []


def test_plain_passwords_of_the_list_are_reported_with_a_remedy():
    (finding,) = doctor.accounts(None, make_profile(users=b"ann:a\nbea:b\n"))
    assert finding.grade is Grade.good
    assert "2 plain-text passwords" in finding.what
    assert "users convert env/mine/user_list.txt" in finding.remedy
    assert doctor.accounts(None, make_profile()) == []


def test_the_certificate_of_the_profile_is_checked_before_it_is_deployed():
    good, wrong = (
        Profile("mine", Settings(host=host), {"tls_cert": certificate}, Path("env/mine"))
        for certificate, _ in [tls.self_signed("hub.example")]
        for host in ("hub.example", "other.example")
    )
    assert doctor.certificate(Profile("mine", Settings(), {}, Path("env/mine"))) == []
    assert not bad(doctor.certificate(good))
    (what,) = bad(doctor.certificate(wrong))
    assert "not for other.example" in what


@pytest.mark.parametrize(
    ("heartbeat_s", "silence", "has_remedy"), [(5, "15 s", True), (60, "180 s", False)]
)
def test_the_time_a_node_may_miss_heartbeats_is_reported(heartbeat_s, silence, has_remedy):
    finding = doctor.check_heartbeat(heartbeat_s)
    assert finding.grade is Grade.good
    assert silence in finding.what
    assert ("--dispatcher-heartbeat" in finding.remedy) is has_remedy


@pytest.mark.parametrize(
    ("names", "host", "is_bad"),
    [
        (("hub.example", "localhost"), "hub.example", False),
        (("*.example",), "hub.example", False),
        (("localhost", "127.0.0.1"), "hub.example", True),
    ],
)
def test_the_certificate_in_use_is_compared_with_the_host(names, host, is_bad):
    held = [
        SecretVersion(kind, kind, kind, 1, "generated", certificate_names=names)
        for kind in ("tls_cert", "tls_key")
    ]
    (found,) = doctor.live_certificate(held, host)
    assert (found.grade is doctor.Grade.bad) is is_bad
    assert host in found.what
    assert doctor.live_certificate([], host) == []
