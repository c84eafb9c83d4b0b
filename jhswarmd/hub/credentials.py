"""The hub's part when its secrets are changed: what only it can do, and can show."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from cryptography.fernet import InvalidToken
from jupyterhub import orm
from jupyterhub.crypto import CryptKeeper

from jhswarmd.hub.proxy import RotatingProxy

#: When this hub began to work with its secrets, by its own clock, as its database has it. What
#: browsers got before that may be owed to an older cookie secret.
BEGAN_AT = datetime.now(timezone.utc).replace(tzinfo=None)
#: So many rows are changed at a time; in between the hub answers others.
ROWS = 100


@dataclass(frozen=True)
class Tokens:
    """The tokens that this hub was started with. ``repr`` shows none of them."""

    proxy: Sequence[str] = field(repr=False)
    """Those of the proxy, the newest first."""
    services: Mapping[str, str] = field(repr=False)
    """Those of its services, by the name of the service."""


async def look_at_proxy(proxy: Any, tokens: Tokens) -> dict[str, bool]:
    """Return whether the proxy takes the newest token, and whether it takes an older one."""
    newest, *older = tokens.proxy
    if not isinstance(proxy, RotatingProxy):
        return {"takes_newest": True, "takes_older": False}  # the site's own, with a way of its own
    return {
        "takes_newest": await proxy.takes(newest),
        "takes_older": any([await proxy.takes(token) for token in older if token != newest]),
    }


async def encrypt_anew(session: Any) -> int:
    """Encrypt all kept states of logins with the newest key; returns how many there are.

    What none of the keys can read stays as it is: JupyterHub asks those users to log in again.
    """
    fernet = CryptKeeper.instance().fernet
    if fernet is None:
        return 0
    done = 0
    query = session.query(orm.User.id).filter(orm.User.encrypted_auth_state.isnot(None))
    for ids in _chunks([row.id for row in query]):
        for user in session.query(orm.User).filter(orm.User.id.in_(ids)):
            try:
                user.encrypted_auth_state = fernet.rotate(user.encrypted_auth_state)
            except (InvalidToken, TypeError):  # TypeError: it was cleared meanwhile
                continue
            done += 1
        session.commit()
        await asyncio.sleep(0)
    return done


def forget_superseded_tokens(session: Any, tokens: Tokens) -> int:
    """Delete the tokens of our services that are not the ones of now; returns how many.

    JupyterHub takes every token that it was ever configured with.
    """
    forgotten = 0
    for name, token in tokens.services.items():
        service = orm.Service.find(session, name)
        for each in list(service.api_tokens) if service else ():
            if not each.match(token):
                session.delete(each)
                forgotten += 1
    session.commit()
    return forgotten


async def end_logins(session: Any, before: datetime | None = None) -> int:
    """End what browsers got for notebooks before this hub began; returns how many tokens that were.

    Those logins are cookies of the notebooks' own, which a new key of the hub does not end.
    ``before`` is a moment in UTC without its zone, None: ``BEGAN_AT``.
    """
    before = before or BEGAN_AT
    query = session.query(orm.APIToken.id).filter(
        orm.APIToken.session_id.isnot(None), orm.APIToken.created < before
    )
    ended = 0
    for ids in _chunks([row.id for row in query]):
        for token in session.query(orm.APIToken).filter(orm.APIToken.id.in_(ids)):
            session.delete(token)
            ended += 1
        session.commit()
        await asyncio.sleep(0)
    return ended


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), ROWS):
        yield ids[start : start + ROWS]
