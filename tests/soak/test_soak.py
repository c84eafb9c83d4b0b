"""Users come and go and notebooks are lost while everything fails at random.

A minute with the other tests; ``make soak`` takes ten (``--soak-s`` sets it). The seed is printed,
and ``--soak-seed`` repeats its choices, though not the moments at which they meet the rest.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests
from docker.errors import APIError

from bench.site import BenchError, StartFailed
from tests.kit.engine_proxy import (
    Answer,
    Cut,
    CutBody,
    Delay,
    Fault,
    LoseAnswer,
    Silence,
    Swallow,
    Throttle,
    Truncate,
)
from tests.kit.fault_site import MORE_DESCRIPTORS, MORE_THREADS, FaultSite, Resources, killed_hub
from tests.kit.lab import Lab

USERS = [f"user-{number}" for number in range(8)]
_SAMPLE_S = 1.0
#: Megabytes that the last third may hold more than the first.
_MORE_RSS_MB = 25
#: What a user is told of a fault, and tries again.
_TOLD = (StartFailed, BenchError, requests.RequestException, APIError)

#: On the daemon's way to the engine, or the spawner's: a fault, a method, a path.
_ENGINE_FAULTS: list[tuple[Fault, str | None, str]] = [
    (Answer(500, "rpc error: deadline exceeded"), None, "^/(services|tasks)"),
    (Answer(503, "The swarm does not have a leader"), None, "^/(services|tasks)"),
    (Answer(500, "rpc error: deadline exceeded", applied=True), "DELETE", ""),
    (Answer(500, "rpc error: update out of sequence"), "POST", ""),
    (LoseAnswer(), "POST", "^/services/create"),
    (LoseAnswer(), None, "^/services"),
    (Cut(), None, ""),
    (Truncate(), "GET", "^/(services|tasks)"),
    (CutBody(), "GET", "^/events"),
    (Silence(), "GET", "^/events"),
    (Throttle(pause_s=0.2, piece=512), "GET", "^/events"),
    (Delay(before_s=0.5, after_s=0.5), None, "^/(services|tasks)"),
    (Swallow(), "GET", "^/services"),
]
_HUB_FAULTS: list[Fault] = [
    Answer(500),
    Answer(404),
    Answer(200, body="<html></html>"),
    Answer(200, body='{"items": [], "_pagination": {"next": null}}'),
    Truncate(),
    Cut(),
    LoseAnswer(),
    Delay(before_s=1),
]


class Chaos:
    """Users, faults and a witness, each in a thread of its own, until ``stop``."""

    def __init__(self, site: FaultSite, seed: int) -> None:
        self._site = site
        self._seed = seed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.failure: BaseException | None = None
        self.done: dict[str, int] = {}
        self.samples: list[dict[str, Resources]] = []

    def start(self) -> None:
        """Begin."""
        for number, user in enumerate(USERS):
            self._start(f"user-{number}", lambda dice, user=user: self._be_user(user, dice))
        self._start("faults", self._cause_faults)
        self._start("orphans", self._make_orphans)
        self._start("witness", self._watch)

    def stop(self) -> None:
        """End, and raise what one of the threads has raised."""
        self._stop.set()
        for thread in self._threads:
            thread.join(240)
            assert not thread.is_alive(), f"{thread.name} hangs"
        if self.failure:
            raise self.failure

    def wait(self, seconds: float) -> None:
        """Wait so long, or until one of the threads has failed."""
        deadline = time.monotonic() + seconds
        while not self.failure and (left_s := deadline - time.monotonic()) > 0:
            self._stop.wait(min(1.0, left_s))

    def _start(self, name: str, work: Callable[[random.Random], None]) -> None:
        # Each has dice of its own: how threads take turns changes nobody's choices.
        dice = random.Random(f"{self._seed} {name}")

        def run() -> None:
            try:
                work(dice)
            except BaseException as exc:  # it is raised again in `stop`
                self.failure = exc

        self._threads.append(threading.Thread(target=run, name=name))
        self._threads[-1].start()

    def _count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    def _be_user(self, user: str, dice: random.Random) -> None:
        site = self._site
        while not self._stop.wait(dice.uniform(0.5, 4)):
            try:
                running = site.hub.is_known(user)
                if not running:
                    site.hub.start_server(user)
                elif dice.random() < 0.6:
                    site.hub.stop_server(user)
                elif dice.random() < 0.5:
                    site.site.api.remove_service(site.service_of(user))  # by a foreign hand
                    self._count("vanished")
                self._count("stop" if running else "start")
            except _TOLD:
                self._count("failed and was told so")
            except ValueError:
                self._count("lost a race")  # no service, or two for a moment

    def _make_orphans(self, dice: random.Random) -> None:
        while not self._stop.wait(dice.uniform(1, 5)):
            self._site.make_service(f"ghost-{dice.randrange(1000)}", self._hub_id)
            self._count("orphan")
            with contextlib.suppress(AssertionError):  # the engine is silent
                self._site.ask("approve")

    def _cause_faults(self, dice: random.Random) -> None:
        site = self._site
        while not self._stop.wait(dice.uniform(0, 1)):
            kind = dice.choices(
                ["daemon", "spawner", "hub", "pause", "kill hub", "cut"], [6, 6, 6, 1, 0.5, 2]
            )[0]
            how_long_s = dice.uniform(0.5, 5)
            self._count(kind)
            if kind in ("daemon", "spawner"):
                proxy = site.engine if kind == "daemon" else site.spawner
                fault, method, path = dice.choice(_ENGINE_FAULTS)
                with proxy.fault(fault, method, path, probability=dice.choice([0.05, 0.3, 1])):
                    self._stop.wait(how_long_s)
                if isinstance(fault, Swallow):
                    proxy.cut_streams("^/services")
            elif kind == "hub":
                with site.hub_api.fault(dice.choice(_HUB_FAULTS), probability=0.7):
                    self._stop.wait(how_long_s)
            elif kind == "pause":
                with site.lab.paused():
                    self._stop.wait(how_long_s)
            elif kind == "kill hub":
                with killed_hub(site):
                    self._stop.wait(dice.uniform(0, 2))
            else:
                site.engine.cut_streams("^/events")

    def _watch(self, dice: random.Random) -> None:
        while not self._stop.wait(_SAMPLE_S):
            with contextlib.suppress(OSError, AssertionError):  # the hub is away
                self.samples.append(self._site.resources())

    def prepare(self) -> None:
        """Make the users, and learn the hub's identity while it answers."""
        self._site.hub.add_users(USERS)
        self._hub_id = self._site.hub.hub_id()


@pytest.fixture
def site(engine: Lab, seed: int) -> Iterator[FaultSite]:
    with FaultSite(engine, seed, RESYNC_INTERVAL_S="10") as made:
        yield made


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given: int | None = request.config.getoption("--soak-seed")
    return random.randrange(2**32) if given is None else given


@pytest.mark.timeout(0)
def test_everything_survives_random_faults(
    site: FaultSite, seed: int, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    for_s: float = request.config.getoption("--soak-s")
    with capsys.disabled():
        print(f"\nsoak of {for_s:g} s, --soak-seed {seed}", flush=True)
    chaos = Chaos(site, seed)
    chaos.prepare()
    chaos.start()
    try:
        chaos.wait(for_s)
    finally:
        chaos.stop()
    site.wait_gone(*site.expected)
    site.wait_converged()
    site.check(strict=False)
    with capsys.disabled():
        print(_summary(chaos), flush=True)
    _check_flat(chaos.samples)


def _summary(chaos: Chaos) -> str:
    done = ", ".join(f"{count} {what}" for what, count in sorted(chaos.done.items()))
    return f"{done}; at first {chaos.samples[0]}, at last {chaos.samples[-1]}"


def _check_flat(samples: list[dict[str, Resources]]) -> None:
    """Compare the medians of the first third and of the last; a start's growth is in the first."""
    third = len(samples) // 3
    for name in samples[0]:
        first, last = (
            {
                fact: statistics.median(getattr(each[name], fact) for each in part)
                for fact in ("threads", "descriptors", "rss_mb")
            }
            for part in (samples[:third], samples[-third:])
        )
        most = {
            "threads": MORE_THREADS[name],
            "descriptors": MORE_DESCRIPTORS,
            "rss_mb": _MORE_RSS_MB,
        }
        grown = [fact for fact in most if last[fact] > first[fact] + most[fact]]
        assert grown == [], f"{name} held {first} at first, and {last} at last"
