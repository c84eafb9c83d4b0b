"""How secrets rotate: which generations each service mounts, and what is to be done next. Pure.

Swarm holds the whole state: the generations with their labels, and what the services mount. So
``decide`` can be asked at any moment, by a daemon that knows nothing of what was before, and a
rotation that was interrupted anywhere goes on. To begin one is to create a generation; the rest
follows:

1. The hub mounts the new generation beside the older ones: it takes both.
2. When it is healthy the proxy is led to the new one, alone.
3. Routes are restored; hub and proxy show that the new one works and the older one does not.
   From then on the generation is settled.
4. The daemon is led to its own new token: that restarts it, so it comes last.
5. What is not needed any more is taken from the hub, and removed.

A generation with which hub or proxy do not start is rejected, and the one before is live again.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from jhswarmd.credentials import generations, secret_mounts
from jhswarmd.credentials.generations import GENERATED, Generation, SecretVersion, base_kind
from jhswarmd.model import StackService

#: What is rotated, by the name that people use, and the kinds of secrets in it.
CREDENTIALS: Mapping[str, tuple[str, ...]] = {
    "cookie": ("cookie_secret",),
    "proxy": ("proxy_auth_token",),
    "crypt": ("crypt_key",),
    "daemon": ("daemon_token", "culler_token"),
    "tls": ("tls_cert", "tls_key"),
}
#: What can be made anew when nothing is left of it. 'jhswarmd up' makes the others: without its
#: token the daemon itself does not run, and where a certificate came from nobody knows any more.
RENEWABLE = ("cookie", "proxy", "crypt")
#: What ``rotate all`` means, and what goes by age. A certificate goes by its own end.
BY_AGE = ("cookie", "proxy", "crypt", "daemon")
#: Logins last as long as this (JupyterHub, cookie_max_age_days), and so does the key of a cookie.
COOKIE_LIFETIME = timedelta(days=14)
#: So many tasks that failed with a new generation mean that it is bad.
FAILURES = 3
#: By so much of the age a rotation comes earlier, so that not all deployments do it at once.
JITTER = 0.1
#: A self-signed certificate is renewed so long before its end; in the last days at any hour.
RENEW_BEFORE = timedelta(days=30)
RENEW_AT_ANY_HOUR = timedelta(days=7)
#: What was rolled back is tried again by itself after this.
AGAIN_AFTER = timedelta(days=1)
#: What is left of a rotation that ended while it created its generation is removed after this.
ABANDONED = timedelta(minutes=2)

_HOURS = re.compile(r"^([01]?\d|2[0-3])-([01]?\d|2[0-4])$")


class Point(str, Enum):
    """A point of a rotation at which the daemon changes something; its log says ``step=``.

    It may be killed at any of them: tests/engine/test_rotation.py does that at each.
    """

    begin = "begin"
    lead_hub = "lead-hub"
    lead_proxy = "lead-proxy"
    settle = "settle"
    lead_daemon = "lead-jhswarmd"
    remove = "remove"
    reject = "reject"
    renew = "renew"


@dataclass(frozen=True)
class Mount:
    """Make a service mount these generations; from ``misled`` others had led it away."""

    role: str
    generations: tuple[Generation, ...]
    misled: tuple[Generation, ...] = ()

    @property
    def point(self) -> Point:
        """What the log calls it."""
        return Point(f"lead-{self.role}")


@dataclass(frozen=True)
class Wait:
    """Wait until a service runs with what it mounts."""

    role: str


@dataclass(frozen=True)
class RollBack:
    """Take generations back with which a service does not start."""

    role: str
    generations: tuple[Generation, ...]
    why: str


@dataclass(frozen=True)
class Verify:
    """Show that everything works with these generations, by unit, and mark them so."""

    generations: Mapping[str, Generation]

    @property
    def revokes_logins(self) -> bool:
        """Whether the logins end that began before the hub had these generations."""
        cookie = self.generations.get("cookie")
        return cookie is not None and cookie.revokes


@dataclass(frozen=True)
class Remove:
    """Remove secrets that nothing mounts and nobody needs."""

    secrets: tuple[SecretVersion, ...]


@dataclass(frozen=True)
class Recreate:
    """Create a generation of what somebody removed, by unit: nothing is left to go back to."""

    units: tuple[str, ...]


Step = Mount | Wait | RollBack | Verify | Remove | Recreate


def decide(
    existing: Sequence[SecretVersion],
    services: Mapping[str, StackService],
    own_mounts: Collection[str],
    now: datetime,
    *,
    is_quiet: bool = False,
) -> Step | None:
    """Return what is to be done next; None: nothing, or the stack is not all there.

    ``services`` are by role. ``own_mounts`` are the ids of what this very daemon mounts, which may
    be older than what its service is to mount.
    """
    if not services.keys() >= {"hub", "proxy", "jhswarmd"}:
        return None
    proxy = services["proxy"]
    lost = _lost(existing, services)
    if lost:
        return Recreate(lost)
    for role in ("hub", "proxy"):
        rejected = _rolled_back(existing, role, services[role])
        if rejected is not None:
            return rejected
    # No hub starts without a proxy, and maybe no proxy runs with this token.
    is_proxy_bad = any(each.rejected and each.id in proxy.mounts for each in existing)
    for role in ("hub", "proxy"):
        service = services[role]
        step = _mount(existing, role, service, proxy.mounts, now, is_quiet=is_quiet)
        if step is not None:
            return step
        if not service.is_running and not (role == "hub" and is_proxy_bad):
            return Wait(role)
    held = {name: generations.newest(existing, *kinds) for name, kinds in CREDENTIALS.items()}
    unsettled = {
        name: newest
        for name, newest in held.items()
        # The daemon shows by what it asks that its own token works.
        if newest is not None
        and not newest.is_verified
        and (name != "daemon" or newest.ids <= frozenset(own_mounts))
    }
    if unsettled:
        return Verify(unsettled)
    step = _mount(existing, "jhswarmd", services["jhswarmd"], proxy.mounts, now)
    if step is not None:
        return step
    if held["daemon"] is not None and not held["daemon"].ids <= frozenset(own_mounts):
        return Wait("jhswarmd")
    unused = _unused(existing, services.values(), proxy.mounts, now)
    return Remove(unused) if unused else None


def _lost(
    existing: Sequence[SecretVersion], services: Mapping[str, StackService]
) -> tuple[str, ...]:
    """Return the units of which nothing is left, neither in Swarm nor in what the hub mounts."""
    if generations.newest(existing, *CREDENTIALS["daemon"]) is None:
        return ()  # 'jhswarmd up' did not make this stack's secrets
    return tuple(
        name
        for name in RENEWABLE
        if generations.newest(existing, *CREDENTIALS[name]) is None
        and not any(
            secret_mounts.is_target_in_use(kind, services["hub"].targets)
            for kind in CREDENTIALS[name]
        )
    )


def wanted(
    existing: Sequence[SecretVersion],
    role: str,
    mounts: Collection[str],
    proxy_mounts: Collection[str],
    now: datetime,
    *,
    is_tidy: bool = False,
) -> tuple[Generation, ...]:
    """Return the generations that a service is to mount.

    ``mounts`` are the ids of what it mounts now. To take away from the hub what it does not need
    any more costs a restart, so that stays, if it does no harm, until ``is_tidy``.
    """
    found: list[Generation] = []
    for name in {"proxy": ("proxy", "tls"), "jhswarmd": ("daemon",)}.get(role, ()):
        found += _newest(existing, name)
    if role == "hub":
        found += _newest(existing, "daemon")
        for name in ("cookie", "proxy", "crypt"):
            needed, harmless = _taken_by_hub(existing, name, proxy_mounts, now)
            found += needed
            if not is_tidy:
                found += [each for each in harmless if each.ids <= frozenset(mounts)]
    return tuple(found)


def _newest(existing: Iterable[SecretVersion], name: str) -> list[Generation]:
    newest = generations.newest(existing, *CREDENTIALS[name])
    return [newest] if newest is not None else []


def _taken_by_hub(
    existing: Iterable[SecretVersion], name: str, proxy_mounts: Collection[str], now: datetime
) -> tuple[list[Generation], list[Generation]]:
    """Return which generations the hub needs, and which it may keep."""
    found = generations.complete(existing, *CREDENTIALS[name])
    usable = [each for each in found if not each.rejected]
    if not usable:
        return [], []
    newest = later = usable[0]
    needed, harmless, is_revoked = [newest], [], False
    if name == "proxy":
        # A proxy that was led to a bad one takes no other until it is led back.
        needed += [each for each in found if each.rejected and each.ids & frozenset(proxy_mounts)]
    for each in usable[1:]:
        is_revoked = is_revoked or later.revokes
        lapsed = now - later.created >= COOKIE_LIFETIME
        is_needed = {
            "cookie": not is_revoked and not lapsed,
            # The proxy that runs takes no other.
            "proxy": bool(each.ids & frozenset(proxy_mounts)),
            # What was encrypted with it is encrypted anew when the newest one is settled.
            "crypt": not newest.is_verified,
        }[name]
        if is_needed:
            needed.append(each)
        elif not is_revoked and not each.rejected:
            harmless.append(each)
        later = each
    return needed, harmless


def _mount(
    existing: Sequence[SecretVersion],
    role: str,
    service: StackService,
    proxy_mounts: Collection[str],
    now: datetime,
    *,
    is_quiet: bool = False,
) -> Mount | None:
    kinds = {each.id: base_kind(each.kind) for each in existing}
    mounted_kinds = {kinds[id_] for id_ in service.mounts if id_ in kinds}

    if not mounted_kinds:
        return None  # its secrets are somebody else's

    def differs(target: Sequence[Generation]) -> bool:
        # Where somebody else's secret is in the place of a kind there is none that can be led.
        ids = {
            it.id
            for each in target
            for it in each.secrets
            if it.kind in mounted_kinds
            or not secret_mounts.is_target_in_use(it.kind, service.targets)
        }
        ours = {it.kind for each in target for it in each.secrets}
        return ids != {id_ for id_ in service.mounts if kinds.get(id_) in ours}

    target = wanted(existing, role, service.mounts, proxy_mounts, now)
    tidy = wanted(existing, role, service.mounts, proxy_mounts, now, is_tidy=True)
    if differs(target):
        return Mount(role, tidy, _drifted(existing, target, service.mounts))
    # Once a day at most, and not right after the rotation that made it needless.
    if is_quiet and differs(tidy) and _is_lapsed(existing, service.mounts, now):
        return Mount(role, tidy)
    return None


def _drifted(
    existing: Iterable[SecretVersion], target: Iterable[Generation], mounts: Collection[str]
) -> tuple[Generation, ...]:
    """Return the settled generations of which a service mounts older ones or none."""
    numbers: dict[str, list[int]] = {}
    for each in existing:
        if each.id in mounts:
            numbers.setdefault(each.kind, []).append(each.generation)
    return tuple(
        each
        for each in target
        if each.is_verified
        and any(max(numbers.get(it.kind, [0])) < it.generation for it in each.secrets)
    )


def _is_lapsed(existing: Iterable[SecretVersion], mounts: Collection[str], now: datetime) -> bool:
    """Tell whether one of the mounted generations was replaced a cookie's lifetime ago."""
    held = list(existing)
    for kinds in CREDENTIALS.values():
        found = generations.complete(held, *kinds)
        for later, older in itertools.pairwise(found):
            if older.ids & frozenset(mounts) and now - later.created >= COOKIE_LIFETIME:
                return True
    return False


def _rolled_back(
    existing: Iterable[SecretVersion], role: str, service: StackService
) -> RollBack | None:
    if service.is_running or service.failures < FAILURES:
        return None
    held = list(existing)
    bad = []
    for kinds in CREDENTIALS.values():
        usable = [each for each in generations.complete(held, *kinds) if not each.rejected]
        # The first one has nothing before it to go back to.
        if len(usable) > 1 and not usable[0].is_verified and usable[0].ids & service.mounts:
            bad.append(usable[0])
    return RollBack(role, tuple(bad), service.error) if bad else None


def _unused(
    existing: Sequence[SecretVersion],
    services: Iterable[StackService],
    proxy_mounts: Collection[str],
    now: datetime,
) -> tuple[SecretVersion, ...]:
    """Return what nothing mounts and nobody needs."""
    held = list(existing)
    keep = {id_ for service in services for id_ in service.mounts}
    for generation in wanted(held, "hub", (), proxy_mounts, now):
        keep |= generation.ids
    unused: list[SecretVersion] = []
    for kinds in CREDENTIALS.values():
        newest = generations.newest(held, *kinds)
        if newest is None:
            continue
        keep |= newest.ids
        found = generations.complete(held, *kinds)
        whole_ids = {id_ for each in found for id_ in each.ids}
        for each in held:
            if base_kind(each.kind) not in kinds or each.id in keep:
                continue
            if each.id not in whole_ids and now - each.created < ABANDONED:
                continue  # maybe it is being made
            if each.generation > newest.number and each.id in whole_ids:
                continue  # rejected: it stays, to tell of it, until a later one is settled
            unused.append(each)
    return tuple(unused)


# ---- when -------------------------------------------------------------------------------------


def is_within(hours: str, now: datetime) -> bool:
    """Tell whether a moment is within ``FROM-TO``, whole hours in UTC; it may go over midnight.

    Raises ValueError.
    """
    match = _HOURS.match(hours)
    if not match:
        raise ValueError(f"'{hours}' must be two hours of the day, as 2-5")
    first, last = int(match[1]), int(match[2])
    if first < last:
        return first <= now.hour < last
    return now.hour >= first or now.hour < last


def next_at(newest: Generation, name: str, stack: str, after_days: float) -> datetime | None:
    """Return when a unit's newest generation is to be replaced; None: never by itself."""
    if name == "tls":
        expires_at = newest.secrets[0].expires_at
        if newest.source != GENERATED or not expires_at:
            return None
        return generations.parse_utc(expires_at) - RENEW_BEFORE
    if not after_days:
        return None
    # The same for all units of a deployment: what is as old goes with one restart of the hub.
    digest = hashlib.sha256(f"{stack}:{newest.number}".encode()).digest()
    share = 1 - JITTER * digest[0] / 255
    return newest.created + timedelta(days=after_days * share)


def due(
    existing: Sequence[SecretVersion],
    stack: str,
    after_days: float,
    now: datetime,
    *,
    is_quiet: bool,
) -> list[str]:
    """Return the names of the units that are to be rotated now by themselves."""
    names = []
    for name, kinds in CREDENTIALS.items():
        newest = generations.newest(existing, *kinds)
        if newest is None:
            continue
        moment = next_at(newest, name, stack, after_days)
        if moment is None or now < moment or _was_rejected_lately(existing, name, now):
            continue
        is_urgent = name == "tls" and now >= moment + RENEW_BEFORE - RENEW_AT_ANY_HOUR
        if is_quiet or is_urgent:
            names.append(name)
    return names


def _was_rejected_lately(existing: Iterable[SecretVersion], name: str, now: datetime) -> bool:
    """Tell whether the newest generation of a unit was rolled back a short time ago.

    The next one would fare the same: each costs the hub three starts.
    """
    found = generations.complete(existing, *CREDENTIALS[name])
    return bool(found and found[0].rejected and now - found[0].created < AGAIN_AFTER)
