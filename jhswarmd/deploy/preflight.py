"""Checks before a deployment: free ports and subnets, and a valid certificate.

Swarm itself reports nothing: the tasks of a service whose network cannot get its addresses stay
'new' forever (moby#43052; measured on 20.10.24).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import docker

from jhswarmd import labels
from jhswarmd.credentials import generations, tls
from jhswarmd.deploy.machine import routes
from jhswarmd.deploy.profiles.profile import SECRET_FILES, Profile
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import EngineNotFound, JhswarmdError, UsageError
from jhswarmd.settings.settings import Settings

#: Lengths of the prefixes of subnets for a stack, and what is suggested in place of another.
_PREFIXES = range(8, 29)
_USUAL_PREFIX = 24
SET_HOST = "Set HOST in the profile to the name by which people reach the hub."


def check_ports(client: docker.DockerClient, settings: Settings) -> None:
    """Raise JhswarmdError if a port for the proxy is in use, except by our own proxy."""
    name = labels.service_name(settings.stack_name, "proxy")
    ours: set[int] = set()
    try:
        with engine_errors(f"inspect the service {name}"):
            spec = client.api.inspect_service(name)["Spec"]
        ours = {port["PublishedPort"] for port in spec["EndpointSpec"].get("Ports", [])}
    except EngineNotFound:
        pass
    for key, port in (("HTTPS_PORT", settings.https_port), ("HTTP_PORT", settings.http_port)):
        if port in ours:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As servers do: a lingering connection is not a listener.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except PermissionError:
                continue  # only root may try this port: the engine will report it
            except OSError as exc:
                raise JhswarmdError(
                    f"Port {port} is in use",
                    why=exc.strerror or str(exc),
                    remedy=f"Find the listener ('ss -ltnp sport = :{port}') and stop it, or set "
                    f"{key} in the profile to a free port. Nothing was deployed.",
                ) from exc


def check_subnets(client: docker.DockerClient, settings: Settings) -> list[JhswarmdError]:
    """Raise JhswarmdError if the stack's networks cannot have, or do not have, their subnets.

    Also if this machine reaches other hosts at these addresses, which notebooks could then not
    reach. If the networks already exist, that is returned as warnings.
    """
    with engine_errors("list the networks"):
        networks = client.api.networks()
    taken = list(routes.of_networks(networks))
    # The routes of another machine are unknown here.
    taken += routes.read() if routes.is_of_this_machine(client.api.base_url) else []
    wanted = {
        "CONTROL_SUBNET": (
            labels.network_name(settings.stack_name, "control"),
            IPv4Network(settings.control_subnet),
        ),
        "NOTEBOOKS_SUBNET": (
            labels.network_name(settings.stack_name, "notebooks"),
            IPv4Network(settings.notebooks_subnet),
        ),
    }
    own = [subnet for _, subnet in wanted.values()]
    warnings: list[JhswarmdError] = []
    for key, (name, subnet) in wanted.items():
        exists = any(each["Name"] == name for each in networks)
        fits = exists or subnet.prefixlen in _PREFIXES
        why = conflict(name, subnet, networks)
        if not (why or fits):
            why = (
                f"it must be between /{_PREFIXES[0]} and /{_PREFIXES[-1]}: the stack's own "
                "services and each node need addresses, too"
            )
        lost = routes.overlap(subnet, taken)
        if not (why or lost):
            continue
        held = [*own, *(each.subnet for each in taken), *_pools(networks)]
        free = routes.suggest(subnet.prefixlen if fits else _USUAL_PREFIX, held)
        choice = f"a subnet that is free{f', for example {free}' if free else ''}"
        cost = "nothing at these addresses can be reached from notebooks and hub"
        if not why and exists:
            warnings.append(
                JhswarmdError(
                    f"{key}={subnet} conflicts with another network",
                    why=f"{lost}; {cost}",
                    remedy=f"Set {key} in the profile to {choice}, then run 'jhswarmd down' and "
                    "'jhswarmd up'.",
                )
            )
            continue
        raise JhswarmdError(
            f"{key}={subnet} cannot be used",
            why=why or f"{lost}; {cost}",
            remedy=f"Set {key} in the profile to {choice}; to change the subnet of an existing "
            "network, run 'jhswarmd down' first. Nothing was deployed.",
        )
    return warnings


def _pools(networks: Iterable[Mapping[str, Any]]) -> Iterator[IPv4Network]:
    for network in networks:
        for pool in (network.get("IPAM") or {}).get("Config") or ():
            subnet = ip_network(pool.get("Subnet") or "::", strict=False)
            if isinstance(subnet, IPv4Network):
                yield subnet


def conflict(name: str, subnet: IPv4Network, networks: Iterable[Mapping[str, Any]]) -> str:
    """Return why the overlay network ``name`` cannot have ``subnet``; empty: it can. Pure.

    Only overlays of the swarm count: the engine refuses two that overlap.
    """
    for network in networks:
        if network.get("Scope") != "swarm":
            continue
        for pool in (network.get("IPAM") or {}).get("Config") or ():
            existing = ip_network(pool.get("Subnet") or "::", strict=False)
            if network["Name"] == name:
                if existing != subnet:
                    return f"the network {name} already has {existing}, which 'up' cannot change"
            elif existing.overlaps(subnet):
                return f"the network {network['Name']} of this swarm has {existing}"
    return ""


def check_certificate(profile: Profile, now: datetime | None = None) -> str:
    """Raise UsageError if browsers would reject the profile's own certificate.

    Returns a warning, to be shown with ``SET_HOST``; empty: none. Reading the profile has already
    checked the key. If HOST is an address, or unset, it does not show how users reach the hub, so
    a certificate for another name is not an error then.
    """
    if "tls_cert" not in profile.files:
        return ""
    now, host = now or datetime.now(timezone.utc), profile.settings.host
    certificate, path = profile.files["tls_cert"], profile.folder / SECRET_FILES["tls_cert"]
    ends, begins = tls.expires_at(certificate), tls.begins_at(certificate)
    names = tls.names_of(certificate)
    if ends <= now:
        what, why = "has expired", f"it expired at {generations.format_utc(ends)}"
    elif begins > now:
        what, why = "is not valid yet", f"it is valid from {generations.format_utc(begins)}"
    elif not tls.is_for(host, names):
        what, why = f"is not for {host}", f"it is for {', '.join(names) or 'no name at all'}"
        if host == "localhost" or _is_address(host):
            return f"The certificate {path} {what}: {why}"
    else:
        return ""
    raise UsageError(
        f"The certificate {path} {what}",
        why=why,
        remedy=f"Put a certificate for HOST={host}, and its key, into {path.parent}. Without the "
        "two files, the live certificate is kept, or a self-signed one is generated. Nothing was "
        "changed.",
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
