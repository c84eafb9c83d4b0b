"""Give a proxy that started its routes back at once; the hub would take up to five minutes."""

from __future__ import annotations

import logging
import time

from jhswarmd.hub_client import HubClient

log = logging.getLogger(__name__)


class Routes:
    """Asks the hub to restore the proxy's routes. One worker thread only."""

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub
        self.restored_at_s: float | None = None

    def reconcile(self) -> None:
        """Let the hub compare and add what is missing. Raises HubUnknown; then it is repeated."""
        self._hub.restore_routes()
        self.restored_at_s = time.time()
        log.info("Routes restored: a proxy started")
