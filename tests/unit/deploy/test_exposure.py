"""Who can reach the hub: addresses that answer, apart from the loopback ones."""

import ipaddress

import pytest

from jhswarmd.deploy import exposure


def node(address):
    return {"Status": {"Addr": address}}


def test_addresses_of_this_machine_and_of_the_nodes_are_tried_and_loopback_ones_are_not(
    monkeypatch,
):
    tried = []
    monkeypatch.setattr(exposure, "own_addresses", lambda: ["127.0.0.1", "192.0.2.7", "192.0.2.9"])
    monkeypatch.setattr(
        exposure, "_answers", lambda address, port: tried.append(address) or address != "192.0.2.9"
    )
    nodes = [node("192.0.2.7"), node("198.51.100.1"), node("127.0.0.1"), node("0.0.0.0"), node("")]
    assert exposure.answering_at(443, nodes) == ["192.0.2.7", "198.51.100.1"]
    assert sorted(tried) == ["192.0.2.7", "192.0.2.9", "198.51.100.1"]


def test_without_an_address_nothing_is_tried(monkeypatch):
    monkeypatch.setattr(exposure, "own_addresses", lambda: ["127.0.0.1"])
    assert exposure.answering_at(443, []) == []


def test_the_addresses_of_this_machine_are_addresses():
    for address in exposure.own_addresses():
        assert ipaddress.IPv4Address(address)


@pytest.mark.parametrize("addresses", [[], ["192.0.2.7"], [f"192.0.2.{n}" for n in range(9)]])
def test_the_warning_names_the_addresses_and_the_command(addresses):
    message = exposure.warning(8443, addresses)
    assert "jhswarmd users passwd testuser" in message
    assert "testpassword" not in message
    assert ("8443" in message) is bool(addresses)
    assert ("and 5 more" in message) is (len(addresses) == 9)
