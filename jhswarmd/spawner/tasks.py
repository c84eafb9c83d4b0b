"""What a Swarm task tells about a notebook. Pure: no engine, no clock.

One table of states serves start and poll alike. It is total: a state that this version does not
know counts as alive, because only a definite answer may end a notebook.

Sources: swarmkit ``api/types.proto`` (TaskState) and ``design/task_model.md``; the texts were read
from engine 20.10.24.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from jhswarmd.log_tail import hide
from jhswarmd.model import ENDED_STATES, is_local_volume, newest_task
from jhswarmd.spawner import pull_errors


class Phase(Enum):
    """Where a task is in its life, as far as the hub is concerned."""

    starting = "starting"
    running = "running"
    ended = "ended"


_PHASES = {
    "new": Phase.starting,
    "pending": Phase.starting,
    "assigned": Phase.starting,
    "accepted": Phase.starting,
    "preparing": Phase.starting,
    "ready": Phase.starting,
    "starting": Phase.starting,
    "running": Phase.running,
    **dict.fromkeys(ENDED_STATES, Phase.ended),
}

#: A node makes volumes and container while the task is 'preparing'.
_AFTER_VOLUMES = frozenset({"ready", "starting", "running"})

#: Seconds for which 'no suitable node' must last before it is believed. What a notebook that is
#: just ending had reserved is free only when its task is gone (measured: under 4 s).
NO_NODE_GRACE_S = 5.0

#: A node learns of a network with its first task in it, and may be late (moby#35288).
_MISSING_NETWORK = re.compile(r"\bnetwork \S+ not found|No such network")
#: A volume or directory that the node could not mount, or not prepare: words of the engine's own
#: (moby, volume/local, daemon/volumes; 20.10 to 28.5), of its plugins' and of runc's.
_MOUNT = re.compile(
    r"error while mounting volume|failed to (?:mount local|populate) volume"
    r"|bind source path does not exist|invalid mount config|invalid bind mount"
    r"|network volume address|failed to (?:copy file info|chown|chmod)\b|/volumes/[^/\s]+/_data"
    r"|volume name must be unique|missing required option|invalid option(?: key)?: "
    r"|local volume name|mount source path"
    r"|VolumeDriver\.|volume plugin|rootfs_linux\.go.* mounting |mounting \S+ to rootfs",
    re.IGNORECASE,
)
#: What the kernel, or a server, says to it, and what the administrator can do. The first counts.
_MOUNT_ADVICE = (
    (
        r"bind source path does not exist",
        "That directory has to exist on the node: make it there, or keep notebooks off that node "
        "(NOTEBOOK_CONSTRAINTS)",
    ),
    (
        r"ch(?:own|mod)\b.*(?:not permitted|denied)|copy file info.*(?:not permitted|denied)",
        "The engine gives a new volume the owner of the image's directory, and the server does not "
        "allow that (root_squash): set VOLUME_NO_COPY=true, or SHARED_VOLUME_NO_COPY=true for a "
        "shared volume",
    ),
    (
        r"no such host|server misbehaving|name resolution|network volume address",
        "The node cannot resolve the server's name: give its address in the driver's options",
    ),
    (
        r"connection refused|timed out|no route to host|network is unreachable|host is down",
        "The server does not answer to that node: see that it runs, and what firewalls do",
    ),
    (
        r"permission denied|access denied|operation not permitted",
        "The server does not let that node in: see its list of exports, or the login for it",
    ),
    (
        r"no such device|unknown filesystem|protocol not supported",
        "The kernel of that node has no such file system: install its client (nfs-common, "
        "cifs-utils)",
    ),
    (
        r"no such file or directory|not a directory",
        "What is to be mounted is not there, or is not a directory: make it where the files are",
    ),
    (r"plugin", "The volume's driver is not installed on that node, or does not run"),
    (
        r"volume name must be unique",
        "That node has a volume of the same name with another driver: rename or remove it there, "
        "or set the driver that it has (VOLUME_DRIVER, SHARED_VOLUME_DRIVER)",
    ),
    (r"stale", "The server's directory was replaced meanwhile: the node has to mount it again"),
    (r"read-only", "It is mounted read-only, and the engine could not write to it: use mode ro"),
    (
        r"invalid argument|invalid option|missing required option",
        "The driver's options make no sense to it or to that node's kernel (VOLUME_OPTIONS, "
        "SHARED_VOLUME_OPTIONS)",
    ),
)
_TELL = "Please contact your administrator."
_LATER = "Please try again later, or contact your administrator."


@dataclass(frozen=True)
class Task:
    """One task of a notebook's service, as the engine showed it."""

    id: str
    state: str
    error: str = ""
    """The engine's own words, empty while there is nothing to complain about."""
    node_id: str = ""
    """Empty until a node is found."""
    exit_code: int | None = None
    """Exit code of the container, None when none has ended."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Address without prefix length, by name and by id of the network."""
    local_volumes: frozenset[str] = frozenset()
    """Names of its volumes that exist on its node alone."""
    is_told_to_end: bool = False
    """Whether Swarm wants its end, which it never takes back (swarmkit, task_model.md)."""

    @property
    def has_volumes(self) -> bool:
        """Whether its node has made its volumes by now, if there were any to make."""
        return self.state in _AFTER_VOLUMES or self.exit_code is not None

    @property
    def phase(self) -> Phase:
        """Phase of this task's state; a state never heard of is on its way, not ended."""
        return _PHASES.get(self.state, Phase.starting)


@dataclass(frozen=True)
class StartFailure:
    """Why a start is hopeless."""

    reason: str
    """Short label for metrics."""
    message: str
    """For the person who waits for the notebook."""
    detail: str
    """The engine's own words, for the administrator's log."""
    status_code: int = 500
    """HTTP status: 503 where trying again later may help."""
    has_log: bool = False
    """Whether the notebook's own last lines may tell more."""
    may_pass: bool = False
    """Whether the same start may succeed at once."""


def read_task(raw: Mapping[str, Any]) -> Task:
    """Read one task of ``GET /tasks``."""
    status = raw.get("Status") or {}
    state = str(status.get("State") or "").lower()
    container = status.get("ContainerStatus") or {}
    has_ended = _PHASES.get(state) is Phase.ended and container.get("ContainerID")
    return Task(
        id=str(raw.get("ID") or ""),
        state=state,
        error=str(status.get("Err") or ""),
        node_id=str(raw.get("NodeID") or ""),
        exit_code=int(container.get("ExitCode") or 0) if has_ended else None,
        addresses=_addresses(raw.get("NetworksAttachments") or ()),
        local_volumes=_local_volumes((raw.get("Spec") or {}).get("ContainerSpec") or {}),
        is_told_to_end=raw.get("DesiredState") in ENDED_STATES,
    )


def _local_volumes(container_spec: Mapping[str, Any]) -> frozenset[str]:
    found = set()
    for mount in container_spec.get("Mounts") or ():
        driver = (mount.get("VolumeOptions") or {}).get("DriverConfig") or {}
        if mount.get("Type") == "volume" and is_local_volume(
            driver.get("Name"), driver.get("Options")
        ):
            found.add(str(mount.get("Source") or ""))  # an anonymous volume has none
    return frozenset(found - {""})


def _addresses(attachments: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    found = {}
    for attachment in attachments:
        network = attachment.get("Network") or {}
        addresses = attachment.get("Addresses") or ()
        if not addresses:
            continue
        # As '10.128.0.7/16'.
        address = str(addresses[0]).partition("/")[0]
        for name in ((network.get("Spec") or {}).get("Name"), network.get("ID")):
            if name:
                found[str(name)] = address
    return found


def newest(raw_tasks: Iterable[Mapping[str, Any]]) -> Task | None:
    """Return the task that was created last, or None when the service has none yet.

    Notebooks are never restarted, but an administrator's ``docker service update`` makes a new
    task beside the old one.
    """
    latest = newest_task(raw_tasks)
    return None if latest is None else read_task(latest)


def exit_status(task: Task | None) -> int | str | None:
    """Return what ``Spawner.poll`` says about a service that exists: None while it is alive.

    A service without a task is one whose task is still to come. For an ended task it is the
    container's exit code, or what the engine says when there is no code that explains the end.
    """
    if task is None or task.phase is not Phase.ended:
        return None
    if task.exit_code or task.state == "complete":
        return task.exit_code or 0
    return f"{task.state}: {task.error}" if task.error else task.state


def start_failure(
    task: Task | None, *, image: str, lasted_s: float, node: str = "", home_node: str = ""
) -> StartFailure | None:
    """Return why this start is hopeless, or None while it may still succeed.

    ``lasted_s`` is for how many seconds the task has looked as it does now, ``node`` the name of
    its node. ``home_node`` is the name of the one node that may run it, because it holds the
    user's volume; empty: any may.
    """
    if task is None:
        return None
    if task.phase is Phase.ended:
        return _ended(task, image=image, node=node)
    if "no suitable node" in task.error and lasted_s >= NO_NODE_GRACE_S:
        return _no_node(task, home_node)
    return None


def _ended(task: Task, *, image: str, node: str) -> StartFailure:
    words = task.error
    detail = f"task {task.id} {task.state} on node {node or 'none'}: {words or 'no reason given'}"
    # Also the words of a mount may name an address.
    why = None if _MOUNT.search(words) else pull_errors.cause(words)
    if why is not None:
        return _no_image(why, image, hide(detail))
    if _MISSING_NETWORK.search(words):
        return StartFailure(
            reason="network_missing",
            message=f"Node {node} of the cluster does not know the notebooks' network. {_TELL}",
            detail=detail,
            status_code=503,
            may_pass=True,
        )
    if "no longer meets constraints" in words:
        return StartFailure(
            reason="node_changed",
            message=f"Node {node} of the cluster changed while your notebook started. {_LATER}",
            # Its manager may also be mistaken: see docs/spawner.md, GPUs.
            detail=detail,
            status_code=503,
            may_pass=True,
        )
    if task.state != "complete" and _MOUNT.search(words):
        return _no_mount(detail, words, node)
    # A container that could not even be started has an exit code too, made up by the engine.
    if task.state == "complete" or "non-zero exit" in words:
        return StartFailure(
            reason="exited",
            message="The notebook exited right after it started "
            f"(exit code {task.exit_code or 0}). {_TELL}",
            detail=detail,
            has_log=True,
        )
    return StartFailure(
        reason=task.state,
        message=f"The cluster could not start the notebook. {_TELL}",
        detail=detail,
        has_log=task.exit_code is not None,
    )


def _no_mount(detail: str, words: str, node: str) -> StartFailure:
    advice = next(
        (advice for told, advice in _MOUNT_ADVICE if re.search(told, words, re.IGNORECASE)), ""
    )
    return StartFailure(
        reason="mount",
        message=f"Your files, or others that your notebook needs, cannot be reached from node "
        f"{node}. {_TELL}",
        # Options of a mount may hold a login.
        detail=f"{hide(detail)}{f'. {advice}' if advice else ''}",
        status_code=503,
    )


def not_pulled(image: str, words: str, detail: str) -> StartFailure:
    """Return the failure of a pull to the hub's own node that ended with ``words``."""
    return _no_image(pull_errors.cause(words) or pull_errors.Cause.unknown, image, hide(detail))


def _no_image(why: pull_errors.Cause, image: str, detail: str) -> StartFailure:
    if why is pull_errors.Cause.refused:
        # Engines 29.6 say so although that node has the image.
        return _registry_refused(image, detail)
    if why is pull_errors.Cause.unreachable:
        return StartFailure(
            reason="registry_unreachable",
            message=f"The registry of the notebook's image {image} cannot be reached. {_LATER}",
            detail=detail,
            status_code=503,
        )
    if why is pull_errors.Cause.unknown:
        # The engine says the same when it cannot reach the registry.
        detail = f"{detail}. There is no such image, or that node cannot reach its registry"
    return image_not_found(image, detail)


def _registry_refused(image: str, detail: str) -> StartFailure:
    return StartFailure(
        reason="registry_refused",
        message=f"The cluster may not pull the notebook's image {image}. {_TELL}",
        detail=f"{detail}. Its login belongs in registry_config.json of the profile",
    )


def image_not_found(image: str, detail: str) -> StartFailure:
    """Return the failure of an image that somebody looked for in vain."""
    return StartFailure(
        reason="image_not_found",
        message=f"The notebook's image {image} was not found. {_TELL}",
        detail=detail,
    )


def why_no_image(failure: StartFailure, *, image: str, words: str) -> StartFailure:
    """Return the failure of a missing image with what its registry said, empty when nothing.

    To a node that may not pull, an image is just not there (engines up to 28).
    """
    if not words:
        return failure
    detail = f"{failure.detail}. The registry says: {words}"
    if not pull_errors.REFUSED.search(words):
        return replace(failure, detail=detail)
    return _registry_refused(image, detail)


def _no_node(task: Task, home_node: str) -> StartFailure:
    if "missing plugin" in task.error and "insufficient" not in task.error:
        return StartFailure(
            reason="mount",
            message="Your files, or others that your notebook needs, cannot be reached from any "
            f"node. {_TELL}",
            detail=f"task {task.id} {task.state}: {task.error}. The driver of a volume (or of a "
            "network) is installed on no node that may run it: see VOLUME_DRIVER, "
            "SHARED_VOLUME_DRIVER and 'docker plugin ls'",
            status_code=503,
        )
    is_full = "insufficient resources" in task.error
    if home_node and is_full:
        what = (
            f"Your files are on node {home_node}, which does not have enough free memory, "
            "processors or GPUs for your notebook."
        )
    elif home_node:
        what = f"Your files are on node {home_node}, which may not run your notebook at the moment."
    elif is_full:
        what = (
            "No node of the cluster has enough free memory, processors or GPUs for your notebook."
        )
    else:
        what = "No node of the cluster may run your notebook at the moment."
    return StartFailure(
        reason="no_node",
        message=f"{what} {_LATER if is_full else _TELL}",
        detail=f"task {task.id} {task.state}: {task.error}",
        status_code=503,
    )


def no_address(task: Task | None, *, network: str, used: int, total: int) -> StartFailure:
    """Return the failure of a start whose network is full."""
    return StartFailure(
        reason="no_address",
        message="The cluster's network has no address left for your notebook. Please try again "
        "when others have stopped theirs, or contact your administrator.",
        detail=f"task {task.id if task else 'none'} gets no address: {used} of {total} addresses "
        f"of the network {network} are used. A larger one: NOTEBOOKS_SUBNET, after 'jhswarmd down'",
        status_code=503,
    )


def node_down(task: Task, *, node: str, has_files: bool) -> StartFailure:
    """Return the failure of a start whose node was lost before the notebook ran.

    ``has_files``: it is the one node that may run it. Else another one may, unless the volume is
    made already: files are where their volume was made first.
    """
    return StartFailure(
        reason="node_down",
        message=f"Node {node}, on which your notebook was about to start, is down. Please try "
        "again.",
        detail=f"task {task.id} {task.state}: its node {node} (id: {task.node_id}) is down",
        status_code=503,
        may_pass=not has_files and not task.has_volumes,
    )


def too_slow(task: Task | None, *, node: str, image: str, start_timeout_s: float) -> StartFailure:
    """Return the failure of a start that takes too long."""
    state = task.state if task else "not there"
    if task is not None and task.state == "preparing":
        message = (
            f"Node {node} is still pulling the image {image} or preparing your files. What it "
            f"has pulled is kept. {_LATER}"
        )
    elif task is not None and task.node_id:
        message = f"Node {node} does not start your notebook in time. {_LATER}"
    else:
        message = f"The cluster found no place for your notebook in time. {_LATER}"
    return StartFailure(
        reason="timeout",
        message=message,
        detail=f"task {task.id if task else 'none'} is {state} on node {node or 'none'} after "
        f"{start_timeout_s:g} s (START_TIMEOUT_S): {task.error if task else ''}",
        status_code=503,
    )


def no_answer(task: Task | None, *, node: str, waited_s: float) -> StartFailure:
    """Return the failure of a notebook that runs, and at whose address nobody answers."""
    return StartFailure(
        reason="no_answer",
        message=f"Your notebook runs on node {node}, and has not answered within {waited_s:.0f} "
        f"seconds. {_LATER}",
        detail=f"task {task.id if task else 'none'} runs on node {node}, and nothing listens at "
        f"its address after {waited_s:.0f} s",
        status_code=503,
        has_log=True,
    )
