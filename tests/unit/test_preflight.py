"""Subnets that are taken and certificates that nobody takes are found before the deployment."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from jhswarmd import tls
from jhswarmd.deploy import preflight
from jhswarmd.deploy.profile import Profile
from jhswarmd.errors import JhswarmdError
from jhswarmd.settings import Settings

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


def profile_with(certificate, host="hub.example"):
    files = {} if certificate is None else {"tls_cert": certificate}
    return Profile("site", Settings(host=host), files, Path("env/site"))


@pytest.mark.parametrize(
    ("days", "words"), [(-400, "it ended on"), (2, "it begins on"), (0, None), (-396, None)]
)
def test_a_certificate_outside_its_time_is_refused_before_anything_is_deployed(days, words):
    made, _ = tls.self_signed("hub.example", datetime.now(timezone.utc) + timedelta(days=days))
    if words is None:
        assert preflight.check_certificate(profile_with(made)) == ""
        return
    with pytest.raises(JhswarmdError) as caught:
        preflight.check_certificate(profile_with(made))
    assert words in caught.value.why
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("made_for", "host", "is_for"),
    [
        ("hub.example", "hub.example", True),
        ("hub.example", "HUB.example", True),
        ("hub.example", "other.example", False),
        ("*.example", "hub.example", True),
        ("*.example", "a.hub.example", False),
        ("*.example", "example", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
    ],
)
def test_a_certificate_for_another_host_is_warned_of(made_for, host, is_for):
    made, _ = tls.self_signed(made_for)
    warning = preflight.check_certificate(profile_with(made, host))
    assert (warning == "") is is_for
    assert is_for or host in warning


def test_a_profile_without_a_certificate_has_none_to_look_at():
    assert preflight.check_certificate(profile_with(None)) == ""
