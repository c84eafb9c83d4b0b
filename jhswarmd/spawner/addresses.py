"""How many addresses of an overlay network are left. Pure.

The engine tells nobody that a network is full: a task without an address stays 'new', without an
error (moby#43052). Who has which address is spread over its answers; what is counted here:

- each task that has not ended, and each virtual address of a service;
- what this node itself has in the network, such as containers attached by hand;
- the gateway, and one address for each node with such a task (its load balancer, without which
  no task starts there).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Any

from jhswarmd.spawner.tasks import Phase, read_task


def count_all(network: Mapping[str, Any]) -> int:
    """Return how many addresses tasks, services and nodes can have in ``network``.

    ``network`` is the engine's answer to ``GET /networks/ID``; IPv6 is not counted.
    """
    total = 0
    for config in (network.get("IPAM") or {}).get("Config") or ():
        subnet = ip_network(config.get("IPRange") or config["Subnet"], strict=False)
        if subnet.version == 4:
            # Neither the network's own address, nor broadcast, nor the gateway.
            total += max(subnet.num_addresses - 3, 0)
    return total


def count_used(
    network: Mapping[str, Any],
    tasks: Iterable[Mapping[str, Any]],
    services: Iterable[Mapping[str, Any]],
) -> int:
    """Return how many of them are used; ``tasks`` and ``services`` are all of the swarm's."""
    network_id = str(network["Id"])
    used: set[str] = set()
    nodes: set[str] = set()
    for task in map(read_task, tasks):
        address = task.addresses.get(network_id)
        if address and task.phase is not Phase.ended:
            used.add(address)
            nodes.add(task.node_id)
    for service in services:
        for virtual in (service.get("Endpoint") or {}).get("VirtualIPs") or ():
            if virtual.get("NetworkID") == network_id:
                used.add(_plain(virtual.get("Addr")))
    here = network.get("Containers") or {}
    used |= {_plain(endpoint.get("IPv4Address")) for endpoint in here.values()}
    # This node's load balancer is one of its own endpoints.
    has_balancer = any(key.startswith("lb-") for key in here)
    elsewhere = len(nodes - {""}) - (1 if has_balancer else 0)
    return len(used - {""}) + max(elsewhere, 0)


def _plain(address: str | None) -> str:
    """Return '10.128.0.7' for '10.128.0.7/16'."""
    return str(address or "").partition("/")[0]
