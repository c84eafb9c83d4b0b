"""Fixtures of the tests that talk to a real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from docker.errors import APIError, NotFound
from docker.models.services import Service

from tests.kit import registry_kit, spawner_kit
from tests.kit.lab import Lab, Services
from tests.kit.wait import wait_until

CreateService = Callable[..., Service]

# Of the tests of the spawner, which are spread over several files.
network = spawner_kit.network
client = spawner_kit.client
user = spawner_kit.user
make = spawner_kit.make

running_registry = registry_kit.running_registry
registry = registry_kit.registry
make_for = spawner_kit.make_for


@pytest.fixture(autouse=True)
def _is_up(request: pytest.FixtureRequest) -> None:
    """A destructive test begins with a stack that is up, whatever the one before has left."""
    if request.node.get_closest_marker("destructive"):
        request.getfixturevalue("stack").up()


@pytest.fixture
def create_service(engine: Lab) -> Iterator[CreateService]:
    """Create services that are removed after the test, and after the report of its failure."""
    made: list[Service] = []

    def create(image: str, **kw: Any) -> Service:
        service = Services(client=engine.client).create(image, **kw)
        made.append(service)
        return service

    yield create
    for service in made:
        try:
            service.remove()
        except NotFound:
            continue

        def gone(service_id: str = service.id) -> bool:
            return not engine.client.api.containers(
                filters={"label": f"com.docker.swarm.service.id={service_id}"}
            )

        wait_until(gone, 30, ignoring=(APIError, requests.RequestException))
