"""Three managers: a lost leader, a lost quorum, and which instance of the daemon acts."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from docker.errors import APIError, NotFound
from docker.models.services import Service
from docker.types import RestartPolicy

from jhswarmd import labels
from jhswarmd.api import web_server
from jhswarmd.settings.settings import SECRETS_DIR
from jhswarmd.spawner.service import ServiceSpawner
from tests.engine.conftest import CreateService
from tests.kit.cluster_lab import Cluster
from tests.kit.lab import SMALL_IMAGE, Lab, Services
from tests.kit.spawner_kit import HUB_ID, STACK, Flaky, the_container
from tests.kit.wait import wait_until

NODES = {"managers": 3}


def on(lab: Lab) -> dict[str, Any]:
    return {"extra_placement_spec": {"constraints": [f"node.hostname == {lab.name}"]}}


def test_a_start_and_a_stop_succeed_while_the_leader_is_lost(
    make: Any, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    second, third = cluster.others
    assert cluster.node(cluster).attrs["ManagerStatus"]["Leader"]
    api = docker.APIClient(base_url=second.base_url, version="auto", timeout=5)
    monkeypatch.setattr(ServiceSpawner, "_engine_client", api)
    caplog.set_level(logging.INFO, "jhswarmd.retry")
    before = make(name_template="before", volumes={}, **on(third))
    spawner = make(volumes={}, **on(third))
    asyncio.run(before.start())
    cluster.stop_engine(kill=True)
    try:
        asyncio.run(spawner.start())
        assert any("no answer" in each.message or "500" in each.message for each in caplog.records)
        assert asyncio.run(before.poll()) is None
        assert asyncio.run(spawner.poll()) is None
        asyncio.run(spawner.stop())
        assert api.services(filters={"name": spawner.object_name}) == []
    finally:
        cluster.start_engine()
        for lab in cluster.nodes:
            cluster.wait_state(lab, "ready")
        api.close()


@contextlib.contextmanager
def without_quorum(cluster: Cluster) -> Iterator[None]:
    for lab in cluster.others:
        lab.stop_engine(kill=True)
    try:
        yield
    finally:
        # At once: each waits for the others before it answers.
        with ThreadPoolExecutor() as pool:
            list(pool.map(Lab.start_engine, cluster.others))


@contextlib.contextmanager
def demoted(cluster: Cluster) -> Iterator[None]:
    def give(role: str) -> None:
        node = cluster.node(cluster, seen_by=cluster.others[0])
        node.update({**node.attrs["Spec"], "Role": role})

    give("worker")
    try:
        yield
    finally:
        give("manager")


@pytest.mark.parametrize("fault", [without_quorum, demoted])
def test_a_hub_whose_node_has_no_say_in_the_swarm_keeps_its_notebooks(
    make: Any,
    client: Flaky,
    cluster: Cluster,
    fault: Callable[[Cluster], AbstractContextManager[None]],
) -> None:
    def answers() -> bool:
        try:
            return bool(client.services())
        except (APIError, requests.RequestException):
            return False

    spawner = make(volumes={}, **on(cluster))
    asyncio.run(spawner.start())
    container = the_container(cluster, spawner)
    with fault(cluster):
        wait_until(lambda: not answers(), 60, what="the hub's engine knows no services")
        assert asyncio.run(spawner.poll()) is None
    wait_until(answers, 60, what="the hub's engine knows services again")
    for lab in cluster.nodes:
        cluster.wait_state(lab, "ready")
    assert asyncio.run(spawner.poll()) is None
    assert the_container(cluster, spawner).id == container.id
    asyncio.run(spawner.stop())


class Instance:
    """The daemon as a process on one manager, and the hub as this instance sees it.

    That hub knows no server but those in ``users``, and remembers what it was asked. It answers at
    an address that only this manager reaches, under the name that the daemon knows, by a hosts file
    of the lab's own.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.asked: list[str] = []
        self.reports: list[str] = []
        self.users: dict[str, list[str]] = {}
        self._server = http.server.ThreadingHTTPServer((lab.gateway, 8081), self._make_handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        hosts = lab.directory / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{lab.gateway} hub\n")
        lab.run(["mount", "--bind", hosts, "/etc/hosts"])
        secret = Path(SECRETS_DIR) / "daemon_token"
        lab.run(["sh", "-c", f"mkdir -p {SECRETS_DIR}; echo not-a-real-token > {secret}"])
        self._log = lab.directory / "jhswarmd.log"
        with self._log.open("wb") as log:
            self._process = lab.popen(
                [sys.executable, "-m", "jhswarmd", "run"],
                env={
                    "STACK_NAME": STACK,
                    "CONTROL_SUBNET": f"{lab.address}/32",
                    "RESYNC_INTERVAL_S": "2",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def close(self) -> None:
        self.lab.end(self._process)
        self._server.shutdown()
        self._server.server_close()
        self.lab.run(["umount", "/etc/hosts"])

    def _make_handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        asked, reports, users = self.asked, self.reports, self.users

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/hub/api/").partition("?")[0]
                asked.append(name)
                identity = {"hub_id": HUB_ID, "spawns": {}}
                items = [
                    {"name": user, "servers": {each: {"pending": None} for each in servers}}
                    for user, servers in users.items()
                ]
                answers: dict[str, Any] = {
                    "user": {"scopes": ["list:users", "read:servers", "read:hub"]},
                    "users": {"items": items, "_pagination": {"next": None}},
                    "jhswarmd": identity,
                }
                of_user = users.get(name.rpartition("/")[2])
                servers = None if of_user is None else dict.fromkeys(of_user)
                about_user = {**identity, "servers": servers, "holds_asked": False}
                self._answer(answers.get(name, about_user))

            def do_POST(self) -> None:
                if "/servers/" in self.path:
                    reports.append(self.path.removeprefix("/hub/api/jhswarmd/users/"))
                    self._answer({"status": None})
                else:
                    self.send_error(503)

            def _answer(self, value: Any) -> None:
                body = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    @property
    def duty(self) -> float:
        """What its metrics say of its duty. Raises RequestException while it starts."""
        text = requests.get(f"http://{self.lab.address}:{web_server.PORT}/metrics", timeout=5).text
        (line,) = (each for each in text.splitlines() if each.startswith("jhswarmd_duty "))
        return float(line.split()[1])

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
def instances(cluster: Cluster) -> Iterator[list[Instance]]:
    with contextlib.ExitStack() as undo:
        made = []
        for lab in cluster.nodes:
            made.append(Instance(lab))
            undo.callback(made[-1].close)
        yield made


def on_duty(instances: list[Instance]) -> list[Lab]:
    return [each.lab for each in instances if each.duty]


def wait_on_duty(instances: list[Instance], lab: Lab) -> None:
    wait_until(
        lambda: on_duty(instances) == [lab],
        60,
        what=f"only {lab.name} is on duty",
        ignoring=(requests.RequestException, ValueError),
    )


def test_a_task_that_ends_where_no_daemon_listens_is_reported_within_seconds(
    cluster: Cluster, create_service: CreateService
) -> None:
    first, _, third = cluster.nodes
    create_service(
        SMALL_IMAGE,
        name=labels.service_name(STACK, "hub"),
        labels={labels.STACK_NAMESPACE: STACK, labels.STACK: STACK, labels.ROLE: "hub"},
        constraints=[f"node.hostname == {first.name}"],
    )
    marks = labels.notebook_labels(
        stack=STACK, hub_id=HUB_ID, user="alice", server="", spawn_id="c" * 32
    )
    service = create_service(
        SMALL_IMAGE,
        name=f"{STACK}-alice",
        labels=marks,
        container_labels=marks,
        restart_policy=RestartPolicy("none"),
        constraints=[f"node.hostname == {third.name}"],
    )
    with contextlib.closing(Instance(first)) as instance:
        instance.users["alice"] = [""]
        wait_on_duty([instance], first)
        wait_until(lambda: third.client.containers.list(filters=of_service(service)), 60)
        wait_until(lambda: "users" in instance.asked, 60, what="a full pass")
        assert instance.reports == []
        (container,) = third.client.containers.list(filters=of_service(service))
        container.kill()
        wait_until(lambda: instance.reports == ["alice/servers/"], 15, what="a report")
    assert cluster.client.services.get(service.id)


def of_service(service: Service) -> dict[str, str]:
    return {"label": f"{labels.SERVICE_ID}={service.id}"}


def test_the_instance_beside_the_hub_acts_and_no_other_wherever_the_hub_moves(
    cluster: Cluster, instances: list[Instance], create_service: CreateService
) -> None:
    first, second, third = cluster.nodes

    def make_orphan(through: Lab) -> str:
        service = Services(client=through.client).create(
            SMALL_IMAGE,
            name=f"{STACK}-gone",
            labels=labels.notebook_labels(
                stack=STACK, hub_id=HUB_ID, user="gone", server="", spawn_id="b" * 32
            ),
        )
        return str(service.id)

    def removals(service_id: str) -> list[Lab]:
        """Who says that it has removed this service."""
        return [
            each.lab
            for each in instances
            if any("Removed" in line and service_id in line for line in each.log.splitlines())
        ]

    def check_acts(instance: Instance, through: Lab) -> None:
        for each in instances:
            each.asked.clear()
        service_id = make_orphan(through)
        wait_until(
            lambda: removals(service_id) == [instance.lab], 60, what=f"{instance.lab.name} removes"
        )
        with pytest.raises(NotFound):
            through.client.services.get(service_id)
        # The others have not even asked.
        assert [each.lab for each in instances if each.asked] == [instance.lab]

    cluster.update(first, Labels={"hub": "true"})
    create_service(
        SMALL_IMAGE,
        name=labels.service_name(STACK, "hub"),
        labels={labels.STACK_NAMESPACE: STACK, labels.STACK: STACK, labels.ROLE: "hub"},
        constraints=["node.role == manager", "node.labels.hub == true"],
    )
    wait_on_duty(instances, first)
    check_acts(instances[0], first)

    # The hub moves, as with a database that all nodes share.
    cluster.update(second, Labels={"hub": "true"})
    cluster.update(first, Labels={})
    wait_on_duty(instances, second)
    check_acts(instances[1], first)

    # Its node is lost. That instance lives on, and may still believe that it is on duty; but
    # without its engine it can do nothing.
    second.stop_engine(kill=True)
    try:
        cluster.update(third, Labels={"hub": "true"})
        cluster.update(second, Labels={})
        wait_on_duty([instances[0], instances[2]], third)
        check_acts(instances[2], first)
    finally:
        second.start_engine()
    wait_on_duty(instances, third)
