"""The stack: rendering ``stack.yml``, deploying, waiting until healthy, taking down.

Rendering is pure. The result is passed to ``docker stack deploy`` on standard input, so that
``jhswarmd up`` runs the same command as the documentation shows.
"""

from __future__ import annotations

import contextlib
import os
import re
import string
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import docker
import yaml

from jhswarmd import assets, labels, retry
from jhswarmd.credentials import secret_mounts
from jhswarmd.credentials.generations import SecretVersion, base_kind
from jhswarmd.deploy import last_words, networks
from jhswarmd.deploy.profiles import record
from jhswarmd.deploy.progress import Progress, Step
from jhswarmd.engine.errors import OUT_OF_SEQUENCE, engine_errors
from jhswarmd.errors import EngineNotFound, EngineOutOfSequence, JhswarmdError
from jhswarmd.settings.settings import PublishMode, Settings

#: Seconds for a deployment to become healthy, including an image pull on a slow link.
HEALTHY_TIMEOUT_S = 300.0
#: Seconds for removed services to end; longer than notebooks get to save before they are killed.
REMOVAL_TIMEOUT_S = 120.0
_POLL_S = 0.2
#: After this many failed tasks, a service is not expected to become healthy.
MAX_FAILURES = 5


@dataclass(frozen=True)
class Placeholders:
    """Values that the rendered file refers to in addition to the profile's keys."""

    hub_image: str
    proxy_image: str
    single_user_image: str
    publish_mode: PublishMode
    #: Kind of secret to the name of its live generation.
    secrets: Mapping[str, str]
    #: Secrets of which the hub mounts one or more generations, at ``secret_mounts.target``.
    numbered: Sequence[SecretVersion] = ()


def render(settings: Settings, values: Placeholders) -> str:
    """Return the fully resolved ``stack.yml``. Pure.

    Raises JhswarmdError if the file names a variable without a value.
    """
    document = yaml.safe_load(assets.STACK_FILE.read_text(encoding="utf-8"))
    ingress = values.publish_mode is PublishMode.ingress
    known: dict[str, str | int] = {
        "STACK_NAME": settings.stack_name,
        "HUB_IMAGE": values.hub_image,
        "PROXY_IMAGE": values.proxy_image,
        "SINGLE_USER_IMAGE": values.single_user_image,
        "ENGINE_SOCKET": settings.engine_socket,
        "HUB_NODE_LABEL": labels.hub_node_label(settings.stack_name),
        "HTTP_PORT": settings.http_port,
        "HTTPS_PORT": settings.https_port,
        "PUBLIC_URL": settings.public_url,
        "TRUSTED_PROXIES": " ".join(settings.trusted_proxies),
        "UPLOAD_TIMEOUT_S": str(settings.upload_timeout_s),
        "MAX_HEADER_SIZE": str(settings.max_header_size),
        "PUBLISH_MODE": values.publish_mode.value,
        # A virtual address, which survives a restart, needs IPVS, as the mesh does.
        "ENDPOINT_MODE": "vip" if ingress else "dnsrr",
        "CONTROL_SUBNET": settings.control_subnet,
        "NOTEBOOKS_SUBNET": settings.notebooks_subnet,
    }
    known.update({f"SECRET_{kind.upper()}": name for kind, name in values.secrets.items()})
    try:
        document = _substitute(document, known)
    except KeyError as exc:
        raise JhswarmdError(
            f"stack.yml cannot be resolved: no value for {exc.args[0]}",
            remedy="Run 'jhswarmd up' for this profile, which creates missing images and secrets.",
        ) from exc
    _add_settings(document, settings)
    for secret in values.numbered:
        _add_secret(document, "hub", secret_mounts.target(secret), secret.name)
    if settings.uses_oauth:
        path = settings.oauth_client_secret_file_path
        name = values.secrets["oauth_client_secret"]
        _add_secret(document, "hub", "oauth_client_secret", name, path)
    for kind, name in values.secrets.items():
        if kind != "users" and base_kind(kind) == "users":
            _add_secret(document, "jhswarmd", kind, name)
    if "registry_login" in values.secrets:
        for role in ("hub", "jhswarmd"):
            _add_secret(document, role, "registry_login", values.secrets["registry_login"])
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False)


class _Quoted(str):
    """Text from outside stack.yml; it is written in quotes, so that it remains text."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Writes every ``_Quoted`` in quotes: another parser reads 1e3 or 0o17 as a number."""


_Dumper.add_representer(
    _Quoted,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"'),
)


def _quoted(text: str) -> _Quoted:
    # 'docker stack deploy' interprets '$' as a variable.
    return _Quoted(text.replace("$", "$$"))


def _substitute(part: Any, known: Mapping[str, str | int]) -> Any:
    """Return a part of the parsed file with ``${NAME}`` substituted. Raises KeyError.

    Substitution is in the parsed file, so that YAML never interprets a value.
    """
    if isinstance(part, dict):
        return {key: _substitute(value, known) for key, value in part.items()}
    if isinstance(part, list):
        return [_substitute(item, known) for item in part]
    if not isinstance(part, str) or "$" not in part:
        return part
    match = _WHOLE.match(part)
    if match:
        value = known[match[1]]
        return value if isinstance(value, int) else _quoted(value)
    # '$$' is a dollar in the file, and is doubled again for 'docker stack deploy'.
    return _quoted(string.Template(part).substitute(known))


#: A value that is one variable, whose type is kept.
_WHOLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}\Z")


def _add_settings(document: dict[str, Any], settings: Settings) -> None:
    keys = {**settings.to_environ(), **settings.proxy_environment}
    environment = {key: _quoted(value) for key, value in keys.items()}
    # The notebook image is already resolved.
    environment.pop("SINGLE_USER_IMAGE", None)
    # Inside a container the socket is always at the standard path.
    environment.pop("ENGINE_SOCKET", None)
    for role in ("hub", "jhswarmd"):
        service = document["services"][role]
        service["environment"] = {**(service.get("environment") or {}), **environment}


def _add_secret(
    document: dict[str, Any], role: str, key: str, name: str, target: str | None = None
) -> None:
    """Mount a secret that stack.yml does not list."""
    document["secrets"][key] = {"external": True, "name": _quoted(name)}
    document["services"][role]["secrets"].append(
        # JupyterHub refuses a cookie secret that others can read.
        {"source": key, "target": _quoted(target or key), "uid": "0", "gid": "0", "mode": 0o400}
    )


def hub_nodes(client: docker.DockerClient, stack: str) -> list[dict[str, Any]]:
    """Return the nodes that are labelled as holding the hub's volume."""
    label = labels.hub_node_label(stack)
    with engine_errors("list the nodes"):
        nodes = client.api.nodes()
    return [node for node in nodes if labels.of(node).get(label) == "true"]


def label_hub_node(client: docker.DockerClient, stack: str) -> bool:
    """Label this node as the holder of the hub's volume, unless a node already has the label.

    Returns whether the label was set.
    """
    if hub_nodes(client, stack):
        return False
    with engine_errors("mark the hub's node"):
        node_id = client.api.info()["Swarm"]["NodeID"]
    _update_node_labels(client, node_id, {labels.hub_node_label(stack): "true"})
    return True


def _update_node_labels(
    client: docker.DockerClient, node_id: str, changes: Mapping[str, str | None]
) -> None:
    """Set labels of a node; a value of None takes the label away. Raises EngineError."""

    def update() -> None:
        with engine_errors("change the labels of a node"):
            node = client.api.inspect_node(node_id)
            merged = {**labels.of(node), **changes}
            spec = {**node["Spec"], "Labels": {k: v for k, v in merged.items() if v is not None}}
            client.api.update_node(node_id, node["Version"]["Index"], spec)

    retry.rereading()(update)


def deploy(stack: str, rendered: str, logins: bytes | None = None) -> None:
    """Pass the rendered file to ``docker stack deploy``.

    Our images are named by digest, so nothing needs to be resolved. With ``logins``, the content of
    a config.json, the nodes receive the login for the images' registry.
    """
    command = ["docker", "stack", "deploy", "--resolve-image", "never", "-c", "-"]
    with contextlib.ExitStack() as stack_:
        environment, passed = dict(os.environ), []
        if logins is not None:
            command.append("--with-registry-auth")
            folder = stack_.enter_context(tempfile.TemporaryDirectory())
            # The client reads logins only from a file. This one is in memory and has no name.
            held = stack_.enter_context(os.fdopen(os.memfd_create("logins"), "wb", buffering=0))
            held.write(logins)
            passed = [held.fileno()]
            Path(folder, "config.json").symlink_to(f"/proc/self/fd/{held.fileno()}")
            environment["DOCKER_CONFIG"] = folder

        def run() -> None:
            result = _run_docker(
                [*command, stack], input=rendered, env=environment, pass_fds=passed
            )
            if result.returncode != 0:
                # The command reads each service and writes it, as the daemon and Swarm do.
                is_overtaken = OUT_OF_SEQUENCE in result.stderr
                raise (EngineOutOfSequence if is_overtaken else JhswarmdError)(
                    f"'docker stack deploy' failed for the stack {stack}",
                    output=result.stderr.splitlines(),
                    remedy="Fix what it names and run the command again; it goes on where it "
                    "stopped.",
                )

        retry.rereading()(run)


def wait_healthy(
    client: docker.DockerClient, stack: str, step: Step, timeout_s: float = HEALTHY_TIMEOUT_S
) -> None:
    """Return once hub, proxy and daemon run what was deployed and pass their health checks.

    Swarm has no task events, so tasks are polled, but only here, while an update is pending.
    Raises JhswarmdError with the engine's reason and the last lines of the log, immediately for a
    service whose tasks fail repeatedly.
    """
    known = {role: _read_rollout(client, stack, role).failed for role in labels.ROLES}
    failed: dict[str, set[str]] = {role: set() for role in labels.ROLES}
    waiting: dict[str, _Rollout] = {}
    for _ in _poll(timeout_s):
        rollouts = {role: _read_rollout(client, stack, role, known[role]) for role in labels.ROLES}
        waiting = {role: rollout for role, rollout in rollouts.items() if rollout.reason}
        if not waiting:
            return
        for role, rollout in waiting.items():
            failed[role] |= rollout.failed
            if len(failed[role]) >= MAX_FAILURES:
                _give_up(client, labels.service_name(stack, role), rollout)
        step.update(", ".join(f"{role}: {it.reason}" for role, it in waiting.items()))
    # A failing service is the cause; others may only be waiting for it.
    for role, rollout in sorted(waiting.items(), key=lambda item: not item[1].failed):
        _give_up(client, labels.service_name(stack, role), rollout)


def _give_up(client: docker.DockerClient, name: str, rollout: _Rollout) -> NoReturn:
    raise JhswarmdError(
        f"The service {name} does not become healthy",
        why=rollout.reason,
        output=last_words.of_task(client, rollout.culprit),
        remedy=f"See 'docker service ps --no-trunc {name}' and 'docker service logs {name}'; run "
        "the command again once it is fixed.",
    )


@dataclass(frozen=True)
class _Rollout:
    """The progress of a service towards its newest specification."""

    reason: str
    """Why it does not run that yet; empty: it does."""
    failed: frozenset[str] = frozenset()
    """Ids of its failed tasks."""
    culprit: Mapping[str, Any] | None = None
    """The task whose log explains it: the last that failed, else the one that is starting."""


def _read_rollout(
    client: docker.DockerClient, stack: str, role: str, known: frozenset[str] = frozenset()
) -> _Rollout:
    """Read the progress of a service; ``known`` are ids of tasks that had failed before."""
    name = labels.service_name(stack, role)
    try:
        with engine_errors(f"inspect the service {name}"):
            service = client.api.inspect_service(name)
            tasks = client.api.tasks(filters={"service": service["ID"]})
    except EngineNotFound:
        return _Rollout("not created yet")
    return _assess(service, [task for task in tasks if task["ID"] not in known])


def _assess(service: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> _Rollout:
    """Return the progress of a service, of whose tasks only ``tasks`` count. Pure."""
    failures = sorted(
        (task for task in tasks if task["Status"]["State"] in ("failed", "rejected")),
        key=lambda task: str(task["UpdatedAt"]),
    )
    failed = frozenset(task["ID"] for task in failures)
    image = service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
    current = [
        task
        for task in tasks
        if task["DesiredState"] == "running" and task["Spec"]["ContainerSpec"]["Image"] == image
    ]
    states = [task["Status"]["State"] for task in current]
    update = (service.get("UpdateStatus") or {}).get("State", "")
    is_updating = update in ("updating", "rollback_started")
    if "running" in states and not is_updating:
        return _Rollout("", failed)
    state = states[0] if states else "waiting for a task"
    if is_updating:
        state = f"updating, {state}" if state != "running" else "updating"
    ended = failures[-1] if failures else None
    error = f" (before: {ended['Status'].get('Err', '')})" if ended else ""
    return _Rollout(f"{state}{error}", failed, ended or (current[0] if current else None))


def take_down(client: docker.DockerClient, stack: str, progress: Progress) -> None:
    """Shut the notebooks down, then remove the stack; volumes and secrets are kept.

    Hub and daemon are removed first, so that nothing is restarted and no notebook is reported as
    vanished; then the notebooks, whose servers get the engine's stop signal and time to save.
    Foreign services are kept, with the networks that they use.
    """
    services = _list_ours(client, stack)
    control = [each for each in services if labels.of(each).get(labels.ROLE) in ("hub", "jhswarmd")]
    notebooks = [
        each for each in services if labels.of(each).get(labels.ROLE) == labels.ROLE_NOTEBOOK
    ]
    with progress.step("Stopping hub and daemon") as step:
        _remove_and_wait(client, control, step)
    with progress.step("Stopping notebooks") as step:
        _remove_and_wait(client, notebooks, step)
        step.done(f"{len(notebooks)} stopped; their volumes are kept")
    with progress.step(f"Removing the stack {stack}") as step:
        # The engine refuses to remove a network that a task still uses.
        _remove_and_wait(client, _list_ours(client, stack), step)
        kept = _remove_networks(client, stack, step)
        if kept:
            step.done(f"all but {' and '.join(each.network for each in kept)}")
    for each in kept:
        progress.warn(str(each))
    for service in list_services(client, stack):
        name = service["Spec"]["Name"]
        progress.warn(
            f"The service {name} is kept: it was not deployed into the stack {stack} by jhswarmd. "
            f"'docker service rm {name}' removes it"
        )


def _list_ours(client: docker.DockerClient, stack: str) -> list[dict[str, Any]]:
    return [each for each in list_services(client, stack) if networks.is_ours(each, stack)]


def _remove_networks(client: docker.DockerClient, stack: str, step: Step) -> list[networks.Kept]:
    """Remove the stack's networks; return those that are kept because others use them."""
    for _ in _poll(REMOVAL_TIMEOUT_S):
        busy, kept = networks.remove(client, stack)
        if not busy:
            return kept
        step.update(f"{len(busy)} networks left")
    raise _too_slow(f"The networks of {stack} cannot be removed")


def purge(client: docker.DockerClient, stack: str, progress: Progress) -> None:
    """Remove secrets, record and node label of a stack that is down. Never a volume.

    With the last deployment on the swarm, the registry and its login are removed too.
    """
    with progress.step("Removing secrets and the node's label") as step:
        with engine_errors("remove the secrets"):
            held = client.api.secrets(filters={"label": [f"{labels.STACK}={stack}"]})
            for each in held:
                client.api.remove_secret(each["ID"])
        for node in hub_nodes(client, stack):
            _update_node_labels(client, node["ID"], {labels.hub_node_label(stack): None})
        record.remove(client, stack)
        step.done(f"{len(held)} secrets")
    with engine_errors("list other deployments"):
        others = [
            *client.api.services(filters={"label": labels.STACK}),
            *client.api.secrets(filters={"label": labels.STACK}),
        ]
    if not others:
        _remove_registry(client, progress)


def _remove_registry(client: docker.DockerClient, progress: Progress) -> None:
    ours = {"label": f"{labels.ROLE}={labels.ROLE_REGISTRY}"}
    with progress.step("Removing the registry and its login") as step:
        with engine_errors("list the registry's service"):
            services = client.api.services(filters=ours)
        _remove_and_wait(client, services, step)
        with engine_errors("remove the registry's secrets"):
            for each in client.api.secrets(filters=ours):
                client.api.remove_secret(each["ID"])
        step.done("its images are kept on a volume" if services else "there is none")


def _run_docker(argv: list[str], **kw: Any) -> subprocess.CompletedProcess[str]:
    """Run the docker command; the caller checks the result. Raises JhswarmdError if missing."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, **kw)
    except FileNotFoundError:
        raise JhswarmdError(
            "The command 'docker' is missing",
            why="it deploys the stack, and newer systems have it in a separate package",
            remedy="Install it ('apt-get install docker-cli'), and run the command again.",
        ) from None


def list_services(client: docker.DockerClient, stack: str) -> list[dict[str, Any]]:
    """Return the stack's services including notebooks, in the engine's format."""
    with engine_errors("list the services"):
        found: list[dict[str, Any]] = client.api.services(
            filters={"label": f"{labels.STACK_NAMESPACE}={stack}"}
        )
    return found


def _remove_and_wait(
    client: docker.DockerClient, services: list[dict[str, Any]], step: Step
) -> None:
    """Remove services by id, and return once their tasks have ended."""
    for service in services:
        try:
            with engine_errors(f"remove the service {service['Spec']['Name']}"):
                client.api.remove_service(service["ID"])
        except EngineNotFound:
            continue
    ids = {service["ID"] for service in services}
    for left in _poll(REMOVAL_TIMEOUT_S):
        with engine_errors("list the tasks"):
            tasks = client.api.tasks() if ids else []
        alive = [task for task in tasks if task["ServiceID"] in ids]
        if not alive:
            return
        step.update(f"{len(alive)} still stopping, {left:.0f} s left")
    raise _too_slow("The tasks of removed services do not end")


def _too_slow(what: str) -> JhswarmdError:
    return JhswarmdError(
        f"{what} within {REMOVAL_TIMEOUT_S:.0f} s",
        remedy="See 'docker node ls' and 'docker service ls'; run the command again.",
    )


def _poll(timeout_s: float) -> Iterator[float]:
    """Yield the remaining seconds, pausing in between, until the timeout."""
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        yield left_s
        time.sleep(_POLL_S)
