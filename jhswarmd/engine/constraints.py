"""Which nodes Swarm would give a notebook to. Pure.

Sources: swarmkit, ``manager/constraint/constraint.go`` (values compare without regard to case, a
label that is missing is empty) and ``manager/scheduler/filter.go`` (ready and active nodes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any


def eligible_nodes(nodes: Iterable[Mapping[str, Any]], constraints: Iterable[str]) -> list[str]:
    """Return the host names of those ``nodes`` (of ``GET /nodes``) that take notebooks now.

    Each of ``constraints`` is as Swarm takes it: ``node.labels.disk == ssd``. One that this does
    not understand excludes no node.
    """
    wanted = tuple(constraints)
    return sorted(
        node["Description"]["Hostname"]
        for node in nodes
        if node["Status"]["State"] == "ready"
        and node["Spec"]["Availability"] == "active"
        and all(_matches(node, constraint) for constraint in wanted)
    )


def _matches(node: Mapping[str, Any], constraint: str) -> bool:
    for operator in ("==", "!="):
        key, found, value = (part.strip() for part in constraint.partition(operator))
        if not found:
            continue
        is_equal = _is_equal(node, key, value)
        return is_equal is None or is_equal == (operator == "==")
    return True


def _is_equal(node: Mapping[str, Any], key: str, value: str) -> bool | None:
    """Tell whether the node's ``key`` is ``value``; None: this key is not known here."""
    spec, description = node["Spec"], node["Description"]
    if key.lower() == "node.ip":
        return _is_within(node["Status"].get("Addr", ""), value)
    for prefix, names in (
        ("node.labels.", spec.get("Labels")),
        ("engine.labels.", (description.get("Engine") or {}).get("Labels")),
    ):
        if key.lower().startswith(prefix):
            held = (names or {}).get(key[len(prefix) :], "")
            return bool(held.casefold() == value.casefold())
    platform = description.get("Platform") or {}
    known = {
        "node.id": node["ID"],
        "node.hostname": description["Hostname"],
        "node.role": spec["Role"],
        "node.platform.os": platform.get("OS", ""),
        "node.platform.arch": platform.get("Architecture", ""),
    }
    held = known.get(key.lower())
    return None if held is None else bool(held.casefold() == value.casefold())


def _is_within(address: str, value: str) -> bool | None:
    try:
        return ip_address(address) in ip_network(value, strict=False)
    except ValueError:
        return None
