"""One notebook server's service, and the only way from the hub to the engine.

Calls run in threads, so that the hub's event loop never waits for the engine; every one of them
ends in time, and what may pass is retried. Nothing here decides when to start or stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import docker
from docker.types import Mount
from docker.utils import kwargs_from_env
from dockerspawner.volumenamingstrategy import default_format_volume_name
from traitlets import Unicode, default

from jhswarmd import labels, retry
from jhswarmd.engine import registry_auth, streams
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import EngineError, EngineNotFound
from jhswarmd.spawner import tasks, volume_mounts
from jhswarmd.spawner.tasks import Task
from jhswarmd.spawner.user_options import ChoosingSpawner

#: Threads for engine calls, shared by all spawners. A thread is held only while the engine takes
#: to answer, so this is how many slow answers it takes before anybody waits for somebody else.
MAX_CALLS = 128
#: Seconds after which a request without an answer is given up (and retried).
REQUEST_TIMEOUT_S = 20.0
#: Seconds for which a look insists on an answer. A person may be waiting for the page behind it.
LOOK_WITHIN_S = 5.0
#: Seconds a removal may take. The engine gives a container 10 s to end, and two more before that
#: in which the other nodes learn that its address is going away (moby, executor/container).
REMOVE_WITHIN_S = 60.0
#: Seconds after which what stands still is looked into, between two such looks, and for each.
LOOK_CLOSER_S = 2.0
#: Length of the longest service name that Swarm takes (a DNS label).
MAX_NAME = 63
#: Length of the longest volume name: the local driver makes a directory of it.
MAX_VOLUME_NAME = 255

_FIRST_PAUSE_S = 0.02
_LAST_PAUSE_S = 0.5


class Pause:
    """Pauses between two looks at what the engine has no event for: short first, then longer.

    At most ``most_s`` seconds, by which what is waited for may be noticed late.
    """

    def __init__(self, most_s: float = _LAST_PAUSE_S) -> None:
        self._most_s = most_s
        self.reset()

    def reset(self) -> None:
        """Begin anew with the shortest pause: something has changed."""
        self._next_s = _FIRST_PAUSE_S

    async def wait(self) -> None:
        """Wait for as long as it is worth by now."""
        await asyncio.sleep(self._next_s)
        self._next_s = min(self._next_s * 1.5, self._most_s)


def fit(name: str, limit: int) -> str:
    """Return ``name``, the end of one that is too long replaced by a digest of all of it."""
    if len(name) <= limit:
        return name
    # In an escaped name only two hex digits follow a single dash, so '-x' comes from here.
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: limit - len(digest) - 2].rstrip('-')}-x{digest}"


class ServiceSpawner(ChoosingSpawner):
    """dockerspawner's options and ours, around one service that is known by its labels."""

    spawn_id = Unicode(help="Random id of one start: 32 hex digits, empty when nothing runs.")

    _count = ""

    #: All spawners of this hub.
    _all: ClassVar[WeakSet[ServiceSpawner]] = WeakSet()

    _pool: ClassVar[ThreadPoolExecutor | None] = None
    _engine_client: ClassVar[docker.APIClient | None] = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._named_after = self.user.name
        self._all.add(self)

    # ---- names ----------------------------------------------------------------------------

    def template_namespace(self) -> dict[str, str]:
        """Return the names that templates may use; servers 'a' and 'A' get different ones."""
        namespace: dict[str, str] = super().template_namespace()
        namespace["servername"] = self.escape(self.name)
        return namespace

    @default("object_name")
    def _object_name_default(self) -> str:
        # Swarm refuses a name that ends so, as a template with {servername} makes it for the server
        # that has no name.
        return fit(str(self._render_templates(self.name_template)).rstrip("-_"), MAX_NAME)

    def _follow_rename(self) -> None:
        """Name things after what the user is called now: dockerspawner keeps the first names."""
        if self.user.name != self._named_after:
            self._named_after = self.user.name
            self._escaped_name = None
            self.object_name = self._object_name_default()

    @default("format_volume_name")
    def _format_volume_name_default(self) -> Any:
        # Also called for paths, which are the site's own.
        def format_name(template: str, spawner: Any) -> str:
            name = str(default_format_volume_name(template, spawner))
            return name if name.startswith("/") else fit(name, MAX_VOLUME_NAME)

        return format_name

    def _labels(self) -> dict[str, str]:
        return labels.notebook_labels(
            stack=self.stack,
            hub_id=self.hub_id,
            user=self.user.name,
            server=self.name,
            spawn_id=self.spawn_id,
            count=self._count,
        )

    def _is_ours(self, service: Mapping[str, Any]) -> bool:
        held = labels.of(service)
        mine = self._labels()
        return all(
            held.get(key) == mine[key]
            for key in (labels.STACK, labels.ROLE, labels.HUB, labels.USER, labels.SERVER)
        )

    def _is_anothers(self, service_id: str) -> bool:
        """Tell whether another server of this hub runs as this service, whatever its labels say."""
        own = (self.user.name, self.name)
        return any(
            each.object_id == service_id and (each.user.name, each.name) != own
            for each in self._all
        )

    @property
    def mounts(self) -> list[Mount]:
        """The mounts that ``volumes``, ``read_only_volumes`` and ``shared_volumes`` ask for."""
        mounts = volume_mounts.mounts(
            self.volume_binds,
            driver=self.volume_driver,
            options=volume_mounts.render(
                self.volume_driver_options,
                self.template_namespace(),
                "c.SwarmSpawner.volume_driver_options",
            ),
            stack=self.stack,
            user=self.user.name,
            per_user=self._volumes_of_user,
            no_copy=self.volume_no_copy,
        )
        for source, bind in self._volumes_to_binds(self.shared_volumes, {}).items():
            mounts += volume_mounts.mounts(
                {source: bind},
                driver=self.shared_volume_driver,
                options=volume_mounts.render(
                    self.shared_volume_driver_options,
                    {"volume": source},
                    "c.SwarmSpawner.shared_volume_driver_options",
                ),
                stack=self.stack,
                user=self.user.name,
                per_user=(),
                no_copy=self.shared_volume_no_copy,
            )
        if self.shm_size:
            mounts.append(volume_mounts.shared_memory(self.shm_size))
        return mounts

    @property
    def _volumes_of_user(self) -> list[str]:
        """Sources that are this user's alone: those that are named after them."""
        templates = (*self.volumes, *self.read_only_volumes)
        return [self.format_volume_name(name, self) for name in templates if "username}" in name]

    # ---- the engine -----------------------------------------------------------------------

    @property
    def executor(self) -> ThreadPoolExecutor:
        """Threads for engine calls, shared by all spawners."""
        if ServiceSpawner._pool is None:
            ServiceSpawner._pool = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="engine")
        return ServiceSpawner._pool

    @property
    def client(self) -> docker.APIClient:
        """The engine's client, shared by all spawners.

        The first use asks the engine for its version, so only threads may use it. Two that come
        first at once make two clients, of which one is kept; a lock would make everybody wait
        for the first while the engine does not answer.
        """
        if ServiceSpawner._engine_client is None:
            arguments: dict[str, Any] = {
                "version": "auto",
                "timeout": REQUEST_TIMEOUT_S,
                "max_pool_size": MAX_CALLS,
            }
            if self.tls_config:
                arguments["tls"] = docker.tls.TLSConfig(**self.tls_config)
            arguments.update(kwargs_from_env())
            arguments.update(self.client_kwargs)
            ServiceSpawner._engine_client = docker.APIClient(**arguments)
        return ServiceSpawner._engine_client

    def _docker(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call the engine in a thread. A pull that failed under way is an error, too."""
        answer = super()._docker(method, *args, **kwargs)
        if method == "pull":
            streams.raise_failure(answer, f"pull {self.image}")
        return answer

    async def _engine(self, doing: str, method: str, *args: Any, within_s: float, **kw: Any) -> Any:
        """Call the engine in a thread; retry what may pass for ``within_s`` seconds.

        For requests that may be repeated. Raises EngineError.
        """

        async def once() -> Any:
            with engine_errors(doing):
                return await self.docker(method, *args, **kw)

        return await retry.coroutine(within_s)(once)

    async def _use_logins(self) -> None:
        """Take the registries' logins as they are now. Raises UsageError."""
        path = Path(self.registry_login_file)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.executor, lambda: registry_auth.use_file(self.client, path))

    async def get_object(self, within_s: float = LOOK_WITHIN_S) -> dict[str, Any] | None:
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
        return tasks.newest(await self._list_tasks([service_id], within_s))

    async def _list_tasks(
        self, service_ids: Sequence[str], within_s: float
    ) -> list[dict[str, Any]]:
        """Return the tasks of these services; EngineNotFound: one of them is not there."""
        listed: list[dict[str, Any]] = await self._engine(
            f"look at the task of service {self.object_name}"
            if len(service_ids) == 1
            else f"look at the tasks of {len(service_ids)} services",
            "tasks",
            filters={"service": list(service_ids)},
            within_s=within_s,
        )
        return listed

    # ---- removal --------------------------------------------------------------------------

    async def remove_object(self) -> None:
        """Remove the service; that it is gone already is fine."""
        await self._remove(self.object_id, self.spawn_id, REMOVE_WITHIN_S, is_awaited=False)

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
        pause = Pause()
        closer_at = self._now() + LOOK_CLOSER_S
        while True:
            listed = await self._engine(
                f"wait for the end of service {self.object_name}",
                "tasks",
                filters=filters,
                within_s=max(until_at - self._now(), 1.0),
            )
            left = [task for task in listed if task.get("ServiceID") == service_id]
            if not left:
                return
            if self._now() >= closer_at:
                if await self._are_lost(left):
                    self.log.warning(
                        "Service %s is removed; its task ends when its node is back",
                        self.object_name,
                    )
                    return
                closer_at = self._now() + LOOK_CLOSER_S
            if self._now() > until_at:
                self.log.warning("The task of service %s does not end", self.object_name)
                return
            await pause.wait()

    async def _are_lost(self, raw_tasks: list[dict[str, Any]]) -> bool:
        """Tell whether the nodes of all these tasks are known to be down."""
        try:
            for task in raw_tasks:
                if not await self._is_down(str(task.get("NodeID") or "")):
                    return False
        except EngineError:
            return False
        return True

    async def _is_down(self, node_id: str) -> bool:
        """Tell whether a node is down, or gone; '' is none yet. Raises EngineError."""
        if not node_id:
            return False
        try:
            node = await self._engine(
                "look at a node", "inspect_node", node_id, within_s=LOOK_CLOSER_S
            )
        except EngineNotFound:
            return True
        return bool((node.get("Status") or {}).get("State") == "down")

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
