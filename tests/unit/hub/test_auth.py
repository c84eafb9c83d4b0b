"""A wrong password costs a pause that holds nobody else up; a login ends with its account."""

import asyncio
import io
import tarfile
from types import SimpleNamespace

import pytest
from jupyterhub.auth import PAMAuthenticator as Upstream
from traitlets.config import Configurable

from jhswarmd.hub import auth
from jhswarmd.reconcile.accounts import pack


@pytest.mark.parametrize(("answer", "pauses"), [("alice", []), (None, [auth.WRONG_PASSWORD_S])])
def test_only_a_wrong_password_costs_a_pause(monkeypatch, answer, pauses):
    async def pam(self, handler, data):
        return answer

    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(Upstream, "authenticate", pam)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    login = auth.PAMAuthenticator().authenticate(None, {"username": "alice", "password": "x"})
    assert asyncio.run(login) == answer
    assert slept == pauses


@pytest.fixture
def accounts(tmp_path, monkeypatch):
    """Accounts as the daemon delivers them; returns what writes some."""
    monkeypatch.setattr(auth.read_names, "__defaults__", (tmp_path,))

    def write(*names, pending=0):
        lines = "".join(f"{name}:x:20001:20000::/nonexistent:/usr/sbin/nologin\n" for name in names)
        with tarfile.open(fileobj=io.BytesIO(pack({"passwd": lines.encode()}, pending))) as archive:
            archive.extractall(tmp_path, filter="data")
        for path in (tmp_path / "extrausers").iterdir():
            path.rename(tmp_path / path.name)

    return write


def goes_on(name):
    user = SimpleNamespace(name=name)
    return asyncio.run(auth.PAMAuthenticator().refresh_user(user, None))


def test_a_login_goes_on_while_the_account_is_there_and_ends_when_it_is_gone(accounts):
    accounts("alice", "bob")
    assert goes_on("bob")
    accounts("alice")
    assert not goes_on("bob")


def test_accounts_that_are_not_known_end_no_login(accounts, tmp_path):
    assert goes_on("bob")  # nobody has delivered any
    accounts("alice", pending=1)
    assert goes_on("bob")  # his password may be the one that is still being hashed
    accounts("alice", "bob")
    with (tmp_path / "passwd").open("w") as file:
        file.write("alice:x:20001:20000::/nonexistent:/usr/sbin/nologin\n")
    assert goes_on("bob")  # it is being written


def test_accounts_are_read_once_for_each_delivery_however_many_users_are_looked_at(
    accounts, monkeypatch
):
    reads = []
    real = auth.Path.read_bytes
    monkeypatch.setattr(auth.Path, "read_bytes", lambda path: reads.append(path) or real(path))
    accounts("alice", "bob")
    assert all(goes_on(name) for name in ("alice", "bob") * 20)
    assert len(reads) == 2  # passwd and pending
    accounts("alice")
    assert not goes_on("bob")
    assert len(reads) == 4


class Hub(Configurable):
    """A JupyterHub that is starting."""


class StartedHub(Hub):
    """One whose application is made."""

    tornado_application = object()


def add_user(name, hub):
    login = auth.PAMAuthenticator(parent=hub)
    asyncio.run(login.add_user(SimpleNamespace(name=name)))


def test_a_user_without_an_account_does_not_keep_the_hub_from_starting():
    add_user("no-such-account", Hub())


def test_nobody_without_an_account_is_added_to_a_hub_that_runs():
    add_user("root", StartedHub())
    with pytest.raises(KeyError, match="does not exist on the system"):
        add_user("no-such-account", StartedHub())
