"""What is starting is waited for, however its port or socket behaves until then.

The engine's port proxy and a starting engine accept connections and close them, reset them, or
answer by half.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jhswarmd import retry
from jhswarmd.api import control_socket
from jhswarmd.deploy.machine import local_engine
from jhswarmd.deploy.progress import Progress
from jhswarmd.engine.client import Engine
from jhswarmd.errors import DaemonBusy, JhswarmdError

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
#: How something that is not up yet may answer; None: it closes, 0: it resets.
HALVES: dict[str, bytes | int | None] = {
    "closed": None,
    "reset": 0,
    "half a status": b"HTTP/1.",
    "no http": b"\x15\x03\x01\x00\x02\x02\x50",
    "half the headers": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": OK + b'Content-Length: 100\r\n\r\n{"ApiVersion": ',
    "half a chunk": OK + b'Transfer-Encoding: chunked\r\n\r\n40\r\n{"Api',
    "no json": OK + b"Content-Length: 2\r\n\r\n{a",
    "a gateway's error": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
}
#: So many connections find it starting.
STARTING = 3


class Starting(socketserver.BaseRequestHandler):
    """Misbehaves at first, then answers every request."""

    def handle(self) -> None:
        server: Any = self.server
        connection: socket.socket = self.request
        request = connection.recv(65536)
        half = server.half
        if next(server.count) < STARTING:
            if half == 0:
                # Closing with a linger of zero seconds resets the connection.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif half is not None:
                connection.sendall(half)
            return
        del request
        body = json.dumps({"ApiVersion": "1.41", "MinAPIVersion": "1.12"}).encode()
        connection.sendall(
            OK + b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextlib.contextmanager
def serving(server: Any, half: bytes | int | None) -> Iterator[Any]:
    server.half, server.count = half, itertools.count()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def engine_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    return path


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_a_starting_engine_is_waited_for(
    half: bytes | int | None, engine_socket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(local_engine.STATE_DIR_VARIABLE, str(tmp_path))
    monkeypatch.setattr(local_engine, "_run_dockerd", lambda state: None)
    monkeypatch.setattr(local_engine._State, "read_alive", lambda state: 1)
    with serving(UnixServer(str(engine_socket), Starting), half), Progress().step("x") as step:
        local_engine._start(step).close()


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_the_daemon_waits_for_its_engine(half: bytes | int | None, engine_socket: Path) -> None:
    with serving(UnixServer(str(engine_socket), Starting), half):
        retry.blocking(30, threading.Event())(Engine.connect)


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_an_engine_that_keeps_starting_is_a_readable_error(
    half: bytes | int | None, engine_socket: Path
) -> None:
    with (
        serving(UnixServer(str(engine_socket), Starting), half),
        pytest.raises(JhswarmdError, match="No Docker Engine answers"),
    ):
        local_engine.connect()


@pytest.mark.parametrize("half", [None, 0, b'{"result": ', b"\n", b"[1]\n", b"null\n"])
def test_a_daemon_that_is_not_up_yet_may_be_called_again(
    half: bytes | int | None, tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    with (
        serving(UnixServer(str(path), Starting), half),
        pytest.raises(DaemonBusy, match="The daemon does not answer"),
    ):
        control_socket.ask("status", path=path)
