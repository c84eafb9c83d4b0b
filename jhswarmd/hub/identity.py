"""The hub's identity and its count of spawns, kept in the hub's own database.

The id is stamped on every notebook, so that a hub with another database, or a wiped one, never
takes the notebooks of this one for its own. So is the count: each start of the hub counts its
spawns under a random name of its own. A notebook whose count the database does not have is younger
than the database: an older copy was put back, and what it has forgotten is no orphan.

The tables are safe beside JupyterHub's: to tell whether a database is new, or which revision it
has, JupyterHub looks at tables of its own alone (jupyterhub/orm.py, check_db_revision).
"""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa

from jhswarmd.model import HubIdentity

_TABLES = sa.MetaData()
_IDENTITY = sa.Table(
    "jhswarmd_identity",
    _TABLES,
    # One row only: the key is always 1.
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("hub_id", sa.String(32), nullable=False),
)
_SPAWNS = sa.Table(
    "jhswarmd_spawns",
    _TABLES,
    sa.Column("start", sa.String(16), primary_key=True),
    sa.Column("spawns", sa.Integer, nullable=False),
)


def load_hub_id(db_url: str) -> str:
    """Return the id kept in the database at ``db_url``, made now when it has none.

    Raises SQLAlchemyError.
    """
    engine = sa.create_engine(db_url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        _TABLES.create_all(connection)
        hub_id: str | None = connection.execute(sa.select(_IDENTITY.c.hub_id)).scalar_one_or_none()
        if hub_id is None:
            hub_id = secrets.token_hex(16)
            connection.execute(_IDENTITY.insert().values(id=1, hub_id=hub_id))
    return hub_id


def read(session: Any, hub_id: str) -> HubIdentity:
    """Return what the daemon is told. ``session`` is the hub's own."""
    rows = session.execute(sa.select(_SPAWNS.c.start, _SPAWNS.c.spawns))
    return HubIdentity(hub_id=hub_id, spawns={row.start: row.spawns for row in rows})


class SpawnCounter:
    """Counts the spawns of one start of the hub, and is called for each before its service is made.

    It begins with the first spawn: a hub that spawns nothing leaves nothing behind.
    """

    def __init__(self) -> None:
        self._start = secrets.token_hex(8)

    def __call__(self, session: Any) -> str:
        """Return the count that the notebook carries; it is in the database by then."""
        mine = _SPAWNS.c.start == self._start
        if not session.execute(
            _SPAWNS.update().where(mine).values(spawns=_SPAWNS.c.spawns + 1)
        ).rowcount:
            session.execute(_SPAWNS.insert().values(start=self._start, spawns=1))
        spawns = session.execute(sa.select(_SPAWNS.c.spawns).where(mine)).scalar_one()
        session.commit()
        return f"{self._start}.{spawns}"

    def knows(self, session: Any, count: str | None) -> bool:
        """Tell whether the database has counted this spawn; else it is younger than that."""
        return read(session, "").has_counted(count)
