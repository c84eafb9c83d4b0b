"""Waiting for a server that starts, and saying in words why it does not.

What it guarantees: whatever makes a start hopeless ends it within seconds, and not at the
timeout; the user reads what it is about, the administrator reads the engine's own words; no token
is in either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jhswarmd import log_tail
from jhswarmd.engine import streams
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import EngineError, EngineNotFound
from jhswarmd.spawner import addresses, tasks
from jhswarmd.spawner.errors import StartFailed
from jhswarmd.spawner.placement import HomeSpawner
from jhswarmd.spawner.progress import describe
from jhswarmd.spawner.service import LOOK_CLOSER_S, Pause
from jhswarmd.spawner.task_batcher import TaskBatcher
from jhswarmd.spawner.tasks import Phase, StartFailure, Task

#: Seconds that the notebook's log may take.
LOG_WITHIN_S = 3.0

#: Seconds by which a start may be noticed late. Short, for all who wait look together.
START_PAUSE_S = 0.25

_CONNECT_WITHIN_S = 1.0
#: Seconds before the hub's own timeout, which has no words for the user.
_BEFORE_TIMEOUT_S = 1.5
#: Of these, the ones in which the words must be said.
_LAST_WORDS_S = 0.7
#: Bytes of a log that are read: its last lines may be endless.
_LOG_BYTES = 64 * 1024


class StartingSpawner(HomeSpawner):
    """A server whose service exists, on its way to an answer."""

    #: Looks for all spawners.
    _task_batcher: ClassVar[TaskBatcher] = TaskBatcher()

    _task: Task | None = None
    _deadline_at = 0.0

    async def _wait_running(self) -> Task:
        """Return the task once it runs. Raises StartFailed when it never will."""
        return await self._wait_for_task(lambda task: task.phase is Phase.running)

    async def _wait_for_task(self, is_over: Callable[[Task], bool]) -> Task:
        """Return the task once ``is_over``. Raises StartFailed when it never will be."""
        pause = Pause(START_PAUSE_S)
        seen: tuple[str, str, str] | None = None
        since_at = closer_at = self._now()
        while True:
            task = await self._newest_task_of_start()
            look = (task.state, task.error, task.node_id) if task else ("", "", "")
            if look != seen:
                seen, since_at = look, self._now()
                closer_at = since_at + LOOK_CLOSER_S
                pause.reset()
            lasted_s = self._now() - since_at
            node = await self._node_name(task.node_id) if task and task.node_id else ""
            self._report(task, node, lasted_s)
            if task is not None:
                await self._remember(task)
                if is_over(task):
                    return task
            await self._check(task, node, lasted_s=lasted_s)
            if self._now() >= closer_at:
                await self._look_closer(task, node)
                closer_at = self._now() + LOOK_CLOSER_S
            if self._left_s() <= _BEFORE_TIMEOUT_S:
                await self._fail(
                    tasks.too_slow(
                        task, node=node, image=self.image, start_timeout_s=self.start_timeout
                    )
                )
            await pause.wait()

    async def _wait_answer(self, ip: str, port: int) -> None:
        """Return once something listens. Raises StartFailed after ``http_timeout``.

        The hub itself asks only every few seconds, and goes on asking when the container has
        ended.
        """
        pause = Pause()
        begun_at = self._now()
        node = await self._node_name(self._task.node_id) if self._task else ""
        while not await self._is_listening(ip, port):
            waited_s = self._now() - begun_at
            task = await self._newest_task_of_start()
            self._report(task, node, waited_s)
            await self._check(task, node, lasted_s=0)
            if waited_s >= self.http_timeout or self._left_s() <= _BEFORE_TIMEOUT_S:
                await self._fail(tasks.no_answer(task, node=node, waited_s=waited_s))
            await pause.wait()

    async def _is_listening(self, ip: str, port: int) -> bool:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(ip, port), _CONNECT_WITHIN_S)
        except (OSError, asyncio.TimeoutError):
            return False
        writer.close()
        return True

    async def _newest_task_of_start(self) -> Task | None:
        try:
            return await self._task_batcher.newest(self.object_id, self._list_tasks, self._left_s())
        except EngineNotFound as exc:
            raise StartFailed(
                "Your notebook was removed from the cluster while it started.",
                reason="removed",
                detail=f"{self._log_name}: {exc}",
            ) from exc

    def _report(self, task: Task | None, node: str, lasted_s: float) -> None:
        self._progress.add(*describe(task, node=node, image=self.image, lasted_s=lasted_s))

    def _left_s(self) -> float:
        """Seconds until the hub gives this start up; at least one, for a last try."""
        return max(self._deadline_at - self._now(), 1.0)

    # ---- failures -------------------------------------------------------------------------

    async def _check(self, task: Task | None, node: str, *, lasted_s: float) -> None:
        """Raise StartFailed when the task itself tells that this start is hopeless."""
        home = self._choice.node
        failure = tasks.start_failure(
            task,
            image=self.image,
            lasted_s=lasted_s,
            node=node,
            home_node=home.name if home else "",
        )
        if failure is not None:
            if failure.reason == "no_node" and await self._is_node_unknown():
                return
            if failure.reason == "image_not_found":
                words = await self._words_of_registry()
                failure = tasks.why_no_image(failure, image=self.image, words=words)
            await self._fail(failure)

    async def _is_node_unknown(self) -> bool:
        """Tell whether there is a node of which Swarm does not know how it is.

        Right after a change of the leader these are all, until each has reported to the new one
        (swarmkit, dispatcher): none of them takes tasks until then. With an engine that does not
        answer nothing is known either.
        """
        try:
            nodes = await self._ask("list the nodes", "nodes")
        except EngineError:
            return True
        return any(node["Status"]["State"] == "unknown" for node in nodes)

    async def _words_of_registry(self) -> str:
        """Return why the registry does not give the image; the node's engine keeps it to itself.

        Empty when this node's engine finds the image, or the registry is silent.
        """
        try:
            with engine_errors("ask the registry"):
                await asyncio.wait_for(
                    self.docker("inspect_distribution", self.image), LOOK_CLOSER_S
                )
        except EngineError as exc:
            return exc.why
        except asyncio.TimeoutError:
            pass
        return ""

    async def _look_closer(self, task: Task | None, node: str) -> None:
        """Raise StartFailed when something else tells it: a full network, a node that is down."""
        try:
            if task is None or task.state == "new":
                await self._check_addresses(task)
            elif await self._is_down(task.node_id):
                home = self._choice.node
                await self._fail(tasks.node_down(task, node=node, has_files=home is not None))
        except EngineError as exc:
            self.log.info("%s: why its start takes so long is not known: %s", self._log_name, exc)

    async def _check_addresses(self, task: Task | None) -> None:
        if not self.network_name:
            return
        network = await self._ask("look at the network", "inspect_network", self.network_name)
        total = addresses.count_all(network)
        used = addresses.count_used(
            network,
            await self._ask("list tasks", "tasks"),
            await self._ask("list services", "services"),
        )
        if used >= total:
            await self._fail(
                tasks.no_address(task, network=self.network_name, used=used, total=total)
            )

    async def _ask(self, doing: str, method: str, *args: Any) -> Any:
        return await self._engine(doing, method, *args, within_s=LOOK_CLOSER_S)

    async def _fail(self, failure: StartFailure) -> None:
        """Raise StartFailed with all that is known."""
        lines = await self._last_lines() if failure.has_log else ()
        log = "".join(f"\n    {line}" for line in lines)
        raise StartFailed(
            failure.message,
            reason=failure.reason,
            detail=f"{self._log_name}: {failure.detail}"
            f"{f'. Last lines of its log:{log}' if lines else ''}",
            status_code=failure.status_code,
            lines=lines,
            may_pass=failure.may_pass,
        )

    async def _last_lines(self) -> tuple[str, ...]:
        """Return the last lines of the notebook's log, none when they cannot be had in time."""
        loop = asyncio.get_running_loop()
        try:
            with engine_errors(f"read the log of service {self.object_name}"):
                text = await asyncio.wait_for(
                    loop.run_in_executor(self.executor, self._read_log, self.object_id),
                    min(LOG_WITHIN_S, self._deadline_at - self._now() - _LAST_WORDS_S),
                )
        except (EngineError, asyncio.TimeoutError) as exc:
            self.log.info("%s: its log is not available: %s", self._log_name, exc)
            return ()
        return log_tail.last_lines(text, {self.api_token or ""} - {""} | self._secrets())

    def _secrets(self) -> set[str]:
        """Return the values of the notebook's variables that look secret by their names."""
        own = self.extra_container_spec.get("env") or {}
        environ = (
            own if isinstance(own, Mapping) else dict(each.partition("=")[::2] for each in own)
        )
        return log_tail.secrets_of(self.get_env()) | log_tail.secrets_of(environ)

    def _read_log(self, service_id: str) -> str:
        """Return the end of the log. Blocks."""
        content = streams.read_service_log(
            self.client,
            service_id,
            lines=log_tail.LINES,
            is_tty=bool(self.extra_container_spec.get("tty")),
            limit=_LOG_BYTES,
        )
        return content.decode("utf-8", errors="replace")
