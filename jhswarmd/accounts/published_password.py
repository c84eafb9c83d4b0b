"""The account of the profile ``local``, whose password everybody can read."""

from __future__ import annotations

from jhswarmd.accounts import user_list
from jhswarmd.accounts.hashing import is_hash_of

NAME = "testuser"
PASSWORD = "testpassword"  # noqa: S105 - that it is known is the point


def has_published_password(accounts: user_list.UserList) -> bool:
    """Tell whether a list lets everybody in who has read env/local/user_list.txt of ours."""
    entry = accounts.entries.get(NAME)
    if entry is None or not entry.is_hashed:
        return entry is not None and entry.password == PASSWORD
    return is_hash_of(PASSWORD, entry.password)
