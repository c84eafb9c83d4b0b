"""The hub's identity: a random id and a count of starts, kept in the hub's own database.

The id is stamped on every notebook, so that a hub with another database, or a wiped one, never
takes the notebooks of this one for its own. The count tells an older copy of the database that
was put back (architecture, invariant 4).

The table is safe beside JupyterHub's: to tell whether a database is new, or which revision it
has, JupyterHub looks at tables of its own alone (jupyterhub/orm.py, check_db_revision).
"""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from jupyterhub.app import JupyterHub

from jhswarmd.model import HubIdentity

_TABLE = sa.Table(
    "jhswarmd_identity",
    sa.MetaData(),
    # One row only: the key is always 1.
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("hub_id", sa.String(32), nullable=False),
    sa.Column("starts", sa.Integer, nullable=False),
)


def load(db_url: str, *, is_start: bool) -> HubIdentity:
    """Return the identity kept in the database at ``db_url``, made now when it has none.

    ``is_start`` counts this as a start of the hub. Raises SQLAlchemyError.
    """
    engine = sa.create_engine(db_url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        _TABLE.create(connection, checkfirst=True)
        row = connection.execute(sa.select(_TABLE.c.hub_id, _TABLE.c.starts)).one_or_none()
        hub_id, starts = row or (secrets.token_hex(16), 0)
        if row is None:
            connection.execute(_TABLE.insert().values(id=1, hub_id=hub_id, starts=starts))
        if is_start:
            starts += 1
            connection.execute(_TABLE.update().values(starts=starts))
    return HubIdentity(hub_id=hub_id, starts=starts)


def is_hub_start() -> bool:
    """Tell whether a hub is about to run, not ``jupyterhub token`` or another subcommand.

    Those read the same configuration, without an application of the hub's own class.
    """
    return bool(JupyterHub.initialized()) and JupyterHub.instance().subapp is None
