"""Which notebook services are orphans. Pure.

A service is an orphan only when both sides have definitely said so: it was seen first, and the
hub that made it, asked afterwards, does not have the server (the hub records a server before it
asks for its service). Everything else is kept, and if it needs somebody's eye, reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from jhswarmd.model import HubIdentity, HubUser, NotebookService

#: Seconds over which removals are counted, single events included.
WINDOW_S = 60.0
#: In a window, this many removals are never suspicious ...
FLOOR = 3
#: ... nor is this share of what is tracked.
SHARE = 0.2


class Verdict(Enum):
    """What a service is."""

    known = "the hub has its server"
    pending = "something is pending for its server"
    orphan = "the hub does not have its server"
    newer_than_database = "it is younger than the hub's database, which does not have its server"
    foreign = "another hub made it"
    unlabelled = "its labels do not say whose it is"


def has_user(service: NotebookService) -> bool:
    """Tell whether the labels name somebody whom the hub can be asked about.

    '.' and '..' are no names: in a path they stand for something else.
    """
    return service.user not in (None, "", ".", "..")


def classify(service: NotebookService, hub: HubIdentity, user: HubUser | None) -> Verdict:
    """Judge one service. ``user`` is what the hub said of its user: None is 'no such user'."""
    if not service.hub_id or not has_user(service) or service.server is None:
        return Verdict.unlabelled
    if service.hub_id != hub.hub_id:
        return Verdict.foreign
    if user is None or service.server not in user.servers:
        return Verdict.orphan if hub.has_counted(service.count) else Verdict.newer_than_database
    if user.servers[service.server] is not None:
        return Verdict.pending
    return Verdict.known


def classify_all(
    services: Iterable[NotebookService], hub: HubIdentity, users: Mapping[str, HubUser]
) -> dict[str, Verdict]:
    """Judge many services; ``users`` maps names to all the users that the hub has.

    Returns the verdict for each service's id. Orphans are candidates until the hub has been asked
    about their user once more: a listing in pages is no snapshot.
    """
    return {each.id: classify(each, hub, users.get(each.user or "")) for each in services}


def vanished(
    services: Iterable[NotebookService], hub: HubIdentity, users: Iterable[HubUser]
) -> list[tuple[str, str]]:
    """Return user and name of each server that the hub takes for running without a service.

    It is a reason to make the hub look for itself, no more: a listing of the hub that was read
    after the services may know a server whose service came later.
    """
    served = {(each.user, each.server) for each in services if each.hub_id == hub.hub_id}
    return [
        (user.name, name)
        for user in users
        for name, pending in user.servers.items()
        if pending is None and (user.name, name) not in served
    ]


@dataclass(frozen=True)
class Breaker:
    """Holds back a suspicious number of removals (architecture, invariant 4).

    ``removed_at`` are the moments of past removals, in seconds of a monotonic clock.
    """

    removed_at: tuple[float, ...] = ()

    def allows(self, candidates: int, tracked: int, now: float) -> bool:
        """Tell whether ``candidates`` more removals are ordinary, of ``tracked`` services."""
        recent = sum(1 for moment in self.removed_at if now - moment < WINDOW_S)
        return recent + candidates <= max(FLOOR, SHARE * tracked)

    def after_removal(self, now: float) -> Breaker:
        """Return the breaker that has counted one more removal."""
        recent = tuple(moment for moment in self.removed_at if now - moment < WINDOW_S)
        return Breaker((*recent, now))
