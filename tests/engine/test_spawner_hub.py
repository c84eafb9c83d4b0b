"""A real JupyterHub with the project's own configuration, on the notebooks' network.

The hub is a process in the network namespace of a container on the overlay, so that it reaches
notebooks as in a stack. Only the proxy is in memory, and anybody may log in.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jhswarmd import assets, labels
from tests.kit.lab import Lab
from tests.kit.spawner_kit import drained
from tests.kit.wait import wait_until

STACK = "hubtest"
TOKENS = {
    "daemon_token": "daemon-token-of-the-test",
    "proxy_auth_token": "proxy-token-of-the-test",
    "culler_token": "culler-token-of-the-test",
    "cookie_secret": "c0" * 32,
    "crypt_key": "ab" * 32,
}
ADMIN = "admin-token-of-the-test"

SITE = """
import asyncio, os
from jupyterhub.proxy import Proxy

class MemoryProxy(Proxy):
    should_start = False
    routes = {}
    async def add_route(self, routespec, target, data):
        self.routes[routespec] = {"routespec": routespec, "target": target, "data": data}
    async def delete_route(self, routespec):
        self.routes.pop(routespec, None)
    async def get_all_routes(self):
        return self.routes

async def linger(spawner):
    await asyncio.sleep(float(os.environ.get("LINGER_S", "0")))

lingered = set()

async def linger_first(spawner, auth_state):
    seconds = spawner.user_options.get("linger_s", 0)
    if seconds not in lingered:  # JupyterHub keeps the options for later starts
        lingered.add(seconds)
        await asyncio.sleep(seconds)

c.Spawner.post_stop_hook = linger
# A hook that no other test sets for all spawners.
c.Spawner.auth_state_hook = linger_first
c.SwarmSpawner.http_timeout = int(os.environ.get("HTTP_TIMEOUT_S", "60"))
c.JupyterHub.proxy_class = MemoryProxy
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.allow_all = True
c.JupyterHub.hub_connect_ip = "ADDRESS"
c.JupyterHub.services.append({"name": "tester", "api_token": "TOKEN"})
c.JupyterHub.load_roles.append(
    {"name": "tester", "services": ["tester"], "scopes": ["admin:users", "admin:servers"]}
)
""".replace("TOKEN", ADMIN)

# Tokens come on standard input, as everything the hub is asked.
CALL = """
import json, sys, urllib.error, urllib.request
method, url, token, accept, body = json.load(sys.stdin)
headers = {"Accept": accept, **({"Authorization": "token " + token} if token else {})}
data = None if body is None else json.dumps(body).encode()
request = urllib.request.Request(url, data, method=method, headers=headers)
try:
    with urllib.request.urlopen(request, timeout=20) as answer:
        status, body = answer.status, answer.read().decode()
except urllib.error.HTTPError as exc:
    status, body = exc.code, exc.read().decode()
except OSError as exc:
    status, body = 0, str(exc)
print(json.dumps([status, body]))
"""

# What a browser does: cookies, the page's own token, and the header that tells a navigation.
BROWSE = """
import html, json, re, sys, urllib.error, urllib.parse, urllib.request
base, path, form = json.load(sys.stdin)
opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
opener.addheaders = [("Sec-Fetch-Mode", "navigate"), ("Accept", "text/html")]
def go(url, data=None):
    if data is not None:
        data = urllib.parse.urlencode(data, doseq=True).encode()
    try:
        with opener.open(urllib.parse.urljoin(base, url), data, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()
status, body = go("/hub/login")
token = re.search('name="_xsrf" value="([^"]*)"', body)[1]
go("/hub/login?next=/hub/home", {"_xsrf": token, "username": "ann", "password": "x"})
status, body = go(path)
if form is not None:
    action = html.unescape(re.search('id="spawn_form"\\s+action="([^"]*)"', body)[1])
    status, body = go(action, form)
print(json.dumps([status, body]))
"""


class HubProcess:
    """A hub that can be killed and started again on the same database."""

    def __init__(self, lab: Lab, directory: Path, image: str, pid: int, address: str) -> None:
        self._lab = lab
        self._directory = directory
        self._image = image
        self._in_network = ["nsenter", "-t", str(pid), "-n"]
        self.address = address
        self._process: subprocess.Popen[Any] | None = None
        self.config_dir = Path(shutil.copytree(assets.HUB_CONFIG, directory / "hub_config"))
        # Around the configuration, not in conf.d: there, another proxy is refused.
        product = str(self.config_dir / "jupyterhub_config.py")
        self._config = directory / "test_config.py"
        self._config.write_text(f"load_subconfig({product!r})\n" + SITE.replace("ADDRESS", address))
        #: Keys of the profile besides those of every test.
        self.environ: dict[str, str] = {}
        self.log = directory / "hub.log"

    def start(self) -> None:
        environ = {
            "STACK_NAME": STACK,
            "SINGLE_USER_IMAGE": self._image,
            "NOTEBOOK_COMMAND": "small-server",
            "DATABASE_URL": f"sqlite:///{self._directory}/hub.sqlite",
            **self.environ,
        }
        with self.log.open("ab") as log:
            self._process = self._lab.popen(
                [*self._in_network, sys.executable, "-m", "jupyterhub", "-f", str(self._config)],
                env=environ,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self.call("GET", "/health", api="/hub")[0] == 200, 60, what="hub")

    def kill(self) -> None:
        if self._process:
            # The hub is a child of nsenter's, in its process group.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def call(
        self,
        method: str,
        path: str,
        token: str = ADMIN,
        *,
        api: str = "/hub/api",
        accept: str = "application/json",
        body: Any = None,
    ) -> tuple[int, Any]:
        url = f"http://{self.address}:8081{api}{path}"
        result = self._lab.run(
            [*self._in_network, sys.executable, "-c", CALL],
            input=json.dumps([method, url, token, accept, body]),
        )
        status, body = json.loads(result.stdout)
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body

    def browse(self, path: str, form: dict[str, str] | None = None) -> tuple[int, str]:
        """Log ann in and open a page of the hub; with ``form`` fill in the page's form and send it.

        Returns status and body of what she sees then.
        """
        result = self._lab.run(
            [*self._in_network, sys.executable, "-c", BROWSE],
            input=json.dumps([f"http://{self.address}:8081", path, form]),
        )
        status, body = json.loads(result.stdout)
        return status, body

    def server(self) -> dict[str, Any] | None:
        """Return what the hub says about ann's server, None when it has none."""
        status, user = self.call("GET", "/users/ann", TOKENS["daemon_token"])
        assert status == 200, user
        found: dict[str, Any] | None = user["servers"].get("")
        return found

    def is_ready(self) -> bool:
        server = self.server()
        return bool(server and server["ready"])

    def is_stopped(self) -> bool:
        return self.server() is None


@pytest.fixture(scope="module")
def network(engine: Lab) -> Iterator[str]:
    name = labels.network_name(STACK, "notebooks")
    made = engine.client.networks.create(name, driver="overlay", scope="swarm", attachable=True)
    yield name
    wait_until(lambda: not engine.client.api.tasks(), 30)
    made.remove()


@pytest.fixture(scope="module")
def hub(
    engine: Lab, network: str, small_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HubProcess]:
    place = engine.client.containers.run(small_image, network=network, detach=True)
    try:
        engine.run(["mkdir", "-p", "/run/secrets"])
        for name, content in TOKENS.items():
            path = f"/run/secrets/{name}"
            engine.run(["sh", "-c", f"umask 077 && cat > {path}"], input=f"{content}\n")
        place.reload()
        address = place.attrs["NetworkSettings"]["Networks"][network]["IPAddress"]
        process = HubProcess(
            engine,
            tmp_path_factory.mktemp("hub"),
            small_image,
            place.attrs["State"]["Pid"],
            address,
        )
        try:
            process.start()
            assert process.call("POST", "/users/ann")[0] == 201
            yield process
        finally:
            process.kill()
            print(process.log.read_text())
    finally:
        for service in engine.client.services.list():
            service.remove()
        place.remove(force=True)


@pytest.fixture
def stopped(hub: HubProcess) -> Iterator[HubProcess]:
    """The hub, with no server of ann's before and after."""
    yield hub
    hub.call("DELETE", "/users/ann/server")
    wait_until(hub.is_stopped, 60)


def start(hub: HubProcess) -> float:
    """Start ann's server; return the seconds until it was ready."""
    begun_at = time.monotonic()
    status, answer = hub.call("POST", "/users/ann/server")
    assert status in (201, 202), answer
    wait_until(hub.is_ready, 60)
    return time.monotonic() - begun_at


def test_a_server_is_ready_each_time_right_after_it_was_stopped(
    stopped: HubProcess, engine: Lab
) -> None:
    for _ in range(5):
        start(stopped)
        assert stopped.call("DELETE", "/users/ann/server")[0] in (202, 204)
        wait_until(stopped.is_stopped, 60)
        assert engine.client.services.list() == []


def progress(hub: HubProcess) -> list[dict[str, Any]]:
    """Return what the page of ann's server is told, pending or failed, from first to last."""

    def ask() -> str:
        # While JupyterHub clears up after a start that failed, it is neither pending nor failed.
        status, answer = hub.call("GET", "/users/ann/server/progress")
        return str(answer) if status == 200 else ""

    events = wait_until(ask, 10, what="the progress of ann's server")
    return [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")]


def test_the_hubs_page_follows_the_task_to_its_node(stopped: HubProcess, engine: Lab) -> None:
    # Long enough to open its page before it is ready.
    assert stopped.call("POST", "/users/ann/server", body={"linger_s": 3})[0] == 202
    told = progress(stopped)
    (node,) = engine.client.nodes.list()
    on_node = f" on {node.attrs['Description']['Hostname']}"
    messages = [each["message"] for each in told]
    assert any(message.startswith("Waiting for ") for message in messages[:-1])
    assert f"Running{on_node}, waiting for the notebook to answer" in messages
    assert told[-1]["ready"] is True
    percents = [each["progress"] for each in told]
    assert percents == sorted(percents)


def test_the_notebook_gets_the_hubs_address(stopped: HubProcess, engine: Lab) -> None:
    start(stopped)
    (service,) = engine.client.services.list()
    env = service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"]
    assert f"JUPYTERHUB_API_URL=http://{stopped.address}:8081/hub/api" in env


def test_the_hub_tells_its_identity_to_the_daemon_alone(stopped: HubProcess, engine: Lab) -> None:
    start(stopped)
    status, identity = stopped.call("GET", "/jhswarmd", TOKENS["daemon_token"])
    (service,) = engine.client.services.list()
    assert status == 200
    assert identity["hub_id"] == service.attrs["Spec"]["Labels"][labels.HUB]
    start_of_hub, _, number = service.attrs["Spec"]["Labels"][labels.COUNT].partition(".")
    assert identity["spawns"][start_of_hub] == int(number)
    assert stopped.call("GET", "/jhswarmd", "")[0] == 403
    assert stopped.call("GET", "/jhswarmd", ADMIN)[0] == 403


def test_the_hub_says_whose_a_service_is_after_its_user_was_renamed(
    stopped: HubProcess, engine: Lab
) -> None:
    start(stopped)
    (service,) = engine.client.services.list()

    def ask(service_id: str) -> tuple[Any, bool]:
        path = f"/jhswarmd/users/ann?service={service_id}"
        _, answer = stopped.call("GET", path, TOKENS["daemon_token"])
        return answer["servers"], answer["holds_asked"]

    assert ask(service.id) == ({"": None}, True)
    assert ask("another") == ({"": None}, False)
    assert stopped.call("PATCH", "/users/ann", body={"name": "anna"})[0] == 200
    try:
        assert ask(service.id) == (None, True)
    finally:
        assert stopped.call("PATCH", "/users/anna", body={"name": "ann"})[0] == 200


def test_the_daemon_may_list_servers_and_restore_routes_and_stop_nothing(
    stopped: HubProcess,
) -> None:
    start(stopped)
    token = TOKENS["daemon_token"]
    paginated = "application/jupyterhub-pagination+json"
    status, page = stopped.call("GET", "/users?state=active&limit=5", token, accept=paginated)
    assert status == 200
    assert page["items"][0]["servers"][""]["ready"] is True
    assert page["_pagination"]["total"] == 1
    assert stopped.call("POST", "/proxy", token)[0] == 200
    assert stopped.call("DELETE", "/users/ann/server", token)[0] in (403, 404)
    assert stopped.is_ready()


def test_the_stop_button_ends_a_start_and_leaves_nothing(stopped: HubProcess, engine: Lab) -> None:
    assert stopped.call("POST", "/users/ann/server")[0] == 202
    wait_until(engine.client.services.list, 20)
    assert stopped.call("DELETE", "/users/ann/server")[0] in (202, 204)
    wait_until(stopped.is_stopped, 30)
    wait_until(lambda: not engine.client.services.list(), 30)
    # And the next start is none the worse for it.
    start(stopped)


def test_a_hub_that_was_killed_knows_its_notebook_again(stopped: HubProcess, engine: Lab) -> None:
    start(stopped)
    (before,) = engine.client.services.list()
    spawns = stopped.call("GET", "/jhswarmd", TOKENS["daemon_token"])[1]["spawns"]
    stopped.kill()
    stopped.start()
    wait_until(stopped.is_ready, 30)
    assert [service.id for service in engine.client.services.list()] == [before.id]
    assert stopped.call("GET", "/jhswarmd", TOKENS["daemon_token"])[1]["spawns"] == spawns


def test_a_home_stays_on_its_node_after_stop_and_restart_of_the_hub(
    stopped: HubProcess, engine: Lab
) -> None:
    start(stopped)
    assert stopped.call("DELETE", "/users/ann/server")[0] in (202, 204)
    wait_until(stopped.is_stopped, 60)
    stopped.kill()
    stopped.start()
    start(stopped)
    (service,) = engine.client.services.list()
    (node,) = engine.client.nodes.list()
    placement = service.attrs["Spec"]["TaskTemplate"]["Placement"]
    assert placement["Constraints"] == [f"node.id == {node.id}"]


def test_a_user_reads_why_a_start_failed_and_the_administrator_reads_more(
    stopped: HubProcess, engine: Lab
) -> None:
    start(stopped)
    assert stopped.call("DELETE", "/users/ann/server")[0] in (202, 204)
    wait_until(stopped.is_stopped, 60)
    with drained(engine):
        assert stopped.call("POST", "/users/ann/server")[0] == 202
        told = progress(stopped)
    assert told[-1]["failed"] is True
    assert told[-1]["message"].startswith("Spawn failed: Your files are on node ")
    assert "VOLUME_NODE_POLICY" not in told[-1]["message"]
    assert "VOLUME_NODE_POLICY" in stopped.log.read_text()


def test_a_hub_that_starts_while_the_engine_is_silent_keeps_its_notebook(
    stopped: HubProcess, engine: Lab
) -> None:
    start(stopped)
    stopped.kill()
    with engine.paused():
        stopped.start()
        wait_until(stopped.is_ready, 60)
    assert stopped.is_ready()


@pytest.mark.parametrize("kind", ["paused", "packets dropped"])
def test_a_silent_notebook_outlives_a_restart_of_the_hub_and_can_be_stopped(
    stopped: HubProcess, engine: Lab, kind: str
) -> None:
    """Connections to a paused server are accepted and never answered; other packets are lost."""
    start(stopped)
    (before,) = engine.client.services.list()
    (container,) = engine.client.containers.list(filters={"label": labels.SPAWN})
    stopped.kill()
    if kind == "paused":
        container.pause()
    else:
        rule = ["INPUT", "-p", "tcp", "--dport", "8888", "-j", "DROP"]
        in_network = ["nsenter", "-t", str(container.attrs["State"]["Pid"]), "-n"]
        engine.run([*in_network, "iptables", "-I", *rule])
    log_size = stopped.log.stat().st_size

    def said() -> str:
        return stopped.log.read_text()[log_size:]

    stopped.environ["HTTP_TIMEOUT_S"] = "1"
    try:
        stopped.start()
        wait_until(stopped.is_ready, 60, what="it counts as running")
        wait_until(lambda: "does not answer; it is left running" in said(), 60)
        assert stopped.is_ready()
        assert [service.id for service in engine.client.services.list()] == [before.id]
        assert "/user/ann/" in stopped.call("GET", "/proxy", TOKENS["daemon_token"])[1]
        assert stopped.call("DELETE", "/users/ann/server")[0] in (202, 204)
        wait_until(stopped.is_stopped, 60)
        assert engine.client.services.list() == []
    finally:
        stopped.kill()
        del stopped.environ["HTTP_TIMEOUT_S"]
        stopped.start()


def test_a_notebook_that_its_user_shut_down_is_gone_from_hub_and_cluster(
    stopped: HubProcess, engine: Lab
) -> None:
    start(stopped)
    (container,) = engine.client.containers.list(filters={"label": labels.SPAWN})
    container.kill()
    # The hub looks when somebody asks it to stop the server (and every 30 s).
    wait_until(lambda: container.reload() or container.status == "exited", 10)
    wait_until(lambda: stopped.call("DELETE", "/users/ann/server")[0] in (204, 404, 400), 30)
    wait_until(stopped.is_stopped, 30)
    wait_until(lambda: not engine.client.services.list(), 30)


def test_a_report_is_answered_in_time_whatever_the_site_does_for_a_servers_end(
    stopped: HubProcess, engine: Lab
) -> None:
    path = "/jhswarmd/users/ann/servers/"

    def report() -> tuple[int, Any]:
        return stopped.call("POST", path, TOKENS["daemon_token"])

    start(stopped)
    assert report() == (200, {"status": None})
    stopped.kill()
    stopped.environ["LINGER_S"] = "8"
    try:
        stopped.start()
        wait_until(stopped.is_ready, 30)
        (container,) = engine.client.containers.list(filters={"label": labels.SPAWN})
        container.kill()
        wait_until(lambda: container.reload() or container.status == "exited", 10)
        begun_at = time.monotonic()
        # The node tells the managers a moment after the death.
        wait_until(lambda: report()[0] == 200 and not stopped.is_ready(), 20)
        assert time.monotonic() - begun_at < 8
        wait_until(stopped.is_stopped, 30)
    finally:
        stopped.kill()
        del stopped.environ["LINGER_S"]
        stopped.start()


def test_no_secret_is_in_the_hubs_log(hub: HubProcess) -> None:
    text = hub.log.read_text()
    assert not [name for name, content in {**TOKENS, "admin": ADMIN}.items() if content in text]
