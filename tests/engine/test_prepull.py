"""Images on the nodes before users need them, on a real engine; and the whole of it in a stack."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest

from jhswarmd import labels
from jhswarmd.deploy import stack as stacks
from jhswarmd.engine.client import Engine
from jhswarmd.reconcile.image_pulls import ImagePulls
from tests.kit.lab import Lab
from tests.kit.registry_kit import FIRST, IMAGE, PrivateRegistry
from tests.kit.spawner_kit import drained
from tests.kit.stack import Stack
from tests.kit.wait import wait_until

STACK = "prepulltest"
MISSING = "localhost:1/no/such:1"
OWN_ROLE = f"{labels.ROLE}={labels.ROLE_PREPULL}"

Make = Callable[..., ImagePulls]


@pytest.fixture
def make(engine: Lab, registry: PrivateRegistry) -> Make:
    def make_prepull(*images: str, constraints: tuple[str, ...] = ()) -> ImagePulls:
        own = Engine(docker.DockerClient(base_url=engine.base_url, version="auto", timeout=30))
        return ImagePulls(
            own,
            STACK,
            images,
            constraints,
            lambda: True,
            threading.Event(),
            logins=registry.logins,
        )

    return make_prepull


@pytest.fixture(autouse=True)
def nothing_is_left_behind(engine: Lab) -> Iterator[None]:
    """Neither service nor task nor container nor volume, whatever a test does."""

    def held() -> tuple[Any, ...]:
        api = engine.client.api
        return (
            len(api.services(filters={"label": OWN_ROLE})),
            len(api.tasks(filters={"label": OWN_ROLE})),
            len(api.containers(all=True, filters={"label": OWN_ROLE})),
            sorted(volume["Name"] for volume in api.volumes()["Volumes"] or []),
        )

    before = held()
    yield
    wait_until(lambda: held()[:3] == (0, 0, 0), 30, what=f"nothing is left, before: {before}")
    volumes = set(before[3])
    wait_until(lambda: set(held()[3]) <= volumes, 30, what="no volume is left")


def has(engine: Lab, image: str) -> bool:
    try:
        engine.client.images.get(image)
    except docker.errors.ImageNotFound:
        return False
    return True


def node_name(engine: Lab) -> str:
    return str(engine.client.info()["Name"])


def test_a_node_pulls_an_image_that_it_has_not_with_the_login(
    make: Make, engine: Lab, registry: PrivateRegistry
) -> None:
    registry.give(FIRST)
    reconciler = make(IMAGE)
    assert not has(engine, IMAGE)
    reconciler.reconcile()
    assert has(engine, IMAGE)
    assert (reconciler.view["nodes"], reconciler.view["failed"]) == (1, [])


@pytest.mark.every_engine
def test_a_node_that_cannot_pull_is_named_with_what_engine_and_registry_say(
    make: Make, engine: Lab
) -> None:
    reconciler = make(IMAGE, MISSING)
    reconciler.reconcile()
    failed = reconciler.view["failed"]
    assert [each["node"] for each in failed] == [node_name(engine)] * 2
    why = {each["image"]: each["why"] for each in failed}
    assert "no basic auth credentials" in why[IMAGE]
    assert f"No such image: {MISSING}" in why[MISSING]


def test_an_image_without_a_shell_and_with_a_volume_will_do(make: Make, engine: Lab) -> None:
    name = "prepulltest/bare:1"
    repository, tag = name.split(":")
    changes = ["VOLUME /data", "USER nobody", "HEALTHCHECK CMD false"]
    empty_tar = b"\0" * 10240
    engine.client.api.import_image_from_data(
        empty_tar, repository=repository, tag=tag, changes=changes
    )
    try:
        reconciler = make(name)
        reconciler.reconcile()
        assert reconciler.view["failed"] == []
    finally:
        wait_until(
            lambda: engine.client.images.remove(name) is None,
            30,
            ignoring=(docker.errors.APIError,),
        )


def test_a_tag_that_moved_is_pulled_anew(
    make: Make, engine: Lab, registry: PrivateRegistry, small_image: str
) -> None:
    registry.give(FIRST)
    bare = engine.client.images.get(small_image)
    moved = engine.client.containers.create(small_image)
    try:
        moved.commit(*IMAGE.rsplit(":", 1), message="another content")
        login = {"username": "robot", "password": FIRST}
        new_id = engine.client.images.get(IMAGE).id
        engine.client.images.push(*IMAGE.rsplit(":", 1), auth_config=login)
        bare.tag(IMAGE)
        make(IMAGE).reconcile()
        assert engine.client.images.get(IMAGE).id == new_id != bare.id
    finally:
        moved.remove()
        bare.tag(IMAGE)
        engine.client.images.push(*IMAGE.rsplit(":", 1), auth_config=login)


def test_nodes_that_may_not_run_notebooks_are_left_alone(make: Make, engine: Lab) -> None:
    reconciler = make(MISSING, constraints=("node.labels.notebooks == true",))
    reconciler.reconcile()
    assert (reconciler.view["nodes"], reconciler.view["failed"]) == (0, [])


def test_a_drained_node_is_due_when_it_is_active_again(
    make: Make, engine: Lab, registry: PrivateRegistry
) -> None:
    registry.give(FIRST)
    reconciler = make(IMAGE)
    with drained(engine):
        reconciler.reconcile()
        assert not has(engine, IMAGE)
    reconciler.reconcile()
    assert has(engine, IMAGE)


def test_what_makes_nodes_pull_is_the_stacks_and_no_notebook(engine: Lab, small_image: str) -> None:
    own = Engine(docker.DockerClient(base_url=engine.base_url, version="auto", timeout=30))
    made = own.create_prepull(STACK, f"{STACK}_prepull-1", small_image, ())
    try:
        assert [each["ID"] for each in stacks.list_services(engine.client, STACK)] == [made]
        assert own.list_prepulls(STACK) == [made]
        assert own.list_notebooks(STACK) == []
        assert own.read_notebook(made, STACK) is None
    finally:
        own.remove_service(made)


# --- in a stack ---


def test_the_command_makes_the_nodes_pull_and_status_shows_it(stack: Stack) -> None:
    assert stack.first_up
    assert "Notebook images on the nodes: 1 on 1 of 1 nodes" in stack.first_up.stderr
    result = stack.cli("prepull", "--env", stack.profile)
    assert "1 on 1 of 1 nodes" in result.stderr
    assert stack.daemon()["prepull"]["failed"] == []


@pytest.mark.timeout(300, func_only=True)
def test_up_gives_daemon_and_hub_the_login_and_names_the_node_that_cannot_pull(
    stack: Stack, engine: Lab, registry: PrivateRegistry
) -> None:
    login_file = stack.env_dir / stack.profile / "registry_config.json"
    stack.write_keys(SINGLE_USER_IMAGES=f"Own={IMAGE};No={MISSING}")
    registry.give(FIRST)
    login_file.write_bytes(registry.logins.read_bytes())
    proxy = stack.container("proxy").id
    try:
        result = stack.cli("up", "--env", stack.profile, timeout_s=200)
        words = f"node {node_name(engine)} cannot pull {MISSING}"
        assert words in result.stderr
        assert f"cannot pull {IMAGE}" not in result.stderr
        assert has(engine, IMAGE)
        for role in ("hub", "jhswarmd"):
            code, _ = stack.container(role).exec_run(["test", "-s", "/run/secrets/registry_login"])
            assert code == 0
        assert stack.container("proxy").id == proxy  # it needs no login, and was left alone
        assert any(words in problem for problem in stack.status()["problems"])
        failed = stack.cli("prepull", check=False)
        assert failed.returncode == 1
        assert words in failed.stderr
        log = stack.log("jhswarmd")
        assert "A node cannot pull" in log
        shown = result.stdout + result.stderr + failed.stderr + log
        assert FIRST not in shown
    finally:
        login_file.write_text('{"auths": {}}')
        stack.write_keys()
        stack.up()
        login_file.unlink()
