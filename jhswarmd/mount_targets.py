"""Where a mount really lands in an image of Debian or one of its kin. Pure.

In those images ``/var/run`` and ``/var/lock`` are absolute symlinks. A mount below one works, but
engines from 28.5.2 on then refuse every archive of that container, even of other paths ("path
escapes from parent"), and the hub's accounts are delivered as an archive.
"""

from __future__ import annotations

import posixpath

_LINKS = {"/var/run": "/run", "/var/lock": "/run/lock"}


def canonical(path: str) -> str:
    """Return the absolute ``path`` that mounts the same place without a symlink on the way.

    A relative one stays as it is: the engine puts it below a directory of its own.
    """
    if not path.startswith("/"):
        return path
    # normpath keeps two leading slashes.
    found = "/" + posixpath.normpath(path).lstrip("/")
    for link, target in _LINKS.items():
        if found == link or found.startswith(f"{link}/"):
            return target + found.removeprefix(link)
    return found
