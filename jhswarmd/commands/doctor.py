"""``jhswarmd doctor``: problems of machine, swarm and deployment, each with a remedy.

Each check covers one subject and returns findings; none changes anything. A check that gets no
answer is a finding too: unknown is not healthy.
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

#: The oldest API that is tested to work (engine 20.10).
OLDEST_API = (1, 41)
#: Maximum clock skew; more affects Swarm's certificates and leases, and the ages of secrets.
SKEW_S = 30.0


class Grade(IntEnum):
    """The severity of a finding; the worst one is the exit code."""

    good = 0
    bad = 1


class Finding(BaseModel):
    """The result of a check: its subject, its state, and a remedy."""

    about: str
    grade: Grade
    what: str
    remedy: str = ""
    """A good finding may have one too, as a possible improvement."""


def _good(about: str, what: str, remedy: str = "") -> Finding:
    return Finding(about=about, grade=Grade.good, what=what, remedy=remedy)


def _bad(about: str, what: str, remedy: str) -> Finding:
    return Finding(about=about, grade=Grade.bad, what=what, remedy=remedy)


def examine(profile: Profile | None, stack: str | None) -> Iterator[Finding]:
    """Run all checks, one after the other.

    With a ``profile``, also check what its deployment needs. ``stack`` is the deployment to check;
    None: the profile's, or the only one.
    """
    report = yield from _environment(profile, stack)
    if profile:
        yield from certificate(profile)
        yield from accounts(report, profile)


def _environment(
    profile: Profile | None, stack: str | None
) -> Generator[Finding, None, status.Report | None]:
    """Check machine, swarm and deployment; return the deployment's status, if there is one."""
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

    def check_deployment() -> list[Finding]:
        nonlocal report
        report = status.gather(client, name)
        return deployment(report)

    yield from _guarded("deployment", check_deployment)
    if report and report.host:
        host = report.host
        yield from _guarded(
            "certificate", lambda: live_certificate(secrets.list_existing(client, name), host)
        )
    return report


def _guarded(about: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Return the findings of a check; a check without an answer is a finding."""
    try:
        with engine_errors(f"check {about}"):
            return check()
    except EngineError as exc:
        return [_bad(about, str(exc), "Check that the engine answers: 'docker info'.")]


def _kernel() -> list[Finding]:
    findings = []
    if local_engine.has_vxlan():
        findings.append(_good("kernel", "has VXLAN: networks can span several nodes"))
    else:
        findings.append(
            _bad(
                "kernel",
                "has no VXLAN: notebooks on other nodes cannot be reached",
                "Load it ('modprobe vxlan'), or use a kernel that has it.",
            )
        )
    if local_engine.has_ipvs():
        findings.append(_good("kernel", "has IPVS: the hub is reachable through any node"))
    else:
        findings.append(
            _good(
                "kernel",
                "has no IPVS: the hub is only reachable through the proxy's own node",
                "Load it ('modprobe ip_vs') on every node to reach the hub through any of them.",
            )
        )
    return findings


def certificate(profile: Profile) -> list[Finding]:
    """Check the profile's own certificate."""
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
    """Compare the names in the live certificate with the deployment's host. Pure."""
    current = newest(existing, *secrets.TLS.names)
    names = current.secrets[0].certificate_names if current else ()
    if not names:
        return []
    if tls.is_for(host, names):
        return [_good("certificate", f"is for {host}")]
    return [
        _bad(
            "certificate",
            f"is for {', '.join(names)}, but users reach the hub as {host}",
            "Run 'jhswarmd up': it generates a self-signed one for HOST, or uses the one in the "
            "profile's folder ssl, which must be for HOST.",
        )
    ]


def engine(version: Mapping[str, Any]) -> list[Finding]:
    """Check the engine's version. Pure."""
    reported = f"{version['Version']}, API {version['ApiVersion']}"
    api = tuple(int(part) for part in version["ApiVersion"].split("."))
    if api < OLDEST_API:
        oldest = ".".join(map(str, OLDEST_API))
        return [_bad("engine", f"{reported} is too old", f"Update it: API {oldest} is needed.")]
    untested = compatibility.untested(version["Version"])
    return [_good("engine", f"{reported}, {untested}" if untested else reported)]


def registry_and_firewall(info: Mapping[str, Any], registry: str | None) -> list[Finding]:
    """Check the engine's configuration for a swarm and a profile's ``registry``. Pure."""
    found = [compatibility.firewall(info)]
    if registry:
        found.append(compatibility.insecure_registry(info, registry))
    return [_bad("engine", *each) for each in found if each]


def _swarm(client: docker.DockerClient) -> Finding:
    try:
        with engine_errors("inspect the swarm"):
            swarm = client.info()["Swarm"]
    except EngineError as exc:
        return _bad("swarm", str(exc), "Check that the engine answers: 'docker info'.")
    if swarm["LocalNodeState"] != "active":
        return _bad(
            "swarm",
            f"this node is not in a swarm ({swarm['LocalNodeState']})",
            "Run 'make up', which creates one, or 'docker swarm join'.",
        )
    if not swarm["ControlAvailable"]:
        return _bad(
            "swarm", "this node is a worker", "Run this, like every other command, on a manager."
        )
    return check_heartbeat(swarm["Cluster"]["Spec"]["Dispatcher"]["HeartbeatPeriod"] / 10**9)


def check_heartbeat(heartbeat_s: float) -> Finding:
    """Report for how long a node may miss heartbeats: three periods. Pure."""
    what = (
        "this node is a manager; notebooks on a node that misses heartbeats for "
        f"{3 * heartbeat_s:g} s are ended"
    )
    ours_s = local_engine.HEARTBEAT_S
    remedy = f"'docker swarm update --dispatcher-heartbeat {ours_s}s' allows longer pauses."
    return _good("swarm", what, remedy if heartbeat_s < ours_s else "")


def nodes(found: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Check the nodes: which are down, and whose engine version differs. Pure."""
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
                "there are two managers: losing either one stops the swarm",
                "Make it three ('docker node promote'), or one.",
            )
        )
    versions = {node["Description"]["Engine"]["EngineVersion"] for node in found}
    if len(versions) > 1:
        findings.append(
            _bad(
                "nodes",
                f"engine versions differ: {', '.join(sorted(versions))}",
                "Update all nodes to one version.",
            )
        )
    return findings or [_good("nodes", f"{len(found)} ready, engine {next(iter(versions))}")]


def clocks(found: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Check the nodes' clocks by the latest states of their tasks. Pure.

    A node stamps a task's state with its own time, and the manager that stores it adds its own time
    right after (swarmkit, Meta.UpdatedAt). Later changes by a manager only increase the
    difference, so the smallest one counts.
    """
    smallest: dict[str, timedelta] = {}
    for task in tasks:
        stamp = task["Status"].get("Timestamp")
        node_id = task.get("NodeID")
        if task["Status"]["State"] == "running" and stamp and node_id:
            skew = parse_utc(stamp) - parse_utc(task["UpdatedAt"])
            smallest[node_id] = min(skew, smallest.get(node_id, skew), key=abs)
    findings = []
    for node in found:
        skew_s = smallest.get(node["ID"], timedelta()).total_seconds()
        if abs(skew_s) > SKEW_S:
            findings.append(
                _bad(
                    "clocks",
                    f"{node['Description']['Hostname']} is {abs(skew_s):.0f} s "
                    f"{'ahead' if skew_s > 0 else 'behind'}",
                    "Synchronise its clock (chrony, systemd-timesyncd), and restart its engine.",
                )
            )
    return findings or [_good("clocks", f"of {len(smallest)} nodes with tasks agree")]


def _check_ports_and_subnets(client: docker.DockerClient, profile: Profile) -> Iterator[Finding]:
    """Check whether a profile's ports and subnets are available."""

    def ports() -> list[JhswarmdError]:
        preflight.check_ports(client, profile.settings)
        return []

    def subnets() -> list[JhswarmdError]:
        return preflight.check_subnets(client, profile.settings)

    for about, check in (("ports", ports), ("subnets", subnets)):
        try:
            errors = check()
        except JhswarmdError as exc:
            errors = [exc]
        for error in errors:
            yield _bad(about, str(error), error.remedy)
        if not errors:
            yield _good(about, f"those of the profile '{profile.name}' are free, or its own")


def _registry(client: docker.DockerClient, stack: str) -> list[Finding]:
    """Have the engine query the registry for the images that the stack runs."""
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
            with engine_errors(f"query the registry for {image}"):
                client.api.inspect_distribution(image)
        except EngineError as exc:
            findings.append(
                _bad(
                    "registry",
                    f"does not serve {image}: {exc.why}",
                    "A service that moves to another node cannot start there. Check that the "
                    "registry runs ('docker service ps jhswarmd-registry'), or run 'make up'.",
                )
            )
    return findings or [_good("registry", f"serves the {len(images)} images to this engine")]


def deployment(report: status.Report) -> list[Finding]:
    """Return findings from the deployment's status. Pure."""
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
        findings.append(_good("certificate", f"expires in {days:.0f} days"))
    pulls = daemon["prepull"]
    if pulls["answered"] and not pulls["failed"]:
        findings.append(
            _good("images", f"{len(pulls['images'])} for notebooks on {pulls['nodes']} nodes")
        )
    return findings or [_good(about, f"{report.stack} is {report.health}")]


def accounts(report: status.Report | None, profile: Profile) -> list[Finding]:
    """Check the accounts using only the profile: its name, and its user list.

    Problems already reported by the deployment's status are not repeated. ``report`` is None if
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
            what = f"{profile.user_list} has testuser with its published password,"
        else:
            what = ""
        if what:
            remedy = (
                "Set another ('jhswarmd users passwd testuser'), or remove the account ('jhswarmd "
                "users remove testuser'), and its line in the profile's list."
            )
            findings.append(_bad(about, f"{what} and the profile is '{profile.name}'", remedy))
    if plain := users.count_plain(listed):
        what = f"{profile.user_list} has {plain} plain-text passwords"
        remedy = f"'jhswarmd users convert {profile.user_list}' replaces them with hashes."
        findings.append(_good(about, what, remedy))
    return findings


def show(finding: Finding, console: Console) -> None:
    """Print one finding."""
    mark = "[green]ok[/]" if finding.grade is Grade.good else "[red]!![/]"
    console.print(f"{mark} {finding.about}: {escape(finding.what)}")
    if finding.remedy:
        console.print(f"     {escape(finding.remedy)}")
