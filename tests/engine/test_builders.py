"""Our Dockerfiles under both builders: built, pushed, and deployed by digest."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from tests.kit import debian
from tests.kit.stack import Stack
from tests.kit.wait import wait_until

#: Builds our base, and the smallest of our images that needs a package mirror on top of it. A new
#: certificate each time: nothing comes from a cache. The image is then removed from the engine, so
#: that the service has to pull it.
_BUILD = """
import io, json, sys
from dataclasses import replace
from rich.console import Console
from jhswarmd import assets
from jhswarmd.credentials import tls
from jhswarmd.deploy.images import bases, builders, publish, recipes, registry
from jhswarmd.deploy.machine import local_engine
from jhswarmd.deploy.profiles import profile
from jhswarmd.deploy.progress import Progress
from jhswarmd.engine import registry_auth

name, service = sys.argv[1:]
settings = profile.load(name).settings
progress = Progress(Console(file=io.StringIO()))
client = local_engine.connect()
login = registry.known_login(client, settings.registry)
registry_auth.add(client.api, registry_auth.merge(None, login))
found = {"is_buildkit": builders.uses_buildkit(client)}
certificate, _ = tls.self_signed(f"{service}.example")
chosen = bases.ensure(client, settings, progress)
chosen = replace(chosen, certificates={**chosen.certificates, "test.crt": certificate})
base = chosen.with_certificates(chosen.hub)
files = recipes.read_files(assets.DOCKERFILES / "registry")
recipe = recipes.Recipe("registry", base.reference(), files)
with progress.step("Building") as step:
    recipes.build_recipe(client, base, base.reference(), step)
    found["image"], _ = publish._build_and_push(client, recipe, settings, step)
client.api.remove_image(client.images.get(recipe.reference()).id, force=True)
client.services.create(found["image"], name=service, command=["sleep", "infinity"])
found["certificate"] = certificate.decode()
print(json.dumps(found))
"""


@pytest.mark.every_engine
@pytest.mark.parametrize("builder", ["buildkit", "classic"])
def test_our_images_are_built_pushed_and_deployed_by_digest(
    stack: Stack, builder: str, tmp_path: Path
) -> None:
    (tmp_path / "cli-plugins").symlink_to(debian.client_plugins())
    env = {"DOCKER_CONFIG": str(tmp_path), "JHSWARMD_ENV_DIR": str(stack.env_dir)}
    if builder == "classic":
        env["DOCKER_BUILDKIT"] = "0"
    elif int(stack.lab.client.info()["ServerVersion"].partition(".")[0]) < 23:
        pytest.skip("the default builder of this engine is the classic one")
    name = f"built-{secrets.token_hex(4)}"
    try:
        result = stack.lab.run(
            [sys.executable, "-c", _BUILD, stack.profile, name], env=env, timeout_s=200
        )
        found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        assert found["is_buildkit"] == (builder == "buildkit")
        service = stack.lab.client.services.get(name)
        assert "@sha256:" in found["image"]
        (container,) = wait_until(lambda: stack.containers(service), 60)
        assert container.exec_run(["docker-registry", "--version"]).exit_code == 0
        bundle = container.exec_run(["cat", "/etc/ssl/certs/ca-certificates.crt"]).output.decode()
        assert found["certificate"].strip() in bundle
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            stack.lab.client.services.get(name).remove()
