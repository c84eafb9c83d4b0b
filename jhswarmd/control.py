"""How the command line reaches the daemon: a socket inside the daemon's own container.

One line of JSON in, one line of JSON out. Whoever can run a program in the container can reach it
(mode 0600), nobody else.
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

from jhswarmd.errors import JhswarmdError

log = logging.getLogger(__name__)

SOCKET = Path("/run/jhswarmd/control.sock")
#: Seconds until a request without an answer is given up.
TIMEOUT_S = 30.0

Handler = Callable[[], Mapping[str, Any]]


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    handlers: Mapping[str, Handler]


class _Connection(socketserver.StreamRequestHandler):
    timeout = TIMEOUT_S

    def handle(self) -> None:
        """Answer one request."""
        handlers = cast(_Server, self.server).handlers
        try:
            command = json.loads(self.rfile.readline(4096))["command"]
            answer: dict[str, Any] = {"result": handlers[command]()}
        except (ValueError, KeyError, TypeError):
            answer = {"error": "unknown command"}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


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
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop to answer, and remove the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


def ask(command: str, path: Path = SOCKET) -> Any:
    """Send one command to the daemon of this container, and return its result.

    Raises JhswarmdError when no daemon answers.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(json.dumps({"command": command}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline())
    except (OSError, ValueError) as exc:
        raise JhswarmdError(
            "The daemon does not answer",
            why=str(exc),
            remedy="See 'docker service logs' of the service jhswarmd.",
        ) from exc
    if "error" in answer:
        raise JhswarmdError(f"The daemon refused '{command}'", why=answer["error"])
    return answer["result"]
