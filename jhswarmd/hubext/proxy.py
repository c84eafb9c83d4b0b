"""The hub's way to its proxy, while the proxy's token is being changed."""

from __future__ import annotations

from typing import Any

from aiohttp import ClientResponseError
from jupyterhub.httpclient import fetch
from jupyterhub.proxy import ConfigurableHTTPProxy
from jupyterhub.utils import url_path_join
from traitlets import List, Unicode


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
        """Ask the proxy; with another token when it does not take this one."""
        tried: set[str] = set()
        while True:
            token = self._tokens()[0]
            tried.add(token)
            try:
                return await super().api_request(path, method=method, body=body)
            except ClientResponseError as exc:
                left = [each for each in self._tokens() if each not in tried]
                if exc.status != 403 or not left:
                    raise
                # One that works is kept; another request may have found one meanwhile.
                if self._tokens()[0] == token:
                    self.older_tokens = [each for each in self._tokens() if each != left[0]]
                    self.auth_token = left[0]

    async def takes(self, token: str) -> bool:
        """Tell whether the proxy takes this token. Raises ClientError when it does not answer."""
        url = url_path_join(self.api_url, "api/routes")
        try:
            await fetch(url, method="GET", headers={"Authorization": f"token {token}"})
        except ClientResponseError as exc:
            if exc.status == 403:
                return False
            raise
        return True
