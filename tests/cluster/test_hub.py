"""A real hub on a manager, and what its user sees when the worker with their notebook is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker.models.containers import Container

from tests.engine import test_spawner_hub as hub_kit
from tests.engine.test_spawner_hub import HubProcess, start
from tests.kit.cluster_lab import Cluster
from tests.kit.lab import Lab
from tests.kit.wait import wait_until

NODES = {"managers": 1, "workers": 1}
FILE = "/home/jovyan/kept"

network = hub_kit.network
hub = hub_kit.hub


@pytest.fixture
def impatient(hub: HubProcess) -> Iterator[HubProcess]:
    """The hub looks at its servers more often than every 30 s."""
    hub.kill()
    (hub.config_dir / "conf.d" / "poll.py").write_text("c.Spawner.poll_interval = 2\n")
    hub.start()
    yield hub
    hub.call("DELETE", "/users/ann/server")
    wait_until(hub.is_stopped, 60)


def notebook(lab: Lab) -> Container:
    (container,) = lab.client.containers.list(filters={"label": "jhswarmd.user=ann"})
    return container


def test_a_user_learns_that_a_node_is_down_and_finds_the_files_when_it_is_back(
    impatient: HubProcess, cluster: Cluster
) -> None:
    hub, (worker,) = impatient, cluster.others
    cluster.update(cluster, Availability="pause")
    start(hub)
    cluster.update(cluster, Availability="active")
    assert notebook(worker).exec_run(["touch", FILE]).exit_code == 0
    with cluster.lost(worker):
        wait_until(hub.is_stopped, 60)
        assert f"its node {worker.name} is down" in hub.log.read_text()
        assert cluster.client.services.list() == []
        words = f"Your files are on node {worker.name}, which is down at the moment"
        # The first page tells of a start that is pending; the next one how that start ended.
        hub.browse("/hub/spawn/ann")
        wait_until(lambda: words in hub.browse("/hub/spawn-pending/ann")[1], 60, what=words)
        assert cluster.client.services.list() == []
    start(hub)
    assert notebook(worker).exec_run(["test", "-e", FILE]).exit_code == 0
