"""Accounts reach each new container of the hub, once."""

import io
import tarfile

import pytest

from jhswarmd.engine import LocalContainer
from jhswarmd.reconcile.accounts import SHADOW_GID, Accounts, hash_password, pack
from tests.fakes import FakeEngine


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "users"
    path.write_text("alice:secret\nno-colon\nroot:x\n")
    return path


def members(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: member for member in tar}


def test_each_container_gets_its_accounts_once(source):
    engine = FakeEngine()
    accounts = Accounts(engine, "jupyterhub", source)
    engine.containers = [LocalContainer("c1", "created")]
    accounts.reconcile()
    accounts.reconcile()
    engine.containers = [LocalContainer("c2", "running"), LocalContainer("c1", "exited")]
    accounts.reconcile()
    assert [container for container, _, _ in engine.uploads] == ["c1", "c2"]
    assert {path for _, path, _ in engine.uploads} == {"/var/lib"}


def test_a_container_that_is_restarted_in_place_keeps_what_it_has(source):
    engine = FakeEngine()
    engine.containers = [LocalContainer("c1", "running")]
    accounts = Accounts(engine, "jupyterhub", source)
    accounts.reconcile()
    assert accounts.view.delivered_to == ("c1",)


def test_refused_lines_are_told_by_number(source):
    engine = FakeEngine()
    accounts = Accounts(engine, "jupyterhub", source)
    accounts.reconcile()
    assert accounts.view.names == ("alice",)
    assert accounts.view.refused == (
        "line 2: no colon between name and password",
        "line 3: the name of a system account",
    )


def test_each_name_is_logged_as_it_is_added_and_no_password_is(source, caplog):
    engine = FakeEngine()
    engine.containers = [LocalContainer("c1", "running")]
    with caplog.at_level("DEBUG"):
        Accounts(engine, "jupyterhub", source).reconcile()
    assert "Adding user alice" in caplog.text
    assert "secret" not in caplog.text


def test_without_a_secret_there_are_no_accounts_and_the_hub_is_told_so(tmp_path):
    engine = FakeEngine()
    engine.containers = [LocalContainer("c1", "running")]
    Accounts(engine, "jupyterhub", tmp_path / "missing").reconcile()
    ((_, _, archive),) = engine.uploads
    assert members(archive)["extrausers/passwd"].size == 0
    assert "extrausers/ready" in members(archive)


def test_the_archive_ends_with_the_file_that_says_it_is_complete():
    archive = pack({"passwd": b"p", "group": b"g", "shadow": b"s"})
    assert list(members(archive))[-1] == "extrausers/ready"


def test_the_password_hashes_are_for_root_and_the_group_shadow():
    shadow = members(pack({"shadow": b"s"}))["extrausers/shadow"]
    assert (shadow.mode, shadow.uid, shadow.gid) == (0o640, 0, SHADOW_GID)


def test_a_password_is_hashed_with_a_salt_of_its_own():
    first, second = hash_password("pä:ss"), hash_password("pä:ss")
    assert first.startswith("$6$")
    assert first != second
