"""The little logic that ``hub_config/jupyterhub_config.py`` needs."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jhswarmd.errors import JhswarmdError, UsageError
from jhswarmd.hub import checks, site_config
from jhswarmd.settings import settings
from jhswarmd.settings.settings import Settings

_LOG = logging.getLogger(__name__)


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


class SiteRefused(UsageError):
    """What a site set cannot work. ``faults`` are all reasons, in words.

    ``network`` is where notebooks would be: only the deployment can tell whether that is right.
    """

    def __init__(self, faults: Sequence[str], network: str) -> None:
        self.faults = tuple(faults)
        self.network = network
        super().__init__(
            "\n  ".join(["The hub's configuration cannot work:", *faults]),
            remedy="Change it in hub_config/conf.d and deploy again; docs/configuration.md and "
            "docs/spawner.md tell what each option does here.",
        )


def add_site(c: Any, folder: Path, settings: Settings) -> None:
    """Lay what the site sets in ``folder`` over ``c``; warn of what means nothing.

    What the daemon depends on is kept beside it. Raises SiteRefused for what cannot work, all of
    it in one go.
    """
    base = copy.deepcopy(c)
    added = site_config.load(folder)
    classes, wrong_classes = checks.choose_classes(base, added)
    for file in added.files:
        site_config.overlay(c, file, classes.hierarchies)
    for section, option in _KEPT:
        if section in base and option in base[section]:
            c[section][option] = _beside(base[section][option], c[section][option])
    found = checks.faults(c, base, added, classes, settings)
    faults = [*added.faults, *wrong_classes, *found]
    for warning in checks.warnings(c, added, classes, settings):
        _LOG.warning("%s", warning)
    if faults:
        network = checks.final(c, classes.spawner, "network_name")
        raise SiteRefused(sorted(faults, key=_by_line), str(network))


def _by_line(fault: str) -> tuple[str, int]:
    place = re.match(r"(\S+), line (\d+):", fault)
    return (place[1], int(place[2])) if place else ("", 0)


#: Options that hold entries of ours, which stay when a site assigns its own.
_KEPT = (
    ("JupyterHub", "services"),
    ("JupyterHub", "load_roles"),
    ("JupyterHub", "extra_handlers"),
    ("JupyterHub", "tornado_settings"),
    ("JupyterHubHTTPClient", "connector_options"),
)


def _beside(ours: Any, theirs: Any) -> Any:
    """Return a list or dict with both, the site's entries winning over ours in a dict."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return {**ours, **theirs}
    if isinstance(ours, list) and isinstance(theirs, (list, tuple)):
        return [*ours, *(each for each in theirs if each not in ours)]
    return theirs  # JupyterHub says what is wrong with it


def log_with_the_hub() -> None:
    """Send our own log lines where the hub's go; without it all below WARNING are lost.

    Errors of ours are in words for the administrator: the hub logs them without a traceback.
    """
    # As JupyterHub does with tornado's (jupyterhub/app.py, init_logging).
    hub = logging.getLogger("JupyterHub")
    logging.getLogger("jhswarmd").parent = hub
    if _in_words not in hub.filters:
        hub.addFilter(_in_words)


def _in_words(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, JhswarmdError):
        record.msg, record.args = f"{error}\n{error.remedy}", ()
        record.exc_info = record.exc_text = None
    return True
