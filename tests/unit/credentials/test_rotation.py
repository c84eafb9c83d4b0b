"""Rotations on a stack in memory: nobody is locked out at any step, and each crash is survived."""

from __future__ import annotations

import re
import threading
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jhswarmd import labels
from jhswarmd.commands.rotate import describe, raise_for_removed
from jhswarmd.credentials import generations, rotation, secret_mounts
from jhswarmd.credentials.generations import SecretVersion, newest
from jhswarmd.credentials.rotation import BY_AGE, CREDENTIALS, Point
from jhswarmd.errors import DaemonBusy, EngineConflict, EngineError, JhswarmdError
from jhswarmd.model import StackService
from jhswarmd.reconcile.credentials import REMOVE_AGAIN_S, Credentials
from jhswarmd.settings.settings import Settings
from tests.kit.wait import wait_until

START = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
MOUNTED = {
    "hub": ("cookie_secret", "proxy_auth_token", "crypt_key", "daemon_token", "culler_token"),
    "proxy": ("proxy_auth_token", "tls_cert", "tls_key"),
    "jhswarmd": ("daemon_token", "culler_token", "users"),
}


class Crash(BaseException):
    """The daemon is killed."""


class Stack:
    """Secrets, and what three services mount of them, with a hub and a proxy that use them."""

    def __init__(self):
        self.now = START
        self.secrets: dict[str, SecretVersion] = {}
        self.specs = {}
        self.bad: set[str] = set()
        self.spared: set[str] = set()  # roles that start all the same with what is bad
        self.down: set[str] = set()
        self.kept: set[str] = set()  # ids that a service of somebody else's mounts
        self.log: list[str] = []
        self.changes = 0
        self.crash_at: tuple[int, bool] | None = None  # which change, and whether it is made
        self.must_stay: set[str] = set()  # ids that the hub may never be without
        self.encrypted_with = ""
        self.has_ended_logins = False
        for kind in {kind for kinds in MOUNTED.values() for kind in kinds}:
            self.add(kind, 1)
        for role, kinds in MOUNTED.items():
            references_ = [self._reference(kind, role) for kind in kinds]
            self.specs[role] = {"TaskTemplate": {"ContainerSpec": {"Secrets": references_}}}
        self.own = self.specs["jhswarmd"]["TaskTemplate"]

    def _reference(self, kind, role):
        target = f"{kind}_g1" if role == "hub" and kind in secret_mounts.NUMBERED else kind
        name = labels.secret_name("jupyterhub", kind, 1)
        return {"SecretID": f"id-{name}", "SecretName": name, "File": {"Name": target, "Mode": 256}}

    def add(self, kind, number, **facts):
        name = labels.secret_name("jupyterhub", kind, number)
        held = SecretVersion(
            f"id-{name}", name, kind, number, "generated", generations.format_utc(self.now), **facts
        )
        self.secrets[held.id] = held
        return held

    def mounts(self, role):
        return frozenset(secret_mounts.mounted(self.specs[role]))

    def numbers(self, role, kind):
        return {
            self.secrets[i].generation for i in self.mounts(role) if self.secrets[i].kind == kind
        }

    def newest(self, unit):
        return newest(self.secrets.values(), *CREDENTIALS[unit])

    def restart_daemon(self):
        """The task that the engine starts next mounts what the service is to mount by then."""
        self.crash_at = None
        self.own = self.specs["jhswarmd"]["TaskTemplate"]

    # ---- what an engine does

    def _change(self, what, make):
        self.changes += 1
        crashes, is_made = self.crash_at or (0, False)
        if crashes == self.changes and not is_made:
            raise Crash
        make()
        self.log.append(what)
        if not what.startswith("mark "):  # which changes nothing that is mounted
            self.check()
        if crashes == self.changes:
            raise Crash

    def list_secrets(self, stack):
        return list(self.secrets.values())

    def create_secret(self, name, content, marks):
        def make():
            inspected = {
                "ID": f"id-{name}",
                "CreatedAt": generations.format_utc(self.now),
                "Spec": {"Name": name, "Labels": dict(marks)},
            }
            self.secrets[f"id-{name}"] = generations.read(inspected)

        if f"id-{name}" in self.secrets:
            raise EngineConflict("the name is taken")
        self._change(f"create {name}", make)

    def mark_secret(self, secret_id, marks):
        def make():
            held = self.secrets[secret_id]
            changes = {
                "settled_at": marks.get(labels.SETTLED, held.settled_at),
                "rejected": marks.get(labels.REJECTED, held.rejected),
                "put_right": marks.get(labels.PUT_RIGHT, held.put_right),
            }
            self.secrets[secret_id] = SecretVersion(**{**vars(held), **changes})

        self._change(f"mark {secret_id}", make)

    def remove_secret(self, secret_id):
        if secret_id in self.kept or any(secret_id in self.mounts(role) for role in self.specs):
            raise EngineError("it is in use")
        self._change(f"remove {secret_id}", lambda: self.secrets.pop(secret_id))

    def read_stack_services(self, stack):
        found = {}
        for role in self.specs:
            is_bad = bool(self.bad & self.mounts(role)) and role not in self.spared
            container = self.specs[role]["TaskTemplate"]["ContainerSpec"]
            found[role] = StackService(
                self.mounts(role),
                frozenset(each["File"]["Name"] for each in container["Secrets"]),
                is_running=not is_bad and role not in self.down,
                failures=3 if is_bad else 0,
                error="exit status 1" if is_bad else "",
            )
        return found

    def read_own_task(self):
        return self.own

    def change_service(self, service, change):
        role = service.removeprefix("jupyterhub_")
        changed = change(self.specs[role])
        if changed is None:
            return False
        self._change(f"lead {role}", lambda: self.specs.update({role: changed}))
        if role == "jhswarmd":
            raise Crash  # the engine restarts the daemon
        return True

    # ---- what a hub does

    def restore_routes(self):
        self.log.append("restore routes")

    def check_credentials(self, *, ends_logins):
        hub, proxy = (self.numbers(role, "proxy_auth_token") for role in ("hub", "proxy"))
        self.encrypted_with = f"id-jupyterhub_crypt_key_g{max(self.numbers('hub', 'crypt_key'))}"
        self.must_stay.discard("id-jupyterhub_crypt_key_g1")
        self.has_ended_logins |= ends_logins
        own = {each["SecretID"] for each in self.own["ContainerSpec"]["Secrets"]}
        number = max(self.numbers("hub", "daemon_token"))
        is_newest = f"id-jupyterhub_daemon_token_g{number}" in own
        return {
            "takes_newest": max(hub) in proxy,
            "takes_older": bool((hub - {max(hub)}) & proxy),
            "forgotten": 1 if is_newest else None,
        }

    def check(self):
        """Hold what must hold after every single change."""
        hub = self.mounts("hub")
        for id_ in self.mounts("proxy"):
            if self.secrets[id_].kind == "proxy_auth_token":
                assert id_ in hub, "the hub cannot reach its proxy"
        assert self.must_stay <= hub
        for role, kinds in MOUNTED.items():
            assert {self.secrets[id_].kind for id_ in self.mounts(role)} <= set(kinds)


def make_daemon(stack, **changes):
    profile = Settings(rotate_after_days=changes.pop("rotate_after_days", 0), **changes)
    return Credentials(stack, stack, profile, lambda: True, threading.Event(), lambda: stack.now)


def settle(stack, **changes):
    """Let daemons work, each killed one followed by a new one, until there is nothing to do."""
    for _ in range(30):
        try:
            daemon = make_daemon(stack, **changes)
            again_s = daemon.reconcile()
        except Crash:
            stack.restart_daemon()
            continue
        if again_s != 5:
            return daemon
    raise AssertionError("it does not come to rest")


def rotate(stack, *units, revoke=False, request="r1"):
    arguments = {"units": units, "revoke": revoke, "request": request}
    return make_daemon(stack).rotate(arguments)["generations"]


@pytest.fixture
def stack():
    made = Stack()
    settle(made)
    made.now += timedelta(days=1)
    made.log.clear()
    return made


def test_what_up_made_is_settled_without_a_restart():
    made = Stack()
    settle(made)
    assert all(made.newest(unit).is_verified for unit in CREDENTIALS)
    assert not [step for step in made.log if step.startswith("lead")]


def test_a_rotation_goes_from_hub_to_proxy_to_daemon_and_logs_nobody_out(stack):
    stack.must_stay = {"id-jupyterhub_cookie_secret_g1", "id-jupyterhub_crypt_key_g1"}
    assert rotate(stack, *BY_AGE) == dict.fromkeys(BY_AGE, 2)
    settle(stack)
    leads = [step for step in stack.log if step.startswith("lead")]
    assert leads == ["lead hub", "lead proxy", "lead jhswarmd"]
    assert stack.log.index("restore routes") > stack.log.index("lead proxy")
    assert stack.numbers("hub", "cookie_secret") == {1, 2}
    assert stack.numbers("proxy", "proxy_auth_token") == {2}
    assert stack.numbers("jhswarmd", "daemon_token") == stack.numbers("hub", "daemon_token") == {2}
    assert stack.encrypted_with == "id-jupyterhub_crypt_key_g2"
    assert all(stack.newest(unit).is_verified for unit in CREDENTIALS)
    assert not stack.has_ended_logins


def test_the_log_names_every_point_at_which_a_daemon_may_be_killed(stack, caplog):
    caplog.set_level("INFO")
    rotate(stack, *BY_AGE, revoke=True)
    settle(stack)
    stack.bad = {"id-jupyterhub_cookie_secret_g3"}
    rotate(stack, "cookie", request="r2")
    settle(stack)
    detach(stack, "hub", "crypt_key")
    del stack.secrets["id-jupyterhub_crypt_key_g2"]
    settle(stack)
    assert {*re.findall(r"step=(\S+)", caplog.text)} == {point.value for point in Point}


def test_older_keys_leave_in_quiet_hours_when_no_cookie_lives_that_they_signed(stack):
    rotate(stack, *BY_AGE)
    settle(stack, quiet_hours="2-5")
    stack.now += timedelta(days=13)
    stack.now = stack.now.replace(hour=3)
    settle(stack)
    assert stack.numbers("hub", "cookie_secret") == {1, 2}
    stack.now += timedelta(days=2)
    stack.now = stack.now.replace(hour=12)
    settle(stack)
    assert stack.numbers("hub", "cookie_secret") == {1, 2}  # not while people work
    stack.now = stack.now.replace(hour=3)
    settle(stack)
    for kind in ("cookie_secret", "proxy_auth_token", "crypt_key"):
        assert stack.numbers("hub", kind) == {2}
        assert f"id-jupyterhub_{kind}_g1" not in stack.secrets


def test_with_revoke_older_ones_are_gone_at_once_but_what_is_encrypted_stays_readable(stack):
    stack.must_stay = {"id-jupyterhub_crypt_key_g1"}  # until everything is encrypted anew
    rotate(stack, *BY_AGE, revoke=True)
    settle(stack)
    for kind in ("cookie_secret", "proxy_auth_token", "crypt_key", "daemon_token"):
        assert stack.numbers("hub", kind) == {2}
    assert stack.has_ended_logins
    assert not [each for each in stack.secrets.values() if each.kind == "cookie_secret"][1:]


@settings(max_examples=150, deadline=None)
@given(
    units=st.lists(st.sampled_from([*CREDENTIALS]), min_size=1, unique=True),
    revoke=st.booleans(),
    crashes=st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=4),
)
def test_a_daemon_that_is_killed_anywhere_leaves_nothing_that_the_next_one_does_not_finish(
    units, revoke, crashes
):
    made = Stack()
    settle(made)
    if not revoke:
        made.must_stay = {"id-jupyterhub_cookie_secret_g1", "id-jupyterhub_crypt_key_g1"}
    begun = False
    for crash_at in crashes:
        made.changes, made.crash_at = 0, crash_at
        try:
            if not begun:
                # Whoever asked asks again, with the same id.
                rotate(made, *units, revoke=revoke)
                begun = True
            settle_once(made)
        except (Crash, DaemonBusy):
            pass
        made.restart_daemon()
    made.now += rotation.ABANDONED
    settle(made)
    if not begun:
        rotate(made, *units, revoke=revoke)
    settle(made)
    for unit in units:
        assert made.newest(unit).number >= 2
    for unit, kinds in CREDENTIALS.items():
        assert made.newest(unit).is_verified
        for role, mounted in MOUNTED.items():
            for kind in {*kinds} & {*mounted}:
                assert made.newest(unit).number in made.numbers(role, kind)
        # No half of a pair is left.
        held = {each.generation for each in made.secrets.values() if each.kind in kinds}
        assert len(held) <= 2 or not revoke


def settle_once(stack):
    make_daemon(stack).reconcile()


def test_a_request_whose_answer_was_lost_is_carried_out_once(stack):
    assert rotate(stack, "cookie") == rotate(stack, "cookie") == {"cookie": 2}
    settle(stack)
    assert rotate(stack, "cookie") == {"cookie": 2}


def test_a_request_that_was_cut_off_is_completed_and_makes_nothing_twice(stack):
    stack.changes, stack.crash_at = 0, (2, True)
    with pytest.raises(Crash):
        rotate(stack, "cookie", "proxy", "crypt")
    stack.restart_daemon()
    assert rotate(stack, "cookie", "proxy", "crypt") == {"cookie": 2, "proxy": 2, "crypt": 2}


def test_of_two_at_once_one_waits(stack):
    rotate(stack, "cookie")
    arguments = {"units": ["proxy"], "request": "r2"}
    answer = make_daemon(stack).rotate(arguments)
    assert answer == {"generations": {}, "busy": "cookie"}
    settle(stack)
    assert rotate(stack, "proxy", request="r2") == {"proxy": 2}


@pytest.mark.parametrize(
    ("unit", "kind", "role"),
    [
        ("cookie", "cookie_secret", "hub"),
        ("tls", "tls_cert", "proxy"),
        ("proxy", "proxy_auth_token", "proxy"),
    ],
)
def test_what_does_not_start_is_taken_back_and_told(stack, unit, kind, role):
    rotate(stack, unit)
    stack.bad = {f"id-jupyterhub_{kind}_g2"}
    daemon = settle(stack)
    assert stack.numbers(role, kind) == {1}
    told = daemon.feed.now["units"][unit]
    assert told["generation"] == 1
    assert "exit status 1" in told["rejected"]["2"]
    assert told["put_right"] == ""
    # The next one works, and then the bad one is no longer told of.
    assert rotate(stack, unit, request="r2") == {unit: 3}
    daemon = settle(stack)
    assert daemon.feed.now["units"][unit]["rejected"] == {}
    assert f"id-jupyterhub_{kind}_g2" not in stack.secrets


def test_what_was_rolled_back_is_not_tried_again_by_itself_for_a_day(stack):
    stack.now += timedelta(days=200)
    stack.now = stack.now.replace(hour=3)
    stack.bad = {f"id-jupyterhub_cookie_secret_g{number}" for number in range(2, 9)}
    aged = {"rotate_after_days": 90, "quiet_hours": "2-5"}
    settle(stack, **aged)
    stack.now += timedelta(hours=1)
    settle(stack, **aged)
    cookies = [each for each in stack.secrets.values() if each.kind == "cookie_secret"]
    assert [each.generation for each in cookies if each.rejected] == [2]
    stack.bad.clear()
    stack.now += timedelta(days=1)
    settle(stack, **aged)
    assert stack.newest("cookie").number == 3
    assert stack.newest("cookie").is_verified


def test_a_dry_run_tells_the_number_that_is_made(stack):
    stack.bad = {"id-jupyterhub_cookie_secret_g2"}
    rotate(stack, "cookie")
    settle(stack)
    (line,) = describe(stack.list_secrets("jupyterhub"), ["cookie"], revoke=False)
    assert line.startswith("cookie: generation 3 replaces 1")
    assert rotate(stack, "cookie", request="r2") == {"cookie": 3}


def test_a_token_with_which_the_proxy_alone_does_not_start_is_taken_back_from_it_first(stack):
    # After each change the hub can reach its proxy ('check'), or it would not start again.
    stack.spared = {"hub"}
    stack.bad = {"id-jupyterhub_proxy_auth_token_g2"}
    rotate(stack, "proxy", "cookie")
    settle(stack)
    assert stack.numbers("proxy", "proxy_auth_token") == {1}
    assert stack.numbers("hub", "proxy_auth_token") == {1}
    assert stack.newest("proxy").number == 1


def test_a_proxy_that_came_back_with_a_rejected_token_is_led_away_before_the_hub_is_waited_for(
    stack,
):
    # As by a stack file that was rendered before the token was rejected: no hub starts without a
    # proxy, and no proxy with this token.
    rotate(stack, "proxy")
    stack.bad = {"id-jupyterhub_proxy_auth_token_g2"}
    settle(stack)
    reference = {"SecretID": "id-jupyterhub_proxy_auth_token_g2", "SecretName": "jupyterhub_x"}
    for role, name in (("hub", "proxy_auth_token_g2"), ("proxy", "proxy_auth_token")):
        detach(stack, role, "proxy_auth_token")
        container = stack.specs[role]["TaskTemplate"]["ContainerSpec"]
        container["Secrets"].append({**reference, "File": {"Name": name, "Mode": 256}})
    stack.down = {"hub"}
    make_daemon(stack).reconcile()
    assert stack.numbers("proxy", "proxy_auth_token") == {1}
    stack.down = set()
    settle(stack)
    assert stack.numbers("hub", "proxy_auth_token") == {1}


def test_a_secret_that_cannot_be_removed_holds_up_nothing_else(stack):
    rotate(stack, "tls")
    stack.kept = {"id-jupyterhub_tls_cert_g1"}  # a service of somebody else's mounts it
    daemon = settle(stack, rotate_after_days=90)
    assert daemon.feed.now["doing"] == ""
    assert daemon.reconcile() == REMOVE_AGAIN_S
    stack.now += timedelta(days=100)
    stack.now = stack.now.replace(hour=3)
    settle(stack, rotate_after_days=90)
    assert {unit: stack.newest(unit).number for unit in BY_AGE} == dict.fromkeys(BY_AGE, 2)
    assert "id-jupyterhub_tls_cert_g1" in stack.secrets
    stack.kept = set()
    settle(stack, rotate_after_days=90)
    assert "id-jupyterhub_tls_cert_g1" not in stack.secrets


def test_a_hub_that_fails_for_another_reason_takes_nothing_back(stack):
    stack.bad = {"id-jupyterhub_cookie_secret_g1"}  # it is settled, and the hub is down
    assert make_daemon(stack).reconcile() == 5
    assert not [each for each in stack.secrets.values() if each.rejected]


def test_a_service_that_an_old_file_led_back_is_put_right_and_named(stack):
    # Of these the older ones are still there; where they are not, the engine refuses the old file.
    rotate(stack, "cookie", "proxy", "crypt")
    settle(stack)
    stack.specs = Stack().specs
    daemon = settle(stack)
    # By whom it was put right does not matter: the daemon that is replaced last tells of it.
    told = daemon.feed.now["units"]
    assert {name for name in told if "older secrets" in told[name]["put_right"]} == {
        "cookie",
        "proxy",
        "crypt",
    }
    assert told["cookie"]["put_right_at_s"] == stack.now.timestamp()
    assert stack.numbers("hub", "cookie_secret") == {1, 2}
    assert stack.numbers("proxy", "proxy_auth_token") == {2}


def detach(stack, role, kind):
    """Take a kind's secrets away from a service, as somebody does by hand."""
    container = stack.specs[role]["TaskTemplate"]["ContainerSpec"]
    held = [each for each in container["Secrets"] if stack.secrets[each["SecretID"]].kind != kind]
    changed = {"TaskTemplate": {"ContainerSpec": {**container, "Secrets": held}}}
    stack.specs[role] = changed


@pytest.mark.parametrize(
    ("role", "kind"),
    [(role, kind) for role in ("hub", "proxy") for kind in MOUNTED[role]],
)
def test_what_was_taken_from_a_service_by_hand_is_mounted_again_and_named(stack, role, kind):
    rotate(stack, "cookie", "proxy", "crypt")
    settle(stack)
    before = stack.mounts(role)
    detach(stack, role, kind)
    daemon = settle(stack)
    (unit,) = [name for name, kinds in CREDENTIALS.items() if kind in kinds]
    told = daemon.feed.now["units"][unit]["put_right"]
    assert told == f"{role} used older secrets or none"
    newest_of_kind = max(each.generation for each in stack.secrets.values() if each.kind == kind)
    assert newest_of_kind in stack.numbers(role, kind)
    assert stack.mounts(role) <= before


@pytest.mark.parametrize("kind", ["cookie_secret", "crypt_key"])
def test_what_was_removed_altogether_is_made_anew_and_named(stack, kind):
    detach(stack, "hub", kind)
    del stack.secrets[f"id-jupyterhub_{kind}_g1"]
    daemon = settle(stack)
    assert [
        each["put_right"] for each in daemon.feed.now["units"].values() if each["put_right"]
    ] == ["its secrets were removed"]
    assert stack.numbers("hub", kind) == {1}
    assert all(stack.newest(unit).is_verified for unit in CREDENTIALS)


def test_a_stack_whose_secrets_are_not_ours_gets_none(stack):
    held = [each for each in stack.secrets.values() if each.kind == "daemon_token"]
    for each in held:
        del stack.secrets[each.id]
    detached = {"TaskTemplate": {"ContainerSpec": {"Secrets": []}}}
    stack.specs = dict.fromkeys(stack.specs, detached)
    stack.own = {"ContainerSpec": {"Secrets": []}}
    before = list(stack.log)
    settle(stack)
    assert stack.log == before


def test_a_new_generation_that_somebody_removed_is_told_to_who_asked_for_it(stack):
    rotate(stack, "cookie", "proxy")
    made = {"cookie": 2, "proxy": 2}
    raise_for_removed(made, ["cookie", "proxy"], stack.list_secrets("jupyterhub"))
    del stack.secrets["id-jupyterhub_cookie_secret_g2"]
    with pytest.raises(JhswarmdError, match="for cookie is gone"):
        raise_for_removed(made, ["cookie", "proxy"], stack.list_secrets("jupyterhub"))


def test_a_stack_that_is_not_all_there_is_left_alone(stack):
    rotate(stack, "cookie")
    del stack.specs["proxy"]
    before = list(stack.log)
    settle(stack)
    assert stack.log == before


def test_a_daemon_that_stands_by_does_nothing(stack):
    daemon = Credentials(stack, stack, Settings(), lambda: False, threading.Event())
    assert daemon.reconcile() is None
    with pytest.raises(DaemonBusy):
        daemon.rotate({"units": ["cookie"], "request": "r"})
    assert stack.log == []


def test_the_profiles_own_certificate_is_not_replaced_by_a_self_signed_one(stack):
    for id_, held in stack.secrets.items():
        if held.kind.startswith("tls"):
            stack.secrets[id_] = SecretVersion(**{**vars(held), "source": "sha256:ab"})
    with pytest.raises(JhswarmdError, match=r"profile's own"):
        rotate(stack, "tls")
    make_daemon(stack).rotate({"units": ["tls"], "request": "r2", "self_signed": True})
    settle(stack)
    assert stack.newest("tls").number == 2
    assert stack.newest("tls").source == "generated"


def test_a_rotated_secret_is_still_known_as_the_one_of_its_file(stack):
    held = stack.secrets["id-jupyterhub_cookie_secret_g1"]
    stack.secrets[held.id] = SecretVersion(**{**vars(held), "source": "sha256:ab"})
    rotate(stack, "cookie")
    assert stack.newest("cookie").source == "sha256:ab"


def test_after_a_rotation_a_file_that_was_rolled_back_is_still_known_as_applied(stack):
    contents = [b"ab" * 32]
    rotate(stack, "cookie")
    label = generations.source_label(contents, guessable=False)
    held = stack.secrets["id-jupyterhub_cookie_secret_g2"]
    stack.secrets[held.id] = SecretVersion(**{**vars(held), "source": label})
    stack.bad = {held.id}
    settle(stack)
    assert rotate(stack, "cookie", request="r2") == {"cookie": 3}
    settle(stack)
    assert held.id not in stack.secrets
    assert generations.source_matches(stack.newest("cookie").source, contents)


# ---- when -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "hour", "is_within"),
    [
        ("2-5", 2, True),
        ("2-5", 5, False),
        ("22-4", 23, True),
        ("22-4", 4, False),
        ("0-24", 23, True),
    ],
)
def test_quiet_hours_may_go_over_midnight(hours, hour, is_within):
    assert rotation.is_within(hours, START.replace(hour=hour)) is is_within


def test_by_age_everything_as_old_goes_at_once_a_little_early_and_in_quiet_hours(stack):
    settle(stack, rotate_after_days=90)
    assert stack.log == []
    stack.now = START.replace(hour=12) + timedelta(days=90)
    settle(stack, rotate_after_days=90)
    assert stack.newest("cookie").number == 1
    stack.now = stack.now.replace(hour=3)
    settle(stack, rotate_after_days=90)
    assert {unit: stack.newest(unit).number for unit in BY_AGE} == dict.fromkeys(BY_AGE, 2)
    assert stack.log.count("lead hub") == 1
    settle(stack, rotate_after_days=90)
    assert stack.newest("cookie").number == 2
    moments = {
        rotation.next_at(stack.newest("cookie"), "cookie", name, 90) for name in ("a", "b", "c")
    }
    assert len(moments) == 3
    born = stack.newest("cookie").created
    assert all(timedelta(days=81) <= each - born <= timedelta(days=90) for each in moments)


def test_a_self_signed_certificate_is_renewed_before_it_ends_and_at_last_at_any_hour(stack):
    for id_, held in list(stack.secrets.items()):
        if held.kind.startswith("tls"):
            ends = generations.format_utc(START + timedelta(days=100))
            stack.secrets[id_] = SecretVersion(**{**vars(held), "expires_at": ends})
    stack.now = START.replace(hour=12) + timedelta(days=71)
    settle(stack)
    assert stack.newest("tls").number == 1
    by_night = stack.now.replace(hour=3)
    assert rotation.due(stack.list_secrets(""), "s", 0, by_night, is_quiet=True) == ["tls"]
    stack.now = START.replace(hour=12) + timedelta(days=94)
    settle(stack)
    assert stack.newest("tls").number == 2
    ends = generations.parse_utc(stack.newest("tls").secrets[0].expires_at)
    assert ends > datetime.now(timezone.utc) + timedelta(days=300)


def test_who_waits_for_news_is_woken_by_it(stack):
    daemon = make_daemon(stack)
    seen = daemon.feed.now["version"]
    found = []
    thread = threading.Thread(target=lambda: found.append(daemon.feed.wait_newer(seen)))
    thread.start()
    daemon.reconcile()
    wait_until(lambda: found, 5)
    thread.join()
    assert found[0]["units"]["cookie"]["generation"] == 1
