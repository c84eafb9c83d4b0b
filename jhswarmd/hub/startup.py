"""The hub's start, while notebooks run that do not answer.

JupyterHub asks every server that the engine says is running for an HTTP answer before it counts as
running, and stops it after ``http_timeout`` without one (jupyterhub/app.py, check_spawner). What a
silent notebook computes would end with the next restart of the hub. Here the engine's word is
enough: the server is ready at once, so that it has its route and that its user, an administrator
and the idle culler can stop it. It is asked for its answer in the background (``answers``).

How far the start is stands in ``START_FILE``, for the container's health check: it tells a start
that takes long from one that hangs by that file's age.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyterhub.app import JupyterHub
from jupyterhub.user import User

from jhswarmd.hub.silent_servers import Answers

log = logging.getLogger(__name__)

#: What the start is doing, one line. The image makes its directory; elsewhere nothing is written.
START_FILE = Path("/run/jhswarmd-hub/start")
#: Seconds between two lines about the start.
_LOG_EVERY_S = 1.0

_wait_for_answer = User._wait_up
_start_a_service = JupyterHub.start_service

#: What is known about the servers of this hub that ran when it started.
answers = Answers()


def keep_silent_servers() -> None:
    """Let no server that the engine says is running depend on its answer at the hub's start."""
    User._wait_up = _wait_up


async def _wait_up(user: Any, spawner: Any) -> Any:
    # Pending 'check' is a server at the hub's start alone; one that is being spawned has to answer.
    if not spawner._check_pending:
        return await _wait_for_answer(user, spawner)
    answers.watch(user, spawner)
    return spawner


def keep_going_without_services() -> None:
    """Let no service of the site that does not run end the hub, and with it everybody's access.

    JupyterHub ends when one that it starts itself, and that has a url, ends or does not answer;
    by then its API has been listening for a while, so that it counts as healthy each time.
    """
    JupyterHub.start_service = _start_service


async def _start_service(
    app: JupyterHub, service_name: str, service: Any, ssl_context: Any = None
) -> bool:
    if not await _start_a_service(app, service_name, service, ssl_context) and service.managed:
        log.error(
            "The service %s does not run; the hub goes on without it. Its own words are above; "
            "change it in hub_config/conf.d and run 'jhswarmd up'",
            service_name,
        )
    return True


class StartProgress:
    """How many of the servers that the hub knows are checked, reported while that changes."""

    def __init__(self, path: Path = START_FILE) -> None:
        self._path = path
        self._total = self._done = 0
        self._logged_at = time.monotonic()

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Count one server as being checked for a block. All begin before the first one ends."""
        self._total += 1
        self._write()
        try:
            yield
        finally:
            self._done += 1
            self._write()
            self._log()

    def __str__(self) -> str:
        return f"{self._done} of {self._total} servers checked"

    def _log(self) -> None:
        now = time.monotonic()
        if self._done == self._total or now - self._logged_at > _LOG_EVERY_S:
            self._logged_at = now
            log.info("The hub is starting: %s", self)

    def _write(self) -> None:
        if not self._path.parent.is_dir():
            return
        try:
            self._path.write_text(f"{self}\n", encoding="utf-8")
        except OSError as exc:
            log.warning("The health check cannot see how far the hub's start is: %s", exc)


_progress = StartProgress()


# A function, not a method: traitlets copies what is configured, a method together with its object.
def checking() -> Any:
    """Return a context manager for the check of one server; ``c.SwarmSpawner.during_check``."""
    return _progress.checking()
