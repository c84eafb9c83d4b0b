"""``jhswarmd rotate``: ask the daemon for new secrets, and follow until all works with them."""

from __future__ import annotations

import secrets as random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import docker

from jhswarmd.api import daemon_client
from jhswarmd.credentials import generations, rotation
from jhswarmd.deploy import preflight, secrets
from jhswarmd.deploy import stack as stacks
from jhswarmd.deploy.profiles.profile import Profile
from jhswarmd.deploy.progress import Progress, Step
from jhswarmd.errors import JhswarmdError, UsageError

#: Seconds for which another rotation that is under way is waited for.
PATIENCE_S = 600.0
#: Seconds that a rotation may take: hub, proxy and daemon restart one after the other.
WITHIN_S = 600.0

_NOTICED = {
    "cookie": "the hub restarts: its pages are away for seconds, and logins go on",
    "proxy": "hub and proxy restart: open pages connect again after seconds",
    "crypt": "the hub restarts: its pages are away for seconds",
    "daemon": "hub and daemon restart: the hub's pages are away for seconds",
    "tls": "the proxy restarts: open pages connect again after seconds",
}
_REVOKED = {"cookie": "the hub restarts, and everybody logs in again"}


def units_of(kind: str) -> list[str]:
    """Return the units that ``kind`` means on the command line. Raises UsageError."""
    if kind == "all":
        return list(rotation.BY_AGE)
    if kind not in rotation.CREDENTIALS:
        raise UsageError(
            f"There is no kind '{kind}'",
            remedy=f"Choose one of {', '.join(rotation.CREDENTIALS)}, or all of the first "
            f"{len(rotation.BY_AGE)} with 'all'.",
        )
    return [kind]


def describe(
    existing: Sequence[generations.SecretVersion], units: Sequence[str], *, revoke: bool
) -> list[str]:
    """Return what a rotation would do, a line for each unit. Pure."""
    lines = []
    for name in units:
        kinds = rotation.CREDENTIALS[name]
        newest = generations.newest(existing, *kinds)
        number = newest.number if newest else 0
        # One that was rolled back keeps its number.
        following = 1 + max((each.generation for each in existing if each.kind in kinds), default=0)
        noticed = _REVOKED.get(name, _NOTICED[name]) if revoke else _NOTICED[name]
        lines.append(f"{name}: generation {following} takes the place of {number}; {noticed}")
    return lines


def rotate(
    client: docker.DockerClient,
    stack: str,
    units: Sequence[str],
    progress: Progress,
    *,
    revoke: bool = False,
    profile: Profile | None = None,
) -> None:
    """Rotate ``units``, and return when everything works with the new generations.

    With a ``profile`` that has a certificate of its own, ``tls`` means that one; with one that has
    none, a self-signed one, also in the place of one that the profile had. Raises
    JhswarmdError, also when a new generation had to be rolled back.
    """
    supplier = profile if list(units) == ["tls"] else None
    if supplier and (warning := preflight.check_certificate(supplier)):
        progress.warn(f"{warning}. {preflight.SET_HOST}")
    with progress.step(f"New secrets: {', '.join(units)}") as step:
        supplied = _supply(client, supplier, step) if supplier else None
        made = supplied or _ask(
            client, stack, units, step, revoke=revoke, self_signed=profile is not None
        )
        step.done(", ".join(f"{name} g{number}" for name, number in made.items()))
    with progress.step("Hub, proxy and daemon take them up") as step:
        _follow(client, stack, made, step)
        # A daemon that has restarted answers before Swarm has seen that it is healthy.
        stacks.wait_healthy(client, stack, step)
        step.done("everything works with them")


def _ask(
    client: docker.DockerClient,
    stack: str,
    units: Sequence[str],
    step: Step,
    *,
    revoke: bool,
    self_signed: bool,
) -> dict[str, int]:
    request = {
        "units": list(units),
        "revoke": revoke,
        "self_signed": self_signed,
        "request": random.token_hex(16),
    }
    deadline, seen = time.monotonic() + PATIENCE_S, -1
    while True:
        answer = daemon_client.call_with_retry(client, stack, "rotate", request)
        if not answer["busy"]:
            made: dict[str, int] = answer["generations"]
            return made
        if time.monotonic() >= deadline:
            raise JhswarmdError(
                f"Another rotation is not over after {PATIENCE_S:.0f} s: {answer['busy']}",
                remedy="See 'jhswarmd status'.",
            )
        step.update(f"waits for another rotation: {answer['busy']}")
        seen = daemon_client.call_with_retry(client, stack, "rotation", {"seen": seen})["version"]


def _supply(client: docker.DockerClient, profile: Profile, step: Step) -> dict[str, int] | None:
    """Create the generation that the profile's own certificate is; None: it has none."""
    if not {"tls_cert", "tls_key"} <= profile.files.keys():
        return None
    existing = secrets.list_existing(client, profile.settings.stack_name)
    for creation in secrets.plan(profile, existing, tries_again=True):
        if creation.kind is secrets.TLS:
            secrets.create(client, profile, creation, step.update)
            return {"tls": creation.generation}
    raise UsageError(
        "The certificate of the profile is the one that is in use",
        remedy=f"Put the new one into env/{profile.name}/ssl, and run the command again.",
    )


def _follow(client: docker.DockerClient, stack: str, made: Mapping[str, int], step: Step) -> None:
    deadline, seen = time.monotonic() + WITHIN_S, -1
    while time.monotonic() < deadline:
        view = daemon_client.call_with_retry(client, stack, "rotation", {"seen": seen})
        seen = view["version"]
        _raise_for_rejected(made, view["units"])
        if behind := [name for name in made if not _is_taken_up(name, made, view["units"])]:
            raise_for_removed(made, behind, secrets.list_existing(client, stack))
        if _is_over(made, view):
            return
        step.update(view["doing"] or "begins")
    raise JhswarmdError(
        f"The rotation is not over after {WITHIN_S:.0f} s",
        why=str(view["doing"]),
        remedy="The daemon goes on with it: see 'jhswarmd status'.",
    )


def _is_taken_up(name: str, made: Mapping[str, int], units: Mapping[str, Any]) -> bool:
    return name in units and bool(units[name]["generation"] >= made[name])


def _is_over(made: Mapping[str, int], view: Mapping[str, Any]) -> bool:
    units = view["units"]
    return not view["doing"] and all(
        _is_taken_up(name, made, units) and units[name]["is_verified"] for name in made
    )


def _raise_for_rejected(made: Mapping[str, int], units: Mapping[str, Any]) -> None:
    for name, number in made.items():
        why = units.get(name, {}).get("rejected", {}).get(str(number))
        if why:
            raise JhswarmdError(
                f"The rotation of {name} was rolled back",
                why=why,
                remedy="The older secret is in use again. Fix what the reason says, and rotate "
                "again.",
            )


def raise_for_removed(
    made: Mapping[str, int], names: Sequence[str], existing: Sequence[generations.SecretVersion]
) -> None:
    """Raise JhswarmdError when one of these new generations is not in Swarm any more. Pure."""
    for name in names:
        found = generations.complete(existing, *rotation.CREDENTIALS[name])
        if made[name] not in (each.number for each in found):
            raise JhswarmdError(
                f"The new secret for {name} is gone",
                why="somebody removed it before it was in use",
                remedy="The older one is in use as before. Rotate again.",
            )
