"""The spawner: each notebook server is one Swarm service with one task.

It keeps dockerspawner's configuration (``c.DockerSpawner.*`` and ``c.SwarmSpawner.*``: traitlets
looks sections up by class name, so this class has its parent's) and replaces how it talks to the
engine. What it guarantees:

- The hub's event loop never waits for the engine, and one user's slow call delays nobody else's.
- A notebook is gone only when the engine definitely says so. An outage, at the hub's start too,
  never makes the hub forget one.
- A start that fails, is cancelled or times out removes what it created, also when the request to
  create it is still on its way.
- It removes nothing but what carries its own labels, or what its own hub remembers by id.
- ``start`` returns the task's own address: the name of a service may still stand for the address
  of the task before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import docker
import dockerspawner
from docker.types import (
    ContainerSpec,
    EndpointSpec,
    Healthcheck,
    Mount,
    Placement,
    Resources,
    RestartPolicy,
    TaskTemplate,
)
from docker.utils import kwargs_from_env
from jupyterhub.spawner import SpawnException
from jupyterhub.traitlets import ByteSpecification
from jupyterhub.utils import AnyTimeoutError, maybe_future
from traitlets import Unicode, default

from jhswarmd import labels, retry
from jhswarmd.engine_errors import translated
from jhswarmd.errors import (
    EngineConflict,
    EngineError,
    EngineNotFound,
    JhswarmdError,
)
from jhswarmd.spawner import tasks, volumes
from jhswarmd.spawner.progress import ProgressLog, describe
from jhswarmd.spawner.tasks import Phase, Task

#: Threads for engine calls, shared by all spawners. A thread is held only while the engine takes
#: to answer, so this is how many slow answers it takes before anybody waits for somebody else.
MAX_CALLS = 128
#: Seconds after which a request without an answer is given up (and retried).
REQUEST_TIMEOUT_S = 20.0
#: Seconds for which a poll insists on an answer. A person may be waiting for the page behind it.
POLL_WITHIN_S = 5.0
#: Seconds a stop may take. The engine gives a container 10 s to end, and two more before that in
#: which the other nodes learn that its address is going away (moby, executor/container).
STOP_WITHIN_S = 60.0
#: Seconds for which what an ended server left behind is tried to be removed.
SWEEP_WITHIN_S = 10.0
#: Length of the longest service name that Swarm takes (a DNS label).
MAX_NAME = 63

_FIRST_PAUSE_S = 0.02
_LAST_PAUSE_S = 0.5
_CONNECT_WITHIN_S = 1.0
#: How often a left-over of the same name may be in the way before something else is wrong.
_LEFT_OVERS = 3


class _Pause:
    """Pauses between two looks at what the engine has no event for: short first, then longer."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._next_s = _FIRST_PAUSE_S

    async def wait(self) -> None:
        await asyncio.sleep(self._next_s)
        self._next_s = min(self._next_s * 1.5, _LAST_PAUSE_S)


class SwarmSpawner(dockerspawner.SwarmSpawner):  # type: ignore[misc]  # dockerspawner is untyped
    """Start each notebook server as a Swarm service of its own."""

    stack = Unicode(
        config=True,
        help="""Name of the stack that the notebooks belong to. They carry its label, so that
        ``docker stack rm`` removes them too.""",
    )
    hub_id = Unicode(
        config=True,
        help="""Identity of this hub, kept in its database. Every notebook carries it, and what
        carries another one is never removed.""",
    )
    spawn_id = Unicode(help="Random id of one start: 32 hex digits, empty when nothing runs.")

    _pool: ClassVar[ThreadPoolExecutor | None] = None
    _engine_client: ClassVar[docker.APIClient | None] = None
    #: Host names of nodes by id; they last as long as the node does.
    _node_names: ClassVar[dict[str, str]] = {}
    #: The event loop itself holds tasks only weakly.
    _background: ClassVar[set[asyncio.Task[None]]] = set()

    _is_starting = False
    _creating: asyncio.Future[Any] | None = None
    _leaving: asyncio.Task[None] | None = None
    _task: Task | None = None
    _deadline_at = 0.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._progress = ProgressLog()

    # ---- what the hub calls ---------------------------------------------------------------

    async def start(self) -> tuple[str, int]:
        """Create the service, wait until the notebook answers, return its address and port.

        Raises SpawnException with words for the user when it is hopeless. Whatever ends it
        early, cancellation included, what it created is removed in the background; ``stop``
        waits for that.
        """
        if not (self.stack and self.hub_id):
            raise JhswarmdError(
                "The spawner does not know whose notebooks it starts",
                remedy="Set c.SwarmSpawner.stack and c.SwarmSpawner.hub_id.",
            )
        await self._left()
        self.object_id = ""
        self.spawn_id = uuid.uuid4().hex
        self._creating = None
        self._task = None
        self._deadline_at = self._now() + self.start_timeout
        self._is_starting = True
        has_started = False
        try:
            address = await self._start()
            has_started = True
        except EngineError as exc:
            raise SpawnException(
                "The cluster refused or did not answer. Please try again, or tell your "
                "administrator.",
                reason="engine",
                log_message=f"{self._log_name}: {exc}",
                status_code=503,
            ) from exc
        finally:
            self._is_starting = False
            self._progress.close()
            if not has_started:
                self._leave()
        return address

    async def poll(self) -> int | str | None:
        """Return None while the notebook is alive as far as anybody knows, else how it ended.

        Never raises for what the engine does: at its start the hub forgets a server whose poll
        raises (jupyterhub/app.py, check_spawner).
        """
        if self._is_starting or (self._leaving is not None and not self._leaving.done()):
            return None
        if not self.object_id:
            return 0
        if self._check_pending:
            return await self._poll_at_hub_start()
        is_known, status = await self._look()
        return status if is_known else None

    async def stop(self, now: bool = False) -> None:
        """Remove the service and wait until its task is gone.

        With ``now`` the task is left to end by itself. Raises EngineError when the engine could
        not be told.
        """
        await self._left()
        if self.object_id:
            self.log.info("Stopping service %s (id: %s)", self.object_name, self.object_id)
            await self._remove(self.object_id, self.spawn_id, STOP_WITHIN_S, is_awaited=not now)
        self.clear_state()

    async def run_post_stop_hook(self) -> None:
        """Remove what an ended server left behind, then run the site's hook.

        The hub does not call ``stop`` for a server whose poll returned a status (jupyterhub/
        user.py), and a Swarm service outlives its only task.
        """
        if self.object_id:
            try:
                await self._remove(self.object_id, self.spawn_id, SWEEP_WITHIN_S, is_awaited=False)
            except EngineError as exc:
                self.log.warning("Service %s is left behind: %s", self.object_name, exc)
        await maybe_future(super().run_post_stop_hook())

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what the start is waiting for, as it changes."""
        async for event in self._progress.follow():
            yield event

    def load_state(self, state: dict[str, Any]) -> None:
        """Load what ``get_state`` returned, or what dockerspawner's own spawner did."""
        super().load_state(state)
        self.spawn_id = state.get("spawn_id", "")

    def get_state(self) -> dict[str, Any]:
        """Return what is needed to find the service again after a restart of the hub."""
        state: dict[str, Any] = super().get_state()
        if self.object_id and self.spawn_id:
            state["spawn_id"] = self.spawn_id
        return state

    def clear_state(self) -> None:
        """Forget the service; the hub calls this when a server has stopped and before a start."""
        super().clear_state()
        self.object_id = ""
        self.spawn_id = ""
        self._progress = ProgressLog()

    # ---- names ----------------------------------------------------------------------------

    def template_namespace(self) -> dict[str, str]:
        """Return the names that templates may use; servers 'a' and 'A' get different ones."""
        namespace: dict[str, str] = super().template_namespace()
        namespace["servername"] = self.escape(self.name)
        return namespace

    @default("object_name")
    def _object_name_default(self) -> str:
        name = str(self._render_templates(self.name_template))
        if len(name) <= MAX_NAME:
            return name
        # In an escaped name only two hex digits follow a single dash, so '-x' comes from here.
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        return f"{name[: MAX_NAME - len(digest) - 2].rstrip('-')}-x{digest}"

    def _labels(self) -> dict[str, str]:
        return labels.notebook_labels(
            stack=self.stack,
            hub_id=self.hub_id,
            user=self.user.name,
            server=self.name,
            spawn_id=self.spawn_id,
        )

    # ---- the engine -----------------------------------------------------------------------

    @property
    def executor(self) -> ThreadPoolExecutor:
        """Threads for engine calls, shared by all spawners."""
        if SwarmSpawner._pool is None:
            SwarmSpawner._pool = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="engine")
        return SwarmSpawner._pool

    @property
    def client(self) -> docker.APIClient:
        """The engine's client, shared by all spawners.

        The first use asks the engine for its version, so only threads may use it. Two that come
        first at once make two clients, of which one is kept; a lock would make everybody wait
        for the first while the engine does not answer.
        """
        if SwarmSpawner._engine_client is None:
            arguments: dict[str, Any] = {
                "version": "auto",
                "timeout": REQUEST_TIMEOUT_S,
                "max_pool_size": MAX_CALLS,
            }
            if self.tls_config:
                arguments["tls"] = docker.tls.TLSConfig(**self.tls_config)
            arguments.update(kwargs_from_env())
            arguments.update(self.client_kwargs)
            SwarmSpawner._engine_client = docker.APIClient(**arguments)
        return SwarmSpawner._engine_client

    async def _engine(self, doing: str, method: str, *args: Any, within_s: float, **kw: Any) -> Any:
        """Call the engine in a thread; retry what may pass for ``within_s`` seconds.

        For requests that may be repeated. Raises EngineError.
        """

        async def once() -> Any:
            with translated(doing):
                return await self.docker(method, *args, **kw)

        return await retry.coroutine(within_s)(once)

    async def get_object(self, within_s: float = POLL_WITHIN_S) -> dict[str, Any] | None:
        """Return the service, or None when the engine definitely does not have it."""
        try:
            found: dict[str, Any] = await self._engine(
                f"look at service {self.object_name}",
                "inspect_service",
                self.object_id or self.object_name,
                within_s=within_s,
            )
        except EngineNotFound:
            return None
        return found

    async def _newest_task(self, service_id: str, within_s: float) -> Task | None:
        """Return the newest task, None when there is none yet; EngineNotFound: no such service.

        One request tells both: the engine looks the service up to filter by it.
        """
        return tasks.newest(
            await self._engine(
                f"look at the task of service {self.object_name}",
                "tasks",
                filters={"service": service_id},
                within_s=within_s,
            )
        )

    # ---- start ----------------------------------------------------------------------------

    async def _start(self) -> tuple[str, int]:
        image_option = self.user_options.get("image")
        if image_option:
            self.image = await self.check_allowed(image_option)
        await self.pull_image(self.image)
        self._report(None, "")
        self.object_id = await self._create()
        self.log.info(
            "Created service %s (id: %s) from image %s",
            self.object_name,
            self.object_id,
            self.image,
        )
        self._task = await self._wait_running()
        if self.post_start_cmd:
            await self.post_start_exec()
        address: tuple[str, int] = await self.get_ip_and_port()
        await self._wait_answer(*address)
        return address

    async def _create(self) -> str:
        """Create the service and return its id.

        Names are unique in a swarm, so a repeated request doubles nothing; who holds the name is
        told by labels: this very start (its answer was lost), an earlier one of the same server
        (a left-over, removed), or somebody else (an error; nothing is removed).
        """
        request = await self._create_request()
        for _ in range(_LEFT_OVERS):
            try:
                return await retry.coroutine(self._left_s())(self._create_once, request)
            except EngineConflict as exc:
                holder = await self.get_object(self._left_s())
                if holder is not None and not self._is_ours(holder):
                    raise SpawnException(
                        "Another service of the cluster has the name that your notebook needs. "
                        "Please tell your administrator.",
                        reason="name_taken",
                        log_message=f"Service {self.object_name} (id: {holder['ID']}) is in the "
                        f"way of {self._log_name} and is not this hub's: remove or rename it",
                    ) from exc
            if holder is None:
                continue
            service_id = str(holder["ID"])
            spawn_id = holder["Spec"]["Labels"].get(labels.SPAWN, "")
            if spawn_id == self.spawn_id:
                self.log.info("Service %s is there: its answer was lost", self.object_name)
                return service_id
            self.log.warning("Removing left-over service %s (id: %s)", self.object_name, service_id)
            await self._remove(service_id, spawn_id, self._left_s())
        raise EngineError(f"create service {self.object_name}: the name does not become free")

    async def _create_once(self, request: Mapping[str, Any]) -> str:
        with translated(f"create service {self.object_name}"):
            # Shielded: when this start is cancelled the request goes on in its thread, and the
            # clean-up waits for what becomes of it.
            self._creating = self.docker("create_service", **request)
            try:
                created = await asyncio.shield(self._creating)
            except docker.errors.APIError as exc:
                _refuse_missing_network(exc, self.network_name)
                raise
        return str(created["ID"])

    def _is_ours(self, service: Mapping[str, Any]) -> bool:
        held = service["Spec"].get("Labels") or {}
        mine = self._labels()
        return all(
            held.get(key) == mine[key]
            for key in (labels.STACK, labels.ROLE, labels.HUB, labels.USER, labels.SERVER)
        )

    async def _wait_running(self) -> Task:
        """Return the task once it runs. Raises SpawnException when it never will."""
        pause = _Pause()
        seen: tuple[str, str, str] | None = None
        since_at = self._now()
        while True:
            task = await self._newest_task_of_start()
            look = (task.state, task.error, task.node_id) if task else ("", "", "")
            if look != seen:
                seen, since_at = look, self._now()
                pause.reset()
                self._report(task, await self._node_name(task))
            self._check(task, lasted_s=self._now() - since_at)
            if task is not None and task.phase is Phase.running:
                return task
            await pause.wait()

    async def _wait_answer(self, ip: str, port: int) -> None:
        """Return once something listens, or after ``http_timeout``: the hub then says so itself.

        The hub asks only every few seconds, and goes on asking when the container has ended.
        """
        pause = _Pause()
        give_up_at = self._now() + self.http_timeout
        while not await self._is_listening(ip, port) and self._now() < give_up_at:
            self._check(await self._newest_task_of_start(), lasted_s=0)
            await pause.wait()

    async def _newest_task_of_start(self) -> Task | None:
        try:
            return await self._newest_task(self.object_id, self._left_s())
        except EngineNotFound as exc:
            raise SpawnException(
                "Your notebook was removed from the cluster while it started.",
                reason="removed",
                log_message=f"{self._log_name}: {exc}",
            ) from exc

    def _check(self, task: Task | None, *, lasted_s: float) -> None:
        failure = tasks.failure(task, image=self.image, lasted_s=lasted_s)
        if failure is not None:
            raise SpawnException(
                failure.message,
                reason=failure.reason,
                log_message=f"{self._log_name}: {failure.detail}",
                status_code=failure.status_code,
            )

    async def _is_listening(self, ip: str, port: int) -> bool:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(ip, port), _CONNECT_WITHIN_S)
        except (OSError, asyncio.TimeoutError):
            return False
        writer.close()
        return True

    def _report(self, task: Task | None, node: str) -> None:
        self._progress.add(*describe(task, node=node, image=self.image))

    async def _node_name(self, task: Task | None) -> str:
        """Return the node's host name, or its id when it cannot be had."""
        if task is None or not task.node_id:
            return ""
        if task.node_id not in self._node_names:
            try:
                node = await self._engine(
                    "look at a node", "inspect_node", task.node_id, within_s=1.0
                )
            except EngineError:
                return task.node_id
            self._node_names[task.node_id] = node["Description"]["Hostname"]
        return self._node_names[task.node_id]

    async def get_ip_and_port(self) -> tuple[str, int]:
        """Return where the notebook listens: the task's own address on ``network_name``.

        With internal SSL it is the service's name, which is in the certificate; without a
        network of its own it is the published port, as in dockerspawner.
        """
        if self.use_internal_hostname or not self.use_internal_ip or not self.network_name:
            address: tuple[str, int] = await super().get_ip_and_port()
            return address
        ip = self._task.addresses.get(self.network_name) if self._task else None
        if ip is None:
            raise EngineError(
                f"service {self.object_name}: its task has no address on {self.network_name}"
            )
        return ip, self.port

    # ---- the service ----------------------------------------------------------------------

    @property
    def mounts(self) -> list[Mount]:
        """The mounts that ``volumes`` and ``read_only_volumes`` ask for."""
        templates = (*self.volumes, *self.read_only_volumes)
        return volumes.mounts(
            self.volume_binds,
            driver=self.volume_driver,
            options=self.volume_driver_options,
            stack=self.stack,
            user=self.user.name,
            per_user={
                self.format_volume_name(name, self) for name in templates if "username}" in name
            },
        )

    async def _create_request(self) -> dict[str, Any]:
        """Return the arguments of docker-py's ``create_service``.

        ``extra_*`` options win over everything but the labels, by which the service is known.
        """
        extra = dict(self.extra_create_kwargs)
        return {
            "name": self.object_name,
            "endpoint_spec": self._endpoint_spec(),
            **extra,
            "task_template": await self._task_template(),
            "labels": {**(extra.get("labels") or {}), **self._labels()},
        }

    async def _task_template(self) -> TaskTemplate:
        arguments = {
            "container_spec": await self._container_spec(),
            "resources": self._resources(),
            # A notebook that its user shut down must not come back, with a revoked token too.
            "restart_policy": RestartPolicy(condition="none"),
            "placement": Placement(**self.extra_placement_spec),
            "networks": [self.network_name] if self.network_name else [],
        }
        return TaskTemplate(**{**arguments, **self.extra_task_spec})

    async def _container_spec(self) -> ContainerSpec:
        extra = dict(self.extra_container_spec)
        arguments = {
            "image": self.image,
            "args": await self.get_command(),
            "env": self.get_env(),
            "mounts": self.mounts,
            "init": True,
            # Swarm kills what an image's own health check finds slow, and with it the user's
            # work; the hub asks the notebook itself.
            "healthcheck": Healthcheck(test=["NONE"]),
            **extra,
            # Swarm copies nothing from a service's labels to its containers'.
            "labels": {**(extra.get("labels") or {}), **self._labels()},
        }
        return ContainerSpec(**arguments)

    def _resources(self) -> Resources:
        arguments = {
            "mem_limit": _size(self.mem_limit),
            "mem_reservation": _size(self.mem_guarantee),
            "cpu_limit": _nano(self.cpu_limit),
            "cpu_reservation": _nano(self.cpu_guarantee),
        }
        return Resources(**{**arguments, **self.extra_resources_spec})

    def _endpoint_spec(self) -> EndpointSpec:
        # A virtual address would cost a second address for each notebook, and IPVS drops what is
        # idle for 900 s (moby#31208). Published ports need one.
        arguments: dict[str, Any] = (
            {"mode": "dnsrr"} if self.use_internal_ip else {"ports": {None: (self.port, "tcp")}}
        )
        return EndpointSpec(**{**arguments, **self.extra_endpoint_spec})

    # ---- poll -----------------------------------------------------------------------------

    async def _look(self) -> tuple[bool, int | str | None]:
        """Return whether the engine gave a definite answer, and what ``poll`` says to it."""
        try:
            # A request to a silent engine hangs for longer than a page should.
            task = await asyncio.wait_for(
                self._newest_task(self.object_id, POLL_WITHIN_S), POLL_WITHIN_S
            )
        except EngineNotFound:
            self.log.warning("Service %s (id: %s) is gone", self.object_name, self.object_id)
            return True, 0
        except (EngineError, asyncio.TimeoutError) as exc:
            reason = str(exc) or f"no answer within {POLL_WITHIN_S:g} s"
            self.log.warning("Service %s counts as alive: %s", self.object_name, reason)
            return False, None
        return True, tasks.exit_status(task)

    async def _poll_at_hub_start(self) -> int | str | None:
        """Wait for a definite answer, of the engine or of the notebook itself.

        After this poll the hub gives the notebook ``http_timeout`` to answer, and else stops and
        forgets it. In an outage that also cuts the hub off, that would be the end of a notebook
        that runs well. Until then the server is pending ('check'): its route stays, and the hub
        serves everybody else (``JupyterHub.init_spawners_timeout``).
        """
        pause = _Pause()
        while self._check_pending:
            is_known, status = await self._look()
            if is_known:
                return status
            if await self._has_answered():
                return None
            await pause.wait()
        return None

    async def _has_answered(self) -> bool:
        try:
            await self.server.wait_up(http=True, timeout=_CONNECT_WITHIN_S, extra_path="api")
        except AnyTimeoutError:
            return False
        return True

    # ---- removal --------------------------------------------------------------------------

    async def remove_object(self) -> None:
        """Remove the service; that it is gone already is fine."""
        await self._remove(self.object_id, self.spawn_id, STOP_WITHIN_S, is_awaited=False)

    async def _remove(
        self, service_id: str, spawn_id: str, within_s: float, *, is_awaited: bool = True
    ) -> None:
        """Remove a service by id, and wait until its tasks are gone. Raises EngineError."""
        until_at = self._now() + within_s
        with contextlib.suppress(EngineNotFound):
            await self._engine(
                f"remove service {self.object_name}",
                "remove_service",
                service_id,
                within_s=within_s,
            )
        if is_awaited:
            try:
                await self._wait_no_tasks(service_id, spawn_id, until_at)
            except EngineError as exc:
                self.log.warning(
                    "Service %s is removed, its end was not seen: %s", self.object_name, exc
                )

    async def _wait_no_tasks(self, service_id: str, spawn_id: str, until_at: float) -> None:
        """Wait until the engine lists no task of a removed service.

        It keeps a task until its container has ended (measured), but it cannot be asked for the
        tasks of a service that it no longer has. It can for those with a label; what an older
        spawner started has none. The tasks of a lost node stay for a day, so this ends without
        them: their container cannot be reached anyway.
        """
        filters = {"label": f"{labels.SPAWN}={spawn_id}"} if spawn_id else {}
        pause = _Pause()
        while True:
            listed = await self._engine(
                f"wait for the end of service {self.object_name}",
                "tasks",
                filters=filters,
                within_s=max(until_at - self._now(), 1.0),
            )
            if not any(task.get("ServiceID") == service_id for task in listed):
                return
            if self._now() > until_at:
                self.log.warning("The task of service %s does not end", self.object_name)
                return
            await pause.wait()

    def _leave(self) -> None:
        """Remove in the background what a failed start has created, or is just creating."""
        leaving = asyncio.ensure_future(
            self._remove_started(self._creating, self.object_id, self.spawn_id)
        )
        self._leaving = leaving
        self._background.add(leaving)
        leaving.add_done_callback(self._background.discard)

    async def _left(self) -> None:
        """Wait until an earlier, failed start has removed what it created."""
        if self._leaving is not None:
            await asyncio.shield(self._leaving)
            self._leaving = None

    async def _remove_started(
        self, creating: asyncio.Future[Any] | None, service_id: str, spawn_id: str
    ) -> None:
        if creating is None:
            return
        try:
            if not service_id:
                service_id = await self._id_of_start(creating, spawn_id)
            if service_id:
                self.log.info("Removing service %s: its start failed", self.object_name)
                await self._remove(service_id, spawn_id, STOP_WITHIN_S)
        except EngineError as exc:
            self.log.warning("Service %s is left behind: %s", self.object_name, exc)
        if self.spawn_id == spawn_id:
            self.object_id = ""

    async def _id_of_start(self, creating: asyncio.Future[Any], spawn_id: str) -> str:
        """Return the id of what ``creating`` made, or '' when it made nothing."""
        try:
            with translated(f"create service {self.object_name}"):
                return str((await creating)["ID"])
        except EngineError:
            # Refused, or applied with the answer lost: only a look tells.
            holder = await self.get_object(STOP_WITHIN_S)
        if holder is None or holder["Spec"].get("Labels", {}).get(labels.SPAWN) != spawn_id:
            return ""
        return str(holder["ID"])

    # ---- time -----------------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _left_s(self) -> float:
        """Seconds until the hub gives this start up; at least one, for a last try."""
        return max(self._deadline_at - self._now(), 1.0)


def _refuse_missing_network(exc: docker.errors.APIError, network: str) -> None:
    """Raise EngineError for a 500 that is permanent: the engine says so in words only."""
    words = str(exc.explanation or "")
    if words.startswith("network ") and words.endswith(" not found"):
        raise EngineError(f"the network {network} does not exist", why=words) from exc


def _size(value: Any) -> int | None:
    """Return bytes; a callable in the configuration may have returned '2G'."""
    return None if value in (None, 0, "") else int(ByteSpecification().validate(None, value))


def _nano(cores: float | None) -> int | None:
    """Return billionths of a core, the engine's unit."""
    return int(cores * 1e9) if cores else None
