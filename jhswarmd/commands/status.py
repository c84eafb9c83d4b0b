"""``jhswarmd status``: the state that engine and daemon report, and an assessment of it.

``gather`` queries, ``assess`` is pure, ``show`` prints. Without a daemon only the engine's state
is shown.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from enum import IntEnum
from ipaddress import ip_network
from typing import Any

import docker
from pydantic import BaseModel
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from jhswarmd import labels
from jhswarmd.api import daemon_client
from jhswarmd.commands import prepull
from jhswarmd.credentials.generations import SecretVersion, parse_utc
from jhswarmd.credentials.rotation import CREDENTIALS
from jhswarmd.deploy import drift, exposure, last_words, networks, secrets
from jhswarmd.deploy import stack as stacks
from jhswarmd.deploy.machine import local_engine
from jhswarmd.deploy.profiles import record
from jhswarmd.deploy.profiles.profile import LOCAL_HOSTS
from jhswarmd.engine import constraints
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import JhswarmdError, UsageError
from jhswarmd.model import is_local_volume, newest_task
from jhswarmd.settings.settings import Settings

#: Share of used notebook addresses above which the deployment is degraded.
ADDRESSES_FULL = 0.8
#: Seconds before its expiry to warn of a certificate; a self-signed one is renewed earlier.
EXPIRES_SOON_S = 14 * 86400.0
#: Seconds for which ``status`` reports secrets whose mounts were changed from outside and repaired.
REPAIR_SHOWN_S = 7 * 86400.0
_RENEW = "put a new one into env/NAME/ssl and run 'jhswarmd rotate tls --env NAME'"
#: This many failures of a service within the window are a problem, even while it runs.
MAX_FAILURES = 3
FAILURES_WINDOW_S = 600.0
#: States of a task that exited with an error, or was never started.
FAILED = ("failed", "rejected")
#: Seconds between two refreshes of ``status --watch``.
WATCH_INTERVAL_S = 2.0


class Health(IntEnum):
    """The health of a deployment; the value is the exit code."""

    healthy = 0
    degraded = 1
    down = 2


class ServiceState(BaseModel):
    """One of the stack's own services."""

    role: str
    running: int
    desired: int
    image: str
    # While the service runs, the following are set only if it has failed repeatedly.
    error: str = ""
    """The engine's error for its last failed task."""
    state: str = ""
    """State of its newest task."""
    failures: int = 0
    """Number of its failed tasks, as far as the engine remembers."""
    last_words: list[str] = []
    """The last lines of the log of that task."""
    drift: str = ""
    """What it runs instead of what was deployed; empty: no drift."""


class NodeState(BaseModel):
    """One node of the swarm."""

    id: str = ""
    name: str
    role: str
    state: str
    availability: str


class SecretState(BaseModel):
    """The live generation of one kind of secret."""

    kind: str
    generation: int
    age_s: float


class Report(BaseModel):
    """Everything that ``status`` shows. ``daemon`` is None if none answers."""

    stack: str
    services: list[ServiceState]
    nodes: list[NodeState]
    notebooks: dict[str, int]
    secrets: list[SecretState]
    addresses_used: int
    addresses: int
    daemon: dict[str, Any] | None
    daemon_error: str = ""
    profile: str = ""
    """The profile that it was deployed from; empty: not recorded."""
    host: str = ""
    """The host name under which browsers reach the hub; empty: unknown."""
    https_port: int = 443
    answering_at: list[str] = []
    """Addresses, apart from the loopback ones, at which that port answers. They are checked only
    if the published password works."""
    removed_user_servers: str = ""
    """What happens to running servers of removed users; empty: unknown."""
    local_volume_nodes: list[str] = []
    """The nodes that run notebooks, if user files are stored locally on each; else empty."""
    health: str = ""
    problems: list[str] = []
    warnings: list[str] = []
    """What works, but is likely to cause trouble later; does not affect ``health``."""


def find_stack(
    client: docker.DockerClient, requested: str | None, *, include_down: bool = False
) -> str:
    """Return the name of our only stack on this swarm, or ``requested``.

    A stack is found by its hub, or by any of its services, as 'down' may have been interrupted;
    with ``include_down``, also by its secrets and networks. Raises UsageError if there is none, or
    more than one, and JhswarmdError if this node is not a manager.
    """
    local_engine.require_manager(client)
    with engine_errors("list the services"):
        found = [] if requested else client.api.services(filters={"label": f"{labels.ROLE}=hub"})
        running = _stacks_of(found or client.api.services(filters={"label": labels.STACK}))
    chosen = [name for name in running if requested in (None, name)]
    down: list[str] = []
    if not chosen:
        with engine_errors("list the secrets"):
            down = _stacks_of(client.api.secrets(filters={"label": labels.GENERATION}))
    if not chosen and include_down:
        chosen = [name for name in down if requested in (None, name)]
        if requested and networks.list_networks(client, requested):
            chosen = [requested]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise UsageError(
            f"There are {len(chosen)} deployments on this swarm",
            why=", ".join(chosen),
            remedy="Choose one with --stack NAME.",
        )
    raise _no_deployment(requested, running, down)


def _stacks_of(things: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({name for each in things if (name := labels.of(each).get(labels.STACK))})


def _no_deployment(requested: str | None, running: list[str], down: list[str]) -> UsageError:
    """Return the error for a missing deployment; of those ``down``, only the secrets exist."""
    down = [name for name in down if requested in (None, name)]
    if down:
        return UsageError(
            f"The deployment {down[0]} is down" if len(down) == 1 else "All deployments are down",
            why=f"no service of {' or '.join(down)} exists; secrets and volumes are kept",
            remedy="Bring it up again with 'jhswarmd up' and its profile (--env NAME).",
        )
    if requested:
        return UsageError(
            f"There is no deployment '{requested}' on this swarm",
            why=f"it has {', '.join(running)}" if running else "it has none",
            remedy="Choose another one with --stack NAME, or run 'jhswarmd up' with a profile "
            "that has this STACK_NAME.",
        )
    return UsageError(
        "There is no deployment on this swarm",
        remedy="Bring one up with 'jhswarmd up --env local'.",
    )


def gather(client: docker.DockerClient, stack: str) -> Report:
    """Query engine and daemon. Raises EngineError if the engine does not answer."""
    with engine_errors("inspect the stack"):
        api = client.api
        nodes = api.nodes()
        tasks = api.tasks(filters={"label": f"{labels.STACK_NAMESPACE}={stack}"})
        name = labels.network_name(stack, "notebooks")
        # The engine's filter matches substrings.
        networks = [each for each in api.networks(names=[name]) if each["Name"] == name]
    services = stacks.list_services(client, stack)
    by_service: dict[str, list[dict[str, Any]]] = {}
    for task in tasks:
        by_service.setdefault(task["ServiceID"], []).append(task)
    network = next(iter(networks), None)
    daemon, daemon_error = _ask_daemon(client, stack)
    settings = settings_of(services)
    report = Report(
        stack=stack,
        services=[
            _service_state(client, each, by_service.get(each["ID"], []))
            for role in labels.ROLES
            for each in services
            if labels.of(each).get(labels.ROLE) == role
        ],
        nodes=[_node_state(node) for node in nodes],
        notebooks=_notebook_states(services, by_service),
        secrets=_secret_states(secrets.list_existing(client, stack), stack),
        addresses_used=_addresses_used(tasks, network),
        addresses=_addresses(network),
        daemon=daemon,
        daemon_error=daemon_error,
        profile=found.profile if (found := record.read(client, stack)) else "",
        host=settings.host if settings else "",
        https_port=(port := settings.https_port if settings else 443),
        answering_at=_answering_at(daemon, settings, port, nodes),
        removed_user_servers=settings.removed_user_servers.value if settings else "",
        local_volume_nodes=_local_volume_nodes(nodes, settings),
    )
    health, problems = assess(report)
    return report.model_copy(
        update={"health": health.name, "problems": problems, "warnings": warn(report)}
    )


def _answering_at(
    daemon: Mapping[str, Any] | None,
    settings: Settings | None,
    port: int,
    nodes: list[dict[str, Any]],
) -> list[str]:
    if not has_published_password(daemon) or (settings and settings.uses_oauth):
        return []
    return exposure.answering_at(port, nodes)


def assess(report: Report) -> tuple[Health, list[str]]:
    """Return the health of a deployment, and every reason why it is not healthy. Pure."""
    problems: list[str] = []
    health = Health.healthy

    def add(new: Health, problem: str) -> None:
        nonlocal health
        health = max(health, new)
        problems.append(problem)

    states = {service.role: service for service in report.services}
    for role in labels.ROLES:
        service = states.get(role)
        if service is None:
            add(Health.down, f"the service {role} is missing: run 'jhswarmd up'")
        elif service.running == 0:
            add(Health.down, _why_down(report.stack, service))
        elif service.failures:
            add(
                Health.degraded,
                f"{role} runs, and has ended {service.failures} times in "
                f"{_ago(FAILURES_WINDOW_S)} ({service.error}). Its last log line: "
                f"{' '.join(service.last_words[-1:]).strip()}",
            )
        elif service.running < service.desired:
            add(Health.degraded, f"{role} runs on {service.running} of {service.desired} nodes")
        if service is not None and service.drift:
            add(Health.degraded, f"{role}: {service.drift}")
    existing = {secret.kind for secret in report.secrets}
    for kind in [each for name in CREDENTIALS for each in CREDENTIALS[name]] if existing else ():
        if kind not in existing:
            add(Health.degraded, f"the secret {kind} is missing: run 'jhswarmd up'")
    for node in report.nodes:
        if node.state != "ready":
            add(Health.degraded, f"node {node.name} is {node.state}: see 'docker node ls'")
    if report.addresses and report.addresses_used > ADDRESSES_FULL * report.addresses:
        add(
            Health.degraded,
            f"{report.addresses_used} of {report.addresses} notebook addresses are used: "
            "set a larger NOTEBOOKS_SUBNET",
        )
    has_hub = "hub" in states and states["hub"].running > 0
    if report.daemon is None:
        # A daemon that does not run is already reported.
        if "jhswarmd" in states and states["jhswarmd"].running:
            add(Health.down, f"no daemon answers: {report.daemon_error}")
        return health, problems
    # Without a hub the daemon knows little, which is not a separate problem.
    for name, why in report.daemon["unknown"].items() if has_hub else ():
        add(Health.degraded, f"{name}: last reconcile failed: {why}")
    for name in (report.daemon.get("names") or {}).get("lost", ()):
        add(
            Health.degraded,
            f"the engine's DNS has lost the name '{name}': the daemon updates the service after "
            f"a few minutes; 'docker service update --force {report.stack}_{name}' does it now",
        )
    for failure in prepull.describe_failures(report.daemon["prepull"]):
        add(Health.degraded, f"{failure}: servers on it start slowly, or not at all")
    if no_node := prepull.describe_no_node(report.daemon["prepull"]):
        add(Health.degraded, no_node)
    servers, accounts = report.daemon["servers"], report.daemon["accounts"]
    if servers["held"]:
        add(
            Health.degraded,
            f"{len(servers['held'])} orphans are held: list them with 'jhswarmd orphans list' "
            "and approve their removal with 'jhswarmd orphans approve'",
        )
    if not accounts["delivered_to"] and has_hub:
        add(
            Health.degraded,
            "the hub has not received its accounts, and no user can log in with a password: see "
            f"'docker service logs {report.stack}_jhswarmd'",
        )
    if report.daemon["unready"] and has_hub:
        add(Health.degraded, f"the daemon is not ready: {report.daemon['unready']}")
    for name, unit in report.daemon["rotation"]["units"].items():
        for number, why in unit["rejected"].items():
            add(
                Health.degraded,
                f"the rotation of {name} to g{number} was rolled back ({why}): fix that and run "
                f"'jhswarmd rotate {name}'",
            )
        if unit["expires_at_s"] and unit["expires_at_s"] < time.time():
            add(Health.degraded, f"the certificate has expired: {_RENEW}")
    if accounts["refused"]:
        add(
            Health.degraded,
            "rejected lines in the user list: " + "; ".join(accounts["refused"]),
        )
    return health, problems


def _why_down(stack: str, service: ServiceState) -> str:
    """Return why no task of a service runs, and what to do."""
    name = labels.service_name(stack, service.role)
    if not service.error:
        return (
            f"{service.role} does not run: its newest task: {service.state or 'none yet'}; "
            f"see 'docker service ps --no-trunc {name}'"
        )
    tries = f", {service.failures} times in a row" if service.failures > 1 else ""
    if not service.last_words:
        return (
            f"{service.role} does not run ({service.error}{tries}): see 'docker service ps "
            f"--no-trunc {name}'"
        )
    return (
        f"{service.role} does not run ({service.error}{tries}). Its last log line: "
        f"{service.last_words[-1].strip()}. Fix the cause and run 'jhswarmd up'; "
        f"'docker service logs {name}' shows the whole log"
    )


def warn(report: Report) -> list[str]:
    """Return warnings: what works now, but is likely to cause trouble. Pure."""
    warnings = [*_warn_of_accounts(report), *_warn_of_secrets(report)]
    if len(report.local_volume_nodes) > 1:
        names = ", ".join(report.local_volume_nodes)
        warnings.append(
            f"user files are stored locally on {len(report.local_volume_nodes)} nodes ({names}), "
            "each user's on only one of them: while that node is down, the user has to wait. Share "
            "the files with VOLUME_DRIVER or VOLUME_OPTIONS (docs/spawner.md, NFS), or choose one "
            "node with NOTEBOOK_CONSTRAINTS"
        )
    return warnings


def _warn_of_accounts(report: Report) -> list[str]:
    if report.daemon is None:
        return []
    accounts, warnings = report.daemon["accounts"], []
    if accounts["plain"]:
        warnings.append(
            f"{accounts['plain']} passwords are stored as plain text in Swarm: 'jhswarmd users "
            "set' with the same list stores hashes instead"
        )
    if warns_of_published_password(report):
        warnings.append(exposure.warning(report.https_port, report.answering_at))
    return warnings


def has_published_password(daemon: Mapping[str, Any] | None) -> bool:
    """Return whether an account has the published password of the profile 'local'."""
    return daemon is not None and bool(daemon["accounts"].get("has_published_password"))


def warns_of_published_password(report: Report) -> bool:
    """Return whether an account has it, and the hub is reachable from other machines."""
    return has_published_password(report.daemon) and bool(
        report.answering_at or report.host not in ("", *LOCAL_HOSTS)
    )


def _warn_of_secrets(report: Report) -> list[str]:
    if report.daemon is None:
        return []
    rotation, warnings = report.daemon["rotation"], []
    expires_at_s = rotation["units"].get("tls", {}).get("expires_at_s")
    left_s = expires_at_s - time.time() if expires_at_s else EXPIRES_SOON_S
    if 0 <= left_s < EXPIRES_SOON_S:
        warnings.append(f"the certificate expires in {_ago(left_s)}: {_RENEW}")
    for name, unit in rotation["units"].items():
        ago_s = time.time() - unit["put_right_at_s"] if unit["put_right"] else REPAIR_SHOWN_S
        if ago_s < REPAIR_SHOWN_S:
            warnings.append(
                f"{name}: {unit['put_right']}, corrected {_ago(ago_s)} ago. Was an older stack "
                "file deployed?"
            )
    return warnings


def watch(refresh: Callable[[], Report], console: Console) -> None:
    """Show what ``refresh`` returns, every ``WATCH_INTERVAL_S`` seconds, until Ctrl-C.

    Errors are shown in its place. The screen is cleared at the end.
    """
    live = Live(console=console, auto_refresh=False, transient=True)
    with contextlib.suppress(KeyboardInterrupt), live:
        while True:
            try:
                shown = describe(refresh())
            except JhswarmdError as exc:
                shown = Group(Text(str(exc), "red"), Text(exc.remedy))
            live.update(shown, refresh=True)
            time.sleep(WATCH_INTERVAL_S)


def show(report: Report, console: Console) -> None:
    """Print the report."""
    console.print(describe(report))


def describe(report: Report) -> Group:
    """Return the report in printable form. Pure."""
    colour = {"healthy": "green", "degraded": "yellow", "down": "red"}[report.health]
    lines = [
        f"[bold]{escape(report.stack)}[/] is [{colour}]{report.health}[/]",
        *(f"  [{colour}]![/] {escape(problem)}" for problem in report.problems),
        *(f"  [yellow]warning:[/] {escape(warning)}" for warning in report.warnings),
    ]
    for service in report.services:
        if service.last_words:
            lines.append(f"  the last lines of {service.role}:")
            lines += [f"  [dim]|[/] {escape(line)}" for line in service.last_words]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    table.add_row("profile", report.profile or "not recorded")
    for service in report.services:
        table.add_row(service.role, f"{service.running}/{service.desired} running, {_tag(service)}")
    table.add_row(
        "nodes",
        ", ".join(f"{node.name} ({node.role}, {node.state})" for node in report.nodes),
    )
    states = ", ".join(f"{count} {state}" for state, count in sorted(report.notebooks.items()))
    table.add_row("servers", states or "none")
    table.add_row("addresses", f"{report.addresses_used} of {report.addresses} used")
    if report.daemon is not None and report.daemon.get("admins") is not None:
        table.add_row("admins", ", ".join(report.daemon["admins"]) or "none")
    if report.daemon is not None:
        _add_daemon_rows(table, report.daemon, report.nodes, report.removed_user_servers)
    _add_secret_rows(table, report)
    return Group(*map(Text.from_markup, lines), table)


def _tag(service: ServiceState) -> str:
    """Return the image without its digest, which is too long for a table."""
    return service.image.partition("@")[0]


def _add_daemon_rows(
    table: Table, daemon: Mapping[str, Any], nodes: list[NodeState], policy: str
) -> None:
    servers, accounts = daemon["servers"], daemon["accounts"]
    node = next((f" on {node.name}" for node in nodes if node.id == daemon.get("node_id")), "")
    table.add_row(
        "daemon",
        f"{'active' if daemon['is_active'] else 'standby'}{node}, up {_ago(daemon['up_s'])}, "
        f"{'receiving' if daemon['is_connected'] else 'not receiving'} engine events",
    )
    last = servers["last_pass_at_s"]
    table.add_row("last full pass", f"{_ago(time.time() - last)} ago" if last else "none yet")
    table.add_row("images", prepull.describe(daemon["prepull"]))
    table.add_row("orphans", f"{len(servers['removals'])} removed, {len(servers['held'])} held")
    for removal in servers["removals"][-3:]:
        table.add_row("", f"removed {removal['service']}: {removal['reason']}")
    if servers.get("silent"):
        table.add_row("servers", f"running, but not answering: {', '.join(servers['silent'])}")
    pending = f", {accounts['pending']} not hashed yet" if accounts["pending"] else ""
    table.add_row(
        "accounts",
        f"{accounts['names']}, {accounts['plain']} with a plain-text password{pending}; "
        f"{len(accounts['refused'])} lines rejected",
    )
    if accounts["removed_with_servers"]:
        names = ", ".join(accounts["removed_with_servers"])
        table.add_row("", f"removed, server still running: {names} (REMOVED_USER_SERVERS={policy})")


def _add_secret_rows(table: Table, report: Report) -> None:
    units = report.daemon["rotation"]["units"] if report.daemon else {}
    rotated = {kind for name in units for kind in CREDENTIALS[name]}
    others = [
        f"{each.kind} g{each.generation} ({_ago(each.age_s)})"
        for each in report.secrets
        if each.kind not in rotated
    ]
    table.add_row("secrets", ", ".join(others))
    doing = report.daemon["rotation"]["doing"] if report.daemon else ""
    for name, unit in units.items():
        table.add_row("", _describe_unit(name, unit, doing, time.time()))


def _describe_unit(name: str, unit: Mapping[str, Any], doing: str, now_s: float) -> str:
    parts = [f"{name} g{unit['generation']}", f"{_ago(now_s - unit['created_at_s'])} old"]
    if unit["expires_at_s"]:
        parts.append(f"expires in {_ago(unit['expires_at_s'] - now_s)}")
    next_s = unit["next_at_s"]
    # One that is due and waits for quiet hours shows 0 s.
    parts.append(f"next rotation in {_ago(next_s - now_s)}" if next_s else "no automatic rotation")
    if unit["rejected"]:
        parts.append("g{} was rolled back".format(", g".join(unit["rejected"])))
    elif unit["is_verified"]:
        parts.append("in use")
    else:
        parts.append(f"being rotated: {doing or 'queued'}")
    return ", ".join(parts)


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _ask_daemon(client: docker.DockerClient, stack: str) -> tuple[dict[str, Any] | None, str]:
    try:
        answer: dict[str, Any] = daemon_client.call(client, stack, "status")
    except JhswarmdError as exc:
        return None, str(exc)
    return answer, ""


def _service_state(
    client: docker.DockerClient, service: Mapping[str, Any], tasks: list[dict[str, Any]]
) -> ServiceState:
    running = [task for task in tasks if task["Status"]["State"] == "running"]
    desired = [task for task in tasks if task["DesiredState"] == "running"]
    is_global = "Global" in service["Spec"]["Mode"]
    state = ServiceState(
        role=labels.of(service)[labels.ROLE],
        running=len(running),
        desired=max(1, len(desired)) if is_global else 1,
        image=service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"],
        drift=drift.describe(service, running),
    )
    failed = sorted((t for t in tasks if t["Status"].get("Err")), key=lambda t: t["UpdatedAt"])
    if running:
        failed = _recent_failures(failed, running[0], datetime.now(timezone.utc))
        if len(failed) < MAX_FAILURES:
            return state
    newest = newest_task(tasks)
    return state.model_copy(
        update={
            "error": failed[-1]["Status"]["Err"] if failed else "",
            "state": newest["Status"]["State"] if newest else "",
            "failures": sum(task["Status"]["State"] in FAILED for task in failed),
            "last_words": list(last_words.of_task(client, failed[-1] if failed else newest)),
        }
    )


def _recent_failures(
    tasks: Iterable[dict[str, Any]], running: Mapping[str, Any], now: datetime
) -> list[dict[str, Any]]:
    """Return the tasks that failed recently with the running specification. Pure.

    Failures of an older specification, since replaced, say nothing about the current one.
    """
    return [
        task
        for task in tasks
        if task["Status"]["State"] in FAILED
        and task.get("SpecVersion") == running.get("SpecVersion")
        and (now - parse_utc(task["Status"]["Timestamp"])).total_seconds() < FAILURES_WINDOW_S
    ]


def _node_state(node: Mapping[str, Any]) -> NodeState:
    return NodeState(
        id=node["ID"],
        name=node["Description"]["Hostname"],
        role=node["Spec"]["Role"],
        state=node["Status"]["State"],
        availability=node["Spec"]["Availability"],
    )


def settings_of(services: list[dict[str, Any]]) -> Settings | None:
    """Return the profile's keys that the hub was deployed with; None: not available.

    Another version of jhswarmd may have deployed it, with values that are no longer valid.
    """
    for service in services:
        if labels.of(service).get(labels.ROLE) == "hub":
            environ = service["Spec"]["TaskTemplate"]["ContainerSpec"].get("Env") or ()
            try:
                return Settings.from_environ(dict(each.partition("=")[::2] for each in environ))
            except ValueError:
                return None
    return None


def _local_volume_nodes(nodes: list[dict[str, Any]], settings: Settings | None) -> list[str]:
    if settings is None or not is_local_volume(settings.volume_driver, settings.volume_options):
        return []
    names = constraints.eligible_nodes(nodes, settings.notebook_constraints)
    return names if len(names) > 1 else []


def _notebook_states(
    services: list[dict[str, Any]], by_service: Mapping[str, list[dict[str, Any]]]
) -> dict[str, int]:
    states: Counter[str] = Counter()
    for service in services:
        if labels.of(service).get(labels.ROLE) == labels.ROLE_NOTEBOOK:
            newest = newest_task(by_service.get(service["ID"], []))
            states[newest["Status"]["State"] if newest else "new"] += 1
    return dict(states)


def _secret_states(existing: list[SecretVersion], stack: str) -> list[SecretState]:
    live = set(secrets.live_names(existing, stack).values())
    now = datetime.now(timezone.utc)
    return [
        SecretState(
            kind=each.kind,
            generation=each.generation,
            age_s=(now - each.created).total_seconds(),
        )
        for each in sorted(existing, key=lambda each: each.name)
        if each.name in live
    ]


def _addresses_used(tasks: list[dict[str, Any]], network: Mapping[str, Any] | None) -> int:
    if network is None:
        return 0
    return sum(
        len(attachment.get("Addresses") or [])
        for task in tasks
        if task["DesiredState"] == "running"
        for attachment in task.get("NetworksAttachments") or []
        if attachment["Network"]["ID"] == network["Id"]
    )


def _addresses(network: Mapping[str, Any] | None) -> int:
    """Return the network's capacity, without its network, gateway and broadcast addresses."""
    pools = ((network or {}).get("IPAM") or {}).get("Config") or []
    return sum(ip_network(pool["Subnet"]).num_addresses - 3 for pool in pools)
