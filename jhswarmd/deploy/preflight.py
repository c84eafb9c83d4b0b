"""What must be free on machine and swarm, and what must be right, said before anything is deployed.

Swarm itself says nothing: the tasks of a service whose network cannot get its addresses stay 'new'
for ever (moby#43052; measured on 20.10.24).
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
    """Raise JhswarmdError when a port that the proxy needs is taken, unless by our own proxy."""
    name = labels.service_name(settings.stack_name, "proxy")
    ours: set[int] = set()
    try:
        with engine_errors(f"look at the service {name}"):
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
            except PermissionError:
                continue  # not root, who alone may try: the engine will tell
            except OSError as exc:
                raise JhswarmdError(
                    f"Port {port} is in use",
                    why=exc.strerror or str(exc),
                    remedy=f"See who listens ('ss -ltnp sport = :{port}') and stop it, or set "
                    f"{key} in the profile to a free port. Nothing was deployed.",
                ) from exc


def check_subnets(client: docker.DockerClient, settings: Settings) -> list[JhswarmdError]:
    """Raise JhswarmdError when the stack's networks cannot get, or do not have, their addresses.

    Also when this machine reaches somebody else at these addresses, whom notebooks could then not
    reach. Returns that as warnings where the networks exist already.
    """
    with engine_errors("list the networks"):
        networks = client.api.networks()
    taken = list(routes.of_networks(networks))
    # Another machine's routes are not known here.
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
                    f"{key}={subnet} is in the way",
                    why=f"{lost}; {cost}",
                    remedy=f"Set {key} in the profile to {choice}, then run 'jhswarmd down' and "
                    "'jhswarmd up'.",
                )
            )
            continue
        raise JhswarmdError(
            f"{key}={subnet} cannot be used",
            why=why or f"{lost}; {cost}",
            remedy=f"Set {key} in the profile to {choice}, or, if the stack's own network is to "
            "change, run 'jhswarmd down' first. Nothing was deployed.",
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

    Only overlays of the swarm count: the engine itself does not let two of them overlap.
    """
    for network in networks:
        if network.get("Scope") != "swarm":
            continue
        for pool in (network.get("IPAM") or {}).get("Config") or ():
            held = ip_network(pool.get("Subnet") or "::", strict=False)
            if network["Name"] == name:
                if held != subnet:
                    return f"the network {name} has {held} already, which 'up' cannot change"
            elif held.overlaps(subnet):
                return f"the network {network['Name']} of this swarm has {held}"
    return ""


def check_certificate(profile: Profile, now: datetime | None = None) -> str:
    """Raise UsageError when browsers would refuse the profile's own certificate.

    Returns what to warn of, with ``SET_HOST``; empty: nothing. That its key belongs to it is known
    since the profile was read. A HOST that is an address, or that nobody set, says little of how
    people reach the hub, so that a certificate for something else is no fault then.
    """
    if "tls_cert" not in profile.files:
        return ""
    now, host = now or datetime.now(timezone.utc), profile.settings.host
    certificate, path = profile.files["tls_cert"], profile.folder / SECRET_FILES["tls_cert"]
    ends, begins = tls.expires_at(certificate), tls.begins_at(certificate)
    names = tls.names_of(certificate)
    if ends <= now:
        what, why = "has expired", f"it ended at {generations.format_utc(ends)}"
    elif begins > now:
        what, why = "is not valid yet", f"it begins at {generations.format_utc(begins)}"
    elif not tls.is_for(host, names):
        what, why = f"is not for {host}", f"it is for {', '.join(names) or 'no name at all'}"
        if host == "localhost" or _is_address(host):
            return f"The certificate {path} {what}: {why}"
    else:
        return ""
    raise UsageError(
        f"The certificate {path} {what}",
        why=why,
        remedy=f"Put one that is valid for HOST={host}, and its key, into {path.parent}. Without "
        "the two files the certificate in use stays, or a self-signed one is made. Nothing was "
        "changed.",
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
