"""``jhswarmd rotate``: request new secrets from the daemon, and wait until they are in use."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any

import docker

from jhswarmd.api import daemon_client
from jhswarmd.credentials import generations, rotation
from jhswarmd.deploy import preflight, secrets
from jhswarmd.deploy import stack as stacks
from jhswarmd.deploy.profiles.profile import Profile
from jhswarmd.deploy.progress import Progress, Step
from jhswarmd.errors import JhswarmdError, UsageError

#: Seconds to wait for another rotation in progress.
BUSY_TIMEOUT_S = 600.0
#: Seconds that a rotation may take: hub, proxy and daemon restart one after the other.
ROTATION_TIMEOUT_S = 600.0

_IMPACT = {
    "cookie": "the hub restarts: its pages are down for seconds, logins stay valid",
    "proxy": "hub and proxy restart: open pages reconnect after seconds",
    "crypt": "the hub restarts: its pages are down for seconds",
    "daemon": "hub and daemon restart: the hub's pages are down for seconds",
    "tls": "the proxy restarts: open pages reconnect after seconds",
}
_IMPACT_OF_REVOCATION = {"cookie": "the hub restarts, and all users log in again"}


def credentials_named(argument: str) -> list[str]:
    """Return the credentials that a command-line argument names. Raises UsageError."""
    if argument == "all":
        return list(rotation.BY_AGE)
    if argument not in rotation.CREDENTIALS:
        raise UsageError(
            f"Unknown credential '{argument}'",
            remedy=f"Choose one of {', '.join(rotation.CREDENTIALS)}, or 'all' for the first "
            f"{len(rotation.BY_AGE)}.",
        )
    return [argument]


def describe(
    existing: Sequence[generations.SecretVersion], names: Sequence[str], *, revoke: bool
) -> list[str]:
    """Return what a rotation would do, one line per credential. Pure."""
    lines = []
    for name in names:
        kinds = rotation.CREDENTIALS[name]
        newest = generations.newest(existing, *kinds)
        number = newest.number if newest else 0
        # A generation that was rolled back keeps its number.
        following = 1 + max((each.generation for each in existing if each.kind in kinds), default=0)
        impact = _IMPACT_OF_REVOCATION.get(name, _IMPACT[name]) if revoke else _IMPACT[name]
        lines.append(f"{name}: generation {following} replaces {number}; {impact}")
    return lines


def rotate(
    client: docker.DockerClient,
    stack: str,
    names: Sequence[str],
    progress: Progress,
    *,
    revoke: bool = False,
    profile: Profile | None = None,
) -> None:
    """Rotate the credentials ``names``, and return once the new generations are in use.

    With ``profile``, ``tls`` uses the profile's own certificate; if the profile has none, it
    generates a self-signed one, even if an earlier one came from the profile. Raises
    JhswarmdError, also when a new generation had to be rolled back.
    """
    supplier = profile if list(names) == ["tls"] else None
    if supplier and (warning := preflight.check_certificate(supplier)):
        progress.warn(f"{warning}. {preflight.SET_HOST}")
    with progress.step(f"New secrets: {', '.join(names)}") as step:
        supplied = _supply(client, supplier, step) if supplier else None
        created = supplied or _request(
            client, stack, names, step, revoke=revoke, self_signed=profile is not None
        )
        step.done(", ".join(f"{name} g{number}" for name, number in created.items()))
    with progress.step("Waiting for hub, proxy and daemon to use them") as step:
        _follow(client, stack, created, step)
        # A restarted daemon answers before Swarm considers it healthy.
        stacks.wait_healthy(client, stack, step)
        step.done("all use them")


def _request(
    client: docker.DockerClient,
    stack: str,
    names: Sequence[str],
    step: Step,
    *,
    revoke: bool,
    self_signed: bool,
) -> dict[str, int]:
    request = {
        "units": list(names),
        "revoke": revoke,
        "self_signed": self_signed,
        "request": token_hex(16),
    }
    deadline, seen = time.monotonic() + BUSY_TIMEOUT_S, -1
    while True:
        answer = daemon_client.call_with_retry(client, stack, "rotate", request)
        if not answer["busy"]:
            created: dict[str, int] = answer["generations"]
            return created
        if time.monotonic() >= deadline:
            raise JhswarmdError(
                f"Another rotation has not finished after {BUSY_TIMEOUT_S:.0f} s: {answer['busy']}",
                remedy="See 'jhswarmd status'.",
            )
        step.update(f"waiting for another rotation: {answer['busy']}")
        seen = daemon_client.call_with_retry(client, stack, "rotation", {"seen": seen})["version"]


def _supply(client: docker.DockerClient, profile: Profile, step: Step) -> dict[str, int] | None:
    """Create a generation from the profile's own certificate; None: it has none."""
    if not {"tls_cert", "tls_key"} <= profile.files.keys():
        return None
    existing = secrets.list_existing(client, profile.settings.stack_name)
    for creation in secrets.plan(profile, existing, retry_rejected=True):
        if creation.kind is secrets.TLS:
            secrets.create(client, profile, creation, step.update)
            return {"tls": creation.generation}
    raise UsageError(
        "The profile's certificate is already in use",
        remedy=f"Put the new one into env/{profile.name}/ssl and run the command again.",
    )


def _follow(
    client: docker.DockerClient, stack: str, created: Mapping[str, int], step: Step
) -> None:
    deadline, seen = time.monotonic() + ROTATION_TIMEOUT_S, -1
    while time.monotonic() < deadline:
        view = daemon_client.call_with_retry(client, stack, "rotation", {"seen": seen})
        seen = view["version"]
        _raise_for_rejected(created, view["units"])
        if behind := [name for name in created if not _is_live(name, created, view["units"])]:
            raise_for_removed(created, behind, secrets.list_existing(client, stack))
        if _is_finished(created, view):
            return
        step.update(view["doing"] or "starting")
    raise JhswarmdError(
        f"The rotation has not finished after {ROTATION_TIMEOUT_S:.0f} s",
        why=str(view["doing"]),
        remedy="The daemon continues with it: see 'jhswarmd status'.",
    )


def _is_live(name: str, created: Mapping[str, int], units: Mapping[str, Any]) -> bool:
    return name in units and bool(units[name]["generation"] >= created[name])


def _is_finished(created: Mapping[str, int], view: Mapping[str, Any]) -> bool:
    units = view["units"]
    return not view["doing"] and all(
        _is_live(name, created, units) and units[name]["is_verified"] for name in created
    )


def _raise_for_rejected(created: Mapping[str, int], units: Mapping[str, Any]) -> None:
    for name, number in created.items():
        why = units.get(name, {}).get("rejected", {}).get(str(number))
        if why:
            raise JhswarmdError(
                f"The rotation of {name} was rolled back",
                why=why,
                remedy="The older secret is in use again. Fix the reason, then rotate again.",
            )


def raise_for_removed(
    created: Mapping[str, int], names: Sequence[str], existing: Sequence[generations.SecretVersion]
) -> None:
    """Raise JhswarmdError if one of these new generations is no longer in Swarm. Pure."""
    for name in names:
        found = generations.complete(existing, *rotation.CREDENTIALS[name])
        if created[name] not in (each.number for each in found):
            raise JhswarmdError(
                f"The new secret for {name} is gone",
                why="it was removed before it was in use",
                remedy="The older one is still in use. Rotate again.",
            )
