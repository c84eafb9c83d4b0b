"""The spawner against a real engine. The hub around it is in memory; only its user is made up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any
from unittest.mock import Mock

import docker
import pytest
import requests
from docker.types import ContainerSpec, EndpointSpec, TaskTemplate
from jupyterhub.spawner import SpawnException
from jupyterhub.user import User

from jhswarmd import labels
from jhswarmd.errors import EngineError
from jhswarmd.hub import identity
from jhswarmd.spawner import swarm
from tests.kit.lab import Lab
from tests.kit.spawner_kit import (
    HUB_ID,
    NETWORK,
    STACK,
    TOKEN,
    Flaky,
    list_tasks,
    start_and_clean_up,
    the_container,
    the_service,
)
from tests.kit.wait import wait_until


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


@pytest.mark.every_engine
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


def test_what_a_failed_stop_left_goes_as_soon_as_the_engine_lets_it(
    make: Any, client: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("REMOVE_WITHIN_S", "SWEEP_WITHIN_S"):
        monkeypatch.setattr(swarm, limit, 0.1)
    spawner = make()
    refusal = requests.exceptions.ConnectionError("reset")

    async def fail_and_recover() -> None:
        await spawner.start()
        with pytest.MonkeyPatch.context() as ill:
            ill.setattr(client, "remove_service", Mock(side_effect=refusal))
            with pytest.raises(EngineError):
                await spawner.stop()
            # As the hub does, which has forgotten the server then.
            await spawner.run_post_stop_hook()
            spawner.clear_state()
            assert client.services()
        while client.services():
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(fail_and_recover(), 60))


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


def test_a_hub_that_starts_in_an_outage_counts_the_notebook_as_alive(
    make: Any, engine: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swarm, "LOOK_WITHIN_S", 0.2)
    spawner = make()
    asyncio.run(spawner.start())

    async def poll_through_an_outage() -> None:
        again = make(spawner.get_state())
        again._check_pending = True
        with silent(engine):
            assert await asyncio.wait_for(again.poll(), 8) is None
        assert await again.poll() is None
        await spawner.stop()
        # Once the engine says that it is gone, it is.
        assert await again.poll() == 0

    asyncio.run(poll_through_an_outage())


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


def test_a_left_over_that_is_younger_than_the_hubs_database_is_kept_and_named(
    make: Any, client: Flaky, user: User
) -> None:
    engine = user.db.get_bind()
    identity._TABLES.create_all(engine)
    before = make(count_spawn=identity.SpawnCounter())
    asyncio.run(before.start())
    kept = the_service(client)["ID"]
    # As with an older copy of the database.
    user.db.execute(identity._SPAWNS.delete())
    user.db.commit()
    after = make(count_spawn=identity.SpawnCounter())
    with pytest.raises(SpawnException) as caught:
        asyncio.run(start_and_clean_up(after))
    assert caught.value.reason == "forgotten"
    assert kept in caught.value.log_message
    assert the_service(client)["ID"] == kept


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
    # Without the volume that the two would have in common, as one user's.
    slow, quick = make(), make(name_template="other", volumes={})
    client.gate.clear()

    async def start_both() -> None:
        starting = asyncio.ensure_future(slow.start())
        while not client.has_created.is_set():
            await asyncio.sleep(0.01)
        original, client.create_service = client.create_service, client._client.create_service
        try:
            await asyncio.wait_for(quick.start(), 120)  # it would wait for ever
            assert not starting.done()
        finally:
            client.create_service = original
            client.gate.set()
        await starting

    asyncio.run(start_both())
