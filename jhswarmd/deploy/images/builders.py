"""Image builders: BuildKit through the ``docker`` command, else the classic builder.

BuildKit is used if both engine and command have it, because the classic builder is deprecated and
will be removed. Both get the same context and arguments, and bases that are already on the engine,
so that neither needs a registry login. ``DOCKER_BUILDKIT=0`` selects the classic builder, as with
``docker`` itself.
"""

from __future__ import annotations

import functools
import io
import os
import re
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import docker
from docker.errors import APIError

from jhswarmd.deploy.machine import host
from jhswarmd.engine.errors import engine_errors, translate
from jhswarmd.errors import JhswarmdError

#: The builder version of an engine that uses BuildKit (23 and later, unless disabled).
_BUILDKIT = "2"
#: The prefix of each line of BuildKit's plain output: step number, and seconds from its start.
_STEP = re.compile(r"^#\d+ (?:\d+\.\d+ )?")
#: After this line, BuildKit repeats the error, and shows the part of the Dockerfile.
_RULE = "------"

#: Shows one line of a build's output.
Show = Callable[[str], None]


def uses_buildkit(client: docker.DockerClient) -> bool:
    """Return whether builds on this engine use the ``docker`` command. Raises EngineError."""
    if os.environ.get("DOCKER_BUILDKIT") == "0" or not _has_buildx():
        return False
    with engine_errors("read the engine's builder version"):
        ping = client.api.get(f"{client.api.base_url}/_ping", timeout=client.api.timeout)
    return bool(ping.headers.get("Builder-Version") == _BUILDKIT)


@functools.cache
def _has_buildx() -> bool:
    try:
        found = subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False)
    except OSError:
        return False
    return found.returncode == 0


def build_by_command(
    context: io.BytesIO, reference: str, arguments: Mapping[str, str], what: str, show: Show
) -> None:
    """Build with BuildKit. Raises JhswarmdError with the last output of the failed step."""
    with tempfile.TemporaryFile() as file:
        file.write(context.getbuffer())
        file.seek(0)
        lines: deque[str] = deque(maxlen=host.TAIL_LINES)
        why, is_finished = "", False
        with subprocess.Popen(
            _command(reference, arguments),
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(os.environ, arguments),
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                is_finished = is_finished or line.rstrip() == _RULE
                if line.startswith("ERROR:"):
                    why = line.removeprefix("ERROR:").strip()
                text = _STEP.sub("", line).strip()
                if text and not is_finished:
                    lines.append(text)
                    show(text)
    if process.returncode != 0:
        raise failed(what, why or f"'docker buildx' exited with code {process.returncode}", lines)


def _command(reference: str, arguments: Mapping[str, str]) -> list[str]:
    command = ["docker", "buildx", "build", "--progress", "plain", "--tag", reference]
    # The engine's own builder: others do not store images in the engine.
    command += ["--builder", "default", "--load"]
    # A plain image, like the classic builder's.
    command += ["--provenance=false", "--sbom=false"]
    for name in sorted(arguments):
        # Without the value, which comes from the environment: other users cannot read that.
        command += ["--build-arg", name]
    return [*command, "-"]


def _environment(environ: Mapping[str, str], arguments: Mapping[str, str]) -> dict[str, str]:
    # Use the engine at DOCKER_HOST or the standard socket, as for every other request, even if the
    # command has another context.
    return {**environ, **arguments, "DOCKER_CONTEXT": "default"}


def classic_is_gone(exc: Exception) -> bool:
    """Tell whether the engine refused the request itself because it has no classic builder.

    All engines up to 29.7.2 have it (moby, daemon/server/router/build), so that no text of a real
    refusal is known.
    """
    if not isinstance(exc, APIError) or exc.response is None:
        return False
    message = str(exc.explanation or "").lower()
    names_builder = re.search(
        r"buildkit|buildx|(?:classic|legacy) builder|builder version", message
    )
    return bool(names_builder or exc.response.status_code in (404, 405, 410, 501))


def refused(exc: Exception, what: str, action: str) -> JhswarmdError:
    """Return the error for a build that the engine refused to start."""
    if not classic_is_gone(exc):
        return translate(exc, action)
    return JhswarmdError(
        what,
        why=f"this engine has no classic builder ({getattr(exc, 'explanation', exc)})",
        remedy="Install BuildKit's command ('apt-get install docker-buildx' on Debian 13 and "
        "later; Docker's own packages call it docker-buildx-plugin), and run this again.",
    )


def failed(what: str, why: str, lines: Sequence[str] | deque[str]) -> JhswarmdError:
    """Return the error for a build, a push or a pull that failed in progress."""
    return JhswarmdError(
        what,
        why=why,
        output=lines,
        remedy="Run this again: completed steps are kept. The usual cause is a mirror or a "
        "registry that did not answer.",
    )
