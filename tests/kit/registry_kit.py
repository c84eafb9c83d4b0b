"""A registry that wants a login, for tests on a real engine."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from jhswarmd.deploy.images import publish
from jhswarmd.deploy.progress import Progress
from jhswarmd.settings.settings import Settings
from tests.kit.lab import Lab
from tests.kit.wait import wait_until

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
def running_registry(
    engine: Lab, small_image: str, tmp_path_factory: Any
) -> Iterator[PrivateRegistry]:
    folder = tmp_path_factory.mktemp("registry")
    registry = PrivateRegistry(engine, folder / "htpasswd", folder / "logins")
    registry.want(FIRST)
    (folder / "config.yml").write_text(_CONFIG)
    image = publish.build_local(engine.client, Settings(), Progress(), "registry")
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
def registry(running_registry: PrivateRegistry) -> PrivateRegistry:
    running_registry.want(FIRST)
    running_registry.logins.unlink(missing_ok=True)
    running_registry.engine.client.images.get("jhswarmd-lab/small:1").tag(IMAGE)
    running_registry.forget_image()
    return running_registry
