"""Logins of private registries, as docker itself writes them (``config.json``, its ``auths``).

The engine takes a registry's login with each request that needs it, and hands it on to the nodes
that pull; what it keeps shows in no inspect. No function here puts a login, or a name in it, into
a log or an exception.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker.auth import AuthConfig

from jhswarmd.errors import UsageError

#: Registry to what the engine wants to know of it.
Logins = Mapping[str, Mapping[str, str]]

_HELPERS = ("credsStore", "credHelpers")
_WRITE = "write \"auth\": the base64 form of user:password (printf '%s' 'user:password' | base64)"


@dataclass(frozen=True)
class Login:
    """A name and a password for one registry."""

    registry: str
    username: str
    password: str = field(repr=False)


def merge(content: bytes | None, login: Login) -> bytes:
    """Return the logins of ``content``, if any, and this one, as a ``config.json``.

    The same input gives the same bytes. Raises UsageError.
    """
    if content is not None:
        read(content)
    held = json.loads(content)["auths"] if content is not None else {}
    auth = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    auths = {**held, login.registry: {"auth": auth}}
    return json.dumps({"auths": auths}, sort_keys=True).encode()


def faults(content: bytes) -> list[str]:
    """Return what is wrong with this file; registries are named, their logins never."""
    return _read(content)[1]


def read(content: bytes) -> Logins:
    """Return the logins in this file. Raises UsageError."""
    logins, wrong = _read(content)
    if wrong:
        raise UsageError("The registries' logins cannot be read", why="; ".join(wrong))
    return logins


def add(api: docker.APIClient, content: bytes) -> None:
    """Let ``api`` use these logins besides those that this machine has. Raises UsageError."""
    known = api._auth_configs or {}
    merged = {**known.get("auths", {}), **read(content)}
    api._auth_configs = AuthConfig({**known, "auths": merged})


def use_file(api: docker.APIClient, path: Path) -> None:
    """Let ``api`` use the logins of this file, as it is now, and no others.

    Without the file nothing changes. Threads may share ``api``: a request sees either the logins
    before or these, and both are the site's, not a user's. Raises UsageError.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise UsageError(
            f"The registries' logins in {path} cannot be read", why=exc.strerror or ""
        ) from exc
    # docker-py's own way to set them reads the file by itself, and takes a broken one for none.
    api._auth_configs = AuthConfig({"auths": dict(read(content))})


def _read(content: bytes) -> tuple[dict[str, dict[str, str]], list[str]]:
    try:
        config = json.loads(content)
    except ValueError as exc:
        # Not its text: it may hold a piece of the file.
        line = f", line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else ""
        return {}, [f"is not valid JSON{line}"]
    entries = config.get("auths") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        return {}, ['has no "auths" with the logins of registries in it']
    logins: dict[str, dict[str, str]] = {}
    wrong = []
    for registry, entry in entries.items():
        login = _login(registry, entry)
        if login is not None:
            logins[registry] = login
            continue
        helped = any(config.get(key) for key in _HELPERS)
        where = "; it is in a credential helper, which the nodes cannot ask" if helped else ""
        wrong.append(f'the entry of {registry} has no login in "auth"{where}: {_WRITE}')
    return logins, wrong


def _login(registry: str, entry: Any) -> dict[str, str] | None:
    if not isinstance(entry, dict):
        return None
    token, auth = entry.get("identitytoken"), entry.get("auth")
    if token and isinstance(token, str):
        return {"identitytoken": token, "serveraddress": registry}
    if not isinstance(auth, str):
        return None
    try:
        user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    if not (user and colon):
        return None
    return {"username": user, "password": password, "serveraddress": registry}
