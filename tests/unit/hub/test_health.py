"""The hub's health check tells a start that takes long from one that hangs."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jhswarmd import assets
from jhswarmd.hub.startup import StartProgress

SCRIPT = assets.HUB_CONFIG.parent / "dockerfiles" / "hub" / "healthcheck"


def check(port: int, file: Path, *, hung_s: float = 60, wait_s: float = 0) -> tuple[int, str]:
    """Run the check; return its exit status and what it printed."""
    argv = [str(SCRIPT), str(port), str(file), str(hung_s), str(wait_s)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return result.returncode, result.stdout


@pytest.fixture
def port() -> int:
    """Return a port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def answering(port: int, status: str) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield
        thread.join(10)


def age(file: Path, seconds: float) -> None:
    """Let a file be that old."""
    then = time.time() - seconds
    os.utime(file, (then, then))


@pytest.mark.parametrize(("status", "code"), [("200 OK", 0), ("500 Oops", 1)])
def test_a_hub_that_listens_is_judged_by_its_answer(
    port: int, tmp_path: Path, status: str, code: int
) -> None:
    with answering(port, status):
        assert check(port, tmp_path / "none")[0] == code


def test_a_start_that_makes_progress_is_not_hung(port: int, tmp_path: Path) -> None:
    file = tmp_path / "start"
    progress = StartProgress(file)
    with progress.checking(), progress.checking():
        assert check(port, file) == (1, "starting: 0 of 2 servers checked\n")
    assert check(port, file) == (1, "starting: 2 of 2 servers checked\n")


def test_the_check_waits_while_the_start_makes_progress(port: int, tmp_path: Path) -> None:
    file = tmp_path / "start"
    file.write_text("")
    argv = [str(SCRIPT), str(port), str(file), "60", "60"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        with answering(port, "200 OK"):
            assert waiting.wait(30) == 0


def test_a_start_without_progress_is_hung_at_once(port: int, tmp_path: Path) -> None:
    file = tmp_path / "start"
    file.write_text("3 of 9 servers checked\n")
    age(file, 61)
    code, text = check(port, file, wait_s=60)
    assert code == 1
    assert text == (
        "hung: the start has made no progress for 60 s, since: 3 of 9 servers checked\n"
    )
    file.unlink()
    assert check(port, file, wait_s=60) == (1, "hung: the start has made no progress for 60 s\n")


def test_nothing_is_written_where_the_image_has_made_no_directory(tmp_path: Path) -> None:
    with StartProgress(tmp_path / "none" / "start").checking():
        pass
    assert list(tmp_path.iterdir()) == []
