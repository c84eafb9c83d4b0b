"""The daemon's only way to Docker: plain values in, our model and our errors out.

Every call has a time limit. Nothing here retries: callers do, by a policy (``jhswarmd.retry``).
"""

from __future__ import annotations

import io
import json
import socket
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import requests
from docker.types import (
    ContainerSpec,
    Healthcheck,
    Placement,
    RestartPolicy,
    ServiceMode,
    TaskTemplate,
)

from jhswarmd import labels
from jhswarmd.credentials import generations
from jhswarmd.credentials.generations import SecretVersion
from jhswarmd.engine import registry_auth, streams
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import EngineError, EngineNotFound, EngineUnavailable
from jhswarmd.model import (
    ENDED_STATES,
    NamedTask,
    Node,
    NotebookService,
    Pull,
    StackService,
    newest_task,
)

#: Seconds until a call without an answer is given up.
CALL_TIMEOUT_S = 30
#: Seconds by which a stream of events may end before or after its time.
STREAM_GRACE_S = 2.0


@dataclass(frozen=True)
class Event:
    """Something happened. A hint about where to look, never a fact to act on."""

    type: str
    action: str
    id: str
    attributes: Mapping[str, str]
    at_s: float = 0.0
    """The engine's time of it, in seconds since the epoch."""


@dataclass(frozen=True)
class LocalContainer:
    """A container on this daemon's own node. ``state`` is the engine's: created, running, ..."""

    id: str
    state: str


class Engine:
    """A narrow view of one engine."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._api = client.api

    @classmethod
    def connect(cls) -> Engine:
        """Return a view of the engine that ``DOCKER_HOST`` or the standard socket leads to.

        Raises EngineUnavailable.
        """
        with engine_errors("connect to the engine"):
            return cls(docker.from_env(version="auto", timeout=CALL_TIMEOUT_S))

    def events(self, since_s: float, until_s: float) -> Iterator[Event]:
        """Yield events between two moments, in seconds since the epoch.

        The first thing yielded is an event of type ``subscribed``: what is listed after it cannot
        have changed unseen. Raises EngineUnavailable when the stream breaks, ends before its time
        or goes on in silence behind it. docker-py's own waits for ever in the last case, and takes
        a lost connection for an ordinary end.
        """
        last_s = max(0.0, until_s - time.time()) + STREAM_GRACE_S
        with engine_errors("subscribe to events"):
            response = self._get("/events", last_s, since=since_s, until=until_s)
        with response:
            yield Event("subscribed", "", "", {})
            lines = response.iter_lines()
            while True:
                with engine_errors("read events"):
                    line = next(lines, None)
                if line is None:
                    break
                yield _event(line)
        if time.time() < until_s - STREAM_GRACE_S:
            raise EngineUnavailable("read events: the stream has ended before its time")

    def _get(self, path: str, read_within_s: float, **params: Any) -> requests.Response:
        """GET an endpoint in a way that docker-py does not offer. Streams the answer."""
        response: requests.Response = self._api.get(
            f"{self._api.base_url}/v{self._api.api_version}{path}",
            params=params,
            stream=True,
            timeout=(CALL_TIMEOUT_S, read_within_s),
        )
        streams.raise_for_status(response)
        return response

    def list_notebooks(self, stack: str) -> list[NotebookService]:
        """Return every service whose labels say that it is a notebook of ``stack``.

        Of each specification only what is needed is kept while the answer is read: those of 10,000
        notebooks would take hundreds of megabytes as docker-py's objects.
        """
        with engine_errors("list the notebook services"):
            with self._get(
                "/services", CALL_TIMEOUT_S, filters=json.dumps({"label": _notebooks_of(stack)})
            ) as response:
                content = response.content
            try:
                found = json.loads(content, object_hook=_without_task_template)
            except ValueError as exc:
                raise EngineUnavailable("list the notebook services: half an answer") from exc
        return [_notebook(each) for each in found]

    def read_notebook(self, service_id: str, stack: str) -> NotebookService | None:
        """Return the service if its labels say that it is a notebook of ``stack``, else None.

        Raises EngineNotFound when there is no such service.
        """
        with engine_errors(f"look at the service {service_id}"):
            found = self._api.inspect_service(service_id)
        if not labels.is_notebook_of(labels.of(found), stack):
            return None
        return _notebook(found)

    def has_ended(self, service_id: str) -> bool:
        """Tell whether the only task of a service has ended for good.

        A service without a task yet has not. Raises EngineNotFound.
        """
        with engine_errors(f"list the tasks of the service {service_id}"):
            tasks = self._api.tasks(filters={"service": service_id})
        newest = newest_task(tasks)
        return newest is not None and newest["Status"]["State"] in ENDED_STATES

    def list_ended(self, stack: str) -> frozenset[tuple[str, str]]:
        """Return ``stack``'s notebook services whose task Swarm has given up, with its state.

        It has ended, on whatever node, or its node is down or drained. A task of a service that
        was removed is told something else ('remove'), so as a rule this is empty, however many
        run.
        """
        with engine_errors("list the tasks that have ended"):
            tasks = self._api.tasks(
                filters={"label": _notebooks_of(stack), "desired-state": "shutdown"}
            )
        return frozenset((task["ServiceID"], task["Status"]["State"]) for task in tasks)

    def remove_service(self, service_id: str) -> None:
        """Remove a service by its id. Raises EngineNotFound when it is gone already."""
        with engine_errors(f"remove the service {service_id}"):
            self._api.remove_service(service_id)

    def list_local_containers(self, service: str) -> list[LocalContainer]:
        """Return this node's containers of a service, those that are not started yet included."""
        with engine_errors(f"list the containers of {service}"):
            found = self._api.containers(
                all=True, filters={"label": f"{labels.SERVICE_NAME}={service}"}
            )
        return [LocalContainer(each["Id"], each["State"]) for each in found]

    def put_archive(self, container_id: str, path: str, archive: bytes) -> None:
        """Unpack a tar archive in a container, which need not be started.

        It shows in no event and no argument list, other than an exec would.
        """
        with engine_errors(f"upload to the container {container_id[:12]}"):
            self._api.put_archive(container_id, path, archive)

    def read_file(self, container_id: str, path: str) -> bytes:
        """Return the content of a file in a container, which need not be started.

        Raises EngineNotFound when there is no such file, or no such container.
        """
        with engine_errors(f"read {path} of the container {container_id[:12]}"):
            chunks, _ = self._api.get_archive(container_id, path)
            packed = io.BytesIO(b"".join(chunks))
        with tarfile.open(fileobj=packed) as archive:
            file = archive.extractfile(archive.next() or "")
            return file.read() if file else b""

    def list_secrets(self, stack: str) -> list[SecretVersion]:
        """Return every generation of every secret of ``stack``."""
        with engine_errors("list the secrets"):
            found = self._api.secrets(filters={"label": [f"{labels.STACK}={stack}"]})
        return [each for each in map(generations.read, found) if each is not None]

    def create_secret(self, name: str, content: bytes, marks: Mapping[str, str]) -> str:
        """Create a secret and return its id. Raises EngineConflict when the name is taken."""
        with engine_errors(f"create the secret {name}"):
            created: str = self._api.create_secret(name, content, labels=dict(marks))["ID"]
        return created

    def mark_secret(self, secret_id: str, marks: Mapping[str, str]) -> None:
        """Add labels to a secret; they are all that can be changed of one.

        When somebody else was quicker this is EngineUnavailable.
        """
        with engine_errors(f"mark the secret {secret_id}"):
            found = self._api.inspect_secret(secret_id)
            spec = found["Spec"]
            changed = {**spec, "Labels": {**(spec.get("Labels") or {}), **marks}}
            if changed == spec:
                return
            # docker-py does not have this call.
            answer = self._api.post(
                f"{self._api.base_url}/v{self._api.api_version}/secrets/{secret_id}/update",
                params={"version": found["Version"]["Index"]},
                json=changed,
                timeout=CALL_TIMEOUT_S,
            )
            streams.raise_for_status(answer)

    def remove_secret(self, secret_id: str) -> None:
        """Remove a secret; the engine refuses (EngineError) while a service mounts it."""
        with engine_errors(f"remove the secret {secret_id}"):
            self._api.remove_secret(secret_id)

    def change_service(
        self, service: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
    ) -> bool:
        """Read a service's specification, change it, and write it; tells whether it did.

        ``change`` returns the new specification, or None when nothing is to be done. When somebody
        else was quicker this is EngineUnavailable: with a policy for that (``jhswarmd.retry``) the
        newer specification is read, and the change made to it. The client speaks the newest
        version of the API that the engine has; with an older one the engine would lose fields.
        """
        with engine_errors(f"change the service {service}"):
            found = self._api.inspect_service(service)
            spec = change(found["Spec"])
            if spec is None:
                return False
            self._api.update_service(
                found["ID"],
                found["Version"]["Index"],
                name=spec["Name"],
                labels=spec.get("Labels"),
                mode=spec["Mode"],
                task_template=spec["TaskTemplate"],
                update_config=spec.get("UpdateConfig"),
                rollback_config=spec.get("RollbackConfig"),
                endpoint_spec=spec.get("EndpointSpec"),
            )
        return True

    def read_stack_services(self, stack: str) -> dict[str, StackService]:
        """Return the stack's own services by role; those that are not there are left out."""
        found = {}
        for role in labels.ROLES:
            name = labels.service_name(stack, role)
            try:
                with engine_errors(f"look at the service {name}"):
                    service = self._api.inspect_service(name)
                with engine_errors(f"list the tasks of {name}"):
                    tasks = self._api.tasks(filters={"service": service["ID"]})
            except EngineNotFound:
                continue
            found[role] = _stack_service(service, tasks)
        return found

    def read_named_task(self, stack: str, role: str) -> NamedTask | None:
        """Return where the name of a service of the stack should lead; None: nothing runs."""
        name = labels.service_name(stack, role)
        try:
            with engine_errors(f"look at the service {name}"):
                service = self._api.inspect_service(name)
            with engine_errors(f"list the tasks of {name}"):
                tasks = self._api.tasks(
                    filters={"service": service["ID"], "desired-state": "running"}
                )
            running = newest_task(it for it in tasks if it["Status"]["State"] == "running")
            if running is None:
                return None
            with engine_errors("look at its node"):
                node = self._api.inspect_node(running["NodeID"])
        except EngineNotFound:
            return None
        return _named_task(service, tasks, running, node)

    def force_update(self, stack: str, role: str) -> None:
        """Let Swarm replace the task of a service of the stack by one that is just the same."""

        def change(spec: Mapping[str, Any]) -> Mapping[str, Any]:
            template = spec["TaskTemplate"]
            count = int(template.get("ForceUpdate") or 0) + 1
            return {**spec, "TaskTemplate": {**template, "ForceUpdate": count}}

        self.change_service(labels.service_name(stack, role), change)

    def read_own_task(self) -> Mapping[str, Any] | None:
        """Return the specification of the task that this program runs in; None: it is in none."""
        try:
            with engine_errors("look at the container that this is"):
                # The engine names a container's host by its id.
                found = self._api.inspect_container(socket.gethostname())
            task_id = found["Config"]["Labels"].get(labels.TASK_ID)
            if not task_id:
                return None
            with engine_errors("look at the task that this is"):
                spec: Mapping[str, Any] = self._api.inspect_task(task_id)["Spec"]
        except EngineNotFound:
            return None
        return spec

    def read_node_id(self) -> str:
        """Return the Swarm id of this engine's node."""
        with engine_errors("look at the engine"):
            node_id: str = self._api.info()["Swarm"]["NodeID"]
        return node_id

    def read_newest_task_node(self, service: str) -> str | None:
        """Return the node of a service's newest placed task.

        None: it has no such task, or there is no such service. ``service`` is a full name: the
        engine looks the service up before it filters by its id (measured).
        """
        try:
            with engine_errors(f"list the tasks of {service}"):
                tasks = self._api.tasks(filters={"service": service})
        except EngineNotFound:
            return None
        # Placed tasks alone have a node.
        newest = newest_task(task for task in tasks if task.get("NodeID"))
        return newest["NodeID"] if newest else None

    def read_task_address(self, service: str, node_id: str, network: str) -> str | None:
        """Return the address on ``network`` of a service's running task on a node, else None."""
        with engine_errors(f"list the tasks of {service}"):
            tasks = self._api.tasks(
                filters={"service": service, "node": node_id, "desired-state": "running"}
            )
        newest = newest_task(task for task in tasks if task["Status"]["State"] == "running")
        for attachment in (newest or {}).get("NetworksAttachments") or ():
            if attachment["Network"]["Spec"]["Name"] == network:
                for address in attachment.get("Addresses") or ():
                    return str(address).partition("/")[0]
        return None

    # ---- images on the nodes ------------------------------------------------------------------

    def list_nodes(self) -> list[Node]:
        """Return every node that the swarm knows, those that are down included."""
        with engine_errors("list the nodes"):
            return [_node(each) for each in self._api.nodes()]

    def use_logins(self, path: Path) -> None:
        """Take the registries' logins in this file, if there is one. Raises UsageError."""
        registry_auth.use_file(self._api, path)

    def create_prepull(self, stack: str, name: str, image: str, constraints: Sequence[str]) -> str:
        """Make each node that fulfils ``constraints`` pull ``image``; returns the service's id.

        A task needs nothing of the image, not even a shell: the engine's own init, which is in
        each of its containers, is asked for its version. Raises EngineConflict.
        """
        marks = labels.prepull_labels(stack)
        container = ContainerSpec(
            image,
            command=["/sbin/docker-init", "--version"],
            init=True,
            user="0",
            healthcheck=Healthcheck(test=["NONE"]),
            labels=marks,
        )
        template = TaskTemplate(
            container,
            restart_policy=RestartPolicy(condition="none"),
            placement=Placement(constraints=list(constraints)),
        )
        with engine_errors(f"create the service {name}"):
            made = self._api.create_service(
                template, name=name, labels=marks, mode=ServiceMode("global")
            )
        return str(made["ID"])

    def list_prepulls(self, stack: str) -> list[str]:
        """Return the ids of the services that make nodes pull images."""
        with engine_errors("list the services that pull images"):
            found = self._api.services(filters={"label": _marks(labels.prepull_labels(stack))})
        return [each["ID"] for each in found]

    def list_pulls(self, stack: str, service_ids: Sequence[str]) -> list[Pull]:
        """Return how far the nodes are with what these services make them pull, oldest first.

        A node that was drained and is active again has two tasks; the later one counts.
        """
        with engine_errors("list the tasks that pull images"):
            tasks = self._api.tasks(filters={"label": _marks(labels.prepull_labels(stack))})
        ours = [it for it in tasks if it["ServiceID"] in service_ids and it.get("NodeID")]
        return [_pull(task) for task in sorted(ours, key=lambda task: str(task["CreatedAt"]))]

    def why_no_image(self, image: str) -> str:
        """Return what the registry says to this engine, empty when it has the image.

        A node that cannot pull says no more than that there is no such image.
        """
        try:
            with engine_errors(f"ask the registry for {image}"):
                self._api.inspect_distribution(image)
        except EngineError as exc:
            return exc.why
        return ""


def _marks(wanted: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in wanted.items()]


def _notebooks_of(stack: str) -> list[str]:
    return _marks({labels.STACK: stack, labels.ROLE: labels.ROLE_NOTEBOOK})


def _stack_service(service: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> StackService:
    mounts = _mounts(service["Spec"]["TaskTemplate"])
    mine = [task for task in tasks if _mounts(task["Spec"]) == mounts]
    failed = [task for task in mine if task["Status"]["State"] in ("failed", "rejected")]
    newest = newest_task(failed)
    container = service["Spec"]["TaskTemplate"]["ContainerSpec"]
    return StackService(
        mounts=mounts,
        targets=frozenset(each["File"]["Name"] for each in container.get("Secrets") or ()),
        is_running=any(
            task["Status"]["State"] == "running" and task["DesiredState"] == "running"
            for task in mine
        ),
        failures=len(failed),
        error=str(newest["Status"].get("Err") or "") if newest else "",
    )


def _named_task(
    service: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]],
    running: Mapping[str, Any],
    node: Mapping[str, Any],
) -> NamedTask:
    update = (service.get("UpdateStatus") or {}).get("State") or "completed"
    virtual = (service.get("Endpoint") or {}).get("VirtualIPs") or ()
    found = [str(each.get("Addr") or "") for each in virtual]
    for attachment in running.get("NetworksAttachments") or ():
        found += map(str, attachment.get("Addresses") or ())
    return NamedTask(
        # As '10.129.0.3/24'.
        addresses=frozenset(each.partition("/")[0] for each in found) - {""},
        # Another task that is wanted as well: it is being replaced.
        is_settled=len(tasks) == 1
        and node["Status"]["State"] == "ready"
        and update in ("completed", "rollback_completed"),
    )


def _mounts(task: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(each["SecretID"] for each in task["ContainerSpec"].get("Secrets") or ())


def _node(node: Mapping[str, Any]) -> Node:
    spec, description = node["Spec"], node["Description"]
    is_usable = node["Status"]["State"] == "ready" and spec["Availability"] == "active"
    seen = {**labels.of(node), ".hostname": description["Hostname"], ".role": spec["Role"]}
    return Node(node["ID"], description["Hostname"], is_usable, frozenset(seen.items()))


def _pull(task: Mapping[str, Any]) -> Pull:
    status = task["Status"]
    image = task["Spec"]["ContainerSpec"]["Image"]
    if (status.get("ContainerStatus") or {}).get("ContainerID"):
        # Made from the image: whatever becomes of the container, the image is there.
        return Pull(task["NodeID"], image, has_ended=True)
    has_ended = status["State"] in ENDED_STATES
    error = str(status.get("Err") or (status["State"] if has_ended else ""))
    return Pull(task["NodeID"], image, has_ended, error)


def _event(line: bytes) -> Event:
    try:
        raw = json.loads(line)
    except ValueError as exc:
        raise EngineUnavailable("read events: the stream was cut inside an event") from exc
    actor = raw.get("Actor") or {}
    return Event(
        type=raw.get("Type", ""),
        action=raw.get("Action", ""),
        id=actor.get("ID", ""),
        attributes=actor.get("Attributes") or {},
        at_s=raw.get("timeNano", 0) / 1e9,
    )


def _without_task_template(read: dict[str, Any]) -> dict[str, Any] | None:
    """Leave out what makes a service large; called for each object, from the innermost out."""
    if "ContainerSpec" in read:
        return None
    read.pop("PreviousSpec", None)
    return read


def _notebook(service: Mapping[str, Any]) -> NotebookService:
    marks = labels.of(service)
    return NotebookService(
        id=service["ID"],
        name=service["Spec"]["Name"],
        hub_id=marks.get(labels.HUB),
        user=marks.get(labels.USER),
        server=marks.get(labels.SERVER),
        count=marks.get(labels.COUNT),
    )
