"""Nothing is mounted below a symlink of the image: newer engines refuse archives of such a
container."""

import asyncio
from pathlib import PurePosixPath
from typing import Any

import pytest
from docker.types import Mount

from jhswarmd.mount_targets import canonical
from jhswarmd.settings.settings import PublishMode, Settings
from jhswarmd.spawner.service_spec import create_request
from jhswarmd.spawner.swarm import SwarmSpawner
from tests.unit.deploy.test_stack_file import rendered
from tests.unit.spawner.test_swarm import make_spawner

LINKS = (PurePosixPath("/var/run"), PurePosixPath("/var/lock"))


@pytest.mark.parametrize(
    ("path", "lands_at"),
    [
        ("/var/run/docker.sock", "/run/docker.sock"),
        ("/var/run", "/run"),
        ("/var/run/", "/run"),
        ("//var//run/x", "/run/x"),
        ("/var/./run/x", "/run/x"),
        ("/var/lock/x/y", "/run/lock/x/y"),
        ("/var/lock", "/run/lock"),
        ("/var/runner/x", "/var/runner/x"),
        ("/srv/var/run/x", "/srv/var/run/x"),
        ("/home/jovyan/", "/home/jovyan"),
        ("oauth_client_secret", "oauth_client_secret"),
    ],
)
def test_a_target_is_where_it_lands(path: str, lands_at: str) -> None:
    assert canonical(path) == lands_at
    assert canonical(lands_at) == lands_at


@pytest.mark.parametrize("mode", list(PublishMode))
def test_nothing_of_the_stack_is_mounted_below_a_symlink(mode: PublishMode) -> None:
    settings = Settings.from_environ(
        {
            "AUTHENTICATOR_TYPE": "github",
            "OAUTH_CLIENT_ID": "x",
            "AUTHENTICATOR_ALLOWED_USERS": "ann",
            "OAUTH_CLIENT_SECRET_FILE_PATH": "/var/run/secrets/oauth",
        }
    )
    services = rendered(settings, mode)["services"]
    targets = [
        PurePosixPath(each["target"])
        for service in services.values()
        for each in [*service.get("volumes", []), *service.get("secrets", [])]
    ]
    assert PurePosixPath("/run/secrets/oauth") in targets
    assert PurePosixPath("/run/docker.sock") in targets
    assert not [each for each in targets if set(LINKS) & {each, *each.parents}]
    # The hub reads the secret where it is mounted.
    environment = services["hub"]["environment"]
    assert environment["OAUTH_CLIENT_SECRET_FILE_PATH"] == "/run/secrets/oauth"


def test_what_a_profile_mounts_is_where_it_lands() -> None:
    settings = Settings.from_environ(
        {
            "NOTEBOOK_DIR": "/var/run/home/",
            "SHARED_VOLUMES": "data:/var/run/data:ro; /srv/x:/var/lock/x:rw",
        }
    )
    assert settings.notebook_dir == "/run/home"
    assert [each.target for each in settings.shared_volumes] == ["/run/data", "/run/lock/x"]
    assert Settings.from_environ(settings.to_environ()) == settings


def test_two_names_of_one_place_are_one_place() -> None:
    with pytest.raises(ValueError, match="/run/x is named twice"):
        Settings.from_environ({"SHARED_VOLUMES": "aa:/run/x:ro; bb:/var/run/x:ro"})
    with pytest.raises(ValueError, match="over NOTEBOOK_DIR"):
        Settings.from_environ({"NOTEBOOK_DIR": "/var/run/x", "SHARED_VOLUMES": "bb:/run/x:ro"})


def test_what_the_sites_own_configuration_mounts_is_where_it_lands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SwarmSpawner, "get_env", lambda spawner: {})
    monkeypatch.setattr(SwarmSpawner, "get_args", lambda spawner: [])
    own = Mount("/var/run/own", "own")
    sites: tuple[dict[str, Any], ...] = (
        {"volumes": {"own": "/var/run/own"}},
        {"read_only_volumes": {"/own": "/var/run/own"}},
        {"extra_container_spec": {"mounts": [own]}},
        {"extra_container_spec": {"mounts": ["own:/var/run/own:ro"]}},
        {"extra_container_spec": {"mounts": [{"type": "bind", "target": "/var/run/own"}]}},
    )
    for options in sites:
        spawner = make_spawner(**options)
        request = asyncio.run(create_request(spawner, {}))
        (mount,) = request["task_template"]["ContainerSpec"]["Mounts"]
        assert mount.get("Target", mount.get("target")) == "/run/own"
    assert own["Target"] == "/var/run/own"
