"""What a container of the stack wrote last: in its own words, what went wrong with it.

The words are fit to be shown: what looks like a secret is hidden (``jhswarmd.log_tail``).
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

#: Seconds for the log of a container on another node: the engine waits for nodes that are silent.
REMOTE_WITHIN_S = 5.0


def of_task(client: docker.DockerClient, task: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the last lines that a task's container wrote; none where they cannot be had.

    Those of a health check that fails come last. ``task`` is the engine's; None: there is none.
    """
    if task is None:
        return ()
    text = _read_here(client, str(task["ID"]))
    if text is None:
        text = _read_elsewhere(str(task["ID"]))
    spec = (task.get("Spec") or {}).get("ContainerSpec") or {}
    environ = dict(each.partition("=")[::2] for each in spec.get("Env") or ())
    return log_tail.last_lines(text, log_tail.secrets_of(environ))


def _read_here(client: docker.DockerClient, task_id: str) -> str | None:
    """Return what a container of this node wrote; None: this node has none of that task.

    Asked of the container itself, which is quick; the log of a service may wait for its nodes.
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
    said = " ".join(str(last.get("Output") or "").split())
    return f"{text}\nhealth check: {said}" if last.get("ExitCode") and said else text


def _read_elsewhere(task_id: str) -> str:
    command = ["docker", "service", "logs", "--raw", "--tail", str(log_tail.LINES), task_id]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        result = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=REMOTE_WITHIN_S,
        )
        if result.returncode == 0:
            return result.stdout.decode(errors="replace")
    return ""
