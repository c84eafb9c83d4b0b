"""Addresses that this machine already routes to: an overlay on them would cut notebooks off.

A container's packets go to its overlay first, so that a site, host or virtual network with the
same addresses becomes unreachable from the container. No other component reports that.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network
from itertools import islice
from pathlib import Path
from typing import Any

_PROC = Path("/proc/net/route")
#: The directories of ``ip``; missing in the PATH of ordinary users.
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
#: Routes wider than a /8 lead to the internet, like default routes.
_MIN_PREFIX = 8
#: Route types that reach no host.
_DEAD_ENDS = frozenset({"blackhole", "unreachable", "prohibit", "throw", "multicast", "anycast"})
#: Private address ranges (RFC 1918), in the order in which they are suggested.
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
_MAX_TRIED = 4096


@dataclass(frozen=True)
class Taken:
    """Addresses in use, and their user as a part of a message."""

    subnet: IPv4Network
    by: str


def read() -> list[Taken]:
    """Return the destinations of this machine's routes, from all its tables.

    Without ``ip`` (iproute2), only those of the main table, which the kernel shows.
    """
    program = shutil.which("ip") or shutil.which("ip", path=_SYSTEM_PATH)
    if program:
        command = [program, "-4", "-json", "route", "show", "table", "all"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        # Others than iproute2's, and older ones, know no JSON.
        with contextlib.suppress(ValueError):
            return list(parse(json.loads(result.stdout)))
    return list(parse_proc(_PROC.read_text() if _PROC.exists() else ""))


def parse(found: Iterable[Mapping[str, Any]]) -> Iterator[Taken]:
    """Parse the output of ``ip -json route``. Pure."""
    for route in found:
        if route.get("type") in _DEAD_ENDS or route.get("dst") in (None, "default"):
            continue
        device = str(route.get("dev") or "")
        yield from _taken(ip_network(route["dst"], strict=False), device)


def parse_proc(text: str) -> Iterator[Taken]:
    """Parse ``/proc/net/route``, with addresses in this machine's byte order. Pure."""
    for line in text.splitlines()[1:]:
        device, destination, *_, mask, _mtu, _window, _irtt = line.split()
        address, netmask = (
            socket.inet_ntoa(struct.pack("=L", int(number, 16))) for number in (destination, mask)
        )
        yield from _taken(ip_network(f"{address}/{netmask}", strict=False), device)


def _taken(subnet: Any, device: str) -> Iterator[Taken]:
    if isinstance(subnet, IPv4Network) and subnet.prefixlen >= _MIN_PREFIX and device != "lo":
        through = f" through {device}" if device else ""
        destination = f"the address {subnet[0]}" if subnet.prefixlen == 32 else str(subnet)
        yield Taken(subnet, f"this machine reaches {destination}{through}")


def of_networks(networks: Iterable[Mapping[str, Any]]) -> Iterator[Taken]:
    """Return the subnets of networks local to this node's engine, such as bridges. Pure."""
    for network in networks:
        if network.get("Scope") == "swarm":
            continue
        for pool in (network.get("IPAM") or {}).get("Config") or ():
            subnet = ip_network(pool.get("Subnet") or "::", strict=False)
            if isinstance(subnet, IPv4Network):
                yield Taken(subnet, f"the engine's network {network['Name']} has {subnet}")


def overlap(subnet: IPv4Network, taken: Iterable[Taken]) -> str:
    """Return the existing user of addresses in ``subnet``; empty: none. Pure."""
    return next((each.by for each in taken if each.subnet.overlaps(subnet)), "")


def suggest(prefix: int, taken: Iterable[IPv4Network]) -> str:
    """Return a free private subnet of that size; empty: none was found. Pure."""
    held = list(taken)
    for private in map(IPv4Network, _PRIVATE):
        if prefix < private.prefixlen or any(each.supernet_of(private) for each in held):
            continue
        for subnet in islice(private.subnets(new_prefix=prefix), _MAX_TRIED):
            if not any(each.overlaps(subnet) for each in held):
                return str(subnet)
    return ""


def is_of_this_machine(base_url: str) -> bool:
    """Return whether docker-py's address of an engine is a socket of this machine."""
    return base_url.startswith("http+docker:")
