"""The hub's identity and its count of spawns, in the hub's own database."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from jupyterhub import orm

from jhswarmd.hub.identity import SpawnCounter, load_hub_id, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub.sqlite"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def session(url: str) -> Iterator[Any]:
    load_hub_id(url)
    made = orm.new_session_factory(url)()
    yield made
    made.close()


def test_a_new_database_gets_a_random_id_that_stays(url: str, tmp_path: Path) -> None:
    mine = load_hub_id(url)
    assert re.fullmatch("[0-9a-f]{32}", mine)
    assert load_hub_id(url) == mine
    assert load_hub_id(f"sqlite:///{tmp_path}/other.sqlite") != mine


def test_jupyterhub_takes_a_database_with_our_tables_for_a_new_one(url: str) -> None:
    before = load_hub_id(url)
    orm.new_session_factory(url)().close()
    tables = sa.inspect(sa.create_engine(url, poolclass=sa.pool.NullPool)).get_table_names()
    assert {"users", "alembic_version", "jhswarmd_identity", "jhswarmd_spawns"} <= set(tables)
    assert load_hub_id(url) == before


def test_every_spawn_has_a_count_that_the_database_has_before_anybody_sees_it(
    url: str, session: Any
) -> None:
    counter = SpawnCounter()
    counts = [counter(session) for _ in range(3)]
    assert [count.partition(".")[2] for count in counts] == ["1", "2", "3"]
    other = orm.new_session_factory(url)()
    assert all(read(other, "h").has_counted(count) for count in counts)
    other.close()


def test_a_copy_does_not_know_what_was_spawned_since_whatever_it_counts_later(
    path: Path, url: str, session: Any
) -> None:
    first_start = SpawnCounter()
    before = first_start(session)
    copy = path.with_name("copy.sqlite")
    shutil.copy(path, copy)
    same_start, next_start = first_start(session), SpawnCounter()(session)
    restored = orm.new_session_factory(f"sqlite:///{copy}")()
    # The restored hub goes on: its own counts must not make the forgotten ones known.
    own = SpawnCounter()
    counts = [own(restored) for _ in range(5)]
    identity = read(restored, "h")
    assert [identity.has_counted(count) for count in (before, *counts)] == [True] * 6
    assert not identity.has_counted(same_start)
    assert not identity.has_counted(next_start)
    restored.close()


@pytest.mark.parametrize("count", ["", "x", "x.", ".1", "x.-1", "x.1.1", "x.one", "x.0"])
def test_what_is_no_count_is_not_known(session: Any, count: str) -> None:
    assert not read(session, "h").has_counted(count)


def test_a_hub_that_spawns_nothing_leaves_nothing_behind(session: Any) -> None:
    SpawnCounter()
    assert read(session, "h").spawns == {}
