"""Images on a manager and a worker: who cannot pull is named, who is lost is not waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable

import docker
import pytest

from jhswarmd.engine.client import Engine
from jhswarmd.reconcile.image_pulls import ImagePulls
from tests.kit.cluster_lab import Cluster
from tests.kit.lab import SMALL_IMAGE, Lab

NODES = {"managers": 1, "workers": 1}
#: No registry has it: only a node that holds it can run it.
ON_MANAGER = "localhost:1/on/manager:1"


@pytest.fixture
def worker(cluster: Cluster) -> Lab:
    return cluster.others[0]


@pytest.fixture
def make(cluster: Cluster) -> Callable[..., ImagePulls]:
    def make_prepull(*images: str) -> ImagePulls:
        engine = Engine(docker.DockerClient(base_url=cluster.base_url, version="auto", timeout=30))
        return ImagePulls(engine, "prepulltest", images, (), lambda: True, threading.Event())

    return make_prepull


def test_the_node_that_cannot_pull_is_named_and_no_other(
    make: Callable[..., ImagePulls], cluster: Cluster, worker: Lab
) -> None:
    cluster.client.images.get(SMALL_IMAGE).tag(ON_MANAGER)
    reconciler = make(SMALL_IMAGE, ON_MANAGER)
    reconciler.reconcile()
    (failed,) = reconciler.view["failed"]
    assert (failed["node"], failed["image"]) == (worker.name, ON_MANAGER)
    assert f"No such image: {ON_MANAGER}" in failed["why"]
    assert reconciler.view["nodes"] == 2


def test_a_lost_node_is_waited_for_until_that_is_known_and_due_when_it_is_back(
    make: Callable[..., ImagePulls], cluster: Cluster, worker: Lab
) -> None:
    reconciler = make(SMALL_IMAGE)
    with cluster.lost(worker, is_known=False):
        reconciler.reconcile()
        assert cluster.node(worker).attrs["Status"]["State"] == "down"
        assert (reconciler.view["nodes"], reconciler.view["failed"]) == (1, [])
    reconciler.reconcile()
    assert (reconciler.view["nodes"], reconciler.view["failed"]) == (2, [])
