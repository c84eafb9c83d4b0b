"""The spawner on a manager and a worker: where files are, and what happens when a node is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from jupyterhub.spawner import SpawnException
from jupyterhub.user import User

from jhswarmd import labels
from jhswarmd.commands import status
from jhswarmd.spawner import volume_nodes
from jhswarmd.spawner.swarm import SwarmSpawner
from tests.engine.conftest import CreateService
from tests.kit.cluster_lab import Cluster
from tests.kit.lab import SMALL_IMAGE, Lab
from tests.kit.spawner_kit import (
    STACK,
    Flaky,
    list_tasks,
    start_and_clean_up,
    the_container,
)
from tests.kit.wait import wait_until

NODES = {"managers": 1, "workers": 1}
VOLUME = f"{STACK}-user-ann"
FILE = "/home/jovyan/kept"


@pytest.fixture
def worker(cluster: Cluster) -> Lab:
    return cluster.others[0]


@pytest.fixture(autouse=True)
def no_files(cluster: Cluster, client: Flaky) -> Any:
    """Each test begins with a user who has no files anywhere."""
    yield
    for service in client.services():
        client.remove_service(service["ID"])
    for lab in cluster.nodes:
        # A node removes the container of a removed service by itself.
        wait_until(lambda lab=lab: not lab.client.api.containers(all=True), 30)
        for volume in lab.client.volumes.list():
            volume.remove()


def on(lab: Lab) -> dict[str, Any]:
    return {"extra_placement_spec": {"constraints": [f"node.hostname == {lab.name}"]}}


def node_of(client: Flaky, spawner: SwarmSpawner) -> str:
    (task,) = list_tasks(client, spawner.object_id)
    name: str = client.inspect_node(task["NodeID"])["Description"]["Hostname"]
    return name


def has_file(lab: Lab, spawner: SwarmSpawner) -> bool:
    return the_container(lab, spawner).exec_run(["test", "-e", FILE]).exit_code == 0


async def start_with_a_file(make: Any, lab: Lab) -> SwarmSpawner:
    spawner: SwarmSpawner = make(**on(lab))
    await spawner.start()
    assert the_container(lab, spawner).exec_run(["touch", FILE]).exit_code == 0
    return spawner


def test_new_volumes_are_the_users_on_whichever_node_they_are_made(
    make: Any, cluster: Cluster, worker: Lab
) -> None:
    options = {
        "shared_volumes": {"exchange": {"bind": "/srv/exchange", "mode": "rw"}},
        "extra_container_spec": {"user": "1000:100"},
    }
    there = make(volumes={f"{STACK}-work-{{username}}": "/work"}, **options, **on(worker))
    here = make(name_template="here", volumes={}, **options, **on(cluster))

    async def start_both() -> None:
        await there.start()
        await here.start()

    asyncio.run(start_both())
    for lab, spawner in ((worker, there), (cluster, here)):
        touch = ["touch", "/srv/exchange/mine", *(["/work/mine"] if spawner is there else [])]
        assert the_container(lab, spawner).exec_run(touch).exit_code == 0


def test_a_notebook_is_reached_from_another_node(make: Any, cluster: Cluster, worker: Lab) -> None:
    here = make(name_template="here", volumes={}, **on(cluster))

    async def start_both() -> tuple[str, int]:
        await here.start()
        address: tuple[str, int] = await make(volumes={}, **on(worker)).start()
        return address

    ip, port = asyncio.run(start_both())
    ask = f"import urllib.request as u; u.urlopen('http://{ip}:{port}/user/ann/', timeout=20)"
    container = the_container(cluster, here)
    # It runs, which is not yet to say that it listens.
    wait_until(lambda: container.exec_run(["python3", "-c", ask]).exit_code == 0, 60)


def test_the_next_start_goes_to_the_node_of_the_files_even_if_another_has_more_room(
    make: Any, client: Flaky, cluster: Cluster, worker: Lab
) -> None:
    # Swarm itself would choose the empty manager: the worker has another notebook.

    async def start_stop_start() -> SwarmSpawner:
        await make(name_template="other", volumes={}, **on(worker)).start()
        first = await start_with_a_file(make, worker)
        await first.stop()
        again: SwarmSpawner = make()  # as a hub that has restarted: only the database knows
        await again.start()
        return again

    again = asyncio.run(start_stop_start())
    assert has_file(worker, again)


def test_a_lost_node_ends_its_notebooks_and_a_start_waits_for_the_files(
    make: Any, client: Flaky, cluster: Cluster, worker: Lab, user: User
) -> None:
    first = asyncio.run(start_with_a_file(make, worker))
    with cluster.lost(worker):
        # Swarm goes on saying that the task runs.
        (task,) = list_tasks(client, first.object_id)
        assert task["Status"]["State"] == "running"
        status = asyncio.run(first.poll())
        assert status == f"its node {worker.name} is down"
        # As at the start of a hub that has restarted meanwhile.
        at_hub_start = make(first.get_state())
        at_hub_start._check_pending = True
        assert asyncio.run(at_hub_start.poll()) == status
        # What the hub does with a server that has ended.
        asyncio.run(first.run_post_stop_hook())
        assert client.services() == []
        with pytest.raises(SpawnException) as caught:
            asyncio.run(start_and_clean_up(make()))
        assert caught.value.reason == "volume_node"
        assert f"node {worker.name}, which is down" in caught.value.jupyterhub_message
        assert client.services() == []
    again = make()
    asyncio.run(again.start())
    assert has_file(worker, again)
    assert [each.name for each in volume_nodes.list_nodes(user.db, VOLUME)] == [worker.name]


def test_a_start_moves_on_from_a_lost_node_and_a_stop_does_not_wait_for_it(
    make: Any, client: Flaky, cluster: Cluster, worker: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    there = make(name_template="there", volumes={}, **on(worker))
    asyncio.run(there.start())
    for name in ("here", "here-too"):
        asyncio.run(make(name_template=name, volumes={}, **on(cluster)).start())
    # Until Swarm knows that the node is lost, it places there: fewer run on it.
    new = make()
    with cluster.lost(worker, is_known=False):

        async def start_and_stop() -> None:
            await asyncio.gather(new.start(), there.stop())

        asyncio.run(start_and_stop())
        assert node_of(client, new) == cluster.name
        assert "Retrying the start" in caplog.text
        assert "its task ends when its node is back" in caplog.text


def test_relaxed_starts_elsewhere_while_a_node_is_silent_and_goes_back_to_it(
    make: Any, client: Flaky, cluster: Cluster, worker: Lab
) -> None:
    first = asyncio.run(start_with_a_file(make, worker))
    with worker.paused():
        cluster.wait_state(worker, "down")
        assert asyncio.run(first.poll()) == f"its node {worker.name} is down"
        asyncio.run(first.run_post_stop_hook())
        elsewhere = make(volume_node_policy="relaxed")

        async def start_and_read() -> list[dict[str, Any]]:
            starting = asyncio.ensure_future(elsewhere.start())
            events = [event async for event in elsewhere.progress()]
            await starting
            return events

        events = asyncio.run(start_and_read())
        assert f"Your files are on node {worker.name}" in events[0]["message"]
        assert "without them" in events[0]["message"]
        assert node_of(client, elsewhere) == cluster.name
        assert not has_file(cluster, elsewhere)
        asyncio.run(elsewhere.stop())
    cluster.wait_state(worker, "ready")
    again = make(volume_node_policy="relaxed")
    asyncio.run(again.start())
    assert has_file(worker, again)


def test_a_notebook_that_a_drained_node_is_still_ending_counts_as_alive(
    make: Any, client: Flaky, cluster: Cluster, worker: Lab
) -> None:
    # Told to end, as on a lost node, but its node is there to tell when it has.
    spawner = asyncio.run(start_with_a_file(make, worker))
    the_container(worker, spawner).pause()
    cluster.update(worker, Availability="drain")
    try:
        wait_until(
            lambda: list_tasks(client, spawner.object_id)[0]["DesiredState"] == "shutdown", 30
        )
        assert asyncio.run(spawner.poll()) is None
        the_container(worker, spawner).unpause()
        wait_until(lambda: asyncio.run(spawner.poll()) is not None, 30)
    finally:
        cluster.update(worker, Availability="active")


@pytest.mark.parametrize(
    ("keys", "are_scattered"),
    [
        pytest.param([], True, id="on the nodes"),
        pytest.param(["VOLUME_OPTIONS=type=nfs;device=:/x"], False, id="shared"),
        pytest.param(["NOTEBOOK_CONSTRAINTS=node.role == worker"], False, id="on one node"),
        pytest.param(["PIDS_LIMIT=nonsense"], False, id="deployed with what is no longer valid"),
    ],
)
def test_status_reports_nodes_with_local_user_files(
    cluster: Cluster, create_service: CreateService, keys: list[str], are_scattered: bool
) -> None:
    marks = {labels.STACK_NAMESPACE: STACK, labels.STACK: STACK, labels.ROLE: "hub"}
    create_service(
        SMALL_IMAGE, name=labels.service_name(STACK, "hub"), labels=marks, env=["A", *keys]
    )
    names = sorted(lab.name for lab in cluster.nodes)
    found = status.gather(cluster.client, STACK).local_volume_nodes
    assert found == (names if are_scattered else [])
