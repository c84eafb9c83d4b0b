"""What the spawner decides without an engine: names, mounts, state, progress."""

from __future__ import annotations

import asyncio
import json
import re
from types import SimpleNamespace
from typing import Any

import docker
import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st
from traitlets.config import Config

from jhswarmd import labels
from jhswarmd.errors import EngineUnavailable, JhswarmdError
from jhswarmd.hub import checks
from jhswarmd.spawner.errors import StartFailed
from jhswarmd.spawner.progress import ProgressLog
from jhswarmd.spawner.service import ServiceSpawner
from jhswarmd.spawner.service_spec import create_request
from jhswarmd.spawner.swarm import SwarmSpawner
from jhswarmd.spawner.volume_nodes import VolumeNode

#: What swarmkit accepts as the name of a service.
DNS_NAME = re.compile(r"[a-zA-Z0-9]+(?:[a-zA-Z0-9-_]*?[a-zA-Z0-9])?")
#: What the engine accepts as the name of a volume.
VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")

names = st.text(min_size=1, max_size=60)
servers = st.one_of(st.just(""), names)


def make_spawner(
    user: str = "ann", server: str = "", state: dict[str, Any] | None = None, **options: Any
) -> SwarmSpawner:
    """Return a spawner of a stack's; ``options`` as in ``c.SwarmSpawner``."""
    config = Config()
    config.SwarmSpawner = Config({"stack": "lab", "hub_id": "a" * 32, "prefix": "lab", **options})
    spawner = SwarmSpawner(
        config=config,
        user=SimpleNamespace(name=user, db=SimpleNamespace(commit=lambda: None)),
        orm_spawner=SimpleNamespace(name=server, server=None),
    )
    spawner.load_state(state or {})
    return spawner


# ---- names --------------------------------------------------------------------------------------


@given(user=names, server=servers)
@example(user="x" * 60, server="")
@example(user="Ünï.cödé@example.org", server="My Server")
def test_every_service_name_is_one_that_swarm_takes(user: str, server: str) -> None:
    name = make_spawner(user, server).object_name
    assert DNS_NAME.fullmatch(name)
    assert len(name) <= 63


@given(first=st.tuples(names, servers), second=st.tuples(names, servers))
@example(first=("a-b", ""), second=("a", "b"))
@example(first=("a", "B"), second=("a", "b"))
@example(first=("x" * 60, "a"), second=("x" * 60, "b"))
def test_two_servers_never_share_a_name(first: tuple[str, str], second: tuple[str, str]) -> None:
    # JupyterHub itself takes users' names that differ in case alone for the same user.
    if (first[0].lower(), first[1]) != (second[0].lower(), second[1]):
        one, other = (make_spawner(user.lower(), server) for user, server in (first, second))
        assert one.object_name != other.object_name


@pytest.mark.parametrize("escape", ["default", "legacy"])
@given(first=names, second=names)
@example(first="a-b", second="a_b")
@example(first="ü" * 60, second="ü" * 59 + "u")
@example(first="x" * 250, second="x" * 249)
def test_two_users_never_share_a_home(escape: str, first: str, second: str) -> None:
    options = {"volumes": {"lab-user-{username}": "/home/jovyan"}}
    if escape == "legacy":
        options["escape"] = "legacy"
    one, other = (make_spawner(user.lower(), **options) for user in (first, second))
    (home,), (other_home,) = one.mounts, other.mounts
    assert VOLUME_NAME.fullmatch(home["Source"])
    assert len(home["Source"]) <= 255
    if first.lower() != second.lower():
        assert home["Source"] != other_home["Source"]
        assert one.object_name != other.object_name
    assert make_spawner(first.lower(), **options).mounts == one.mounts


def test_a_long_path_of_the_node_is_left_as_it_is() -> None:
    path = "/" + "x" * 300
    (mount,) = make_spawner(volumes={path: path}).mounts
    assert (mount["Source"], mount["Target"]) == (path, path)


def test_a_common_name_reads_as_the_user_spells_it() -> None:
    assert make_spawner("ann").object_name == "lab-ann"


def test_a_running_server_keeps_its_name_when_the_template_changes() -> None:
    state = {"object_id": "1", "object_name": "jupyter-ann"}
    assert make_spawner(state=state, prefix="new").object_name == "jupyter-ann"


# ---- mounts -------------------------------------------------------------------------------------


def test_a_named_source_is_a_volume_with_the_sites_driver() -> None:
    (mount,) = make_spawner(
        volumes={"lab-user-{username}": "/home/x"},
        volume_driver="local",
        volume_driver_options={"type": "nfs"},
    ).mounts
    assert mount["Type"] == "volume"
    assert mount["Source"] == "lab-user-ann"
    assert mount["VolumeOptions"]["DriverConfig"] == {"Name": "local", "Options": {"type": "nfs"}}


def test_an_absolute_path_is_a_directory_of_the_node() -> None:
    (mount,) = make_spawner(volumes={"/data": "/data"}, volume_driver="nfs").mounts
    assert (mount["Type"], mount["Source"]) == ("bind", "/data")
    assert "VolumeOptions" not in mount


@pytest.mark.parametrize(
    "options",
    [
        {"read_only_volumes": {"shared": "/shared"}},
        {"volumes": {"shared": {"bind": "/shared", "mode": "ro"}}},
        {"volumes": {"shared": {"bind": "/shared", "mode": "ro,z"}}},
    ],
)
def test_read_only_is_read_only(options: dict[str, Any]) -> None:
    (mount,) = make_spawner(**options).mounts
    assert mount["ReadOnly"] is True


@pytest.mark.parametrize(
    ("template", "owner"),
    [("home-{username}", {labels.USER: "ann"}), ("shared-ann", {})],
)
def test_only_a_volume_named_after_the_user_is_labelled_as_theirs(
    template: str, owner: dict[str, str]
) -> None:
    (mount,) = make_spawner(volumes={template: "/x"}).mounts
    assert mount["VolumeOptions"]["Labels"] == {labels.STACK: "lab", **owner}


# ---- state --------------------------------------------------------------------------------------


def test_state_survives_a_restart_of_the_hub() -> None:
    state = {"object_id": "1", "object_name": "lab-ann", "spawn_id": "b" * 32}
    assert make_spawner(state=state).get_state() == state


def test_state_of_the_oldest_spawner_is_understood() -> None:
    assert make_spawner(state={"container_id": "1"}).object_id == "1"


def test_a_stopped_server_leaves_no_state() -> None:
    spawner = make_spawner(state={"object_id": "1", "spawn_id": "b" * 32})
    spawner.clear_state()
    assert not {"object_id", "spawn_id"} & spawner.get_state().keys()


def test_what_was_never_started_is_not_running() -> None:
    assert asyncio.run(make_spawner().poll()) == 0


@pytest.mark.parametrize("missing", ["stack", "hub_id"])
def test_no_notebook_is_started_that_nobody_could_be_told_to_own(missing: str) -> None:
    spawner = make_spawner(**{missing: ""})
    with pytest.raises(JhswarmdError, match="whose notebooks"):
        asyncio.run(spawner.start())


@pytest.mark.parametrize("allowed", [{}, {"Python": "reg/py:1"}], ids=["no list", "a list"])
@pytest.mark.parametrize("asked", ["evil/image:1", "reg/py:1 ", ["Python"], {"a": 1}, 1])
def test_an_image_that_is_not_on_the_list_is_refused(allowed: dict[str, str], asked: Any) -> None:
    spawner = make_spawner(allowed_images=allowed, image="reg/default:1")
    spawner.user_options = {"image": asked}
    with pytest.raises(StartFailed, match="image_refused"):
        asyncio.run(spawner._apply_choice())
    assert spawner.image == "reg/default:1"


def test_a_chosen_title_is_the_image_of_the_list_and_nothing_else_is_read() -> None:
    spawner = make_spawner(allowed_images={"Python": "reg/py:1"}, mem_limit="1G")
    spawner.user_options = {"image": "Python", "mem_limit": "100G", "cmd": ["evil"]}
    asyncio.run(spawner._apply_choice())
    assert spawner.image == "reg/py:1"
    assert spawner.mem_limit == 1024**3
    assert spawner.cmd != ["evil"]


def test_options_are_found_under_either_class_name() -> None:
    config = Config()
    config.DockerSpawner.prefix = "stock"
    config.SwarmSpawner.stack = "lab"
    spawner = SwarmSpawner(config=config, user=SimpleNamespace(name="ann"))
    assert (spawner.prefix, spawner.stack) == ("stock", "lab")


def test_the_engine_may_be_elsewhere_behind_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServiceSpawner, "_engine_client", None)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(docker, "APIClient", lambda **arguments: asked.update(arguments))
    options = {
        "tls_config": {"verify": False},
        "client_kwargs": {"base_url": "tcp://manager.example:2376", "timeout": 7},
    }
    _ = make_spawner(**options).client
    assert (asked["base_url"], asked["timeout"]) == ("tcp://manager.example:2376", 7)
    assert asked["tls"].verify is False


# ---- progress -----------------------------------------------------------------------------------


def test_a_late_reader_sees_every_message() -> None:
    async def read_late() -> list[str]:
        log = ProgressLog()
        log.add(10, "one")
        log.add(10, "one")
        log.add(20, "two")
        log.close()
        return [event["message"] async for event in log.follow()]

    assert asyncio.run(read_late()) == ["one", "two"]


def test_a_waiting_reader_gets_each_message_as_it_comes() -> None:
    async def follow() -> list[str]:
        log = ProgressLog()
        seen: list[str] = []
        for message in ("one", "two"):
            if not seen:
                stream = log.follow()
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            assert not waiting.done()
            log.add(10, message)
            seen.append((await waiting)["message"])
        return seen

    assert asyncio.run(follow()) == ["one", "two"]


# ---- what ends a start --------------------------------------------------------------------------


class Calls:
    """Stands for the engine's client; remembers the order of things, and fails as it is told."""

    def __init__(self, spawner: SwarmSpawner, *answers: Exception | None) -> None:
        self.made: list[str] = []
        self._answers = list(answers)
        spawner._deadline_at = 10**12
        spawner._use_logins = self.use_logins  # type: ignore[method-assign]
        spawner.pull_image = self.pull

    async def use_logins(self) -> None:
        self.made.append("logins")

    async def pull(self, image: str) -> None:
        self.made.append("pull")
        if (answer := self._answers.pop(0)) is not None:
            raise answer


@pytest.mark.parametrize("policy", ["always", "ifnotpresent"])
def test_a_pull_to_the_hubs_node_goes_with_the_logins_and_again_after_a_hitch(policy: str) -> None:
    spawner = make_spawner(pull_policy=policy)
    calls = Calls(spawner, requests.ConnectionError(), None)
    asyncio.run(spawner._pull_here())
    assert calls.made == ["logins", "pull", "pull"]


def test_an_image_that_cannot_be_pulled_is_said_to_be_missing() -> None:
    spawner = make_spawner(pull_policy="always")
    missing = requests.Response()
    missing.status_code = 404
    Calls(spawner, docker.errors.NotFound("no such image", response=missing))
    with pytest.raises(StartFailed) as caught:
        asyncio.run(spawner._pull_here())
    assert caught.value.reason == "image_not_found"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("unauthorized: authentication required", "registry_refused"),
        ('Get "https://r.example/v2/": dial tcp: no route to host', "registry_unreachable"),
        ("no space left on device", "image_not_found"),
    ],
)
def test_a_pull_that_fails_under_way_fails_the_start_in_the_engines_words(
    words: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner = make_spawner(pull_policy="always", image="r.example/x:1")
    Calls(spawner)
    del spawner.pull_image
    answer = (
        json.dumps({"status": "Pulling"}) + "\n" + json.dumps({"errorDetail": {"message": words}})
    )
    engine = SimpleNamespace(pull=lambda repository, tag: answer)
    monkeypatch.setattr(ServiceSpawner, "_engine_client", engine)
    with pytest.raises(StartFailed) as caught:
        asyncio.run(spawner._pull_here())
    assert caught.value.reason == reason


def test_nothing_is_pulled_to_the_hubs_node_unless_the_site_says_so() -> None:
    spawner = make_spawner()
    calls = Calls(spawner)
    asyncio.run(spawner._pull_here())
    assert calls.made == []


def test_a_template_that_nothing_fills_is_a_matter_of_the_configuration() -> None:
    spawner = make_spawner(volumes={"x-{nosuch}": "/x"})
    with pytest.raises(StartFailed) as caught:
        asyncio.run(spawner.start())
    assert caught.value.reason == "configuration"


@pytest.mark.parametrize("option", sorted(checks.REFUSED.keys() - {"mounts", "remove"}))
def test_what_services_do_not_have_is_refused_when_a_hook_sets_it(option: str) -> None:
    spawner = make_spawner()
    setattr(spawner, option, "x" if option == "post_start_cmd" else {"x": "y"})
    with pytest.raises(JhswarmdError, match=f"c.SwarmSpawner.{option} cannot be used"):
        asyncio.run(create_request(spawner, {}))


def test_the_server_without_a_name_has_a_name_that_swarm_takes() -> None:
    template = "{prefix}-{username}-{servername}"
    assert make_spawner("ann", "", name_template=template).object_name.endswith("-ann")
    assert make_spawner("ann", "x", name_template=template).object_name.endswith("-ann-x")


def test_first_starts_of_a_user_take_turns_whatever_their_volumes_are() -> None:
    volumes = {"scratch-{username}-{servername}": "/scratch", "home-{username}": "/home"}
    one, other = (make_spawner("ann", server, volumes=volumes) for server in ("x", "y"))
    running: list[str] = []

    async def take(spawner: SwarmSpawner) -> None:
        spawner._holders = list  # type: ignore[method-assign]
        async with spawner._turn():
            running.append(spawner.name)
            assert len(running) == 1
            await asyncio.sleep(0)
            running.remove(spawner.name)

    async def both() -> None:
        await asyncio.gather(take(one), take(other))

    asyncio.run(both())


def test_who_has_waited_for_a_turn_goes_where_the_volume_is_by_then() -> None:
    home = {"home-{username}": "/home"}
    one, other = (make_spawner("ann", server, volumes=home) for server in ("x", "y"))
    chosen: list[str] = []

    async def choose(spawner: SwarmSpawner) -> None:
        chosen.append(spawner.name)

    async def take(spawner: SwarmSpawner) -> None:
        # As with 'relaxed': somebody holds the home, and cannot be used.
        spawner._holders = lambda: [VolumeNode("n1", "one")]  # type: ignore[method-assign]
        spawner._choose_node = lambda: choose(spawner)  # type: ignore[method-assign]
        async with spawner._turn():
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(take(one), take(other))

    asyncio.run(both())
    assert chosen == ["y"]


def test_a_user_who_was_renamed_starts_under_the_new_name() -> None:
    spawner = make_spawner("ann", volumes={"home-{username}": "/home"})
    assert (spawner.object_name, spawner.escaped_name) == ("lab-ann", "ann")
    spawner.user.name = "bea"
    spawner._follow_rename()
    assert spawner.object_name == "lab-bea"
    assert [mount["Source"] for mount in spawner.mounts] == ["home-bea"]


def test_a_service_that_another_server_of_the_hub_runs_as_is_nobody_elses_left_over() -> None:
    renamed = make_spawner("ann", state={"object_id": "s1"})
    renamed.user.name = "bea"
    newcomer = make_spawner("ann")
    assert newcomer._is_anothers("s1")
    assert not renamed._is_anothers("s1")
    renamed.clear_state()
    assert not newcomer._is_anothers("s1")


@pytest.mark.parametrize("env", [{"MY_TOKEN": "sesame-1"}, ["MY_TOKEN=sesame-1", "LANG"]])
def test_secrets_of_the_sites_own_environment_are_hidden_in_a_log(env: Any) -> None:
    spawner = make_spawner(
        extra_container_spec={"env": env}, environment={"A_PASSWORD": "swordfish"}
    )
    spawner.get_env = lambda: spawner.environment  # type: ignore[method-assign]
    assert spawner._secrets() == {"sesame-1", "swordfish"}


def test_a_start_whose_turn_does_not_come_says_what_it_waits_for() -> None:
    home = {"home-{username}": "/home"}
    one, other = (make_spawner("ann", server, volumes=home) for server in ("x", "y"))
    other.start_timeout = 1

    async def find_node() -> tuple[str, int]:
        async with other._turn():
            return "10.0.0.1", 8888

    async def start_behind() -> None:
        one._holders = other._holders = list  # type: ignore[method-assign]
        other._start = find_node  # type: ignore[method-assign]
        async with one._turn():
            await other.start()

    with pytest.raises(StartFailed) as caught:
        asyncio.run(start_behind())
    assert caught.value.reason == "timeout"
    assert caught.value.jupyterhub_message.startswith("Another server of yours")


def test_what_a_failed_start_left_is_tried_on_when_the_engine_does_not_answer() -> None:
    spawner = make_spawner()
    later: list[tuple[str, str]] = []

    async def remove(*args: Any, **kw: Any) -> None:
        raise EngineUnavailable("no answer")

    async def remove_later(service_id: str, spawn_id: str) -> None:
        later.append((service_id, spawn_id))

    spawner._remove = remove  # type: ignore[method-assign]
    spawner._remove_later = remove_later  # type: ignore[method-assign]

    async def leave() -> None:
        await spawner._remove_started(asyncio.get_running_loop().create_future(), "s1", "spawn-1")
        await asyncio.gather(*spawner._background)

    asyncio.run(leave())
    assert later == [("s1", "spawn-1")]
