"""Removal of the stack's networks, and their foreign users.

An administrator may attach services of their own, as docs/operations.md suggests for Prometheus.
The engine does not remove a network in use. Foreign services are never changed or removed: such a
network is kept and reported with its users, and the next deployment uses it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import docker

from jhswarmd import labels
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import EngineError, EngineNotFound
from jhswarmd.model import ENDED_STATES

#: The networks of stack.yml.
OURS = ("control", "notebooks")


@dataclass(frozen=True)
class User:
    """A foreign service or container that is attached to one of our networks."""

    name: str
    """Its name in messages: ``the service prometheus``."""
    detach: str
    """The command that detaches it; ``{network}`` stands for the network's name."""


@dataclass(frozen=True)
class Kept:
    """A network that is kept, and its users."""

    network: str
    users: tuple[User, ...]

    def __str__(self) -> str:
        names = " and ".join(user.name for user in self.users)
        commands = ", ".join(
            f"'{command}'"
            for command in dict.fromkeys(u.detach.format(network=self.network) for u in self.users)
        )
        return (
            f"The network {self.network} is kept: it is used by {names}, which 'down' does not "
            f"remove. The next 'up' uses it again. To remove it, detach them ({commands}) and run "
            "'jhswarmd down' again"
        )


def is_ours(service: Mapping[str, Any], stack: str) -> bool:
    """Return whether a service belongs to the deployment, based only on its label."""
    return labels.of(service).get(labels.STACK) == stack


def users_of(
    network: Mapping[str, Any],
    stack: str,
    services: Iterable[Mapping[str, Any]],
    tasks: Iterable[Mapping[str, Any]],
    containers: Mapping[str, Mapping[str, str]],
) -> tuple[User, ...]:
    """Return the foreign users of ``network``. Pure.

    ``containers`` are the labels of this node's containers by name. A container attached manually
    on another node is only visible as a task without a service.
    """
    found = []
    for service in services:
        if not is_ours(service, stack) and _is_attached(service, network):
            name = str(service["Spec"]["Name"])
            detach = f"docker service update --network-rm {{network}} {name}"
            found.append(User(f"the service {name}", detach))
    here = [
        str(endpoint.get("Name") or "")
        for endpoint in (network.get("Containers") or {}).values()
        if not str(endpoint.get("Name") or "").endswith("-endpoint")  # the engine's own
    ]
    manual = [
        name for name in here if name in containers and labels.SERVICE_ID not in containers[name]
    ]
    found += [
        User(f"the container {name}", f"docker network disconnect {{network}} {name}")
        for name in manual
    ]
    elsewhere = [
        task
        for task in tasks
        if not task.get("ServiceID")
        and task["Status"]["State"] not in ENDED_STATES
        and any(each["Network"]["ID"] == network["Id"] for each in _attachments(task))
    ]
    if len(elsewhere) > len(manual):
        found.append(
            User(
                f"{len(elsewhere) - len(manual)} containers on other nodes",
                "docker network disconnect {network} CONTAINER",
            )
        )
    return tuple(found)


def _attachments(task: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return task.get("NetworksAttachments") or ()


def _is_attached(service: Mapping[str, Any], network: Mapping[str, Any]) -> bool:
    spec = service["Spec"]
    # Older clients use the second field.
    targets = [*(spec["TaskTemplate"].get("Networks") or ()), *(spec.get("Networks") or ())]
    return any(each.get("Target") in (network["Id"], network["Name"]) for each in targets)


def remove(client: docker.DockerClient, stack: str) -> tuple[list[str], list[Kept]]:
    """Remove the stack's networks that are not in use.

    Returns the names of those still briefly in use by our own tasks, and those that are kept
    because of foreign users. Raises EngineError.
    """
    busy: list[str] = []
    kept: list[Kept] = []
    api = client.api
    for network in list_networks(client, stack):
        name = str(network["Name"])
        try:
            with engine_errors(f"remove the network {name}"):
                api.remove_network(network["Id"])
        except EngineNotFound:
            continue
        except EngineError:
            # The engine's error differs by version, so only the users of the network decide.
            users = _read_users(client, network, stack)
            if users:
                kept.append(Kept(name, users))
            else:
                busy.append(name)
    return busy, kept


def list_networks(client: docker.DockerClient, stack: str) -> list[dict[str, Any]]:
    """Return the existing networks of the stack."""
    names = {labels.network_name(stack, each) for each in OURS}
    with engine_errors("list the networks"):
        found = client.api.networks(filters={"label": f"{labels.STACK_NAMESPACE}={stack}"})
    return [network for network in found if network["Name"] in names]


def _read_users(
    client: docker.DockerClient, network: Mapping[str, Any], stack: str
) -> tuple[User, ...]:
    api = client.api
    try:
        with engine_errors(f"inspect the network {network['Name']}"):
            return users_of(
                api.inspect_network(network["Id"]),
                stack,
                api.services(),
                api.tasks(),
                {
                    name.removeprefix("/"): each.get("Labels") or {}
                    for each in api.containers(all=True)
                    for name in each.get("Names") or ()
                },
            )
    except EngineNotFound:  # already removed
        return ()
