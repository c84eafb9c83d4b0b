"""Full, valid values; a test names only the fact it is about."""

from __future__ import annotations

from typing import Any

from jhswarmd.model import HubIdentity, HubUser, NotebookService

HUB_ID = "a" * 32


def make_service(**facts: Any) -> NotebookService:
    values: dict[str, Any] = {
        "id": "service-1",
        "name": "jupyter-alice",
        "hub_id": HUB_ID,
        "user": "alice",
        "server": "",
    }
    return NotebookService(**{**values, **facts})


def make_identity(**facts: Any) -> HubIdentity:
    return HubIdentity(**{"hub_id": HUB_ID, **facts})


def make_user(name: str = "alice", **servers: str | None) -> HubUser:
    """``make_user("alice", default=None)``: the default server runs; nothing is pending."""
    return HubUser(name, {"" if key == "default" else key: val for key, val in servers.items()})
