"""Which classes a site may choose."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator
from jupyterhub.auth import PAMAuthenticator as StockPAMAuthenticator
from traitlets import TraitError
from traitlets.config import Config

from jhswarmd.hub.checks.common import HUB, LEAVE_OUT, Classes, refusal
from jhswarmd.hub.proxy import RotatingProxy
from jhswarmd.hub.site_config import Site

_PAM_INSTEAD = (
    "leave it out, and AUTHENTICATOR_TYPE=pam in the profile: that one ends the logins of accounts "
    "that are removed"
)


def choose_classes(base: Config, site: Site) -> tuple[Classes, list[str]]:
    """Return the classes that base and site choose, and what is wrong with the site's choice."""
    faults: list[str] = []

    def choose(option: str, wanted: type[Any], why: str, instead: str) -> Any:
        chosen = _resolve(option, base.JupyterHub[option])
        for given in site.given(HUB, option):
            try:
                cls = _resolve(option, given.value)
            except (TraitError, ImportError, AttributeError) as exc:
                is_missing = isinstance(exc, ImportError) or "could not be imported" in str(exc)
                words = "it is not installed in the hub's image" if is_missing else why
                faults.append(refusal(given, words, _installed_as(given.value) or instead))
                continue
            if cls is StockPAMAuthenticator:
                faults.append(refusal(given, "jhswarmd has one of its own", _PAM_INSTEAD))
            elif issubclass(cls, wanted):
                chosen = cls
            else:
                faults.append(refusal(given, why, instead))
        return chosen

    classes = Classes(
        spawner=choose(
            "spawner_class",
            _resolve("spawner_class", base.JupyterHub.spawner_class),
            "the daemon, status and the users' volumes know the servers of jhswarmd's own spawner "
            "alone",
            f"{LEAVE_OUT}: c.SwarmSpawner and c.DockerSpawner set that spawner's options "
            "(docs/spawner.md); a class of your own must be made of "
            "jhswarmd.spawner.swarm.SwarmSpawner",
        ),
        authenticator=choose(
            "authenticator_class",
            Authenticator,
            "it is not an authenticator",
            "AUTHENTICATOR_TYPE in the profile, or a class that is installed there: 'pam', "
            + ", ".join(f"'{name}'" for name in ("github", "gitlab", "google", "generic-oauth")),
        ),
        proxy=choose(
            "proxy_class",
            RotatingProxy,
            "the stack's proxy is a service of its own, whose token rotates",
            LEAVE_OUT,
        ),
    )
    return classes, faults


def _installed_as(name: Any) -> str:
    """Return how a class is called that an older package had, and JupyterHub has now; '': none."""
    cls = str(name).rpartition(".")[2]
    for each in entry_points(group="jupyterhub.authenticators"):
        if each.attr == cls:
            return f"'{each.name}', which is installed there"
    return ""


def _resolve(option: str, value: Any) -> type[Any]:
    """Return the class that JupyterHub would take. Raises TraitError."""
    trait = JupyterHub.class_traits()[option]
    resolved = trait.validate(None, value)
    if isinstance(resolved, str):
        resolved = trait._resolve_string(resolved)
    return resolved  # type: ignore[no-any-return]
