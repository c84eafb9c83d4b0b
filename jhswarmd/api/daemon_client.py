"""Client of the daemon: over its socket in its container, through the engine from a host.

From a host, a fixed command runs in the daemon's container. The request is sent on standard input,
because an argument list is visible in events and in the process table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import docker
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from jhswarmd import labels
from jhswarmd.api import control_socket
from jhswarmd.engine import streams
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import DaemonBusy, EngineConflict, EngineNotFound, EngineUnavailable

#: Seconds for a daemon to restart, or for a change by another caller to finish.
RESTART_TIMEOUT_S = 40.0


def call(
    client: docker.DockerClient,
    stack: str,
    command: str,
    arguments: Mapping[str, Any] | None = None,
) -> Any:
    """Send a command to this node's daemon, and return its result.

    Raises DaemonBusy when no daemon answers, JhswarmdError for an error in the answer.
    """
    if control_socket.SOCKET.exists():
        return control_socket.ask(command, arguments)
    name = labels.service_name(stack, "jhswarmd")
    request = json.dumps({"command": command, "arguments": dict(arguments or {})}) + "\n"
    with engine_errors("reach the daemon"):
        found = client.api.containers(filters={"label": f"{labels.SERVICE_NAME}={name}"})
        if not found:
            raise DaemonBusy(
                "No daemon runs on this node",
                remedy=f"Run the command on a manager listed by 'docker service ps {name}'.",
            )
        output = streams.run(
            client.api,
            found[0]["Id"],
            ["jhswarmd", "ctl"],
            request.encode(),
            timeout_s=control_socket.TIMEOUT_S + 5,
        )
    try:
        answer = json.loads(output)
    except ValueError:
        raise DaemonBusy(
            "The daemon does not answer",
            remedy=f"See 'docker service logs {name}'.",
        ) from None
    return control_socket.result_of(answer)


def call_with_retry(
    client: docker.DockerClient,
    stack: str,
    command: str,
    arguments: Mapping[str, Any] | None = None,
) -> Any:
    """Like ``call``; retries for ``RESTART_TIMEOUT_S`` seconds while the daemon is down or busy.

    The command must be idempotent: an answer may be lost.
    """
    return Retrying(
        # Its container is being replaced: missing, or stopping.
        retry=retry_if_exception_type(
            (DaemonBusy, EngineNotFound, EngineConflict, EngineUnavailable)
        ),
        stop=stop_after_delay(RESTART_TIMEOUT_S),
        wait=wait_random_exponential(multiplier=0.1, max=0.5),
        reraise=True,
    )(call, client, stack, command, arguments)
