"""Notebooks from a registry that wants a login, on a real engine and a real registry."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from jhswarmd.deploy import images
from jhswarmd.deploy.progress import Progress
from jhswarmd.settings import Settings
from jhswarmd.spawner.failure import StartFailed
from tests.engine.spawner_kit import Flaky, start_and_clean_up, the_service
from tests.lab import Lab
from tests.wait import wait_until

PORT = 5077
REGISTRY = f"localhost:{PORT}"
IMAGE = f"{REGISTRY}/private/notebook:1"
#: Passwords and their bcrypt hashes, the only ones that the registry takes.
HASHES = {
    "first-canary-9d1f": "$2b$05$b9/FSmD.91IlssX3.8OtjOBhgAlNbYR2PuVqqP0yZfLLYYL5LZc9m",
    "second-canary-77ab": "$2b$05$4R5moVW71xdAjiq7tOQRcukQIZmzP6F5oRg0pzdcvWHPoVYEJu7qC",
}
FIRST, SECOND = HASHES
_CONFIG = """\
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: "0.0.0.0:5000"}
auth: {htpasswd: {realm: lab, path: /etc/htpasswd}}
"""


@dataclass
class PrivateRegistry:
    """A registry that holds IMAGE, and gives it to who knows the password of the day."""

    engine: Lab
    htpasswd: Path
    logins: Path

    def want(self, password: str) -> None:
        self.htpasswd.write_text(f"robot:{HASHES[password]}\n")

    def give(self, password: str) -> None:
        """Put the login into the file, as the engine would put a secret."""
        auth = base64.b64encode(f"robot:{password}".encode()).decode()
        self.logins.write_text(json.dumps({"auths": {REGISTRY: {"auth": auth}}}))

    def forget_image(self) -> None:
        """See that the next notebook's node has to pull."""

        def remove() -> bool:
            self.engine.client.images.remove(IMAGE, force=True)
            return True

        # A notebook that has just ended still uses it.
        wait_until(remove, 30, ignoring=(docker.errors.APIError,))


@pytest.fixture(scope="module")
def running(engine: Lab, small_image: str, tmp_path_factory: Any) -> Iterator[PrivateRegistry]:
    folder = tmp_path_factory.mktemp("registry")
    registry = PrivateRegistry(engine, folder / "htpasswd", folder / "logins")
    registry.want(FIRST)
    (folder / "config.yml").write_text(_CONFIG)
    image = images.build_local(engine.client, Settings(), Progress(), "registry")
    container = engine.client.containers.run(
        image,
        detach=True,
        ports={"5000/tcp": ("127.0.0.1", PORT)},
        volumes={
            str(folder / "config.yml"): {"bind": "/etc/jhswarmd/registry.yml", "mode": "ro"},
            str(registry.htpasswd): {"bind": "/etc/htpasswd", "mode": "ro"},
        },
    )
    try:
        engine.client.images.get(small_image).tag(IMAGE)
        login = {"username": "robot", "password": FIRST}

        def push() -> bool:
            repository, _, tag = IMAGE.rpartition(":")
            lines = engine.client.api.push(
                repository, tag, stream=True, decode=True, auth_config=login
            )
            return not any("error" in line for line in lines)

        wait_until(push, 30, what="the registry takes the image")
        yield registry
    finally:
        container.remove(force=True, v=True)
        with contextlib.suppress(docker.errors.ImageNotFound):
            engine.client.images.remove(IMAGE, force=True)


@pytest.fixture
def registry(running: PrivateRegistry) -> PrivateRegistry:
    running.want(FIRST)
    running.logins.unlink(missing_ok=True)
    running.engine.client.images.get("jhswarmd-lab/small:1").tag(IMAGE)
    running.forget_image()
    return running


@pytest.fixture
def make_private(make: Any, registry: PrivateRegistry, client: Flaky) -> Any:
    # The first look at the registry of a password takes the time of its slow hash.
    client._client.timeout = 30
    return lambda: make(image=IMAGE, registry_login_file=str(registry.logins))


def fail(spawner: Any) -> StartFailed:
    with pytest.raises(StartFailed) as caught:
        asyncio.run(start_and_clean_up(spawner))
    return caught.value


def start_and_stop(spawner: Any) -> None:
    async def both() -> None:
        await spawner.start()
        await spawner.stop()

    asyncio.run(both())


def test_without_a_login_the_start_fails_in_words(make_private: Any) -> None:
    failure = fail(make_private())
    assert failure.reason == "registry_refused"
    assert "may not pull" in failure.jupyterhub_message
    assert "no basic auth credentials" in failure.log_message
    assert "registry_config.json" in failure.log_message


def test_the_login_is_read_anew_at_each_start(make_private: Any, registry: PrivateRegistry) -> None:
    spawner = make_private()
    registry.give(FIRST)
    start_and_stop(spawner)
    registry.forget_image()
    registry.want(SECOND)
    assert fail(spawner).reason == "registry_refused"  # the node needs the new one, and had none
    registry.give(SECOND)
    start_and_stop(spawner)


def test_a_login_shows_nowhere(
    make_private: Any,
    registry: PrivateRegistry,
    client: Flaky,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    registry.want(SECOND)
    registry.give(FIRST)
    spawner = make_private()
    failure = fail(spawner)
    registry.give(SECOND)
    asyncio.run(spawner.start())
    seen = [caplog.text, str(vars(failure)), repr(failure), repr(failure.__context__)]
    seen += [json.dumps(client.inspect_service(the_service(client)["ID"]))]
    seen += [json.dumps(client.tasks()), json.dumps(spawner.get_state())]
    asyncio.run(spawner.stop())
    for password in HASHES:
        encoded = base64.b64encode(f"robot:{password}".encode()).decode()
        assert not [text for text in seen if password in text or encoded in text]


def test_a_broken_file_of_logins_starts_nothing(
    make_private: Any, registry: PrivateRegistry, client: Flaky
) -> None:
    registry.logins.write_text('{"auths": {"canary')
    failure = fail(make_private())
    assert failure.reason == "configuration"
    assert "canary" not in failure.log_message
    assert client.services() == []
