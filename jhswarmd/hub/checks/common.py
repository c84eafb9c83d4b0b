"""What all judgements about a site's options have in common."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import dockerspawner
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator
from jupyterhub.crypto import CryptKeeper
from jupyterhub.httpclient import JupyterHubHTTPClient
from jupyterhub.proxy import Proxy
from jupyterhub.spawner import Spawner
from traitlets.config import Config, Configurable
from traitlets.config.loader import LazyConfigValue

from jhswarmd.hub.auth import PAMAuthenticator
from jhswarmd.hub.proxy import RotatingProxy
from jhswarmd.hub.site_config import Given, section_names

LEAVE_OUT = "leave it out"
MAX_WORDS = 300

HUB = section_names(JupyterHub)
PROXY = section_names(RotatingProxy)
SPAWNER = section_names(dockerspawner.SwarmSpawner)
PAM = section_names(PAMAuthenticator)

COOKIES = "it is a secret of the stack, which the daemon rotates"

#: Values that may be repeated in a message: none of them holds a secret.
_SHOWN = (str, int, float, bool, type(None))
_NOT_SHOWN = ("cookie_secret", "db_url", "proxy_auth_token", "auth_token", "older_tokens", "keys")


@dataclass(frozen=True)
class Classes:
    """The classes that a configuration chooses."""

    spawner: type[Spawner]
    authenticator: type[Authenticator]
    proxy: type[Proxy]

    @property
    def all(self) -> tuple[Any, ...]:
        """Every class of which the hub makes something, and whose options therefore count."""
        chosen = (self.spawner, self.authenticator, self.proxy)
        return (JupyterHub, *chosen, CryptKeeper, JupyterHubHTTPClient)

    @property
    def hierarchies(self) -> list[list[str]]:
        """The sections of each, the most general one first."""
        return [section_names(cls) for cls in self.all]

    def with_subclasses(self, sections: Sequence[str]) -> set[str]:
        """Return ``sections`` and those of the chosen classes that they configure too."""
        mine = set(sections)
        return mine.union(*(names for names in self.hierarchies if mine <= set(names)))


def refusal(given: Given, why: str, instead: str) -> str:
    """Return in words that a value cannot be; one that may be secret is left out."""
    value = given.value
    shown = isinstance(value, _SHOWN) and given.option not in _NOT_SHOWN
    what = f"{given.name} = {value!r}"[:120] if shown else given.name
    return f"{given.place}: {what} cannot work here: {why}. Instead: {instead}"


def did_you_mean(names: Sequence[str], prefix: str) -> str:
    """Return the end of a sentence that proposes ``names``; empty where there is none."""
    return f". Did you mean {' or '.join(prefix + name for name in names)}?" if names else ""


def installed_classes() -> dict[str, Any]:
    """Return the classes with options that the hub's process has, or could load, by name.

    None stands for one that is not loaded.
    """
    found: dict[str, Any] = {
        each.attr: None
        for group in ("jupyterhub.authenticators", "jupyterhub.spawners", "jupyterhub.proxies")
        for each in entry_points(group=group)
    }
    left: list[Any] = [Configurable]
    while left:
        cls = left.pop()
        found[cls.__name__] = cls
        left += cls.__subclasses__()
    return found


def final(c: Config, cls: Any, option: str) -> Any:
    """Return what ``option`` of a class is set to in the end; None: it is not set."""
    values = [c[name][option] for name in section_names(cls) if name in c and option in c[name]]
    return values[-1] if values else None


def plain(value: Any, initial: Any) -> Any:
    """Return what a lazy value makes of ``initial``."""
    if isinstance(value, LazyConfigValue):
        # A copy: it keeps what it made of the first one.
        return copy.deepcopy(value).get_value(initial)
    return value


def settings_of(c: Config, option: str) -> Iterator[tuple[str, Any]]:
    """Yield where the spawner's ``option`` is set in the end, and to what."""
    for section in SPAWNER:
        if section in c and option in c[section]:
            yield f"c.{section}.{option}", c[section][option]


def items(value: Any) -> list[Any]:
    """Return the items of a list, or what is appended to it."""
    value = plain(value, [])
    return list(value) if isinstance(value, (list, tuple)) else []
