"""The last log lines of a container of the stack, to explain its failure.

They are safe to show: anything that looks like a secret is hidden (``jhswarmd.log_tail``).
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping
from typing import Any

import docker

from jhswarmd import labels, log_tail
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import JhswarmdError

#: Seconds for the log of a container on another node: the engine waits for unresponsive nodes.
REMOTE_TIMEOUT_S = 5.0


def of_task(client: docker.DockerClient, task: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the last log lines of a task's container; none if they are not available.

    The output of a failing health check comes last. ``task`` is in the engine's format, or None.
    """
    if task is None:
        return ()
    text = _read_local(client, str(task["ID"]))
    if text is None:
        text = _read_remote(str(task["ID"]))
    spec = (task.get("Spec") or {}).get("ContainerSpec") or {}
    environ = dict(each.partition("=")[::2] for each in spec.get("Env") or ())
    return log_tail.last_lines(text, log_tail.secrets_of(environ))


def _read_local(client: docker.DockerClient, task_id: str) -> str | None:
    """Return the log of a container on this node; None: this node has no container of that task.

    Reads from the container itself, which is fast; a service's log may wait for its nodes.
    """
    api = client.api
    try:
        with engine_errors("read a container's log"):
            found = api.containers(all=True, filters={"label": f"{labels.TASK_ID}={task_id}"})
            if not found:
                return None
            container = found[0]["Id"]
            text: str = api.logs(container, tail=log_tail.LINES).decode(errors="replace")
            health = (api.inspect_container(container)["State"].get("Health") or {}).get("Log")
    except JhswarmdError:
        return None
    last = health[-1] if health else {}
    output = " ".join(str(last.get("Output") or "").split())
    return f"{text}\nhealth check: {output}" if last.get("ExitCode") and output else text


def _read_remote(task_id: str) -> str:
    command = ["docker", "service", "logs", "--raw", "--tail", str(log_tail.LINES), task_id]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        result = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=REMOTE_TIMEOUT_S,
        )
        if result.returncode == 0:
            return result.stdout.decode(errors="replace")
    return ""
