"""A real hub, with the project's configuration, that finds servers in its database when it starts.

There is no engine: what it says about each server is part of the site. The proxy is its API alone,
and every notebook is one listener that accepts connections and never answers.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from jupyterhub import orm

from jhswarmd import assets
from tests.kit.wait import wait_until

SECRETS = {
    "proxy_auth_token": "proxy-token-of-the-test",
    "daemon_token": "daemon-token-of-the-test",
    "culler_token": "culler-token-of-the-test",
    "cookie_secret": "c0" * 32,
    "crypt_key": "ab" * 32,
}
ADMIN = "admin-token-of-the-test"

_CONFIG = """
import json
from pathlib import Path
from jhswarmd.settings import settings
from jhswarmd.errors import EngineUnavailable
from jhswarmd.spawner.swarm import SwarmSpawner

here = Path(__file__).parent
settings.SECRETS_DIR = str(here / "secrets")
load_subconfig(str(here / "hub_config" / "jupyterhub_config.py"))

class Spawner(SwarmSpawner):
    async def _exit_status(self):
        said = json.loads((here / "engine.json").read_text()).get(self.user.name)
        if said == "unknown":
            raise EngineUnavailable("the engine does not answer")
        return said
    async def _remove(self, service_id, *args, **kw):
        with (here / "removed").open("a") as file:
            print(self.user.name, file=file)

c.JupyterHub.spawner_class = Spawner
c.SwarmSpawner.http_timeout = 1
c.JupyterHubHTTPClient.connector_options = {"limit": 4}
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.hub_ip = c.JupyterHub.hub_connect_ip = "127.0.0.1"
c.JupyterHub.hub_port = HUB_PORT
c.ConfigurableHTTPProxy.api_url = "PROXY_URL"
c.JupyterHub.services.append({"name": "tester", "api_token": "ADMIN"})
c.JupyterHub.load_roles.append({
    "name": "tester",
    "services": ["tester"],
    "scopes": ["admin:users", "admin:servers", "tokens", "proxy"],
})
"""


class ProxyApi:
    """The API of a proxy. A context manager."""

    def __init__(self) -> None:
        self.routes: dict[str, Any] = {}
        routes = self.routes

        class Handler(BaseHTTPRequestHandler):
            def _answer(self, status: int, body: Any = None) -> None:
                content = json.dumps(body).encode() if body is not None else b""
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            @property
            def _route(self) -> str:
                return self.path.removeprefix("/api/routes")

            def do_GET(self) -> None:
                self._answer(200, dict(routes))

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                routes[self._route or "/"] = json.loads(self.rfile.read(length))
                self._answer(201)

            def do_DELETE(self) -> None:
                self._answer(204 if routes.pop(self._route, None) else 404)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ProxyApi:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def silent_listener() -> Iterator[int]:
    """Listen for a block on a port that is yielded; every connection is kept, none is answered."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    for each in kept:
        each.close()


class StartingHub:
    """The hub's process and its directory."""

    def __init__(self, directory: Path, proxy_url: str) -> None:
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}/hub"
        shutil.copytree(assets.HUB_CONFIG, directory / "hub_config")
        (directory / "secrets").mkdir()
        for name, content in SECRETS.items():
            path = directory / "secrets" / name
            path.write_text(content + "\n")
            path.chmod(0o600)
        config = _CONFIG.replace("HUB_PORT", str(port)).replace("PROXY_URL", proxy_url)
        (directory / "config.py").write_text(config.replace("ADMIN", ADMIN))
        self._database = f"sqlite:///{directory}/hub.sqlite"
        self._session = requests.Session()
        self._session.trust_env = False

    def fill(self, users: Mapping[str, Any], port: int) -> None:
        """Write users whose server listens at ``port`` into the database.

        The values are what the engine says: how the server ended, None for one that runs,
        'unknown' when it does not answer.
        """
        (self.directory / "engine.json").write_text(json.dumps(users))
        session = orm.new_session_factory(self._database)()
        long_ago = datetime.now(timezone.utc).replace(tzinfo=None) - timedelta(days=1)
        for name in users:
            server = orm.Server(ip="127.0.0.1", port=port, base_url=f"/user/{name}/", proto="http")
            state = {"object_id": f"id-{name}", "object_name": f"lab-{name}", "spawn_id": "b" * 32}
            spawner = orm.Spawner(
                name="", server=server, state=state, started=long_ago, last_activity=long_ago
            )
            session.add(orm.User(name=name, _orm_spawners=[spawner], last_activity=long_ago))
        session.commit()
        session.close()

    def start(self) -> None:
        """Start it and return at once."""
        environ = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(assets.HUB_CONFIG.parent),
            "STACK_NAME": "lab",
            "SINGLE_USER_IMAGE": "registry/notebook:1",
            "DATABASE_URL": self._database,
            "IDLE_TIMEOUT_S": "60",
        }
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", "config.py"],
                cwd=self.directory,
                env=environ,
                stdout=log,
                stderr=log,
            )

    def end(self) -> None:
        """Kill it."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._session.close()

    def log(self) -> str:
        """Return what it has written."""
        return (self.directory / "log").read_text()

    def wait_listening(self, timeout_s: float) -> None:
        """Return once it answers."""

        def listens() -> bool:
            assert self._process
            assert self._process.poll() is None, "the hub has ended"
            return self._session.get(f"{self.url}/health", timeout=5).ok

        down = (requests.RequestException,)
        wait_until(listens, timeout_s, what="the hub listens", ignoring=down)

    def request(self, method: str, path: str, token: str = ADMIN, **kw: Any) -> Any:
        """Ask its API. Raises HTTPError."""
        answer = self._session.request(
            method,
            f"{self.url}/api{path}",
            headers={"Authorization": f"token {token}"},
            timeout=20,
            **kw,
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def servers(self) -> dict[str, bool]:
        """Return the users whose server is active, and whether it is ready."""
        listed = self.request("GET", "/users?state=active&limit=200")
        return {each["name"]: each["servers"][""]["ready"] for each in listed}

    def removed(self) -> list[str]:
        """Return the users whose service was removed."""
        path = self.directory / "removed"
        return path.read_text().split() if path.exists() else []
