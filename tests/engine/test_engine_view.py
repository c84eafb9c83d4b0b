"""The daemon's view of a real engine: secrets, specifications, placement, events."""

from __future__ import annotations

import secrets as random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.types import ContainerSpec, Placement, SecretReference, TaskTemplate

from jhswarmd import labels, retry
from jhswarmd.credentials import generations, secret_mounts
from jhswarmd.daemon.run import Daemon
from jhswarmd.engine.client import Engine
from jhswarmd.errors import EngineConflict, EngineError, EngineUnavailable
from jhswarmd.settings.settings import Settings
from tests.engine.conftest import CreateService
from tests.kit.engine_proxy import Answer, Cut, CutBody, EngineProxy, Fault, Silence, Truncate
from tests.kit.fakes import FakeHub
from tests.kit.lab import Lab
from tests.kit.wait import wait_until


@pytest.fixture
def view(engine: Lab) -> Engine:
    return Engine(docker.DockerClient(engine.base_url, version="auto"))


def test_a_service_is_led_to_the_next_generation_and_loses_nothing(
    engine: Lab, view: Engine, small_image: str, create_service: CreateService
) -> None:
    stack = f"view-{random.token_hex(4)}"

    def create(number: int) -> None:
        marks = generations.version_labels(stack, "users", number, generations.GENERATED)
        view.create_secret(labels.secret_name(stack, "users", number), b"content", marks)

    create(1)
    with pytest.raises(EngineConflict):
        create(1)
    (first,) = view.list_secrets(stack)
    service = create_service(
        small_image,
        name=stack,
        labels={"a": "b"},
        secrets=[SecretReference(first.id, first.name, filename="users", mode=0o400)],
        endpoint_spec={"Mode": "dnsrr"},
        update_config={"Order": "stop-first", "Monitor": 1_000_000_000},
    )
    create(2)
    held = view.list_secrets(stack)
    newest = generations.newest(held, "users")
    assert newest
    before = engine.client.api.inspect_service(service.id)["Spec"]
    assert view.change_service(stack, lambda spec: secret_mounts.with_mounts(spec, held, newest))
    assert not view.change_service(
        stack, lambda spec: secret_mounts.with_mounts(spec, held, newest)
    )
    after = engine.client.api.inspect_service(service.id)["Spec"]
    (reference,) = after["TaskTemplate"]["ContainerSpec"]["Secrets"]
    (was,) = before["TaskTemplate"]["ContainerSpec"].pop("Secrets")
    assert reference == {**was, "SecretID": newest.secrets[0].id, "SecretName": f"{stack}_users_g2"}
    del after["TaskTemplate"]["ContainerSpec"]["Secrets"]
    assert after == before
    with pytest.raises(EngineError):
        view.remove_secret(newest.secrets[0].id)  # it is mounted
    view.remove_secret(first.id)
    service.remove()
    view.remove_secret(newest.secrets[0].id)


def test_a_change_that_meets_somebody_elses_is_made_to_what_that_one_left(
    engine: Lab, view: Engine, small_image: str, create_service: CreateService
) -> None:
    name = f"view-{random.token_hex(4)}"
    service = create_service(small_image, name=name, endpoint_spec={"Mode": "dnsrr"})
    seen: list[dict[str, str]] = []

    def add(spec: Mapping[str, Any], label: str) -> Mapping[str, Any]:
        return {**spec, "Labels": {**spec["Labels"], label: "1"}}

    def add_late(spec: Mapping[str, Any]) -> Mapping[str, Any]:
        seen.append(dict(spec["Labels"]))
        if len(seen) < 3:
            assert view.change_service(name, lambda newer: add(newer, f"theirs-{len(seen)}"))
        return add(spec, "ours")

    with pytest.raises(EngineUnavailable, match="out of sequence"):
        view.change_service(name, add_late)
    assert retry.blocking(10, threading.Event())(view.change_service, name, add_late)
    assert seen == [{}, {"theirs-1": "1"}, {"theirs-1": "1", "theirs-2": "1"}]
    service.reload()
    assert service.attrs["Spec"]["Labels"] == {"theirs-1": "1", "theirs-2": "1", "ours": "1"}


def test_the_node_of_a_service_is_not_that_of_one_whose_name_begins_alike(
    engine: Lab, view: Engine, small_image: str, create_service: CreateService
) -> None:
    name = f"view-{random.token_hex(4)}"
    create_service(small_image, name=f"{name}_hub2", endpoint_spec={"Mode": "dnsrr"})
    node = engine.client.info()["Swarm"]["NodeID"]
    wait_until(lambda: view.read_newest_task_node(f"{name}_hub2") == node, 30)
    assert view.read_newest_task_node(f"{name}_hub") is None


def test_a_burst_of_5000_foreign_events_costs_three_passes_at_most(
    engine: Lab, view: Engine, small_image: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub = FakeHub()
    daemon = Daemon(Settings(stack_name="jupyterhub"), view, hub)
    daemon.leader.refresh = lambda: True  # type: ignore[method-assign]
    daemon.leader.is_active = True
    looks: list[str] = []
    inspect = view.read_notebook
    view.read_notebook = lambda id_, stack: looks.append(id_) or inspect(id_, stack)  # type: ignore
    daemon.start()
    api = docker.APIClient(engine.base_url, version="auto", max_pool_size=16)
    try:
        wait_until(lambda: hub.calls.count("list_users") == 1, 30)
        nowhere = TaskTemplate(
            ContainerSpec(small_image), placement=Placement(constraints=["node.labels.x==y"])
        )

        def come_and_go(number: int) -> None:
            api.remove_service(api.create_service(nowhere, name=f"burst-{number}")["ID"])

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(come_and_go, range(2500)))
        # The daemon is at its ordinary work again: it looks at the next service by itself.
        last = api.create_service(nowhere, name="after-the-burst")["ID"]
        wait_until(lambda: not daemon.server_keys._is_burst, 30)
        api.remove_service(last)
        wait_until(lambda: last in looks, 30)
    finally:
        daemon.stop()
        api.close()
    assert hub.calls.count("list_users") - 1 <= 3


@pytest.fixture
def proxy(engine: Lab, tmp_path: Path) -> Iterator[EngineProxy]:
    with EngineProxy(engine.socket, tmp_path / "proxy.sock") as made:
        yield made


@pytest.fixture
def behind(proxy: EngineProxy) -> Engine:
    """A view of the engine through the proxy."""
    return Engine(docker.DockerClient(proxy.base_url, version="auto"))


def test_events_are_read_until_their_time_is_over(behind: Engine, engine: Lab) -> None:
    begun_s = time.time()
    seen = behind.events(begun_s, begun_s + 3)
    assert next(seen).type == "subscribed"
    volume = engine.client.volumes.create(f"view-{random.token_hex(4)}")
    volume.remove()
    assert [each.action for each in seen if each.type == "volume"] == ["create", "destroy"]
    assert time.time() - begun_s >= 2


def read_events(view: Engine, when_subscribed: Callable[[], object]) -> None:
    """Read events for a minute, which must fail long before."""

    def read() -> None:
        now_s = time.time()
        for event in view.events(now_s, now_s + 60):
            if event.type == "subscribed":
                when_subscribed()

    with pytest.raises(EngineUnavailable):
        read()


@pytest.mark.parametrize("fault", [CutBody(), CutBody(after_bytes=0), Answer(500), Answer(503)])
def test_a_stream_that_breaks_is_not_taken_for_one_that_ends(
    behind: Engine, proxy: EngineProxy, engine: Lab, fault: Fault
) -> None:
    proxy.add(fault, "GET", r"^/events")
    read_events(
        behind, lambda: engine.client.volumes.create(f"view-{random.token_hex(4)}").remove()
    )


def test_a_connection_that_closes_early_is_not_taken_for_an_ordinary_end(
    behind: Engine, proxy: EngineProxy
) -> None:
    read_events(behind, proxy.cut_streams)


def test_a_stream_that_is_silent_is_given_up(behind: Engine, proxy: EngineProxy) -> None:
    proxy.add(Silence(), "GET", r"^/events")
    now_s = time.time()
    with pytest.raises(EngineUnavailable):
        list(behind.events(now_s, now_s + 1))


@pytest.mark.parametrize("fault", [Truncate(), CutBody(), Answer(500), Answer(503), Cut()])
def test_half_a_listing_is_no_listing(
    behind: Engine,
    proxy: EngineProxy,
    fault: Fault,
    small_image: str,
    create_service: CreateService,
) -> None:
    marks = labels.notebook_labels(stack="view", hub_id="h", user="ann", server="", spawn_id="s")
    service = create_service(small_image, labels=marks, endpoint_spec={"Mode": "dnsrr"})
    (found,) = behind.list_notebooks("view")
    assert (found.id, found.user, found.server, found.hub_id) == (service.id, "ann", "", "h")
    with proxy.fault(fault, path=r"^/services\?"), pytest.raises(EngineUnavailable):
        behind.list_notebooks("view")


def test_a_daemon_is_found_at_its_address_on_the_network_that_is_asked_for(
    engine: Lab, view: Engine, small_image: str, create_service: CreateService
) -> None:
    name = f"view-{random.token_hex(4)}"
    network, other = (
        engine.client.networks.create(f"{name}-{which}", driver="overlay", scope="swarm")
        for which in ("control", "other")
    )
    node_id = view.read_node_id()
    try:
        service = create_service(
            small_image,
            name=name,
            networks=[other.name, network.name],
            endpoint_spec={"Mode": "dnsrr"},
        )
        address = wait_until(
            lambda: view.read_task_address(name, node_id, network.name), 60, what="the address"
        )
        task = next(task for task in service.tasks() if task["Status"]["State"] == "running")
        assert [f"{address}/24"] == next(
            each["Addresses"]
            for each in task["NetworksAttachments"]
            if each["Network"]["ID"] == network.id
        )
        assert view.read_task_address(name, node_id, "nosuch") is None
        service.remove()
        wait_until(lambda: not engine.client.api.tasks(filters={"name": name}), 60)
    finally:
        for each in (network, other):
            each.remove()
