"""The proxy's image: forwarded headers, plain HTTP, and requests that are too large or too slow."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from jhswarmd.credentials import tls
from tests.kit.lab import Lab
from tests.kit.stack import Stack
from tests.kit.wait import wait_until

SUBNET, GATEWAY = "10.214.7.0/24", "10.214.7.1"
#: Answers with the headers that it was sent, as a hub or a notebook would see them.
_ECHO = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({k.lower(): v for k, v in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()
http.server.ThreadingHTTPServer(("0.0.0.0", 8081), Handler).serve_forever()
"""
PUBLIC = "https://hub.example.org"
Start = Callable[..., str]


@pytest.fixture(scope="module")
def start(engine: Lab, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start the deployed proxy's image with these variables; returns its address."""
    api = engine.client
    pool = {"Config": [{"Subnet": SUBNET, "Gateway": GATEWAY}]}
    image = stack.service("proxy").attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
    folder = _keys(tmp_path_factory.mktemp("keys"))
    with contextlib.ExitStack() as undo:
        network = api.networks.create("proxy-test", driver="bridge", ipam=pool)
        undo.callback(network.remove)
        small = engine.small_image()

        def run(name: str, image: str, command: object = None, **environment: str) -> str:
            container = api.containers.create(
                image,
                command,
                name=name,
                environment=environment,
                volumes={str(folder): {"bind": "/run/secrets", "mode": "ro"}},
            )
            undo.callback(container.remove, force=True, v=True)
            network.connect(container, aliases=[name])
            container.start()
            container.reload()
            return str(container.attrs["NetworkSettings"]["Networks"]["proxy-test"]["IPAddress"])

        run("hub", small, ["python3", "-c", _ECHO])

        def start(name: str, **environment: str) -> str:
            address = run(name, image, CONTROL_SUBNET=SUBNET, **environment)
            ready = (requests.RequestException, OSError, CommandError)
            wait_until(lambda: get(engine, f"http://{address}:8080/"), 30, ignoring=ready)
            return address

        yield start


class CommandError(Exception):
    """A request from inside the lab failed."""


def _keys(folder: Path) -> Path:
    certificate, key = tls.self_signed("hub.example.org")
    for name, content in (
        ("tls_cert", certificate),
        ("tls_key", key),
        ("proxy_auth_token", b"of-the-test"),
    ):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o644)
    folder.chmod(0o755)
    return folder


def get(lab: Lab, url: str, *headers: str) -> tuple[int, str, str]:
    """Ask from inside the lab, from ``GATEWAY``; returns status, Location and body."""
    argv = ["curl", "-sk", "--max-time", "20", "-w", "\n%{http_code} %{redirect_url}"]
    for header in headers:
        argv += ["-H", header]
    result = lab.run([*argv, url], check=False)
    if result.returncode:
        raise CommandError(result.stderr)
    body, _, last = result.stdout.rpartition("\n")
    status, _, location = last.partition(" ")
    return int(status), location, body


def test_plain_http_from_a_trusted_proxy_is_served_as_https(engine: Lab, start: Start) -> None:
    address = start("front", PUBLIC_URL=PUBLIC, TRUSTED_PROXIES=f"{GATEWAY}/32", HTTPS_PORT="8443")
    plain = f"http://{address}:8080/hub/login"
    # Whether or not it names the protocol, and whatever it makes of Host.
    for more in ([], ["X-Forwarded-Proto: https"], ["Host: 10.1.2.3:8080"]):
        status, _, body = get(engine, plain, "X-Forwarded-For: 192.0.2.7", *more)
        seen = json.loads(body)
        assert status == 200
        assert seen["x-forwarded-proto"] == "https"
        assert seen["x-forwarded-for"].startswith("192.0.2.7")
        assert seen["host"] == seen["x-forwarded-host"] == "hub.example.org"
        assert "8443" not in body
    # A browser that came to the site's proxy by plain HTTP is sent on.
    status, location, _ = get(engine, plain, "X-Forwarded-Proto: http")
    assert (status, location) == (301, f"{PUBLIC}/hub/login")


def test_nobody_else_is_believed_and_plain_http_leads_to_the_public_url(
    engine: Lab, start: Start
) -> None:
    address = start("stranger", PUBLIC_URL=PUBLIC, TRUSTED_PROXIES="192.0.2.1", HTTPS_PORT="8443")
    lies = ("X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil")
    status, location, _ = get(engine, f"http://{address}:8080/a?b=c", *lies)
    assert (status, location) == (301, f"{PUBLIC}/a?b=c")
    status, _, body = get(engine, f"https://{address}:8000/", *lies, "X-Real-IP: 192.0.2.7")
    assert status == 200
    assert "192.0.2.7" not in body
    assert "evil" not in body


def test_too_large_and_too_slow_requests_are_answered_in_words(engine: Lab, start: Start) -> None:
    address = start("limits", UPLOAD_TIMEOUT_S="2", MAX_HEADER_SIZE="65536")
    cookie = "Cookie: " + "; ".join(f"c{number}={'x' * 900}" for number in range(40))
    status, _, body = get(engine, f"https://{address}:8000/", cookie)
    assert (status, len(json.loads(body)["cookie"]) > 36_000) == (200, True)
    status, _, body = get(engine, f"https://{address}:8000/", cookie + "y" * 40_000)
    assert status == 431
    assert "Delete the cookies" in body
    assert "MAX_HEADER_SIZE" in body
    assert "408" in (answer := _unfinished_upload(engine, address)).splitlines()[0]
    assert "UPLOAD_TIMEOUT_S" in answer


def _unfinished_upload(lab: Lab, address: str) -> str:
    """Send a body that never ends; returns the whole answer."""
    request = "PUT /user/a/big HTTP/1.1\\r\\nHost: h\\r\\nContent-Length: 1000\\r\\n\\r\\nabc"
    code = (
        "import socket, ssl; c = ssl._create_unverified_context(); "
        f"s = c.wrap_socket(socket.create_connection(('{address}', 8000), 30)); "
        f"s.sendall(b'{request}'); "
        "print(b''.join(iter(lambda: s.recv(4096), b'')).decode())"
    )
    return lab.run(["python3", "-c", code]).stdout


def test_the_deployed_proxy_has_the_limits_of_the_profile(stack: Stack) -> None:
    with stack.session() as session:
        wide = {"Cookie": "c=" + "x" * 40_000}
        assert session.get(f"{stack.url}/hub/health", headers=wide, timeout=10).ok
    context = ssl.create_default_context(cafile=str(stack.certificate()))
    with (
        socket.create_connection((stack.lab.address, 443), 10) as raw,
        context.wrap_socket(raw, server_hostname=stack.lab.address) as secure,
    ):
        secure.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nCookie: c=" + b"x" * 70_000 + b"\r\n\r\n")
        assert b" 431 " in secure.recv(4096).splitlines()[0]
