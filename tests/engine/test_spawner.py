"""The spawner against a real engine. The hub around it is in memory; only its user is made up."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any
from unittest.mock import Mock

import docker
import pytest
import requests
from docker.models.containers import Container
from docker.types import ContainerSpec, EndpointSpec, TaskTemplate
from jupyterhub import orm
from jupyterhub.objects import Hub, Server
from jupyterhub.spawner import SpawnException
from jupyterhub.user import User
from traitlets.config import Config

from jhswarmd import labels
from jhswarmd.spawner import swarm
from jhswarmd.spawner.base import ServiceSpawner
from tests.lab import Lab
from tests.wait import wait_until

STACK = "spawnertest"
NETWORK = f"{STACK}_notebooks"
HUB_ID = "a" * 32
TOKEN = "not-a-real-token"


class Spawner(swarm.SwarmSpawner):
    """The spawner; this process is not on the overlay network, so it takes 'running' for 'answers'.

    Starting and stopping with a hub that is on the network: tests/browser.
    """

    async def _is_listening(self, ip: str, port: int) -> bool:
        return True


class DeafSpawner(swarm.SwarmSpawner):
    """The spawner, of a notebook that runs and does not answer."""

    async def _is_listening(self, ip: str, port: int) -> bool:
        return False


class Flaky:
    """An engine client whose next answers can be lost, delayed or replaced by failures."""

    def __init__(self, client: docker.APIClient) -> None:
        self._client = client
        self.lose_answers = 0
        self.gate = threading.Event()
        self.gate.set()
        self.has_created = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_service(self, **request: Any) -> Any:
        created = self._client.create_service(**request)
        self.has_created.set()
        self.gate.wait(30)
        if self.lose_answers:
            self.lose_answers -= 1
            raise requests.exceptions.ReadTimeout("the answer was lost")
        return created


@pytest.fixture(scope="module")
def network(engine: Lab) -> Iterator[str]:
    made = engine.client.networks.create(NETWORK, driver="overlay", scope="swarm")
    yield NETWORK
    # Once here is quicker than after each test: the engine takes its time to end a task.
    wait_until(lambda: not engine.client.api.tasks(), 30)
    made.remove()


@pytest.fixture
def client(engine: Lab, network: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    flaky = Flaky(docker.APIClient(base_url=engine.base_url, version="auto", timeout=5))
    monkeypatch.setattr(ServiceSpawner, "_engine_client", flaky)
    yield flaky
    flaky.gate.set()
    for service in engine.client.services.list():
        service.remove()
    flaky.close()


@pytest.fixture
def user() -> Iterator[User]:
    session = orm.new_session_factory("sqlite:///:memory:")()
    session.add(orm.User(name="ann"))
    session.commit()
    yield User(session.query(orm.User).one(), {})
    session.close()


@pytest.fixture
def make(user: User, client: Flaky, small_image: str) -> Any:
    def make_spawner(state: dict[str, Any] | None = None, **options: Any) -> swarm.SwarmSpawner:
        config = Config()
        config.DockerSpawner.image = small_image
        config.DockerSpawner.network_name = NETWORK
        config.SwarmSpawner.stack = STACK
        config.SwarmSpawner.hub_id = HUB_ID
        config.SwarmSpawner.volumes = {f"{STACK}-user-{{username}}": "/home/jovyan"}
        defaults = {"spawner_class": Spawner, "cmd": ["small-server"], "start_timeout": 60}
        spawner = user._new_spawner(
            "", config=config, hub=Hub(), oauth_client_id="mock", **{**defaults, **options}
        )
        row = orm.Server(base_url="/user/ann/")
        user.db.add(row)
        user.db.commit()
        spawner.server = Server(orm_server=row)
        spawner.api_token = TOKEN
        spawner.load_state(state or {})
        return spawner

    return make_spawner


def the_service(client: Flaky) -> dict[str, Any]:
    (service,) = client.services()
    return dict(service)


def the_container(engine: Lab, spawner: swarm.SwarmSpawner) -> Container:
    label = f"{labels.SPAWN}={spawner.spawn_id}"
    (container,) = engine.client.containers.list(filters={"label": label})
    return container


def list_tasks(client: Flaky, service_id: str) -> list[dict[str, Any]]:
    return [task for task in client.tasks() if task["ServiceID"] == service_id]


@contextlib.contextmanager
def silent(engine: Lab) -> Iterator[None]:
    """The engine answers nothing; it may have some answers left when it is told to pause."""
    client = docker.APIClient(base_url=engine.base_url, version="1.41", timeout=1)

    def is_silent() -> bool:
        try:
            client.ping()
        except requests.exceptions.RequestException:
            return True
        return False

    with engine.paused():
        wait_until(is_silent, 20)
        yield
    client.close()


def create_by_hand(client: Flaky, name: str, image: str, service_labels: dict[str, str]) -> str:
    """Create a running service as somebody else would; return its id."""
    template = TaskTemplate(ContainerSpec(image=image), networks=[NETWORK])
    created = client.create_service(
        task_template=template,
        name=name,
        labels=service_labels,
        endpoint_spec=EndpointSpec(mode="dnsrr"),
    )
    return str(created["ID"])


# ---- start and stop -----------------------------------------------------------------------------


def test_a_server_starts_lives_and_stops_five_times_in_a_row(make: Any, client: Flaky) -> None:
    spawner = make()

    async def rounds() -> None:
        addresses = set()
        for _ in range(5):
            ip, port = await spawner.start()
            service_id = spawner.object_id
            addresses.add(ip)
            assert port == 8888
            assert await spawner.poll() is None
            await spawner.stop()
            assert await spawner.poll() == 0
            assert list_tasks(client, service_id) == []
        assert all(ip_address(ip) in ip_network("10.0.0.0/8") for ip in addresses)

    asyncio.run(rounds())


def test_the_address_is_the_containers_own(make: Any, engine: Lab) -> None:
    spawner = make()
    ip, _ = asyncio.run(spawner.start())
    attached = the_container(engine, spawner).attrs["NetworkSettings"]["Networks"][NETWORK]
    assert ip == attached["IPAMConfig"]["IPv4Address"]


def test_service_and_container_say_whose_they_are(make: Any, client: Flaky, engine: Lab) -> None:
    spawner = make()
    asyncio.run(spawner.start())
    wanted = labels.notebook_labels(
        stack=STACK, hub_id=HUB_ID, user="ann", server="", spawn_id=spawner.spawn_id
    )
    assert the_service(client)["Spec"]["Labels"] == wanted
    assert wanted.items() <= the_container(engine, spawner).labels.items()


def test_the_service_is_made_to_keep_a_notebook_safe(make: Any, client: Flaky) -> None:
    asyncio.run(make().start())
    spec = the_service(client)["Spec"]
    template = spec["TaskTemplate"]
    assert template["RestartPolicy"]["Condition"] == "none"
    assert spec["EndpointSpec"]["Mode"] == "dnsrr"
    assert template["ContainerSpec"]["Init"] is True
    assert template["ContainerSpec"]["Healthcheck"]["Test"] == ["NONE"]


def test_the_home_is_a_labelled_volume_that_outlives_the_server(
    make: Any, client: Flaky, engine: Lab
) -> None:
    spawner = make()

    async def start_and_stop() -> None:
        await spawner.start()
        (mount,) = the_service(client)["Spec"]["TaskTemplate"]["ContainerSpec"]["Mounts"]
        assert (mount["Type"], mount["Target"]) == ("volume", "/home/jovyan")
        await spawner.stop()

    asyncio.run(start_and_stop())
    volume = engine.client.volumes.get(f"{STACK}-user-ann")
    assert volume.attrs["Labels"] == {labels.STACK: STACK, labels.USER: "ann"}


def test_the_token_is_in_no_label(make: Any, client: Flaky) -> None:
    asyncio.run(make().start())
    spec = the_service(client)["Spec"]
    held = {**spec["Labels"], **spec["TaskTemplate"]["ContainerSpec"]["Labels"]}
    assert TOKEN not in repr(held)


def test_options_of_the_site_are_merged_and_cannot_unmake_ownership(
    make: Any, client: Flaky
) -> None:
    spawner = make(
        extra_container_spec={"hostname": "box", "labels": {labels.USER: "eve", "site": "x"}},
        extra_placement_spec={"constraints": ["node.role == manager"]},
        extra_create_kwargs={"labels": {labels.HUB: "other", "site": "x"}},
        mem_limit="64M",
        cpu_limit=0.5,
    )
    asyncio.run(spawner.start())
    spec = the_service(client)["Spec"]
    template = spec["TaskTemplate"]
    assert spec["Labels"][labels.HUB] == HUB_ID
    assert spec["Labels"]["site"] == "x"
    assert template["ContainerSpec"]["Labels"][labels.USER] == "ann"
    assert template["ContainerSpec"]["Hostname"] == "box"
    assert template["Placement"]["Constraints"] == ["node.role == manager"]
    assert template["Resources"]["Limits"] == {"MemoryBytes": 64 * 1024**2, "NanoCPUs": 500_000_000}


def test_stopping_what_is_gone_already_succeeds(make: Any, client: Flaky) -> None:
    spawner = make()

    async def lose_and_stop() -> None:
        await spawner.start()
        client.remove_service(spawner.object_id)
        await spawner.stop()

    asyncio.run(lose_and_stop())
    assert client.services() == []


def test_progress_tells_every_reader_the_way_to_a_running_notebook(make: Any) -> None:
    spawner = make()

    async def read() -> list[dict[str, Any]]:
        return [event async for event in spawner.progress()]

    async def start_and_read() -> list[list[dict[str, Any]]]:
        readers = [asyncio.ensure_future(read()) for _ in range(2)]
        await spawner.start()
        return await asyncio.gather(*readers)

    first, second = asyncio.run(start_and_read())
    assert first == second
    assert "Waiting for a node" in first[0]["message"]
    assert "waiting for the notebook to answer" in first[-1]["message"]


# ---- alive or gone ------------------------------------------------------------------------------


def test_a_server_is_known_again_after_a_restart_of_the_hub(make: Any) -> None:
    spawner = make()
    asyncio.run(spawner.start())
    again = make(spawner.get_state())
    assert asyncio.run(again.poll()) is None
    asyncio.run(again.stop())
    assert asyncio.run(spawner.poll()) == 0


def test_a_server_that_the_older_spawner_started_is_polled_and_stopped(
    make: Any, client: Flaky, small_image: str
) -> None:
    service_id = create_by_hand(client, "jupyter-ann", small_image, {})
    spawner = make({"container_id": service_id})

    async def poll_and_stop() -> None:
        assert await spawner.poll() is None
        await spawner.stop()

    asyncio.run(poll_and_stop())
    assert list_tasks(client, service_id) == []


def test_a_notebook_that_ended_is_not_started_again_and_tells_its_exit_code(
    make: Any, engine: Lab
) -> None:
    spawner = make()

    async def end() -> object:
        await spawner.start()
        the_container(engine, spawner).kill()
        while (status := await spawner.poll()) is None:
            await asyncio.sleep(0.05)
        return status

    assert asyncio.run(end()) == 137


def test_an_ended_notebooks_service_goes_although_the_hub_calls_no_stop(
    make: Any, client: Flaky, engine: Lab
) -> None:
    spawner = make()

    async def end() -> None:
        await spawner.start()
        the_container(engine, spawner).kill()
        while await spawner.poll() is None:
            await asyncio.sleep(0.05)
        await spawner.run_post_stop_hook()

    asyncio.run(end())
    assert client.services() == []


def test_a_silent_engine_makes_nobody_forget_a_notebook(
    make: Any, engine: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swarm, "LOOK_WITHIN_S", 1.0)
    spawner = make()
    asyncio.run(spawner.start())
    with silent(engine):
        assert asyncio.run(spawner.poll()) is None
    assert asyncio.run(spawner.poll()) is None


def test_an_engine_that_refuses_to_answer_makes_nobody_forget_a_notebook(
    make: Any, client: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner = make()
    asyncio.run(spawner.start())
    response = requests.Response()
    response.status_code = 503
    refusal = docker.errors.APIError("x", response, "This node is not a swarm manager.")
    monkeypatch.setattr(client, "tasks", Mock(side_effect=refusal), raising=False)
    assert asyncio.run(spawner.poll()) is None


def test_a_hub_that_starts_in_an_outage_waits_for_a_definite_answer(
    make: Any, engine: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swarm, "LOOK_WITHIN_S", 0.2)
    spawner = make()
    asyncio.run(spawner.start())

    async def poll_through_an_outage() -> object:
        again = make(spawner.get_state())
        again._check_pending = True
        again.server.ip, again.server.port = "127.0.0.1", 1
        with silent(engine):
            polling = asyncio.ensure_future(again.poll())
            # Longer than one poll insists, and than the notebook is given to answer.
            done, _ = await asyncio.wait([polling], timeout=8)
            assert not done
        return await polling

    assert asyncio.run(poll_through_an_outage()) is None


# ---- answers that were lost ---------------------------------------------------------------------


def test_a_create_whose_answer_was_lost_is_recognised(make: Any, client: Flaky) -> None:
    client.lose_answers = 1
    spawner = make()
    asyncio.run(spawner.start())
    assert the_service(client)["ID"] == spawner.object_id


def test_a_left_over_of_the_same_server_is_replaced(make: Any, client: Flaky) -> None:
    before = make()
    asyncio.run(before.start())
    after = make()
    asyncio.run(after.start())
    assert the_service(client)["ID"] == after.object_id != before.object_id


@pytest.mark.parametrize(
    "claim",
    [{}, {labels.HUB: "b" * 32}, {labels.USER: "eve"}],
    ids=["without labels", "of another hub", "of another user"],
)
def test_a_foreign_service_of_the_same_name_is_named_and_left_alone(
    make: Any, client: Flaky, small_image: str, claim: dict[str, str]
) -> None:
    mine = labels.notebook_labels(
        stack=STACK, hub_id=HUB_ID, user="ann", server="", spawn_id="c" * 32
    )
    foreign = create_by_hand(client, "jupyter-ann", small_image, {**mine, **claim} if claim else {})
    spawner = make()
    with pytest.raises(SpawnException) as caught:
        asyncio.run(start_and_clean_up(spawner))
    assert caught.value.reason == "name_taken"
    assert foreign in caught.value.log_message
    assert the_service(client)["ID"] == foreign


# ---- starts that fail ---------------------------------------------------------------------------


async def start_and_clean_up(spawner: swarm.SwarmSpawner) -> None:
    """Start as the hub does, which calls ``stop`` after a start that failed."""
    try:
        await spawner.start()
    except BaseException:
        assert await spawner.poll() is None
        await spawner.stop()
        raise


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"image": "localhost:1/no/such:1"}, "image_not_found"),
        ({"cmd": ["sh", "-c", "exit 3"]}, "exited"),
        ({"extra_placement_spec": {"constraints": ["node.labels.x == y"]}}, "no_node"),
        ({"mem_guarantee": "1000T"}, "no_node"),
        ({"network_name": "no_such_network"}, "engine"),
        ({"extra_container_spec": {"user": "nobody-of-this-name"}}, "failed"),
    ],
)
def test_a_hopeless_start_fails_within_ten_seconds_and_leaves_nothing(
    make: Any, client: Flaky, options: dict[str, Any], reason: str
) -> None:
    if reason == "exited":
        # The container runs for a moment.
        options = {**options, "spawner_class": DeafSpawner}
    spawner = make(**options)
    begun_at = time.monotonic()
    with pytest.raises(SpawnException) as caught:
        asyncio.run(start_and_clean_up(spawner))
    assert time.monotonic() - begun_at < 10
    assert caught.value.reason == reason
    assert client.services() == []


def test_a_cancelled_start_removes_what_it_created(make: Any, client: Flaky) -> None:
    spawner = make(extra_placement_spec={"constraints": ["node.labels.x == y"]})

    async def cancel() -> None:
        starting = asyncio.ensure_future(start_and_clean_up(spawner))
        while not spawner.object_id:
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    asyncio.run(cancel())
    assert client.services() == []


def test_a_start_cancelled_while_its_request_is_on_its_way_leaves_nothing(
    make: Any, client: Flaky
) -> None:
    spawner = make()
    client.gate.clear()

    async def cancel() -> None:
        starting = asyncio.ensure_future(spawner.start())
        while not client.has_created.is_set():
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        client.gate.set()
        await spawner.stop()

    asyncio.run(cancel())
    assert client.services() == []


def test_a_start_cancelled_before_its_lost_answer_leaves_nothing(make: Any, client: Flaky) -> None:
    spawner = make()
    client.gate.clear()
    client.lose_answers = 1

    async def cancel() -> None:
        starting = asyncio.ensure_future(spawner.start())
        while not client.has_created.is_set():
            await asyncio.sleep(0.01)
        starting.cancel()
        client.gate.set()
        await asyncio.gather(starting, return_exceptions=True)
        await spawner.stop()

    asyncio.run(cancel())
    assert client.services() == []


def test_a_start_that_took_too_long_is_cleaned_up_before_the_next(make: Any, client: Flaky) -> None:
    spawner = make(extra_placement_spec={"constraints": ["node.labels.x == y"]})

    async def time_out_and_start_again() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(spawner.start(), 1)
        spawner.extra_placement_spec = {}
        await spawner.start()

    asyncio.run(time_out_and_start_again())
    assert the_service(client)["ID"] == spawner.object_id


def test_a_slow_call_of_one_user_delays_nobody_else(make: Any, client: Flaky) -> None:
    slow, quick = make(), make(name_template="other")
    client.gate.clear()

    async def start_both() -> None:
        starting = asyncio.ensure_future(slow.start())
        while not client.has_created.is_set():
            await asyncio.sleep(0.01)
        original, client.create_service = client.create_service, client._client.create_service
        try:
            await asyncio.wait_for(quick.start(), 20)
            assert not starting.done()
        finally:
            client.create_service = original
            client.gate.set()
        await starting

    asyncio.run(start_both())
