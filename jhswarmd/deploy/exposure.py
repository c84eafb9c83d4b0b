"""Who can reach the hub: the addresses where its port answers, apart from the loopback ones.

A published port of a Swarm service is open on all addresses of its nodes; Swarm cannot publish one
on the loopback address only.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

#: Seconds for an address to accept a connection.
CONNECT_TIMEOUT_S = 1.0
_SIOCGIFADDR = 0x8915
#: Container networks: no other machine has an address there.
_VIRTUAL = ("docker", "br-", "veth")
_MAX_SHOWN = 4


def own_addresses() -> list[str]:
    """Return the first IPv4 address of each of this machine's interfaces.

    Interfaces of container networks do not count.
    """
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            if name.startswith(_VIRTUAL):
                continue
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has no IPv4 address
            found.append(socket.inet_ntoa(answer[20:24]))
    return found


def answering_at(port: int, nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the addresses of this machine and of ``nodes`` at which ``port`` answers.

    Loopback addresses do not count. ``nodes`` are in the engine's format.
    """
    of_nodes = [str(node["Status"].get("Addr", "")) for node in nodes]
    addresses = [it for it in dict.fromkeys([*own_addresses(), *of_nodes]) if _is_external(it)]
    if not addresses:
        return []
    with ThreadPoolExecutor(min(16, len(addresses))) as pool:
        results = pool.map(lambda address: _answers(address, port), addresses)
    return [address for address, answers in zip(addresses, results, strict=True) if answers]


def _is_external(address: str) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_loopback or parsed.is_unspecified)


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


def shorten(addresses: list[str]) -> str:
    """Return the first addresses, and how many more there are."""
    more = len(addresses) - _MAX_SHOWN
    return ", ".join(addresses[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")


def warning(port: int, addresses: list[str]) -> str:
    """Return the warning about the published password. Pure."""
    where = f"port {port} answers at {shorten(addresses)}" if addresses else "the hub is exposed"
    return (
        f"the account testuser has its published password, and {where}: anyone who can reach it "
        "can log in and run programs here. Set another password: 'jhswarmd users passwd testuser'"
    )
