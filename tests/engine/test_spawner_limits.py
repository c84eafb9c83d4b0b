"""Limits of notebooks, as a real engine enforces them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from jupyterhub.spawner import SpawnException

from jhswarmd.spawner import swarm
from tests.kit.lab import Lab
from tests.kit.spawner_kit import Flaky, start_and_clean_up, the_container, the_service

#: Bits of /proc/PID/status: linux/capability.h.
NET_RAW, MKNOD, CHOWN = 1 << 13, 1 << 27, 1 << 0

#: How the engine tells a container which of the lab's made-up GPUs it has.
GPU = "DOCKER_RESOURCE_NVIDIA-GPU"

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


@pytest.fixture
def joined(make_for: Any) -> None:
    """The node has somebody in the notebooks' network already (docs/spawner.md, GPUs)."""
    asyncio.run(make_for("neighbour").start())


def test_a_gpu_that_the_cluster_takes_back_at_once_is_said_in_words(
    make: Any, client: Flaky
) -> None:
    # The first task in a network changes its node, and with that the engine's manager may take
    # back what is counted there by name. A later engine may know better.
    spawner = make(generic_resources={"NVIDIA-GPU": 1})
    try:
        asyncio.run(start_and_clean_up(spawner))
    except SpawnException as exc:
        assert exc.reason == "node_changed"  # noqa: PT017 - or it starts
        assert "changed while your notebook started" in exc.jupyterhub_message  # noqa: PT017
        assert client.services() == []


def test_each_notebook_has_a_gpu_of_its_own_while_there_are_any(
    joined: None, make_for: Any, engine: Lab
) -> None:
    first, second, third = (
        make_for(name, generic_resources={"NVIDIA-GPU": 1}) for name in ("ann", "bob", "eve")
    )

    def gpu_of(spawner: swarm.SwarmSpawner) -> str:
        env = the_container(engine, spawner).attrs["Config"]["Env"]
        (gpu,) = (line for line in env if line.startswith(f"{GPU}="))
        return str(gpu)

    async def start_all() -> None:
        await asyncio.gather(first.start(), second.start())
        assert {gpu_of(first), gpu_of(second)} == {f"{GPU}=GPU-1", f"{GPU}=GPU-2"}
        with pytest.raises(SpawnException) as caught:
            await start_and_clean_up(third)
        assert caught.value.reason == "no_node"
        freed = gpu_of(first)
        await first.stop()
        await third.start()
        assert gpu_of(third) == freed

    asyncio.run(start_all())


@pytest.mark.every_engine
def test_all_that_limits_a_notebook_is_as_it_was_asked_for(
    joined: None, make: Any, client: Flaky, engine: Lab
) -> None:
    spawner = make(
        mem_limit="256M",
        mem_guarantee="64M",
        cpu_limit=1.5,
        cpu_guarantee=0.25,
        generic_resources={"NVIDIA-GPU": 2},
        cap_drop=["ALL"],
        extra_placement_spec={"constraints": ["node.role == manager"]},
    )
    asyncio.run(spawner.start())
    task = client.inspect_service(spawner.object_id)["Spec"]["TaskTemplate"]
    assert task["Resources"] == {
        "Limits": {"NanoCPUs": 1_500_000_000, "MemoryBytes": 256 * 1024**2},
        "Reservations": {
            "NanoCPUs": 250_000_000,
            "MemoryBytes": 64 * 1024**2,
            "GenericResources": [{"DiscreteResourceSpec": {"Kind": "NVIDIA-GPU", "Value": 2}}],
        },
    }
    assert task["Placement"]["Constraints"] == ["node.role == manager"]
    container = the_container(engine, spawner)
    host = container.attrs["HostConfig"]
    assert (host["Memory"], host["NanoCpus"]) == (256 * 1024**2, 1_500_000_000)
    assert look(container)["capabilities"] == 0


def test_an_option_that_the_engine_drops_is_named_once(
    make: Any, client: Flaky, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(swarm.SwarmSpawner, "_dropped", None)
    options = {"no_new_privileges": True, "cap_drop": ["MKNOD"], "ulimits": {"core": 0}}

    async def start_twice() -> None:
        for name in ("one", "two"):
            await make(**options, name_template=name).start()

    asyncio.run(start_twice())
    said = [
        record.getMessage() for record in caplog.records if "This engine ignores" in record.message
    ]
    has_it = tuple(map(int, client.api_version.split("."))) >= (1, 44)
    wanted = "This engine ignores no_new_privileges on services: notebooks run without it"
    assert said == ([] if has_it else [wanted])
