"""What cannot work is said before anything is deployed: taken subnets, bad certificates."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from cryptography import x509

from jhswarmd import tls
from jhswarmd.deploy import preflight, rotate, up
from jhswarmd.deploy.profile import Profile
from jhswarmd.deploy.progress import Progress
from jhswarmd.errors import UsageError
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


NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)


def make_profile(host, certificate_host, made=NOW):
    certificate, key = tls.self_signed(certificate_host, made)
    files = {"tls_cert": certificate, "tls_key": key}
    return Profile("site", Settings(host=host), files, Path("env/site"))


@pytest.mark.parametrize(
    ("host", "names", "is_it"),
    [
        ("hub.example", ["other.example", "hub.example"], True),
        ("Hub.Example.", ["hub.EXAMPLE"], True),
        ("hub.example", ["*.example"], True),
        ("hub.physics.example", ["*.example"], False),
        ("example", ["*.example"], False),
        ("hub.example", ["*"], False),
        ("hub.example", ["example"], False),
        ("10.1.2.3", ["10.1.2.3"], True),
        ("10.1.2.3", ["10.1.2.4"], False),
        ("hub.example", [], False),
    ],
)
def test_a_certificate_is_for_its_names_and_an_asterisk_is_one_part(host, names, is_it):
    assert tls.is_for(host, names) is is_it


def test_a_good_certificate_and_none_at_all_are_no_reason_to_say_anything():
    assert preflight.check_certificate(make_profile("hub.example", "hub.example"), NOW) == ""
    assert preflight.check_certificate(make_profile("hub.example", "*.example"), NOW) == ""
    assert preflight.check_certificate(make_profile("10.1.2.3", "10.1.2.3"), NOW) == ""
    none = Profile("site", Settings(host="hub.example"), {}, Path("env/site"))
    assert preflight.check_certificate(none, NOW) == ""


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        pytest.param(
            make_profile("hub.example", "hub.example", NOW - timedelta(days=400)),
            ["has expired", "2026-02-"],
            id="expired",
        ),
        pytest.param(
            make_profile("hub.example", "hub.example", NOW + timedelta(days=2)),
            ["not valid yet", "2026-03-02"],
            id="too early",
        ),
        pytest.param(
            make_profile("hub.example", "other.example"),
            ["not for hub.example", "other.example, localhost, 127.0.0.1"],
            id="another host",
        ),
    ],
)
def test_a_certificate_that_browsers_refuse_is_refused_with_the_reason(profile, words):
    with pytest.raises(UsageError) as caught:
        preflight.check_certificate(profile, NOW)
    for word in ("ssl/cert.pem", *words):
        assert word in str(caught.value)
    assert "HOST=hub.example" in caught.value.remedy


@pytest.mark.parametrize("host", ["10.1.2.3", "localhost"])
def test_a_host_that_is_no_name_is_worth_a_warning(host, monkeypatch):
    profile = make_profile(host, "hub.example")
    # The self-signed ones of these tests are for localhost too.
    monkeypatch.setattr(tls, "names_of", lambda certificate: ["hub.example"])
    warning = preflight.check_certificate(profile, NOW)
    assert f"not for {host}: it is for hub.example" in warning


def test_a_certificate_names_hosts_and_addresses_and_an_older_one_none(monkeypatch):
    certificate, _ = tls.self_signed("hub.example")
    assert tls.names_of(certificate) == ["hub.example", "localhost", "127.0.0.1"]

    def without(self, kind):
        raise x509.ExtensionNotFound("none", kind.oid)

    monkeypatch.setattr(x509.Extensions, "get_extension_for_class", without)
    assert tls.names_of(certificate) == []


def test_up_and_rotate_refuse_such_a_certificate_before_they_touch_anything():
    profile = make_profile("hub.example", "hub.example", NOW - timedelta(days=9000))
    with pytest.raises(UsageError, match="has expired"):
        up.up(profile, Progress())
    with pytest.raises(UsageError, match="has expired"):
        rotate.rotate(None, "jupyterhub", ["tls"], Progress(), profile=profile)
