"""The hub's additions to its REST API."""

from __future__ import annotations

import json

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import needs_scope

from jhswarmd.model import HubIdentity


class IdentityHandler(APIHandler):  # type: ignore[misc]  # jupyterhub is untyped
    """``GET /hub/api/jhswarmd``: which hub this is, for callers with the scope ``read:hub``."""

    def initialize(self, identity: HubIdentity) -> None:
        """Keep what every answer says."""
        self._identity = identity

    @needs_scope("read:hub")  # type: ignore[untyped-decorator]
    def get(self) -> None:
        """Write ``{"hub_id": ..., "starts": ...}``."""
        self.write(json.dumps({"hub_id": self._identity.hub_id, "starts": self._identity.starts}))


def handlers(identity: HubIdentity) -> list[tuple[str, type[APIHandler], dict[str, HubIdentity]]]:
    """Return what to add to ``c.JupyterHub.extra_handlers``."""
    return [(r"/api/jhswarmd", IdentityHandler, {"identity": identity})]
