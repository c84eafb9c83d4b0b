"""Services, cookies, files and what else the hub needs at its start."""

from __future__ import annotations

import ast
import pwd
import shutil
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.services.service import Service
from traitlets.config import Config

from jhswarmd.hub.checks.common import (
    COOKIES,
    HUB,
    LEAVE_OUT,
    did_you_mean,
    items,
    plain,
    refusal,
)
from jhswarmd.hub.site_config import Site

#: The hub's volume, and its working directory: only the running hub has what is there.
_DATA = Path("/srv/jupyterhub")
#: Settings of tornado that make cookies valid.
_TORNADO = ("cookie_secret", "key_version")
#: Seconds after which a hub that does not listen yet is ended by its health check, with a margin.
_LISTENS_WITHIN_S = 100
_INTERPRETERS = ("python", "python3", "sh", "bash", "node", "perl", "ruby")


def wrong_services(base: Config, site: Site) -> Iterator[str]:
    """Find services and roles that cannot work beside ours, or at all."""
    ours = [each["name"] for each in base.JupyterHub.services]
    fields = Service.class_trait_names(input=True)
    for given in site.given(HUB, "services"):
        for service in items(given.value):
            if not isinstance(service, dict) or not service.get("name"):
                yield f"{given.place}: {given.name} has an entry that is not a dict with a 'name'"
                continue
            name = service["name"]
            if service in base.JupyterHub.services:
                continue
            words = [
                f"there is no field '{key}'{did_you_mean(get_close_matches(str(key), fields), '')}"
                for key in service
                if key not in fields
            ]
            if name in ours:
                words.append("jhswarmd has a service of this name. Instead: another name")
            words += _wrong_command(service)
            if _host(service) in _LOOPBACK:
                words.append(
                    "the proxy runs in another container and cannot reach its url. Instead: "
                    "http://hub:PORT, and let the service listen on 0.0.0.0"
                )
            for each in words:
                yield f"{given.place}: the service '{name}' in {given.name} cannot work: {each}"
    for given in site.given(HUB, "load_roles"):
        for role in items(given.value):
            if not isinstance(role, dict) or not role.get("name"):
                yield f"{given.place}: {given.name} has an entry that is not a dict with a 'name'"
            elif role["name"] in ours and role not in base.JupyterHub.load_roles:
                yield (
                    f"{given.place}: the role '{role['name']}' in {given.name} is jhswarmd's own. "
                    "Instead: another name"
                )


_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104 - to be refused


def _host(service: Mapping[str, Any]) -> str:
    try:
        return urlsplit(str(service.get("url") or "")).hostname or ""
    except ValueError:
        return ""  # JupyterHub says what is wrong with it


def _wrong_command(service: Mapping[str, Any]) -> Iterator[str]:
    """Find what a service's command needs and the hub's image does not have."""
    command = service.get("command") or ()
    if isinstance(command, str):
        command = [command]
    if not command or not isinstance(command, (list, tuple)):
        return
    environment = service.get("environment") or {}
    texts = [*command, *(environment.values() if isinstance(environment, dict) else ())]
    if wrong := [each for each in texts if not isinstance(each, str)]:
        yield (
            f"its command and environment hold strings alone, and no {type(wrong[0]).__name__}. "
            "Instead: str(...)"
        )
        return
    user = service.get("user")
    if user and not _has_user(str(user)):
        yield f"the hub's image has no user '{user}'. Instead: {LEAVE_OUT}, or 'nobody'"
    program, *arguments = command
    cwd = Path(str(service.get("cwd") or "."))
    if not cwd.is_dir():
        yield f"its directory {cwd} does not exist in the hub's image"
        return
    path = environment.get("PATH") if isinstance(environment, dict) else None
    found = shutil.which(str(cwd / program) if "/" in program else program, path=path)
    if found is None:
        yield (
            f"its command '{program}' does not exist in the hub's image. Instead: put it into "
            "hub_config, which is /etc/jhswarmd/hub_config there, or run the service elsewhere and "
            "give its url and api_token alone"
        )
        return
    if Path(program).name.rstrip(".0123456789") not in _INTERPRETERS or not arguments:
        return
    is_ours = Path(found).resolve() == Path(sys.executable).resolve()
    if arguments[0] == "-m" and len(arguments) > 1:
        if is_ours and not _has_module(arguments[1]):
            yield f"its module '{arguments[1]}' is not installed in the hub's image"
        return
    script = next((each for each in arguments if not each.startswith("-")), "")
    if "." in script and "-c" not in arguments and not (cwd / script).exists():
        yield (
            f"its script '{script}' does not exist in the hub's image. Instead: put it into "
            "hub_config, which is /etc/jhswarmd/hub_config there (to stop idle servers: "
            "IDLE_TIMEOUT_S in the profile)"
        )
    elif is_ours and script.endswith(".py"):
        for module in sorted(_missing_modules(cwd / script)):
            yield (
                f"its script '{script}' imports {module}, which is not installed in the hub's "
                "image. Instead: run the service elsewhere and give its url and api_token alone"
            )


def _missing_modules(script: Path) -> set[str]:
    """Return what a script imports at once, and what is neither beside it nor installed."""
    try:
        body = ast.parse(script.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return set()
    names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        node.module
        for node in body
        if isinstance(node, ast.ImportFrom) and not node.level
        if node.module
    }
    return {
        name
        for name in (name.partition(".")[0] for name in names)
        if not _has_module(name)
        and not any((script.parent / each).exists() for each in (name, f"{name}.py"))
    }


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _has_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def wrong_start(site: Site) -> Iterator[str]:
    """Find what would log everybody out, or keep the hub from listening."""
    for given in site.given(HUB, "tornado_settings"):
        value = plain(given.value, {})
        for key in [key for key in _TORNADO if isinstance(value, dict) and key in value]:
            yield (
                f"{given.place}: {given.name} with '{key}' cannot work here: {COOKIES}. Instead: "
                "the file cookie_secret of the profile"
            )
    for given in site.given(HUB, "init_spawners_timeout"):
        if isinstance(given.value, int) and not 0 <= given.value <= _LISTENS_WITHIN_S:
            why = (
                "a hub that waits for all notebooks before it listens is ended by its health check"
            )
            yield refusal(given, why, f"0 to {_LISTENS_WITHIN_S}")


#: Options that name a file which the hub writes.
_WRITTEN = ("pid_file", "extra_log_file")


def _exists(path: Path) -> bool:
    """Tell whether the running hub has a path, as far as that can be known."""
    return path.exists() or path == _DATA or _DATA in path.parents


def missing_files(site: Site) -> Iterator[str]:
    """Find pages and pictures that the image does not have; JupyterHub does not miss them."""
    for option in _WRITTEN:
        for given in site.given(HUB, option):
            folder = Path(str(given.value)).parent
            if isinstance(given.value, str) and given.value and not _exists(folder):
                why = f"the directory {folder} does not exist in the hub's image"
                yield refusal(given, why, f"{LEAVE_OUT}, or a file in {_DATA}")
    for given in site.given(HUB, "data_files_path"):
        if isinstance(given.value, str) and not Path(given.value, "templates").is_dir():
            yield refusal(given, "JupyterHub's pages are not there in the hub's image", LEAVE_OUT)
    for option in ("template_paths", "logo_file"):
        for given in site.given(HUB, option):
            for each in items(given.value) or [given.value]:
                path = Path(str(each))
                if isinstance(each, str) and not _exists(path):
                    yield (
                        f"{given.place}: {given.name} cannot work here: {path} does not exist in "
                        "the hub's image. Instead: put it into hub_config, which is "
                        "/etc/jhswarmd/hub_config there"
                    )
