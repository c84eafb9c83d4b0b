"""The spawner: each notebook server is one Swarm service with one task.

It keeps dockerspawner's configuration (``c.DockerSpawner.*`` and ``c.SwarmSpawner.*``: traitlets
looks sections up by class name, so this class has its parent's) and replaces how it talks to the
engine. What it guarantees:

- The hub's event loop never waits for the engine, and one user's slow call delays nobody else's.
- A notebook is gone only when the engine definitely says so. Neither an outage nor its own
  silence, at the hub's start too, makes the hub forget one (also: jhswarmd/hub/startup.py).
- A start that fails, is cancelled or times out removes what it created, also when the request to
  create it is still on its way.
- It removes nothing but what carries its own labels, or what its own hub remembers by id.
- ``start`` returns the task's own address: the name of a service may still stand for the address
  of the task before it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import docker
import sqlalchemy as sa
from jupyterhub.utils import maybe_future

from jhswarmd import labels, retry
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import (
    EngineConflict,
    EngineError,
    EngineNotFound,
    EngineUnavailable,
    JhswarmdError,
)
from jhswarmd.spawner import tasks
from jhswarmd.spawner.errors import StartFailed
from jhswarmd.spawner.progress import ProgressLog, describe_choice
from jhswarmd.spawner.service import LOOK_WITHIN_S, REMOVE_WITHIN_S, Pause
from jhswarmd.spawner.service_spec import create_request, ignored_options, using_options
from jhswarmd.spawner.tasks import Task
from jhswarmd.spawner.volume_ownership import PreparingSpawner

#: Seconds for which what an ended server left behind is tried to be removed.
SWEEP_WITHIN_S = 10.0

#: Seconds for which it is tried on after that, while the hub has forgotten the server already.
LEFT_BEHIND_S = 900.0

#: How often a start begins anew because its node did not know the network, changed, or was lost.
START_RETRIES = 3

_BEFORE_TIMEOUT_S = 0.5
#: How often a left-over of the same name may be in the way before something else is wrong.
_LEFT_OVERS = 3


class SwarmSpawner(PreparingSpawner):
    """Start each notebook server as a Swarm service of its own."""

    #: Options that this engine does not know, once one service was read back.
    _dropped: ClassVar[list[str] | None] = None
    #: The event loop itself holds tasks only weakly.
    _background: ClassVar[set[asyncio.Task[None]]] = set()

    _is_starting = False
    _creating: asyncio.Future[Any] | None = None
    _leaving: asyncio.Task[None] | None = None
    _asked: Mapping[str, Any] = MappingProxyType({})

    # ---- what the hub calls ---------------------------------------------------------------

    async def start(self) -> tuple[str, int]:
        """Create the service, wait until the notebook answers, return its address and port.

        Raises StartFailed with words for the user when it is hopeless. Whatever ends it
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
        self._awaits_turn = False
        has_started = False
        try:
            # Before the hub's own timeout, which leaves the user without a word.
            address = await asyncio.wait_for(
                self._start(), max(self.start_timeout - _BEFORE_TIMEOUT_S, 0.1)
            )
            has_started = True
        except asyncio.TimeoutError as exc:
            raise StartFailed(
                "Another server of yours still waits for a node, and this one has to run on the "
                "same node. Please try again when that one runs."
                if self._awaits_turn
                else "The cluster did not answer in time. Please try again, or tell your "
                "administrator.",
                reason="timeout",
                detail=f"{self._log_name}: not started within {self.start_timeout} s "
                "(START_TIMEOUT_S)",
                status_code=503,
            ) from exc
        except EngineError as exc:
            raise StartFailed(
                "The cluster refused or did not answer. Please try again, or tell your "
                "administrator.",
                reason="engine",
                detail=f"{self._log_name}: {exc}",
                status_code=503,
            ) from exc
        except JhswarmdError as exc:
            raise StartFailed(
                "The hub's configuration is wrong. Please contact your administrator.",
                reason="configuration",
                detail=f"{self._log_name}: {exc}. {exc.remedy}",
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
        return await self._look()

    async def stop(self, now: bool = False) -> None:
        """Remove the service and wait until its task is gone.

        With ``now`` the task is left to end by itself. Raises EngineError when the engine could
        not be told.
        """
        await self._left()
        if self.object_id:
            self.log.info("Stopping service %s (id: %s)", self.object_name, self.object_id)
            await self._remove(self.object_id, self.spawn_id, REMOVE_WITHIN_S, is_awaited=not now)
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
                self.log.warning("Service %s is left behind for now: %s", self.object_name, exc)
                self._in_background(self._remove_later(self.object_id, self.spawn_id))
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

    # ---- start ----------------------------------------------------------------------------

    async def _start(self) -> tuple[str, int]:
        self._follow_rename()
        with using_options():
            _ = self.mounts  # what no template fills is found before anything is made
        self._count = self._count_this_spawn()
        profile = await self._apply_choice()
        if profile:
            self._progress.add(2, f"Starting '{profile.title}'")
        await self._pull_here()
        await self._choose_node()
        async with self._turn():
            self._progress.add(*describe_choice(self._choice))
            with self._task_batcher.watch():
                self._task = await self._create_until_it_runs()
        address: tuple[str, int] = await self.get_ip_and_port()
        await self._wait_answer(*address)
        return address

    async def _pull_here(self) -> None:
        """Pull to the hub's node as well, where ``pull_policy`` asks for that."""
        if str(self.pull_policy).lower() == "skip":
            return
        self._progress.add(3, f"Looking for {self.image} on the hub's node")
        await self._use_logins()

        async def once() -> None:
            with engine_errors(f"pull {self.image}"):
                await self.pull_image(self.image)

        try:
            await retry.coroutine(self._left_s())(once)
        except EngineNotFound as exc:
            await self._fail(tasks.image_not_found(self.image, str(exc)))
        except EngineUnavailable:
            raise
        except EngineError as exc:
            await self._fail(tasks.not_pulled(self.image, exc.why, str(exc)))

    def _count_this_spawn(self) -> str:
        """Return the count that the service will carry, once it is in the hub's database."""
        if self.count_spawn is None:
            return ""
        with self._database():
            return str(self.count_spawn(self.user.db))

    def _refuse_forgotten(self, holder: Mapping[str, Any]) -> None:
        """Raise StartFailed when a left-over is younger than the hub's database.

        An older copy of that was put back then: what runs there may be somebody's day, and goes by
        ``jhswarmd orphans approve`` alone.
        """
        if self.count_spawn is None:
            return
        with self._database():
            if self.count_spawn.knows(self.user.db, labels.of(holder).get(labels.COUNT)):
                return
        raise StartFailed(
            "Your notebook is still running, and this hub has forgotten it. Please tell your "
            "administrator.",
            reason="forgotten",
            detail=f"Service {self.object_name} (id: {holder['ID']}) of {self._log_name} is "
            "younger than the hub's database: was an older copy put back? 'jhswarmd orphans "
            "approve' allows its removal",
        )

    @contextmanager
    def _database(self) -> Iterator[None]:
        """Raise StartFailed for what the hub's database does not do."""
        try:
            yield
        except sa.exc.SQLAlchemyError as exc:
            self.user.db.rollback()
            raise StartFailed(
                "The hub cannot use its database. Please contact your administrator.",
                reason="database",
                detail=f"{self._log_name}: {exc}",
                status_code=503,
            ) from exc

    async def _create_until_it_runs(self) -> Task:
        """Create the service and return its running task; begin anew where that may help."""
        pause = Pause()
        for is_last in (False,) * START_RETRIES + (True,):
            try:
                await self._prepare_own()
                self.object_id = await self._create()
                self.log.info(
                    "Created service %s (id: %s) from image %s",
                    self.object_name,
                    self.object_id,
                    self.image,
                )
                task = await self._wait_running()
                await self._prepare_shared(task)
                await self._read_back()
                return task
            except StartFailed as exc:
                if is_last or not exc.may_pass:
                    raise
                self.log.warning("Retrying the start: %s", exc.log_message)
            service_id, self.object_id = self.object_id, ""
            if service_id:
                await self._remove(service_id, self.spawn_id, self._left_s())
            await pause.wait()
            await self._choose_node()  # the one before may have made the volume
        raise AssertionError("the last one returns or raises")

    async def _create(self) -> str:
        """Create the service and return its id.

        Names are unique in a swarm, so a repeated request doubles nothing; who holds the name is
        told by labels: this very start (its answer was lost), an earlier one of the same server
        (a left-over, removed), or somebody else (an error; nothing is removed). A user who was
        renamed goes on with a service whose labels name another one by now.
        """
        node = self._choice.node
        with using_options():
            request = await create_request(self, self._labels(), node_id=node.id if node else "")
        self._asked = request["task_template"]
        for _ in range(_LEFT_OVERS):
            try:
                return await retry.coroutine(self._left_s())(self._create_once, request)
            except EngineConflict as exc:
                holder = await self.get_object(self._left_s())
                if holder is not None and (
                    not self._is_ours(holder) or self._is_anothers(holder["ID"])
                ):
                    raise StartFailed(
                        "Another service of the cluster has the name that your notebook needs. "
                        "Please contact your administrator.",
                        reason="name_taken",
                        detail=f"Service {self.object_name} (id: {holder['ID']}) is in the "
                        f"way of {self._log_name} and is not its own: another hub's, somebody "
                        "else's, or the running notebook of a user who was renamed since",
                    ) from exc
            if holder is None:
                continue
            service_id = str(holder["ID"])
            spawn_id = holder["Spec"]["Labels"].get(labels.SPAWN, "")
            if spawn_id == self.spawn_id:
                self.log.info("Service %s is there: its answer was lost", self.object_name)
                return service_id
            self._refuse_forgotten(holder)
            self.log.warning("Removing left-over service %s (id: %s)", self.object_name, service_id)
            await self._remove(service_id, spawn_id, self._left_s())
        raise EngineError(
            f"create service {self.object_name}: the name does not become free",
            why="Swarm takes names that differ in case alone for the same",
        )

    async def _read_back(self) -> None:
        """Log which options this engine has dropped, once for all spawners."""
        if SwarmSpawner._dropped is not None:
            return
        try:
            service = await self.get_object()
        except EngineError:
            return
        if service is None:
            return
        SwarmSpawner._dropped = ignored_options(self._asked, service["Spec"]["TaskTemplate"])
        for option in SwarmSpawner._dropped:
            self.log.warning("This engine ignores %s on services: notebooks run without it", option)

    async def _create_once(self, request: Mapping[str, Any]) -> str:
        with engine_errors(f"create service {self.object_name}"):
            await self._use_logins()
            # Shielded: when this start is cancelled the request goes on in its thread, and the
            # clean-up waits for what becomes of it.
            self._creating = self.docker("create_service", **request)
            try:
                created = await asyncio.shield(self._creating)
            except docker.errors.APIError as exc:
                _refuse_missing_network(exc, self.network_name)
                raise
        return str(created["ID"])

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

    # ---- poll -----------------------------------------------------------------------------

    async def _look(self) -> int | str | None:
        """Return what the engine says to ``poll``; without a definite answer the server lives."""
        try:
            # A request to a silent engine hangs for longer than a page should.
            return await asyncio.wait_for(self._exit_status(), LOOK_WITHIN_S)
        except EngineNotFound:
            self.log.warning("Service %s (id: %s) is gone", self.object_name, self.object_id)
            return 0
        except (EngineError, asyncio.TimeoutError) as exc:
            reason = str(exc) or f"no answer within {LOOK_WITHIN_S:g} s"
            self.log.warning("Service %s counts as alive: %s", self.object_name, reason)
        except Exception:
            # JupyterHub takes a poll that raises for the end of a notebook, and stops it.
            self.log.exception("Service %s counts as alive: its poll failed", self.object_name)
        return None

    async def _poll_at_hub_start(self) -> int | str | None:
        with self.during_check():
            status = await self._look()
        if self._check_pending:
            return status
        # It was stopped meanwhile: the hub must not go on with a server that is gone.
        pause = Pause()
        while self._stop_pending:
            await pause.wait()
        return 0

    async def _exit_status(self) -> int | str | None:
        """Return what ``poll`` says to the newest task. Raises EngineError."""
        task = await self._newest_task(self.object_id, LOOK_WITHIN_S)
        if task is None:
            return None
        try:
            await self._remember(task)
        except Exception:
            # An option of the site's that cannot be used says nothing about the notebook.
            self.log.exception("%s: its node is not remembered", self._log_name)
        status = tasks.exit_status(task)
        if status is None and task.is_told_to_end and await self._is_down(task.node_id):
            # Its state is 'running' for a day to come, but Swarm has given it up: nobody reaches
            # it, and it ends as soon as its node is back (measured: a paused engine, a killed one).
            return f"its node {await self._node_name(task.node_id)} is down"
        return status

    # ---- clean-up -------------------------------------------------------------------------

    def _leave(self) -> None:
        """Remove in the background what a failed start has created, or is just creating."""
        self._leaving = self._in_background(
            self._remove_started(self._creating, self.object_id, self.spawn_id)
        )

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _remove_later(self, service_id: str, spawn_id: str) -> None:
        """Remove what a failed stop has left, as soon as the engine lets us.

        The hub has forgotten the server by then, and that is no event: the daemon would find the
        service only with its next full pass.
        """
        try:
            await self._remove(service_id, spawn_id, LEFT_BEHIND_S, is_awaited=False)
            self.log.info("Removed the service (id: %s) that was left behind", service_id)
        except EngineError as exc:
            self.log.warning("The service (id: %s) is left to the daemon: %s", service_id, exc)

    async def _left(self) -> None:
        """Wait until an earlier, failed start has removed what it created."""
        if self._leaving is not None:
            try:
                await asyncio.shield(self._leaving)
            finally:
                if self._leaving.done():
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
                await self._remove(service_id, spawn_id, REMOVE_WITHIN_S)
        except EngineError as exc:
            self.log.warning("Service %s is left behind for now: %s", self.object_name, exc)
            if service_id:
                self._in_background(self._remove_later(service_id, spawn_id))
        if self.spawn_id == spawn_id:
            self.object_id = ""

    async def _id_of_start(self, creating: asyncio.Future[Any], spawn_id: str) -> str:
        """Return the id of what ``creating`` made, or '' when it made nothing."""
        try:
            with engine_errors(f"create service {self.object_name}"):
                return str((await creating)["ID"])
        except EngineError:
            # Refused, or applied with the answer lost: only a look tells.
            holder = await self.get_object(REMOVE_WITHIN_S)
        if holder is None or labels.of(holder).get(labels.SPAWN) != spawn_id:
            return ""
        return str(holder["ID"])


def _refuse_missing_network(exc: docker.errors.APIError, network: str) -> None:
    """Raise EngineError for a 500 that is permanent: the engine says so in words only."""
    words = str(exc.explanation or "")
    if words.startswith("network ") and words.endswith(" not found"):
        raise EngineError(f"the network {network} does not exist", why=words) from exc
