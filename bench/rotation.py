"""What a rotation costs those who work: a deployed stack, real notebooks, open channels, logins."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import requests

from bench.deployed import deployed
from bench.figures import OURS, Figure, Target
from bench.measure import Report
from bench.site import BenchError
from tests.kit.lab import Lab
from tests.kit.stack import Kernel, Stack, Visitor

#: Seconds between two questions of a probe; a gap is known that exactly.
_PROBE_S = 0.05


class Probe:
    """Asks again and again, in a thread of its own, and remembers when it was answered."""

    def __init__(self, is_answered: Callable[[], bool]) -> None:
        self._is_answered = is_answered
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answers: list[tuple[float, bool]] = []

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_PROBE_S):
            begun_at = time.monotonic()
            try:
                answered = self._is_answered()
            except (requests.RequestException, OSError):
                answered = False
            # What is answered was there when it was asked.
            self.answers.append((begun_at if answered else time.monotonic(), answered))

    def longest_gap_s(self) -> float:
        """Return the longest time between two answers."""
        moments = [moment for moment, answered in self.answers if answered]
        return max((later - one for one, later in itertools.pairwise(moments)), default=0.0)

    def first_answer_after(self, moment: float) -> float | None:
        """Return when it was answered first at, or after, a moment; None: never."""
        return next((at for at, answered in self.answers if answered and at >= moment), None)

    def first_after_last_silence(self) -> float | None:
        """Return when it was answered first after it was silent for the last time, else None."""
        silent = [index for index, (_, answered) in enumerate(self.answers) if not answered]
        if not silent or silent[-1] + 1 >= len(self.answers):
            return None
        return self.answers[silent[-1] + 1][0]


def rotation(
    lab: Lab, notebooks: int, channels: int, rounds: int, report: Report
) -> tuple[list[Figure], list[str]]:
    """Rotate all secrets under ``notebooks`` servers, ``channels`` of them with a kernel in use.

    Returns figures, and facts in words: what was lost.
    """
    whole = Figure("rotation", f"rotate all, {notebooks} notebooks run, until everything works")
    hub_gap = Figure(
        "rotation-hub", "the hub's API is away in it, the longest gap", Target(worst_s=15.0)
    )
    routes_gap = Figure(
        "rotation-routes", "a notebook answers after the proxy is back", Target(worst_s=5.0)
    )
    names = [f"user{number:02}" for number in range(notebooks)]
    lost = {"notebooks": 0, "logins": 0, "kernels": 0}
    with contextlib.ExitStack() as undo:
        lines = "".join(f"{name}:password-of-{name}\n" for name in names)
        stack = undo.enter_context(deployed(lab, report, users=lines))
        report(f"{notebooks} notebooks", 0)
        visitors = [
            undo.enter_context(Visitor(stack, name, f"password-of-{name}")) for name in names
        ]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(Visitor.start_server, visitors))
        kernels = {}
        for visitor in visitors[:channels]:
            with visitor.start_kernel() as kernel:
                kernel.execute("x = 40")
                kernels[visitor] = kernel.id
        services = {service.id for service in stack.notebooks()}
        for number in range(rounds):
            report(f"rotation {number + 1}/{rounds}", 1)
            with contextlib.ExitStack() as open_channels:
                for each in kernels.items():
                    open_channels.enter_context(Kernel(*each))
                _rotate(stack, visitors[-1], whole, hub_gap, routes_gap)
            lost["notebooks"] += len(services - {service.id for service in stack.notebooks()})
            lost["logins"] += sum(not _is_logged_in(visitor) for visitor in visitors)
            lost["kernels"] += sum(not _has_state(*each) for each in kernels.items())
    facts = [
        f"{rounds} rotations of all secrets with {notebooks} notebooks, {channels} of them with an "
        f"open kernel channel, and {notebooks} logged-in browser sessions: lost were "
        f"{lost['notebooks']} notebooks, {lost['logins']} logins, {lost['kernels']} kernels"
    ]
    return [whole, hub_gap, routes_gap], facts


def _rotate(
    stack: Stack, visitor: Visitor, whole: Figure, hub_gap: Figure, routes_gap: Figure
) -> None:
    with contextlib.ExitStack() as undo:
        hub, proxy, notebook = (undo.enter_context(stack.session()) for _ in range(3))
        headers = {"Authorization": f"token {visitor.token}"}

        def hub_answers() -> bool:
            return hub.get(f"{stack.url}/hub/api/", timeout=5).ok

        def proxy_answers() -> bool:
            # Whatever it answers; it can before it has a route.
            return bool(proxy.get(f"{stack.url}/user/{visitor.user}/api", timeout=5).status_code)

        def notebook_answers() -> bool:
            url = f"{stack.url}/user/{visitor.user}/api/status"
            return notebook.get(url, headers=headers, timeout=5, allow_redirects=False).ok

        with (
            Probe(hub_answers) as one,
            Probe(proxy_answers) as two,
            Probe(notebook_answers) as three,
        ):
            begun_at = time.monotonic()
            stack.cli("rotate", "all", timeout_s=600)
            whole.add(OURS, time.monotonic() - begun_at)
            time.sleep(2)  # the last gap is to have its end
        hub_gap.add(OURS, one.longest_gap_s())
        back_at = two.first_after_last_silence()
        answered_at = three.first_answer_after(back_at) if back_at is not None else None
        if back_at is None or answered_at is None:
            raise BenchError("the proxy was not seen to go and come back")
        routes_gap.add(OURS, answered_at - back_at)


def _is_logged_in(visitor: Visitor) -> bool:
    """Tell whether the cookie alone opens the hub's home."""
    answer = visitor._session.get(
        f"{visitor.stack.url}/hub/home", allow_redirects=False, timeout=30
    )
    return answer.status_code == 200


def _has_state(visitor: Visitor, kernel_id: str) -> bool:
    with Kernel(visitor, kernel_id) as kernel:
        return kernel.execute("x + 2") == "42"
