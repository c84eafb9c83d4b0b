"""Metrics, health and commands over HTTP, on the daemon's control address only.

``/metrics`` for Prometheus; ``/health``: the process responds; ``/ready``: the daemon receives
engine events, and the active instance has recently completed a full pass, else 503. ``POST /ctl``:
one command, as on the control socket, for standby daemons; requires the token that they share.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from jhswarmd import metrics
from jhswarmd.api import control_socket
from jhswarmd.errors import JhswarmdError

PORT = 9108
COMMANDS = "/ctl"
_SIOCGIFADDR = 0x8915


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    timeout = control_socket.TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a line for each scrape would bury the relevant ones."""


class Web:
    """Serves on ``address``; ``unready`` returns why the daemon is not ready, or an empty string.

    ``handlers`` are the commands for callers with ``token``; without a token there are none.
    """

    def __init__(
        self,
        address: str,
        unready: Callable[[], str],
        port: int = PORT,
        *,
        token: str = "",
        handlers: Mapping[str, control_socket.Handler] | None = None,
    ) -> None:
        self._unready = unready
        self._token = token
        self._handlers = handlers or {}
        self._metrics = make_wsgi_app(metrics.REGISTRY)
        self._server = make_server(address, port, self._answer, _Server, _QuietHandler)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="web", daemon=True)

    def start(self) -> None:
        """Start serving."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            body: Iterable[bytes] = self._metrics(environ, start_response)
            return body
        if path == COMMANDS:
            return self._answer_command(environ, start_response)
        if path == "/health":
            status, text = "200 OK", "alive"
        elif path == "/ready":
            why = self._unready()
            status, text = ("503 Service Unavailable", why) if why else ("200 OK", "ready")
        else:
            status, text = "404 Not Found", "try /metrics, /health or /ready"
        return _text(start_response, status, text)

    def _answer_command(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        given = environ.get("HTTP_AUTHORIZATION", "").encode()
        expected = f"token {self._token}".encode()
        if not self._token or not hmac.compare_digest(given, expected):
            return _text(start_response, "403 Forbidden", "not allowed")
        length = environ.get("CONTENT_LENGTH") or "0"
        if environ["REQUEST_METHOD"] != "POST" or not length.isdecimal():
            return _text(start_response, "400 Bad Request", "send one command by POST")
        if int(length) > control_socket.MAX_REQUEST:
            return _text(start_response, "413 Content Too Large", "request too large")
        answer = control_socket.answer(self._handlers, environ["wsgi.input"].read(int(length)))
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]


def _text(start_response: Any, status: str, text: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode() + b"\n"]


def address_in(subnet: str) -> str:
    """Return this host's address in ``subnet``.

    Raises JhswarmdError when it has none.
    """
    network = IPv4Network(subnet)
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an IPv4 address
        address = IPv4Address(answer[20:24])
        if address in network:
            return str(address)
    raise JhswarmdError(
        f"The daemon has no address in {subnet}",
        remedy="CONTROL_SUBNET must match the subnet of the network 'control': run "
        "'jhswarmd down', then 'jhswarmd up'.",
    )
