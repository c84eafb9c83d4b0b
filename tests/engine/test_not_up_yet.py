"""A published port that accepts, and does not answer yet, is waited for. Needs a network only."""

from __future__ import annotations

import socketserver

import pytest

from jhswarmd.commands import up
from tests.unit.deploy.test_not_up_yet import HALVES, Starting, serving


class TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_the_hub_behind_the_published_port_is_waited_for(half: bytes | int | None) -> None:
    with serving(TcpServer(("127.0.0.1", 0), Starting), half) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert up._wait_answer(url) == f"{url}/hub/health"
