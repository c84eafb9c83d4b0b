"""The options that JupyterHub and dockerspawner publish, set as people set them.

Each is seen in what a real engine made of it. Which of them work, and which do not and why, is the
table in docs/spawner.md; tests/unit/spawner/test_traits.py keeps it whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from docker.types import DriverConfig
from jupyterhub.spawner import SpawnException

from jhswarmd import labels
from jhswarmd.spawner.service import ServiceSpawner
from tests.kit.lab import SMALL_IMAGE, Lab
from tests.kit.spawner_kit import (
    NETWORK,
    STACK,
    Flaky,
    start_and_clean_up,
    the_container,
    the_service,
)

MiB = 1024**2


class Seen(NamedTuple):
    """What became of a start."""

    service: Any
    """The service's spec."""
    task: Any
    """The spec of its tasks."""
    container: Any
    """The container, inspected."""
    address: tuple[str, int]

    @property
    def env(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.container["Config"]["Env"])

    @property
    def mounts(self) -> dict[str, tuple[str, str, bool]]:
        """Kind, source and whether it can be written to, by target."""
        return {
            each["Destination"]: (each["Type"], each.get("Name") or each["Source"], each["RW"])
            for each in self.container["Mounts"]
        }


class Case(NamedTuple):
    """Options as in ``c.DockerSpawner``, and what must be seen of them."""

    options: dict[str, Any]
    check: Callable[[Seen], Any]


def environment(**wanted: str) -> Callable[[Seen], bool]:
    return lambda seen: wanted.items() <= seen.env.items()


def host(key: str, value: Any) -> Callable[[Seen], bool]:
    return lambda seen: bool(seen.container["HostConfig"][key] == value)


def mounted(target: str, kind: str, source: str, *, writable: bool) -> Callable[[Seen], bool]:
    return lambda seen: seen.mounts.get(target) == (kind, source, writable)


async def later(spawner: Any) -> dict[str, Any]:
    return {"labels": {"whose": spawner.user.name}}


CASES = {
    "image": Case({"image": SMALL_IMAGE}, lambda seen: seen.container["Config"]["Image"]),
    "prefix": Case({"prefix": "mine"}, lambda seen: seen.service["Name"] == "mine-ann"),
    "name_template": Case(
        {"prefix": "p", "name_template": "{prefix}-of-{username}"},
        lambda seen: seen.service["Name"] == "p-of-ann",
    ),
    "escape": Case({"escape": str.upper}, lambda seen: seen.service["Name"] == "jupyter-ANN"),
    "volumes, as text": Case(
        {"volumes": {f"{STACK}-a-{{username}}": "/a/{username}"}},
        mounted("/a/ann", "volume", f"{STACK}-a-ann", writable=True),
    ),
    "volumes, with mode": Case(
        {"volumes": {f"{STACK}-b": {"bind": "/b", "mode": "ro"}}},
        mounted("/b", "volume", f"{STACK}-b", writable=False),
    ),
    "volumes, of the node": Case(
        {"volumes": {"/usr/share": {"bind": "/shared", "mode": "ro", "propagation": "rprivate"}}},
        mounted("/shared", "bind", "/usr/share", writable=False),
    ),
    "read_only_volumes": Case(
        {"read_only_volumes": {f"{STACK}-c": "/c"}},
        mounted("/c", "volume", f"{STACK}-c", writable=False),
    ),
    "format_volume_name": Case(
        {
            "volumes": {"HOME": "/d"},
            "format_volume_name": lambda template, spawner: template.replace(
                "HOME", f"{STACK}-d-{spawner.user.name}"
            ),
        },
        mounted("/d", "volume", f"{STACK}-d-ann", writable=True),
    ),
    "mem_limit": Case({"mem_limit": "256M"}, host("Memory", 256 * MiB)),
    "mem_limit, called": Case(
        {"mem_limit": lambda spawner: {"ann": "128M"}[spawner.user.name]},
        host("Memory", 128 * MiB),
    ),
    "mem_guarantee": Case(
        {"mem_guarantee": "64M"},
        lambda seen: seen.task["Resources"]["Reservations"]["MemoryBytes"] == 64 * MiB,
    ),
    "cpu_limit": Case({"cpu_limit": 0.5}, host("NanoCpus", 500_000_000)),
    "cpu_limit, called": Case(
        {"cpu_limit": lambda spawner: 0.25 * len(spawner.user.name)},
        host("NanoCpus", 750_000_000),
    ),
    "cpu_guarantee": Case(
        {"cpu_guarantee": 0.1},
        lambda seen: seen.task["Resources"]["Reservations"]["NanoCPUs"] == 100_000_000,
    ),
    "environment": Case(
        {"environment": {"A": "b=c", "WHO": lambda spawner: spawner.user.name}},
        environment(A="b=c", WHO="ann", JUPYTER_IMAGE_SPEC=SMALL_IMAGE),
    ),
    "env_keep": Case({"env_keep": ["OF_THE_HUB"]}, environment(OF_THE_HUB="1")),
    "args": Case(
        {"args": ["8888", "{username}"]},
        lambda seen: seen.container["Config"]["Cmd"] == ["small-server", "8888", "{username}"],
    ),
    "cmd, of the image": Case(
        {"cmd": None}, lambda seen: seen.container["Config"]["Cmd"] == ["small-server"]
    ),
    "cmd, of the image with args": Case(
        {"cmd": None, "args": ["8888"]},
        lambda seen: seen.container["Config"]["Cmd"] == ["small-server", "8888"],
    ),
    "notebook_dir": Case(
        {"notebook_dir": "/home/{username}"}, environment(JUPYTERHUB_ROOT_DIR="/home/ann")
    ),
    "default_url": Case({"default_url": "/tree"}, environment(JUPYTERHUB_DEFAULT_URL="/tree")),
    "debug": Case({"debug": True}, environment(JUPYTERHUB_DEBUG="1")),
    "disable_user_config": Case(
        {"disable_user_config": True}, environment(JUPYTERHUB_DISABLE_USER_CONFIG="1")
    ),
    "hub_connect_url": Case(
        {"hub_connect_url": "http://hub.example:1"},
        lambda seen: seen.env["JUPYTERHUB_API_URL"].startswith("http://hub.example:1/"),
    ),
    "ip": Case({"ip": "::"}, environment(JUPYTERHUB_SERVICE_URL="http://[::]:8888/user/ann/")),
    "port": Case(
        {"port": 9999},
        lambda seen: (
            seen.address[1] == 9999
            and seen.env["JUPYTERHUB_SERVICE_URL"] == "http://0.0.0.0:9999/user/ann/"
        ),
    ),
    "extra_container_spec": Case(
        {"extra_container_spec": {"user": "1234", "hostname": "mine", "workdir": "/tmp"}},
        lambda seen: (
            [seen.container["Config"][k] for k in ("User", "Hostname", "WorkingDir")]
            == ["1234", "mine", "/tmp"]
        ),
    ),
    "extra_placement_spec": Case(
        {
            "extra_placement_spec": {
                "constraints": ["node.role == manager"],
                "preferences": [("spread", "node.labels.rack")],
            }
        },
        lambda seen: (
            seen.task["Placement"]["Constraints"] == ["node.role == manager"]
            and seen.task["Placement"]["Preferences"]
            == [{"Spread": {"SpreadDescriptor": "node.labels.rack"}}]
        ),
    ),
    "extra_task_spec": Case(
        {"extra_task_spec": {"log_driver": DriverConfig("json-file", {"max-size": "1m"})}},
        host("LogConfig", {"Type": "json-file", "Config": {"max-size": "1m"}}),
    ),
    "extra_resources_spec": Case(
        {"mem_limit": "64M", "extra_resources_spec": {"mem_limit": 200 * MiB}},
        host("Memory", 200 * MiB),
    ),
    "extra_endpoint_spec": Case(
        {"extra_endpoint_spec": {"mode": "vip"}},
        lambda seen: seen.service["EndpointSpec"]["Mode"] == "vip",
    ),
    "extra_create_kwargs": Case(
        {"extra_create_kwargs": {"labels": {"site": "x"}}},
        lambda seen: seen.service["Labels"]["site"] == "x" and labels.HUB in seen.service["Labels"],
    ),
    "extra_create_kwargs, called": Case(
        {"extra_create_kwargs": later}, lambda seen: seen.service["Labels"]["whose"] == "ann"
    ),
    "use_internal_ip, host_ip": Case(
        {"use_internal_ip": False, "host_ip": "192.0.2.1"},
        lambda seen: (
            seen.address[0] == "192.0.2.1"
            and seen.address[1] >= 30000
            and seen.service["EndpointSpec"]["Ports"][0]["TargetPort"] == 8888
        ),
    ),
    "use_internal_hostname": Case(
        {"use_internal_hostname": True}, lambda seen: seen.address == ("jupyter-ann", 8888)
    ),
    # Names of before dockerspawner 12.
    "container_image": Case({"image": "x/y:1", "container_image": SMALL_IMAGE}, lambda seen: True),
    "container_prefix": Case(
        {"container_prefix": "old"}, lambda seen: seen.service["Name"] == "old-ann"
    ),
    "container_name_template": Case(
        {"container_name_template": "old-{username}"},
        lambda seen: seen.service["Name"] == "old-ann",
    ),
    "container_port": Case({"container_port": 7777}, lambda seen: seen.address[1] == 7777),
}


def see(make: Any, client: Flaky, engine: Lab, **options: Any) -> Seen:
    spawner = make(**options)
    address = asyncio.run(spawner.start())
    service = the_service(client)["Spec"]
    return Seen(service, service["TaskTemplate"], the_container(engine, spawner).attrs, address)


@pytest.mark.parametrize("option", CASES)
def test_an_option_does_what_it_says(
    make: Any, client: Flaky, engine: Lab, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_HUB", "1")
    monkeypatch.setenv("NOT_FOR_NOTEBOOKS", "1")
    seen = see(make, client, engine, **CASES[option].options)
    assert CASES[option].check(seen), seen
    assert "NOT_FOR_NOTEBOOKS" not in seen.env


@pytest.mark.parametrize(
    ("allowed", "asked"),
    [
        ({"Small": SMALL_IMAGE}, "Small"),
        ([SMALL_IMAGE], SMALL_IMAGE),
        ("*", SMALL_IMAGE),
        (lambda spawner: {spawner.user.name: SMALL_IMAGE}, "ann"),
        (lambda spawner: [SMALL_IMAGE], SMALL_IMAGE),
    ],
)
def test_an_allowed_image_is_started(make: Any, client: Flaky, allowed: Any, asked: str) -> None:
    spawner = make(image="registry.invalid/none:1", allowed_images=allowed)
    spawner.user_options = {"image": asked}
    asyncio.run(spawner.start())
    assert the_service(client)["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == SMALL_IMAGE


def test_the_name_follows_the_chosen_image(make: Any, client: Flaky) -> None:
    spawner = make(
        image="registry.invalid/none:1",
        allowed_images=[SMALL_IMAGE],
        name_template="{username}-{imagename}",
    )
    spawner.user_options = {"image": SMALL_IMAGE}
    asyncio.run(spawner.start())
    wanted = SMALL_IMAGE.replace("/", "-").replace(":", "-")
    assert the_service(client)["Spec"]["Name"] == f"ann-{wanted}"


def test_the_network_of_the_site_is_where_the_notebook_listens(
    make: Any, client: Flaky, engine: Lab
) -> None:
    other = engine.client.networks.create(f"{STACK}_other", driver="overlay", scope="swarm")
    try:
        spawner = make(network_name=other.name)
        ip, _ = asyncio.run(spawner.start())
        networks = the_container(engine, spawner).attrs["NetworkSettings"]["Networks"]
        assert networks[other.name]["IPAddress"] == ip
        assert NETWORK not in networks
        asyncio.run(spawner.stop())
    finally:
        other.remove()


def test_the_engine_is_the_one_of_the_sites_client(
    make: Any, engine: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServiceSpawner, "_engine_client", None)
    spawner = make(client_kwargs={"base_url": engine.base_url, "timeout": 7})
    asyncio.run(spawner.start())
    assert spawner.client.timeout == 7
    asyncio.run(spawner.stop())
    spawner.client.close()


@pytest.mark.parametrize(
    "options",
    [
        {"extra_container_spec": {"priviliged": True}},
        {"extra_task_spec": {"image": "x"}},
        {"extra_resources_spec": {"memory": 1}},
        {"extra_placement_spec": {"nodes": []}},
        {"extra_endpoint_spec": {"ports": "80"}},
        {"extra_create_kwargs": {"user": "root"}},
    ],
    ids=str,
)
def test_an_option_that_a_service_has_not_got_is_named(
    make: Any, client: Flaky, options: dict[str, Any]
) -> None:
    with pytest.raises(SpawnException) as caught:
        asyncio.run(start_and_clean_up(make(**options)))
    assert caught.value.reason == "configuration"
    assert f"c.SwarmSpawner.{next(iter(options))}" in caught.value.log_message
    assert client.services() == []


def test_a_value_that_makes_no_sense_is_a_matter_of_the_configuration(
    make: Any, client: Flaky
) -> None:
    with pytest.raises(SpawnException) as caught:
        asyncio.run(start_and_clean_up(make(ulimits={"nofile": "abc"})))
    assert caught.value.reason == "configuration"
    assert "abc" in caught.value.log_message
    assert client.services() == []


def test_an_image_that_the_site_wants_pulled_first_and_nobody_has_is_named(make: Any) -> None:
    spawner = make(image="localhost:1/none:1", pull_policy="never")
    with pytest.raises(SpawnException) as caught:
        asyncio.run(start_and_clean_up(spawner))
    assert "pull localhost:1/none:1" in caught.value.log_message
    assert caught.value.reason == "image_not_found"


# ---- names --------------------------------------------------------------------------------------

#: Users (JupyterHub has made them lower case) and servers that could be taken for each other.
NASTY = [
    ("a-b", ""),
    ("a", "b"),
    ("a", "B"),
    ("a.b", ""),
    ("a_b", ""),
    ("ünï.cödé@example.org", ""),
    ("x" * 60, ""),
    ("ü" * 60, ""),
    ("ü" * 59 + "u", ""),
    ("x" * 60, "y" * 60),
    ("../etc", "../../passwd"),
    ("a-2db", ""),
]


@pytest.mark.parametrize("escape", ["default", "legacy"])
def test_nasty_names_have_services_and_homes_of_their_own(
    make_for: Any, client: Flaky, engine: Lab, escape: str
) -> None:
    # To Swarm names that differ in case alone are the same, which the older escaping leaves.
    names = NASTY if escape == "default" else [name for name in NASTY if name != ("a", "B")]
    options = {} if escape == "default" else {"escape": "legacy"}
    spawners = [make_for(user, server, **options) for user, server in names]

    async def start_all() -> None:
        await asyncio.gather(*(spawner.start() for spawner in spawners))

    asyncio.run(start_all())
    services = {service["ID"]: service["Spec"] for service in client.services()}
    assert len(services) == len(names)
    homes: dict[str, str] = {}
    for spawner, (user, server) in zip(spawners, names, strict=True):
        held = services[spawner.object_id]["Labels"]
        assert (held[labels.USER], held[labels.SERVER]) == (user, server)
        (mount,) = the_container(engine, spawner).attrs["Mounts"]
        assert homes.setdefault(mount["Name"], user) == user
    assert len(homes) == len({user for user, _ in names})


def test_a_name_that_the_older_escaping_gives_to_two_is_given_once(
    make_for: Any, client: Flaky
) -> None:
    first = make_for("a--b", escape="legacy")
    second = make_for("a", "b", escape="legacy")
    assert first.object_name == second.object_name

    async def start_both() -> str:
        await first.start()
        with pytest.raises(SpawnException) as caught:
            await start_and_clean_up(second)
        assert await first.poll() is None
        return str(caught.value.reason)

    assert asyncio.run(start_both()) == "name_taken"
    assert [service["ID"] for service in client.services()] == [first.object_id]
