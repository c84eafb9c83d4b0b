"""The choice of the builder, and its requests and answers."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from docker.errors import APIError
from rich.console import Console

from jhswarmd import assets
from jhswarmd.deploy.images import builders, recipes
from jhswarmd.deploy.progress import Step
from jhswarmd.errors import EngineError, EngineUnavailable, JhswarmdError

#: As buildx 0.29 writes it.
FAILED = """#0 building with "default" instance using docker driver
#1 [internal] load build definition from Dockerfile
#1 DONE 0.0s
#5 [2/2] RUN make it
#5 0.151 a first line
#5 0.162 no such package: x
#5 ERROR: process "/bin/sh -c make it" did not complete successfully: exit code: 3
------
 > [2/2] RUN make it:
0.162 no such package: x
------
Dockerfile:3
--------------------
   3 | >>> RUN make it
--------------------
ERROR: failed to solve: process "/bin/sh -c make it" did not complete successfully: exit code: 3
"""
RECIPE = recipes.Recipe("hub", "jhswarmd/debian:1", {"Dockerfile": b"ARG BASE\nFROM ${BASE}\n"})


class FakeApi:
    """An engine that answers a ping and a build request."""

    base_url = "http+docker://localhost"
    timeout = 60

    def __init__(self, builder: str | None = "2") -> None:
        self._headers = {} if builder is None else {"Builder-Version": builder}
        self.built: list[dict[str, Any]] = []
        self.refusal: Exception | None = None

    def get(self, url: str, timeout: float) -> Any:
        assert url.endswith("/_ping")
        return SimpleNamespace(headers=self._headers)

    def build(self, **options: Any) -> Any:
        if self.refusal:
            raise self.refusal
        self.built.append(options)
        return iter([{"stream": "Step 1/1"}])


def client_of(api: FakeApi) -> Any:
    return SimpleNamespace(api=api)


@pytest.fixture(autouse=True)
def _as_new(monkeypatch: pytest.MonkeyPatch) -> None:
    builders._has_buildx.cache_clear()
    for name in ("DOCKER_BUILDKIT", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def step() -> Step:
    return Step(Console(file=io.StringIO()), "Building")


@pytest.fixture
def docker_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A docker command that has buildx; it records its input, and prints FAILED on request."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "docker"
    command.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "if sys.argv[1:] == ['buildx', 'version']: sys.exit(0)\n"
        "given = {'argv': sys.argv[1:], 'env': dict(os.environ), 'length':\n"
        "         len(sys.stdin.buffer.read())}\n"
        f"open({str(tmp_path / 'given.json')!r}, 'w').write(json.dumps(given))\n"
        f"said = {str(tmp_path / 'said')!r}\n"
        "if os.path.exists(said):\n"
        "    print(open(said).read(), file=sys.stderr); sys.exit(1)\n"
    )
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return tmp_path


def test_buildkit_is_used_if_command_and_engine_have_it(docker_command: Path) -> None:
    assert builders.uses_buildkit(client_of(FakeApi("2")))


@pytest.mark.parametrize("version", ["1", None])
def test_an_engine_without_buildkit_uses_the_classic_builder(
    docker_command: Path, version: str | None
) -> None:
    assert not builders.uses_buildkit(client_of(FakeApi(version)))


def test_the_classic_builder_can_be_requested(
    docker_command: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    assert not builders.uses_buildkit(client_of(FakeApi("2")))


@pytest.mark.parametrize("command", [None, "#!/bin/sh\nexit 1\n"])
def test_without_the_command_or_buildx_the_classic_builder_is_used(
    command: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    if command:
        (tmp_path / "docker").write_text(command)
        (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    api = FakeApi("2")
    assert not builders.uses_buildkit(client_of(api))
    recipes.build_recipe(client_of(api), RECIPE, "jhswarmd/hub:1", step)
    (built,) = api.built
    assert built["buildargs"] == {"BASE": "jhswarmd/debian:1"}
    assert built["tag"] == "jhswarmd/hub:1"


def test_both_builders_get_the_same(
    docker_command: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    monkeypatch.setenv("http_proxy", "http://user:swordfish@proxy.example:3128")
    monkeypatch.setenv("PIP_INDEX_URL", "https://pypi.example/simple")
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://user:swordfish@npm.example")
    api = FakeApi("2")
    recipes.build_recipe(client_of(api), RECIPE, "jhswarmd/hub:1", step)
    assert not api.built
    given = json.loads((docker_command / "given.json").read_text())
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    recipes.build_recipe(client_of(api), RECIPE, "jhswarmd/hub:1", step)
    (classic,) = api.built
    argv = given["argv"]
    named = [argv[at + 1] for at, word in enumerate(argv) if word == "--build-arg"]
    assert named == sorted(classic["buildargs"])
    assert {name: given["env"][name] for name in named} == classic["buildargs"]
    assert argv[argv.index("--tag") + 1] == classic["tag"] == "jhswarmd/hub:1"
    assert given["length"] == len(classic["fileobj"].getvalue())
    # An argument list is visible in the process table.
    assert not [word for word in argv if "swordfish" in word]
    # An index with a login must not even be in the image's history.
    assert "NPM_CONFIG_REGISTRY" not in named


def test_the_command_builds_on_the_same_engine_as_everything_else(
    docker_command: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    monkeypatch.setenv("DOCKER_HOST", "unix:///srv/engine.sock")
    recipes.build_recipe(client_of(FakeApi()), RECIPE, "jhswarmd/hub:1", step)
    given = json.loads((docker_command / "given.json").read_text())
    assert given["env"]["DOCKER_CONTEXT"] == "default"
    assert given["env"]["DOCKER_HOST"] == "unix:///srv/engine.sock"
    assert given["argv"][given["argv"].index("--builder") + 1] == "default"


def test_a_failed_build_shows_the_last_output_of_its_step(docker_command: Path, step: Step) -> None:
    (docker_command / "said").write_text(FAILED)
    with pytest.raises(JhswarmdError) as caught:
        recipes.build_recipe(client_of(FakeApi()), RECIPE, "jhswarmd/hub:1", step)
    assert caught.value.what == "The image hub cannot be built"
    assert caught.value.why.startswith("failed to solve: process")
    assert caught.value.output[-3:-1] == ("a first line", "no such package: x")
    assert not [line for line in caught.value.output if "Dockerfile:3" in line]


def test_a_build_that_exits_without_output_is_a_failure(docker_command: Path, step: Step) -> None:
    (docker_command / "said").write_text("")
    with pytest.raises(JhswarmdError, match="'docker buildx' exited with code 1"):
        recipes.build_recipe(client_of(FakeApi()), RECIPE, "jhswarmd/hub:1", step)


def refusal(status: int, explanation: str) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("refused", response=response, explanation=explanation)


@pytest.mark.parametrize(
    ("status", "explanation"),
    [
        (404, "page not found"),
        (501, "not implemented"),
        (400, "the classic builder has been removed, use BuildKit"),
        (500, "legacy builder is not supported"),
    ],
)
def test_an_engine_without_the_classic_builder_says_what_to_install(
    status: int, explanation: str, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    api = FakeApi()
    api.refusal = refusal(status, explanation)
    with pytest.raises(JhswarmdError) as caught:
        recipes.build_recipe(client_of(api), RECIPE, "jhswarmd/hub:1", step)
    assert "docker-buildx" in caught.value.remedy
    assert explanation in caught.value.why


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (refusal(500, "no space left on device"), EngineUnavailable),
        (refusal(400, "invalid tag"), EngineError),
        (requests.ConnectionError("refused"), EngineUnavailable),
    ],
)
def test_any_other_refusal_keeps_the_engines_message(
    refused: Exception, kind: type, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    api = FakeApi()
    api.refusal = refused
    with pytest.raises(kind) as caught:
        recipes.build_recipe(client_of(api), RECIPE, "jhswarmd/hub:1", step)
    assert "buildx" not in caught.value.remedy


@pytest.mark.parametrize("name", ["base", "hub", "proxy", "registry", "singleuser"])
def test_every_builder_understands_our_dockerfiles(name: str) -> None:
    text = (assets.DOCKERFILES / name / "Dockerfile").read_text()
    assert "RUN --" not in text
    assert "<<" not in text
    assert "# syntax" not in text.lower()
