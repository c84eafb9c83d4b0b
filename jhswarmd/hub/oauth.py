"""Logins at a provider (GitHub, OpenID Connect, ...): oauthenticator's classes, made clear.

What is added to each of them:

- Who is not let in, or whose provider fails, reads what happened and what to do next.
- A provider that gives no definite answer lets nobody in, and logs nobody out.
- Who is no longer allowed is logged out at the next refresh, not only kept from the next login.
- What a provider sends is on no page and in no log: it may hold a token.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from contextvars import ContextVar
from http.client import responses
from importlib.metadata import entry_points
from typing import Any, NoReturn
from urllib.parse import urlsplit

import requests
from oauthenticator.oauth2 import OAuthCallbackHandler, OAuthenticator
from tornado import web
from tornado.httpclient import HTTPClientError, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders

#: An error code of OAuth 2.0 (RFC 6749, 4.1.2.1); anything else may be somebody's text.
_ERROR_CODE = re.compile(r"^[a-z_]{1,40}$")

_NO_ANSWER = "does not answer at the moment. Please try again in a few minutes."
_NO_LOGIN = "gave no valid login. Please contact your administrator."


def _refusal(status_code: int, words: str) -> web.HTTPError:
    """Return the error whose page says ``words``, below the status in HTTP's own."""
    return web.HTTPError(status_code, words, reason=responses[status_code])


class ProviderUnclear(Exception):
    """The provider gave no definite answer; unknown is neither yes nor no."""


#: Whether the refresh that goes on met an answer that is not definite: oauthenticator takes any
#: error at a new token for a no.
_is_refresh_unclear: ContextVar[bool] = ContextVar("is_refresh_unclear", default=False)


def _is_unclear(code: int, headers: Any) -> bool:
    # 599 is tornado's for no answer. GitHub says 403 for too many requests, too.
    return (
        code >= 500
        or code == 429
        or (code == 403 and headers is not None and headers.get("X-RateLimit-Remaining") == "0")
    )


class ClearCallback(OAuthCallbackHandler):  # type: ignore[misc]  # untyped
    """Where a provider sends a browser back to; says in words when nobody is logged in."""

    def check_error(self) -> None:
        """Raise HTTPError when the provider says that there is no login."""
        error = self.get_argument("error", "")
        if not error:
            return
        service = self.authenticator.login_service
        if error == "access_denied":
            raise _refusal(
                403,
                f"You did not allow this hub to ask {service} who you are. Log in again to do so.",
            )
        self.log.error(
            "%s refused a login: %s", service, error if _ERROR_CODE.match(error) else "unreadable"
        )
        raise _refusal(
            502, f"{service} refused to log anybody in here. Please contact your administrator."
        )

    def check_state(self) -> None:
        """Raise HTTPError when this browser did not begin this login."""
        try:
            super().check_state()
        except web.HTTPError:
            raise _refusal(
                400, "This login was started elsewhere, or too long ago. Please log in again."
            ) from None


class ClearLogin(OAuthenticator):  # type: ignore[misc]  # untyped
    """What ``authenticator_class`` adds to one of oauthenticator's classes."""

    callback_handler = ClearCallback

    async def authenticate(self, handler: Any, data: Any = None, **kwargs: Any) -> Any:
        """Return who it is. Raises HTTPError with words for them."""
        try:
            return await super().authenticate(handler, data, **kwargs)
        except ProviderUnclear:
            self._fail(503, _NO_ANSWER)
        except (HTTPClientError, web.HTTPError) as exc:
            code = exc.code if isinstance(exc, HTTPClientError) else exc.status_code
            if code >= 500:
                self._fail(502, _NO_LOGIN)
            # Which of the two is not told apart the same way by all providers.
            self.log.error(
                "%s did not accept a login (%s): an old code, or a wrong client id or secret",
                self.login_service,
                code,
            )
            self._fail(
                403,
                "did not accept this login. Please log in again; if that does not help, tell your "
                "administrator.",
            )
        except (KeyError, TypeError, ValueError) as exc:
            self.log.error(
                "%s answered something else than a user (%s)",
                self.login_service,
                type(exc).__name__,
            )
            self._fail(502, _NO_LOGIN)

    async def check_allowed(self, username: str, auth_model: Any) -> bool:
        """Return True for whom the profile lets in. Raises HTTPError with words for all others."""
        try:
            if await super().check_allowed(username, auth_model):
                return True
        except ProviderUnclear:
            self._fail(503, _NO_ANSWER)
        self.log.warning("Not letting in %s: the profile allows it in no way", username)
        raise _refusal(
            403,
            f"{self.login_service} knows you as {username}, but {username} is not allowed to "
            "use this hub. Ask its administrator to add you.",
        )

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> Any:
        """Return what is new about a user, True for nothing, False when they must log in again."""
        _is_refresh_unclear.set(False)
        try:
            model = await super().refresh_user(user, handler, **kwargs)
            if not model and _is_refresh_unclear.get():
                raise ProviderUnclear("no definite answer to a refresh token")
            if (
                not isinstance(model, dict)
                or self.allow_all
                or await super().check_allowed(user.name, model)
            ):
                return model
        except ProviderUnclear as exc:
            self.log.warning("The login of %s stays as it is: %s", user.name, exc)
            return True
        self.log.warning("Ending the logins of %s, who is no longer allowed", user.name)
        # JupyterHub itself ends the one that asks; at notebooks browsers log in by these.
        for token in [each for each in user.orm_user.api_tokens if each.session_id]:
            user.db.delete(token)
        user.db.commit()
        return False

    async def get_token_info(self, handler: Any, params: Any) -> Any:
        """Return what a code or a refresh token gives. Raises as ``fetch``, or HTTPError."""
        try:
            return await super().get_token_info(handler, params)
        except web.HTTPError as exc:
            # Its text repeats what the provider sent, and oauthenticator logs it.
            raise web.HTTPError(exc.status_code) from None

    async def fetch(
        self, req: HTTPRequest, label: str = "fetching", parse_json: bool = True, **kwargs: Any
    ) -> Any:
        """Ask the provider. Raises ProviderUnclear, or HTTPClientError for a definite refusal."""
        try:
            return await self._fetch(req, parse_json=parse_json, **kwargs)
        except ProviderUnclear:
            _is_refresh_unclear.set(True)
            raise

    async def _fetch(self, req: HTTPRequest, *, parse_json: bool, **kwargs: Any) -> Any:
        # oauthenticator's own logs what a failed request was answered, and takes a failing
        # provider's 500 about a membership for 'no member'.
        where = f"{req.method} {urlsplit(req.url)._replace(query='').geturl()}"
        try:
            response = await self.http_client.fetch(req, **kwargs)
        except HTTPClientError as exc:
            self.log.error("%s: %s answered %s", self.login_service, where, exc.code)
            if _is_unclear(exc.code, exc.response and exc.response.headers):
                raise ProviderUnclear(f"{where} answered {exc.code}") from None
            raise
        except OSError as exc:
            self.log.error("%s: %s: %s", self.login_service, where, exc)
            raise ProviderUnclear(f"{where} did not answer") from None
        if _is_unclear(response.code, response.headers):
            self.log.error("%s: %s answered %s", self.login_service, where, response.code)
            raise ProviderUnclear(f"{where} answered {response.code}")
        if not parse_json:
            return response
        try:
            return json.loads(response.body) if response.body else None
        except ValueError:
            self.log.error("%s: %s answered no JSON", self.login_service, where)
            raise ProviderUnclear(f"{where} answered no JSON") from None

    def _fail(self, status_code: int, words: str) -> NoReturn:
        # 'from None': what came before may repeat what the provider sent.
        raise _refusal(status_code, f"{self.login_service} {words}") from None


class ProxiedClient:
    """Asks a provider through the proxies that the environment names; tornado's own knows none."""

    async def fetch(self, request: HTTPRequest, raise_error: bool = True, **_: Any) -> HTTPResponse:
        """Do as tornado's ``AsyncHTTPClient``. Raises HTTPClientError, 599 for no answer."""
        loop = asyncio.get_running_loop()
        try:
            answer = await loop.run_in_executor(None, self._send, request)
        except requests.RequestException as exc:
            raise HTTPClientError(599, type(exc).__name__) from None
        response = HTTPResponse(
            request,
            answer.status_code,
            headers=HTTPHeaders(answer.headers),
            buffer=io.BytesIO(answer.content),
        )
        if raise_error:
            response.rethrow()
        return response

    def _send(self, request: HTTPRequest) -> requests.Response:
        return requests.request(
            request.method,
            request.url,
            data=request.body,
            headers=dict(request.headers),
            timeout=(request.connect_timeout, request.request_timeout),
            allow_redirects=bool(request.follow_redirects),
            verify=request.ca_certs or request.validate_cert is not False,
        )


def authenticator_class(name: str) -> type[ClearLogin]:
    """Return oauthenticator's class that is registered as ``name``, with what is added here.

    It keeps its name, and with it its options (``c.GitHubOAuthenticator.*``).
    """
    (entry,) = entry_points(group="jupyterhub.authenticators", name=name)
    base = entry.load()
    return type(base.__name__, (ClearLogin, base), {})
