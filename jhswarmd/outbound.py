"""Proxies for requests to the outside, and what must never be asked through one.

A company's proxy leads out of its network. This machine, the engine, the stack's services and
networks are on this side of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from urllib.parse import urlsplit

#: Names and addresses of the machine itself.
THIS_MACHINE = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1")
_PROXY_VARIABLE = re.compile(r"(http|https|all|ftp)_proxy", re.IGNORECASE)
_NO_PROXY = ("NO_PROXY", "no_proxy")


def keep_local(environ: MutableMapping[str, str]) -> None:
    """Exempt this machine and the engine that DOCKER_HOST names from the proxies in ``environ``.

    Programs that are started, the docker command and an engine included, inherit it. Changes
    nothing where no proxy is set.
    """
    if not any(value for name, value in environ.items() if _PROXY_VARIABLE.fullmatch(name)):
        return
    engine = urlsplit(environ.get("DOCKER_HOST", ""))
    host = engine.hostname if engine.scheme in ("tcp", "http", "https") else None
    given = [environ.get(name, "") for name in _NO_PROXY]
    value = merged(*given, THIS_MACHINE, [host] if host else [])
    # Some programs read one spelling, some the other.
    environ.update(dict.fromkeys(_NO_PROXY, value))


def merged(*lists: str | Iterable[str]) -> str:
    """Return one value for NO_PROXY from several, each entry once. Pure."""
    entries: list[str] = []
    for each in lists:
        entries += each.replace(",", " ").split() if isinstance(each, str) else each
    return ",".join(dict.fromkeys(entries))
