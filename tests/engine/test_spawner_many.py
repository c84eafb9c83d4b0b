"""Many starts at once through an engine that is slow and fails, and a loop that never waits."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from jhswarmd import labels
from jhswarmd.spawner.errors import StartFailed
from jhswarmd.spawner.service import MAX_CALLS, ServiceSpawner
from tests.kit.engine_proxy import Answer, Cut, Delay, EngineProxy, LoseAnswer
from tests.kit.lab import Lab
from tests.kit.spawner_kit import DeafSpawner, Flaky

#: As many as fit into the time of a test; JHSWARMD_STARTS=200 is what is promised.
STARTS = int(os.environ.get("JHSWARMD_STARTS", "30"))
#: The share of calls that fail, in four ways.
FAILING = 0.05
LATENCY_S = 0.2


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
    # Each of them once for certain, and then as chance has it.
    certain = [proxy.add(fault, times=1, skip=STARTS // 2) for fault in faults]
    for fault in faults:
        proxy.add(fault, probability=FAILING / len(faults))
    proxy.add(Delay(before_s=LATENCY_S))
    users = [f"user{number}" for number in range(STARTS)]
    spawners = [make_for(user, start_timeout=60 + 5 * STARTS) for user in users]

    async def all_at_once(calls: Any) -> None:
        await asyncio.gather(*calls)

    asyncio.run(all_at_once(spawner.start() for spawner in spawners))
    assert all(rule.hits for rule in certain)
    services = engine.client.api.services(filters={"label": labels.HUB})
    assert Counter(labels.of(each)[labels.USER] for each in services) == Counter(users)
    assert {each["ID"] for each in services} == {spawner.object_id for spawner in spawners}
    tasks = engine.client.api.tasks(filters={"label": labels.HUB})
    assert all(task["Status"]["State"] == "running" for task in tasks)

    asyncio.run(all_at_once(spawner.stop() for spawner in spawners))
    assert engine.client.api.services(filters={"label": labels.HUB}) == []
    assert proxy.removed("volumes") == set()


class Watched:
    """An engine client that tells in which threads it was used."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.threads: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        self.threads.add(threading.get_ident())
        return getattr(self._client, name)


def test_no_call_is_made_in_the_hubs_loop(
    make_for: Any, client: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(client)
    monkeypatch.setattr(ServiceSpawner, "_engine_client", watched)
    spawner = make_for("ann")
    fails = make_for("bob", spawner_class=DeafSpawner, cmd=["sh", "-c", "exit 3"])

    async def live() -> None:
        await spawner.start()
        assert await spawner.poll() is None
        with pytest.raises(StartFailed):  # which reads the log
            await fails.start()
        await fails.stop()
        await spawner.stop()

    asyncio.run(live())
    assert watched.threads
    assert threading.get_ident() not in watched.threads
