"""Stops idle servers, with jupyterhub-idle-culler.

It runs in the daemon, under a token of its own with the scopes that it needs: as a process that
the hub manages it would get its token through the environment (architecture, invariant 6).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

from jupyterhub_idle_culler import cull_idle

from jhswarmd.daemon.leader import Leader
from jhswarmd.hub_client import PAGE_SIZE
from jhswarmd.settings.settings import SECRETS_DIR

log = logging.getLogger(__name__)

TOKEN = Path(SECRETS_DIR) / "culler_token"


class Culler:
    """Looks for idle servers at half the idle timeout, at least every 10 minutes."""

    def __init__(
        self,
        url: str,
        idle_timeout_s: int,
        leader: Leader,
        stop: threading.Event,
        token: Path = TOKEN,
    ) -> None:
        self._url = url
        self._idle_timeout_s = idle_timeout_s
        self._leader = leader
        self._stop = stop
        self._token = token
        self._thread = threading.Thread(target=self._run, name="culler", daemon=True)

    def start(self) -> None:
        """Begin, unless servers may be idle for ever."""
        if self._idle_timeout_s:
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(min(600.0, max(1.0, self._idle_timeout_s / 2))):
            if not self._leader.is_active:
                continue
            try:
                token = self._token.read_text().strip()
                asyncio.run(
                    cull_idle(
                        self._url,
                        token,
                        self._idle_timeout_s,
                        logger=log,
                        api_page_size=PAGE_SIZE,
                    )
                )
            except Exception as exc:  # noqa: BLE001 - whatever it meets, it tries again later
                # Not the exception's text: it may repeat a request with its token.
                log.warning("Looking for idle servers failed: %s", type(exc).__name__)
