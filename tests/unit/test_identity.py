"""The hub's identity in the hub's own database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from jupyterhub import orm
from jupyterhub.app import JupyterHub, NewToken

from jhswarmd.hubext.identity import is_hub_start, load


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/hub.sqlite"


def test_a_new_database_gets_a_random_id(url: str, tmp_path: Path) -> None:
    other = load(f"sqlite:///{tmp_path}/other.sqlite", is_start=True)
    mine = load(url, is_start=True)
    assert re.fullmatch("[0-9a-f]{32}", mine.hub_id)
    assert mine.hub_id != other.hub_id


def test_the_id_stays_and_every_start_counts(url: str) -> None:
    first, second = load(url, is_start=True), load(url, is_start=True)
    assert (first.hub_id, first.starts) == (second.hub_id, 1)
    assert second.starts == 2


def test_reading_the_configuration_for_something_else_counts_nothing(url: str) -> None:
    load(url, is_start=True)
    load(url, is_start=False)
    assert load(url, is_start=False).starts == 1


def test_jupyterhub_takes_a_database_with_our_table_for_a_new_one(url: str) -> None:
    before = load(url, is_start=True)
    orm.new_session_factory(url)().close()
    tables = sa.inspect(sa.create_engine(url, poolclass=sa.pool.NullPool)).get_table_names()
    assert {"users", "alembic_version", "jhswarmd_identity"} <= set(tables)
    assert load(url, is_start=True).hub_id == before.hub_id


def test_only_the_hub_itself_counts_as_a_start() -> None:
    assert not is_hub_start()
    try:
        JupyterHub.instance()
        assert is_hub_start()
        JupyterHub.clear_instance()
        # As `jupyterhub token` does.
        JupyterHub(parent=NewToken.instance())
        assert not is_hub_start()
    finally:
        JupyterHub.clear_instance()
        NewToken.clear_instance()
