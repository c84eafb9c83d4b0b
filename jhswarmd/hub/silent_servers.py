"""Asking servers that already ran when the hub started whether they answer.

Nothing is decided by what they say: a notebook is stopped by its user, an administrator, the idle
culler, or because the engine says that it has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout
from jupyterhub.utils import url_path_join

log = logging.getLogger(__name__)

#: Seconds that one request may take.
ANSWER_WITHIN_S = 10.0
#: How many servers are asked at the same time.
MAX_REQUESTS = 50
#: Seconds from the first question to the second; the pauses double, up to the longest.
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0


class Answers:
    """Asks each server until it has answered once, or is stopped.

    The requests have connections of their own: what waits for a silent server must not keep the
    hub from its proxy.
    """

    def __init__(self) -> None:
        # The event loop itself holds tasks only weakly.
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent: dict[Any, str] = {}
        self._turns = asyncio.Semaphore(MAX_REQUESTS)

    def watch(self, user: Any, spawner: Any) -> None:
        """Begin to ask a server of the user's."""
        task = asyncio.ensure_future(self._ask_until_answered(user, spawner))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def silent(self) -> list[str]:
        """Return the servers that run and did not answer: ``USER`` or ``USER:SERVER``."""
        return sorted(self._silent.values())

    async def _ask_until_answered(self, user: Any, spawner: Any) -> None:
        name, log_name = spawner.name, spawner._log_name
        pause_s = FIRST_PAUSE_S
        try:
            # The hub forgets the object of a server that was stopped.
            while user.spawners.get(name) is spawner:
                if spawner.ready:
                    headers = await self._ask(url_path_join(spawner.server.url, "api"))
                    if headers is not None:
                        # JupyterHub keeps it after a start, for the words of its error pages.
                        spawner._jupyterhub_version = headers.get("X-JupyterHub-Version")
                        if spawner in self._silent:
                            log.info("The server of %s answers again", log_name)
                        return
                    if spawner not in self._silent:
                        self._silent[spawner] = log_name
                        log.warning(
                            "The server of %s is running and does not answer; it is left running",
                            log_name,
                        )
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        except Exception:
            log.exception("Whether the server of %s answers is no longer checked", log_name)
        finally:
            self._silent.pop(spawner, None)

    async def _ask(self, url: str) -> Mapping[str, str] | None:
        """Return the headers of the answer, None when there is none that a browser could use."""
        async with self._turns:
            try:
                async with (
                    ClientSession(timeout=ClientTimeout(total=ANSWER_WITHIN_S)) as session,
                    session.get(url, allow_redirects=False) as answer,
                ):
                    return answer.headers if answer.status < 500 else None
            except (ClientError, OSError, asyncio.TimeoutError):
                return None
