"""Accounts of a deployed stack change in seconds, and nobody is disturbed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from jhswarmd import labels
from jhswarmd.accounts.hashing import hash_password
from tests.kit.hygiene_kit import places
from tests.kit.lab import Lab
from tests.kit.stack import USERS, LoginRefused, Stack, Visitor, write_users
from tests.kit.wait import wait_until

#: More than the 10 s that are promised: what a change takes is measured by the benchmark.
LIVE_S = 30
PASSWORD = "Canary of the account tests: $y$ '`ü"
OTHER = "another Canary, for the same name"


def users(stack: Stack, *args: str, given: str = "", check: bool = True) -> tuple[int, str]:
    """Run ``jhswarmd users`` with something on its standard input; returns code and output."""
    result = stack.cli("users", *args, input=given, check=check)
    return result.returncode, result.stdout + result.stderr


def accounts(stack: Stack) -> dict[str, str]:
    """Return the names that ``users list`` shows, with their source."""
    _, text = users(stack, "list")
    return {line.split()[0]: line.split(maxsplit=2)[2] for line in text.splitlines()}


def can_log_in(stack: Stack, name: str, password: str) -> bool:
    try:
        stack.login(name, password).__exit__(None, None, None)
    except LoginRefused:
        return False
    return True


@pytest.fixture
def quiet_hub(stack: Stack) -> Iterator[None]:
    """The hub's container is the same one after the test as before."""
    before = stack.container("hub").id
    yield
    assert stack.container("hub").id == before


@pytest.fixture
def added(stack: Stack) -> Iterator[str]:
    """The name of an account that ``users add`` gave."""
    users(stack, "add", "erin", given=f"{PASSWORD}\n")
    yield "erin"
    users(stack, "remove", "erin", check=False)


@pytest.mark.every_engine
def test_added_account_logs_in_within_seconds_and_a_removed_one_does_not(
    stack: Stack, quiet_hub: None
) -> None:
    assert not can_log_in(stack, "frank", PASSWORD)
    started = time.monotonic()
    _, told = users(stack, "add", "frank", given=f"{PASSWORD}\n")
    with stack.login("frank", PASSWORD) as frank:
        assert time.monotonic() - started < LIVE_S
        assert "frank can log in" in told
        assert accounts(stack)["frank"] == "users add"
        assert accounts(stack)["testuser"] == "list"
        _, told = users(stack, "remove", "frank")
        assert "frank can no longer log in" in told
        assert not can_log_in(stack, "frank", PASSWORD)
        # The login that he has, and the token that he made, end by themselves.
        wait_until(lambda: not _is_logged_in(frank), 30, what="his login has ended")
        wait_until(lambda: _is_refused(frank), 30, what="his token has ended")
    assert "frank" not in accounts(stack)


def _is_logged_in(visitor: Visitor) -> bool:
    answer = visitor._session.get(
        f"{visitor.stack.url}/hub/home", allow_redirects=False, timeout=30
    )
    return answer.status_code == 200


def _is_refused(visitor: Visitor) -> bool:
    try:
        visitor.request("GET", "/hub/api/user")
    except requests.HTTPError as exc:
        return exc.response is not None and exc.response.status_code == 403
    return False


def test_account_that_is_there_gets_a_new_password_only_when_asked_to(
    stack: Stack, quiet_hub: None, added: str
) -> None:
    code, told = users(stack, "add", added, given=f"{OTHER}\n", check=False)
    assert (code, "there already" in told) == (1, True)
    assert can_log_in(stack, added, PASSWORD)
    users(stack, "add", added, "--replace", given=f"{OTHER}\n")
    assert can_log_in(stack, added, OTHER)
    assert not can_log_in(stack, added, PASSWORD)


def test_the_published_password_ends_with_one_command_and_stays_away(stack: Stack) -> None:
    def is_warned() -> bool:
        return any("published password" in each for each in stack.status()["warnings"])

    assert is_warned()
    try:
        _, told = users(stack, "passwd", "testuser", "--generate")
        password = told.partition("The password is ")[2].split()[0]
        assert can_log_in(stack, "testuser", password)
        assert not can_log_in(stack, "testuser", USERS["testuser"])
        assert not is_warned()
        stack.up()
        assert can_log_in(stack, "testuser", password)
    finally:
        users(stack, "set", str(stack.env_dir / stack.profile / "user_list.txt"))
    assert can_log_in(stack, "testuser", USERS["testuser"])
    code, told = users(stack, "passwd", "nobody-here", given="x y z\n", check=False)
    assert (code, "There is no account" in told) == (2, True)


def test_no_password_of_an_added_account_shows_anywhere(
    engine: Lab, stack: Stack, added: str
) -> None:
    secret = stack.container("jhswarmd").exec_run(["cat", "/run/secrets/users"]).output.decode()
    (line,) = (each for each in secret.splitlines() if each.startswith(f"{added}:"))
    hashed = line.partition(":")[2]
    assert PASSWORD not in secret
    words = {"password": PASSWORD, "hash": hashed, "a password of the list": "wonder:land"}
    shown = {
        (what, place)
        for place, text in places(engine)
        for what, word in words.items()
        if word in text
    }
    assert shown == set()


def test_server_of_a_removed_user_is_kept_and_named(stack: Stack, added: str) -> None:
    with stack.login(added, PASSWORD) as visitor:
        visitor.start_server()
        users(stack, "remove", added)

        def named() -> list[str]:
            return list(stack.daemon()["accounts"]["removed_with_servers"])

        wait_until(lambda: named() == [added], 60, what="status names the removed user")
        assert stack.containers(stack.notebook(added))
        users(stack, "add", added, given=f"{PASSWORD}\n")
        wait_until(lambda: named() == [], 90, what="status names nobody")
        with stack.login(added, PASSWORD) as again:
            again.stop_server()


def test_two_changes_at_once_are_both_made(stack: Stack, quiet_hub: None) -> None:
    names = ("gina", "hugo")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: users(stack, "add", name, given=f"{PASSWORD}\n"), names))
    assert set(names) <= accounts(stack).keys()
    for name in names:
        users(stack, "remove", name)


def test_list_that_somebody_took_from_the_daemon_is_mounted_again_and_nobody_is_logged_out(
    stack: Stack, quiet_hub: None
) -> None:
    spec = stack.service("jhswarmd").attrs["Spec"]["TaskTemplate"]["ContainerSpec"]
    (name,) = [each["SecretName"] for each in spec["Secrets"] if each["File"]["Name"] == "users"]
    daemon = labels.service_name(stack.name, "jhswarmd")
    before = accounts(stack)
    with stack.login("alice") as alice:
        stack.lab.run(["docker", "service", "update", "--quiet", "--secret-rm", name, daemon])

        def is_mounted_again() -> bool:
            return stack.daemon()["accounts"]["mounted"] is not None

        wait_until(is_mounted_again, 60, what="the list is mounted again")
        assert accounts(stack) == before
        assert _is_logged_in(alice)
    assert can_log_in(stack, "carol", "hash-only-in-the-list")


@pytest.mark.destructive
def test_changed_file_leaves_alone_what_was_added_and_removed(stack: Stack, added: str) -> None:
    users(stack, "remove", "bob")
    wanted = {*USERS, "ivan", added} - {"bob"}
    write_users(stack.env_dir, stack.profile, "ivan:a password of ivan's")
    try:
        result = stack.cli("up", "--env", stack.profile, timeout_s=300)
        assert "added: ivan" in result.stdout + result.stderr
        assert accounts(stack).keys() == wanted
        assert can_log_in(stack, "ivan", "a password of ivan's")
        assert can_log_in(stack, added, PASSWORD)
        assert "Accounts" not in stack.cli("up", "--env", stack.profile).stderr
        # Cut off by an editor: nobody loses their account for it.
        (stack.env_dir / stack.profile / "user_list.txt").write_text("")
        result = stack.cli("up", "--env", stack.profile, timeout_s=300)
        assert "has no usable account" in result.stdout + result.stderr
        assert accounts(stack).keys() == wanted
    finally:
        write_users(stack.env_dir, stack.profile)
        stack.up()
        users(stack, "add", "bob", given="grüße-an-bob\n")


@pytest.mark.destructive
def test_server_of_a_removed_user_is_stopped_when_the_profile_says_so(
    stack: Stack, added: str
) -> None:
    stack.write_keys(REMOVED_USER_SERVERS="stop")
    try:
        stack.up()
        with stack.login(added, PASSWORD) as visitor:
            visitor.start_server()
        users(stack, "remove", added)
        wait_until(lambda: not stack.notebooks(added), 60, what="the server is stopped")
        volumes = stack.lab.client.api.volumes()["Volumes"]
        assert any(added in volume["Name"] for volume in volumes)
    finally:
        stack.write_keys()
        stack.up()


@pytest.mark.destructive
def test_an_admin_taken_out_of_the_profile_is_none_any_more(stack: Stack) -> None:
    def is_admin(visitor: Visitor) -> bool:
        return bool(visitor.request("GET", "/hub/api/user").json()["admin"])

    stack.write_keys(AUTHENTICATOR_ADMIN_USERS="alice")
    try:
        stack.up()
        with stack.login("alice") as alice, stack.login("dora") as dora:
            assert is_admin(alice)
            alice.request("PATCH", "/hub/api/users/dora", json={"admin": True})
            assert is_admin(dora)
            wait_until(
                lambda: stack.status()["daemon"]["admins"] == ["alice", "dora"],
                30,
                what="status names both",
            )
            # The profile decides, at each start of the hub.
            stack.write_keys()
            stack.up()
            assert not is_admin(alice)
            assert not is_admin(dora)
            with pytest.raises(requests.HTTPError, match="403"):
                alice.request("GET", "/hub/api/users")
        wait_until(lambda: stack.status()["daemon"]["admins"] == [], 30, what="status names nobody")
    finally:
        stack.write_keys()
    assert "Configuration specifies both" not in stack.log("hub")


@pytest.mark.destructive
def test_more_accounts_than_libpam_reads_of_a_group_can_log_in(
    stack: Stack, tmp_path: Path, quiet_hub: None
) -> None:
    # A group that named them all would be a line of 400 KiB, of which libpam reads 256.
    own = (stack.env_dir / stack.profile / "user_list.txt").read_bytes()
    hashed = hash_password("one password for all")
    names = [f"{number:05}".rjust(32, "n") for number in range(12_000)]
    many = tmp_path / "many.txt"
    many.write_bytes(own + "".join(f"\n{name}:{hashed}" for name in names).encode())
    try:
        users(stack, "set", str(many))
        assert can_log_in(stack, names[-1], "one password for all")
        assert can_log_in(stack, "alice", USERS["alice"])
        assert not can_log_in(stack, names[0], "another")
    finally:
        users(stack, "set", str(stack.env_dir / stack.profile / "user_list.txt"))
