"""Logins by password: PAM, with a pause after a wrong one."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyterhub.auth import PAMAuthenticator as _PAMAuthenticator

#: Seconds that a wrong password costs whoever sent it, as pam_unix has it by default.
WRONG_PASSWORD_S = 2.0


class PAMAuthenticator(_PAMAuthenticator):  # type: ignore[misc]
    """JupyterHub's, with the pause after a wrong password in the event loop.

    pam_unix would take its pause in one of JupyterHub's four threads for PAM: four people who
    mistype their passwords would hold up everybody's login.
    """

    async def authenticate(self, handler: Any, data: Any) -> Any:
        """Return the user's name, or None after the pause."""
        name = await super().authenticate(handler, data)
        if name is None:
            await asyncio.sleep(WRONG_PASSWORD_S)
        return name
