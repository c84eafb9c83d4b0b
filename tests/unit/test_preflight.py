"""Subnets that the swarm has given away already are found before anything is deployed."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from jhswarmd.deploy import preflight

OURS = "jupyterhub_notebooks"
WANTED = IPv4Network("10.128.0.0/16")


def network(name, subnet, scope="swarm"):
    return {"Name": name, "Scope": scope, "IPAM": {"Config": [{"Subnet": subnet}]}}


@pytest.mark.parametrize(
    ("networks", "word"),
    [
        pytest.param([], "", id="nothing is there"),
        pytest.param([network(OURS, "10.128.0.0/16")], "", id="our own, as it is to be"),
        pytest.param([network("ingress", "10.0.0.0/24")], "", id="another range"),
        pytest.param(
            [network("bridge", "10.128.4.0/24", scope="local")], "", id="a node's own bridge"
        ),
        pytest.param(
            [network("physics_notebooks", "10.128.0.0/16")], "physics_notebooks", id="another hub's"
        ),
        pytest.param([network("theirs", "10.0.0.0/8")], "theirs", id="one that contains it"),
        pytest.param(
            [network(OURS, "10.200.0.0/16")], "10.200.0.0/16", id="our own, made otherwise"
        ),
        pytest.param(
            [{"Name": "host", "Scope": "swarm", "IPAM": {"Config": None}}], "", id="without a pool"
        ),
    ],
)
def test_a_subnet_that_is_not_to_be_had_is_named(networks, word):
    why = preflight.conflict(OURS, WANTED, networks)
    assert word in why
    assert bool(why) == bool(word)
