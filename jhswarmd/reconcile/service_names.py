"""The names of hub and proxy: noticed when the engine's DNS has lost one, and repaired.

After a node was out of reach for some seconds engines 29.0 to 29.7 may drop the names of its tasks,
and keep them dropped until the service is updated (moby#53141, a regression of 29; its fix, #53142
in daemon/libnetwork/networkdb, came after 29.7.2). Hub and proxy run on, and cannot
reach each other.

A forced update restarts the service, so it needs proof: the daemon's own name resolves, the task
runs undisturbed on a node that is ready, and the name has led nowhere for longer than Swarm takes
to find out that a node is lost. Then there is one, and no second one for an hour. Each node has a
DNS of its own, so each daemon checks: of two that act at once the engine takes the first update.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from jhswarmd.engine.client import Engine
from jhswarmd.errors import EngineOutOfSequence
from jhswarmd.log import event
from jhswarmd.model import NamedTask

log = logging.getLogger(__name__)

ROLES = ("hub", "proxy")
OWN = "jhswarmd"
#: Seconds between two checks.
EVERY_S = 30.0
#: Seconds for which a name must be lost. Three heartbeats of 45 s pass until a node counts as down.
LOST_FOR_S = 180.0
#: Seconds until the same service may be updated again.
AGAIN_S = 3600.0


@dataclass(frozen=True)
class Seen:
    """What one check saw of a name."""

    task: NamedTask | None
    """None: there is no service, or it has no running task."""
    resolved: frozenset[str]
    """Addresses that the name leads to; empty: to none."""

    @property
    def is_lost(self) -> bool:
        """Whether the name does not lead to what runs undisturbed."""
        return (
            self.task is not None
            and self.task.is_settled
            and bool(self.task.addresses)
            and not self.resolved & self.task.addresses
        )


def is_due(
    lost_since_s: float | None, repaired_at_s: float | None, now_s: float, *, is_quiet: bool
) -> bool:
    """Tell whether a name is to be repaired now. Pure.

    ``is_quiet``: no rotation runs, and the daemon may act. Times are of one clock, None: never.
    """
    return (
        is_quiet
        and lost_since_s is not None
        and now_s - lost_since_s >= LOST_FOR_S
        and (repaired_at_s is None or now_s - repaired_at_s >= AGAIN_S)
    )


def resolve(name: str) -> frozenset[str]:
    """Return the IPv4 addresses of a name, as the system resolves it; empty: it has none."""
    try:
        found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(str(each[4][0]) for each in found)


@dataclass
class View:
    """What ``jhswarmd status`` shows."""

    lost: Collection[str] = ()
    """Roles whose name does not lead to their task."""
    repaired_at_s: dict[str, float] = field(default_factory=dict)
    """Seconds since the epoch of the last forced update, by role."""


class ServiceNames:
    """Checks the names, and repairs what is lost. One worker thread only."""

    def __init__(
        self,
        engine: Engine,
        stack: str,
        is_quiet: Callable[[], bool],
        *,
        find: Callable[[str], frozenset[str]] = resolve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._stack = stack
        self._is_quiet = is_quiet
        self._find = find
        self._clock = clock
        self._lost_since_s: dict[str, float] = {}
        self._repaired_at_s: dict[str, float] = {}
        self.view = View()

    def reconcile(self) -> float:
        """Check both names; returns the seconds until the next check. Raises EngineError."""
        if not self._find(OWN):
            # This daemon is not healthy yet, or the resolver does not answer: nothing is known.
            self._lost_since_s.clear()
        else:
            for role in ROLES:
                self._check(role)
        self.view.lost = tuple(self._lost_since_s)
        return EVERY_S

    def _check(self, role: str) -> None:
        seen = Seen(self._engine.read_named_task(self._stack, role), self._find(role))
        if not seen.is_lost:
            self._lost_since_s.pop(role, None)
            return
        now_s = self._clock()
        if role not in self._lost_since_s:
            log.warning(event("A name does not lead to its task", name=role))
        since_s = self._lost_since_s.setdefault(role, now_s)
        done_s = self._repaired_at_s.get(role)
        if not is_due(since_s, done_s, now_s, is_quiet=self._is_quiet()):
            return
        # First: an answer that is lost must not make it two.
        self._repaired_at_s[role] = now_s
        self.view.repaired_at_s[role] = time.time()
        try:
            self._engine.force_update(self._stack, role)
        except EngineOutOfSequence:
            # Nothing was applied. The next check shows whether another daemon was first.
            del self._repaired_at_s[role], self.view.repaired_at_s[role]
            return
        log.warning(event("Service updated: its name was lost", service=role))
