"""The mounts of a notebook, from dockerspawner's ``volumes`` to what Swarm understands. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from docker.types import DriverConfig, Mount

from jhswarmd import labels


def mounts(
    binds: Mapping[str, Mapping[str, str]],
    *,
    driver: str,
    options: Mapping[str, str],
    stack: str,
    user: str,
    per_user: Collection[str],
) -> list[Mount]:
    """Return a mount for each of dockerspawner's ``volume_binds``.

    A source that is an absolute path is a directory of the node (type=bind), as ``docker run -v``
    reads it; every other is the name of a volume (type=volume) that the node makes on first use
    with ``driver`` and ``options``. A new volume carries the stack's label; one named in
    ``per_user`` the user's too.
    """
    return [
        _bind(source, bind)
        if source.startswith("/")
        else _volume(
            source,
            bind,
            driver=DriverConfig(name=driver, options=dict(options) or None) if driver else None,
            volume_labels={
                labels.STACK: stack,
                **({labels.USER: user} if source in per_user else {}),
            },
        )
        for source, bind in binds.items()
    ]


def _is_read_only(bind: Mapping[str, str]) -> bool:
    # A mode may be a list, as 'ro,z'.
    return "ro" in bind["mode"].split(",")


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
    volume_labels: dict[str, str],
) -> Mount:
    arguments: dict[str, Any] = {
        "target": bind["bind"],
        "source": source,
        "type": "volume",
        "read_only": _is_read_only(bind),
        "labels": volume_labels,
    }
    if driver is not None:
        arguments["driver_config"] = driver
    return Mount(**arguments)
