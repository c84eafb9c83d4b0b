"""The control socket: how the command line reaches the daemon, inside the daemon's container.

One line of JSON in, one line of JSON out: ``{"command": ..., "arguments": {...}}``, answered by
``{"result": ...}`` or ``{"error": {"what", "why", "remedy"}}``. An error with ``"is_now": false``
is temporary: the same request may succeed a moment later. Only processes in the container can
reach the socket (mode 0600). Arguments may hold secrets: nothing here logs or repeats them.
"""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from jhswarmd.errors import DaemonBusy, JhswarmdError

log = logging.getLogger(__name__)

SOCKET = Path("/run/jhswarmd/control.sock")
#: Timeout of a request, in seconds.
TIMEOUT_S = 30.0
#: Bytes of a request. The largest argument is a user list, with about ten thousand hashes.
MAX_REQUEST = 8 * 1024 * 1024

#: Takes a command's arguments and returns its result. A JhswarmdError is returned to the caller.
Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    handlers: Mapping[str, Handler]


class _Connection(socketserver.StreamRequestHandler):
    timeout = TIMEOUT_S

    def handle(self) -> None:
        """Answer one request."""
        handlers = cast(_Server, self.server).handlers
        self.wfile.write(json.dumps(answer(handlers, self.rfile.readline(MAX_REQUEST))).encode())
        self.wfile.write(b"\n")


def answer(handlers: Mapping[str, Handler], line: bytes) -> dict[str, Any]:
    """Return the answer to one raw request; every failure becomes an error answer."""
    try:
        request = json.loads(line)
        handler = handlers[request["command"]]
        arguments = request.get("arguments") or {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"error": {"what": "The daemon does not support this command"}}
    try:
        return {"result": handler(arguments)}
    except JhswarmdError as exc:
        error = {"what": exc.what, "why": exc.why, "remedy": exc.remedy}
        return {"error": {**error, "is_now": False} if isinstance(exc, DaemonBusy) else error}
    except Exception as exc:  # noqa: BLE001 - a failing handler must not leave the caller without an answer
        # Log neither its text nor its traceback: they may hold an argument.
        log.error("Unexpected error in a command: %s", type(exc).__name__)
        return {"error": {"what": "The command failed", "why": type(exc).__name__}}


class Control:
    """Serves ``handlers`` (command to function) on the control socket."""

    def __init__(self, handlers: Mapping[str, Handler], path: Path = SOCKET) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._path = path
        self._server = _Server(str(path), _Connection)
        self._server.handlers = handlers
        path.chmod(0o600)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="control", daemon=True
        )

    def start(self) -> None:
        """Start serving."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving, and remove the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


def ask(command: str, arguments: Mapping[str, Any] | None = None, path: Path = SOCKET) -> Any:
    """Send one command to this container's daemon, and return its result.

    Raises DaemonBusy when no daemon answers, JhswarmdError for an error in the answer.
    """
    return result_of(exchange({"command": command, "arguments": arguments or {}}, path))


def exchange(request: Mapping[str, Any], path: Path = SOCKET) -> dict[str, Any]:
    """Send one request and return the whole answer, an error answer if no daemon responds."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
    except (OSError, ValueError) as exc:
        return {"error": _no_answer(str(exc))}
    return answer


def result_of(answer: Any) -> Any:
    """Return the result of an answer, or raise its error as JhswarmdError or DaemonBusy."""
    if not isinstance(answer, Mapping) or not {"error", "result"} & answer.keys():
        answer = {"error": _no_answer("truncated response")}
    if "error" in answer:
        error = answer["error"]
        error_class = JhswarmdError if error.get("is_now", True) else DaemonBusy
        raise error_class(error["what"], why=error.get("why", ""), remedy=error.get("remedy", ""))
    return answer["result"]


def _no_answer(why: str) -> dict[str, Any]:
    return {
        "what": "The daemon does not answer",
        "why": why,
        "remedy": "See 'docker service logs' of the service jhswarmd.",
        "is_now": False,
    }
