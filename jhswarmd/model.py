"""What engine and hub said, as values. Pure: no I/O, no logging.

Times are seconds as floats and end in ``_s``; ``..._at`` are ISO 8601 texts in UTC as the engine
gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: States of a task that never runs again (swarmkit, TaskState). An unknown state is none of them.
ENDED_STATES = frozenset({"complete", "failed", "shutdown", "rejected", "orphaned", "remove"})


def newest_task(tasks: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the task, as the engine shows it, that was created last; None when there is none."""
    # Timestamps are RFC 3339 in UTC and sort as text; the index settles equal ones.
    return max(
        tasks,
        key=lambda task: (
            str(task.get("CreatedAt") or ""),
            (task.get("Version") or {}).get("Index", 0),
        ),
        default=None,
    )


def is_local_volume(driver: str | None, options: Mapping[str, str] | None) -> bool:
    """Tell whether a volume of this driver exists on one node alone.

    With options the local driver mounts something from elsewhere, such as an NFS export.
    """
    return driver in (None, "", "local") and not options


@dataclass(frozen=True)
class NotebookService:
    """A Swarm service whose labels say that it is a notebook of our stack.

    ``hub_id``, ``user``, ``server`` and ``count`` come from its labels; None: the label is not
    there. ``server`` is empty for a user's default server.
    """

    id: str
    name: str
    hub_id: str | None
    user: str | None
    server: str | None
    count: str | None = None


@dataclass(frozen=True)
class StackService:
    """One of the stack's own services, and how its tasks do with what it is to mount."""

    mounts: frozenset[str]
    """Ids of the secrets in its specification."""
    targets: frozenset[str] = frozenset()
    """Names of the files under which it mounts secrets, whoever's."""
    is_running: bool = True
    """Whether a task that mounts just these is running, which is to say healthy."""
    failures: int = 0
    """How many tasks that mount just these have failed."""
    error: str = ""
    """What the engine says of the last one that failed."""


@dataclass(frozen=True)
class NamedTask:
    """The running task of a service, as its name should lead to it."""

    addresses: frozenset[str]
    """Its own addresses and the service's virtual ones, on all networks."""
    is_settled: bool
    """Whether its node is ready, and the service neither updated nor rolled back."""


@dataclass(frozen=True)
class Node:
    """A node of the swarm. ``traits`` are what placement constraints see of it."""

    id: str
    name: str
    is_usable: bool
    """Whether it is up and takes new tasks."""
    traits: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Pull:
    """One image on one node, as far as a task tells that was made to pull it."""

    node_id: str
    image: str
    has_ended: bool
    error: str = ""
    """The engine's own words; empty while there is nothing to complain about."""


@dataclass(frozen=True)
class HubIdentity:
    """Which hub answers, from its own database.

    ``hub_id`` is made at random when the database is new. ``spawns`` says how many notebooks each
    start of the hub has made, by the start's random name: a notebook with a higher count, or of a
    start that is not there, is younger than the database. ``admins`` are the names of its admins;
    None: they were not asked for.
    """

    hub_id: str
    spawns: Mapping[str, int] = field(default_factory=dict)
    admins: tuple[str, ...] | None = None

    def has_counted(self, count: str | None) -> bool:
        """Tell whether the database knows of the spawn with this count, ``START.NUMBER``.

        None, which notebooks of an older version have, counts as known.
        """
        if count is None:
            return True
        start, _, number = count.partition(".")
        return number.isdecimal() and int(number) <= self.spawns.get(start, -1)


@dataclass(frozen=True)
class HubUser:
    """A user, and the servers that the hub counts as theirs.

    ``servers`` maps a server's name (empty: the default one) to what is pending for it: ``spawn``,
    ``stop``, ``check``, ... or None. A server that is stopped is not in it.
    """

    name: str
    servers: Mapping[str, str | None] = field(default_factory=dict)
    holds_asked: bool = False
    """Whether the service that was asked about is some server's, whoever's: users are renamed."""
