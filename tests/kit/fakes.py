"""Stand-ins for engine and hub: they hold state, record what was asked of them, fail on demand.

Unit tests alone use them; what they claim is shown on a real engine and hub in tests/engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from jhswarmd.credentials import generations, secret_mounts
from jhswarmd.credentials.generations import SecretVersion
from jhswarmd.engine.client import LocalContainer
from jhswarmd.errors import (
    EngineConflict,
    EngineError,
    EngineNotFound,
    HubUnavailable,
)
from jhswarmd.model import HubIdentity, HubUser, NotebookService, StackService

from .factories import make_identity


class FakeClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeEngine:
    """Notebook services and local containers in memory."""

    def __init__(self, *services: NotebookService) -> None:
        self.services = {service.id: service for service in services}
        self.containers: list[LocalContainer] = []
        self.uploads: list[tuple[str, str, bytes]] = []
        self.removed: list[str] = []
        self.calls: list[str] = []
        self.ended: set[str] = set()
        self.files: dict[tuple[str, str], bytes] = {}
        self.secrets: dict[str, tuple[str, bytes, dict[str, str]]] = {}
        self.spec: dict[str, Any] = {"TaskTemplate": {"ContainerSpec": {}}}
        self.task: Mapping[str, Any] | None = None
        self.node_id = "node-1"
        self.addresses: dict[str, str] = {}
        self.hub_node: str | None = "node-1"

    def list_notebooks(self, stack: str) -> list[NotebookService]:
        self.calls.append("list_notebooks")
        return list(self.services.values())

    def read_notebook(self, service_id: str, stack: str) -> NotebookService | None:
        self.calls.append(f"read_notebook {service_id}")
        if service_id not in self.services:
            raise EngineNotFound("no such service")
        return self.services[service_id]

    def has_ended(self, service_id: str) -> bool:
        if service_id not in self.services:
            raise EngineNotFound("no such service")
        return service_id in self.ended

    def list_ended(self, stack: str) -> frozenset[tuple[str, str]]:
        self.calls.append("list_ended")
        return frozenset((id_, "complete") for id_ in self.ended & self.services.keys())

    def remove_service(self, service_id: str) -> None:
        if service_id not in self.services:
            raise EngineNotFound("no such service")
        del self.services[service_id]
        self.removed.append(service_id)

    def list_local_containers(self, service: str) -> list[LocalContainer]:
        return list(self.containers)

    def put_archive(self, container_id: str, path: str, archive: bytes) -> None:
        if all(each.id != container_id for each in self.containers):
            raise EngineNotFound("no such container")
        self.uploads.append((container_id, path, archive))

    def read_file(self, container_id: str, path: str) -> bytes:
        if (container_id, path) not in self.files:
            raise EngineNotFound("no such file")
        return self.files[container_id, path]

    def list_secrets(self, stack: str) -> list[SecretVersion]:
        return [
            each
            for id_, (name, _, marks) in self.secrets.items()
            if (each := generations.read(_inspected(id_, name, marks))) is not None
        ]

    def create_secret(self, name: str, content: bytes, marks: Mapping[str, str]) -> str:
        if any(held == name for held, _, _ in self.secrets.values()):
            raise EngineConflict("the name is taken")
        id_ = f"id-{name}"
        self.secrets[id_] = (name, content, dict(marks))
        return id_

    def mark_secret(self, secret_id: str, marks: Mapping[str, str]) -> None:
        name, content, held = self.secrets[secret_id]
        self.secrets[secret_id] = (name, content, {**held, **marks})

    def read_stack_services(self, stack: str) -> dict[str, StackService]:
        return {}

    def remove_secret(self, secret_id: str) -> None:
        if secret_id in secret_mounts.mounted(self.spec):
            raise EngineError("it is mounted")
        del self.secrets[secret_id]

    def mount(self, kind: str, *secret_ids: str) -> None:
        """Make the daemon's service, and the task that it is, mount these secrets."""
        mounted = [
            {"SecretID": id_, "SecretName": self.secrets[id_][0], "File": {"Name": kind}}
            for id_ in secret_ids
        ]
        self.spec = {"TaskTemplate": {"ContainerSpec": {"Secrets": mounted}}}
        self.task = self.spec["TaskTemplate"]

    def change_service(
        self, service: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
    ) -> bool:
        self.calls.append(f"change_service {service}")
        changed = change(self.spec)
        if changed is not None:
            self.spec = dict(changed)
        return changed is not None

    def read_own_task(self) -> Mapping[str, Any] | None:
        return self.task

    def read_node_id(self) -> str:
        return self.node_id

    def read_newest_task_node(self, service: str) -> str | None:
        return self.hub_node

    def read_task_address(self, service: str, node_id: str, network: str) -> str | None:
        self.calls.append(f"read_task_address {service} {node_id} {network}")
        return self.addresses.get(node_id)


def _inspected(id_: str, name: str, marks: Mapping[str, str]) -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat()
    return {"ID": id_, "CreatedAt": now, "Spec": {"Name": name, "Labels": dict(marks)}}


class FakeHub:
    """Users and their servers in memory. ``unknown`` makes every answer unclear."""

    def __init__(self, *users: HubUser, identity: HubIdentity | None = None) -> None:
        self.users = {user.name: user for user in users}
        self.identity = identity or make_identity()
        self.unknown = False
        self.held_services: set[str] = set()
        self.restored = 0
        self.removed_users: list[str] = []
        self.silent: list[str] = []
        self.stops_removed = False
        self.reports: list[tuple[str, str]] = []
        self.calls: list[str] = []

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if self.unknown:
            raise HubUnavailable("the hub is ill")

    def read_identity(self) -> HubIdentity:
        self._answer("read_identity")
        return self.identity

    def read_user(self, name: str, service_id: str = "") -> tuple[HubIdentity, HubUser | None]:
        self._answer(f"read_user {name}")
        user = self.users.get(name)
        if service_id in self.held_services:
            return self.identity, replace(user or HubUser(name), holds_asked=True)
        return self.identity, user

    def list_users(self) -> Iterator[HubUser]:
        self._answer("list_users")
        yield from list(self.users.values())

    def check_server(self, user: str, server: str) -> bool:
        self._answer("check_server")
        self.reports.append((user, server))
        return True

    def list_silent(self) -> list[str]:
        self._answer("list_silent")
        return self.silent

    def enforce_removed_users(self) -> tuple[list[str], bool]:
        self._answer("enforce_removed_users")
        return self.removed_users, self.stops_removed

    def restore_routes(self) -> None:
        self._answer("restore_routes")
        self.restored += 1
