"""The little logic that ``hub_config/jupyterhub_config.py`` needs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from jhswarmd import settings
from jhswarmd.errors import UsageError

#: Options of older Swarm spawners, and where today's users set the same.
_TODAY = {
    "Image": "c.SwarmSpawner.image (or SINGLE_USER_IMAGE in the profile)",
    "args": "c.SwarmSpawner.cmd (or NOTEBOOK_COMMAND in the profile)",
    "command": "c.SwarmSpawner.cmd (or NOTEBOOK_COMMAND in the profile)",
    "env": "c.SwarmSpawner.environment",
    "mounts": "c.SwarmSpawner.volumes",
}
_TODAY_ELSE = "c.SwarmSpawner.extra_container_spec"


def has_secret(name: str) -> bool:
    """Tell whether the engine mounted the secret ``name``."""
    return (Path(settings.SECRETS_DIR) / name).is_file()


def read_secret(name: str) -> str:
    """Return the content of a secret without white space around it.

    ``name`` is relative to where the engine mounts secrets, or an absolute path. Raises
    UsageError when it is missing or empty; an empty token would let anybody in.
    """
    path = Path(settings.SECRETS_DIR) / name
    try:
        content = path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise UsageError(
            f"The secret {path} cannot be read",
            why=exc.strerror or type(exc).__name__,
            remedy="Deploy the stack with 'jhswarmd up', which makes and mounts it.",
        ) from exc
    if not content:
        raise UsageError(f"The secret {path} is empty", remedy="Rotate it, or remove its file.")
    return content


def read_keys(name: str) -> list[str]:
    """Return the keys of a secret, one a line; the first encrypts, all decrypt."""
    return read_secret(name).split()


def add_service(c: Any, name: str, *, token: str, scopes: list[str]) -> None:
    """Let the holder of ``token`` use the hub's API with ``scopes``; adds to what is there."""
    c.JupyterHub.services = [*_given(c, "services"), {"name": name, "api_token": token}]
    c.JupyterHub.load_roles = [
        *_given(c, "load_roles"),
        {"name": name, "services": [name], "scopes": scopes},
    ]


def _given(c: Any, option: str) -> list[Any]:
    return list(c.JupyterHub[option]) if option in c.JupyterHub else []


def refuse_outdated(c: Any) -> None:
    """Raise UsageError for options that nothing reads any more, and name today's."""
    for section in ("SwarmSpawner", "DockerSpawner"):
        if section not in c or "container_spec" not in c[section]:
            continue
        spec = c[section]["container_spec"]
        keys = list(spec) if isinstance(spec, dict) else []
        remedy = "; ".join(
            f"instead of its '{key}' set {_TODAY.get(key, _TODAY_ELSE)}" for key in keys
        )
        raise UsageError(
            f"c.{section}.container_spec is an option of an older spawner, and has no effect",
            why=f"{remedy or f'set {_TODAY_ELSE}'}",
            remedy="Change it in hub_config/conf.d and deploy again.",
        )


def log_with_the_hub() -> None:
    """Send our own log lines where the hub's go; without it all below WARNING are lost."""
    # As JupyterHub does with tornado's (jupyterhub/app.py, init_logging).
    logging.getLogger("jhswarmd").parent = logging.getLogger("JupyterHub")
