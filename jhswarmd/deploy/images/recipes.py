"""One image to build: its inputs, the tag derived from them, and the build itself.

A tag is a hash of all inputs of its image, so an existing one needs no build, and an edited file is
never deployed under an old tag. The Dockerfiles work with every builder: no ``RUN --mount``, no
heredocs (``builders``).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import urllib.request
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import DockerException

from jhswarmd.deploy.images import builders
from jhswarmd.deploy.machine import host
from jhswarmd.deploy.progress import Step
from jhswarmd.engine import streams
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import EngineNotFound

#: Repositories are ``<registry>/jhswarmd/<name>``.
NAMESPACE = "jhswarmd"

_DIGEST_LENGTH = 12
#: The classic builder colours stderr red.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Recipe:
    """One image to build: its base and its build context."""

    name: str
    base: str
    context: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """Return the hash of all inputs."""
        return digest_of(self.base.encode(), *_flat(self.context))

    def reference(self, registry: str = "") -> str:
        """Return the image's full name; without a registry, that of the image on this engine."""
        prefix = f"{registry}/" if registry else ""
        return f"{prefix}{NAMESPACE}/{self.name}:{self.digest}"


def build_recipe(client: docker.DockerClient, recipe: Recipe, reference: str, step: Step) -> None:
    """Build an image and tag it ``reference``. Raises JhswarmdError."""
    arguments = {"BASE": recipe.base, **_site_arguments()}
    what = f"The image {recipe.name} cannot be built"

    def show(line: str) -> None:
        step.update(f"{recipe.name}: {line}")

    if builders.uses_buildkit(client):
        builders.build_by_command(_tar(recipe.context), reference, arguments, what, show)
        return
    action = f"build the image {recipe.name}"
    try:
        output = client.api.build(
            fileobj=_tar(recipe.context),
            custom_context=True,
            tag=reference,
            buildargs=arguments,
            rm=True,
            forcerm=True,
            decode=True,
        )
    except (DockerException, requests.RequestException) as exc:
        raise builders.refused(exc, what, action) from exc
    with engine_errors(action):
        for line in stream(output, what):
            show(line)


def is_on_engine(client: docker.DockerClient, reference: str) -> bool:
    """Return whether the engine has an image of this name or id."""
    try:
        with engine_errors(f"inspect the image {reference}"):
            client.images.get(reference)
    except EngineNotFound:
        return False
    return True


def stream(output: Iterable[Mapping[str, Any]], what: str) -> Iterable[str]:
    """Yield the output lines of a build, a pull or a push; raise the error that it reports.

    The engine answers 200 before it starts, so a failure is a line of the response, which is still
    read to its end, so that the connection is closed properly.
    """
    lines: deque[str] = deque(maxlen=host.TAIL_LINES)
    failure = ""
    for part in output:
        failure = failure or streams.failure_in(part)
        line = _COLOURS.sub("", str(part.get("stream") or part.get("status") or "")).strip()
        if line:
            lines.append(line)
            yield line
    if failure:
        raise builders.failed(what, _COLOURS.sub("", failure), lines)


def read_files(folder: Path) -> dict[str, bytes]:
    """Return a folder's files by relative path, without files of Python's cache and editors."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        # A wheel carries the deployment's files inside the package (assets.py).
        hidden = any(
            part.startswith(".") or part in ("__pycache__", "_assets") for part in name.parts
        )
        if path.is_file() and not hidden and path.suffix != ".pyc":
            found[name.as_posix()] = path.read_bytes()
    return found


def digest_of(*parts: bytes) -> str:
    """Return a short hash of these parts, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        # The length distinguishes two parts from their concatenation.
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _flat(context: Mapping[str, bytes]) -> Iterable[bytes]:
    for name in sorted(context):
        yield name.encode()
        yield context[name]


def _tar(context: Mapping[str, bytes]) -> io.BytesIO:
    """Return the build context; equal content gives equal bytes, so the cache is used."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(context):
            info = tarfile.TarInfo(name)
            info.size = len(context[name])
            # By content: not every way to install a wheel keeps file modes.
            info.mode = 0o755 if context[name].startswith(b"#!") else 0o644
            archive.addfile(info, io.BytesIO(context[name]))
    buffer.seek(0)
    return buffer


def _site_arguments() -> dict[str, str]:
    """Return this machine's proxies and package indexes, which do not affect the content.

    Builders predefine the proxy arguments and keep them out of the image. An index is visible in
    the image's history, so one with a login in its address is not passed on.
    """
    proxies = urllib.request.getproxies()
    found = {f"{key}_proxy": proxies[key] for key in ("http", "https", "no") if key in proxies}
    for key in ("PIP_INDEX_URL", "NPM_CONFIG_REGISTRY"):
        value = os.environ.get(key) or os.environ.get(key.lower(), "")
        if value and "@" not in value:
            found[key] = value
    return found
