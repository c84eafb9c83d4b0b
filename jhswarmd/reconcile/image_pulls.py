"""See that every node that may run notebooks has their images before a user has to wait for one.

What it guarantees:

- A node is made to pull when it is new, comes back, or changes in what placement looks at; one that
  failed is tried again after a backoff that doubles. A node is looked at once, not in each pass.
- Swarm itself decides which nodes may run notebooks: the services that make them pull have the
  notebooks' own constraints.
- What it creates carries the stack's label and a role of its own, and is removed after each look,
  however that ends; what a daemon that was killed has left is removed by the next look.

The services are global ones whose tasks end at once, and no global *jobs*: an engine of 20.10
leaves the tasks of a removed job behind, with containers and anonymous volumes, and gives none to a
node that becomes active later (both measured).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from jhswarmd import labels, metrics
from jhswarmd.engine.client import Engine
from jhswarmd.errors import EngineError, EngineNotFound, JhswarmdError
from jhswarmd.log import event
from jhswarmd.model import Node, Pull
from jhswarmd.reconcile.status_feed import StatusFeed
from jhswarmd.settings.settings import SECRETS_DIR

log = logging.getLogger(__name__)

REGISTRY_LOGIN = Path(SECRETS_DIR) / "registry_login"
#: Seconds after which a node without a task is one that may not run notebooks.
NO_TASK_S = 5.0
#: Seconds that a pull may take before it counts as failed. What was pulled is kept.
PULL_WITHIN_S = 3600.0
#: Seconds until a node that could not pull is tried again, at first and at most.
RETRY_FIRST_S = 60.0
RETRY_MOST_S = 1800.0
#: Seconds between two looks at the list of nodes: an event of a node may get lost.
RESYNC_S = 300.0

_FIRST_PAUSE_S = 0.1
_LAST_PAUSE_S = 2.0


@dataclass(frozen=True)
class Failed:
    """A node that could not pull an image, and why in the engine's words."""

    node: str
    image: str
    why: str


@dataclass(frozen=True)
class Look:
    """How far the nodes are."""

    done: frozenset[str] = frozenset()
    """Ids of the nodes that have all images."""
    left_out: frozenset[str] = frozenset()
    """Ids of the nodes that may not run notebooks."""
    pulling: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of a node to the images that it has not got yet."""
    failed: tuple[Failed, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to wait for."""
        return not self.pulling


def pending(nodes: Iterable[Node], known: Mapping[str, Node]) -> list[Node]:
    """Return the nodes that take tasks and were never looked at as they are now. Pure."""
    return [node for node in nodes if node.is_usable and known.get(node.id) != node]


def judge(
    nodes: Collection[Node], pulls: Iterable[Pull], images: Sequence[str], lasted_s: float
) -> Look:
    """Say how far ``nodes`` are with ``images`` after ``lasted_s`` seconds. Pure.

    A node without a task may be one for which Swarm has not made one yet.
    """
    by_node: dict[str, dict[str, Pull]] = {}
    for pull in pulls:
        by_node.setdefault(pull.node_id, {})[pull.image] = pull
    done, left_out, pulling, failed = set(), set(), {}, []
    for node in nodes:
        tasks = by_node.get(node.id, {})
        if not tasks and lasted_s >= NO_TASK_S:
            left_out.add(node.id)
            continue
        is_late = lasted_s >= PULL_WITHIN_S
        waits = tuple(it for it in images if it not in tasks or not tasks[it].has_ended)
        wrong = [
            Failed(node.name, it, tasks[it].error)
            for it in images
            if it in tasks and tasks[it].has_ended and tasks[it].error
        ]
        if waits and is_late:
            late = f"not pulled within {PULL_WITHIN_S:.0f} s"
            wrong += [
                Failed(node.name, it, (tasks[it].error if it in tasks else "") or late)
                for it in waits
            ]
        elif waits:
            pulling[node.name] = waits
        failed += wrong
        if not waits and not wrong:
            done.add(node.id)
    return Look(frozenset(done), frozenset(left_out), pulling, tuple(failed))


class ImagePulls:
    """Reconciles the images on the nodes. One worker thread; ``ask`` and ``news`` from any."""

    def __init__(
        self,
        engine: Engine,
        stack: str,
        images: Sequence[str],
        constraints: Sequence[str],
        may_act: Callable[[], bool],
        stop: threading.Event,
        *,
        logins: Path = REGISTRY_LOGIN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._stack = stack
        self._images = tuple(images)
        self._constraints = tuple(constraints)
        self._may_act = may_act
        self._stop = stop
        self._logins = logins
        self._clock = clock
        self._known: dict[str, Node] = {}
        self._left_out: frozenset[str] = frozenset()
        self._said: set[Failed] = set()
        self._failures = 0
        self._forget = False
        self._asking = threading.Lock()
        self._feed = StatusFeed(
            stop,
            images=list(self._images),
            nodes=0,
            pulling={},
            failed=[],
            error="",
            asked=1,
            answered=0 if self._images else 1,
        )

    # ---- what others see ------------------------------------------------------------------

    @property
    def view(self) -> Mapping[str, Any]:
        """How far it is, as JSON data.

        ``asked`` counts requests (the daemon's start is the first), ``answered`` is the last one
        that all nodes have been looked at for; ``version`` changes with every news.
        """
        return self._feed.now

    def ask(self) -> int:
        """Let the next look be at all nodes, as if nothing were known; returns its number."""
        with self._asking:
            self._forget = True
            asked = int(self._feed.now["asked"]) + 1
            self._feed.publish(asked=asked)
            return asked

    def news(self, seen: int) -> Mapping[str, Any]:
        """Return the view when it is not of version ``seen``, or after a while."""
        return self._feed.wait_newer(seen)

    def close(self) -> None:
        """Wake everybody who waits for news; ``stop`` is set."""
        self._feed.close()

    # ---- the work -------------------------------------------------------------------------

    def reconcile(self) -> float | None:
        """Make the nodes pull that have not; returns the seconds until the next look, or None.

        Raises JhswarmdError.
        """
        if not self._may_act() or not self._images:
            # Whoever acts then knows nothing of what was done here.
            self._known.clear()
            self._note_failures((), is_over=True)
            return None
        with self._asking:
            asked = self._feed.now["asked"]
            if self._forget:
                self._forget = False
                self._known.clear()
                self._failures = 0
        try:
            failed = self._look()
        except JhswarmdError as exc:
            self._feed.publish(pulling={}, error=str(exc))
            raise
        if failed is None:
            self._feed.publish(pulling={})
            return None
        again_s = min(RETRY_MOST_S, RETRY_FIRST_S * 2.0 ** min(self._failures, 16))
        self._failures = self._failures + 1 if failed else 0
        self._feed.publish(pulling={}, error="", answered=asked)
        return again_s if failed else RESYNC_S

    def _look(self) -> tuple[Failed, ...] | None:
        """Return what failed; None when this daemon stopped, or went on standby, meanwhile."""
        self._remove(self._engine.list_prepulls(self._stack))
        nodes = self._engine.list_nodes()
        self._known = {it.id: it for it in nodes if self._known.get(it.id) == it}
        if not pending(nodes, self._known):
            self._note_failures((), is_over=True)
            self._feed.publish(nodes=len(self._known.keys() - self._left_out))
            return ()
        self._engine.use_logins(self._logins)
        # Not by naming those that are due: Swarm knows of a node that has just come before we do.
        constraints = [*self._constraints, *(f"node.id != {id_}" for id_ in sorted(self._known))]
        created: list[str] = []
        try:
            for number, image in enumerate(self._images, start=1):
                name = labels.service_name(self._stack, f"prepull-{number}")
                created.append(self._engine.create_prepull(self._stack, name, image, constraints))
            look = self._wait(created)
        finally:
            self._remove(created)
        return None if look is None else look.failed

    def _wait(self, created: Sequence[str]) -> Look | None:
        """Return when every node has pulled, failed or gone away; None: told to stop."""
        words: dict[str, str] = {}
        begun_s = self._clock()
        pause_s = _FIRST_PAUSE_S
        while True:
            lasted_s = self._clock() - begun_s
            # A node that goes down is no longer waited for: it is due again when it is back.
            nodes = pending(self._engine.list_nodes(), self._known)
            pulls = self._engine.list_pulls(self._stack, created)
            look = judge(nodes, pulls, self._images, lasted_s)
            failed = self._explained(look.failed, words)
            self._note_failures(failed, is_over=look.is_over)
            self._feed.publish(
                nodes=len(self._known.keys() - self._left_out) + len(nodes) - len(look.left_out),
                pulling={name: list(images) for name, images in look.pulling.items()},
                error="",
            )
            if look.is_over:
                seen = look.done | look.left_out
                self._known.update({node.id: node for node in nodes if node.id in seen})
                self._left_out = (self._left_out - look.done) | look.left_out
                log.info(
                    event(
                        "Nodes have the notebooks' images",
                        nodes=len(look.done),
                        images=len(self._images),
                        took_s=round(lasted_s, 1),
                    )
                )
                return look
            if self._stop.wait(pause_s) or not self._may_act():
                return None
            pause_s = min(pause_s * 1.5, _LAST_PAUSE_S)

    def _remove(self, service_ids: Iterable[str]) -> None:
        for id_ in service_ids:
            try:
                self._engine.remove_service(id_)
            except EngineNotFound:
                continue
            except EngineError as exc:
                log.info(event("Removal failed; will retry", service=id_, why=str(exc)))

    def _explained(self, failed: Iterable[Failed], words: dict[str, str]) -> tuple[Failed, ...]:
        """Add what the registries say; ``words`` holds it by image, so that each is asked once."""
        explained = []
        for each in failed:
            if each.image not in words:
                words[each.image] = self._engine.why_no_image(each.image)
            said = words[each.image]
            # Engines from 29.7 on say it themselves.
            is_new = said and said not in each.why
            why = f"{each.why} (the registry says: {said})" if is_new else each.why
            explained.append(Failed(each.node, each.image, why))
        return tuple(explained)

    def _note_failures(self, failed: Collection[Failed], *, is_over: bool) -> None:
        """Log each failure once, and show all; those of the look before until this one is over."""
        for each in failed:
            if each not in self._said:
                log.warning(event("A node cannot pull", **vars(each)))
        self._said = set(failed) | (set() if is_over else self._said)
        metrics.PREPULL_FAILED.set(len(self._said))
        self._feed.publish(failed=[vars(each) for each in sorted(self._said, key=astuple)])
