"""Starts that fail on a real engine: soon, in words, and with nothing left behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from docker.types import (
    ContainerSpec,
    EndpointSpec,
    IPAMConfig,
    IPAMPool,
    ServiceMode,
    TaskTemplate,
)
from jupyterhub.spawner import SpawnException
from jupyterhub.user import User

from jhswarmd.spawner import volume_nodes
from jhswarmd.spawner.errors import StartFailed
from jhswarmd.spawner.volume_nodes import VolumeNode
from tests.kit.lab import Lab
from tests.kit.spawner_kit import (
    STACK,
    TOKEN,
    DeafSpawner,
    Flaky,
    list_tasks,
    start_and_clean_up,
    the_service,
)
from tests.kit.wait import wait_until

#: Seconds that a hopeless start may take.
SOON_S = 10
NO_DIRECTORY = {"type": "none", "o": "bind", "device": "/no/such/{username}"}


def fail(spawner: Any) -> StartFailed:
    """Start; return how it failed, which must be soon."""
    begun_at = time.monotonic()
    with pytest.raises(SpawnException) as caught:
        asyncio.run(start_and_clean_up(spawner))
    # Without the removal of what was started, which takes as long as the container takes to end.
    assert time.monotonic() - begun_at < SOON_S
    assert isinstance(caught.value, StartFailed)
    return caught.value


@pytest.mark.every_engine
@pytest.mark.parametrize(
    ("options", "reason", "engines_words"),
    [
        ({"image": "localhost:1/no/such:1"}, "image_not_found", "No such image"),
        (
            {"extra_placement_spec": {"constraints": ["node.labels.x == y"]}},
            "no_node",
            "scheduling constraints not satisfied",
        ),
        ({"mem_guarantee": "1000T"}, "no_node", "insufficient resources"),
        ({"network_name": "no_such_network"}, "engine", "no_such_network not found"),
        ({"extra_container_spec": {"user": "no-such-user"}}, "failed", "unable to find user"),
        (
            {"cmd": ["no-such-command"], "spawner_class": DeafSpawner},
            "exited",
            "non-zero exit (127)",
        ),
        ({"volumes": {"/no/such": "/x"}}, "mount", "bind source path does not exist"),
        (
            # As hooks do.
            {
                "extra_container_spec": {
                    "mounts": [{"type": "bind", "source": "/no/such", "target": "/x"}]
                }
            },
            "mount",
            "bind source path does not exist",
        ),
        (
            {"volumes": {"no-{username}": "/x"}, "volume_driver_options": NO_DIRECTORY},
            "mount",
            "/no/such/ann",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_a_hopeless_start_fails_within_ten_seconds_and_leaves_nothing(
    make: Any, client: Flaky, options: dict[str, Any], reason: str, engines_words: str
) -> None:
    failure = fail(make(**{"volumes": {"{username}-failures": "/x"}, **options}))
    assert failure.reason == reason
    assert engines_words in failure.log_message
    assert engines_words not in failure.jupyterhub_message
    assert client.services() == []


@pytest.mark.every_engine
def test_a_notebook_that_ends_at_once_shows_its_last_lines_without_its_token(
    make: Any, client: Flaky
) -> None:
    script = "for i in $(seq 30); do echo line $i; done; echo $JUPYTERHUB_API_TOKEN $MY_KEY; exit 3"
    spawner = make(
        spawner_class=DeafSpawner,
        cmd=["sh", "-c", script],
        environment={"MY_KEY": "the-users-own-key"},
    )
    failure = fail(spawner)
    assert failure.reason == "exited"
    assert "exit code 3" in failure.jupyterhub_message
    assert failure.lines == (*(f"line {number}" for number in range(12, 31)), "[hidden] [hidden]")
    assert "line 30" in failure.log_message
    shown = failure.log_message + failure.jupyterhub_message + failure.jupyterhub_html_message
    assert TOKEN not in shown
    assert "the-users-own-key" not in shown
    assert client.services() == []


def test_a_notebook_that_does_not_answer_shows_its_last_lines(make: Any) -> None:
    failure = fail(make(spawner_class=DeafSpawner, http_timeout=2))
    assert failure.reason == "no_answer"
    assert failure.lines == ("listening on 8888",)


def test_a_log_that_does_not_come_delays_no_message(
    make: Any, client: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(client, "service_logs", lambda *_, **__: gate.wait(30), raising=False)
    begun_at = time.monotonic()
    with pytest.raises(SpawnException) as caught:
        asyncio.run(make(spawner_class=DeafSpawner, cmd=["sh", "-c", "exit 3"]).start())
    assert time.monotonic() - begun_at < SOON_S
    gate.set()
    assert caught.value.reason == "exited"
    assert caught.value.lines == ()


@pytest.fixture
def tiny_network(engine: Lab, client: Flaky, small_image: str) -> Iterator[str]:
    """A network for 5 addresses, all of which are used."""
    name = "spawnertest_tiny"
    pool = IPAMConfig(pool_configs=[IPAMPool(subnet="10.77.0.0/29")])
    made = engine.client.networks.create(name, driver="overlay", scope="swarm", ipam=pool)
    service_id = client.create_service(
        task_template=TaskTemplate(
            ContainerSpec(small_image, args=["sleep", "600"]), networks=[name]
        ),
        name="crowd",
        mode=ServiceMode("replicated", 4),
        endpoint_spec=EndpointSpec(mode="dnsrr"),
    )["ID"]

    def are_running() -> bool:
        states = [task["Status"]["State"] for task in list_tasks(client, service_id)]
        return len(states) == 4 and set(states) == {"running"}

    wait_until(are_running, 60)
    yield name
    for service in client.services():
        client.remove_service(service["ID"])
    wait_until(lambda: not client.tasks(), 60)
    made.remove()


def test_a_full_network_is_told_from_its_use(
    make: Any, client: Flaky, engine: Lab, tiny_network: str
) -> None:
    failure = fail(make(network_name=tiny_network))
    assert failure.reason == "no_address"
    assert "no address left" in failure.jupyterhub_message
    assert "5 of 5 addresses" in failure.log_message
    assert the_service(client)["Spec"]["Name"] == "crowd"


class Forger(Flaky):
    """An engine that says of the newest task what a test wants it to."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.forge: Any = lambda task: None

    def tasks(self, filters: Any = None) -> Any:
        listed = self._client.tasks(filters)
        for task in listed:
            self.forge(task)
        return listed


@pytest.fixture
def forger(client: Flaky, monkeypatch: pytest.MonkeyPatch) -> Forger:
    forger = Forger(client._client)
    monkeypatch.setattr("jhswarmd.spawner.service.ServiceSpawner._engine_client", forger)
    return forger


@pytest.mark.parametrize(
    ("times", "succeeds", "volumes"),
    [(3, True, {}), (4, False, {}), (1, True, {f"{STACK}-user-{{username}}": "/home/jovyan"})],
)
def test_a_node_that_does_not_know_the_network_yet_is_tried_three_times_more(
    make: Any,
    client: Flaky,
    forger: Forger,
    engine: Lab,
    times: int,
    succeeds: bool,
    volumes: dict[str, str],
) -> None:
    # Real rejections need a second node, and luck.
    seen: list[str] = []

    def reject(task: dict[str, Any]) -> None:
        if not task.get("NodeID"):
            return
        if task["ServiceID"] not in seen:
            seen.append(task["ServiceID"])
        if seen.index(task["ServiceID"]) < times:
            task["Status"] = {
                "State": "rejected",
                "Err": "network spawnertest_notebooks not found",
                # It got as far as to make the container, and with it the volume.
                "ContainerStatus": {"ContainerID": "c1"} if volumes else {},
            }

    forger.forge = reject
    spawner = make(volumes=volumes)
    if succeeds:
        asyncio.run(spawner.start())
        (service,) = client.services()
        assert spawner.object_id == service["ID"]
        # The next try goes to where the volume is by now.
        placement = service["Spec"]["TaskTemplate"].get("Placement") or {}
        (node,) = engine.client.nodes.list()
        assert placement.get("Constraints", []) == ([f"node.id == {node.id}"] if volumes else [])
    else:
        with pytest.raises(SpawnException) as caught:
            asyncio.run(start_and_clean_up(spawner))
        assert caught.value.reason == "network_missing"
        assert client.services() == []
    assert len(seen) == min(times + 1, 4)


def test_that_the_node_of_the_files_is_lost_before_the_notebook_runs_is_told(
    make: Any, forger: Forger, monkeypatch: pytest.MonkeyPatch, engine: Lab, user: User
) -> None:
    # From a node that holds no files a start moves on: tests/cluster.
    (node,) = engine.client.nodes.list()
    volume_nodes.remember(user.db, f"{STACK}-user-ann", VolumeNode(node.id, "it"))

    def stay(task: dict[str, Any]) -> None:
        if task.get("NodeID"):
            task["Status"]["State"] = "preparing"

    def inspect_node(node_id: str) -> Any:
        return {**forger._client.inspect_node(node_id), "Status": {"State": "down"}}

    forger.forge = stay
    monkeypatch.setattr(forger, "inspect_node", inspect_node, raising=False)
    failure = fail(make())
    assert failure.reason == "node_down"
    assert "is down" in failure.jupyterhub_message


def test_a_start_that_takes_too_long_says_where_it_stands_before_the_hub_gives_up(
    make: Any, forger: Forger
) -> None:
    def stay(task: dict[str, Any]) -> None:
        if task.get("NodeID"):
            task["Status"]["State"] = "preparing"

    forger.forge = stay
    spawner = make(start_timeout=4)

    async def start() -> None:
        await asyncio.wait_for(spawner.start(), spawner.start_timeout)

    with pytest.raises(SpawnException) as caught:
        asyncio.run(start())
    assert caught.value.reason == "timeout"
    assert "is still pulling" in caught.value.jupyterhub_message


def test_an_engine_that_does_not_answer_says_so_before_the_hub_gives_up(
    make: Any, client: Flaky
) -> None:
    client.gate.clear()
    spawner = make(start_timeout=2)

    async def start() -> None:
        await asyncio.wait_for(spawner.start(), spawner.start_timeout)

    with pytest.raises(SpawnException) as caught:
        asyncio.run(start())
    assert caught.value.reason == "timeout"
    assert "did not answer in time" in caught.value.jupyterhub_message
    client.gate.set()


def test_the_way_to_a_running_notebook_is_shown_with_node_and_seconds(
    make: Any, forger: Forger, engine: Lab
) -> None:
    # The image is pulled for six seconds.
    begun_at = time.monotonic()

    def pull(task: dict[str, Any]) -> None:
        if task.get("NodeID") and time.monotonic() - begun_at < 6:
            task["Status"]["State"] = "preparing"

    forger.forge = pull
    spawner = make(volumes={})

    async def start_and_read() -> list[dict[str, Any]]:
        starting = asyncio.ensure_future(spawner.start())
        events = [event async for event in spawner.progress()]
        await starting
        return events

    events = asyncio.run(start_and_read())
    (node,) = engine.client.nodes.list()
    name = node.attrs["Description"]["Hostname"]
    messages = [event["message"] for event in events]
    assert "Waiting for a node" in messages
    assert f"Preparing on {name}" in messages
    assert f"Preparing on {name}, which pulls {spawner.image} if it has not got it yet (5 s)" in (
        messages
    )
    percents = [event["progress"] for event in events]
    assert percents == sorted(percents)
