"""The mounts of a notebook, and which node may have them. Pure.

Mounts go from dockerspawner's ``volumes`` to what Swarm understands. A node is chosen because a
volume of the local driver exists where it was first used, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from docker.types import DriverConfig, Mount

from jhswarmd import labels
from jhswarmd.errors import JhswarmdError
from jhswarmd.spawner.volume_nodes import VolumeNode


def mounts(
    binds: Mapping[str, Mapping[str, str]],
    *,
    driver: str,
    options: Mapping[str, str],
    stack: str,
    user: str,
    per_user: Collection[str],
    no_copy: bool = False,
) -> list[Mount]:
    """Return a mount for each of dockerspawner's ``volume_binds``.

    A source that is an absolute path is a directory of the node (type=bind), as ``docker run -v``
    reads it; every other is the name of a volume (type=volume) that the node makes on first use
    with ``driver`` (empty: the engine's own) and ``options``. A new volume carries the stack's
    label; one named in ``per_user`` the user's too.

    The engine copies what the image has at the mount point, and its owner, to an empty volume;
    ``no_copy``, or the mode ``nocopy`` of one of them, keeps it from doing so.
    """
    return [
        _bind(source, bind)
        if source.startswith("/")
        else _volume(
            source,
            bind,
            driver=_driver(driver, options),
            no_copy=no_copy or "nocopy" in _modes(bind),
            volume_labels={
                labels.STACK: stack,
                **({labels.USER: user} if source in per_user else {}),
            },
        )
        for source, bind in binds.items()
    ]


def _driver(name: str, options: Mapping[str, str]) -> DriverConfig | None:
    if not name and not options:
        return None
    return DriverConfig(name=name or "local", options=dict(options) or None)


def _modes(bind: Mapping[str, str]) -> list[str]:
    # As 'ro,z'.
    return bind["mode"].split(",")


def _is_read_only(bind: Mapping[str, str]) -> bool:
    return "ro" in _modes(bind)


def _bind(source: str, bind: Mapping[str, str]) -> Mount:
    return Mount(
        target=bind["bind"],
        source=source,
        type="bind",
        read_only=_is_read_only(bind),
        propagation=bind.get("propagation"),
    )


def _volume(
    source: str,
    bind: Mapping[str, str],
    *,
    driver: DriverConfig | None,
    no_copy: bool,
    volume_labels: dict[str, str],
) -> Mount:
    arguments: dict[str, Any] = {
        "target": bind["bind"],
        "source": source,
        "type": "volume",
        "read_only": _is_read_only(bind),
        "labels": volume_labels,
        "no_copy": no_copy,
    }
    if driver is not None:
        arguments["driver_config"] = driver
    return Mount(**arguments)


def shared_memory(size: int) -> Mount:
    """Return a /dev/shm of ``size`` bytes; a service has no option for it."""
    return Mount("/dev/shm", None, type="tmpfs", tmpfs_size=size, tmpfs_mode=0o1777)  # noqa: S108


def _fits(value: str) -> bool:
    """Tell whether a name can be part of mount options, which commas separate."""
    return value.isprintable() and "," not in value


class _Unfit:
    """Stands for a name that would say more than a name; whoever uses it is refused."""

    def __init__(self, name: str, option: str) -> None:
        self._name = name
        self._option = option

    def __format__(self, spec: str) -> str:
        raise JhswarmdError(
            f"{self._option} cannot be filled in for this user",
            why=f"{{{self._name}}} holds a comma or a control character, and could add options",
            remedy="Use {username}, which is escaped.",
        )


def render(options: Mapping[str, Any], names: Mapping[str, str], option: str) -> dict[str, Any]:
    """Return ``options`` with its templates filled in; ``option`` is its name, for the error.

    Raises JhswarmdError for a template that nothing fills. Left as it is, it would name one and
    the same place for all users.
    """
    fit = {key: value if _fits(value) else _Unfit(key, option) for key, value in names.items()}
    try:
        return {
            key: value.format(**fit) if isinstance(value, str) else value
            for key, value in options.items()
        }
    except (KeyError, IndexError, ValueError) as exc:
        raise JhswarmdError(
            f"{option} holds a template that nothing fills",
            why=str(exc),
            remedy=f"Use {', '.join(sorted(names))}; write other braces as {{{{ or }}}}.",
        ) from exc


@dataclass(frozen=True)
class Node:
    """A node of the swarm, as far as it matters to who wants to run there."""

    id: str
    name: str
    state: str
    """``ready``, ``down``, ``disconnected``, or ``unknown`` right after a change of leader."""
    availability: str
    """``active``, ``pause`` or ``drain``."""

    @property
    def is_usable(self) -> bool:
        """Whether it takes new tasks."""
        return self.state == "ready" and self.availability == "active"


def read_node(raw: Mapping[str, Any]) -> Node:
    """Read one node of ``GET /nodes``."""
    return Node(
        id=str(raw["ID"]),
        name=str((raw.get("Description") or {}).get("Hostname") or raw["ID"]),
        state=str((raw.get("Status") or {}).get("State") or "unknown"),
        availability=str((raw.get("Spec") or {}).get("Availability") or "active"),
    )


@dataclass(frozen=True)
class NodePlacement:
    """Where a notebook with a local volume may run."""

    node: Node | None = None
    """The node that has the volume; None: any node, which will make a new and empty one."""
    lost: VolumeNode | None = None
    """Who has the user's files when ``node`` has not got them."""
    problem: str = ""
    """What is wrong with ``lost``, to be read behind 'node X, which'."""
    is_lost_for_good: bool = False
    """Whether ``lost`` has left the swarm: under its id it never comes back."""
    advice: str = ""
    """For the administrator's log."""
    is_refused: bool = False
    """Whether nothing may be started."""


def place(
    holders: Sequence[VolumeNode], nodes: Sequence[Node], *, is_strict: bool
) -> NodePlacement:
    """Choose the node for a volume that ``holders`` have, the oldest of which has the files.

    Strict: that node or none. Relaxed: else a later holder, else the node that has come back
    under another id (its name is the same), else any.
    """
    if not holders:
        return NodePlacement()
    by_id = {node.id: node for node in nodes}
    first = by_id.get(holders[0].node_id)
    if first is not None and first.is_usable:
        return NodePlacement(node=first)
    namesakes = [node for node in nodes if node.is_usable and node.name == holders[0].name]
    problem = _problem(first)
    if is_strict:
        return NodePlacement(
            lost=holders[0],
            problem=problem,
            advice="A node of the same name is in the swarm under another id; if it still has its "
            "volumes, VOLUME_NODE_POLICY=relaxed takes it for the same."
            if namesakes
            else "VOLUME_NODE_POLICY=relaxed starts elsewhere, over an empty volume.",
            is_refused=True,
        )
    later = [by_id[each.node_id] for each in holders[1:] if each.node_id in by_id]
    usable = [*namesakes[:1], *(node for node in later if node.is_usable)]
    return NodePlacement(
        node=usable[0] if usable else None,
        lost=holders[0],
        problem=problem,
        is_lost_for_good=first is None,
    )


def _problem(node: Node | None) -> str:
    if node is None:
        return "is no longer part of the cluster"
    if node.state != "ready":
        return "is down at the moment"
    return "is being maintained and takes no notebooks at the moment"
