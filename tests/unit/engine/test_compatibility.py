"""What an engine says of itself: its version, its firewall, its insecure registries."""

from __future__ import annotations

from typing import Any

import pytest

from jhswarmd.commands import doctor
from jhswarmd.engine import compatibility

LOOPBACK = ["::1/128", "127.0.0.0/8"]


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("20.10.24+dfsg1", ""),
        ("26.1.5+dfsg1", ""),
        ("28.5.2+dfsg4", ""),
        ("28.6.0", "newer"),
        ("29.8.2", "newer"),
        ("19.03.15", "older"),
        ("20.9.9", "older"),
        ("dev", "not a version"),
    ],
)
def test_an_engine_that_is_not_among_the_tested_ones_is_named(version: str, words: str) -> None:
    assert words in compatibility.untested(version)
    assert bool(compatibility.untested(version)) is bool(words)
    (finding,) = doctor.engine({"Version": version, "ApiVersion": "1.41"})
    # A note: it may work all the same.
    assert finding.grade is doctor.Grade.good
    assert words in finding.what


def make_info(cidrs: list[str] | None, indexes: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"RegistryConfig": {"InsecureRegistryCIDRs": cidrs, "IndexConfigs": indexes or {}}}


@pytest.mark.parametrize(
    ("info", "registry", "is_fault"),
    [
        (make_info(LOOPBACK), "localhost:5000", False),
        (make_info(["10.0.0.0/8"]), "localhost:5000", True),
        (make_info(["10.0.0.0/8"]), "127.0.0.1:5000", True),
        (make_info(["10.0.0.0/8", "127.0.0.1/32"]), "localhost:5000", False),
        (make_info([]), "localhost:5000", True),
        (make_info(None), "localhost:5000", True),
        (make_info([], {"localhost:5000": {"Secure": False}}), "localhost:5000", False),
        (make_info([], {"localhost:5000": {"Secure": True}}), "localhost:5000", True),
        (make_info([]), "registry.example:5000", False),
        (make_info([]), "10.0.0.7:5000", False),
        ({}, "localhost:5000", False),
        ({"RegistryConfig": None}, "localhost:5000", False),
    ],
)
def test_a_registry_of_this_machine_must_be_insecure_for_the_engine(
    info: dict[str, Any], registry: str, is_fault: bool
) -> None:
    found = compatibility.insecure_registry(info, registry)
    assert bool(found) is is_fault
    findings = doctor.registry_and_firewall(info, registry)
    assert [each.grade for each in findings] == [doctor.Grade.bad] * is_fault


@pytest.mark.parametrize(
    ("driver", "state", "is_fault"),
    [
        ("nftables", "inactive", True),
        ("nftables+firewalld", "inactive", True),
        ("nftables", "active", False),  # an engine that can do both
        ("iptables", "inactive", False),
        ("iptables+firewalld", "inactive", False),
        ("", "inactive", False),
    ],
)
def test_a_firewall_backend_without_swarm_is_named(driver: str, state: str, is_fault: bool) -> None:
    info = {"FirewallBackend": {"Driver": driver}, "Swarm": {"LocalNodeState": state}}
    assert bool(compatibility.firewall(info)) is is_fault
    assert len(doctor.registry_and_firewall(info, None)) == is_fault
    assert compatibility.firewall({}) is None
