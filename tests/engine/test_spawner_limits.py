"""Limits of notebooks, as a real engine enforces them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from jupyterhub.spawner import SpawnException

from jhswarmd.spawner import swarm
from tests.engine.spawner_kit import Flaky, start_and_clean_up, the_container, the_service
from tests.lab import Lab

#: Bits of /proc/PID/status: linux/capability.h.
NET_RAW, MKNOD, CHOWN = 1 << 13, 1 << 27, 1 << 0

LOOK = """
import json, os, resource
status = dict(line.split(":", 1) for line in open("/proc/1/status") if ":" in line)
shm = os.statvfs("/dev/shm")
print(json.dumps({
    "capabilities": int(status["CapBnd"], 16),
    "shm": shm.f_blocks * shm.f_frsize,
    "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
}))
"""


def look(container: Any) -> Any:
    """Return what a process in the container sees."""
    return json.loads(container.exec_run(["python3", "-c", LOOK]).output)


def test_limits_hold_inside_the_container(make: Any, engine: Lab) -> None:
    spawner = make(
        shm_size="96M",
        pids_limit=77,
        ulimits={"nofile": "512:1024"},
        cap_drop=["NET_RAW", "MKNOD"],
    )
    asyncio.run(spawner.start())
    container = the_container(engine, spawner)
    seen = look(container)
    assert seen["shm"] == 96 * 1024**2
    assert seen["nofile"] == [512, 1024]
    assert not seen["capabilities"] & (NET_RAW | MKNOD)
    assert seen["capabilities"] & CHOWN
    assert container.attrs["HostConfig"]["PidsLimit"] == 77


def test_a_notebook_gets_a_generic_resource_only_where_there_is_one(
    make: Any, client: Flaky
) -> None:
    spawner = make(generic_resources={"gpu": 1})

    async def start() -> dict[str, Any]:
        starting = asyncio.ensure_future(start_and_clean_up(spawner))
        while not spawner.object_id:
            await asyncio.sleep(0.01)
        resources = the_service(client)["Spec"]["TaskTemplate"]["Resources"]
        with pytest.raises(SpawnException) as caught:
            await starting
        assert caught.value.reason == "no_node"
        assert "insufficient resources" in caught.value.log_message
        return dict(resources["Reservations"])

    reserved = asyncio.run(start())
    assert reserved["GenericResources"] == [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}}]


def test_an_option_that_the_engine_drops_is_named_once(
    make: Any, client: Flaky, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(swarm.SwarmSpawner, "_dropped", None)
    options = {"no_new_privileges": True, "cap_drop": ["MKNOD"], "ulimits": {"core": 0}}

    async def start_twice() -> None:
        for name in ("one", "two"):
            await make(**options, name_template=name).start()

    asyncio.run(start_twice())
    said = [record.getMessage() for record in caplog.records if "does not know" in record.message]
    has_it = tuple(map(int, client.api_version.split("."))) >= (1, 44)
    wanted = "This engine does not know no_new_privileges for services: notebooks run without it"
    assert said == ([] if has_it else [wanted])
