"""Volumes of notebooks on a real engine: options, shared ones, and the node that holds one."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import Any

import pytest
from docker.errors import APIError
from docker.models.containers import Container
from jupyterhub.spawner import SpawnException
from jupyterhub.user import User

from jhswarmd import labels
from jhswarmd.spawner import volume_nodes
from jhswarmd.spawner.volume_nodes import VolumeNode
from tests.kit.lab import Lab
from tests.kit.spawner_kit import (
    STACK,
    Flaky,
    drained,
    start_and_clean_up,
    the_container,
    the_service,
)
from tests.kit.wait import wait_until

VOLUME = f"{STACK}-user-ann"
GONE = VolumeNode("nodethatleftlongago", "worker-7")


def this_node(engine: Lab) -> VolumeNode:
    (node,) = engine.client.nodes.list()
    return VolumeNode(node.id, node.attrs["Description"]["Hostname"])


def holders(user: User) -> list[VolumeNode]:
    return volume_nodes.list_nodes(user.db, VOLUME)


def constraints_of(service: dict[str, Any]) -> list[str]:
    return list(service["Spec"]["TaskTemplate"].get("Placement", {}).get("Constraints") or [])


def constraints(client: Flaky) -> list[str]:
    return constraints_of(the_service(client))


def test_driver_options_are_filled_in_for_each_user(make: Any, engine: Lab) -> None:
    # Mounted as an NFS export is, from a directory of the node instead.
    engine.run(["mkdir", "-p", "/run/export/ann"])
    spawner = make(
        volumes={f"{STACK}-export-{{username}}": "/home/jovyan"},
        volume_driver="local",
        volume_driver_options={"type": "none", "o": "bind", "device": "/run/export/{username}"},
    )
    asyncio.run(spawner.start())
    the_container(engine, spawner).exec_run(["touch", "/home/jovyan/mine"])
    assert engine.run(["ls", "/run/export/ann"]).stdout.split() == ["mine"]


def test_shared_volumes_are_mounted_as_they_should_be_and_are_nobodys(
    make: Any, engine: Lab
) -> None:
    engine.run(["mkdir", "-p", "/run/export/courses"])
    spawner = make(
        shared_volumes={
            "courses": {"bind": "/courses", "mode": "ro"},
            "exchange": {"bind": "/exchange", "mode": "rw"},
        },
        shared_volume_driver_options={
            "type": "none",
            "o": "bind",
            "device": "/run/export/{volume}",
        },
    )
    engine.run(["mkdir", "-p", "/run/export/exchange"])
    asyncio.run(spawner.start())
    container = the_container(engine, spawner)
    assert container.exec_run(["touch", "/courses/x"]).exit_code != 0
    assert container.exec_run(["touch", "/exchange/x"]).exit_code == 0
    assert engine.run(["ls", "/run/export/exchange"]).stdout.split() == ["x"]
    assert engine.client.volumes.get("courses").attrs["Labels"] == {labels.STACK: STACK}


def test_an_export_that_allows_no_new_owner_is_the_reason_and_no_copy_the_remedy(
    make: Any, engine: Lab
) -> None:
    # As an NFS server with root_squash: not even root may change this directory's owner.
    export = engine.directory / "squashed"
    export.mkdir()
    engine.run(["chattr", "+i", export])
    options = {"type": "none", "o": "bind", "device": str(export)}
    try:
        spawner = make(volumes={"squashed": "/home"}, volume_driver_options=options)
        with pytest.raises(SpawnException) as caught:
            asyncio.run(start_and_clean_up(spawner))
        assert caught.value.reason == "mount"
        assert "operation not permitted" in caught.value.log_message
        assert "VOLUME_NO_COPY=true" in caught.value.log_message
        asyncio.run(
            make(
                volumes={"squashed": "/home"}, volume_driver_options=options, volume_no_copy=True
            ).start()
        )
    finally:
        engine.run(["chattr", "-i", export])


def test_a_template_that_nothing_fills_starts_nothing(make: Any, client: Flaky) -> None:
    spawner = make(volume_driver_options={"device": "/export/{user}"})
    with pytest.raises(SpawnException) as caught:
        asyncio.run(start_and_clean_up(spawner))
    assert caught.value.reason == "configuration"
    assert "volume_driver_options" in caught.value.log_message
    assert client.services() == []


def test_the_node_of_a_local_volume_is_remembered_after_a_stop(
    make: Any, client: Flaky, engine: Lab, user: User
) -> None:
    spawner = make()

    async def start_stop_start() -> None:
        await spawner.start()
        assert constraints(client) == []
        await spawner.stop()
        # As after a restart of the hub, too: nothing but the database knows.
        await make(extra_placement_spec={"constraints": ["node.role == manager"]}).start()

    asyncio.run(start_stop_start())
    assert holders(user) == [this_node(engine)]
    wanted = ["node.role == manager", f"node.id == {this_node(engine).node_id}"]
    assert constraints(client) == wanted


def test_a_notebook_that_runs_already_tells_where_its_volume_is(
    make: Any, engine: Lab, user: User
) -> None:
    spawner = make()
    asyncio.run(spawner.start())
    # As a hub whose older version remembered nothing.
    volume_nodes.forget(user.db, VOLUME, this_node(engine).node_id)
    assert asyncio.run(make(spawner.get_state()).poll()) is None
    assert holders(user) == [this_node(engine)]


def test_a_volume_of_a_driver_that_reaches_all_nodes_binds_nobody_to_one(
    make: Any, engine: Lab, user: User, client: Flaky
) -> None:
    engine.run(["mkdir", "-p", "/run/export/ann"])
    volume_nodes.remember(user.db, VOLUME, GONE)
    options = {"type": "none", "o": "bind", "device": "/run/export/{username}"}
    asyncio.run(make(volume_driver_options=options).start())
    assert constraints(client) == []
    assert holders(user) == [GONE]


def test_two_first_starts_of_one_user_go_to_one_node(make: Any, client: Flaky, engine: Lab) -> None:
    one, other = make(), make(name_template="other")

    async def start_both() -> None:
        await asyncio.gather(one.start(), other.start())

    asyncio.run(start_both())
    placed = [constraints_of(service) for service in client.services()]
    assert sorted(placed) == [[], [f"node.id == {this_node(engine).node_id}"]]


@pytest.mark.parametrize("case", ["gone", "drained"])
def test_a_home_on_a_node_that_cannot_be_used_is_explained_and_nothing_starts(
    make: Any, client: Flaky, engine: Lab, user: User, case: str
) -> None:
    holder = GONE if case == "gone" else this_node(engine)
    volume_nodes.remember(user.db, VOLUME, holder)
    begun_at = time.monotonic()
    with (
        drained(engine) if case == "drained" else contextlib.nullcontext(),
        pytest.raises(SpawnException) as caught,
    ):
        asyncio.run(start_and_clean_up(make()))
    assert time.monotonic() - begun_at < 10
    assert caught.value.reason == "volume_node"
    assert f"Your files are on node {holder.name}" in caught.value.jupyterhub_message
    assert holder.node_id in caught.value.log_message
    assert client.services() == []
    assert holders(user) == [holder]


def test_relaxed_starts_over_an_empty_volume_says_so_and_remembers_the_new_node(
    make: Any, engine: Lab, user: User, client: Flaky
) -> None:
    volume_nodes.remember(user.db, VOLUME, GONE)
    spawner = make(volume_node_policy="relaxed")

    async def start_and_read() -> list[dict[str, Any]]:
        starting = asyncio.ensure_future(spawner.start())
        events = [event async for event in spawner.progress()]
        await starting
        return events

    events = asyncio.run(start_and_read())
    assert "Your files are on node worker-7" in events[0]["message"]
    assert "without them" in events[0]["message"]
    assert constraints(client) == []
    assert holders(user) == [this_node(engine)]


def test_a_full_node_that_holds_the_home_is_named(
    make: Any, client: Flaky, engine: Lab, user: User
) -> None:
    volume_nodes.remember(user.db, VOLUME, this_node(engine))
    with pytest.raises(SpawnException) as caught:
        asyncio.run(start_and_clean_up(make(mem_guarantee="1000T")))
    assert f"on node {this_node(engine).name}, which does not have enough" in caught.value.message


# ---- new volumes are their users' ---------------------------------------------------------------

AS_USER = {"user": "1000:100"}


class Names:
    """Volumes that no other test has made."""

    def __init__(self) -> None:
        token = secrets.token_hex(4)
        self.own = {f"work-{token}-{{username}}": "/work", f"more-{token}-{{username}}": "/more"}
        self.exchange = f"exchange-{token}"
        self.shared = {self.exchange: {"bind": "/srv/exchange", "mode": "rw"}}


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def created(client: Flaky, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles of the services that were created, in their order."""
    roles: list[str] = []
    create = client.create_service

    def create_service(**request: Any) -> Any:
        roles.append(request["labels"][labels.ROLE])
        return create(**request)

    monkeypatch.setattr(client, "create_service", create_service, raising=False)
    return roles


def can_write(container: Container, *paths: str, user: str = "1000:100") -> list[bool]:
    return [
        container.exec_run(["touch", f"{path}/mine"], user=user).exit_code == 0 for path in paths
    ]


def test_new_volumes_are_the_users_and_later_starts_are_not_delayed(
    make: Any, client: Flaky, engine: Lab, created: list[str], names: Names
) -> None:
    options = {
        "volumes": names.own,
        "shared_volumes": names.shared,
        "extra_container_spec": AS_USER,
    }
    spawner = make(**options)

    async def start_stop_start() -> None:
        await spawner.start()
        paths = ("/work", "/more", "/srv/exchange")
        assert can_write(the_container(engine, spawner), *paths) == [True] * 3
        assert the_service(client)["Spec"]["Labels"][labels.ROLE] == labels.ROLE_NOTEBOOK
        await spawner.stop()
        await make(**options).start()

    asyncio.run(start_stop_start())
    assert created == [labels.ROLE_PREPARE, *[labels.ROLE_NOTEBOOK] * 2]


@pytest.mark.parametrize(
    ("options", "owner"),
    [
        ({"environment": {"NB_UID": "1234", "NB_GID": "100"}}, "1234:100"),
        ({"extra_container_spec": {"user": "1002"}}, "1002"),
    ],
    ids=["an image that starts as root", "a number alone"],
)
def test_a_volume_is_given_to_whomever_the_notebook_runs_as(
    make: Any, engine: Lab, options: dict[str, Any], owner: str, names: Names
) -> None:
    spawner = make(volumes=names.own, shared_volumes=names.shared, **options)
    asyncio.run(spawner.start())
    container = the_container(engine, spawner)
    assert can_write(container, "/work", "/srv/exchange", user=owner) == [True, True]


def test_the_images_own_user_is_known(
    make: Any, engine: Lab, small_image: str, names: Names
) -> None:
    source = engine.client.containers.create(small_image)
    image = source.commit(repository="jhswarmd-lab/user", changes=["USER 1001:1001"])
    source.remove()
    try:
        spawner = make(volumes=names.own, image="jhswarmd-lab/user:latest")
        asyncio.run(spawner.start())
        container = the_container(engine, spawner)
        assert can_write(container, "/work", user="1001:1001") == [True]
    finally:
        for service in engine.client.services.list():
            service.remove()
        wait_until(lambda: engine.client.images.remove(image.id) is None, 30, ignoring=(APIError,))


def test_what_is_in_a_volume_or_somebodys_already_is_left_alone(
    make: Any, engine: Lab, small_image: str, names: Names
) -> None:
    volume = names.exchange
    engine.client.containers.run(
        small_image, ["touch", "/v/theirs"], volumes=[f"{volume}:/v"], remove=True
    )
    spawner = make(shared_volumes=names.shared, extra_container_spec=AS_USER)
    asyncio.run(spawner.start())
    container = the_container(engine, spawner)
    told = container.exec_run(["stat", "-c", "%u:%g %a", "/srv/exchange", "/srv/exchange/theirs"])
    assert told.output.decode().split("\n")[:2] == ["0:0 755", "0:0 644"]


def test_two_users_who_start_at_once_share_a_new_volume(
    make_for: Any, engine: Lab, names: Names
) -> None:
    options = {
        "shared_volumes": names.shared,
        "extra_container_spec": AS_USER,
        "volumes": names.own,
    }
    spawners = [make_for(name, **options) for name in ("ann", "ben")]

    async def start_both() -> None:
        await asyncio.gather(*(spawner.start() for spawner in spawners))

    asyncio.run(start_both())
    for spawner in spawners:
        assert can_write(the_container(engine, spawner), "/work", "/srv/exchange") == [True, True]


def test_a_volume_that_an_administrator_removed_is_handed_over_again(
    make: Any, engine: Lab, created: list[str], names: Names
) -> None:
    options = {"shared_volumes": names.shared, "extra_container_spec": AS_USER}

    async def start_stop_start() -> Any:
        spawner = make(**options)
        await spawner.start()
        await spawner.stop()
        volume = engine.client.volumes.get(names.exchange)
        wait_until(lambda: volume.remove() is None, 30, ignoring=(APIError,))
        spawner = make(**options)
        await spawner.start()
        return spawner

    spawner = asyncio.run(start_stop_start())
    assert can_write(the_container(engine, spawner), "/srv/exchange") == [True]
    assert created.count(labels.ROLE_PREPARE) == 2


def test_a_start_that_is_cancelled_while_it_prepares_leaves_nothing(
    make: Any, client: Flaky, names: Names
) -> None:
    async def cancel() -> None:
        client.gate.clear()
        starting = asyncio.ensure_future(make(volumes=names.own).start())
        await asyncio.get_running_loop().run_in_executor(None, client.has_created.wait, 30)
        starting.cancel()
        client.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await starting

    asyncio.run(cancel())
    assert client.services() == []


def test_an_answer_of_the_engine_that_is_lost_meanwhile_does_no_harm(
    make: Any, client: Flaky, engine: Lab, names: Names
) -> None:
    client.lose_answers = 1
    spawner = make(volumes=names.own, extra_container_spec=AS_USER)
    asyncio.run(spawner.start())
    assert can_write(the_container(engine, spawner), "/work") == [True]
    assert the_service(client)["Spec"]["Labels"][labels.ROLE] == labels.ROLE_NOTEBOOK


def test_what_a_killed_hub_has_left_is_replaced(
    make: Any, client: Flaky, engine: Lab, created: list[str], names: Names
) -> None:
    spawner = make(volumes=names.own, extra_container_spec=AS_USER)
    left = {**spawner._labels(), labels.ROLE: labels.ROLE_PREPARE, labels.SPAWN: "f" * 32}
    engine.client.services.create(
        spawner.image, name=f"{spawner.object_name}-volumes", labels=left, command=["true"]
    )
    asyncio.run(spawner.start())
    assert can_write(the_container(engine, spawner), "/work") == [True]
    assert the_service(client)["Spec"]["Labels"][labels.ROLE] == labels.ROLE_NOTEBOOK
