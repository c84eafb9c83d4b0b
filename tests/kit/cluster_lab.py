"""A swarm of several engines, each in namespaces of its own (tests/kit/lab.py).

Guarantees: the nodes reach each other as machines of one network do, with no address translated on
the way (gossip and the overlay's data go by address); each has a host name of its own; every node
but the first holds the small image alone; ``close`` removes all of it, also after a start that
failed half-way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from docker.errors import APIError
from docker.models.nodes import Node

from tests.kit.lab import SMALL_IMAGE, Lab
from tests.kit.wait import wait_until

_NODE_S = 60


class Cluster(Lab):
    """A lab that is the first manager of a swarm, and the labs of its other nodes.

    ``image_of`` is a lab whose small image and kind of engine every node gets. ``managers`` counts
    the first one.
    """

    heartbeat_s = 5  # the engine's own: tests wait until a node is seen to be down

    def __init__(self, image_of: Lab, *, managers: int = 1, workers: int = 0) -> None:
        kind: dict[str, Any] = {
            "release": image_of.release,
            "has_containerd_store": image_of.has_containerd_store,
        }
        super().__init__(**kind)
        self._image_of = image_of
        others = (Lab(swarm=False, **kind) for _ in range(managers + workers - 1))
        self.nodes: list[Lab] = [self, *others]
        """All nodes, this one first, managers before workers; all with the same engine."""
        self._roles = ["manager"] * managers + ["worker"] * workers

    @property
    def others(self) -> list[Lab]:
        """All nodes but the first."""
        return self.nodes[1:]

    def _start(self) -> None:
        super()._start()
        tar = self.directory / "small.tar"
        self._image_of.run(["docker", "save", "-o", tar, self._image_of.small_image()])
        tokens = self.client.swarm.attrs["JoinTokens"]
        _load(self, tar)
        for lab, role in zip(self.others, self._roles[1:], strict=True):
            self._undo.callback(lab.close)
            lab.start()
            for other in self.nodes[: self.nodes.index(lab)]:
                lab.reach(other)
            _load(lab, tar)
            lab.join(self, tokens[role.capitalize()])
        tar.unlink()
        wait_until(self._is_complete, _NODE_S, what="all nodes are ready", ignoring=(APIError,))

    def close(self) -> None:
        """Remove the cluster. Nobody leaves the swarm first: it is gone with its nodes."""
        for lab in self.nodes:
            lab.resume()
            lab.stop_engine(kill=True)
        super().close()

    def _is_complete(self) -> bool:
        nodes = self.client.nodes.list()
        return len(nodes) == len(self.nodes) and all(
            node.attrs["Status"]["State"] == "ready" for node in nodes
        )

    def node(self, lab: Lab, seen_by: Lab | None = None) -> Node:
        """Return a node as a manager sees it."""
        nodes = (seen_by or self).client.nodes.list()
        (found,) = (each for each in nodes if each.attrs["Description"]["Hostname"] == lab.name)
        return found

    def wait_state(self, lab: Lab, state: str, seen_by: Lab | None = None) -> None:
        """Return once the managers agree that a node is ``ready`` or ``down``."""
        wait_until(
            lambda: self.node(lab, seen_by).attrs["Status"]["State"] == state,
            _NODE_S,
            what=f"node {lab.name} is {state}",
            ignoring=(APIError,),
        )

    @contextlib.contextmanager
    def lost(self, lab: Lab, *, is_known: bool = True) -> Iterator[None]:
        """A node's engine is killed for a block, and the managers know it or are still to learn."""
        lab.stop_engine(kill=True)
        try:
            if is_known:
                self.wait_state(lab, "down")
            yield
        finally:
            lab.start_engine()
            self.wait_state(lab, "ready")

    def update(self, lab: Lab, **spec: Any) -> None:
        """Change keys of a node's spec, such as its Availability."""

        def once() -> bool:
            node = self.node(lab)
            return bool(node.update({**node.attrs["Spec"], **spec}))

        # The engine writes to a node's object as well, between our reading and our writing.
        wait_until(once, 30, what="a node's spec is changed", ignoring=(APIError,))


def _load(lab: Lab, tar: Any) -> None:
    lab.run(["docker", "load", "-q", "-i", tar])
    assert lab.client.images.get(SMALL_IMAGE)
