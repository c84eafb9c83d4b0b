"""Load the hub's configuration where nothing depends on it, and report what is wrong with it.

``jhswarmd up`` runs this in a throw-away container of the hub's image before it touches the hub
that runs (``jhswarmd/deploy/config_check.py``). There is no network, no volume and no secret of
the deployment there: secrets are placeholders. The report, a JSON object, is all that is written
to the standard output.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jupyterhub.app import JupyterHub

from jhswarmd.hub import checks, site_config
from jhswarmd.hub.config import SiteRefused
from jhswarmd.settings import settings

#: Where the image has the hub's configuration.
CONFIG = Path("/etc/jhswarmd/hub_config/jupyterhub_config.py")
#: Seconds that loading may take before the line that holds it up is named.
LOADS_WITHIN_S = 30


_NOBODY = (
    "nobody but administrators may log in: neither allowed_users nor allow_all is set, nor "
    "anything else that allows people (docs/logins.md)"
)


class _Log(logging.Handler):
    """Keeps our own warnings, and the hub's last error.

    The hub replaces the handlers of its own logger when it reads its configuration, so that one is
    listened to by a filter.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []
        self.last_error = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of ours."""
        self.warnings.append(record.getMessage())

    def keep_error(self, record: logging.LogRecord) -> bool:
        """Keep a line of the hub's that tells an error; let every line through."""
        if record.levelno >= logging.ERROR:
            self.last_error = record.getMessage()
        return True


def rehearse(config: Path) -> dict[str, Any]:
    """Return what is wrong with the configuration (``faults``), what to know (``warnings``) and in
    which network notebooks would be (``network``). Never raises for what the configuration does.
    """
    log = _Log()
    ours, hubs = logging.getLogger("jhswarmd"), logging.getLogger("JupyterHub")
    ours.addHandler(log)
    hubs.addFilter(log.keep_error)
    try:
        return _rehearse(config, log)
    finally:
        ours.removeHandler(log)
        hubs.removeFilter(log.keep_error)


def _rehearse(config: Path, log: _Log) -> dict[str, Any]:
    # The hub's only one: its keeper of keys asks that one for the configuration.
    app = JupyterHub.instance()
    faults: Sequence[str] = ()
    network = ""
    try:
        asyncio.run(app.initialize(["-f", str(config)]))
    except SiteRefused as exc:
        faults, network = exc.faults, exc.network
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever the options lead to
        words = f"{type(exc).__name__}: {exc}"
        if isinstance(exc, SystemExit):
            words = exc.code if isinstance(exc.code, str) else log.last_error
        faults = [f"JupyterHub does not start with it: {' '.join(words.split())[:500]}"]
    if not faults:
        faults = list(_broken_pages(app))
        if not app.authenticator.any_allow_config:
            log.warnings.append(_NOBODY)
        network = checks.final(app.config, app.spawner_class, "network_name")
    return {"faults": list(faults), "warnings": log.warnings, "network": network}


def _broken_pages(app: JupyterHub) -> Iterator[str]:
    """Find pages of the site that cannot be shown: the hub would run, and answer 500 there."""
    templates = app.tornado_settings["jinja2_env_sync"]
    for folder in map(Path, app.template_paths):
        if folder == Path(app.data_files_path, "templates"):
            continue
        for page in sorted(folder.rglob("*.html")):
            try:
                templates.get_template(page.relative_to(folder).as_posix())
            except TemplateError as exc:
                line = getattr(exc, "lineno", None)
                at = page if line is None else f"{page}, line {line}"
                yield f"{at}: {type(exc).__name__}: {exc.message}"


def _watch(absent: Sequence[str]) -> None:
    """Note what a site's file uses that is not here: networks, and what is below ``absent``."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo"):
            site_config.out_of_reach.append("a network")
        elif event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            path = os.fspath(arguments[0])
            if isinstance(path, str) and path.endswith(".py") and "/conf.d/" in path:
                # The last words of a file that ends the process.
                os.write(2, f"Loading {path}\n".encode())
            if any(f"{path}/".startswith(f"{each}/") for each in absent):
                site_config.out_of_reach.append(path)

    sys.addaudithook(hook)


def _put_placeholders(names: Sequence[str]) -> None:
    """Write a random secret for each name: of the stack's folder, or an absolute path."""
    for name in names:
        path = Path(settings.SECRETS_DIR, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))


def _end_late(signum: int, frame: Any) -> NoReturn:
    raise TimeoutError(f"loading takes longer than {LOADS_WITHIN_S} s")


def main() -> None:
    """Rehearse with ``{"secrets": [...], "absent": [...]}``, the only argument."""
    asked = json.loads(sys.argv[1])
    report_to = os.dup(1)
    # What a site's files print is none of the report.
    os.dup2(2, 1)
    _put_placeholders(asked["secrets"])
    _watch([settings.SECRETS_DIR, *asked["absent"]])
    signal.signal(signal.SIGALRM, _end_late)
    signal.alarm(LOADS_WITHIN_S)
    report = rehearse(CONFIG)
    signal.alarm(0)
    os.write(report_to, json.dumps(report).encode())
    # At once: threads that a site's files started do not hold it up.
    os._exit(0)


if __name__ == "__main__":
    main()
