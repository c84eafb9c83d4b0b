"""Schedules the reconciliation of notebook services.

An event leads to a look at one service, a burst of them to one full pass instead. Full passes come
with the leader, with a hub that answers again, and by a timer whose interval grows with their cost.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from jhswarmd.daemon.leader import Leader
from jhswarmd.daemon.reflector import ALL_SERVERS, CREDENTIALS, ENDED, IMAGE_PULLS, LEADER, Key
from jhswarmd.daemon.workqueue import WorkQueue
from jhswarmd.log import event
from jhswarmd.reconcile.servers import INITIAL_PENDING_INTERVAL_S, MAX_PENDING_INTERVAL_S, Servers

log = logging.getLogger(__name__)

#: A full pass may take one part in so many of the time: the interval grows with what it costs, ...
PASS_SHARE = 100
#: ... to so many seconds at most: one look through an engine that hung must not mean hours without.
MAX_RESYNC_S = 900.0
#: Seconds between two looks for tasks that have ended on other nodes, which is no event here.
ENDED_EVERY_S = 3.0
#: It may cost one part in ``PASS_SHARE``, too, and comes after so many seconds at the latest.
MAX_ENDED_S = 30.0
#: So many services waiting to be looked at one by one are looked at in one full pass instead, ...
BURST = 300
#: ... after so many seconds, in which the burst may go on.
BURST_PAUSE_S = 5.0


class ServersController:
    """Keys of notebook services: ``queue`` holds them, ``reconcile`` works on one.

    ``wake`` is the daemon's own: it leads each key to the worker of its kind.
    """

    def __init__(
        self,
        servers: Servers,
        leader: Leader,
        wake: Callable[[Key], None],
        interval_s: float,
    ) -> None:
        self.queue = WorkQueue[Key]()
        self._servers = servers
        self._leader = leader
        self._wake = wake
        self._interval_s = interval_s
        self._is_burst = False
        self._was_leader = False

    def is_in_burst(self) -> bool:
        """Tell whether a full pass, which has not begun yet, sees what a service's event is about.

        Somebody who makes thousands of services must not cost a look at each.
        """
        # What is looked at again later because something is pending is no burst.
        if not self._is_burst and len(self.queue) > BURST and self.queue.count_due() > BURST:
            log.info(event("A burst of events: one full pass instead", waiting=len(self.queue)))
            self._is_burst = True
            self.queue.forget(lambda key: key.kind == "server")
            self.queue.put(ALL_SERVERS, BURST_PAUSE_S)
        return self._is_burst

    def reconcile(self, key: Key) -> float | None:
        """Look at ``key``; returns the seconds until it needs another look, or None."""
        if key == LEADER:
            was_leader = self._was_leader
            if self._take_leadership() and not was_leader:
                self._wake(ALL_SERVERS)
            return None
        again_s = self._reconcile(key)
        if self._servers.is_pass_due:
            self._servers.is_pass_due = False  # said once, whether or not a pass is ours to do
            self._wake(ALL_SERVERS)
        return again_s

    def resync_interval_s(self) -> float:
        """Return the seconds between two full passes, by what the last one cost."""
        costs_s = min(PASS_SHARE * self._servers.view.look_took_s, MAX_RESYNC_S)
        return max(self._interval_s, costs_s)

    def _reconcile(self, key: Key) -> float | None:
        if key == ALL_SERVERS:
            # From here on an event may be about what the pass does not see.
            self._is_burst = False
            if self._take_leadership():
                self._pass_over_all()
            return self._resync_s()
        if key == ENDED:
            return self._report_ended() if self._leader.is_active else self._resync_s()
        if key.kind == "ended":
            # A container's death is heard on its own node only, whichever instance is active.
            again_s = self._servers.reconcile_ended(key.id)
            if again_s is None:
                self._wake(Key("server", key.id))
            return again_s
        return self._servers.reconcile_one(key.id) if self._leader.is_active else None

    def _take_leadership(self) -> bool:
        # Not what 'duty' says: it looks by itself before a removal, and may have taken it there.
        is_active, was_leader = self._leader.refresh(), self._was_leader
        self._was_leader = is_active
        if is_active and not was_leader:
            for key in (IMAGE_PULLS, CREDENTIALS, ENDED):
                self._wake(key)
        if was_leader and not is_active:
            self._servers.stand_by()
        return is_active

    def _pass_over_all(self) -> None:
        again = self._servers.reconcile_all()
        if len(again) > BURST:
            # As after a restart of a large hub, which looks at each of its servers.
            self.queue.put(ALL_SERVERS, MAX_PENDING_INTERVAL_S)
            return
        for service_id in again:
            self.queue.put(Key("server", service_id), INITIAL_PENDING_INTERVAL_S)

    def _report_ended(self) -> float:
        for service_id in self._servers.report_ended():
            # Hub polled the server by now, and its spawner removed what was left, if it could.
            self._wake(Key("server", service_id))
        costs_s = PASS_SHARE * self._servers.view.ended_took_s
        return min(max(ENDED_EVERY_S, costs_s), MAX_ENDED_S)

    def _resync_s(self) -> float:
        # Jitter: several daemons must not list in step.
        return self.resync_interval_s() * random.uniform(0.8, 1.2)  # noqa: S311
