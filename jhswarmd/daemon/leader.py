"""Which instance of the daemon is active: the one on the node of the hub's newest task.

No election: Swarm's placement of the hub decides, also while that task restarts.
"""

from __future__ import annotations

from jhswarmd import labels, metrics
from jhswarmd.engine.client import Engine


class Leader:
    """Knows whether this instance is the active one.

    ``is_active`` is what the last check found. It is checked when the hub's container comes or goes
    on this node, at each full pass, and right before each removal; so an event costs nothing.
    """

    def __init__(self, engine: Engine, stack: str) -> None:
        self._engine = engine
        self._hub_service = labels.service_name(stack, "hub")
        self.node_id = ""
        """The Swarm id of this instance's node; empty until the first check."""
        self.is_active = False

    def find_own_node(self) -> str:
        """Return the Swarm id of this instance's node."""
        # A node that leaves and joins again gets a new id, and its daemon a new start.
        self.node_id = self.node_id or self._engine.read_node_id()
        return self.node_id

    def refresh(self) -> bool:
        """Check where the hub is, and return whether this instance is active."""
        self.is_active = self.find_active() == self.find_own_node()
        metrics.LEADER.set(self.is_active)
        return self.is_active

    def find_active(self) -> str | None:
        """Return the node whose instance is active, None while the hub has no task."""
        return self._engine.read_newest_task_node(self._hub_service)
