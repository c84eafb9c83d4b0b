"""``jhswarmd prepull``: have the daemon make the nodes pull, and show how far they are.

The daemon does it by itself when a node comes, and when it starts, which it does when the images of
the profile change; here it is only asked for, or waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import docker

from jhswarmd.api import daemon_client
from jhswarmd.deploy.progress import Progress, Step
from jhswarmd.errors import JhswarmdError

TITLE = "Notebook images on the nodes"
#: Seconds for which ``up`` waits; a large image may take longer, and the hub works meanwhile.
UP_WAITS_S = 120.0
#: Seconds for which an error may last before the command gives up.
ERROR_WITHIN_S = 60.0
#: Seconds that a daemon which has just started needs to know whether the hub is on its node.
_LEADER_TIMEOUT_S = 15.0


def pull(client: docker.DockerClient, stack: str, progress: Progress) -> None:
    """Make all nodes pull now, and wait for the last one.

    Raises JhswarmdError that names the nodes which cannot. An interrupt ends the waiting alone.
    """
    with progress.step(TITLE) as step:
        view = daemon_client.call(client, stack, "prepull", {"anew": True})
        number, patience = view["asked"], _Patience()
        while view["answered"] < number:
            step.update(_words(view))
            view = daemon_client.call(client, stack, "prepull", {"seen": view["version"]})
            if not view["is_active"]:
                raise JhswarmdError(
                    "The hub has moved to another node, whose daemon now takes care of the images",
                    remedy="'jhswarmd status' shows how far it is.",
                )
            patience.look(view["error"])
            if view["asked"] < number:
                raise JhswarmdError(
                    "The daemon was restarted meanwhile", remedy="Run the command again."
                )
        if view["failed"]:
            raise JhswarmdError(
                f"{len({each['node'] for each in view['failed']})} of {view['nodes']} nodes cannot "
                "pull every image",
                output=describe_failures(view),
                remedy="Fix what the engine says, and run the command again; the daemon tries "
                "again by itself, too.",
            )
        if no_node := describe_no_node(view):
            raise JhswarmdError(no_node, remedy=_NO_NODE_REMEDY)
        step.done(_result(view))


class _Patience:
    """Gives up when nothing but an error was seen for ``ERROR_WITHIN_S`` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s: float | None = None

    def look(self, error: str) -> None:
        """Take note of what was seen. Raises JhswarmdError."""
        now_s = self._clock()
        if not error:
            self._since_s = None
            return
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._since_s >= ERROR_WITHIN_S:
            raise JhswarmdError(
                "The nodes cannot be made to pull",
                why=error,
                remedy="Fix what it says; the daemon tries again by itself.",
            )


def wait_after_up(client: docker.DockerClient, stack: str, progress: Progress) -> None:
    """Wait for a while until the nodes have the images; say what is left. Never raises for it.

    What is left the daemon does, and the hub works without it.
    """
    try:
        with progress.step(TITLE, is_attempt=True) as step:
            try:
                view = _wait_first(client, stack, step)
            except JhswarmdError as exc:
                step.done(f"not known ({exc}); 'jhswarmd status' tells")
                return
            if no_node := describe_no_node(view):
                raise JhswarmdError(no_node, remedy=_NO_NODE_REMEDY)
    except JhswarmdError as exc:
        progress.warn(f"{exc}. {exc.remedy}")
        return
    for line in describe_failures(view):
        progress.warn(line)


def _wait_first(client: docker.DockerClient, stack: str, step: Step) -> Mapping[str, Any]:
    begun_s = time.monotonic()
    view: Mapping[str, Any] = daemon_client.call(client, stack, "prepull", {})
    while not view["answered"]:
        waited_s = time.monotonic() - begun_s
        if not view["is_active"] and waited_s > _LEADER_TIMEOUT_S:
            step.done("the daemon on the hub's node sees to it")
            return view
        if waited_s > UP_WAITS_S:
            step.done(f"{_words(view)}; the daemon goes on, 'jhswarmd status' tells how far it is")
            return view
        step.update(_words(view))
        view = daemon_client.call(client, stack, "prepull", {"seen": view["version"]})
    step.done(_result(view))
    return view


def describe_failures(view: Mapping[str, Any]) -> list[str]:
    """Return a line for each image that a node cannot pull."""
    return [
        f"node {each['node']} cannot pull {each['image']}: {each['why']}"
        for each in view.get("failed", ())
    ]


def describe_no_node(view: Mapping[str, Any]) -> str:
    """Return that no node may run notebooks; empty: some may, or it is not known yet. Pure."""
    if view["nodes"] or view["pulling"] or not view["answered"] or view["error"]:
        return ""
    if not view["images"] or not view.get("is_active", True):
        return ""  # this daemon has nothing to pull, or leaves it to another one
    return "No ready node may run notebooks: none fulfils NOTEBOOK_CONSTRAINTS"


_NO_NODE_REMEDY = (
    "Compare NOTEBOOK_CONSTRAINTS in the profile with 'docker node ls' and 'docker node inspect', "
    "and change it or the nodes' labels ('docker node update --label-add')."
)


def describe(view: Mapping[str, Any]) -> str:
    """Return how far the nodes are, in words."""
    return _words(view) if view["pulling"] or not view["answered"] else _result(view)


def _words(view: Mapping[str, Any]) -> str:
    if view["error"]:
        return str(view["error"])
    if not view["pulling"]:
        return "not begun yet"
    done = view["nodes"] - len(view["pulling"])
    return f"{done} of {view['nodes']} nodes; pulling: {', '.join(sorted(view['pulling']))}"


def _result(view: Mapping[str, Any]) -> str:
    if not view["nodes"]:
        return "no node may run notebooks"
    failed = len({each["node"] for each in view["failed"]})
    return f"{len(view['images'])} on {view['nodes'] - failed} of {view['nodes']} nodes"
