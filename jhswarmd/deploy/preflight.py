"""What must be free on machine and swarm before anything is deployed, said before it is.

Swarm itself says nothing: the tasks of a service whose network cannot get its addresses stay 'new'
for ever (moby#43052; measured on 20.10.24).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, ip_network
from typing import Any

import docker

from jhswarmd import labels
from jhswarmd.engine_errors import translated
from jhswarmd.errors import EngineNotFound, JhswarmdError
from jhswarmd.settings import Settings


def check_ports(client: docker.DockerClient, settings: Settings) -> None:
    """Raise JhswarmdError when a port that the proxy needs is taken, unless by our own proxy."""
    name = labels.service_name(settings.stack_name, "proxy")
    ours: set[int] = set()
    try:
        with translated(f"look at the service {name}"):
            spec = client.api.inspect_service(name)["Spec"]
        ours = {port["PublishedPort"] for port in spec["EndpointSpec"].get("Ports", [])}
    except EngineNotFound:
        pass
    for key, port in (("HTTPS_PORT", settings.https_port), ("HTTP_PORT", settings.http_port)):
        if port in ours:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As servers do: a connection that lingers is no listener.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as exc:
                raise JhswarmdError(
                    f"Port {port} is in use",
                    why=exc.strerror or str(exc),
                    remedy=f"See who listens ('ss -ltnp sport = :{port}') and stop it, or set "
                    f"{key} in the profile to a free port. Nothing was deployed.",
                ) from exc


def check_subnets(client: docker.DockerClient, settings: Settings) -> None:
    """Raise JhswarmdError when the stack's networks cannot get, or do not have, their addresses."""
    with translated("list the networks"):
        networks = client.api.networks()
    wanted = {
        "CONTROL_SUBNET": (
            labels.network_name(settings.stack_name, "control"),
            settings.control_subnet,
        ),
        "NOTEBOOKS_SUBNET": (
            labels.network_name(settings.stack_name, "notebooks"),
            settings.notebooks_subnet,
        ),
    }
    for key, (name, subnet) in wanted.items():
        why = conflict(name, IPv4Network(subnet), networks)
        if why:
            raise JhswarmdError(
                f"{key}={subnet} cannot be used",
                why=why,
                remedy=f"Set {key} in the profile to a subnet that is free, or, if the stack's own "
                "network is to change, run 'jhswarmd down' first. Nothing was deployed.",
            )


def conflict(name: str, subnet: IPv4Network, networks: Iterable[Mapping[str, Any]]) -> str:
    """Return why the overlay network ``name`` cannot have ``subnet``; empty: it can. Pure.

    Only overlays of the swarm count: what one node's bridges use is that node's own.
    """
    for network in networks:
        if network.get("Scope") != "swarm":
            continue
        for pool in (network.get("IPAM") or {}).get("Config") or ():
            held = ip_network(pool["Subnet"])
            if network["Name"] == name:
                if held != subnet:
                    return f"the network {name} has {held} already, which a deployment keeps"
            elif held.overlaps(subnet):
                return f"the network {network['Name']} of this swarm has {held}"
    return ""
