"""What the tests of the spawner against a real engine share.

The hub around the spawner is in memory; only its user is made up.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import docker
import pytest
import requests
from docker.models.containers import Container
from jupyterhub import orm
from jupyterhub.objects import Hub, Server
from jupyterhub.user import User
from traitlets.config import Config

from jhswarmd import labels
from jhswarmd.spawner import swarm
from jhswarmd.spawner.service import ServiceSpawner
from tests.kit.lab import Lab
from tests.kit.wait import wait_until

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

    def __setattr__(self, name: str, value: Any) -> None:
        # The logins of registries are the client's own.
        super().__setattr__(name, value)
        if name == "_auth_configs":
            self._client._auth_configs = value

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
        # A start that failed may still be removing its own.
        with contextlib.suppress(docker.errors.NotFound):
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
        return spawner_of(user, small_image, state, **options)

    return make_spawner


@pytest.fixture
def make_for(user: User, client: Flaky, small_image: str) -> Any:
    """Make a spawner as ``make`` does, of a user with any name."""

    def make_spawner(name: str, server: str = "", **options: Any) -> swarm.SwarmSpawner:
        row = orm.User.find(user.db, name) or orm.User(name=name)
        user.db.add(row)
        user.db.commit()
        return spawner_of(User(row, {}), small_image, server=server, **options)

    return make_spawner


def spawner_of(
    user: User,
    small_image: str,
    state: dict[str, Any] | None = None,
    /,
    *,
    server: str = "",
    **options: Any,
) -> swarm.SwarmSpawner:
    """Return a spawner as the hub makes it; ``options`` as in ``c.SwarmSpawner``."""
    config = Config()
    config.DockerSpawner.image = small_image
    config.DockerSpawner.network_name = NETWORK
    config.SwarmSpawner.stack = STACK
    config.SwarmSpawner.hub_id = HUB_ID
    config.SwarmSpawner.volumes = {f"{STACK}-user-{{username}}": "/home/jovyan"}
    if server not in user.orm_spawners:
        user._new_orm_spawner(server, server)
    defaults = {"spawner_class": Spawner, "cmd": ["small-server"], "start_timeout": 60}
    spawner = user._new_spawner(
        server, config=config, hub=Hub(), oauth_client_id="mock", **{**defaults, **options}
    )
    row = orm.Server(base_url=f"/user/{user.name}/")
    user.db.add(row)
    user.db.commit()
    spawner.server = Server(orm_server=row)
    spawner.api_token = TOKEN
    spawner.load_state(state or {})
    return spawner


def the_service(client: Flaky) -> dict[str, Any]:
    (service,) = client.services()
    return dict(service)


def the_container(engine: Lab, spawner: swarm.SwarmSpawner) -> Container:
    label = f"{labels.SPAWN}={spawner.spawn_id}"
    (container,) = engine.client.containers.list(filters={"label": label})
    return container


def list_tasks(client: Flaky, service_id: str) -> list[dict[str, Any]]:
    return [task for task in client.tasks() if task["ServiceID"] == service_id]


async def start_and_clean_up(spawner: swarm.SwarmSpawner) -> None:
    """Start as the hub does, which calls ``stop`` after a start that failed."""
    try:
        await spawner.start()
    except BaseException:
        assert await spawner.poll() is None
        await spawner.stop()
        raise


@contextlib.contextmanager
def drained(engine: Lab) -> Iterator[None]:
    """The only node takes no tasks, and ends those it has."""
    (node,) = engine.client.nodes.list()

    def make_it(availability: str) -> None:
        node.reload()
        node.update({**node.attrs["Spec"], "Availability": availability})

    make_it("drain")
    try:
        yield
    finally:
        make_it("active")
