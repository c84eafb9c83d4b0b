"""The real deployment, made by the real command line inside the lab, and clients for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import docker.errors
import requests
from docker.models.containers import Container
from docker.models.services import Service
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from jhswarmd import labels
from tests.kit.lab import Lab
from tests.kit.wait import wait_until

T = TypeVar("T")

#: Building every image on two busy cores, where no base can be pulled.
UP_S = 1200
DOWN_S = 240

USERS = {
    "testuser": "testpassword",
    "alice": "wonder:land, with a colon",
    "bob": "grüße-an-bob",
    "carol": "hash-only-in-the-list",
    # As long as a password may be: 500 bytes.
    "dora": "0123456789" * 40 + "ü" * 50,
}
#: As an editor on another system saves it: a mark at the start, CRLF, no newline at the end.
_USER_LIST = """\ufeff# accounts of the test suite\r
\r
testuser:{testuser}\r
alice:{alice}\r
bob:{bob}\r
dora:{dora}\r
carol:{carol}"""
#: SHA-512 crypt of carol's password.
_CAROL = (
    "$6$jhswarmdtests$3NyiSl/MgnpLY9CdRQE8OFa1/M7vgDntKP7TkYMXJKkzhOynsZO9"
    "RlCpOCWzVII0.AhuT1uu4W9spH/wjtWS8."
)


class Stack:
    """One deployed profile; ``up`` and ``down`` go through the command line."""

    profile = "lab"
    name = "jupyterhub"

    def __init__(self, lab: Lab, env_dir: Path) -> None:
        self.lab = lab
        self.env_dir = env_dir
        self.url = f"https://{lab.address}"
        self.first_up: subprocess.CompletedProcess[str] | None = None
        """What the first ``up`` printed."""
        self.write_keys()
        write_users(env_dir, self.profile)

    def write_keys(self, **more: object) -> Path:
        """Write the keys of the profile, and ``more`` of them until this is called again."""
        keys = {
            "HOST": self.lab.address,
            # Full passes of the daemon are what some tests wait for.
            "RESYNC_INTERVAL_S": 5,
            # No test lasts as long: the idle culler is there, and stops nothing.
            "IDLE_TIMEOUT_S": 86400,
        }
        return write_profile(self.env_dir, self.profile, **keys, **more)

    def cli(
        self,
        *args: str,
        check: bool = True,
        timeout_s: float = 120,
        env: Mapping[str, str] = {},
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``jhswarmd`` in the lab, with the suite's profiles."""
        return self.lab.run(
            [sys.executable, "-m", "jhswarmd", *args],
            check=check,
            timeout_s=timeout_s,
            env={"JHSWARMD_ENV_DIR": str(self.env_dir), **env},
            input=input,
        )

    def up(self) -> float:
        """Bring the stack up; returns the seconds it took."""
        started = time.monotonic()
        # --yes: a test may have deployed another profile.
        result = self.cli("up", "--env", self.profile, "--yes", timeout_s=UP_S)
        self.first_up = self.first_up or result
        return time.monotonic() - started

    def start_cli(self, *args: str) -> subprocess.Popen[str]:
        """Start ``jhswarmd`` in the lab and return at once; its output is a pipe."""
        process: subprocess.Popen[str] = self.lab.popen(
            [sys.executable, "-m", "jhswarmd", *args],
            env={"JHSWARMD_ENV_DIR": str(self.env_dir), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return process

    def down(self) -> None:
        """Take the stack down."""
        self.cli("down", "--env", self.profile, timeout_s=DOWN_S)

    # --- what the engine shows ---

    def service(self, role: str) -> Service:
        """Return one of the stack's own services."""
        return self.lab.client.services.get(labels.service_name(self.name, role))

    def notebooks(self, user: str | None = None) -> list[Service]:
        """Return the notebook services, of one user or of all."""
        wanted = [f"{labels.ROLE}={labels.ROLE_NOTEBOOK}", f"{labels.STACK}={self.name}"]
        if user is not None:
            wanted.append(f"{labels.USER}={user}")
        return self.lab.client.services.list(filters={"label": wanted})

    def notebook(self, user: str) -> Service:
        """Return the user's only notebook service."""
        (service,) = self.notebooks(user)
        return service

    def containers(self, service: Service) -> list[Container]:
        """Return the running containers of a service."""
        return self.lab.client.containers.list(
            filters={"label": f"com.docker.swarm.service.id={service.id}"}, ignore_removed=True
        )

    def container(self, role: str) -> Container:
        """Return the running container of one of the stack's services; waits for it."""

        def single() -> Container | None:
            found = self.containers(self.service(role))
            return found[0] if len(found) == 1 else None

        gone = (docker.errors.NotFound,)
        return wait_until(single, 60, what=f"one container of {role}", ignoring=gone)

    def replace_task(self, role: str) -> None:
        """Let the engine replace the service's task by a new one, with a new address."""
        service = labels.service_name(self.name, role)
        self.lab.run(["docker", "service", "update", "--force", "--quiet", "--detach", service])

    def status(self) -> dict[str, Any]:
        """Return what ``jhswarmd status --json`` says."""
        report: dict[str, Any] = json.loads(self.cli("status", "--json", check=False).stdout)
        return report

    def problems(self) -> list[str]:
        """Return the problems that ``jhswarmd status`` finds now.

        Without those of the last minutes: tests make services end, and status says so for a while.
        """
        return [each for each in self.status()["problems"] if "and has ended" not in each]

    def daemon(self) -> dict[str, Any]:
        """Return what the daemon says of itself, as soon as one answers."""
        found: dict[str, Any] = wait_until(
            lambda: self.status()["daemon"], 60, what="the daemon's answer"
        )
        return found

    def log(self, role: str) -> str:
        """Return what all containers of one of the stack's services wrote, that are still there.

        Not the engine's log of the service: it may wait for minutes for a task that was replaced.
        """
        api, name = self.lab.client.api, labels.service_name(self.name, role)
        found = api.containers(all=True, filters={"label": f"{labels.SERVICE_NAME}={name}"})
        texts = []
        for container in reversed(found):
            with contextlib.suppress(docker.errors.NotFound):
                texts.append(api.logs(container["Id"]).decode(errors="replace"))
        return "".join(texts)

    # --- the hub, as a browser or a program sees it ---

    def certificate(self) -> Path:
        """Return a file with the certificate that the proxy shows."""
        path = self.env_dir / "shown.pem"
        path.write_text(ssl.get_server_certificate((self.lab.address, 443), timeout=30))
        return path

    def session(self) -> requests.Session:
        """Return a session that trusts the proxy's certificate and nothing else."""
        session = requests.Session()
        session.trust_env = False  # no proxy and no bundle of the machine's
        session.verify = str(self.certificate())
        return session

    def is_healthy(self) -> bool:
        """Tell whether the hub answers through the proxy."""
        with self.session() as session:
            return session.get(f"{self.url}/hub/health", timeout=5).ok

    def wait_healthy(self, timeout_s: float = 60) -> None:
        """Return once the hub answers through the proxy."""
        down = (requests.RequestException, OSError)
        wait_until(self.is_healthy, timeout_s, what="the hub answers", ignoring=down)

    def login(self, user: str, password: str | None = None) -> Visitor:
        """Log in through the form. Raises LoginRefused."""
        return Visitor(self, user, USERS[user] if password is None else password)


class LoginRefused(AssertionError):
    """The hub refused the name or the password; the text is what it showed."""


def log_in(session: requests.Session, url: str, user: str, password: str) -> None:
    """Log in through the form; the session has the cookies then. Raises LoginRefused."""
    page = session.get(f"{url}/hub/login", timeout=30)
    page.raise_for_status()
    field = re.search(r'name="_xsrf"\s+value="([^"]+)"', page.text)
    assert field, f"no login form in {page.text[:500]}"
    answer = session.post(
        f"{url}/hub/login",
        data={"username": user, "password": password, "_xsrf": field[1]},
        allow_redirects=False,
        timeout=60,
    )
    if answer.status_code != 302:
        message = re.search(r'class="login_error">\s*([^<]+)', answer.text)
        raise LoginRefused(f"{answer.status_code} {message[1].strip() if message else ''}")


class Visitor:
    """Somebody who has logged in through the form, with a token for the hub's API."""

    def __init__(self, stack: Stack, user: str, password: str) -> None:
        self.user = user
        self.stack = stack
        self._session = stack.session()
        try:
            log_in(self._session, stack.url, user, password)
            self.token = self._make_token()
        except BaseException:
            self._session.close()
            raise

    def __enter__(self) -> Visitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.close()

    def _make_token(self) -> str:
        # Cookies alone open the API only together with the cross-site token.
        home = self._session.get(f"{self.stack.url}/hub/token", timeout=30)
        home.raise_for_status()
        field = re.search(r'xsrf_token:\s*"([^"]+)"', home.text)
        assert field, f"no cross-site token in {home.text[:500]}"
        answer = self._session.post(
            f"{self.stack.url}/hub/api/users/{self.user}/tokens",
            headers={"X-XSRFToken": field[1], "Referer": f"{self.stack.url}/hub/token"},
            json={"note": "test"},
            timeout=30,
        )
        answer.raise_for_status()
        return str(answer.json()["token"])

    def request(self, method: str, path: str, **kw: Any) -> requests.Response:
        """Ask the hub or the notebook with the token; raises for an error status."""
        answer = self._session.request(
            method,
            f"{self.stack.url}{path}",
            headers={"Authorization": f"token {self.token}"},
            timeout=60,
            **kw,
        )
        answer.raise_for_status()
        return answer

    def server(self) -> dict[str, Any] | None:
        """Return the hub's record of the default server, None when it has none."""
        servers = self.request("GET", f"/hub/api/users/{self.user}").json()["servers"]
        found: dict[str, Any] | None = servers.get("")
        return found

    def start_server(self, timeout_s: float = 120) -> float:
        """Start the default server and wait until it answers; returns the seconds it took."""
        started = time.monotonic()
        self.request("POST", f"/hub/api/users/{self.user}/server")
        wait_until(self._is_ready, timeout_s, what=f"{self.user}'s server is ready")
        self.request("GET", f"/user/{self.user}/api/status")
        return time.monotonic() - started

    def ensure_server(self) -> None:
        """See that the default server runs, whatever earlier tests have left."""
        server = self.server()
        if not server or not server["ready"]:
            self.start_server()

    def _is_ready(self) -> bool:
        server = self.server()
        assert server, "the hub gave the start up"
        return bool(server["ready"])

    def stop_server(self, timeout_s: float = 60) -> None:
        """Stop the default server and wait until the hub has none."""
        if self.server() is None:
            return
        self.request("DELETE", f"/hub/api/users/{self.user}/server")
        wait_until(lambda: self.server() is None, timeout_s, what=f"{self.user}'s server is gone")

    def write_file(self, path: str, content: str) -> None:
        """Write a text file in the notebook's home."""
        model = {"type": "file", "format": "text", "content": content}
        self.request("PUT", f"/user/{self.user}/api/contents/{path}", json=model)

    def read_file(self, path: str) -> str:
        """Return the content of a text file in the notebook's home."""
        answer = self.request("GET", f"/user/{self.user}/api/contents/{path}")
        return str(answer.json()["content"])

    def start_kernel(self) -> Kernel:
        """Start a kernel and open its channel."""
        kernel_id = self.request("POST", f"/user/{self.user}/api/kernels").json()["id"]
        return Kernel(self, kernel_id)

    def kernels(self) -> list[str]:
        """Return the ids of the kernels that run."""
        return [each["id"] for each in self.request("GET", f"/user/{self.user}/api/kernels").json()]


class Kernel:
    """A running kernel and its open websocket.

    Its event loop has a thread of its own: Playwright keeps one running in the tests' thread.
    """

    def __init__(self, visitor: Visitor, kernel_id: str) -> None:
        self.id = kernel_id
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        url = f"{visitor.stack.url}/user/{visitor.user}/api/kernels/{kernel_id}/channels"
        request = HTTPRequest(
            url.replace("https:", "wss:"),
            headers={"Authorization": f"token {visitor.token}"},
            ca_certs=str(visitor.stack.certificate()),
        )
        self._channel = self._await(self._connect(request), 60)

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._await(self._close(), 30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _await(self, answer: Coroutine[Any, Any, T], timeout_s: float) -> T:
        return asyncio.run_coroutine_threadsafe(answer, self._loop).result(timeout_s)

    async def _connect(self, request: HTTPRequest) -> WebSocketClientConnection:
        return await websocket_connect(request)

    async def _close(self) -> None:
        self._channel.close()
        while await self._channel.read_message() is not None:
            pass

    def execute(self, code: str, timeout_s: float = 60) -> str:
        """Run code and return the text of its result. Raises AssertionError on its failure."""
        return self._await(self._execute(code), timeout_s)

    async def _execute(self, code: str) -> str:
        msg_id = secrets.token_hex(8)
        header = {"msg_id": msg_id, "msg_type": "execute_request", "version": "5.3"}
        header |= {"session": msg_id, "username": "test", "date": ""}
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        message: dict[str, Any] = {"header": header, "content": content}
        message |= {"parent_header": {}, "metadata": {}}
        await self._channel.write_message(
            json.dumps({**message, "channel": "shell", "buffers": []})
        )
        result = ""
        while True:
            text = await self._channel.read_message()
            assert text is not None, "the kernel's channel was closed"
            answer = json.loads(text)
            if answer["parent_header"].get("msg_id") != msg_id:
                continue
            if answer["msg_type"] == "execute_result":
                result = answer["content"]["data"]["text/plain"]
            assert answer["msg_type"] != "error", answer["content"]
            if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                return result


def write_profile(env_dir: Path, name: str, **keys: object) -> Path:
    """Write ``NAME.env`` and return its path."""
    path = env_dir / f"{name}.env"
    path.write_text("".join(f"{key}={value}\n" for key, value in keys.items()))
    (env_dir / name).mkdir(exist_ok=True)
    return path


def write_users(env_dir: Path, name: str, *more_lines: str) -> Path:
    """Write the profile's list of accounts as a careless editor would, and return its path."""
    path = env_dir / name / "user_list.txt"
    text = _USER_LIST.format(**USERS | {"carol": _CAROL})
    path.write_bytes((text + "".join(f"\r\n{line}" for line in more_lines)).encode())
    return path
