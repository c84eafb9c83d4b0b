"""The only client of the hub's REST API.

Anything that is not a definite answer raises HubUnknown: an error status, HTML, truncated JSON, a
missing key, a token that may not see all servers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import requests

from jhswarmd.errors import HubMalformed, HubRefused, HubScope, HubSilent
from jhswarmd.model import HubIdentity, HubUser

#: Seconds until a request without an answer is given up: to connect, and between two bytes.
TIMEOUT_S = (3.05, 30.0)
#: JupyterHub's own maximum.
PAGE_SIZE = 200
_PAGINATED = "application/jupyterhub-pagination+json"
#: What the token must be able to see, unfiltered, before 'not there' means anything.
NEEDED_SCOPES = frozenset({"list:users", "read:servers"})


class HubClient:
    """The hub at ``url``, for example ``http://hub:8081/hub/api``."""

    def __init__(self, url: str, token: str, session: requests.Session | None = None) -> None:
        self._url = url.rstrip("/")
        self._session = session or requests.Session()
        # The hub is on a network of ours; a proxy of the site must not come between.
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"token {token}"

    def read_identity(self) -> HubIdentity:
        """Return which hub this is, after making sure that the token sees all servers.

        Without that a listing means nothing: JupyterHub leaves out what a token may not see.
        """
        scopes = set(_need(self._get("/user"), "scopes", list))
        if not scopes >= NEEDED_SCOPES:
            raise HubScope(
                "The daemon's token may not see all servers",
                why=f"missing: {', '.join(sorted(NEEDED_SCOPES - scopes))}",
                remedy="Run 'jhswarmd up' again: it deploys the hub with the daemon's role.",
            )
        return _identity(self._get("/jhswarmd"))

    def list_silent(self) -> list[str]:
        """Return the servers that run and do not answer the hub: ``USER`` or ``USER:SERVER``.

        None is known to a hub of an older version.
        """
        path = "/jhswarmd/silent"
        response = self._request("GET", path, accepted=(404,))
        if response.status_code == 404:
            return []
        return [str(each) for each in _need(_json(response, f"GET {path}"), "servers", list)]

    def read_user(self, name: str, service_id: str = "") -> tuple[HubIdentity, HubUser | None]:
        """Return which hub answers, and the user: None when it definitely has no such user.

        With ``service_id`` the hub also says whether any of its servers is that service
        (``HubUser.holds_asked``): one that does not is None, or has it False.
        """
        path = f"/jhswarmd/users/{quote(name, safe='')}"
        answer = self._get(path, params={"service": service_id} if service_id else None)
        identity = _identity(answer)
        holds_asked = bool(service_id) and _need(answer, "holds_asked", bool)
        if answer.get("servers", ...) is None:
            return identity, HubUser(name, {}, holds_asked=True) if holds_asked else None
        servers = {key: _pending(it) for key, it in _need(answer, "servers", dict).items()}
        return identity, HubUser(name, servers, holds_asked=holds_asked)

    def list_users(self) -> Iterator[HubUser]:
        """Yield all users. Pages are no snapshot: confirm a single user before acting."""
        offset = 0
        while True:
            page = self._get(
                "/users", params={"offset": offset, "limit": PAGE_SIZE}, accept=_PAGINATED
            )
            for item in _need(page, "items", list):
                yield _user(item)
            following = _need(page, "_pagination", dict).get("next")
            if following is None:
                return
            further = _need(following, "offset", int)
            if further <= offset:
                raise HubMalformed("The hub's answer leads back to a page that was read")
            offset = further

    def check_server(self, user: str, server: str) -> bool:
        """Make the hub look at once whether a server is still alive; it may find that it is.

        Returns whether it has found that the server has ended.
        """
        path = f"/jhswarmd/users/{quote(user, safe='')}/servers/{quote(server, safe='')}"
        response = self._request("POST", path, accepted=(404,))
        if response.status_code == 404:  # the hub has forgotten it by itself
            return False
        answer = _json(response, f"POST {path}")
        if not isinstance(answer, dict) or "status" not in answer:
            raise HubMalformed(f"The hub's answer to POST {path} lacks 'status'")
        return answer["status"] is not None

    def enforce_removed_users(self) -> tuple[list[str], bool]:
        """Let the hub look for running servers of users without an account.

        Returns whose they are, and whether the hub stops them.
        """
        path = "/jhswarmd/removed-users"
        answer = _json(self._request("POST", path), f"POST {path}")
        return _need(answer, "users", list), _need(answer, "stops", bool)

    def check_credentials(self, *, ends_logins: bool = False) -> Mapping[str, Any]:
        """Let the hub show that it works with its newest secrets; see hub/handlers.py.

        With ``ends_logins`` it ends the logins of browsers that are older than its own start.
        """
        path = "/jhswarmd/credentials"
        response = self._request("POST", path, body={"ends_logins": ends_logins})
        answer = _json(response, f"POST {path}")
        for key in ("takes_newest", "takes_older"):
            _need(answer, key, bool)
        return dict(answer)

    def restore_routes(self) -> None:
        """Let the hub compare the proxy's routes with what it knows, and add what is missing."""
        self._request("POST", "/proxy")

    def _get(
        self,
        path: str,
        *,
        params: Mapping[str, int | str] | None = None,
        accept: str = "application/json",
    ) -> Any:
        return _json(self._request("GET", path, params=params, accept=accept), f"GET {path}")

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, int | str] | None = None,
        accept: str = "application/json",
        accepted: tuple[int, ...] = (),
        body: Mapping[str, Any] | None = None,
    ) -> requests.Response:
        try:
            response = self._session.request(
                method,
                self._url + path,
                params=params,
                json=body,
                headers={"Accept": accept},
                timeout=TIMEOUT_S,
                allow_redirects=False,
            )
        except requests.RequestException as exc:
            # Not str(exc): it may repeat request headers, and with them the token.
            raise HubSilent(
                f"No answer from the hub to {method} {path}", why=type(exc).__name__
            ) from None
        if response.status_code not in accepted and (not response.ok or response.is_redirect):
            raise HubRefused(f"The hub answered {response.status_code} to {method} {path}")
        return response


def _json(response: requests.Response, asked: str) -> Any:
    try:
        return response.json()
    except requests.JSONDecodeError as exc:
        raise HubMalformed(f"The hub's answer to {asked} is not valid JSON") from exc


def _identity(answer: Any) -> HubIdentity:
    spawns = _need(answer, "spawns", dict)
    if not all(isinstance(count, int) for count in spawns.values()):
        raise HubMalformed("The hub's answer has a count that is no number")
    admins = answer.get("admins")
    return HubIdentity(
        hub_id=_need(answer, "hub_id", str),
        spawns=spawns,
        admins=tuple(map(str, admins)) if isinstance(admins, list) else None,
    )


def _user(item: Any) -> HubUser:
    servers = {}
    # Without the scope read:servers the key is missing, not empty.
    for name, server in _need(item, "servers", dict).items():
        if not isinstance(server, dict) or "pending" not in server:
            raise HubMalformed("The hub's answer has a server without its state")
        servers[name] = _pending(server["pending"])
    return HubUser(name=_need(item, "name", str), servers=servers)


def _pending(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise HubMalformed("The hub's answer has a server in an unknown state")
    return value


def _need(answer: Any, key: str, kind: type) -> Any:
    value = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise HubMalformed(f"The hub's answer lacks '{key}'")
    return value
