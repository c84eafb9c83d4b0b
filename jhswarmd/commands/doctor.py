"""``jhswarmd doctor``: what is wrong with machine, swarm and deployment, and what to do about it.

Each check looks at one thing and returns findings; none changes anything. What a check cannot find
out is a finding too: unknown is not well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import timedelta
from enum import IntEnum
from typing import Any

import docker
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from jhswarmd import __version__, labels
from jhswarmd.accounts import published_password, user_list
from jhswarmd.commands import status
from jhswarmd.credentials import tls
from jhswarmd.credentials.generations import SecretVersion, newest, parse_utc
from jhswarmd.deploy import preflight, secrets, users
from jhswarmd.deploy import stack as stacks
from jhswarmd.deploy.images import registry as registries
from jhswarmd.deploy.machine import local_engine
from jhswarmd.deploy.profiles.profile import Profile
from jhswarmd.engine import compatibility, registry_auth
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import EngineError, JhswarmdError, UsageError

#: The oldest API of which this was shown to work (engine 20.10).
OLDEST_API = (1, 41)
#: Swarm's certificates and leases, and the ages of secrets, are in trouble with more than this.
SKEW_S = 30.0


class Grade(IntEnum):
    """How bad a finding is; the worst one is the exit code."""

    good = 0
    bad = 1


class Finding(BaseModel):
    """What was looked at, how it is, and what to do about it."""

    about: str
    grade: Grade
    what: str
    remedy: str = ""
    """Also of something good, where there is something to gain."""


def _good(about: str, what: str, remedy: str = "") -> Finding:
    return Finding(about=about, grade=Grade.good, what=what, remedy=remedy)


def _bad(about: str, what: str, remedy: str) -> Finding:
    return Finding(about=about, grade=Grade.bad, what=what, remedy=remedy)


def examine(profile: Profile | None, stack: str | None) -> Iterator[Finding]:
    """Look at everything, one thing after the other.

    With a ``profile`` also at what its deployment needs. ``stack`` is the deployment to look at;
    None: the profile's, or the only one there is.
    """
    report = yield from _environment(profile, stack)
    if profile:
        yield from certificate(profile)
        yield from accounts(report, profile)


def _environment(
    profile: Profile | None, stack: str | None
) -> Generator[Finding, None, status.Report | None]:
    """Look at machine, swarm and deployment; returns the deployment's status, if there is one."""
    yield from _kernel()
    try:
        client = local_engine.connect()
    except JhswarmdError as exc:
        yield _bad("engine", str(exc), exc.remedy)
        return None
    yield from _guarded("engine", lambda: engine(client.version()))
    registry = profile.settings.registry if profile else None
    yield from _guarded("engine", lambda: registry_and_firewall(client.info(), registry))
    swarm = _swarm(client)
    yield swarm
    if swarm.grade is Grade.bad:
        return None
    yield from _guarded("nodes", lambda: nodes(client.api.nodes()))
    yield from _guarded("clocks", lambda: clocks(client.api.nodes(), client.api.tasks()))
    if profile:
        yield from _check_ports_and_subnets(client, profile)
        stack = stack or profile.settings.stack_name
    try:
        name = status.find_stack(client, stack)
    except UsageError as exc:
        yield _good("deployment", exc.what, exc.remedy)
        return None
    yield from _guarded("registry", lambda: _registry(client, name))
    report = None

    def look() -> list[Finding]:
        nonlocal report
        report = status.gather(client, name)
        return deployment(report)

    yield from _guarded("deployment", look)
    if report and report.host:
        host = report.host
        yield from _guarded(
            "certificate", lambda: live_certificate(secrets.list_existing(client, name), host)
        )
    return report


def _guarded(about: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """Return what a look finds; that it found out nothing is a finding."""
    try:
        with engine_errors(f"look at {about}"):
            return look()
    except EngineError as exc:
        return [_bad(about, str(exc), "See that the engine answers: 'docker info'.")]


def _kernel() -> list[Finding]:
    findings = []
    if local_engine.has_vxlan():
        findings.append(_good("kernel", "has VXLAN: networks reach over several nodes"))
    else:
        findings.append(
            _bad(
                "kernel",
                "has no VXLAN: notebooks on other nodes cannot be reached",
                "Load it ('modprobe vxlan'), or use a kernel that has it.",
            )
        )
    if local_engine.has_ipvs():
        findings.append(_good("kernel", "has IPVS: the hub is reached through any node"))
    else:
        findings.append(
            _good(
                "kernel",
                "has no IPVS: the hub is reached through the proxy's own node alone",
                "Load it ('modprobe ip_vs') on every node to reach the hub through any of them.",
            )
        )
    return findings


def certificate(profile: Profile) -> list[Finding]:
    """Judge the certificate that a profile has of its own."""
    about = "certificate"
    if "tls_cert" not in profile.files:
        return []
    try:
        warning = preflight.check_certificate(profile)
    except UsageError as exc:
        return [_bad(about, str(exc), exc.remedy)]
    if warning:
        return [_bad(about, warning, preflight.SET_HOST)]
    return [_good(about, f"that of the profile '{profile.name}' is for {profile.settings.host}")]


def live_certificate(existing: Sequence[SecretVersion], host: str) -> list[Finding]:
    """Compare the names of the certificate in use with the host of the deployment. Pure."""
    current = newest(existing, *secrets.TLS.names)
    names = current.secrets[0].certificate_names if current else ()
    if not names:
        return []
    if tls.is_for(host, names):
        return [_good("certificate", f"is for {host}")]
    return [
        _bad(
            "certificate",
            f"is for {', '.join(names)}, and people reach the hub as {host}",
            "Run 'jhswarmd up': it makes a self-signed one for HOST, or takes that of the "
            "profile's folder ssl, which must be for HOST.",
        )
    ]


def engine(version: Mapping[str, Any]) -> list[Finding]:
    """Judge what the engine says of itself. Pure."""
    told = f"{version['Version']}, API {version['ApiVersion']}"
    api = tuple(int(part) for part in version["ApiVersion"].split("."))
    if api < OLDEST_API:
        oldest = ".".join(map(str, OLDEST_API))
        return [_bad("engine", f"{told} is too old", f"Update it: API {oldest} is the oldest.")]
    untested = compatibility.untested(version["Version"])
    return [_good("engine", f"{told}, {untested}" if untested else told)]


def registry_and_firewall(info: Mapping[str, Any], registry: str | None) -> list[Finding]:
    """Judge how the engine is set up for a swarm, and for a profile's ``registry``. Pure."""
    found = [compatibility.firewall(info)]
    if registry:
        found.append(compatibility.insecure_registry(info, registry))
    return [_bad("engine", *each) for each in found if each]


def _swarm(client: docker.DockerClient) -> Finding:
    try:
        with engine_errors("look at the swarm"):
            swarm = client.info()["Swarm"]
    except EngineError as exc:
        return _bad("swarm", str(exc), "See that the engine answers: 'docker info'.")
    if swarm["LocalNodeState"] != "active":
        return _bad(
            "swarm",
            f"this node is in no swarm ({swarm['LocalNodeState']})",
            "Run 'make up', which makes one, or 'docker swarm join'.",
        )
    if not swarm["ControlAvailable"]:
        return _bad(
            "swarm", "this node is a worker", "Run this, as every other command, on a manager."
        )
    return check_heartbeat(swarm["Cluster"]["Spec"]["Dispatcher"]["HeartbeatPeriod"] / 10**9)


def check_heartbeat(heartbeat_s: float) -> Finding:
    """Tell for how long a node may give no sign of life, which is three heartbeats. Pure."""
    what = (
        f"this node is a manager; notebooks of a node that is silent for {3 * heartbeat_s:g} s end"
    )
    ours_s = local_engine.HEARTBEAT_S
    remedy = f"'docker swarm update --dispatcher-heartbeat {ours_s}s' makes it more patient."
    return _good("swarm", what, remedy if heartbeat_s < ours_s else "")


def nodes(found: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Judge the nodes: who is down, and whose engine is another version. Pure."""
    findings = []
    for node in found:
        state = node["Status"]["State"]
        if state != "ready":
            name = node["Description"]["Hostname"]
            findings.append(
                _bad("nodes", f"{name} is {state}", "Bring its engine back: see 'docker node ls'.")
            )
    managers = sum(node["Spec"]["Role"] == "manager" for node in found)
    if managers == 2:
        findings.append(
            _bad(
                "nodes",
                "there are two managers: without either of them the swarm stands still",
                "Make it three ('docker node promote'), or one.",
            )
        )
    versions = {node["Description"]["Engine"]["EngineVersion"] for node in found}
    if len(versions) > 1:
        findings.append(
            _bad(
                "nodes",
                f"engines differ: {', '.join(sorted(versions))}",
                "Bring all nodes to one version.",
            )
        )
    return findings or [_good("nodes", f"{len(found)} ready, engine {next(iter(versions))}")]


def clocks(found: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Judge the nodes' clocks by what they last said of their tasks. Pure.

    A node stamps the state of a task with its own time, and the manager that takes it down stamps
    it with its own right after (swarmkit, Meta.UpdatedAt). What a manager itself changes later
    only makes the difference larger, so that the smallest one counts.
    """
    smallest: dict[str, timedelta] = {}
    for task in tasks:
        stamp = task["Status"].get("Timestamp")
        node_id = task.get("NodeID")
        if task["Status"]["State"] == "running" and stamp and node_id:
            off = parse_utc(stamp) - parse_utc(task["UpdatedAt"])
            smallest[node_id] = min(off, smallest.get(node_id, off), key=abs)
    findings = []
    for node in found:
        off_s = smallest.get(node["ID"], timedelta()).total_seconds()
        if abs(off_s) > SKEW_S:
            findings.append(
                _bad(
                    "clocks",
                    f"{node['Description']['Hostname']} is {abs(off_s):.0f} s "
                    f"{'ahead' if off_s > 0 else 'behind'}",
                    "Keep the time there (chrony, systemd-timesyncd), and restart its engine.",
                )
            )
    return findings or [_good("clocks", f"of {len(smallest)} nodes with tasks agree")]


def _check_ports_and_subnets(client: docker.DockerClient, profile: Profile) -> Iterator[Finding]:
    """Look whether ports and subnets of a profile can be had."""

    def ports() -> list[JhswarmdError]:
        preflight.check_ports(client, profile.settings)
        return []

    def subnets() -> list[JhswarmdError]:
        return preflight.check_subnets(client, profile.settings)

    for about, check in (("ports", ports), ("subnets", subnets)):
        try:
            faults = check()
        except JhswarmdError as exc:
            faults = [exc]
        for fault in faults:
            yield _bad(about, str(fault), fault.remedy)
        if not faults:
            yield _good(about, f"those of the profile '{profile.name}' are free, or its own")


def _registry(client: docker.DockerClient, stack: str) -> list[Finding]:
    """Let the engine ask the registry for what the stack runs."""
    findings = []
    images = {
        service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
        for service in stacks.list_services(client, stack)
        if labels.of(service).get(labels.ROLE) in labels.ROLES
    }
    for registry in {image.partition("/")[0] for image in images}:
        if login := registries.known_login(client, registry):
            registry_auth.add(client.api, registry_auth.merge(None, login))
    for image in sorted(images):
        try:
            with engine_errors(f"ask the registry for {image}"):
                client.api.inspect_distribution(image)
        except EngineError as exc:
            findings.append(
                _bad(
                    "registry",
                    f"does not give {image}: {exc.why}",
                    "A service that moves to another node cannot start there. See that the "
                    "registry runs ('docker service ps jhswarmd-registry'), or 'make up'.",
                )
            )
    return findings or [_good("registry", f"gives this engine the {len(images)} images")]


def deployment(report: status.Report) -> list[Finding]:
    """Judge a deployment by its status. Pure."""
    about = "deployment"
    findings = [_bad(about, each, "See 'jhswarmd status'.") for each in report.problems]
    findings += [_bad(about, each, "See 'jhswarmd status'.") for each in report.warnings]
    daemon = report.daemon
    if daemon is None:
        return findings
    if daemon["version"] != __version__:
        findings.append(
            _bad(
                "versions",
                f"the daemon is {daemon['version']}, this command is {__version__}",
                "Run 'jhswarmd up' with this version.",
            )
        )
    expires_at_s = daemon["rotation"]["units"].get("tls", {}).get("expires_at_s")
    if expires_at_s:
        days = (expires_at_s - time.time()) / 86400
        findings.append(_good("certificate", f"ends in {days:.0f} days"))
    pulls = daemon["prepull"]
    if pulls["answered"] and not pulls["failed"]:
        findings.append(
            _good("images", f"{len(pulls['images'])} for notebooks on {pulls['nodes']} nodes")
        )
    return findings or [_good(about, f"{report.stack} is {report.health}")]


def accounts(report: status.Report | None, profile: Profile) -> list[Finding]:
    """Judge the accounts by what the profile alone tells: its name, and its list of users.

    What status has told of the deployment already is not told again. ``report`` is None where
    nothing is deployed yet.
    """
    about, findings = "accounts", []
    if profile.is_demo:
        return []
    content = b"" if profile.settings.uses_oauth else profile.files.get("users", b"")
    listed = user_list.parse(content)
    if not (report and status.warns_of_published_password(report)):
        if report and status.has_published_password(report.daemon):
            what = "testuser has its published password,"
        elif published_password.has_published_password(listed):
            what = f"{profile.user_list} has testuser with the password that is published,"
        else:
            what = ""
        if what:
            remedy = (
                "Set another ('jhswarmd users passwd testuser'), or remove the account ('jhswarmd "
                "users remove testuser'), and its line in the profile's list."
            )
            findings.append(_bad(about, f"{what} and the profile is '{profile.name}'", remedy))
    if plain := users.count_plain(listed):
        what = f"{profile.user_list} has passwords as plain text, {plain} of them"
        remedy = f"'jhswarmd users convert {profile.user_list}' replaces them by hashes."
        findings.append(_good(about, what, remedy))
    return findings


def show(finding: Finding, console: Console) -> None:
    """Print one finding for people."""
    mark = "[green]ok[/]" if finding.grade is Grade.good else "[red]!![/]"
    console.print(f"{mark} {finding.about}: {escape(finding.what)}")
    if finding.remedy:
        console.print(f"     {escape(finding.remedy)}")
