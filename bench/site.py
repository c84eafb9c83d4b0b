"""Where it is measured: one lab engine, an overlay network, and real hubs on it.

A hub is a process of the host's Python in the network of a container on the overlay, so that it
reaches notebooks, and the engine's names, as a hub in a stack does. The host reaches its API on a
published port.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import NotFound
from docker.models.containers import Container

from bench import hubside
from jhswarmd import assets, labels
from tests.kit.lab import Lab
from tests.kit.wait import wait_until

HUB_PORT = 8081
NETWORK = "bench"
#: None of the two that a deployed stack has (settings.py): other parts deploy one beside it.
SUBNET = "10.140.0.0/16"
#: More than are ever started at once.
MAX_CALLS = 64
#: Seconds for what is not measured.
PATIENCE_S = 120

# The least that a hub takes for a notebook, in modules that are part of the interpreter: the small
# image has no compiled ones, and what is measured is not how long Python takes to compile.
_SERVER = r"""
import _signal, _socket, posix
_signal.signal(_signal.SIGTERM, lambda *_: posix._exit(0))
listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
listener.bind(("0.0.0.0", 8888))
listener.listen()
while True:
    connection = _socket.socket(fileno=listener._accept()[0])
    connection.recv(65536)
    posix.write(1, b"asked\n")
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
    connection.close()
"""

# A hub in a container finds the engine's names here.
_RESOLV_CONF = "nameserver 127.0.0.11\noptions ndots:0\n"
_IN_A_CONTAINER = 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"'


class BenchError(Exception):
    """Something that is not measured went wrong."""


class StartFailed(Exception):
    """A contender did not manage what was asked; the text is what it said."""


class Site:
    """The engine, and what is made in it."""

    def __init__(self, lab: Lab, logs: Path | None) -> None:
        self.lab = lab
        self._logs = logs
        self.image = lab.small_image()
        self.api = docker.APIClient(lab.base_url, version="auto", max_pool_size=MAX_CALLS)
        self._kept: set[str] = set()
        pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=SUBNET)])
        self.api.create_network(NETWORK, driver="overlay", attachable=True, ipam=pool)
        self.secrets = {
            "daemon_token": secrets.token_hex(16),
            "proxy_auth_token": secrets.token_hex(16),
            "cookie_secret": secrets.token_hex(32),
            "crypt_key": secrets.token_hex(32),
        }
        lab.run(["mkdir", "-p", "/run/secrets"])
        for name, content in self.secrets.items():
            lab.run(["sh", "-c", f"umask 077 && cat > /run/secrets/{name}"], input=content)

    def log_file(self, name: str) -> Path:
        """Return where a process writes its log."""
        return self.lab.directory / f"{name}.log"

    def keep_log(self, name: str) -> None:
        """Copy a log to where the caller wanted it."""
        if self._logs:
            self._logs.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.log_file(name), self._logs)

    def keep(self, service_id: str) -> None:
        """Make ``wait_empty`` overlook this service."""
        self._kept.add(service_id)

    def wait_empty(self) -> None:
        """Return once the engine has no service and no task but those that are kept."""
        wait_until(self._is_empty, PATIENCE_S, what="the engine is empty")

    def _is_empty(self) -> bool:
        services = {service["ID"] for service in self.api.services()}
        tasks = {task["ServiceID"] for task in self.api.tasks()}
        return services | tasks <= self._kept

    def is_newest_asked(self) -> bool:
        """Tell whether the notebook that was created last has been asked anything."""
        mark = {"label": "com.docker.swarm.task.name"}
        newest = max(self.api.containers(filters=mark), key=lambda each: int(each["Created"]))
        return b"asked" in self.api.logs(newest["Id"])

    def remove_services(self) -> None:
        """Remove every service but those that are kept, and wait until they are gone."""

        def remove(service: dict[str, Any]) -> None:
            with contextlib.suppress(NotFound):
                self.api.remove_service(service["ID"])

        found = [each for each in self.api.services() if each["ID"] not in self._kept]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(remove, found))
        self.wait_empty()


class HubProcess:
    """A real hub with the project's configuration, and a client of its API."""

    def __init__(self, site: Site, spawner: str, environ: Mapping[str, str] | None = None) -> None:
        self._site = site
        self.spawner = spawner
        self.stack = f"bench-{spawner}"
        self.log_name = f"hub-{spawner}"
        self.directory = site.lab.directory / self.log_name
        self.environ = dict(environ or {})
        self._token = secrets.token_hex(16)
        self._place: Container | None = None
        self._process: subprocess.Popen[Any] | None = None
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=MAX_CALLS))
        self.session.headers["Authorization"] = f"token {self._token}"

    def start(self, fill: int = 0) -> None:
        """Start it, and wait until it answers; with ``fill`` it finds that many servers running."""
        self.launch(fill)
        try:
            wait_until(self._is_healthy, 60 + fill / 50, what="the hub answers")
        except AssertionError as exc:
            raise BenchError(f"{exc}\n{self.log_tail()}") from exc

    def launch(self, fill: int = 0) -> None:
        """Start it, on the database of the start before, and return at once."""
        config = self._enter_place()
        environ = {
            "STACK_NAME": self.stack,
            "SINGLE_USER_IMAGE": self._site.image,
            "NOTEBOOK_COMMAND": shlex.join(["python3", "-I", "-S", "-c", _SERVER]),
            "DATABASE_URL": f"sqlite:///{self.database}",
            hubside.TOKEN_ENV: self._token,
            **self.environ,
        }
        hub = [sys.executable, "-m", "jupyterhub", "-f", str(config)]
        if fill:
            fill_it = [sys.executable, "-m", "bench.fill", environ["DATABASE_URL"], str(fill)]
            self._site.lab.run(fill_it)
        with self._site.log_file(self.log_name).open("ab") as log:
            self._process = self.popen(hub, self.directory, environ, stdout=log, stderr=log)

    @property
    def database(self) -> Path:
        """The hub's database."""
        return self.directory / "hub.sqlite"

    def _enter_place(self) -> Path:
        """See that the container runs in whose network the hub is; return the configuration."""
        lab = self._site.lab
        self._place = self._place or lab.client.containers.create(
            self._site.image, network=NETWORK, ports={f"{HUB_PORT}/tcp": None}
        )
        self._place.start()  # no matter if it runs
        self._place.reload()
        settings = self._place.attrs["NetworkSettings"]
        port = settings["Ports"][f"{HUB_PORT}/tcp"][0]["HostPort"]
        self.address = (lab.address, int(port))
        self.url = f"http://{lab.address}:{port}/hub"
        self.in_network = ["nsenter", "-t", str(self._place.attrs["State"]["Pid"]), "-n"]
        return self._write_config(self.directory, settings["Networks"][NETWORK]["IPAddress"])

    def _write_config(self, directory: Path, address: str) -> Path:
        shutil.copytree(assets.HUB_CONFIG, directory / "hub_config", dirs_exist_ok=True)
        (directory / "resolv.conf").write_text(_RESOLV_CONF)
        site = f"spawner={self.spawner!r}, address={address!r}, network={NETWORK!r}"
        # Around the configuration, not in conf.d: there, other classes are refused.
        product = str(directory / "hub_config" / "jupyterhub_config.py")
        config = directory / "bench_config.py"
        config.write_text(
            f"load_subconfig({product!r})\n"
            f"from bench import hubside\nhubside.configure(c, {site})\n"
        )
        return config

    def popen(
        self, argv: list[str], directory: Path, environ: dict[str, str], **kw: Any
    ) -> subprocess.Popen[Any]:
        """Start a program in the hub's network, with the names that a container knows."""
        shell = ["unshare", "-m", "sh", "-c", _IN_A_CONTAINER, str(directory / "resolv.conf")]
        return self._site.lab.popen([*self.in_network, *shell, *argv], env=environ, **kw)

    @property
    def pid(self) -> int:
        """The process that was started, which may be a wrapper."""
        assert self._process
        return self._process.pid

    @contextlib.contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[Any]]:
        """Run the daemon beside this hub; yields the process that was started."""
        name = "daemon"
        with self._site.log_file(name).open("wb") as log:
            process = self.popen(
                [sys.executable, "-m", "bench.daemon"],
                self._site.lab.directory / self.log_name,
                {"STACK_NAME": self.stack, "IDLE_TIMEOUT_S": "0"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        assert process.stdin
        process.stdin.write(self._site.secrets["daemon_token"].encode() + b"\n")
        process.stdin.close()
        try:
            yield process
        finally:
            _end(process)
            self._site.keep_log(name)

    def is_known(self, user: str) -> bool:
        """Tell whether the hub says that the user's server runs."""
        servers = self.request("GET", f"/users/{user}").json().get("servers") or {}
        return bool(servers.get("", {}).get("ready"))

    def _is_healthy(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise BenchError(f"the hub ended:\n{self.log_tail()}")
        with contextlib.suppress(requests.RequestException):
            return self.session.get(f"{self.url}/health", timeout=5).ok
        return False

    def log_tail(self) -> str:
        """Return the end of the hub's log."""
        return "\n".join(self._site.log_file(self.log_name).read_text().splitlines()[-40:])

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End its process; ``start`` brings it back."""
        if self._process:
            _end(self._process, how)
            self._process = None

    def close(self) -> None:
        """End it."""
        if self._process:
            self.end()
            self._site.keep_log(self.log_name)
        self.session.close()

    def request(self, method: str, path: str, **kw: Any) -> requests.Response:
        """Ask the hub's API."""
        return self.session.request(
            method, f"{self.url}/api{path}", timeout=hubside.ANSWER_WITHIN_S + 30, **kw
        )

    def add_users(self, names: list[str]) -> None:
        """Make users."""
        answer = self.request("POST", "/users", json={"usernames": names})
        if answer.status_code != 201:
            raise BenchError(f"no users: {answer.status_code} {answer.text[:300]}")

    def start_server(self, user: str) -> None:
        """Return when the hub says that the user's server is ready. Raises StartFailed."""
        answer = self.request("POST", f"/users/{user}/server")
        if answer.status_code != 201:
            raise StartFailed(f"{user}: {answer.status_code} {answer.text[:300]}")

    def stop_server(self, user: str) -> None:
        """Return when the hub says that the user's server has stopped."""
        answer = self.request("DELETE", f"/users/{user}/server")
        if answer.status_code != 204:
            raise BenchError(f"{user} does not stop: {answer.status_code} {answer.text[:300]}")

    def read_lag(self) -> dict[str, float]:
        """Return for how long its loop did one thing since the last call (``LagHandler``)."""
        answer = self.request("GET", "/bench/lag")
        answer.raise_for_status()
        lag: dict[str, float] = answer.json()
        return lag

    def hub_id(self) -> str:
        """Return the hub's identity, which its notebooks carry."""
        headers = {"Authorization": f"token {self._site.secrets['daemon_token']}"}
        answer = self.request("GET", "/jhswarmd", headers=headers)
        answer.raise_for_status()
        return str(answer.json()["hub_id"])


def _end(process: subprocess.Popen[Any], how: signal.Signals = signal.SIGTERM) -> None:
    """Stop a program that ``Lab.popen`` started: nsenter and its child are one process group."""
    for number in (how, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            continue
        return


def notebook_labels(hub: HubProcess, hub_id: str, user: str) -> dict[str, str]:
    """Return the labels of a notebook that this hub would have started."""
    return labels.notebook_labels(
        stack=hub.stack, hub_id=hub_id, user=user, server="", spawn_id=secrets.token_hex(16)
    )
