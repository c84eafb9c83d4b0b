"""``jhswarmd users``: on the administrator's machine, and in the daemon."""

import json
import stat
import threading

import pytest
from typer.testing import CliRunner

from jhswarmd import cli
from jhswarmd.accounts import hashing, user_list
from jhswarmd.credentials import generations
from jhswarmd.daemon.user_commands import UserCommands
from jhswarmd.deploy import users as admin
from jhswarmd.engine.client import LocalContainer
from jhswarmd.errors import DaemonBusy, JhswarmdError, UsageError
from jhswarmd.reconcile.accounts import Accounts
from jhswarmd.reconcile.removed_users import KEPT_S, STOPPING_S, RemovedUsers
from jhswarmd.reconcile.users_secret import UsersSecret
from tests.kit.fakes import FakeEngine, FakeHub

HASH = "$6$saltsalt$" + "a" * 86
PASSWORD = "hunter2: $y$ü"


def run(*args, given=None):
    return CliRunner().invoke(cli.app, ["users", *args], input=given)


# --- on the administrator's machine ---


def test_check_reports_rejected_lines_by_number_without_content(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("alice:hunter2\nhunter2 without colon\nroot:hunter2\n")
    result = run("check", str(path))
    assert result.exit_code == 1
    assert "line 2" in result.output
    assert "line 3" in result.output
    assert "1 accounts, 1 with a plain-text password; 2 lines rejected" in result.output
    assert "hunter2" not in result.output


def test_check_of_a_valid_list_succeeds(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(f"alice:{HASH}\n")
    result = run("check", str(path))
    assert (result.exit_code, "convert" in result.output) == (0, False)


def test_hash_reads_standard_input_and_prints_a_list_line():
    result = run("hash", "alice", given=f"{PASSWORD}\n")
    found = user_list.parse(result.output.encode())
    assert found.entries["alice"].is_hashed
    assert PASSWORD not in result.output


@pytest.mark.parametrize("name", ["root", "Alice", "../x", "-x"])
def test_an_invalid_name_is_rejected_before_the_password_prompt(name):
    result = run("hash", "--", name)
    assert isinstance(result.exception, UsageError)


@pytest.mark.parametrize("given", ["", "\n", "x" * 501 + "\n", "a\0b\n"])
def test_an_invalid_password_is_rejected(given):
    assert isinstance(run("hash", given=given).exception, UsageError)


def test_a_complete_hash_is_kept_as_it_is():
    assert admin.hash_typed(HASH) == HASH
    assert admin.hash_typed("$6$no hash").startswith("$y$")


def test_convert_hashes_plain_passwords_and_keeps_everything_else(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(
        b"\xef\xbb\xbf# note: x\r\nalice:hunter2\r\n\r\nbad line\r\nbob:" + HASH.encode()
    )
    path.chmod(0o640)
    assert admin.convert(path) == 1
    lines = path.read_bytes().split(b"\n")
    assert lines[0].endswith(b"# note: x\r")
    assert user_list.parse(path.read_bytes()).entries["alice"].is_hashed
    assert lines[1].endswith(b"\r")
    assert lines[2:] == [b"\r", b"bad line\r", b"bob:" + HASH.encode()]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert admin.convert(path) == 0
    assert [each.name for each in tmp_path.iterdir()] == ["list.txt"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_convert_keeps_the_encoding_of_a_file_and_its_line_ends(tmp_path, encoding):
    path = tmp_path / "users"
    path.write_bytes("# \u00fc\rann:one\rbob\r".encode(encoding))
    assert admin.convert(path) == 1
    text = path.read_bytes().decode(encoding)
    comment, ann, bob, end = text.split("\r")
    assert (comment, bob, end) == ("# \u00fc", "bob", "")
    assert ann.startswith("ann:$")


def test_a_typed_shadow_line_is_not_a_password_either():
    with pytest.raises(UsageError, match="cannot be used"):
        admin.hash_typed("$6$saltsalt$" + "a" * 86 + ":19000:0:99999:7:::")


def test_a_password_is_set_only_for_an_existing_account(monkeypatch):
    calls = []

    def ask(client, stack, command, arguments=None):
        calls.append((command, arguments))
        return {"accounts": [{"name": "ann"}]} if command == "users" else {"generation": 2}

    monkeypatch.setattr(admin.daemon_client, "call_with_retry", ask)
    admin.set_password(None, "jupyterhub", "ann", HASH)
    (_, (command, arguments)) = calls
    assert command == "users_change"
    assert arguments["action"] == "add"
    assert (arguments["name"], arguments["hash"], arguments["replace"]) == ("ann", HASH, True)
    with pytest.raises(UsageError, match="no account 'bob'"):
        admin.set_password(None, "jupyterhub", "bob", HASH)


def test_no_command_takes_a_password_as_an_argument():
    for command in ("add", "hash"):
        assert run(command, "alice", "hunter2").exit_code == 2


# --- in the daemon ---


@pytest.fixture
def engine(tmp_path):
    engine = FakeEngine()
    engine.containers = [LocalContainer("c1", "running")]
    marks = generations.version_labels("jupyterhub", "users", 1, "scrypt:a:b")
    content = f"alice:{HASH}\nbob:{HASH}\n".encode()
    engine.mount("users", engine.create_secret("jupyterhub_users_g1", content, marks))
    (tmp_path / "users").write_bytes(content)
    return engine


@pytest.fixture
def commands(engine, tmp_path):
    users = UsersSecret(engine, "jupyterhub", threading.Event(), tmp_path)
    accounts = Accounts(engine, "jupyterhub", users)
    accounts.reconcile()
    return UserCommands(users, accounts, accounts.reconcile)


def ask(commands, action, **arguments):
    return commands.change({"action": action, "request": f"{action}{arguments}", **arguments})


def listed(commands):
    return {each["name"]: each["source"] for each in commands.list_accounts({})["accounts"]}


def test_an_added_account_is_live_and_listed(commands):
    answer = ask(commands, "add", name="carol", hash=HASH)
    assert (answer["comes"], answer["generation"], answer["is_live"]) == (("carol",), 2, True)
    assert listed(commands) == {"alice": "list", "bob": "list", "carol": "added"}


def test_a_removed_account_is_gone(commands):
    assert ask(commands, "remove", name="bob")["goes"] == ("bob",)
    assert listed(commands) == {"alice": "list"}


def test_a_list_replaces_everything_and_a_dry_run_nothing(commands):
    ask(commands, "add", name="carol", hash=HASH)
    answer = ask(commands, "set", list=f"dave:{HASH}\n", is_dry_run=True)
    assert (answer["comes"], answer["goes"]) == (("dave",), ("alice", "bob", "carol"))
    assert "carol" in listed(commands)
    # The newer list is read only after a restart, so this is the mounted one.
    commands._users._mounted = 2
    ask(commands, "set", list=f"dave:{HASH}\n")
    assert listed(commands) == {"dave": "list"}


def test_a_merged_file_keeps_added_accounts_and_is_recognised_by_its_label(commands, engine):
    ask(commands, "add", name="carol", hash=HASH)
    ask(commands, "merge", list=f"alice:{HASH}\n", source="scrypt:c:d")
    assert listed(commands) == {"alice": "list", "carol": "added"}
    newest = generations.newest(engine.list_secrets("jupyterhub"), "users")
    assert newest.source == "scrypt:c:d"


@pytest.mark.parametrize(
    ("action", "arguments", "why"),
    [
        ("add", {"name": "alice", "hash": HASH}, "there already"),
        ("add", {"name": "root", "hash": HASH}, "system account"),
        ("add", {"name": "carol", "hash": "hunter2"}, "no hash"),
        ("remove", {"name": "zoe"}, "no such account"),
        ("set", {"list": "carol:hunter2\n"}, "plain password"),
    ],
)
def test_a_refused_change_says_why_and_changes_nothing(commands, engine, action, arguments, why):
    with pytest.raises(JhswarmdError) as caught:
        ask(commands, action, **arguments)
    assert why in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert len(engine.secrets) == 1


def test_plain_passwords_are_hashed_with_the_first_change(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "hash_password", lambda password: HASH)
    (tmp_path / "users").write_bytes(b"alice:hunter2\n")
    users = UsersSecret(engine, "jupyterhub", threading.Event(), tmp_path)
    accounts = Accounts(engine, "jupyterhub", users)
    commands = UserCommands(users, accounts, accounts.reconcile)
    with pytest.raises(DaemonBusy):  # nothing is hashed yet
        ask(commands, "add", name="carol", hash=HASH)
    accounts.reconcile()
    assert accounts.view.plain == 1
    ask(commands, "add", name="carol", hash=HASH)
    assert b"hunter2" not in engine.secrets["id-jupyterhub_users_g2"][1]
    assert accounts.view.plain == 0


def test_answers_are_json(commands):
    json.dumps(commands.list_accounts({}))
    json.dumps(ask(commands, "add", name="carol", hash=HASH))


# --- servers of removed users ---


@pytest.mark.parametrize(
    ("users", "stops", "again_s"),
    [([], False, None), (["bob"], False, KEPT_S), (["bob"], True, STOPPING_S)],
)
def test_servers_of_removed_users_are_checked_until_there_are_none(users, stops, again_s):
    hub = FakeHub()
    hub.removed_users, hub.stops_removed = users, stops
    removed = RemovedUsers(hub)
    assert removed.reconcile() == again_s
    assert removed.with_servers == set(users)
