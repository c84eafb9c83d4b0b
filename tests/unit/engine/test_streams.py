"""Streams of the engine: nothing is left for the garbage collector, failures are recognised."""

from __future__ import annotations

import json
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jhswarmd.deploy.images.recipes import stream
from jhswarmd.engine.streams import failure_in, raise_failure
from jhswarmd.errors import EngineError, JhswarmdError

OUTPUT = b'{"result": {"a": "\xc3\xbc"}}\n'
UPGRADED = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def frame(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxxxL", kind, len(content)) + content


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


class Engine(socketserver.StreamRequestHandler):
    """As much of an engine as streams: one answer for each path."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            length = 0
            while (header := self.rfile.readline()).strip():
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            self.rfile.read(length)
            path = line.split()[1].decode().partition("?")[0]
            if path.endswith("/start"):
                self._exec(path)
                return
            self.wfile.write(self._answer(path))

    def _exec(self, path: str) -> None:
        if "/gone/" in path:
            return  # accepted and closed
        self.wfile.write(UPGRADED)
        if "/cut/" in path:
            self.wfile.write(frame(1, OUTPUT)[:5])
            return
        given = self.rfile.read()
        self.wfile.write(frame(2, b"noise") + frame(1, given) + frame(1, OUTPUT))

    def _answer(self, path: str) -> bytes:
        if path.endswith("/exec"):
            body = json.dumps({"Id": path.split("/")[-2]}).encode()
            return b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        if path.endswith("/none/logs"):
            body = b'{"message": "no such service"}'
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        if path.endswith("/logs"):
            return CHUNKED + chunks(frame(1, b"first\n"), *[frame(2, b"x" * 1000)] * 50)
        lines = [{"status": "one"}, {"errorDetail": {"message": "broken"}}, {"status": "two"}]
        return CHUNKED + chunks(*[json.dumps(line).encode() + b"\r\n" for line in lines])


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "engine.sock")
    with socketserver.ThreadingUnixStreamServer(path, Engine) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"unix://{path}"
        server.shutdown()
        thread.join()


def run(base_url: str, code: str) -> tuple[str, str]:
    """Run code on a client; returns its output and whatever Python has to complain about.

    In development mode Python 3.11 tells what later ones always do.
    """
    program = (
        "import gc, docker\n"
        "from jhswarmd.engine import streams\n"
        "from jhswarmd.deploy.images import recipes\n"
        f"api = docker.APIClient({base_url!r}, version='1.41')\n"
        f"{code}\n"
        "api.close()\n"
        "gc.collect()\n"
    )
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return result.stdout, result.stderr


def test_a_command_gets_its_input_and_gives_its_output_without_a_complaint(engine: str) -> None:
    code = "for _ in range(3): print(streams.run(api, 'c', ['x'], b'given ', timeout_s=30))"
    output, complaints = run(engine, code)
    assert output.splitlines() == [repr(b"given " + OUTPUT)] * 3
    assert complaints == ""


@pytest.mark.parametrize("container", ["gone", "cut"])
def test_a_command_that_is_cut_off_leaves_nothing_behind(engine: str, container: str) -> None:
    code = (
        f"try: print(streams.run(api, '{container}', ['x'], b'', timeout_s=30))\n"
        "except Exception as exc: print(type(exc).__name__)"
    )
    output, complaints = run(engine, code)
    assert output.strip() in ("ConnectionError", "BrokenPipeError", "b''")
    assert complaints == ""


def test_a_log_that_is_too_long_is_cut_and_closed(engine: str) -> None:
    code = (
        "text = streams.read_service_log(api, 's', lines=9, is_tty=False, limit=10000)\n"
        "print(text[:8], 9000 < len(text) <= 10000)"
    )
    assert run(engine, code) == ("b'first\\nxx' True\n", "")


def test_the_log_of_a_service_that_is_gone_is_an_error_of_docker_pys(engine: str) -> None:
    code = (
        "try: streams.read_service_log(api, 'none', lines=9, is_tty=False, limit=10000)\n"
        "except docker.errors.NotFound as exc: print(exc.explanation)"
    )
    assert run(engine, code) == ("no such service\n", "")


def test_a_stream_that_fails_is_read_to_its_end(engine: str) -> None:
    code = (
        "lines = api.push('r', 't', stream=True, decode=True)\n"
        "try:\n"
        "    for line in recipes.stream(lines, 'It failed'): print(line)\n"
        "except Exception as exc: print(exc)"
    )
    assert run(engine, code) == ("one\ntwo\nIt failed: broken\n", "")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"error": "broken"}, "broken"),
        ({"errorDetail": {"message": "broken"}}, "broken"),
        ({"errorDetail": {"code": 1, "message": "broken"}, "error": "older"}, "broken"),
        ({"errorDetail": {"code": 127}}, "127"),
        ({"errorDetail": {}, "error": "broken"}, "broken"),
        ({"errorDetail": "broken"}, "broken"),
        ({"errorDetail": {}}, "no reason given"),
        ({"error": ""}, "no reason given"),
        ({"errorDetail": None}, "no reason given"),
        ({"status": "error"}, ""),
        ({"stream": "error: no"}, ""),
        ({}, ""),
    ],
)
def test_a_failure_is_recognised_by_either_key(part: dict[str, Any], words: str) -> None:
    assert failure_in(part) == words
    if words:
        with pytest.raises(JhswarmdError, match=f"It failed: {words}"):
            list(stream([{"status": "begins"}, part], "It failed"))
        with pytest.raises(EngineError, match=words):
            raise_failure(f'{{"status": "begins"}}\r\n{json.dumps(part)}\r\n', "import")
    else:
        list(stream([part], "It failed"))
        raise_failure(json.dumps(part), "import")


def test_what_is_no_json_is_no_failure() -> None:
    raise_failure('\n{"status": \n[1]\n"error"\nerror', "import")
