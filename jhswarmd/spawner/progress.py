"""What the person who waits for a notebook is shown, and how it reaches every open page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from jhswarmd.spawner.tasks import Phase, Task
from jhswarmd.spawner.volume_mounts import NodePlacement


def describe_choice(choice: NodePlacement) -> tuple[int, str]:
    """Return percent and text for where a start may go."""
    if choice.lost is not None:
        where = f"Using node {choice.node.name} instead" if choice.node else "Starting"
        return 5, (
            f"Your files are on node {choice.lost.name}, which {choice.problem}. {where}, "
            "without them; please contact your administrator"
        )
    if choice.node is not None:
        return 5, f"Waiting for node {choice.node.name}, which holds your files"
    return 5, "Waiting for a node"


def describe(task: Task | None, *, node: str, image: str, lasted_s: float = 0.0) -> tuple[int, str]:
    """Return percent and text for the state of a start.

    ``node`` is a name for people; ``lasted_s`` is for how many seconds the state has lasted. The
    same seconds are told for a while, so that a long wait is not a message a second.
    """
    told_s = _told_s(lasted_s)
    since = f" ({told_s} s)" if told_s else ""
    if task is None or not task.node_id:
        if task is not None and task.error:
            return 10, f"Waiting for a node: {task.error}{since}"
        return 10, f"Waiting for a node{since}"
    if task.phase is Phase.running:
        return 80, f"Running on {node}, waiting for the notebook to answer{since}"
    if task.state == "preparing":
        if not told_s:
            return 30, f"Preparing on {node}"
        # An image of some gigabytes takes minutes; the bar moves, and never arrives.
        percent = 30 + int(28 * told_s / (told_s + 60))
        return percent, f"Preparing on {node}, which pulls {image} if it has not got it yet{since}"
    if task.state in ("ready", "starting"):
        return 60, f"Starting on {node}{since}"
    return 20, f"Assigned to {node}{since}"


def _told_s(lasted_s: float) -> int:
    """Return the seconds to tell: in steps of 5, later of 10 and 30; 0: nothing yet."""
    for until_s, step_s in ((30, 5), (120, 10)):
        if lasted_s < until_s:
            return int(lasted_s // step_s) * step_s
    return int(lasted_s // 30) * 30


class ProgressLog:
    """The messages of one start, for any number of readers, each of which sees all of them."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._is_closed = False
        self._more = asyncio.Event()

    def add(self, percent: int, message: str) -> None:
        """Add a message, unless it repeats the last one."""
        event = {"progress": percent, "message": message}
        if not self._events or self._events[-1] != event:
            self._events.append(event)
            self._wake()

    def close(self) -> None:
        """Say that no message follows."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        # A new event for those who come next: an event that stays set would never make them wait.
        self._more.set()
        self._more = asyncio.Event()

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all messages from the first one, then those to come, until ``close``."""
        seen = 0
        while True:
            more = self._more
            while seen < len(self._events):
                yield self._events[seen]
                seen += 1
            if self._is_closed:
                return
            if more is self._more:
                await more.wait()
