"""A registry for sites that have none: a Swarm service of its own, outside the hub's stack.

It outlives ``jhswarmd down``, so that the next ``up`` finds its images. A registry that answers
is used as it is, whoever runs it.
"""

from __future__ import annotations

import enum
import json
import time

import docker
import requests
from docker.types import (
    ContainerSpec,
    EndpointSpec,
    Mount,
    Placement,
    RestartPolicy,
    ServiceMode,
    TaskTemplate,
)

from jhswarmd.deploy import images
from jhswarmd.deploy.progress import Progress
from jhswarmd.engine_errors import translated
from jhswarmd.errors import EngineConflict, JhswarmdError
from jhswarmd.labels import ROLE
from jhswarmd.model import newest_task
from jhswarmd.settings import Settings

SERVICE = "jhswarmd-registry"
VOLUME = "jhswarmd-registry"
ROLE_REGISTRY = "registry"

#: Port that the registry listens on in its container.
_LISTENS = 5000
#: Seconds a registry on this machine has for an answer.
_ANSWER_S = 3.0
#: Seconds our registry has to come up; its image is already here.
_READY_S = 60.0
_POLL_S = 0.1


class _Answer(enum.Enum):
    REGISTRY = "registry"
    OTHER = "other"
    NONE = "none"


def ensure(
    client: docker.DockerClient, settings: Settings, progress: Progress, publish_mode: str
) -> None:
    """See that ``settings.registry`` answers, starting one of our own where it is ours to start.

    ``publish_mode`` is ``ingress`` (every node reaches it as localhost) or ``host`` (this node
    alone). A registry elsewhere is the engine's to reach and is left to ``images.build``. Raises
    JhswarmdError.
    """
    name, _, port = settings.registry.rpartition(":")
    if not images.is_local(name):
        return
    with progress.step(f"Registry at {settings.registry}") as step:
        answer = _ask(settings.registry)
        if answer is _Answer.REGISTRY:
            step.done("answers")
            return
        if answer is _Answer.OTHER:
            raise _port_taken(settings.registry)
    published = _published_port(client)
    if published is None:
        image = images.build_local(client, settings, progress, "registry")
        _create(client, image, int(port), publish_mode)
    elif published != int(port):
        raise JhswarmdError(
            f"The registry does not answer at {settings.registry}",
            why=f"this swarm's registry is published on port {published}",
            remedy=f"Set REGISTRY=localhost:{published}, or remove it ('docker service rm "
            f"{SERVICE}'; its images are on a volume and stay) and run this again.",
        )
    with progress.step("Starting the registry") as step:
        deadline = time.monotonic() + _READY_S
        while (answer := _ask(settings.registry)) is not _Answer.REGISTRY:
            if answer is _Answer.OTHER:
                raise _port_taken(settings.registry)
            detail = _newest_task(client)
            step.update(detail)
            if time.monotonic() > deadline:
                raise JhswarmdError(
                    f"The registry does not answer at {settings.registry}",
                    why=detail,
                    remedy=f"See 'docker service ps --no-trunc {SERVICE}' and "
                    f"'docker service logs {SERVICE}'. 'docker service rm {SERVICE}' lets the "
                    "next run make it anew; its images are on a volume and stay.",
                )
            time.sleep(_POLL_S)


def _ask(registry: str) -> _Answer:
    try:
        with images.session(registry) as session:
            answer = session.get(f"{images.base_url(registry)}/v2/", timeout=_ANSWER_S)
    except requests.ConnectionError as exc:
        # Refused: the port is free. Anything else that is no HTTP answer: somebody is there.
        # The mesh, too, accepts and resets while its task is not up; a deadline tells the two.
        refused = "Connection refused" in str(exc) or "reset" in str(exc)
        return _Answer.NONE if refused else _Answer.OTHER
    except requests.Timeout:
        return _Answer.NONE
    except requests.RequestException:
        return _Answer.OTHER
    # 401: a registry that wants a login. Every version sends this header.
    is_registry = "Docker-Distribution-Api-Version" in answer.headers
    return _Answer.REGISTRY if is_registry else _Answer.OTHER


def _port_taken(registry: str) -> JhswarmdError:
    return JhswarmdError(
        f"There is no room for a registry at {registry}",
        why="something that is not a registry answers there",
        remedy="Stop it, or set REGISTRY to another port (REGISTRY=localhost:5001) or to a "
        "registry that the nodes reach.",
    )


def _published_port(client: docker.DockerClient) -> int | None:
    """Return the port of the registry's service; None if there is no such service."""
    with translated("looking for the registry's service"):
        # The engine's filter is a prefix.
        found = client.api.services(filters={"name": SERVICE})
    specs = [it["Spec"] for it in found if it["Spec"]["Name"] == SERVICE]
    if not specs:
        return None
    if specs[0].get("Labels", {}).get(ROLE) != ROLE_REGISTRY:
        raise JhswarmdError(
            f"The service {SERVICE} is not ours",
            why=f"it has no label {ROLE}={ROLE_REGISTRY}, and does not answer as a registry",
            remedy="Rename it, or set REGISTRY to a registry that the nodes reach.",
        )
    return int(specs[0]["EndpointSpec"]["Ports"][0]["PublishedPort"])


def _create(client: docker.DockerClient, image: str, port: int, publish_mode: str) -> None:
    with translated("creating the registry's service"):
        node = client.info()["Swarm"]["NodeID"]
        container = ContainerSpec(
            image=image,
            mounts=[Mount("/var/lib/registry", VOLUME, type="volume")],
            init=True,
            labels={ROLE: ROLE_REGISTRY},
        )
        template = TaskTemplate(
            container,
            # Its image and its volume are on this node, and nowhere else.
            placement=Placement(constraints=[f"node.id == {node}"]),
            restart_policy=RestartPolicy(condition="any"),
        )
        ports = {
            "Protocol": "tcp",
            "TargetPort": _LISTENS,
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
            # Made by another run at the same time; whether it works is seen next.
            raise EngineConflict("The registry's service is being made by somebody else") from exc


def _newest_task(client: docker.DockerClient) -> str:
    """Say how the registry's newest task is doing; an error of it is the reason to show."""
    with translated("reading the registry's tasks"):
        tasks = client.api.tasks(filters={"service": SERVICE})
    newest = newest_task(tasks)
    if newest is None:
        return "no task yet"
    status = newest["Status"]
    return str(
        status.get("Err") or status.get("Message") or status.get("State") or json.dumps(status)
    )
