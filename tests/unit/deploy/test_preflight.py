"""Problems found before a deployment: used subnets, invalid certificates."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from cryptography import x509

from jhswarmd.commands import rotate, up
from jhswarmd.credentials import tls
from jhswarmd.deploy import preflight
from jhswarmd.deploy.machine import routes
from jhswarmd.deploy.profiles.profile import Profile
from jhswarmd.deploy.progress import Progress
from jhswarmd.errors import JhswarmdError, UsageError
from jhswarmd.settings.settings import Settings

OURS = "jupyterhub_notebooks"
WANTED = IPv4Network("10.128.0.0/16")


def network(name, subnet, scope="swarm"):
    return {"Name": name, "Scope": scope, "IPAM": {"Config": [{"Subnet": subnet}]}}


@pytest.mark.parametrize(
    ("networks", "part"),
    [
        pytest.param([], "", id="nothing is there"),
        pytest.param([network(OURS, "10.128.0.0/16")], "", id="our own, as requested"),
        pytest.param([network("ingress", "10.0.0.0/24")], "", id="another range"),
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
def test_an_unavailable_subnet_is_reported(networks, part):
    why = preflight.conflict(OURS, WANTED, networks)
    assert part in why
    assert bool(why) == bool(part)


class Engine:
    """An engine with networks; the routes of its machine come from the test."""

    def __init__(self, *networks, base_url="http+docker://localhost"):
        self.api = self
        self.base_url = base_url
        self._networks = networks

    def networks(self):
        return list(self._networks)


LAN = [{"dst": "default", "dev": "eth0"}, {"dst": "10.128.0.0/20", "dev": "eth1"}]


def check(monkeypatch, found, *networks, base_url="http+docker://localhost", **keys):
    monkeypatch.setattr(preflight.routes, "read", lambda: list(routes.parse(found)))
    return preflight.check_subnets(Engine(*networks, base_url=base_url), Settings(**keys))


def test_notebooks_over_the_lan_are_refused_with_the_key_and_a_free_subnet(monkeypatch):
    with pytest.raises(JhswarmdError) as caught:
        check(monkeypatch, LAN)
    assert str(caught.value).startswith("NOTEBOOKS_SUBNET=10.128.0.0/16 cannot be used")
    assert "this machine reaches 10.128.0.0/20 through eth1" in str(caught.value)
    assert "for example 10.0.0.0/16" in caught.value.remedy
    check(monkeypatch, LAN, notebooks_subnet="10.0.0.0/16")


def test_the_control_network_is_checked_too(monkeypatch):
    with pytest.raises(JhswarmdError, match=r"CONTROL_SUBNET=10\.129\.0\.0/24"):
        check(monkeypatch, [{"dst": "10.129.0.0/16", "dev": "tun0"}])


@pytest.mark.parametrize("value", ["10.1.2.3", "10.1.2.0/29", "8.0.0.0/7"])
@pytest.mark.parametrize("key", ["notebooks_subnet", "control_subnet"])
def test_a_subnet_that_cannot_hold_the_stack_is_refused(monkeypatch, key, value):
    with pytest.raises(JhswarmdError, match="between /8 and /28") as caught:
        check(monkeypatch, [], **{key: value})
    assert str(caught.value).startswith(f"{key.upper()}=")
    assert "for example 10.0.0.0/24" in caught.value.remedy


def test_a_small_network_that_exists_is_used_as_it_is(monkeypatch):
    own = network("jupyterhub_control", "10.129.0.0/29")
    check(monkeypatch, [], own, control_subnet="10.129.0.0/29")


def test_a_network_of_this_engine_alone_is_named(monkeypatch):
    with pytest.raises(JhswarmdError, match="the engine's network lab_default has"):
        check(monkeypatch, [], network("lab_default", "10.128.4.0/24", scope="local"))


def test_for_an_existing_deployment_it_is_a_warning(monkeypatch):
    own = network(OURS, "10.128.0.0/16"), network("jupyterhub_control", "10.129.0.0/24")
    (warning,) = check(monkeypatch, LAN, *own)
    assert "NOTEBOOKS_SUBNET" in str(warning)
    assert "eth1" in str(warning)
    assert "jhswarmd down" in warning.remedy


def test_the_routes_of_a_running_stack_are_not_a_conflict(monkeypatch):
    found = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"},
        {"dst": "172.17.0.0/16", "dev": "docker0"},
        {"dst": "172.18.0.0/16", "dev": "docker_gwbridge"},
    ]
    networks = [
        network(OURS, "10.128.0.0/16"),
        network("jupyterhub_control", "10.129.0.0/24"),
        network("ingress", "10.0.0.0/24"),
        network("docker_gwbridge", "172.18.0.0/16", scope="local"),
        network("bridge", "172.17.0.0/16", scope="local"),
        {"Name": "none", "Scope": "local", "IPAM": {"Config": []}},
        {"Name": "six", "Scope": "local", "IPAM": {"Config": [{"Subnet": "fd00::/64"}]}},
    ]
    assert check(monkeypatch, found, *networks) == []


def test_the_routes_of_another_machine_are_unknown_here(monkeypatch):
    assert check(monkeypatch, LAN, base_url="http://10.1.2.3:2375") == []


@pytest.mark.parametrize(
    ("route", "is_taken"),
    [
        ({"dst": "10.128.0.1", "dev": "ens4", "scope": "link"}, True),
        ({"type": "local", "dst": "10.128.0.5", "dev": "ens4", "table": "local"}, True),
        ({"dst": "10.0.0.0/8", "dev": "tun0", "table": "51820"}, True),
        ({"dst": "10.128.0.0/9", "nexthops": [{"dev": "a"}, {"dev": "b"}]}, True),
        ({"dst": "0.0.0.0/1", "dev": "tun0"}, False),
        ({"type": "blackhole", "dst": "10.0.0.0/8"}, False),
        ({"type": "unreachable", "dst": "default", "dev": "lo"}, False),
        ({"dst": "10.127.0.0/16", "dev": "eth1"}, False),
        ({"type": "local", "dst": "10.128.0.1", "dev": "lo"}, False),
    ],
)
def test_a_route_that_reaches_other_hosts_counts(route, is_taken):
    assert bool(routes.overlap(WANTED, routes.parse([route]))) is is_taken


def test_without_ip_the_kernels_own_table_is_read():
    text = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth1\t0000800A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    )
    if sys.byteorder == "little":
        (taken,) = routes.parse_proc(text)
        assert taken.subnet == WANTED


def test_an_ip_that_knows_no_json_does_not_stand_for_no_routes(tmp_path, monkeypatch):
    program = tmp_path / "ip"
    program.write_text("#!/bin/sh\necho 'Option \"-json\" is unknown' >&2\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth1\t0000800A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    )
    monkeypatch.setattr(routes, "_PROC", table)
    assert len(routes.read()) == 1


def test_a_suggestion_is_private_and_nobodys():
    assert routes.suggest(16, []) == "10.0.0.0/16"
    assert routes.suggest(16, [IPv4Network("10.0.0.0/8")]) == "172.16.0.0/16"
    everything = [IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12")]
    assert routes.suggest(8, everything) == ""
    assert routes.suggest(24, [*everything, IPv4Network("192.168.0.0/23")]) == "192.168.2.0/24"


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


def test_a_valid_certificate_or_none_gives_no_warning():
    assert preflight.check_certificate(make_profile("hub.example", "hub.example"), NOW) == ""
    assert preflight.check_certificate(make_profile("hub.example", "*.example"), NOW) == ""
    assert preflight.check_certificate(make_profile("10.1.2.3", "10.1.2.3"), NOW) == ""
    none = Profile("site", Settings(host="hub.example"), {}, Path("env/site"))
    assert preflight.check_certificate(none, NOW) == ""


@pytest.mark.parametrize(
    ("profile", "expected"),
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
def test_a_certificate_that_browsers_reject_is_refused_with_the_reason(profile, expected):
    with pytest.raises(UsageError) as caught:
        preflight.check_certificate(profile, NOW)
    for part in ("ssl/cert.pem", *expected):
        assert part in str(caught.value)
    assert "HOST=hub.example" in caught.value.remedy


@pytest.mark.parametrize("host", ["10.1.2.3", "localhost"])
def test_a_host_that_is_not_a_name_gives_a_warning(host, monkeypatch):
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


def test_up_and_rotate_refuse_such_a_certificate_before_they_change_anything():
    profile = make_profile("hub.example", "hub.example", NOW - timedelta(days=9000))

    def connect():
        raise AssertionError("the engine is not needed yet")

    with pytest.raises(UsageError, match="has expired"):
        up.up(profile, Progress(), connect)
    with pytest.raises(UsageError, match="has expired"):
        rotate.rotate(None, "jupyterhub", ["tls"], Progress(), profile=profile)
