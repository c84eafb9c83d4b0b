"""What the engine says of itself, judged for ``jhswarmd doctor``. Pure.

Each function returns pairs of a text and a remedy.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

#: Engines on which all tests pass, by the number before the last (docs/operations.md).
TESTED = ((20, 10), (26, 1), (28, 5))


def untested(version: str) -> str:
    """Return how an engine's version lies outside the tested ones, empty when it does not."""
    found = re.match(r"(\d+)\.(\d+)", version)
    tested = ", ".join(f"{major}.{minor}" for major, minor in TESTED)
    if found is None:
        return f"not a version that can be compared with the tested ones ({tested})"
    number = (int(found[1]), int(found[2]))
    if number < TESTED[0]:
        return f"older than the tested ones ({tested})"
    if number > TESTED[-1]:
        return f"newer than the tested ones ({tested})"
    return ""


def insecure_registry(info: Mapping[str, Any], registry: str) -> tuple[str, str] | None:
    """Tell whether the engine would ask a registry on this machine by HTTPS, which it lacks.

    Up to 29.9 engines always add loopback to their insecure registries (moby,
    daemon/pkg/registry/config.go, loadInsecureRegistries). From 29.10 on they do so only where
    ``insecure-registries`` is not set; an empty list counts as set (release notes of 29.10.0,
    moby#53868). ``registry`` is ``host:port``; None: all is well, or the registry is elsewhere.
    """
    host = registry.rpartition(":")[0]
    address = "127.0.0.1" if host == "localhost" else host
    if not address.startswith("127."):
        return None
    config = info.get("RegistryConfig") or {}
    index = (config.get("IndexConfigs") or {}).get(registry) or {}
    if "InsecureRegistryCIDRs" not in config or index.get("Secure") is False:
        return None
    networks = config["InsecureRegistryCIDRs"] or ()
    if any(ipaddress.ip_address(address) in ipaddress.ip_network(each) for each in networks):
        return None
    return (
        f"the engine asks {registry} by HTTPS: its insecure-registries leave this machine out",
        "Add 127.0.0.0/8 to \"insecure-registries\" in the engine's daemon.json on every node, "
        "and restart the engines.",
    )  # fmt: skip


def firewall(info: Mapping[str, Any]) -> tuple[str, str] | None:
    """Tell whether the engine's firewall backend keeps it out of swarm mode.

    From 29.0 on such an engine refuses ``swarm init`` with '--firewall-backend=nftables is
    incompatible with swarm mode' (moby, daemon/config/config_linux.go, IsSwarmCompatible). 29.6 and
    later let it in with the experimental feature 'swarm-nftables', which shows in the state of the
    swarm alone. How the backend is named: daemon/libnetwork/controller_linux.go, FirewallBackend.
    """
    driver = str((info.get("FirewallBackend") or {}).get("Driver") or "")
    is_swarm = (info.get("Swarm") or {}).get("LocalNodeState") == "active"
    if not driver.startswith("nftables") or is_swarm:
        return None
    return "its firewall backend is nftables, with which there is no swarm", FIREWALL_REMEDY


FIREWALL_REMEDY = (
    'Set "firewall-backend": "iptables" in the engine\'s daemon.json, and restart the engine.'
)
