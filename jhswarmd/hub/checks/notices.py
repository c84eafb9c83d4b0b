"""What works, or means nothing, and what an administrator should know about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from jupyterhub.auth import Authenticator, DummyAuthenticator
from jupyterhub.proxy import Proxy
from jupyterhub.spawner import Spawner
from traitlets.config import Config

from jhswarmd.credentials.rotation import COOKIE_LIFETIME
from jhswarmd.hub.auth import PAMAuthenticator
from jhswarmd.hub.checks import fixed
from jhswarmd.hub.checks.common import (
    HUB,
    MAX_WORDS,
    PAM,
    SPAWNER,
    Classes,
    final,
    installed_classes,
    plain,
    settings_of,
)
from jhswarmd.hub.checks.spawner import NO_EFFECT
from jhswarmd.hub.site_config import Given, Site, section_names
from jhswarmd.settings.settings import Settings

#: The group of the accounts that the daemon delivers.
ACCOUNTS_GROUP = "jhswarmd"
#: Seconds for which the login of a removed account may go on without a warning.
_REFRESH_MOST_S = 60
#: Directories of a node that tell or give every user what is the node's.
_OF_THE_NODE = ("/etc", "/root", "/proc", "/sys", "/dev", "/run", "/var/run", "/var/lib", "/boot")


#: Options that mean something to ``internal_ssl`` alone.
_OF_INTERNAL_SSL = (
    "internal_certs_location",
    "recreate_internal_certs",
    "external_ssl_authorities",
    "trusted_alt_names",
)


def warnings(c: Config, site: Site, classes: Classes, settings: Settings) -> Iterator[str]:
    """Yield what works, or means nothing, and what an administrator should know about it."""
    yield from site.unjudged
    yield from _no_effect(site, classes)
    yield from _host_files(c)
    yield from _unkept(c, classes.spawner)
    yield from _lasting(site)
    yield from _who_may_log_in(c, site, classes, settings)


def _no_effect(site: Site, classes: Classes) -> Iterator[str]:
    sections = {name for cls in classes.all for name in section_names(cls)}
    known = installed_classes()
    for given in site.given():
        if given.section in SPAWNER and given.option in NO_EFFECT:
            yield f"{given.place}: {given.name} has no effect: {NO_EFFECT[given.option]}"
        elif given.section in HUB and given.option in _OF_INTERNAL_SSL:
            yield (
                f"{given.place}: {given.name} has no effect: it belongs to "
                "c.JupyterHub.internal_ssl, which does not work on Swarm"
            )
        elif given.section and given.section not in sections and given.section in known:
            if _is_of_a_choice(known[given.section]):
                yield (
                    f"{given.place}: {given.name} has no effect: {given.section} is not what the "
                    "hub uses"
                )
        elif about := _outdated(given, classes):
            yield f"{given.place}: {given.name} is outdated: {about}"


def _outdated(given: Given, classes: Classes) -> str:
    """Return what JupyterHub says of an option that it wants to be used no more."""
    if any(given.option == option for _, option, *_ in fixed.OPTIONS):
        return ""
    for cls in classes.all:
        if given.section in section_names(cls) and given.option in cls.class_traits():
            about = " ".join(cls.class_traits()[given.option].help.split())
            if about.upper().startswith("DEPRECATED"):
                return about[:MAX_WORDS]
    return ""


def _is_of_a_choice(cls: Any) -> bool:
    """Tell whether the hub chooses one class of this kind (None: of an entry point)."""
    return cls is None or issubclass(cls, (Spawner, Authenticator, Proxy))


def _host_files(c: Config) -> Iterator[str]:
    for option in ("volumes", "read_only_volumes", "shared_volumes"):
        for name, value in settings_of(c, option):
            given = [str(each) for each in value] if isinstance(value, dict) else []
            if found := [source for source in given if _is_of_the_node(source)]:
                yield (
                    f"{name} gives every user {', '.join(found)} of the node: what is there "
                    "(password hashes, keys, the engine's socket) can be read in each notebook, "
                    "and changed where it is not mounted read-only"
                )


def _unkept(c: Config, spawner: type[Spawner]) -> Iterator[str]:
    """Find that what users save is in no volume."""
    folder = final(c, spawner, "notebook_dir")
    targets = [
        str(bind.get("bind") if isinstance(bind, dict) else bind)
        for option in ("volumes", "read_only_volumes", "shared_volumes")
        if isinstance(binds := final(c, spawner, option), dict)
        for bind in binds.values()
    ]
    if isinstance(folder, str) and folder.startswith("/"):
        path = PurePosixPath(folder)
        if not any(path.is_relative_to(target) for target in targets):
            yield (
                f"notebooks open {folder}, which is in none of c.SwarmSpawner.volumes: what users "
                "save there is lost when their server stops"
            )


def _lasting(site: Site) -> Iterator[str]:
    most = COOKIE_LIFETIME.days
    for given in site.given(HUB, "cookie_max_age_days"):
        if isinstance(given.value, (int, float)) and given.value > most:
            yield (
                f"{given.place}: {given.name} has no effect beyond {most} days: the key that signs "
                "logins is kept as long as that after a rotation"
            )


def _is_of_the_node(source: str) -> bool:
    path = source.rstrip("/") or "/"
    inside = any(f"{path}/".startswith(f"{each}/") for each in _OF_THE_NODE)
    return source.startswith("/") and (path == "/" or (inside and "username}" not in path))


def _who_may_log_in(c: Config, site: Site, classes: Classes, settings: Settings) -> Iterator[str]:
    uses_pam = issubclass(classes.authenticator, PAMAuthenticator)
    for given in site.given(HUB, "authenticator_class"):
        if not settings.uses_oauth and not uses_pam:
            yield (
                f"{given.place}: {given.name} decides who may log in, not the accounts of "
                "user_list.txt: 'jhswarmd users' has no effect"
            )
        if issubclass(classes.authenticator, DummyAuthenticator):
            yield f"{given.place}: {given.name} lets people in with any name they like"
    if not uses_pam:
        return
    for option in ("allowed_groups", "admin_groups"):
        for given in site.given(PAM, option):
            groups = plain(given.value, set())
            if isinstance(groups, (set, list, tuple)) and set(groups) - {ACCOUNTS_GROUP}:
                yield (
                    f"{given.place}: {given.name} names groups without members: all accounts of "
                    f"user_list.txt are in the group '{ACCOUNTS_GROUP}' alone"
                )
    for given in site.given(PAM, "delete_invalid_users"):
        if given.value:
            yield (
                f"{given.place}: {given.name} has no effect: accounts are delivered while the hub "
                "starts, and nobody is forgotten who has none yet"
            )
    for given in site.given(PAM, "auth_refresh_age"):
        age_s = given.value
        if isinstance(age_s, (int, float)) and not 0 < age_s <= _REFRESH_MOST_S:
            until = f"for up to {age_s:g} s" if age_s > 0 else "until they log out"
            yield (
                f"{given.place}: {given.name} keeps people logged in {until} whose account is "
                "removed"
            )
    if final(c, classes.authenticator, "allowed_groups"):
        for given in site.given(PAM, "allowed_users"):
            yield (
                f"{given.place}: {given.name} keeps nobody out: all accounts of user_list.txt may "
                "log in. Instead: take the others off the list, or add "
                "c.PAMAuthenticator.allowed_groups = set()"
            )
