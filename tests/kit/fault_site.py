"""Where faults are injected: a real engine, hub and daemon, and a proxy on each way between them.

    daemon --- proxy --- engine        ``FaultSite.engine``
    daemon --- proxy --- hub           ``FaultSite.hub_api``
    hub    --- proxy --- engine        ``FaultSite.spawner``

The daemon is the real command (``jhswarmd run``) in the lab; the hub is the benchmark's, with the
project's own configuration and spawner, and only its reverse proxy in memory. ``check`` looks at
what must hold after every fault.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from docker.errors import APIError, NotFound
from docker.types import ContainerSpec, Placement, TaskTemplate

from bench.measure import create_hub_service
from bench.site import NETWORK, HubProcess, Site, notebook_labels
from jhswarmd import labels
from tests.kit.engine_proxy import Delay, EngineProxy, HubProxy, Request
from tests.kit.lab import Lab
from tests.kit.wait import wait_until

#: Everything converges within so many seconds of a fault's end.
CONVERGED_S = 60
#: How many more than at first are no leak: the hub's pool of threads grows up to its size ...
MORE_THREADS = {"daemon": 1, "hub": 32}
#: ... and docker-py keeps a connection for each of the last 25 addresses that were asked.
MORE_DESCRIPTORS = 32
#: No node has it: a service that is real for the control plane, without a container.
NOWHERE = Placement(constraints=["node.labels.nowhere == true"])
_WITH_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'
_HUB_PORT = 8081
_METRICS_PORT = 9108
#: A line of the daemon's log about a removal: the service's id and its user.
_REMOVAL = re.compile(r"Removed an orphan .*?\bid=(\S+) user=(\S+)")
_DOWN = (requests.RequestException, OSError)


@dataclass(frozen=True)
class Resources:
    """What a process holds."""

    threads: int
    descriptors: int
    rss_mb: float

    @classmethod
    def of(cls, pid: int) -> Resources:
        """Look at a process. Raises FileNotFoundError when there is none."""
        status = Path(f"/proc/{pid}/status").read_text()
        facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        return cls(int(facts["Threads"]), descriptors, int(facts["VmRSS"].split()[0]) / 1024)


class FaultSite:
    """The site. A context manager; ``seed`` is that of the proxies' dice."""

    def __init__(self, lab: Lab, seed: int = 0, **profile: str) -> None:
        self.lab = lab
        self._profile = profile
        gateway = str(ipaddress.IPv4Address(lab.address) - 1)  # the host's end, see Lab
        self._gateway = gateway
        self.engine = EngineProxy(lab.socket, lab.directory / "daemon.sock", seed)
        self.spawner = EngineProxy(lab.socket, lab.directory / "hub.sock", seed + 1)
        self.hub_api = HubProxy(("", 0), (gateway, _HUB_PORT), seed + 2)
        self.expected: set[str] = set()
        """Ids of services that the daemon may remove."""
        self.wrongs: list[str] = []
        """Users whose server was ready for the hub when the daemon removed its service."""
        self.engine.add(Delay(), "DELETE", "^/services/", when=self._witness)
        self.expected_users: set[str] = set()
        """Users all of whose services it may remove."""
        self._undo = contextlib.ExitStack()
        self._daemon: subprocess.Popen[Any] | None = None
        self.daemon_log = lab.directory / "faults-daemon.log"
        self._made = 0
        self._session = requests.Session()
        self._session.trust_env = False

    def __enter__(self) -> FaultSite:
        with contextlib.ExitStack() as undo:
            undo.callback(self._session.close)
            self.site = Site(self.lab, None)
            undo.callback(self._remove_everything)
            undo.enter_context(self.engine)
            undo.enter_context(self.spawner)
            self.hub = HubProcess(self.site, "ours", {"DOCKER_HOST": self.spawner.base_url})
            undo.callback(self.hub.close)
            self.start_hub()
            undo.enter_context(self.hub_api)
            create_hub_service(self.site, self.hub)
            undo.callback(self.stop_daemon)
            self.start_daemon()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._undo.close()

    def _remove_everything(self) -> None:
        for container in self.lab.client.containers.list(
            filters={"network": NETWORK}, ignore_removed=True
        ):
            if "com.docker.swarm.service.id" not in container.labels:
                container.remove(force=True)
        for service in self.lab.client.services.list():
            with contextlib.suppress(NotFound):
                service.remove()
        wait_until(lambda: not self.lab.client.api.tasks(), 60, what="no task is left")
        self.lab.client.networks.get(NETWORK).remove()
        self.site.api.close()

    # --- hub and daemon as processes ---

    def start_hub(self) -> None:
        """Start the hub on the database that it had before, and wait until it answers."""
        self.hub.start()
        self.hub_api.hub = self.hub.address

    @contextlib.contextmanager
    def hub_cut_off_from_notebooks(self) -> Iterator[None]:
        """Lose what the hub sends to notebooks for a block, as before an overlay network works."""
        rule = ["OUTPUT", "-p", "tcp", "--dport", "8888", "-j", "DROP"]
        self.lab.run([*self.hub.in_network, "iptables", "-I", *rule])
        try:
            yield
        finally:
            self.lab.run([*self.hub.in_network, "iptables", "-D", *rule])

    def start_daemon(self) -> None:
        """Start the daemon, and wait until it is ready."""
        hosts = self.lab.directory / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{self._gateway} hub\n")
        control = ipaddress.IPv4Network(f"{self.lab.address}/30", strict=False)
        environ = {
            "DOCKER_HOST": self.engine.base_url,
            "STACK_NAME": self.hub.stack,
            "CONTROL_SUBNET": str(control),
            "LOG_FORMAT": "json",
            **self._profile,
        }
        argv = ["unshare", "-m", "sh", "-c", _WITH_HOSTS, str(hosts)]
        argv += [sys.executable, "-m", "jhswarmd", "run"]
        with self.daemon_log.open("ab") as log:
            self._daemon = self.lab.popen(argv, environ, stdout=log, stderr=log)
        wait_until(self.is_ready, CONVERGED_S, what="the daemon is ready", ignoring=_DOWN)

    def stop_daemon(self) -> int:
        """Stop the daemon, and return its exit status."""
        assert self._daemon
        self.lab.end(self._daemon)
        return int(self._daemon.returncode)

    def is_ready(self) -> bool:
        """Tell whether the daemon says that it is ready."""
        assert self._daemon
        assert self._daemon.poll() is None, f"the daemon ended:\n{self.daemon_text()[-3000:]}"
        url = f"http://{self.lab.address}:{_METRICS_PORT}/ready"
        return self._session.get(url, timeout=5).ok

    def metrics(self) -> str:
        """Return what the daemon tells Prometheus."""
        url = f"http://{self.lab.address}:{_METRICS_PORT}/metrics"
        return self._session.get(url, timeout=5).text

    def metric(self, name: str) -> float:
        """Return the value of a series, or the sum of all of a metric."""
        exact = re.escape(name) if "{" in name else rf"{name}(?:\{{[^}}]*\}})?"
        found = re.findall(rf"^{exact} (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, found))

    def ask(self, command: str) -> Any:
        """Ask the daemon as the command line does."""
        script = "import json, sys; from jhswarmd.api import control_socket; "
        script += "print(json.dumps(control_socket.ask(sys.argv[1])))"
        return json.loads(self.lab.run([sys.executable, "-c", script, command]).stdout)

    def daemon_text(self) -> str:
        """Return the daemon's whole log."""
        return self.daemon_log.read_text()

    def said(self) -> list[dict[str, Any]]:
        """Return the daemon's log, a mapping for each line."""
        return [json.loads(line) for line in self.daemon_text().splitlines()]

    def resources(self) -> dict[str, Resources]:
        """Return what daemon and hub hold."""
        assert self._daemon
        return {
            "daemon": Resources.of(_innermost(self._daemon.pid)),
            "hub": Resources.of(_innermost(self.hub.pid)),
        }

    # --- notebooks, and what looks like some ---

    def start_server(self, user: str) -> str:
        """Start a user's server by the hub, and return the id of its service."""
        self.hub.request("POST", f"/users/{user}")
        self.hub.start_server(user)
        return self.service_of(user)

    def service_of(self, user: str) -> str:
        """Return the id of the user's only service."""
        (found,) = [each for each in self.notebooks() if labels.of(each)[labels.USER] == user]
        return str(found["ID"])

    def notebooks(self) -> list[dict[str, Any]]:
        """Return all services that are labelled as notebooks."""
        wanted = [f"{labels.STACK}={self.hub.stack}", f"{labels.ROLE}={labels.ROLE_NOTEBOOK}"]
        found: list[dict[str, Any]] = self.site.api.services(filters={"label": wanted})
        return found

    def make_service(self, user: str, hub_id: str | None = None) -> str:
        """Create a service with the labels of a notebook of this hub's; return its id.

        It has no container. The daemon may remove it.
        """
        self._made += 1
        given = notebook_labels(self.hub, hub_id or self.hub.hub_id(), user)
        template = TaskTemplate(ContainerSpec(self.site.image), placement=NOWHERE)
        made = self.site.api.create_service(template, name=f"made-{self._made}", labels=given)
        self.expected.add(made["ID"])
        return str(made["ID"])

    def exists(self, service_id: str) -> bool:
        """Tell whether the engine has a service."""
        try:
            self.site.api.inspect_service(service_id)
        except NotFound:
            return False
        return True

    def wait_gone(self, *service_ids: str, timeout_s: float = CONVERGED_S) -> None:
        """Return when the engine has none of the services. What is held is approved."""

        def is_gone() -> bool:
            if self.metric("jhswarmd_orphans_held"):
                self.ask("approve")
            return not [each for each in service_ids if self.exists(each)]

        wait_until(is_gone, timeout_s, what="the orphans are gone", ignoring=_DOWN)

    def start_full_pass(self) -> None:
        """Let the daemon begin a full pass now."""
        self.ask("approve")

    def passes(self, kind: str = "servers") -> float:
        """Return how many looks at keys of a kind have ended."""
        return self.metric(f'jhswarmd_pass_seconds_count{{kind="{kind}"}}')

    def last_pass(self) -> float:
        """Return when the last full pass succeeded."""
        return self.metric("jhswarmd_last_full_pass_timestamp_seconds")

    def wait_full_pass(self) -> None:
        """Return when a full pass has succeeded that began after this call."""
        for _ in range(2):  # the first may have begun before
            seen = self.last_pass()
            self.start_full_pass()
            wait_until(
                lambda seen=seen: self.last_pass() > seen,  # type: ignore[misc]
                CONVERGED_S,
                what="a full pass",
                ignoring=_DOWN,
            )

    # --- what must hold after every fault ---

    def wait_converged(self) -> None:
        """Return when hub and engine have the same servers, and the daemon is ready."""

        def agrees() -> bool:
            answer = self.hub.request("GET", "/users?state=active").json()
            servers = {
                (user["name"], name): server
                for user in answer
                for name, server in user["servers"].items()
            }
            assert all(isinstance(each, dict) for each in servers.values())
            found = [
                (labels.of(each)[labels.USER], labels.of(each)[labels.SERVER])
                for each in self.notebooks()
            ]
            is_settled = all(each["ready"] for each in servers.values())
            return is_settled and sorted(found) == sorted(servers)

        wait_until(agrees, CONVERGED_S, what="hub and engine agree", ignoring=_DOWN)
        wait_until(self.is_ready, CONVERGED_S, what="the daemon is ready", ignoring=_DOWN)

    def _witness(self, request: Request) -> bool:
        """Ask engine and hub, past the proxies, about a service that is about to be removed."""
        with contextlib.suppress(*_DOWN, APIError, KeyError):
            service = self.site.api.inspect_service(request.path.rpartition("/")[2])
            user = labels.of(service)[labels.USER]
            if self.hub.is_known(user):
                self.wrongs.append(user)
        return False  # no fault

    def check(self, before: dict[str, Resources] | None = None, *, strict: bool = True) -> None:
        """Look at what must hold; ``before`` is what hub and daemon held before the fault.

        Without ``strict`` the daemon may remove what was made while the hub gave up a start.
        """
        assert self.wrongs == [], "the daemon removed what the hub knows"
        whose = dict(_REMOVAL.findall(self.daemon_text()))
        wrong = {
            id_
            for id_ in self.engine.removed("services") - self.expected
            if whose.get(id_) not in self.expected_users
        }
        assert not strict or wrong == set(), "the daemon removed what nobody expected"
        assert self.engine.removed("volumes") | self.spawner.removed("volumes") == set()
        text = self.daemon_text() + self.site.log_file(self.hub.log_name).read_text()
        shown = [name for name, word in self.site.secrets.items() if word in text]
        assert shown == [], "a log shows a secret"
        odd = [
            line
            for line in self.said()
            if "exception" in line
            or any(text in str(line) for text in ("failed unexpectedly", "Unexpected error"))
        ]
        assert odd == [], "the daemon met something unexpected"
        if before:
            self.wait_flat(before)

    def wait_flat(self, before: dict[str, Resources]) -> None:
        """Return when hub and daemon hold no more threads and descriptors than before."""

        def grown() -> dict[str, Any]:
            now = self.resources()
            return {
                name: (before[name], now[name])
                for name in now
                if now[name].threads > before[name].threads + MORE_THREADS[name]
                or now[name].descriptors > before[name].descriptors + MORE_DESCRIPTORS
            }

        wait_until(lambda: not grown(), 30, what=f"what is held is flat: {grown()}")


@contextlib.contextmanager
def killed_hub(site: FaultSite) -> Iterator[None]:
    """Kill the hub for a block, and start it again."""
    site.hub.end(signal.SIGKILL)
    try:
        yield
    finally:
        site.start_hub()


def _innermost(pid: int) -> int:
    """Return the last of a line of processes, each of which started the next."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid
