"""The node of a notebook's home: a volume of the local driver exists on one node alone.

What it guarantees: a start goes to the node that holds the user's volume, after a stop and after
a restart of the hub; two servers of one user that start for the first time at once go to one
node; nothing is started over an empty volume unless the policy says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import sqlalchemy as sa
from traitlets import CaselessStrEnum

from jhswarmd.errors import EngineError
from jhswarmd.model import is_local_volume
from jhswarmd.spawner import volume_mounts, volume_nodes
from jhswarmd.spawner.errors import StartFailed
from jhswarmd.spawner.progress import ProgressLog
from jhswarmd.spawner.service import Pause, ServiceSpawner
from jhswarmd.spawner.tasks import Task
from jhswarmd.spawner.volume_mounts import NodePlacement
from jhswarmd.spawner.volume_nodes import VolumeNode

#: Seconds for which a node whose state the leader does not know yet is waited for.
UNKNOWN_NODE_GRACE_S = 5.0


class HomeSpawner(ServiceSpawner):
    """A service that is placed where its user's volume is."""

    volume_node_policy = CaselessStrEnum(
        ["strict", "relaxed"],
        default_value="strict",
        config=True,
        help="""What a start does when the node that holds the user's volume is down, drained or
        gone: ``strict`` fails and says so; ``relaxed`` starts on another node with an empty
        volume, and goes back to the first one as soon as that can be used again.""",
    )

    #: Host names of nodes by id; they last as long as the node does.
    _node_names: ClassVar[dict[str, str]] = {}
    #: By volume: who is about to choose a node for it. Gone when nobody waits.
    _turns: ClassVar[WeakValueDictionary[str, asyncio.Lock]] = WeakValueDictionary()

    _choice = NodePlacement()
    _awaits_turn = False
    _remembered: Task | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._progress = ProgressLog()

    @property
    def _local_volumes(self) -> list[str]:
        """Names of the user's own volumes that exist on one node alone, the home first."""
        if not is_local_volume(self.volume_driver, self.volume_driver_options):
            return []
        return [name for name in self._volumes_of_user if not name.startswith("/")]

    def _holders(self) -> list[VolumeNode]:
        """Return the nodes that hold the user's home, as far as anybody knows."""
        for volume in self._local_volumes:
            holders = volume_nodes.list_nodes(self.user.db, volume)
            if holders:
                return holders
        return []

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Let one start at a time find a node for a volume that has none, or none it can use.

        Who comes next chooses anew: it goes to where the one before has made the volume.
        """
        if not self._local_volumes or self._choice.node is not None:
            yield
            return
        # Held by this frame for as long as it is needed; the dictionary holds it only weakly.
        # By user and not by volume: servers may have one home and scratch volumes of their own.
        turn = self._turns.setdefault(self.user.name, asyncio.Lock())
        has_waited = turn.locked()
        if has_waited:
            self._progress.add(5, "Waiting until another server of yours has found its node")
        self._awaits_turn = True
        async with turn:
            self._awaits_turn = False
            if has_waited:
                await self._choose_node()
            yield

    async def _choose_node(self) -> None:
        """Choose the node for this start. Raises StartFailed when its volume cannot be had."""
        self._choice = NodePlacement()
        holders = self._holders()
        if not holders:
            return
        choice = volume_mounts.place(
            holders,
            await self._list_nodes(holders[0]),
            is_strict=self.volume_node_policy == "strict",
        )
        if choice.is_refused and choice.lost:
            raise StartFailed(
                f"Your files are on node {choice.lost.name}, which {choice.problem}. "
                "Please try again later, or contact your administrator.",
                reason="volume_node",
                detail=f"{self._log_name}: volume {self._local_volumes[0]} is on node "
                f"{choice.lost.name} (id: {choice.lost.node_id}), which {choice.problem}. "
                f"{choice.advice}",
                status_code=503,
            )
        if choice.lost:
            self.log.warning(
                "%s: volume %s is on node %s (id: %s), which %s; VOLUME_NODE_POLICY=relaxed: "
                "starting %s",
                self._log_name,
                self._local_volumes[0],
                choice.lost.name,
                choice.lost.node_id,
                choice.problem,
                f"on node {choice.node.name}" if choice.node else "with an empty volume",
            )
        self._choice = choice

    async def _list_nodes(self, holder: VolumeNode) -> list[volume_mounts.Node]:
        """Return all nodes; wait a moment for the state of ``holder`` to be known."""
        pause = Pause()
        give_up_at = self._now() + UNKNOWN_NODE_GRACE_S
        while True:
            listed = await self._engine("list nodes", "nodes", within_s=UNKNOWN_NODE_GRACE_S)
            nodes = [volume_mounts.read_node(raw) for raw in listed]
            is_unknown = any(
                node.id == holder.node_id and node.state == "unknown" for node in nodes
            )
            if not is_unknown or self._now() > give_up_at:
                return nodes
            await pause.wait()

    async def _remember(self, task: Task) -> None:
        """Remember which node holds the volumes of this task, once it must have made them."""
        if not task.node_id or not task.has_volumes:
            return
        seen = self._remembered
        if seen is not None and (seen.id, seen.node_id) == (task.id, task.node_id):
            return
        held = [name for name in self._local_volumes if name in task.local_volumes]
        if held:
            holder = VolumeNode(task.node_id, await self._node_name(task.node_id))
            try:
                for volume in held:
                    self._forget_replaced(volume, task.node_id)
                    volume_nodes.remember(self.user.db, volume, holder)
            except sa.exc.SQLAlchemyError as exc:
                # No reason to give up a notebook that runs; the next poll tries again.
                self.user.db.rollback()
                self.log.warning("%s: its node is not remembered: %s", self._log_name, exc)
                return
        self._remembered = task

    def _forget_replaced(self, volume: str, node_id: str) -> None:
        """Forget a node that has left the swarm, now that another one holds the volume."""
        lost = self._choice.lost
        if lost is not None and lost.node_id != node_id and self._choice.is_lost_for_good:
            volume_nodes.forget(self.user.db, volume, lost.node_id)

    async def _node_name(self, node_id: str) -> str:
        """Return the node's host name, or its id when it cannot be had."""
        if node_id not in self._node_names:
            try:
                node = await self._engine("look at a node", "inspect_node", node_id, within_s=1.0)
            except EngineError:
                return node_id
            self._node_names[node_id] = node["Description"]["Hostname"]
        return self._node_names[node_id]
