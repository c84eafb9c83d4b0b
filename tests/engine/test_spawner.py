"""The spawner against a real engine. The hub around it is in memory; only its user is made up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import docker
import pytest
import requests
from jupyterhub import orm
from jupyterhub.objects import Hub, Server
from jupyterhub.spawner import SpawnException
from jupyterhub.user import User
from traitlets.config import Config

from jhswarmd import labels
from jhswarmd.spawner import swarm
from tests.lab import Lab
from tests.wait import wait_until

STACK = "spawnertest"
NETWORK = f"{STACK}_notebooks"
HUB_ID = "a" * 32


class Spawner(swarm.SwarmSpawner):
    """The spawner; this process is not on the overlay network, so it takes 'running' for 'answers'.

    Starting and stopping with a hub that is on the network: tests/browser.
    """

    async def _is_listening(self, ip: str, port: int) -> bool:
        return True


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
    made.remove()


@pytest.fixture
def client(engine: Lab, network: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    flaky = Flaky(docker.APIClient(base_url=engine.base_url, version="auto", timeout=5))
    monkeypatch.setattr(swarm.SwarmSpawner, "_engine_client", flaky)
    yield flaky
    flaky.gate.set()
    for service in engine.client.services.list():
        service.remove()
    wait_until(lambda: not engine.client.api.tasks(), 30)
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
    def make_spawner(state: dict[str, Any] | None = None, **options: Any) -> Spawner:
        config = Config()
        config.DockerSpawner.image = small_image
        config.DockerSpawner.network_name = NETWORK
        config.SwarmSpawner.stack = STACK
        config.SwarmSpawner.hub_id = HUB_ID
        config.SwarmSpawner.volumes = {f"{STACK}-user-{{username}}": "/home/jovyan"}
        spawner = user._new_spawner(
            "",
            spawner_class=Spawner,
            config=config,
            hub=Hub(),
            oauth_client_id="mock",
            cmd=["small-server"],
            start_timeout=60,
            **options,
        )
        row = orm.Server(base_url="/user/ann/")
        user.db.add(row)
        user.db.commit()
        spawner.server = Server(orm_server=row)
        spawner.api_token = "not-a-real-token"
        spawner.load_state(state or {})
        return spawner

    return make_spawner


def services(client: Flaky) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.services()
    return found


def test_a_server_starts_lives_and_stops_five_times_in_a_row(make: Any, client: Flaky) -> None:
    spawner = make()

    async def rounds() -> None:
        for _ in range(5):
            ip, port = await spawner.start()
            assert ip.startswith("10.")
            assert port == 8888
            assert await spawner.poll() is None
            await spawner.stop()
            assert await spawner.poll() == 0
            assert client.tasks() == []

    asyncio.run(rounds())
