"""Which node holds a volume, and has handed it over, remembered in the hub's own database.

A volume of the engine's ``local`` driver exists on the one node where it was first used, and
Swarm neither knows nor cares: a start on another node would get a new, empty volume of the same
name. The hub's database is the one place that outlives stops, named servers and the hub itself.

The session is the hub's own, so nothing here waits for a lock that the hub holds; each write is
committed at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

_TABLE = sa.Table(
    "jhswarmd_volume_nodes",
    sa.MetaData(),
    # In the order in which the nodes came to hold the volume.
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("volume", sa.String(255), nullable=False),
    sa.Column("node_id", sa.String(64), nullable=False),
    # For messages: a node that has left the swarm cannot be asked any more.
    sa.Column("node_name", sa.String(255), nullable=False),
    sa.UniqueConstraint("volume", "node_id"),
)
#: Which volumes on which nodes have been handed over to their users (``spawner.preparing``).
_PREPARED = sa.Table(
    "jhswarmd_prepared_volumes",
    sa.MetaData(),
    sa.Column("volume", sa.String(255), primary_key=True),
    sa.Column("node_id", sa.String(64), primary_key=True),
)


@dataclass(frozen=True)
class VolumeNode:
    """A node that holds a volume."""

    node_id: str
    name: str


def list_nodes(session: Any, volume: str) -> list[VolumeNode]:
    """Return the nodes that hold ``volume``, the one that has had it longest first.

    They are more than one only after starts that the policy 'relaxed' sent elsewhere.
    """
    _make_table(session)
    rows = session.execute(
        sa.select(_TABLE.c.node_id, _TABLE.c.node_name)
        .where(_TABLE.c.volume == volume)
        .order_by(_TABLE.c.id)
    )
    return [VolumeNode(node_id=row.node_id, name=row.node_name) for row in rows]


def remember(session: Any, volume: str, holder: VolumeNode) -> None:
    """Remember that ``holder`` has ``volume``, unless that is known."""
    if holder.node_id not in (each.node_id for each in list_nodes(session, volume)):
        session.execute(
            _TABLE.insert().values(volume=volume, node_id=holder.node_id, node_name=holder.name)
        )
        session.commit()


def forget(session: Any, volume: str, node_id: str) -> None:
    """Forget that the node holds ``volume``: it has left the swarm, with all it held."""
    _make_table(session)
    session.execute(_TABLE.delete().where(_TABLE.c.volume == volume, _TABLE.c.node_id == node_id))
    session.commit()


def list_prepared(session: Any, volume: str) -> frozenset[str]:
    """Return the ids of the nodes on which ``volume`` has been handed over to its users."""
    _PREPARED.create(session.connection(), checkfirst=True)
    rows = session.execute(sa.select(_PREPARED.c.node_id).where(_PREPARED.c.volume == volume))
    return frozenset(row.node_id for row in rows)


def remember_prepared(session: Any, volume: str, node_id: str) -> None:
    """Remember that ``volume`` has been handed over on that node, unless that is known."""
    if node_id not in list_prepared(session, volume):
        session.execute(_PREPARED.insert().values(volume=volume, node_id=node_id))
        session.commit()


def forget_prepared(session: Any, volume: str, node_id: str) -> None:
    """Forget that ``volume`` was handed over on that node: it is there no more."""
    session.execute(
        _PREPARED.delete().where(_PREPARED.c.volume == volume, _PREPARED.c.node_id == node_id)
    )
    session.commit()


def _make_table(session: Any) -> None:
    _TABLE.create(session.connection(), checkfirst=True)
