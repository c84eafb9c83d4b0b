"""Users whose account was removed while a server of theirs runs.

The hub looks for itself, with the accounts that it has, and does what the profile says: keep such a
server until its user's or the culler's stop, or stop it. The volume stays either way.
"""

from __future__ import annotations

import logging

from jhswarmd.hub_client import HubClient
from jhswarmd.log import event

log = logging.getLogger(__name__)

#: Seconds until the next look at servers that the hub stops.
STOPPING_S = 5.0
#: Seconds until the next look at those that it keeps.
KEPT_S = 60.0


class RemovedUsers:
    """Asks the hub of this node. One worker thread only."""

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub
        self.with_servers: frozenset[str] = frozenset()

    def reconcile(self) -> float | None:
        """Let the hub look; returns the seconds until the next look, None without such users."""
        users, stops = self._hub.enforce_removed_users()
        for user in sorted(set(users) - self.with_servers):
            log.info(
                event("The account is gone, its server runs", user=user, server_is_stopped=stops)
            )
        self.with_servers = frozenset(users)
        if not users:
            return None
        return STOPPING_S if stops else KEPT_S
