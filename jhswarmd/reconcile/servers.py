"""Keep the notebook services and the hub's servers in step.

Observe services first and the hub second, decide (``orphans``), then remove by id, each after
asking the hub about that one user again. Nothing is ever removed on an unknown answer: the errors
go to the workqueue, which comes back later.

The other way round, a server whose service vanished or whose task ended is reported to the hub,
which then looks for itself.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jhswarmd import metrics
from jhswarmd.engine.client import Engine
from jhswarmd.errors import EngineError, EngineNotFound, HubUnavailable
from jhswarmd.hub_client import HubClient
from jhswarmd.log import event
from jhswarmd.model import NotebookService
from jhswarmd.reconcile.orphans import (
    Breaker,
    Verdict,
    classify,
    classify_all,
    has_user,
    vanished,
)

log = logging.getLogger(__name__)

#: Seconds until a server for which something is pending is looked at again: that it resolves is no
#: event. Doubles up to the most, for a start may take minutes.
INITIAL_PENDING_INTERVAL_S = 1.0
MAX_PENDING_INTERVAL_S = 15.0
#: Seconds until the task of a dead container is looked at again; doubles, this many times.
ENDED_AGAIN_S = 0.1
ENDED_LOOKS = 8
#: What may be removed, if ``forgotten`` after an approval only: an older copy of the hub's database
#: was put back then, and what it has forgotten may be somebody's day.
_GONE = (Verdict.orphan, Verdict.newer_than_database)
OLDER = "younger than the hub's database: was an older copy put back?"
#: So many failures in a row mean that the engine or the hub has failed, not a single server.
FAILURES = 3
#: How many past removals ``status`` can tell of.
MAX_REMOVALS_SHOWN = 50


@dataclass(frozen=True)
class Removal:
    """One removal, with both facts behind it."""

    id: str
    service: str
    user: str
    server: str
    reason: str
    removed_at_s: float


@dataclass
class ServersView:
    """What the last passes found; replaced as a whole or changed by the one worker alone."""

    tracked: int = 0
    by_verdict: dict[str, int] = field(default_factory=dict)
    held: dict[str, NotebookService] = field(default_factory=dict)
    why_held: dict[str, str] = field(default_factory=dict)
    """Reasons by the ids of what is held, and maybe of what was."""
    removals: deque[Removal] = field(default_factory=lambda: deque(maxlen=MAX_REMOVALS_SHOWN))
    silent: list[str] = field(default_factory=list)
    """Servers that run and do not answer the hub: ``USER`` or ``USER:SERVER``."""
    last_pass_s: float | None = None
    admins: tuple[str, ...] | None = None
    """The hub's admins; None: not known."""
    look_took_s: float = 0.0
    """What the last full pass needed to look at everything; what it removed is not in it."""
    ended_took_s: float = 0.0
    """What the last listing of ended tasks took."""


class Servers:
    """Reconciles notebook services of ``stack``. Used by one worker thread only.

    ``approve`` alone may be called from elsewhere. ``may_act`` is asked right before each removal
    whether this instance is active: two must never act at once. With ``dry_run`` it only says
    what it would do, and why.
    """

    def __init__(
        self,
        engine: Engine,
        hub: HubClient,
        stack: str,
        may_act: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        *,
        dry_run: bool = False,
    ) -> None:
        self._engine = engine
        self._hub = hub
        self._stack = stack
        self._may_act = may_act
        self._clock = clock
        self._dry_run = dry_run
        self._breaker = Breaker()
        self._approved: frozenset[str] = frozenset()
        self._approving = threading.Lock()
        self._ours = 0
        self._failed_in_a_row = 0
        self._is_hub_lost = False
        self.is_pass_due = False
        """Whether the hub answers again: what happened meanwhile may have been no event."""
        self._seen: dict[str, NotebookService] = {}
        self._counted: set[str] = set()  # orphans that the metric knows, by id
        self._left_alone: dict[str, Verdict] = {}  # what the log has told, by id
        self._removing: dict[str, Removal] = {}  # removals whose answer was lost, by id
        self._ended: frozenset[tuple[str, str]] = frozenset()  # what the hub was told
        self._looks: dict[str, int] = {}
        self._pending_looks: dict[str, int] = {}
        self.view = ServersView()

    def approve(self) -> list[str]:
        """Allow the removal of the services that are held now; returns their names."""
        held = dict(self.view.held)
        with self._approving:
            self._approved = self._approved | held.keys()
        return [service.name for service in held.values()]

    def stand_by(self) -> None:
        """Forget findings and approvals: another instance acts from now on, and tells of it."""
        with self._approving:
            self._approved = frozenset()
        self.view.held = {}
        self.view.why_held = {}
        metrics.ORPHANS_HELD.set(0)
        for verdict in Verdict:
            metrics.TRACKED.labels(verdict.name).set(0)

    def reconcile_all(self) -> list[str]:
        """Do a full pass: all services, then all users.

        Returns the ids of the services that need another look soon: their servers are pending, or
        something failed for them alone.
        """
        begun_s = self._clock()
        services = self._engine.list_notebooks(self._stack)
        with self._asking_hub():
            hub = self._hub.read_identity()
            users = {user.name: user for user in self._hub.list_users()}
        self.is_pass_due = False
        self._seen = {service.id: service for service in services}
        for service_id in self._removing.keys() - self._seen.keys():
            self._record_removal(service_id)
        self._removing.clear()  # the others are there: nothing has come of it
        self._left_alone = {id_: it for id_, it in self._left_alone.items() if id_ in self._seen}
        verdicts = classify_all(services, hub, users)
        failed: list[str] = []
        self._failed_in_a_row = 0
        for service in services:
            # What is held was asked about when that began, and is again before it may go.
            if verdicts[service.id] in _GONE and service.id not in self.view.held:
                self._isolated(failed, service.id, self._confirm, service, verdicts)
        counts: dict[str, int] = {}
        for verdict in verdicts.values():
            counts[verdict.name] = counts.get(verdict.name, 0) + 1
        for service in services:
            if verdicts[service.id] in (Verdict.foreign, Verdict.unlabelled):
                self._ignore(service, verdicts[service.id])
        # Of which the hub says nothing definite is none for now.
        orphans = [
            each for each in services if verdicts[each.id] in _GONE and each.id not in failed
        ]
        ids = {each.id for each in orphans}
        self._counted &= ids
        with self._approving:
            # What the hub has again was approved for a reason that is no more.
            self._approved &= ids
        self.view.tracked = len(services)
        self.view.admins = hub.admins
        self._ours = sum(each.hub_id == hub.hub_id for each in services)
        self.view.by_verdict = counts
        self.view.held = {id_: held for id_, held in self.view.held.items() if id_ in ids}
        self.view.why_held = {
            id_: why for id_, why in self.view.why_held.items() if id_ in self.view.held
        }
        self.view.look_took_s = self._clock() - begun_s
        self._remove(
            orphans, verdicts, lambda it: self._isolated(failed, it.id, self._remove_one, it)
        )
        for user, server in vanished(services, hub, users.values()):
            self._isolated(failed, "", self._report, user, server, "no service")
        self._isolated(failed, "", self._list_silent)
        self.view.last_pass_s = time.time()
        for verdict in Verdict:
            metrics.TRACKED.labels(verdict.name).set(counts.get(verdict.name, 0))
        metrics.LAST_PASS.set(self.view.last_pass_s)
        metrics.ORPHANS_HELD.set(len(self.view.held))
        pending = [id_ for id_, verdict in verdicts.items() if verdict is Verdict.pending]
        self._pending_looks = {id_: self._pending_looks.get(id_, 0) for id_ in pending}
        return pending + [id_ for id_ in failed if id_]

    def _list_silent(self) -> None:
        self.view.silent = self._hub.list_silent()

    def reconcile_one(self, service_id: str) -> float | None:
        """Look at one service. Returns the seconds until it needs another look, or None."""
        try:
            service = self._engine.read_notebook(service_id, self._stack)
        except EngineNotFound:
            self._release(service_id)
            self._pending_looks.pop(service_id, None)
            self._left_alone.pop(service_id, None)
            gone = self._seen.get(service_id)
            if service_id in self._removing:
                self._record_removal(service_id)
            elif gone is not None and gone.user:
                with self._asking_hub():
                    self._report(gone.user, gone.server or "", "its service was removed")
            self._seen.pop(service_id, None)  # not before the hub has heard of it
            return None
        if service is None:
            return None
        self._seen[service_id] = service
        self._removing.pop(service_id, None)  # nothing has come of it
        if service.user is None or not has_user(service):
            self._ignore(service, Verdict.unlabelled)
            return None
        with self._asking_hub():
            hub, user = self._hub.read_user(service.user)
        verdicts = {service_id: classify(service, hub, user)}
        if verdicts[service_id] in _GONE:
            self._confirm(service, verdicts)
        verdict = verdicts[service_id]
        if verdict in _GONE:
            self._remove([service], verdicts, self._remove_one)
        elif verdict is Verdict.pending:
            self._release(service_id)
            looks = self._pending_looks.get(service_id, 0)
            self._pending_looks[service_id] = looks + 1
            # Cap the exponent too: a stop that hangs for hours is looked at a thousand times.
            return float(
                min(INITIAL_PENDING_INTERVAL_S * 2 ** min(looks, 16), MAX_PENDING_INTERVAL_S)
            )
        else:
            self._release(service_id)
            if verdict is not Verdict.known:
                self._ignore(service, verdict)
        self._pending_looks.pop(service_id, None)
        return None

    def reconcile_ended(self, service_id: str) -> float | None:
        """Look at a service one of whose containers has died. Returns as ``reconcile_one``.

        The node tells the managers a moment after the death, so the task is looked at again, ever
        more slowly; a node that cannot tell is left to the hub's own polls.
        """
        looks = self._looks.pop(service_id, 0)
        try:
            service = self._engine.read_notebook(service_id, self._stack)
            if service is None or service.user is None or not has_user(service):
                return None
            if not self._engine.has_ended(service_id):
                if looks == ENDED_LOOKS:
                    return None
                self._looks[service_id] = looks + 1
                return float(ENDED_AGAIN_S * 2**looks)
        except EngineNotFound:
            return None  # its removal is an event of its own
        self._report(service.user, service.server or "", "its task has ended")
        return None

    @contextlib.contextmanager
    def _asking_hub(self) -> Iterator[None]:
        try:
            yield
        except HubUnavailable:
            self._is_hub_lost = True
            raise
        if self._is_hub_lost:
            self._is_hub_lost, self.is_pass_due = False, True

    def report_ended(self) -> list[str]:
        """Report the servers whose task has ended on any node, once for each state it is in.

        Only its own node hears of a container's death. Returns the ids of these services.
        """
        begun_s = self._clock()
        ended = self._engine.list_ended(self._stack)
        self.view.ended_took_s = self._clock() - begun_s
        self._ended &= ended
        self._failed_in_a_row = 0
        reported = []
        for service_id, state in sorted(ended - self._ended):
            service = self._seen.get(service_id)
            if service is None or service.user is None or not has_user(service):
                continue
            failed: list[str] = []
            server = service.server or ""
            self._isolated(
                failed, service_id, self._report, service.user, server, "its task has ended"
            )
            if not failed:
                self._ended |= {(service_id, state)}
                reported.append(service_id)
        return reported

    def _confirm(self, service: NotebookService, verdicts: dict[str, Verdict]) -> None:
        """Change the verdict if any server of the hub is this service: its user was renamed."""
        assert service.user is not None
        _, user = self._hub.read_user(service.user, service.id)
        if user is not None and user.holds_asked:
            verdicts[service.id] = Verdict.known

    def _report(self, user: str, server: str, why: str) -> None:
        """Let the hub look for itself. It ignores a server that is pending, as in a stop."""
        facts = {"user": user, "server": server or "(default)", "why": why}
        if self._dry_run:
            log.info(event("Would ask the hub to poll the server", **facts))
            return
        has_ended = self._hub.check_server(user, server)
        # After each ordinary stop the hub knows already: that is no news.
        level = logging.INFO if has_ended else logging.DEBUG
        log.log(level, event("Hub polled the server", **facts, has_ended=has_ended))
        metrics.REPORTED.inc()

    def _remove(
        self,
        orphans: list[NotebookService],
        verdicts: Mapping[str, Verdict],
        remove: Callable[[NotebookService], None],
    ) -> None:
        new = {each.id for each in orphans} - self._counted
        self._counted |= new
        metrics.ORPHANS_SEEN.inc(len(new))
        # What is held already counts: one event about one of many must not slip through. So does
        # a removal that may have been made. What goes by approval alone does not: somebody may
        # want to keep it, and it says nothing about the others.
        ids = {each.id for each in orphans if verdicts[each.id] is Verdict.orphan}
        held = {id_ for id_ in self.view.held if self.view.why_held[id_] != OLDER}
        waiting = (ids | held | self._removing.keys()) - self._approved
        tracked = self._ours - len(self._approved)  # those are as good as gone
        ordinary = self._breaker.allows(len(waiting), tracked, self._clock())
        for service in orphans:
            if service.id in self._approved:
                remove(service)
            elif verdicts[service.id] is Verdict.newer_than_database:
                self._hold(service, OLDER)
            elif not ordinary:
                self._hold(service, "too many at once")
            else:
                remove(service)

    def _isolated(self, failed: list[str], id_: str, act: Callable[..., None], *args: Any) -> None:
        """Do something about one of many; what fails for it alone must not hinder the others.

        Notes ``id_`` among ``failed``. Raises when nothing works: after ``FAILURES`` in a row.
        """
        try:
            act(*args)
        except (HubUnavailable, EngineError) as exc:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= FAILURES:
                raise
            metrics.UNKNOWN.labels("server", type(exc).__name__).inc()
            log.warning(event("Reconcile failed; retrying", service=id_ or "none", why=str(exc)))
            failed.append(id_)
        else:
            self._failed_in_a_row = 0

    def _hold(self, service: NotebookService, why: str) -> None:
        if service.id not in self.view.held:
            log.warning(
                event(
                    "Holding an orphan until 'jhswarmd orphans approve'",
                    service=service.name,
                    user=service.user,
                    why=why,
                )
            )
        self.view.why_held[service.id] = why
        self.view.held[service.id] = service
        metrics.ORPHANS_HELD.set(len(self.view.held))

    def _release(self, service_id: str) -> None:
        self.view.held.pop(service_id, None)
        metrics.ORPHANS_HELD.set(len(self.view.held))

    def _remove_one(self, service: NotebookService) -> None:
        """Ask the hub about this one user again, and remove the service by its id."""
        assert service.user is not None
        hub, user = self._hub.read_user(service.user, service.id)
        verdict = classify(service, hub, user)
        if verdict not in _GONE or (user is not None and user.holds_asked):
            self._release(service.id)
            with self._approving:
                self._approved -= {service.id}  # for a reason that is no more
            log.info(
                event(
                    "Not removing: the hub has the server again",
                    service=service.name,
                    user=service.user,
                )
            )
            return
        if verdict is Verdict.newer_than_database and service.id not in self._approved:
            # The hub was replaced by one with an older database since it was asked about all.
            self._hold(service, OLDER)
            return
        fact = "hub has no such user" if user is None else "hub has no such server of this user"
        removal = Removal(
            service.id, service.name, service.user, service.server or "", fact, time.time()
        )
        if self._dry_run:
            log.warning(event("Would remove an orphan", **_facts(removal)))
            return
        if not self._may_act():
            log.info(event("No longer active; removal skipped", service=service.name))
            return
        try:
            self._engine.remove_service(service.id)
        except EngineNotFound:
            if service.id not in self._removing:
                return  # somebody else was quicker
        except EngineError:
            # It may have been applied; the next look tells.
            self._removing[service.id] = removal
            raise
        finally:
            self._release(service.id)
            self._seen.pop(service.id, None)  # its removal is no news for the hub
        self._removing[service.id] = removal
        self._record_removal(service.id)

    def _record_removal(self, service_id: str) -> None:
        """Count and tell what this daemon has removed, by its id."""
        removal = self._removing.pop(service_id)
        if service_id not in self._approved:
            # What somebody approved says nothing about what comes next.
            self._breaker = self._breaker.after_removal(self._clock())
        metrics.ORPHANS_REMOVED.inc()
        with self._approving:
            self._approved -= {service_id}
        self.view.removals.append(removal)
        log.warning(event("Removed an orphan", **_facts(removal)))

    def _ignore(self, service: NotebookService, verdict: Verdict) -> None:
        if self._left_alone.get(service.id) is not verdict:
            self._left_alone[service.id] = verdict
            log.info(event("Ignoring service", service=service.name, why=verdict.value))


def _facts(removal: Removal) -> dict[str, str]:
    """What the log says of a removal: both facts behind it."""
    return {
        "service": removal.service,
        "id": removal.id,
        "user": removal.user,
        "server": removal.server or "(default)",
        "engine": "service exists",
        "hub": removal.reason,
    }
