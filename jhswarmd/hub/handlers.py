"""The hub's additions to its REST API, for the daemon."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from jupyterhub import orm
from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import define_custom_scopes, needs_scope
from tornado import web

from jhswarmd.hub import admins, credentials, identity, startup
from jhswarmd.hub.auth import PAMAuthenticator


class IdentityHandler(APIHandler):  # type: ignore[misc]  # jupyterhub is untyped
    """``GET /hub/api/jhswarmd``: which hub this is, for callers with the scope ``read:hub``."""

    def initialize(self, hub_id: str) -> None:
        """Keep what every answer says."""
        self._hub_id = hub_id

    def _read_identity(self) -> dict[str, Any]:
        found = identity.read(self.db, self._hub_id)
        return {"hub_id": found.hub_id, "spawns": found.spawns}

    @needs_scope("read:hub")  # type: ignore[untyped-decorator]
    def get(self) -> None:
        """Write ``{"hub_id": ..., "spawns": {start: count, ...}, "admins": [name, ...]}``."""
        self.write(json.dumps({**self._read_identity(), "admins": admins.names(self.db)}))


class UserHandler(IdentityHandler):
    """``GET /hub/api/jhswarmd/users/NAME``: which hub this is, and this user's servers.

    One answer with both facts: with two requests the hub could be another one in between. And
    'no such user' is said in so many words, where a 404 could mean 'not allowed'. With
    ``?service=ID`` also ``"holds_asked"``: whether any server of this hub is that service. Its
    labels name the user as they were called when it was made.
    """

    @needs_scope("read:servers")  # type: ignore[untyped-decorator]
    def get(self, user_name: str) -> None:
        """Write the identity and ``"servers"``: null for no such user, else name to pending."""
        user = orm.User.find(self.db, user_name)
        servers: dict[str, str | None] | None = None
        if user is not None:
            # A user whom the hub has not in memory has no server (jupyterhub, user_model).
            spawners = self.users[user.id].spawners if user.id in self.users else {}
            servers = {name: each.pending for name, each in spawners.items() if each.active}
        answer = {**self._read_identity(), "servers": servers}
        service_id = self.get_argument("service", "")
        if service_id:
            answer["holds_asked"] = any(
                each.active and getattr(each, "object_id", "") == service_id
                # A user without a server may not be in memory; one with a server is.
                for holder in list(self.users.values())
                for each in holder.spawners.values()
            )
        self.write(json.dumps(answer))


class SilentHandler(APIHandler):  # type: ignore[misc]
    """``GET /hub/api/jhswarmd/silent``: servers that run, as the engine says, and do not answer."""

    @needs_scope("read:servers")  # type: ignore[untyped-decorator]
    def get(self) -> None:
        """Write ``{"servers": ["USER", "USER:SERVER", ...]}``."""
        self.write(json.dumps({"servers": startup.answers.silent()}))


#: Seconds for which the daemon waits for what came of its report: others stand behind it.
LOOK_WITHIN_S = 2.0
#: What the daemon's token must have to report a server.
REPORT_SCOPE = "custom:jhswarmd:report"
# A handler may only ask for a scope that is defined; the hub defines a site's own ones later.
define_custom_scopes({REPORT_SCOPE: {"description": "Report that a server may have vanished"}})


class ReportHandler(APIHandler):  # type: ignore[misc]
    """``POST /hub/api/jhswarmd/users/NAME/servers/[SERVER]``: this server may have vanished.

    A report is never an order: the hub looks for itself, now instead of at its next round. A late
    or wrong one harms nothing. What the hub then has to do for the server's end may take long (a
    site's ``post_stop_hook``), so it goes on behind an answer that comes in time.
    """

    #: The event loop itself holds tasks only weakly.
    _looks: ClassVar[set[asyncio.Task[Any]]] = set()

    @needs_scope(REPORT_SCOPE)  # type: ignore[untyped-decorator]
    async def post(self, user_name: str, server_name: str) -> None:
        """Poll the server, and write ``{"status": ...}``.

        Null: it is alive, something is pending for it, or that takes longer than
        ``LOOK_WITHIN_S``.
        """
        user = self.find_user(user_name)
        if user is None or server_name not in user.spawners:
            raise web.HTTPError(404)
        spawner = user.spawners[server_name]
        status = None
        if spawner.ready:
            look = asyncio.ensure_future(spawner.poll_and_notify())
            self._looks.add(look)
            look.add_done_callback(self._looks.discard)
            done, _ = await asyncio.wait({look}, timeout=LOOK_WITHIN_S)
            status = look.result() if done else None
        self.write(json.dumps({"status": status}))


class RemovedUsersHandler(APIHandler):  # type: ignore[misc]
    """``POST /hub/api/jhswarmd/removed-users``: accounts may have been removed.

    The hub looks for itself which running servers belong to users without an account.
    """

    def initialize(self, stops: bool) -> None:
        """Keep whether such servers are stopped."""
        self._stops = stops

    @needs_scope(REPORT_SCOPE)  # type: ignore[untyped-decorator]
    async def post(self) -> None:
        """Stop those servers if the profile says so; write whose they are."""
        active = [user for user in list(self.users.values()) if user.active]
        gone: set[str] = set()
        if isinstance(self.authenticator, PAMAuthenticator):
            gone = self.authenticator.removed_among(user.name for user in active)
        removed = [user for user in active if user.name in gone]
        if self._stops:
            stops = [
                self.stop_single_user(user, name)
                for user in removed
                for name, spawner in user.spawners.items()
                if spawner.ready and not spawner.pending
            ]
            for outcome in await asyncio.gather(*stops, return_exceptions=True):
                if isinstance(outcome, Exception):
                    # It goes on by itself, or the daemon asks again.
                    self.log.warning("A removed user's server does not stop: %s", outcome)
        names = [user.name for user in removed if user.active]
        self.write(json.dumps({"users": names, "stops": self._stops}))


class CredentialsHandler(APIHandler):  # type: ignore[misc]
    """``POST /hub/api/jhswarmd/credentials``: secrets of the hub's were changed.

    The hub shows that it works with the newest ones, and drops what hangs on older ones. It may be
    asked again at any time.
    """

    def initialize(self, tokens: credentials.Tokens) -> None:
        """Keep what the hub was started with."""
        self._tokens = tokens

    @needs_scope(REPORT_SCOPE)  # type: ignore[untyped-decorator]
    async def post(self) -> None:
        """Write what was found and done.

        With ``ends_logins`` in the body, what browsers got before this hub began ends.
        ``forgotten`` is null for a caller with an older token, who still needs it.
        """
        ends_logins = bool((self.get_json_body() or {}).get("ends_logins"))
        uses_newest = self.get_auth_token() == self._tokens.services["jhswarmd"]
        answer = {
            **await credentials.look_at_proxy(self.proxy, self._tokens),
            "encrypted": await credentials.encrypt_anew(self.db),
            "ended": await credentials.end_logins(self.db) if ends_logins else 0,
            "forgotten": credentials.forget_superseded_tokens(self.db, self._tokens)
            if uses_newest
            else None,
        }
        self.write(json.dumps(answer))


def handlers(
    hub_id: str, tokens: credentials.Tokens, *, stops_removed: bool = False
) -> list[tuple[str, type[APIHandler], dict[str, Any]]]:
    """Return what to add to ``c.JupyterHub.extra_handlers``."""
    return [
        (r"/api/jhswarmd/removed-users", RemovedUsersHandler, {"stops": stops_removed}),
        (r"/api/jhswarmd/credentials", CredentialsHandler, {"tokens": tokens}),
        (r"/api/jhswarmd/silent", SilentHandler, {}),
        (r"/api/jhswarmd", IdentityHandler, {"hub_id": hub_id}),
        (r"/api/jhswarmd/users/([^/]+)", UserHandler, {"hub_id": hub_id}),
        (r"/api/jhswarmd/users/([^/]+)/servers/([^/]*)", ReportHandler, {}),
    ]
