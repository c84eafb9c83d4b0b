"""What users choose, through a real hub: form, link and API, and what a real service gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine import test_spawner_hub
from tests.engine.test_spawner_hub import HubProcess, progress
from tests.kit.lab import Lab
from tests.kit.wait import wait_until

network = test_spawner_hub.network
hub = test_spawner_hub.hub
stopped = test_spawner_hub.stopped

MiB = 1024**2
SMALL = {"slug": "small", "title": "Small <b>", "mem_limit": 256 * MiB}
BIG = {
    "slug": "big",
    "title": "Big",
    "mem_limit": 512 * MiB,
    "mem_guarantee": 64 * MiB,
    "cpu_limit": 1.5,
    "cpu_guarantee": 0.1,
    "shm_size": 96 * MiB,
    "constraints": ["node.role == manager"],
}
HIDDEN = {"slug": "hidden", "title": "Hidden", "admins_only": True}


@pytest.fixture(scope="module")
def listed(hub: HubProcess) -> HubProcess:
    """The hub with a list of profiles."""
    restart(hub, SMALL, BIG, HIDDEN)
    return hub


def restart(hub: HubProcess, *entries: dict[str, Any], site: str = "") -> None:
    """Start the hub anew with these profiles, and with ``site`` as a file in conf.d."""
    hub.kill()
    (hub.config_dir / "conf.d" / "site.py").write_text(site)
    hub.environ = {"NOTEBOOK_PROFILES": json.dumps(entries)} if entries else {}
    hub.start()


@pytest.fixture
def ready(listed: HubProcess, stopped: HubProcess) -> Iterator[HubProcess]:
    return stopped


def limits(engine: Lab) -> dict[str, Any]:
    """Return the limits of the only notebook, as the engine has them."""
    (service,) = engine.client.services.list()
    return dict(service.attrs["Spec"]["TaskTemplate"].get("Resources", {}).get("Limits", {}))


def start(hub: HubProcess, body: Any = None) -> None:
    status, answer = hub.call("POST", "/users/ann/server", body=body)
    assert status in (201, 202), answer
    wait_until(hub.is_ready, 60)


def stop(hub: HubProcess) -> None:
    assert hub.call("DELETE", "/users/ann/server")[0] in (202, 204)
    wait_until(hub.is_stopped, 60)


def why_not(hub: HubProcess, body: Any = None) -> str:
    """Ask for a server that is refused; return what the user reads."""
    hub.call("POST", "/users/ann/server", body=body)
    told = progress(hub)
    assert told[-1]["failed"] is True
    return str(told[-1]["message"])


def test_a_choice_by_form_is_what_the_service_gets(ready: HubProcess, engine: Lab) -> None:
    status, page = ready.browse("/hub/spawn")
    assert status == 200
    assert "Small &lt;b&gt;" in page
    assert "Small <b>" not in page
    assert "Hidden" not in page
    # Somebody changes the page and adds fields that it has not got.
    ready.browse("/hub/spawn", {"profile": "big", "mem_limit": "64G", "image": ""})
    wait_until(ready.is_ready, 60)
    (service,) = engine.client.services.list()
    task = service.attrs["Spec"]["TaskTemplate"]
    assert task["Resources"]["Limits"] == {"NanoCPUs": 1_500_000_000, "MemoryBytes": 512 * MiB}
    assert task["Resources"]["Reservations"] == {
        "NanoCPUs": 100_000_000,
        "MemoryBytes": 64 * MiB,
    }
    assert "node.role == manager" in task["Placement"]["Constraints"]
    (shm,) = (each for each in task["ContainerSpec"]["Mounts"] if each["Type"] == "tmpfs")
    assert shm["TmpfsOptions"]["SizeBytes"] == 96 * MiB


def test_a_choice_is_kept_for_starts_without_one_and_no_longer(
    ready: HubProcess, engine: Lab
) -> None:
    start(ready, {"profile": "big"})
    stop(ready)
    start(ready)
    assert limits(engine)["MemoryBytes"] == 512 * MiB
    stop(ready)
    start(ready, {"user_options": {"profile": "small"}})
    assert limits(engine) == {"MemoryBytes": 256 * MiB}


def test_a_link_starts_an_entry_of_the_list(ready: HubProcess, engine: Lab) -> None:
    ready.browse("/hub/spawn?opt-profile=big&opt-cmd=evil")
    wait_until(ready.is_ready, 60)
    assert limits(engine)["MemoryBytes"] == 512 * MiB


@pytest.mark.parametrize("link", ["opt-profile=hidden", "profile=x", "profile=small&profile=big"])
def test_a_link_to_what_is_not_on_the_list_shows_the_form_and_why(
    ready: HubProcess, engine: Lab, link: str
) -> None:
    status, page = ready.browse(f"/hub/spawn?{link}")
    assert status == 400
    assert "is not one that you may choose here" in page
    assert 'name="profile"' in page
    assert not engine.client.services.list()


def test_a_form_that_was_tampered_with_is_shown_again_with_the_reason(
    ready: HubProcess, engine: Lab
) -> None:
    status, page = ready.browse("/hub/spawn", {"profile": "hidden"})
    assert status == 400
    assert "is not one that you may choose here" in page
    assert 'name="profile"' in page
    assert not engine.client.services.list()


@pytest.mark.parametrize(
    "body",
    [
        {"profile": "nosuch"},
        {"profile": "hidden"},
        {"profile": ["big"]},
        {"profile": {"slug": "big", "mem_limit": 2**40}},
        {"user_options": {"profile": 1}},
        {"image": "evil/image:1"},
        {"profile": "small", "image": ["a"]},
    ],
)
def test_the_api_starts_nothing_that_is_not_on_the_list(
    ready: HubProcess, engine: Lab, body: dict[str, Any]
) -> None:
    assert "may" in why_not(ready, body)
    assert not engine.client.services.list()


def test_what_else_the_api_is_sent_changes_nothing(ready: HubProcess, engine: Lab) -> None:
    start(
        ready,
        {
            "mem_limit": 2**40,
            "cmd": ["evil"],
            "environment": {"EVIL": "1"},
            "extra_container_spec": {"user": "root"},
            "volumes": {"/": "/host"},
            "notebook_profiles": [{"slug": "x", "title": "X"}],
        },
    )
    (service,) = engine.client.services.list()
    assert "evil" not in json.dumps(service.attrs).lower()
    assert '"/host"' not in json.dumps(service.attrs)
    assert limits(engine) == {"MemoryBytes": 256 * MiB}


def test_who_chose_what_is_gone_is_told_once_and_starts_again(
    ready: HubProcess, engine: Lab
) -> None:
    start(ready, {"profile": "big"})
    stop(ready)
    restart(ready, SMALL, HIDDEN)
    try:
        assert "Please choose again" in why_not(ready)
        start(ready)
        assert limits(engine) == {"MemoryBytes": 256 * MiB}
        stop(ready)
    finally:
        restart(ready, SMALL, BIG, HIDDEN)


HOOKS = """
def before(spawner):
    spawner.environment["SAID"] = str(spawner.user_options.get("profile"))
    spawner.mem_limit = "1T"
    spawner.cpu_limit = 0.7

def after(spawner):
    spawner.log.warning("after %s: %s", spawner.name or "the server", spawner.user.name)

async def ready(spawner, event):
    return {**event, "message": "ready, says the site"}

def asked(spawner, options):
    spawner.log.warning("asked: %s", options)

c.Spawner.pre_spawn_hook = before
c.DockerSpawner.post_stop_hook = after
c.SwarmSpawner.auth_state_hook = lambda spawner, state: spawner.log.warning("state: %s", state)
c.SwarmSpawner.progress_ready_hook = ready
c.SwarmSpawner.group_overrides = {"all": {"groups": ["none"], "spawner_override": {"port": 1}}}
c.SwarmSpawner.apply_user_options = asked
c.SwarmSpawner.consecutive_failure_limit = 1
"""


def test_hooks_of_the_site_are_called_and_a_choice_wins_over_them(
    ready: HubProcess, engine: Lab
) -> None:
    restart(ready, SMALL, BIG, site=HOOKS)
    try:
        # With a limit of one failure the hub would end if a wrong choice counted as one.
        why_not(ready, {"profile": "nosuch"})
        start(ready, {"profile": "small"})
        _, events = ready.call("GET", "/users/ann/server/progress")
        (service,) = engine.client.services.list()
        spec = service.attrs["Spec"]["TaskTemplate"]
        assert "SAID=small" in spec["ContainerSpec"]["Env"]
        wanted = {"MemoryBytes": 256 * MiB, "NanoCPUs": 700_000_000}
        assert spec["Resources"]["Limits"] == wanted
        assert "ready, says the site" in events
        stop(ready)
        log = ready.log.read_text()
        for line in ("after the server: ann", "state: None", "asked: {'profile': 'small'}"):
            assert line in log
    finally:
        restart(ready, SMALL, BIG, HIDDEN)


SITE = """
c.Spawner.mem_limit = lambda spawner: "192M"
c.DockerSpawner.cpu_limit = 0.6
c.Spawner.environment = {"WHOSE": "the site's"}
c.Spawner.args = ["8888"]
c.DockerSpawner.default_url = "/tree"
c.Spawner.shm_size = "80M"
c.DockerSpawner.volumes.update({"hubtest-more-{username}": "/more"})
"""


def test_options_of_the_site_win_over_the_profile_in_whichever_class(
    ready: HubProcess, engine: Lab
) -> None:
    ready.kill()
    (ready.config_dir / "conf.d" / "site.py").write_text(SITE)
    ready.environ = {"MEM_LIMIT": "1G", "CPU_LIMIT": "1", "SHM_SIZE": "64M", "DEFAULT_URL": "/lab"}
    ready.start()
    try:
        start(ready)
        (service,) = engine.client.services.list()
        spec = service.attrs["Spec"]["TaskTemplate"]
        container = spec["ContainerSpec"]
        assert limits(engine) == {"MemoryBytes": 192 * MiB, "NanoCPUs": 600_000_000}
        assert container["Args"] == ["small-server", "8888"]
        assert {"WHOSE=the site's", "JUPYTERHUB_DEFAULT_URL=/tree"} <= set(container["Env"])
        mounts = {each["Target"]: each for each in container["Mounts"]}
        assert set(mounts) == {"/home/jovyan", "/more", "/dev/shm"}
        assert mounts["/dev/shm"]["TmpfsOptions"]["SizeBytes"] == 80 * MiB
        stop(ready)
    finally:
        restart(ready, SMALL, BIG, HIDDEN)
