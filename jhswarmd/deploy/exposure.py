"""Who can reach the hub: at which addresses its port answers, besides the loopback ones.

A published port of a Swarm service is open on all addresses of its nodes; Swarm cannot publish one
on the loopback address alone.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

#: Seconds that an address has to accept a connection.
ANSWERS_WITHIN_S = 1.0
_SIOCGIFADDR = 0x8915
#: Networks of containers: nobody else has an address there.
_VIRTUAL = ("docker", "br-", "veth")
_MOST_SHOWN = 4


def own_addresses() -> list[str]:
    """Return the IPv4 addresses of this machine's interfaces, without those of container networks.

    Of each interface the first one.
    """
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            if name.startswith(_VIRTUAL):
                continue
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has none
            found.append(socket.inet_ntoa(answer[20:24]))
    return found


def answering_at(port: int, nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the addresses of this machine and of ``nodes`` at which ``port`` answers.

    Loopback addresses do not count. ``nodes`` are as the engine shows them.
    """
    of_nodes = [str(node["Status"].get("Addr", "")) for node in nodes]
    wanted = [each for each in dict.fromkeys([*own_addresses(), *of_nodes]) if _is_outside(each)]
    if not wanted:
        return []
    with ThreadPoolExecutor(min(16, len(wanted))) as pool:
        answers = pool.map(lambda address: _answers(address, port), wanted)
    return [address for address, does in zip(wanted, answers, strict=True) if does]


def _is_outside(address: str) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_loopback or parsed.is_unspecified)


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=ANSWERS_WITHIN_S):
            return True
    except OSError:
        return False


def some(addresses: list[str]) -> str:
    """Return the first addresses in words."""
    more = len(addresses) - _MOST_SHOWN
    return ", ".join(addresses[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def warning(port: int, addresses: list[str]) -> str:
    """Say who can log in with the published password. Pure."""
    where = f"port {port} answers at {some(addresses)}" if addresses else "others reach the hub"
    return (
        f"the account testuser has its published password, and {where}: everybody who reaches that "
        "can log in and run programs here. Set another password: 'jhswarmd users passwd testuser'"
    )
