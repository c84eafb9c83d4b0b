"""A registry for sites that have none: a separate Swarm service, outside the hub's stack.

It survives ``jhswarmd down``, so that the next ``up`` finds its images. Its port is open to every
container in the cluster, so each read and write requires a login, which is generated here, straight
into Swarm secrets, and deletion is disabled. A foreign registry is used only if the profile names
it.
"""

from __future__ import annotations

import enum
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

import docker
import requests
from docker.types import (
    ContainerSpec,
    EndpointSpec,
    Mount,
    Placement,
    RestartPolicy,
    SecretReference,
    ServiceMode,
    TaskTemplate,
)

from jhswarmd import labels, retry
from jhswarmd.accounts.hashing import hash_for_registry
from jhswarmd.deploy.images import publish
from jhswarmd.deploy.progress import Progress, Step
from jhswarmd.engine import registry_auth, streams
from jhswarmd.engine.client import Engine
from jhswarmd.engine.errors import engine_errors
from jhswarmd.engine.registry_auth import Login
from jhswarmd.errors import EngineConflict, EngineError, EngineNotFound, JhswarmdError, UsageError
from jhswarmd.labels import ROLE, ROLE_REGISTRY
from jhswarmd.model import newest_task
from jhswarmd.settings.settings import SECRETS_DIR, Settings

SERVICE = "jhswarmd-registry"
VOLUME = "jhswarmd-registry"

#: Port of the registry in its container.
_CONTAINER_PORT = 5000
#: Seconds for a registry on this machine to answer.
_ANSWER_TIMEOUT_S = 3.0
#: Seconds for our registry to start; its image is already on this node.
_READY_TIMEOUT_S = 60.0
_POLL_S = 0.1
#: Seconds to read a file from a container.
_READ_TIMEOUT_S = 30.0

_USERNAME = "jhswarmd"
#: Kinds of secrets, and the names of their files in the registry's container. The registry reads
#: the hash; the login is for the next ``up``, which has no other way to read a secret.
_HTPASSWD, _LOGIN = "htpasswd", "login"
#: The registry's configuration in its own syntax, valid for all our images, including older ones.
_ENVIRONMENT = {
    "REGISTRY_AUTH": "htpasswd",
    "REGISTRY_AUTH_HTPASSWD_REALM": "jhswarmd",
    "REGISTRY_AUTH_HTPASSWD_PATH": f"{SECRETS_DIR}/{_HTPASSWD}",
    "REGISTRY_STORAGE_DELETE_ENABLED": "false",
}


class _Answer(enum.Enum):
    OPEN = "open"
    """A registry that accepts this request."""
    CLOSED = "closed"
    """A registry that requires a login, or a different one."""
    OTHER = "other"
    """An HTTP response that is not from a registry."""
    SILENT = "silent"
    """Connections are accepted, but there is no HTTP response."""
    NONE = "none"


def ensure(
    client: docker.DockerClient, settings: Settings, progress: Progress, publish_mode: str
) -> Login | None:
    """Ensure that ``settings.registry`` answers, starting our own registry if necessary.

    Returns the login of our registry; None for a foreign one. ``publish_mode`` is ``ingress``
    (every node reaches it as localhost) or ``host`` (only this node does). A registry elsewhere is
    reached by the engine, in ``publish.build``. Raises JhswarmdError.
    """
    registry = settings.registry
    name, _, port = registry.rpartition(":")
    if not publish.is_local(name):
        return None
    service = _find(client)
    if service is None or _published_port(service) != int(port):
        with progress.step(f"Registry at {registry}") as step:
            if _is_sites_own(registry, is_named="registry" in settings.model_fields_set):
                step.done("answers; it is the site's own")
                return None
            if service is not None:
                raise _at_another_port(registry, _published_port(service))
            step.done("to be started")
        image = publish.build_local(client, settings, progress, "registry")
        with progress.step("Starting the registry") as step:
            login, references = _create_login(client, registry)
            _create(client, image, int(port), publish_mode, references)
            _wait_ready(client, login, step)
        return login
    with progress.step(f"Registry at {registry}") as step:
        known = known_login(client, registry) if _is_closed(service) else None
        if known and _ask(registry, known) is not _Answer.CLOSED:
            _wait_ready(client, known, step)
            step.done("answers")
            return known
        step.update("creating a login")
        login, references = _create_login(client, registry)
        _set_login(client, service, references)
        _wait_ready(client, login, step)
        _remove_unused(client)
        step.done("has a new login")
    return login


def known_login(client: docker.DockerClient, registry: str) -> Login | None:
    """Return the login of our registry, read from a container on this node.

    That is the registry's container, or a daemon's, which every manager has. None: no container
    has it, or the registry is not ours. Raises JhswarmdError.
    """
    name, _, port = registry.rpartition(":")
    service = _find(client) if publish.is_local(name) else None
    if service is None or str(_published_port(service)) != port:
        return None
    for content in _read_files(client, service["ID"], f"{SECRETS_DIR}/{_LOGIN}"):
        username, _, password = content.decode().partition(":")
        return Login(registry, username, password)
    with engine_errors("list the containers with the registry's login"):
        daemons = client.api.services(filters={"label": f"{ROLE}=jhswarmd"})
    for daemon in daemons:
        for content in _read_files(client, daemon["ID"], f"{SECRETS_DIR}/registry_login"):
            try:
                held = registry_auth.read(content).get(registry, {})
            except UsageError:
                continue
            if "password" in held:
                return Login(registry, held["username"], held["password"])
    return None


def _read_files(client: docker.DockerClient, service_id: str, path: str) -> Iterator[bytes]:
    """Yield a file's content from each container of a service on this node that has it."""
    with engine_errors("list the containers with the registry's login"):
        filters = {"label": f"{labels.SERVICE_ID}={service_id}"}
        containers = client.api.containers(filters=filters)
    for container in containers:
        try:
            with engine_errors("read the registry's login"):
                # Events do not contain a command's output.
                content = streams.run(
                    client.api, container["Id"], ["cat", path], b"", timeout_s=_READ_TIMEOUT_S
                )
        except (EngineNotFound, EngineConflict):
            continue  # the container has just exited
        if content:
            yield content


def _ask(registry: str, login: Login | None = None) -> _Answer:
    try:
        with publish.session(registry) as session:
            answer = session.get(
                f"{publish.base_url(registry)}/v2/",
                timeout=_ANSWER_TIMEOUT_S,
                auth=(login.username, login.password) if login else None,
                allow_redirects=False,
            )
    except (requests.ConnectTimeout, requests.exceptions.InvalidURL):
        return _Answer.NONE
    except requests.RequestException as exc:
        return _Answer.NONE if "Connection refused" in str(exc) else _Answer.SILENT
    # Every version sends this header, even when it refuses.
    if "Docker-Distribution-Api-Version" not in answer.headers:
        return _Answer.OTHER
    return _Answer.OPEN if answer.ok else _Answer.CLOSED


def _is_sites_own(registry: str, *, is_named: bool) -> bool:
    """Return whether the site's own registry answers; False: the port is free.

    ``is_named``: the profile sets REGISTRY. Raises JhswarmdError for any other listener.
    """
    answer = _ask(registry)
    if answer is _Answer.NONE:
        return False
    if answer is _Answer.OTHER:
        raise _port_taken(registry)
    if answer is _Answer.SILENT:
        raise _port_taken(registry, "the listener does not speak HTTP")
    if not is_named:
        raise JhswarmdError(
            f"The registry at {registry} is not ours",
            why="none of our services is published at that port, and others who can access that "
            "registry could see what is deployed",
            remedy=f"If it is the site's own and should store our images, set REGISTRY={registry} "
            "in the profile. Otherwise set REGISTRY to a free port, for our own registry "
            "(REGISTRY=localhost:5001).",
        )
    return True


def _port_taken(registry: str, why: str = "the listener is not a registry") -> JhswarmdError:
    return JhswarmdError(
        f"The registry's port is taken: {registry}",
        why=why,
        remedy="Stop the listener, or set REGISTRY to another port (REGISTRY=localhost:5001) or to "
        "a registry that the nodes can reach.",
    )


def _at_another_port(registry: str, published: int) -> JhswarmdError:
    return JhswarmdError(
        f"The registry does not answer at {registry}",
        why=f"this swarm's registry is published on port {published}",
        remedy=f"Set REGISTRY=localhost:{published}, or remove it ('docker service rm "
        f"{SERVICE}'; its images are kept on a volume) and run this again.",
    )


def _find(client: docker.DockerClient) -> Mapping[str, Any] | None:
    """Return the registry's service; None if there is none. Raises JhswarmdError."""
    with engine_errors("list the registry's service"):
        # The engine's filter matches prefixes.
        found = client.api.services(filters={"name": SERVICE})
    services: list[Mapping[str, Any]] = [it for it in found if it["Spec"]["Name"] == SERVICE]
    if not services:
        return None
    if labels.of(services[0]).get(ROLE) != ROLE_REGISTRY:
        raise JhswarmdError(
            f"The service {SERVICE} is not ours",
            why=f"it has no label {ROLE}={ROLE_REGISTRY}",
            remedy="Rename it, or set REGISTRY to a registry that the nodes can reach.",
        )
    return services[0]


def _published_port(service: Mapping[str, Any]) -> int:
    ports = (service["Spec"].get("EndpointSpec") or {}).get("Ports") or [{}]
    return int(ports[0].get("PublishedPort", 0))


def _is_closed(service: Mapping[str, Any]) -> bool:
    """Return whether a registry's service requires a login. Pure."""
    container = service["Spec"]["TaskTemplate"]["ContainerSpec"]
    files = {each["File"]["Name"] for each in container.get("Secrets") or ()}
    return files >= {_HTPASSWD, _LOGIN} and set(container.get("Env") or ()) >= set(_env_list())


def _env_list() -> list[str]:
    return [f"{key}={value}" for key, value in _ENVIRONMENT.items()]


def _create_login(
    client: docker.DockerClient, registry: str
) -> tuple[Login, list[SecretReference]]:
    """Create a login; return it, and the secrets for the registry's service to mount."""
    login = Login(registry, _USERNAME, secrets.token_urlsafe(32))
    contents = {
        _HTPASSWD: f"{login.username}:{hash_for_registry(login.password)}\n",
        _LOGIN: f"{login.username}:{login.password}",
    }
    engine = Engine(client)
    used = [_generation(each) for each in _list_secrets(client)]
    number = max(used, default=0) + 1
    references = []
    for kind, content in contents.items():
        name = labels.secret_name(SERVICE, kind, number)
        secret_labels = {ROLE: ROLE_REGISTRY, labels.KIND: kind, labels.GENERATION: str(number)}
        id_ = engine.create_secret(name, content.encode(), secret_labels)
        references.append(SecretReference(id_, name, filename=kind, mode=0o400))
    return login, references


def _list_secrets(client: docker.DockerClient) -> list[dict[str, Any]]:
    with engine_errors("list the registry's secrets"):
        found: list[dict[str, Any]] = client.api.secrets(
            filters={"label": [f"{ROLE}={ROLE_REGISTRY}"]}
        )
    return found


def _generation(secret: Mapping[str, Any]) -> int:
    return int(labels.of(secret).get(labels.GENERATION, "0"))


def _remove_unused(client: docker.DockerClient) -> None:
    """Remove the secrets of earlier logins; the engine refuses to remove one in use."""
    found = _list_secrets(client)
    newest = max(map(_generation, found), default=0)
    for each in found:
        if _generation(each) < newest:
            try:
                Engine(client).remove_secret(each["ID"])
            except EngineError:
                continue  # retried with the next new login


def _set_login(
    client: docker.DockerClient, service: Mapping[str, Any], references: list[SecretReference]
) -> None:
    """Configure the registry to accept only this login."""

    def change(spec: Mapping[str, Any]) -> Mapping[str, Any]:
        template = spec["TaskTemplate"]
        container = template["ContainerSpec"]
        others = [
            each
            for each in container.get("Env") or ()
            if each.partition("=")[0] not in _ENVIRONMENT
        ]
        changed = {**container, "Env": [*others, *_env_list()], "Secrets": references}
        return {**spec, "TaskTemplate": {**template, "ContainerSpec": changed}}

    retry.rereading()(Engine(client).change_service, service["ID"], change)


def _create(
    client: docker.DockerClient,
    image: str,
    port: int,
    publish_mode: str,
    references: list[SecretReference],
) -> None:
    with engine_errors("create the registry's service"):
        node = client.info()["Swarm"]["NodeID"]
        container = ContainerSpec(
            image=image,
            mounts=[Mount("/var/lib/registry", VOLUME, type="volume")],
            env=_env_list(),
            secrets=references,
            init=True,
            labels={ROLE: ROLE_REGISTRY},
        )
        template = TaskTemplate(
            container,
            # Its image and its volume exist only on this node.
            placement=Placement(constraints=[f"node.id == {node}"]),
            restart_policy=RestartPolicy(condition="any"),
        )
        ports = {
            "Protocol": "tcp",
            "TargetPort": _CONTAINER_PORT,
            "PublishedPort": port,
            "PublishMode": publish_mode,
        }
        endpoint = EndpointSpec(mode="vip" if publish_mode == "ingress" else "dnsrr")
        endpoint["Ports"] = [ports]
        try:
            client.api.create_service(
                template,
                name=SERVICE,
                labels={ROLE: ROLE_REGISTRY},
                mode=ServiceMode("replicated", replicas=1),
                endpoint_spec=endpoint,
            )
        except docker.errors.APIError as exc:
            if exc.status_code != 409:
                raise
            raise EngineConflict(
                "Another run has just created the registry's service",
                remedy="Run this again once that run has finished.",
            ) from exc


def _wait_ready(client: docker.DockerClient, login: Login, step: Step) -> None:
    """Return once the registry accepts this login, and requires one. Raises JhswarmdError.

    While it starts, the engine's port proxy may accept connections and close them: only an HTTP
    response proves that the listener is another program.
    """
    registry = login.registry
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while True:
        answers = (_ask(registry, login), _ask(registry))
        if answers == (_Answer.OPEN, _Answer.CLOSED):
            return
        if _Answer.OTHER in answers:
            raise _port_taken(registry)
        detail = _newest_task(client)
        step.update(detail)
        if time.monotonic() > deadline:
            raise JhswarmdError(
                f"The registry does not answer correctly at {registry}",
                why=f"its task: {detail}; with the login: {answers[0].value}, without: "
                f"{answers[1].value}",
                remedy=f"See 'docker service ps --no-trunc {SERVICE}' and "
                f"'docker service logs {SERVICE}'. If another program uses the port, set REGISTRY "
                f"to another one. After 'docker service rm {SERVICE}', the next run creates it "
                "again; its images are kept on a volume.",
            )
        time.sleep(_POLL_S)


def _newest_task(client: docker.DockerClient) -> str:
    """Return the state of the registry's newest task, or its error if it has one."""
    with engine_errors("list the registry's tasks"):
        tasks = client.api.tasks(filters={"service": SERVICE})
    newest = newest_task(tasks)
    if newest is None:
        return "no task yet"
    status = newest["Status"]
    return str(
        status.get("Err") or status.get("Message") or status.get("State") or json.dumps(status)
    )
