"""What a hub that restarts costs those who wait for the daemon: a deployed stack, and orphans."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

from docker.types import ContainerSpec, Placement, TaskTemplate

from bench.deployed import deployed
from bench.figures import OURS, Figure, Target
from bench.measure import NOWHERE, Report
from bench.rotation import Probe
from jhswarmd import labels
from tests.kit.lab import Lab
from tests.kit.stack import Stack
from tests.kit.wait import wait_until

#: Seconds for whatever is waited for; nothing here takes as long.
_PATIENCE_S = 120
_USER = "testuser"


def restart(lab: Lab, rounds: int, orphans: int, report: Report) -> list[Figure]:
    """Kill the hub ``rounds`` times; then hold and approve ``orphans`` as often."""
    verdict = Figure(
        "verdict",
        "an orphan is gone after the first answer of a hub that was killed",
        Target(worst_s=2.0),
    )
    approved = Figure(
        "approved",
        f"{orphans} held orphans, from their approval until they are gone",
        Target(worst_s=10.0),
    )
    with contextlib.ExitStack() as undo:
        stack = undo.enter_context(deployed(lab, report))
        image = lab.small_image()
        undo.enter_context(stack.login(_USER)).start_server()
        for number in range(rounds):
            report(f"hub {number + 1}/{rounds}", 1)
            verdict.add(OURS, _verdict_s(stack, image))
        for number in range(rounds):
            report(f"orphans {number + 1}/{rounds}", 1)
            approved.add(OURS, _approved_s(stack, image, orphans))
    return [verdict, approved]


def _verdict_s(stack: Stack, image: str) -> float:
    session = stack.session()

    def hub_answers() -> bool:
        return session.get(f"{stack.url}/hub/api/", timeout=5).ok

    stack.container("hub").kill()
    orphan = _create(stack, image, "somebody-else")
    with session, Probe(hub_answers) as probe:
        wait_until(lambda: not _exists(stack, orphan), _PATIENCE_S, what="the orphan is gone")
        gone_at = time.monotonic()
        wait_until(lambda: any(answered for _, answered in probe.answers), _PATIENCE_S)
    answered_at = probe.first_answer_after(0)
    stack.wait_healthy(_PATIENCE_S)
    return max(0.0, gone_at - (answered_at or gone_at))


def _approved_s(stack: Stack, image: str, orphans: int) -> float:
    made = [_create(stack, image, f"ghost-{number}") for number in range(orphans)]

    def count_left() -> int:
        listed = {service.id for service in stack.notebooks()}
        return sum(each in listed for each in made)

    wait_until(
        lambda: len(stack.daemon()["servers"]["held"]) == count_left(),
        _PATIENCE_S,
        what="what was not removed is held",
    )
    begun_at = time.monotonic()
    stack.cli("orphans", "approve")
    wait_until(lambda: not count_left(), _PATIENCE_S, what="all of them are gone")
    return time.monotonic() - begun_at


def _create(stack: Stack, image: str, user: str) -> str:
    """Create what looks like a notebook of a user that the hub does not have; returns its id."""
    marks: Mapping[str, str] = stack.notebook(_USER).attrs["Spec"]["Labels"]
    made: Mapping[str, str] = stack.lab.client.api.create_service(
        TaskTemplate(ContainerSpec(image), placement=Placement(constraints=NOWHERE)),
        name=f"bench-{user}",
        labels={**marks, labels.USER: user, labels.SPAWN: "made-by-hand"},
    )
    return made["ID"]


def _exists(stack: Stack, service_id: str) -> bool:
    return any(service.id == service_id for service in stack.notebooks())
