"""Accounts reach each new container of the hub, once, and an older list never does."""

import hashlib
import io
import tarfile
import threading

import pytest

from jhswarmd.accounts import hashing
from jhswarmd.credentials import generations, secret_mounts
from jhswarmd.engine.client import LocalContainer
from jhswarmd.errors import DaemonBusy
from jhswarmd.reconcile import accounts as module
from jhswarmd.reconcile.accounts import SHADOW_GID, Accounts, pack
from jhswarmd.reconcile.users_secret import UsersSecret
from tests.kit.fakes import FakeEngine

HASH = "$6$saltsalt$" + "a" * 86


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch):
    monkeypatch.setattr(hashing, "hash_password", lambda password: f"HASH-OF-{len(password)}")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "users"
    path.write_text("alice:secret\nno-colon\nroot:x\n")
    return path


def make(engine, source, **kw):
    users = UsersSecret(engine, "jupyterhub", threading.Event(), source.parent)
    return Accounts(engine, "jupyterhub", users, **kw)


@pytest.mark.parametrize(
    ("text", "is_published"),
    [
        ("testuser:testpassword\n", True),
        pytest.param(f"testuser:{hashing.hash_password('testpassword')}\n", True, id="hash"),
        ("testuser:another\n", False),
        ("alice:testpassword\n", False),
        ("", False),
    ],
)
def test_the_published_password_is_known_also_by_its_hash(source, text, is_published):
    source.write_text(text)
    accounts = make(FakeEngine(), source)
    assert accounts.view.has_published_password is None
    accounts.reconcile()
    assert accounts.view.has_published_password is is_published


def running(engine, *ids):
    engine.containers = [LocalContainer(id_, "running") for id_ in ids]


def members(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            member.name.removeprefix("extrausers/"): (member, tar.extractfile(member))
            for member in tar
            if member.isfile()
        }


def content(engine, name, upload=-1):
    return members_read(engine.uploads[upload][2])[name]


def members_read(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            member.name.removeprefix("extrausers/"): tar.extractfile(member).read()
            for member in tar
            if member.isfile()
        }


def test_each_container_gets_its_accounts_once(source):
    engine = FakeEngine()
    accounts = make(engine, source)
    engine.containers = [LocalContainer("c1", "created")]
    accounts.reconcile()
    accounts.reconcile()
    engine.containers = [LocalContainer("c2", "running"), LocalContainer("c1", "exited")]
    accounts.reconcile()
    assert [container for container, _, _ in engine.uploads] == ["c1", "c2"]
    assert {path for _, path, _ in engine.uploads} == {"/var/lib"}


def test_a_container_that_is_restarted_in_place_keeps_what_it_has(source):
    engine = FakeEngine()
    running(engine, "c1")
    accounts = make(engine, source)
    accounts.reconcile()
    assert accounts.view.delivered_to == ("c1",)


def test_refused_lines_are_told_by_number(source):
    accounts = make(FakeEngine(), source)
    accounts.reconcile()
    assert accounts.view.names == ("alice",)
    assert accounts.view.refused == (
        "line 2: no colon between name and password; a line is name:password or name:hash",
        "line 3: the name of a system account",
    )


def test_each_name_is_logged_as_it_is_added_and_no_password_is(source, caplog):
    engine = FakeEngine()
    running(engine, "c1")
    with caplog.at_level("DEBUG"):
        make(engine, source).reconcile()
    assert "Adding user alice" in caplog.text
    assert "secret" not in caplog.text


def test_a_daemon_that_starts_anew_tells_only_of_what_is_new_to_the_container(source, caplog):
    engine = FakeEngine()
    running(engine, "c1")
    engine.files["c1", "/var/lib/extrausers/passwd"] = b"bob:x:20001:20000::/:/\n"
    with caplog.at_level("INFO"):
        make(engine, source).reconcile()
    assert "Adding user alice" in caplog.text
    assert "Removing user bob" in caplog.text
    engine.files["c2", "/var/lib/extrausers/passwd"] = b"alice:x:20001:20000::/:/\n"
    running(engine, "c2")
    caplog.clear()
    with caplog.at_level("INFO"):
        make(engine, source).reconcile()
    assert "user alice" not in caplog.text


def test_of_many_names_the_first_are_logged_and_the_others_counted(source, caplog):
    source.write_text("".join(f"user{number}:{HASH}\n" for number in range(10_000)))
    engine = FakeEngine()
    running(engine, "c1")
    held = b"".join(b"old%d:x:%d:20000::/:/\n" % (n, 40_000 + n) for n in range(21))
    engine.files["c1", "/var/lib/extrausers/passwd"] = held
    with caplog.at_level("INFO"):
        make(engine, source).reconcile()
    lines = [each for each in caplog.messages if each.startswith(("Adding", "Removing"))]
    assert lines[:20] == [f"Adding user user{number}" for number in range(20)]
    assert lines[20] == "Adding users: 9980 more"
    assert lines[41:] == ["Removing users: 1 more"]


def test_without_a_secret_there_are_no_accounts_and_the_hub_is_told_so(tmp_path):
    engine = FakeEngine()
    running(engine, "c1")
    make(engine, tmp_path / "missing").reconcile()
    assert content(engine, "passwd") == b""
    assert "ready" in members(engine.uploads[0][2])


def test_the_hub_is_asked_to_look_after_each_delivery(source):
    engine = FakeEngine()
    running(engine, "c1")
    told = []
    accounts = make(engine, source, on_delivered=lambda: told.append(1))
    accounts.reconcile()
    accounts.reconcile()
    assert told == [1]


def test_the_archive_ends_with_the_file_that_says_it_is_complete():
    for pending in (0, 3):
        archive = pack({"passwd": b"p", "group": b"g", "shadow": b"s"}, pending)
        assert list(members(archive))[-1] == "ready"
        assert members_read(archive)["ready"] == hashlib.sha256(b"p").hexdigest().encode()


def test_the_password_hashes_are_for_root_and_the_group_shadow():
    shadow, _ = members(pack({"shadow": b"s"}))["shadow"]
    assert (shadow.mode, shadow.uid, shadow.gid) == (0o640, 0, SHADOW_GID)


def test_hashed_accounts_are_delivered_before_plain_ones_are_hashed(source, monkeypatch):
    source.write_text(f"alice:secret\nbob:{HASH}\ncarol:other\n")
    monkeypatch.setattr(module, "HASH_FOR_S", 0.0)
    engine = FakeEngine()
    running(engine, "c1")
    accounts = make(engine, source)
    assert accounts.reconcile() == 0.0  # it comes back at once
    assert content(engine, "shadow") == f"bob:{HASH}:::::::\n".encode()
    assert content(engine, "pending") == b"2\n"
    monkeypatch.setattr(module, "HASH_FOR_S", 60.0)
    assert accounts.reconcile() is None
    assert content(engine, "shadow").startswith(b"alice:HASH-OF-6:")
    assert content(engine, "pending") == b""
    assert (accounts.view.plain, accounts.view.pending) == (2, 0)


# --- the list in Swarm ---


def seed(engine, tmp_path, text, number=1, **labels):
    """Put a generation into Swarm and start a daemon with it."""
    parts = generations.split(text.encode(), most=labels.pop("most", generations.MAX_BYTES))
    ids = []
    for kind, part in zip(generations.part_names("users", len(parts)), parts, strict=True):
        marks = generations.version_labels(
            "jupyterhub", kind, number, "generated", parts=len(parts), **labels
        )
        ids.append(engine.create_secret(f"jupyterhub_{kind}_g{number}", part, marks))
        (tmp_path / kind).write_bytes(part)
    engine.mount("users", *ids)


def restart(engine, tmp_path):
    """Do as Swarm does after an update of the daemon's service."""
    engine.task = engine.spec["TaskTemplate"]
    for path in tmp_path.glob("users*"):
        path.unlink()
    for each in engine.task["ContainerSpec"]["Secrets"]:
        (tmp_path / each["File"]["Name"]).write_bytes(engine.secrets[each["SecretID"]][1])


def names(engine):
    return sorted(name for name, _, _ in engine.secrets.values())


def test_a_list_of_several_parts_is_read_as_one(tmp_path):
    engine = FakeEngine()
    seed(engine, tmp_path, "alice:a\nbob:b\ncarol:c\n", most=9)
    users = UsersSecret(engine, "jupyterhub", threading.Event(), tmp_path)
    assert users.content == b"alice:a\nbob:b\ncarol:c\n"
    assert not users.is_stale()
    assert (users.mounted, users.number) == (1, 1)


def test_a_change_is_delivered_first_and_then_taken_up_by_a_restart(tmp_path, monkeypatch):
    engine = FakeEngine()
    running(engine, "c1")
    seed(engine, tmp_path, f"alice:{HASH}\n")
    accounts = make(engine, tmp_path / "users")
    accounts.reconcile()
    users = accounts._users
    assert users.change("r1", lambda held: held.decode() + f"bob:{HASH}\n") == 2
    assert accounts.reconcile() > 0  # the answer is given time to leave
    assert b"bob:" in content(engine, "passwd")
    assert accounts.wait_delivered(2, 0)
    assert "change_service jupyterhub_jhswarmd" not in engine.calls
    monkeypatch.setattr("jhswarmd.reconcile.users_secret.ANSWER_WITHIN_S", 0.0)
    accounts.reconcile()
    assert "change_service jupyterhub_jhswarmd" in engine.calls
    restart(engine, tmp_path)
    again = make(engine, tmp_path / "users")
    assert again.reconcile() is None
    assert again.view.names == ("alice", "bob")
    assert names(engine) == ["jupyterhub_users_g2"]  # the older one is retired


def test_an_older_list_than_swarms_is_not_delivered_but_replaced(tmp_path):
    engine = FakeEngine()
    running(engine, "c1")
    seed(engine, tmp_path, "alice:a\n")
    marks = generations.version_labels("jupyterhub", "users", 2, "generated")
    engine.create_secret("jupyterhub_users_g2", b"bob:b\n", marks)
    accounts = make(engine, tmp_path / "users")
    assert accounts.reconcile()
    assert engine.uploads == []
    restart(engine, tmp_path)
    again = make(engine, tmp_path / "users")
    again.reconcile()
    assert again.view.names == ("bob",)


@pytest.mark.parametrize("taken", ["users", "users_2"])
def test_a_list_that_somebody_took_from_the_daemon_empties_no_hub_and_is_mounted_again(
    tmp_path, caplog, taken
):
    engine = FakeEngine()
    running(engine, "c1")
    token = engine.create_secret(
        "jupyterhub_daemon_token_g1",
        b"t",
        generations.version_labels("jupyterhub", "daemon_token", 1, "generated"),
    )
    seed(engine, tmp_path, f"alice:{HASH}\nbob:{HASH}\n", most=len(HASH) + 7)
    held = {each: name for each, (name, _, _) in engine.secrets.items()}
    left = [id_ for id_, name in held.items() if name != f"jupyterhub_{taken}_g1"]
    engine.mount("daemon_token", *left)
    for each in engine.task["ContainerSpec"]["Secrets"]:
        each["File"]["Name"] = each["SecretName"][len("jupyterhub_") : -len("_g1")]
    restart(engine, tmp_path)
    accounts = make(engine, tmp_path / "users")
    assert accounts.reconcile()
    assert engine.uploads == []
    assert "Somebody took the list of users" in caplog.text
    restart(engine, tmp_path)
    again = make(engine, tmp_path / "users")
    assert again.reconcile() is None
    assert again.view.names == ("alice", "bob")
    assert token in secret_mounts.mounted(engine.spec)


def test_one_request_makes_one_generation_however_often_it_is_sent(tmp_path):
    engine = FakeEngine()
    seed(engine, tmp_path, "alice:a\n")
    users = UsersSecret(engine, "jupyterhub", threading.Event(), tmp_path)
    assert users.change("r1", lambda held: "bob:b\n") == 2
    assert users.change("r1", lambda held: "never:used\n") == 2
    assert users.content == b"bob:b\n"


def test_of_two_at_once_the_second_waits_and_sees_the_firsts_result(tmp_path):
    engine = FakeEngine()
    seed(engine, tmp_path, "alice:a\n")
    first, second = (
        UsersSecret(engine, "jupyterhub", threading.Event(), tmp_path) for _ in range(2)
    )
    assert first.change("r1", lambda held: held.decode() + "bob:b\n") == 2
    with pytest.raises(DaemonBusy):
        second.change("r2", lambda held: held.decode() + "carol:c\n")
    second.converge()
    restart(engine, tmp_path)
    third = UsersSecret(engine, "jupyterhub", threading.Event(), tmp_path)
    assert third.change("r2", lambda held: held.decode() + "carol:c\n") == 3
    assert third.content == b"alice:a\nbob:b\ncarol:c\n"


def test_what_an_interrupted_change_left_is_no_obstacle_for_long(tmp_path, monkeypatch):
    engine = FakeEngine()
    seed(engine, tmp_path, "alice:a\n")
    marks = generations.version_labels("jupyterhub", "users", 2, "generated", parts=2, request="r1")
    engine.create_secret("jupyterhub_users_g2", b"half", marks)
    users = UsersSecret(engine, "jupyterhub", threading.Event(), tmp_path)
    with pytest.raises(DaemonBusy):
        users.change("r2", lambda held: "bob:b\n")
    monkeypatch.setattr("jhswarmd.reconcile.users_secret.ABANDONED_S", -1.0)
    assert users.change("r2", lambda held: "bob:b\n") == 2
    assert engine.secrets["id-jupyterhub_users_g2"][1] == b"bob:b\n"


def test_a_request_goes_on_with_what_it_left_itself(tmp_path):
    engine = FakeEngine()
    seed(engine, tmp_path, "alice:a\n")
    marks = generations.version_labels("jupyterhub", "users", 2, "generated", parts=2, request="r1")
    engine.create_secret("jupyterhub_users_g2", b"half", marks)
    users = UsersSecret(engine, "jupyterhub", threading.Event(), tmp_path)
    assert users.change("r1", lambda held: "bob:b\n") == 2


def test_a_change_keeps_the_label_of_the_file_that_was_applied_last(tmp_path):
    engine = FakeEngine()
    seed(engine, tmp_path, "alice:a\n")
    users = UsersSecret(engine, "jupyterhub", threading.Event(), tmp_path)
    users.change("r1", lambda held: "bob:b\n")
    users.change("r2", lambda held: "bob:b\n", source="scrypt:x:y")
    sources = {each.generation: each.source for each in engine.list_secrets("jupyterhub")}
    assert sources == {1: "generated", 2: "generated", 3: "scrypt:x:y"}


def test_a_list_that_does_not_change_makes_no_generation(tmp_path):
    engine = FakeEngine()
    seed(engine, tmp_path, "alice:a\n")
    users = UsersSecret(engine, "jupyterhub", threading.Event(), tmp_path)
    assert users.change("r1", lambda held: held.decode()) is None
    assert names(engine) == ["jupyterhub_users_g1"]
