"""How an image is built: by BuildKit through the ``docker`` command, else by the classic builder.

BuildKit is asked for where both sides have it, for the classic builder is deprecated and will be
removed. Both get the same context and arguments, and bases that the engine holds already, so that
neither needs a registry's login. ``DOCKER_BUILDKIT=0`` asks for the classic builder, as it does of
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

#: What an engine says whose own builder is BuildKit (23 and later, unless it is switched off).
_BUILDKIT = "2"
#: Before each line of BuildKit's plain output: the step's number, and seconds from its start.
_STEP = re.compile(r"^#\d+ (?:\d+\.\d+ )?")
#: After this line it repeats what failed, and shows the part of the Dockerfile.
_RULE = "------"

#: Shows one line of a build's output.
Show = Callable[[str], None]


def uses_buildkit(client: docker.DockerClient) -> bool:
    """Tell whether builds of this engine go through the ``docker`` command. Raises EngineError."""
    if os.environ.get("DOCKER_BUILDKIT") == "0" or not _has_buildx():
        return False
    with engine_errors("ask which builder the engine has"):
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
    """Build by BuildKit. Raises JhswarmdError with the last lines that the failed step wrote."""
    with tempfile.TemporaryFile() as file:
        file.write(context.getbuffer())
        file.seek(0)
        lines: deque[str] = deque(maxlen=host.TAIL_LINES)
        why, is_over = "", False
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
                is_over = is_over or line.rstrip() == _RULE
                if line.startswith("ERROR:"):
                    why = line.removeprefix("ERROR:").strip()
                text = _STEP.sub("", line).strip()
                if text and not is_over:
                    lines.append(text)
                    show(text)
    if process.returncode != 0:
        raise failed(what, why or f"'docker buildx' ended with {process.returncode}", lines)


def _command(reference: str, arguments: Mapping[str, str]) -> list[str]:
    command = ["docker", "buildx", "build", "--progress", "plain", "--tag", reference]
    # The engine's own builder: the images of others do not land in the engine.
    command += ["--builder", "default", "--load"]
    # A plain image, as the classic builder makes it.
    command += ["--provenance=false", "--sbom=false"]
    for name in sorted(arguments):
        # Without its value, which comes from the environment: other users see no environment.
        command += ["--build-arg", name]
    return [*command, "-"]


def _environment(environ: Mapping[str, str], arguments: Mapping[str, str]) -> dict[str, str]:
    # The engine that DOCKER_HOST or the standard socket leads to, as for every other request, also
    # where the command has another context.
    return {**environ, **arguments, "DOCKER_CONTEXT": "default"}


def classic_is_gone(exc: Exception) -> bool:
    """Tell whether the engine refused the request itself because it has no classic builder.

    All engines up to 29.7.2 have it (moby, daemon/server/router/build), so that no text of a real
    refusal is known.
    """
    if not isinstance(exc, APIError) or exc.response is None:
        return False
    words = str(exc.explanation or "").lower()
    is_about_it = re.search(r"buildkit|buildx|(?:classic|legacy) builder|builder version", words)
    return bool(is_about_it or exc.response.status_code in (404, 405, 410, 501))


def refused(exc: Exception, what: str, doing: str) -> JhswarmdError:
    """Return the error for a build that the engine refused before it began."""
    if not classic_is_gone(exc):
        return translate(exc, doing)
    return JhswarmdError(
        what,
        why=f"this engine has no classic builder ({getattr(exc, 'explanation', exc)})",
        remedy="Install BuildKit's command ('apt-get install docker-buildx' on Debian 13 and "
        "later; Docker's own packages call it docker-buildx-plugin), and run this again.",
    )


def failed(what: str, why: str, lines: Sequence[str] | deque[str]) -> JhswarmdError:
    """Return the error for a build, a push or a pull that failed under way."""
    return JhswarmdError(
        what,
        why=why,
        output=lines,
        remedy="Run this again: what is finished is kept. A mirror or a registry that did not "
        "answer is the usual reason.",
    )
