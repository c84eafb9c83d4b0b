"""The hub's way to its proxy, while the proxy's token is being changed."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    ServerTimeoutError,
)
from jupyterhub.proxy import ConfigurableHTTPProxy
from jupyterhub.utils import exponential_backoff, url_path_join
from traitlets import List, Unicode

#: Seconds that one request to the proxy may take.
REQUEST_WITHIN_S = 10.0
#: Seconds for which an answer is insisted on, as in JupyterHub.
RETRY_WITHIN_S = 30.0


class RotatingProxy(ConfigurableHTTPProxy):  # type: ignore[misc]  # jupyterhub is untyped
    """JupyterHub's, with older tokens beside the newest one.

    A proxy takes one token only, and is led to a newer one after the hub has it. A hub that had
    the newer one alone would end at its start: it does not try again after a 403.
    """

    older_tokens = List(Unicode(), help="Tokens that were in use before, newest first").tag(
        config=True
    )

    def _tokens(self) -> list[str]:
        newest: str = self.auth_token
        return list(dict.fromkeys([newest, *self.older_tokens]))

    async def api_request(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Ask the proxy; with another token when it does not take this one.

        Retries for as long as JupyterHub does. Raises TimeoutError when the proxy does not answer,
        ClientResponseError when it refuses.
        """
        url = url_path_join(self.api_url, "api/routes", path)
        data = json.dumps(body) if isinstance(body, dict) else body

        async def once() -> Any:
            try:
                async with self.semaphore:
                    return await self._request_with_any_token(url, method, data)
            except ClientResponseError as exc:
                if exc.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    self.log.error("The proxy refused %s %s: %s", method, url, exc.status)
                    raise
                reason = f"status {exc.status}"
            except (ClientError, OSError, asyncio.TimeoutError) as exc:
                reason = str(exc) or f"no answer within {REQUEST_WITHIN_S:g} s"
            self.log.warning("The proxy did not answer %s %s: %s", method, url, reason)
            return False

        return await exponential_backoff(
            once, f"the proxy does not answer at {self.api_url}", timeout=RETRY_WITHIN_S
        )

    async def _request_with_any_token(self, url: str, method: str, data: Any) -> Any:
        tried: set[str] = set()
        while True:
            token = self._tokens()[0]
            tried.add(token)
            try:
                return await request(url, token, method=method, data=data)
            except ClientResponseError as exc:
                left = [each for each in self._tokens() if each not in tried]
                if exc.status != HTTPStatus.FORBIDDEN or not left:
                    raise
                # One that works is kept; another request may have found one meanwhile.
                if self._tokens()[0] == token:
                    self.older_tokens = [each for each in self._tokens() if each != left[0]]
                    self.auth_token = left[0]

    async def takes(self, token: str) -> bool:
        """Tell whether the proxy takes this token. Raises ClientError when it does not answer."""
        try:
            await request(url_path_join(self.api_url, "api/routes"), token)
        except ClientResponseError as exc:
            if exc.status == HTTPStatus.FORBIDDEN:
                return False
            raise
        except asyncio.TimeoutError as exc:
            raise ServerTimeoutError(f"no answer within {REQUEST_WITHIN_S:g} s") from exc
        return True


async def request(url: str, token: str, *, method: str = "GET", data: Any = None) -> ClientResponse:
    """Send one request to the proxy's API and return the answer, its body read.

    On a connection of its own: those of JupyterHub's client are limited, and notebooks that do not
    answer may hold all of them. Raises ClientError, or TimeoutError after ``REQUEST_WITHIN_S``.
    """
    async with (
        ClientSession(timeout=ClientTimeout(total=REQUEST_WITHIN_S)) as session,
        session.request(
            method,
            url,
            headers={"Authorization": f"token {token}"},
            data=data,
            raise_for_status=True,
        ) as answer,
    ):
        await answer.read()
        return answer
