"""Which addresses this machine reaches already: an overlay over them would cut notebooks off.

A packet of a container goes to its overlay first, so that a network of the site, the machine's own
or a virtual one, with the same addresses can no longer be reached from there. Nothing else says so.
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
#: Where ``ip`` is; missing in the PATH of ordinary users.
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
#: Routes to more addresses than a /8 has lead to the rest of the world, as default routes do.
_WORLD = 8
#: Nobody is reached by these.
_DEAD_ENDS = frozenset({"blackhole", "unreachable", "prohibit", "throw", "multicast", "anycast"})
#: For addresses of one's own (RFC 1918), in the order in which they are suggested.
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
_MOST_TRIED = 4096


@dataclass(frozen=True)
class Taken:
    """Addresses that somebody has, and who, as it stands in a message."""

    subnet: IPv4Network
    by: str


def read() -> list[Taken]:
    """Return what the routes of this machine lead to, those of all its tables.

    Without ``ip`` (iproute2) those of the main table alone, which the kernel itself shows.
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
    """Read what ``ip -json route`` printed. Pure."""
    for route in found:
        if route.get("type") in _DEAD_ENDS or route.get("dst") in (None, "default"):
            continue
        device = str(route.get("dev") or "")
        yield from _taken(ip_network(route["dst"], strict=False), device)


def parse_proc(text: str) -> Iterator[Taken]:
    """Read ``/proc/net/route``: addresses are numbers of this machine's byte order. Pure."""
    for line in text.splitlines()[1:]:
        device, destination, *_, mask, _mtu, _window, _irtt = line.split()
        address, netmask = (
            socket.inet_ntoa(struct.pack("=L", int(number, 16))) for number in (destination, mask)
        )
        yield from _taken(ip_network(f"{address}/{netmask}", strict=False), device)


def _taken(subnet: Any, device: str) -> Iterator[Taken]:
    if isinstance(subnet, IPv4Network) and subnet.prefixlen >= _WORLD and device != "lo":
        through = f" through {device}" if device else ""
        what = f"the address {subnet[0]}" if subnet.prefixlen == 32 else str(subnet)
        yield Taken(subnet, f"this machine reaches {what}{through}")


def of_networks(networks: Iterable[Mapping[str, Any]]) -> Iterator[Taken]:
    """Return what networks of this node's engine alone have, such as bridges. Pure."""
    for network in networks:
        if network.get("Scope") == "swarm":
            continue
        for pool in (network.get("IPAM") or {}).get("Config") or ():
            subnet = ip_network(pool.get("Subnet") or "::", strict=False)
            if isinstance(subnet, IPv4Network):
                yield Taken(subnet, f"the engine's network {network['Name']} has {subnet}")


def overlap(subnet: IPv4Network, taken: Iterable[Taken]) -> str:
    """Return who has addresses of ``subnet`` already; empty: nobody. Pure."""
    return next((each.by for each in taken if each.subnet.overlaps(subnet)), "")


def suggest(prefix: int, taken: Iterable[IPv4Network]) -> str:
    """Return a private subnet of that size that nobody has; empty: none was found. Pure."""
    held = list(taken)
    for private in map(IPv4Network, _PRIVATE):
        if prefix < private.prefixlen or any(each.supernet_of(private) for each in held):
            continue
        for subnet in islice(private.subnets(new_prefix=prefix), _MOST_TRIED):
            if not any(each.overlaps(subnet) for each in held):
                return str(subnet)
    return ""


def is_of_this_machine(base_url: str) -> bool:
    """Tell whether docker-py's address of an engine is a socket of this machine."""
    return base_url.startswith("http+docker:")
