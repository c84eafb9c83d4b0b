"""Answers of the engine that are streams, each read to its end and closed.

docker-py makes the socket of such an answer and the answer refer to each other, and closes neither.
The garbage collector then takes the socket first as often as not, and the answer, which is closed
after it, complains on standard error (from Python 3.13 on). Closed here, the answer first, both are
gone before that.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import docker
import requests
from docker.errors import create_api_error_from_http_exception
from docker.utils.socket import STDOUT, frames_iter

from jhswarmd.errors import EngineError

#: A frame of output: which stream, three bytes of nothing, and its length.
_HEADER_LENGTH = 8


def raise_for_status(response: requests.Response) -> None:
    """Raise what docker-py raises for an answer that is an error."""
    try:
        response.raise_for_status()
    except requests.HTTPError as exc:
        raise create_api_error_from_http_exception(exc) from exc


def run(
    api: docker.APIClient,
    container_id: str,
    command: Sequence[str],
    given: bytes,
    *,
    timeout_s: float,
) -> bytes:
    """Run a command in a container, ``given`` on its standard input; returns its output.

    ``timeout_s`` is for each read. Raises docker-py's errors, and OSError.
    """
    started = api.exec_create(container_id, list(command), stdin=True)
    stream = api.exec_start(started["Id"], socket=True)
    # docker-py hands out a reader; what is written goes to the socket below it.
    connection = getattr(stream, "_sock", stream)
    # It keeps the answer there, so that it is not collected while the socket is in use.
    answer = getattr(stream, "_response", stream)
    try:
        connection.settimeout(timeout_s)
        connection.sendall(given)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(data for kind, data in frames_iter(stream, tty=False) if kind == STDOUT)
    finally:
        answer.close()


def read_service_log(
    api: docker.APIClient, service_id: str, *, lines: int, is_tty: bool, limit: int
) -> bytes:
    """Return the last ``lines`` that a service's containers wrote, ``limit`` bytes at most.

    Raises docker-py's errors.
    """
    response: requests.Response = api.get(
        f"{api.base_url}/v{api.api_version}/services/{service_id}/logs",
        params={"stdout": True, "stderr": True, "tail": lines},
        stream=True,
        timeout=api.timeout,
    )
    with response:
        raise_for_status(response)
        content: bytes = response.raw.read(limit)
    return content if is_tty else b"".join(_frames(content))


def _frames(content: bytes) -> Iterator[bytes]:
    """Yield what is in the frames of an output; the last one may be cut."""
    start = 0
    while start + _HEADER_LENGTH < len(content):
        begin = start + _HEADER_LENGTH
        start = begin + int.from_bytes(content[start + 4 : begin], "big")
        yield content[begin:start]


def failure_in(part: Mapping[str, Any]) -> str:
    """Return what one line of a build, a push or a pull says went wrong; empty: nothing.

    ``error`` is the older key, deprecated with API 1.48 (moby, api/docs/CHANGELOG.md); 29.7.2 still
    sends it (daemon/internal/streamformatter). ``errorDetail`` has the same text.
    """
    detail = part.get("errorDetail")
    if isinstance(detail, Mapping):
        detail = detail.get("message") or detail.get("code")
    found = detail or part.get("error")
    if found:
        return str(found)
    return "no reason given" if "errorDetail" in part or "error" in part else ""


def raise_failure(answer: str, doing: str) -> None:
    """Raise EngineError when one line of a whole ``answer`` reports a failure.

    The engine answers 200 before it begins, and docker-py looks no further.
    """
    for line in answer.splitlines():
        try:
            part = json.loads(line)
        except ValueError:
            continue
        words = failure_in(part) if isinstance(part, dict) else ""
        if words:
            raise EngineError(f"{doing}: the engine could not do it", why=words)
