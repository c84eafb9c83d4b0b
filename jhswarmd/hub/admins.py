"""Admins of the hub: at each start those whom the configuration names, and nobody else.

JupyterHub itself only ever adds admins: who was one once, by the profile or by another admin's
hand, would stay one. Who is an admin by a group of the provider is one again with the next request,
for which JupyterHub asks the provider.
"""

from __future__ import annotations

import logging
from typing import Any

import sqlalchemy as sa
from jupyterhub import orm

_ROLE = "admin"
#: How JupyterHub begins a warning about the two ways of naming admins, of which this makes use.
_ADVICE = "Configuration specifies both admin_users and users in the admin role"


def declare(c: Any) -> None:
    """Make the admin role's list of users complete, so that JupyterHub takes it from all others.

    JupyterHub adds ``admin_users`` of the authenticator to the list, whichever class has them. A
    list of the site's own stays.
    """
    roles = list(c.JupyterHub.load_roles) if "load_roles" in c.JupyterHub else []
    if not any(role.get("name") == _ROLE for role in roles):
        roles.append({"name": _ROLE})
    c.JupyterHub.load_roles = [
        {"users": [], **role} if role.get("name") == _ROLE else role for role in roles
    ]
    logging.getLogger("JupyterHub").addFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    return not str(record.msg).strip().startswith(_ADVICE)


def names(session: Any) -> list[str]:
    """Return the names of all admins, sorted. ``session`` is the hub's own."""
    found = session.execute(sa.select(orm.User.name).where(orm.User.admin.is_(True)))
    return sorted(found.scalars())
