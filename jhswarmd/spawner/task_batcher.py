"""One look at the engine for all who wait for their tasks at the same moment.

Tasks have no events, so a start looks again and again; forty at once would keep the engine and
the hub busy with looking alone. What this guarantees:

- What somebody gets was read after they asked.
- Nobody waits for a look that others share for longer than ``ALONE_AFTER_S``: then, and when it
  fails, they look alone. So one user's slow call delays nobody else.
- Who waits alone looks at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jhswarmd.errors import EngineError
from jhswarmd.spawner import tasks
from jhswarmd.spawner.tasks import Task

#: Seconds after which a look that others share is no longer waited for.
ALONE_AFTER_S = 1.0
#: Seconds for which a look waits for others to join, for each who waits, and at most.
BATCH_WINDOW_S = 0.005
MAX_BATCH_WINDOW_S = 0.1

#: Returns the tasks of services, by their ids, within some seconds. Raises EngineError.
ListTasks = Callable[[Sequence[str], float], Awaitable[list[dict[str, Any]]]]


@dataclass
class _Batch:
    """One request that is about to be made, and whom it is for."""

    service_ids: set[str] = field(default_factory=set)
    answer: asyncio.Task[list[dict[str, Any]]] | None = None


class TaskBatcher:
    """Looks for all starts of this hub. Used in one event loop at a time."""

    def __init__(self) -> None:
        self._watching = 0
        self._next: _Batch | None = None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count among those who wait for a task."""
        if not self._watching:
            self._next = None  # it was for nobody who is still there
        self._watching += 1
        try:
            yield
        finally:
            self._watching -= 1

    async def newest(self, service_id: str, list_tasks: ListTasks, within_s: float) -> Task | None:
        """Return the service's newest task, None when there is none yet.

        Insists for ``within_s`` seconds when it looks alone. Raises EngineError; EngineNotFound:
        there is no such service.
        """
        if self._watching > 1:
            look = self._enqueue(service_id, list_tasks)
            assert look.answer
            try:
                listed = await asyncio.wait_for(asyncio.shield(look.answer), ALONE_AFTER_S)
            except (EngineError, asyncio.TimeoutError):
                pass
            else:
                return tasks.newest([each for each in listed if each["ServiceID"] == service_id])
        return tasks.newest(await list_tasks([service_id], within_s))

    def _enqueue(self, service_id: str, list_tasks: ListTasks) -> _Batch:
        look = self._next
        if look is None:
            look = self._next = _Batch()
            look.answer = asyncio.ensure_future(self._ask(look, list_tasks))
            # Whom it was for may have left by the time it fails.
            look.answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        look.service_ids.add(service_id)
        return look

    async def _ask(self, look: _Batch, list_tasks: ListTasks) -> list[dict[str, Any]]:
        await asyncio.sleep(min(BATCH_WINDOW_S * self._watching, MAX_BATCH_WINDOW_S))
        # From here on it is too late to join.
        if self._next is look:
            self._next = None
        return await list_tasks(sorted(look.service_ids), ALONE_AFTER_S)
