"""Carries rotations out: looks, lets ``rotation.decide`` say what is next, and does it."""

from __future__ import annotations

import logging
import secrets as random
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from jhswarmd import labels, metrics, retry
from jhswarmd.credentials import generations, rotation, secret_mounts, tls
from jhswarmd.credentials.generations import GENERATED, SecretVersion
from jhswarmd.credentials.rotation import CREDENTIALS, Point
from jhswarmd.engine.client import Engine
from jhswarmd.errors import DaemonBusy, EngineConflict, EngineError, HubUnavailable, JhswarmdError
from jhswarmd.hub_client import HubClient
from jhswarmd.log import event
from jhswarmd.reconcile.status_feed import StatusFeed
from jhswarmd.settings.settings import Settings

log = logging.getLogger(__name__)

#: Seconds after which a service that restarts is looked at again; its health wakes us before.
LOOK_AGAIN_S = 5.0
#: Seconds after which it is tried again to remove what somebody else's service mounts, too.
REMOVE_AGAIN_S = 600.0
#: Seconds between looks at how old everything is.
LOOK_EVERY_S = 3600.0
#: Seconds for which an update of a service is tried while others update it too.
LEAD_WITHIN_S = 10.0
#: More steps in one go mean that looking and doing disagree.
MOST_STEPS = 20
#: A label is no place for a long story.
_WHY_MOST = 200


def _now() -> datetime:
    return datetime.now(timezone.utc)


class Credentials:
    """Reconciles the secrets that rotate. One worker thread; ``rotate`` and ``news`` from any.

    There is no lock: to create a generation is to claim it, for its name is taken then, and each
    step leads to what the generations say, whoever takes it, and however often.
    """

    def __init__(
        self,
        engine: Engine,
        hub: HubClient,
        settings: Settings,
        may_act: Callable[[], bool],
        stop: threading.Event,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._engine = engine
        self._hub = hub
        self._settings = settings
        self._stack = settings.stack_name
        self._may_act = may_act
        self._stop = stop
        self._clock = clock
        self._claim = threading.Lock()
        self.feed = StatusFeed(stop, doing="", units={})

    # ---- what is asked --------------------------------------------------------------------

    def rotate(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin to rotate ``units``; returns ``{"generations": {unit: number}, "busy": ""}``.

        ``busy`` names the unit of another rotation that is under way, and then nothing was begun.
        With ``revoke`` older generations stop working. With ``self_signed`` a certificate of the
        daemon's own takes the place of one that the profile had. A ``request`` that was carried out
        before, and whose answer was lost, is known by its id. Raises NotNow when this daemon stands
        by, JhswarmdError for what cannot be rotated so.
        """
        names = list(arguments["units"])
        if not self._may_act():
            raise DaemonBusy("The daemon of this node stands by")
        with self._claim:
            existing = self._engine.list_secrets(self._stack)
            self._refuse(names, existing, may_replace=bool(arguments.get("self_signed")))
            request = arguments["request"]
            made = _made_by(request, names, existing)
            left = [name for name in names if name not in made]
            busy = _unsettled(existing, request) if left else ""
            if left and not busy:
                revokes = bool(arguments.get("revoke"))
                made |= self._create(left, existing, request, revokes=revokes)
        return {"generations": {} if busy else made, "busy": busy}

    def _refuse(
        self, names: Sequence[str], existing: Sequence[SecretVersion], *, may_replace: bool
    ) -> None:
        for name in names:
            newest = generations.newest(existing, *CREDENTIALS[name])
            if newest is None:
                raise JhswarmdError(
                    f"There is no {name} to rotate",
                    why="this stack was not deployed by 'jhswarmd up'",
                    remedy="Run 'jhswarmd up': it creates what is missing.",
                )
            if name == "tls" and newest.source != GENERATED and not may_replace:
                raise JhswarmdError(
                    "The certificate is the profile's own, which the daemon cannot renew",
                    remedy="Put the new one into env/NAME/ssl, and run 'jhswarmd rotate tls --env "
                    "NAME' there; without files in it that makes a self-signed one.",
                )

    def _create(
        self,
        names: Sequence[str],
        existing: Sequence[SecretVersion],
        request: str,
        *,
        revokes: bool = False,
        put_right: str = "",
    ) -> dict[str, int]:
        made = {}
        for name in names:
            kinds = CREDENTIALS[name]
            held = (each.generation for each in existing if each.kind in kinds)
            number = 1 + max(held, default=0)
            # What 'up' finds in a file was applied once, even if it had to be rolled back; it must
            # not be brought back.
            last = next(iter(generations.complete(existing, *kinds)), None)
            source = last.source if last and name != "tls" else GENERATED
            contents = self._contents(name)
            expires_at, certificate_names = "", []
            if name == "tls":
                expires_at = generations.format_utc(tls.expires_at(contents[0]))
                certificate_names = tls.names_of(contents[0])
            for kind, content in zip(kinds, contents, strict=True):
                marks = generations.version_labels(
                    self._stack,
                    kind,
                    number,
                    source,
                    request=request,
                    revokes=revokes,
                    expires_at=expires_at,
                    certificate_names=certificate_names,
                    put_right=put_right,
                )
                try:
                    secret_name = labels.secret_name(self._stack, kind, number)
                    self._engine.create_secret(secret_name, content, marks)
                except EngineConflict:
                    raise DaemonBusy(f"Another rotation is under way: {name}") from None
            made[name] = number
            _say(Point.begin, "A rotation begins", unit=name, generation=number, revokes=revokes)
        return made

    def _contents(self, name: str) -> tuple[bytes, ...]:
        if name == "tls":
            return tls.self_signed(self._settings.host)
        return tuple(random.token_hex(32).encode() for _ in CREDENTIALS[name])

    # ---- what is done ---------------------------------------------------------------------

    def reconcile(self) -> float | None:
        """Go on with whatever is under way. Returns the seconds until the next look is needed.

        Raises JhswarmdError when engine or hub give no definite answer.
        """
        if not self._may_act():
            return None
        for _ in range(MOST_STEPS):
            with self._claim:  # not while only some of what belongs together is created
                existing = self._engine.list_secrets(self._stack)
            services = self._engine.read_stack_services(self._stack)
            own = secret_mounts.mounted(self._engine.read_own_task() or {"ContainerSpec": {}})
            now = self._clock()
            self._tell_units(existing, now)
            is_quiet = rotation.is_within(self._settings.quiet_hours, now)
            step = rotation.decide(existing, services, own.keys(), now, is_quiet=is_quiet)
            if isinstance(step, rotation.Wait):
                self.feed.publish(doing=f"waiting for {step.role} to be healthy")
                return LOOK_AGAIN_S
            if step is not None and self._do(step, existing):
                continue
            # What cannot be removed, as somebody else's service mounts it, holds up nothing.
            is_left = isinstance(step, rotation.Remove)
            if step is not None and not is_left:
                return LOOK_AGAIN_S
            self.feed.publish(doing="")
            if not services or not self._begin_what_is_due(existing, now, is_quiet=is_quiet):
                return REMOVE_AGAIN_S if is_left else LOOK_EVERY_S
        raise JhswarmdError("Rotation does not converge", why=f"{MOST_STEPS} steps were taken")

    def _begin_what_is_due(
        self, existing: Sequence[SecretVersion], now: datetime, *, is_quiet: bool
    ) -> bool:
        names = rotation.due(
            existing, self._stack, self._settings.rotate_after_days, now, is_quiet=is_quiet
        )
        if names:
            with self._claim:
                self._create(names, existing, f"by-age-{random.token_hex(8)}")
        return bool(names)

    def _do(self, step: rotation.Step, existing: Sequence[SecretVersion]) -> bool:
        """Carry one step out; tells whether it changed anything."""
        if isinstance(step, rotation.Mount):
            return self._lead(step, existing)
        if isinstance(step, rotation.RollBack):
            return self._reject(step)
        if isinstance(step, rotation.Verify):
            return self._settle(step)
        if isinstance(step, rotation.Remove):
            return self._remove(step)
        if isinstance(step, rotation.Recreate):
            return self._renew(step, existing)
        raise AssertionError(step)

    def _lead(self, step: rotation.Mount, existing: Sequence[SecretVersion]) -> bool:
        names = " ".join(sorted(s.name for each in step.generations for s in each.secrets))
        self.feed.publish(doing=f"{step.role} restarts with its new secrets")
        if step.misled:
            what = "A service used older secrets or none: somebody else changed it"
            _say(step.point, what, level=logging.WARNING, service=step.role)
            # Before that is put right: to lead the daemon ends this one.
            told = self._put_right(f"{step.role} used older secrets or none")
            for each in step.misled:
                self._engine.mark_secret(each.secrets[0].id, {labels.PUT_RIGHT: told})
        else:
            _say(
                step.point,
                "Switching a service to its current secrets",
                service=step.role,
                secrets=names,
            )
            metrics.ROTATION_STEPS.labels("lead").inc()
        policy = retry.blocking(LEAD_WITHIN_S, self._stop)
        changed: bool = policy(
            self._engine.change_service,
            labels.service_name(self._stack, step.role),
            lambda spec: secret_mounts.with_mounts(
                spec, existing, *step.generations, is_numbered=step.role == "hub"
            ),
        )
        return changed

    def _renew(self, step: rotation.Recreate, existing: Sequence[SecretVersion]) -> bool:
        names = ", ".join(step.units)
        what = "Somebody removed secrets; creating new ones"
        _say(Point.renew, what, level=logging.WARNING, units=names)
        with self._claim:
            self._create(
                step.units,
                existing,
                f"renewed-{random.token_hex(8)}",
                put_right=self._put_right("its secrets were removed"),
            )
        return True

    def _put_right(self, what: str) -> str:
        """Count what others did, and return the label by which it is remembered."""
        metrics.ROTATION_STEPS.labels("put_right").inc()
        return f"{generations.format_utc(self._clock())} {what}"

    def _reject(self, step: rotation.RollBack) -> bool:
        why = f"{step.role} does not start with it: {step.why}"[:_WHY_MOST]
        for each in step.generations:
            name = each.secrets[0].name
            what = "A rotation is rolled back"
            _say(Point.reject, what, level=logging.ERROR, secret=name, why=why)
            for secret in each.secrets:
                self._engine.mark_secret(secret.id, {labels.REJECTED: why})
            metrics.ROTATION_STEPS.labels("reject").inc()
        self.feed.publish(doing=f"rolling back: {why}")
        return True

    def _settle(self, step: rotation.Verify) -> bool:
        self.feed.publish(doing="checking that everything works with the new secrets")
        self._hub.restore_routes()
        found = self._hub.check_credentials(ends_logins=step.revokes_logins)
        if not found["takes_newest"]:
            raise HubUnavailable("The proxy does not take the newest token")
        if found["takes_older"]:
            raise HubUnavailable("The proxy still takes an older token")
        if "daemon" in step.generations and found.get("forgotten") is None:
            raise HubUnavailable("The hub does not know this daemon's token as the newest one")
        moment = generations.format_utc(self._clock())
        for name, each in step.generations.items():
            for secret in each.secrets:
                self._engine.mark_secret(secret.id, {labels.SETTLED: moment})
            _say(Point.settle, "Rotation verified", unit=name, generation=each.number)
            metrics.ROTATION_STEPS.labels("settle").inc()
        return True

    def _remove(self, step: rotation.Remove) -> bool:
        """Remove secrets; tells whether all of them are gone."""
        is_done = True
        for secret in step.secrets:
            try:
                self._engine.remove_secret(secret.id)
                _say(Point.remove, "Removed a secret that nothing uses", secret=secret.name)
            except EngineError as exc:
                # The engine refuses while anything mounts it, somebody else's service included.
                log.debug("Secret still in use, not removed: %s", exc)
                is_done = False
        return is_done

    # ---- what is told ---------------------------------------------------------------------

    def _tell_units(self, existing: Sequence[SecretVersion], now: datetime) -> None:
        units = {}
        for name, kinds in CREDENTIALS.items():
            newest = generations.newest(existing, *kinds)
            if newest is None:
                continue
            later = [
                each
                for each in generations.complete(existing, *kinds)
                if each.number > newest.number
            ]
            next_at = rotation.next_at(newest, name, self._stack, self._settings.rotate_after_days)
            expires_at = newest.secrets[0].expires_at
            put_right_at, _, put_right = newest.is_repaired.partition(" ")
            units[name] = {
                "generation": newest.number,
                "created_at_s": newest.created.timestamp(),
                "is_verified": newest.is_verified,
                "next_at_s": next_at.timestamp() if next_at else None,
                "expires_at_s": generations.parse_utc(expires_at).timestamp()
                if expires_at
                else None,
                "rejected": {str(each.number): each.rejected for each in later},
                "put_right": put_right,
                "put_right_at_s": (
                    generations.parse_utc(put_right_at).timestamp() if put_right else None
                ),
            }
            metrics.SECRET_GENERATION.labels(name).set(newest.number)
            metrics.SECRET_CREATED.labels(name).set(newest.created.timestamp())
            if expires_at:
                metrics.CERTIFICATE_EXPIRES.set(generations.parse_utc(expires_at).timestamp())
        self.feed.publish(units=units)


def _say(point: Point, what: str, *, level: int = logging.INFO, **facts: Any) -> None:
    """Log at which point of a rotation the daemon is."""
    log.log(level, event(what, step=point.value, **facts))


def _made_by(
    request: str, names: Sequence[str], existing: Sequence[SecretVersion]
) -> dict[str, int]:
    """Return what a request has made already, by unit: its answer was lost, or it was cut off."""
    return {
        name: each.number
        for name in names
        for each in generations.complete(existing, *CREDENTIALS[name])
        if each.secrets[0].request == request
    }


def _unsettled(existing: Sequence[SecretVersion], request: str) -> str:
    """Return the unit of a rotation under way that another request made; empty: there is none."""
    for name, kinds in CREDENTIALS.items():
        newest = generations.newest(existing, *kinds)
        if newest is None or newest.is_verified:
            continue
        if newest.secrets[0].request != request:
            return name
    return ""
