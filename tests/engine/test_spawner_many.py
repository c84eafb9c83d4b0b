"""Many starts at once through an engine that is slow and fails, and a loop that never waits."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from jhswarmd import labels
from jhswarmd.spawner.base import MAX_CALLS, ServiceSpawner
from tests.engine.spawner_kit import Flaky
from tests.engine_proxy import Answer, Cut, Delay, EngineProxy, LoseAnswer
from tests.lab import Lab

#: As many as fit into the time of a test; JHSWARMD_STARTS=200 is what is promised.
STARTS = int(os.environ.get("JHSWARMD_STARTS", "30"))
#: The share of calls that fail, in four ways.
FAILING = 0.05
LATENCY_S = 0.2
#: What each call takes where a call in the loop itself must show.
SLOW_S = 0.6


@pytest.fixture
def proxy(
    client: Flaky, engine: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EngineProxy]:
    """A proxy between all spawners and the engine."""
    seed = random.randrange(1000)
    print("seed", seed)
    with EngineProxy(engine.socket, tmp_path / "proxy.sock", seed) as made:
        through = docker.APIClient(
            made.base_url, version="auto", timeout=20, max_pool_size=MAX_CALLS
        )
        monkeypatch.setattr(ServiceSpawner, "_engine_client", through)
        yield made
        through.close()


@pytest.mark.timeout(60 + 5 * STARTS)
def test_many_starts_at_once_succeed_while_calls_fail_and_are_slow(
    make_for: Any, proxy: EngineProxy, engine: Lab
) -> None:
    faults = (Cut(), LoseAnswer(), Answer(500, "rpc error: update out of sequence"), Answer(503))
    rules = [proxy.add(fault, probability=FAILING / len(faults)) for fault in faults]
    proxy.add(Delay(before_s=LATENCY_S))
    users = [f"user{number}" for number in range(STARTS)]
    spawners = [make_for(user, start_timeout=60 + 5 * STARTS) for user in users]

    async def all_at_once(calls: Any) -> None:
        await asyncio.gather(*calls)

    asyncio.run(all_at_once(spawner.start() for spawner in spawners))
    assert sum(rule.hits for rule in rules) > STARTS / 10, "nothing failed: nothing is shown"
    services = engine.client.api.services(filters={"label": labels.HUB})
    assert Counter(labels.of(each)[labels.USER] for each in services) == Counter(users)
    assert {each["ID"] for each in services} == {spawner.object_id for spawner in spawners}
    tasks = engine.client.api.tasks(filters={"label": labels.HUB})
    assert all(task["Status"]["State"] == "running" for task in tasks)

    asyncio.run(all_at_once(spawner.stop() for spawner in spawners))
    assert engine.client.api.services(filters={"label": labels.HUB}) == []
    assert proxy.removed("volumes") == set()


def test_no_call_is_made_in_the_hubs_loop(make_for: Any, proxy: EngineProxy) -> None:
    proxy.add(Delay(before_s=SLOW_S))
    spawners = [make_for(f"user{number}") for number in range(3)]
    longest_s = 0.0

    async def watch() -> None:
        nonlocal longest_s
        loop = asyncio.get_running_loop()
        for before, after in itertools.pairwise(iter(loop.time, None)):
            longest_s = max(longest_s, after - before)
            await asyncio.sleep(0.01)

    async def live() -> None:
        watcher = asyncio.ensure_future(watch())
        await asyncio.gather(*(spawner.start() for spawner in spawners))
        assert await asyncio.gather(*(spawner.poll() for spawner in spawners)) == [None] * 3
        await asyncio.gather(*(spawner.stop() for spawner in spawners))
        watcher.cancel()

    asyncio.run(live())
    assert longest_s < SLOW_S
