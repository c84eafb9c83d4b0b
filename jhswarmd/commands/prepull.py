"""``jhswarmd prepull``: ask the daemon to pull images on the nodes, and show the progress.

The daemon pulls automatically when a node joins, and when it starts, which it does when the
profile's images change; this module only triggers a pull, or waits for one.
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
#: Seconds that ``up`` waits; a large image may take longer, and the hub works meanwhile.
UP_TIMEOUT_S = 120.0
#: Seconds that an error may last before the command gives up.
ERROR_TIMEOUT_S = 60.0
#: Seconds for a newly started daemon to find out whether the hub is on its node.
_LEADER_TIMEOUT_S = 15.0


def pull(client: docker.DockerClient, stack: str, progress: Progress) -> None:
    """Pull on all nodes now, and wait until all are done.

    Raises JhswarmdError naming the nodes that fail. An interrupt only ends the wait.
    """
    with progress.step(TITLE) as step:
        view = daemon_client.call(client, stack, "prepull", {"anew": True})
        number, error_timeout = view["asked"], _ErrorTimeout()
        while view["answered"] < number:
            step.update(_progress_of(view))
            view = daemon_client.call(client, stack, "prepull", {"seen": view["version"]})
            if not view["is_active"]:
                raise JhswarmdError(
                    "The hub has moved to another node, whose daemon now pulls the images",
                    remedy="'jhswarmd status' shows its progress.",
                )
            error_timeout.check(view["error"])
            if view["asked"] < number:
                raise JhswarmdError(
                    "The daemon was restarted in the meantime", remedy="Run the command again."
                )
        if view["failed"]:
            raise JhswarmdError(
                f"{len({each['node'] for each in view['failed']})} of {view['nodes']} nodes cannot "
                "pull every image",
                output=describe_failures(view),
                remedy="Fix the engine's errors and run the command again; the daemon also retries "
                "automatically.",
            )
        if no_node := describe_no_node(view):
            raise JhswarmdError(no_node, remedy=_NO_NODE_REMEDY)
        step.done(_result(view))


class _ErrorTimeout:
    """Gives up when only errors were reported for ``ERROR_TIMEOUT_S`` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s: float | None = None

    def check(self, error: str) -> None:
        """Record the current error, empty if none. Raises JhswarmdError."""
        now_s = self._clock()
        if not error:
            self._since_s = None
            return
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._since_s >= ERROR_TIMEOUT_S:
            raise JhswarmdError(
                "Pulling images on the nodes fails",
                why=error,
                remedy="Fix the error; the daemon retries automatically.",
            )


def wait_after_up(client: docker.DockerClient, stack: str, progress: Progress) -> None:
    """Wait a limited time for the nodes to have the images; warn about failures, never raise.

    The daemon completes the rest, and the hub works without it.
    """
    try:
        with progress.step(TITLE, is_attempt=True) as step:
            try:
                view = _wait_first_pass(client, stack, step)
            except JhswarmdError as exc:
                step.done(f"not known ({exc}); see 'jhswarmd status'")
                return
            if no_node := describe_no_node(view):
                raise JhswarmdError(no_node, remedy=_NO_NODE_REMEDY)
    except JhswarmdError as exc:
        progress.warn(f"{exc}. {exc.remedy}")
        return
    for line in describe_failures(view):
        progress.warn(line)


def _wait_first_pass(client: docker.DockerClient, stack: str, step: Step) -> Mapping[str, Any]:
    started_s = time.monotonic()
    view: Mapping[str, Any] = daemon_client.call(client, stack, "prepull", {})
    while not view["answered"]:
        waited_s = time.monotonic() - started_s
        if not view["is_active"] and waited_s > _LEADER_TIMEOUT_S:
            step.done("handled by the daemon on the hub's node")
            return view
        if waited_s > UP_TIMEOUT_S:
            step.done(f"{_progress_of(view)}; the daemon continues: see 'jhswarmd status'")
            return view
        step.update(_progress_of(view))
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
    """Return a message if no node may run notebooks; empty: some may, or not known yet. Pure."""
    if view["nodes"] or view["pulling"] or not view["answered"] or view["error"]:
        return ""
    if not view["images"] or not view.get("is_active", True):
        return ""  # this daemon has nothing to pull, or another one pulls
    return "No ready node may run notebooks: none matches NOTEBOOK_CONSTRAINTS"


_NO_NODE_REMEDY = (
    "Compare NOTEBOOK_CONSTRAINTS in the profile with 'docker node ls' and 'docker node inspect', "
    "and change the key or the nodes' labels ('docker node update --label-add')."
)


def describe(view: Mapping[str, Any]) -> str:
    """Return the progress of the nodes, as text."""
    return _progress_of(view) if view["pulling"] or not view["answered"] else _result(view)


def _progress_of(view: Mapping[str, Any]) -> str:
    if view["error"]:
        return str(view["error"])
    if not view["pulling"]:
        return "not started yet"
    done = view["nodes"] - len(view["pulling"])
    return f"{done} of {view['nodes']} nodes; pulling: {', '.join(sorted(view['pulling']))}"


def _result(view: Mapping[str, Any]) -> str:
    if not view["nodes"]:
        return "no node may run notebooks"
    failed = len({each["node"] for each in view["failed"]})
    return f"{len(view['images'])} on {view['nodes'] - failed} of {view['nodes']} nodes"
