"""A swarm of several nodes instead of the lab, for each file of these tests.

A file says how many in ``NODES``. All else that the tests of the spawner share works as on one
engine: ``engine`` is the first manager.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine import conftest as engine_conftest
from tests.kit import spawner_kit
from tests.kit.cluster_lab import Cluster
from tests.kit.lab import SMALL_IMAGE, Lab, LabError

network = spawner_kit.network
client = spawner_kit.client
user = spawner_kit.user
make = spawner_kit.make
create_service = engine_conftest.create_service


@pytest.fixture(scope="module")
def engine(engine: Lab, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The first manager of a new swarm; the lab gives its small image."""
    cluster = Cluster(engine, **request.module.NODES)
    try:
        cluster.start()
    except LabError as exc:
        pytest.fail(f"no cluster: {exc}", pytrace=False)
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(engine: Cluster) -> Cluster:
    """The same, by the name that says what it is."""
    return engine


@pytest.fixture(scope="module")
def small_image() -> str:
    return SMALL_IMAGE
