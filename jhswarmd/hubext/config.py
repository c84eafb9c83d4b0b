"""The little logic that ``hub_config/jupyterhub_config.py`` needs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jhswarmd import notebook_profiles, settings
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


def read_generations(kind: str) -> dict[int, str]:
    """Return all generations of a secret that are mounted, the newest first.

    They are files ``<kind>_g<N>``; one without a number, as somebody else may mount it, is
    generation 0. Raises UsageError when there is none, or one is empty.
    """
    numbered = {}
    for path in Path(settings.SECRETS_DIR).glob(f"{kind}_g*"):
        number = path.name.removeprefix(f"{kind}_g")
        if number.isdecimal():
            numbered[int(number)] = read_secret(path.name)
    if has_secret(kind) or not numbered:
        numbered[0] = read_secret(kind)
    return dict(sorted(numbered.items(), reverse=True))


def use_cookie_secrets(c: Any) -> None:
    """Sign cookies with the newest cookie secret, and accept those of the older ones.

    Tornado writes into each cookie by which key it is signed: its number here is the secret's
    generation, so that it means the same after each rotation.
    """
    found = read_generations("cookie_secret")
    newest = next(iter(found))
    try:
        keys = {number: bytes.fromhex(content) for number, content in found.items()}
    except ValueError:
        raise UsageError(
            "A cookie secret is not hexadecimal",
            remedy="Write 64 hexadecimal digits into the profile's file cookie_secret.",
        ) from None
    # JupyterHub looks at its file's mode, and keeps a secret by itself.
    file = f"cookie_secret_g{newest}" if newest else "cookie_secret"
    c.JupyterHub.cookie_secret_file = f"{settings.SECRETS_DIR}/{file}"
    tornado = dict(c.JupyterHub.tornado_settings) if "tornado_settings" in c.JupyterHub else {}
    c.JupyterHub.tornado_settings = {**tornado, "cookie_secret": keys, "key_version": newest}


def read_keys(kind: str) -> list[str]:
    """Return the keys in all generations, one a line; the first encrypts, all decrypt."""
    return [key for content in read_generations(kind).values() for key in content.split()]


def add_service(c: Any, name: str, *, token: str, scopes: list[str]) -> None:
    """Let the holder of ``token`` use the hub's API with ``scopes``; adds to what is there."""
    c.JupyterHub.services = [*_given(c, "services"), {"name": name, "api_token": token}]
    c.JupyterHub.load_roles = [
        *_given(c, "load_roles"),
        {"name": name, "services": [name], "scopes": scopes},
    ]


def _given(c: Any, option: str) -> list[Any]:
    return list(c.JupyterHub[option]) if option in c.JupyterHub else []


#: Options of JupyterHub's and dockerspawner's that cannot do on Swarm what they promise: why, and
#: what does. Ignored without a word, they would be taken for working.
REFUSED = {
    "extra_host_config": (
        "a service has no host configuration",
        "c.SwarmSpawner.extra_container_spec, extra_resources_spec, and the options for limits",
    ),
    "links": (
        "services reach each other by name in a common network",
        "c.SwarmSpawner.network_name, or networks in extra_task_spec",
    ),
    "mounts": (
        "the node that holds a user's files is known for volumes alone",
        "c.SwarmSpawner.volumes, shared_volumes and shm_size",
    ),
    "post_start_cmd": (
        "Swarm runs no command in a container, and the hub reaches none on other nodes",
        "c.SwarmSpawner.cmd, or a start script in the notebook's image",
    ),
    "remove": (
        "a stopped service cannot be started again",
        "nothing: volumes keep what is to be kept",
    ),
}
#: Sections in which an option of the spawner may be set.
_SPAWNERS = ("Spawner", "DockerSpawner", "SwarmSpawner")


def check(c: Any) -> None:
    """Raise UsageError for what a site has set and what cannot work. All of it in one go."""
    faults = [*_outdated(c), *_impossible(c), *_unsafe(c), *_wrong_profiles(c)]
    if faults:
        raise UsageError(
            "\n  ".join(["The hub's configuration cannot work:", *faults]),
            remedy="Change it in hub_config/conf.d and deploy again; docs/spawner.md tells what "
            "each option does on Swarm.",
        )


def _set(c: Any, option: str) -> Iterator[tuple[str, Any]]:
    """Yield where the spawner's ``option`` is set, and to what."""
    for section in _SPAWNERS:
        if section in c and option in c[section]:
            yield f"c.{section}.{option}", c[section][option]


def _outdated(c: Any) -> Iterator[str]:
    for name, spec in _set(c, "container_spec"):
        keys = list(spec) if isinstance(spec, dict) else []
        today = "; ".join(
            f"instead of its '{key}' set {_TODAY.get(key, _TODAY_ELSE)}" for key in keys
        )
        yield (
            f"{name} is an option of an older spawner, and has no effect: "
            f"{today or f'set {_TODAY_ELSE}'}"
        )


def _impossible(c: Any) -> Iterator[str]:
    for option, (why, instead) in REFUSED.items():
        for name, value in _set(c, option):
            if bool(value) is (option != "remove"):
                yield f"{name} does not work on Swarm: {why}. Instead: {instead}"
    if "JupyterHub" in c and c.JupyterHub.get("internal_ssl"):
        yield (
            "c.JupyterHub.internal_ssl does not work on Swarm: a notebook's certificate would be "
            "on the hub's node alone. Instead: 'encrypted' among the overlay network's driver_opts"
        )


#: Names that differ, and that careless escaping makes the same.
_ALIKE = ("a-b", "a.b", "a_b", "a b", "a@b", "a--b", "ab", "\u00e4b", "-ab", "ab-")


def _unsafe(c: Any) -> Iterator[str]:
    """Find what would give two users one service or one volume."""
    for name, escape in _set(c, "escape"):
        if not callable(escape):
            continue
        seen: dict[str, str] = {}
        for user in _ALIKE:
            other = seen.setdefault(escape(user), user)
            if other != user:
                yield (
                    f"{name} makes the users '{other}' and '{user}' the same: they would share "
                    "services and volumes. Instead: leave it out, or 'legacy' for dockerspawner's "
                    "older names"
                )
                break
    if any(escape == "legacy" for _, escape in _set(c, "escape")):
        yield from _alike_under_legacy(c)
    named_servers = "JupyterHub" in c and c.JupyterHub.get("allow_named_servers")
    for name, template in _set(c, "name_template"):
        if "username}" not in template:
            yield f"{name} gives all users one name: it must hold {{username}}"
        elif named_servers and "servername}" not in template:
            yield f"{name} gives all servers of a user one name: it must hold {{servername}}"


def _alike_under_legacy(c: Any) -> Iterator[str]:
    """Find volumes of which two users' may be one: older names keep '-', which templates hold too.

    With ``{username}`` and ``{username}-data`` the data of 'ann' are the home of 'ann-data'.
    """
    ends: dict[str, str] = {}
    for option in ("volumes", "read_only_volumes"):
        for name, value in _set(c, option):
            for template in value if isinstance(value, dict) else ():
                begin, held, end = str(template).partition("username}")
                if not held or begin.startswith("/"):
                    continue
                if ends.setdefault(begin, end) != end or "servername}" in end:
                    yield (
                        f"{name} and escape='legacy' may give two users one volume: "
                        f"'{template}' for one may be another template for another. Instead: put "
                        "what tells volumes apart before {username}"
                    )


def _wrong_profiles(c: Any) -> Iterator[str]:
    for name, value in _set(c, "notebook_profiles"):
        try:
            notebook_profiles.validate(value)
        except ValueError as exc:  # pydantic's is one, of many lines
            yield f"{name}: {' '.join(str(exc).split())}"


def log_with_the_hub() -> None:
    """Send our own log lines where the hub's go; without it all below WARNING are lost."""
    # As JupyterHub does with tornado's (jupyterhub/app.py, init_logging).
    logging.getLogger("jhswarmd").parent = logging.getLogger("JupyterHub")
