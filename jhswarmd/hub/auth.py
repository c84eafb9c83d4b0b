"""Logins by password: PAM, with a pause after a wrong one; they end when the account is removed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from jupyterhub.auth import PAMAuthenticator as _PAMAuthenticator

#: Seconds that a wrong password costs whoever sent it, as pam_unix has it by default.
WRONG_PASSWORD_S = 2.0
#: Seconds after which a login is looked at anew. A look costs two small reads.
REFRESH_AGE_S = 10
#: Where the daemon delivers the accounts (jhswarmd/reconcile/accounts.py).
ACCOUNTS = Path("/var/lib/extrausers")


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

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> bool:
        """Tell whether a login may go on: not when its account is definitely gone."""
        return not self.removed_among([user.name])

    def system_user_exists(self, user: Any) -> bool:
        """Tell whether a user may be added to the hub; while it starts, any may.

        Accounts are delivered while the hub starts, and are taken away again: a user whom the
        configuration puts into a group or role must not keep the hub from starting. Whoever has no
        account cannot log in.
        """
        # JupyterHub makes its application last, after all users that the configuration names.
        if not hasattr(self.parent, "tornado_application"):
            return True
        return bool(super().system_user_exists(user))

    def removed_among(self, names: Iterable[str]) -> set[str]:
        """Return whose accounts are definitely gone; while the list is not known, nobody's."""
        known = read_names()
        return set() if known is None else set(names) - known


def read_names(folder: Path = ACCOUNTS) -> frozenset[str] | None:
    """Return the names of all accounts; None while they are not all there.

    That is before the daemon has delivered them, while passwords are still being hashed, and in
    the moment in which they are written.
    """
    try:
        # Each delivery makes new files, so that what was read once need not be read again: with ten
        # thousand accounts it takes 10 ms, too long for the hub's loop to do for each user.
        found = [(folder / name).stat() for name in ("passwd", "pending", "ready")]
    except OSError:
        return None
    return _read_names(folder, tuple((each.st_ino, each.st_ctime_ns) for each in found))


@lru_cache(maxsize=2)
def _read_names(folder: Path, version: tuple[tuple[int, int], ...]) -> frozenset[str] | None:
    """Read what ``version`` stands for; what is being written has another one afterwards."""
    try:
        content = (folder / "passwd").read_bytes()
        if (folder / "pending").read_bytes().strip():
            return None
        expected = (folder / "ready").read_text()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != expected:
        return None
    return frozenset(line.partition(":")[0] for line in content.decode().splitlines())
