"""Accounts on the administrator's side: passwords are hashed here, the daemon makes the changes.

Plain-text passwords are hashed on the machine where they were typed or where their file is:
neither Swarm nor the daemon ever receives them from here.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import docker
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_exponential

from jhswarmd import encodings
from jhswarmd.accounts import edits, user_list
from jhswarmd.accounts.hashing import Hasher, hash_password
from jhswarmd.accounts.user_list import Entry
from jhswarmd.api import daemon_client
from jhswarmd.errors import JhswarmdError, UsageError

#: Seconds for the daemons to restart with the new list.
MOUNT_TIMEOUT_S = 90.0
#: Seconds between two progress reports of the hashing.
_REPORT_INTERVAL_S = 1.0

#: Maximum number of names that are shown.
_MAX_SHOWN = 20

Report = Callable[[str], None]


def _ignore(_: str) -> None:
    pass


def hash_list(content: bytes, report: Report = _ignore) -> str:
    """Return a list with hashes only, one line for each line of ``content``."""
    hash_of = _hash_all(content, report)
    return edits.normalise(content, hash_of, is_ours=False)


def _hash_all(content: bytes, report: Report) -> Callable[[Entry], str]:
    plain = [
        (each.name, each.password)
        for each in user_list.parse(content).entries.values()
        if not each.is_hashed
    ]
    hasher = Hasher()
    while left := hasher.work(plain, _REPORT_INTERVAL_S):
        report(f"hashing passwords: {left} of {len(plain)} left")

    def hash_of(entry: Entry) -> str:
        hashed = hasher.get(entry.name, entry.password)
        assert hashed
        return hashed

    return hash_of


def count_plain(accounts: user_list.UserList) -> int:
    """Return the number of plain-text passwords in a list."""
    return sum(not each.is_hashed for each in accounts.entries.values())


def convert(path: Path, report: Report = _ignore) -> int:
    """Replace the plain-text passwords in a file with hashes; return how many.

    All other lines are kept. The file is replaced atomically, with its owner and mode.
    """
    content = read_list(path)
    hash_of = _hash_all(content, report)
    to_convert = {
        line.number: f"{line.entry.name}:{hash_of(line.entry)}".encode()
        for line in user_list.read_lines(content)
        if line.entry and not line.entry.is_hashed
    }
    if to_convert:
        codec, mark = encodings.detect(content)
        # Lines alternating with their line ends.
        parts = re.split(b"(" + encodings.LINE_END_BYTES.pattern + b")", encodings.to_utf8(content))
        for number, line in to_convert.items():
            parts[2 * (number - 1)] = line
        text = b"".join(parts)
        _replace(path, mark + (text if codec == "utf-8" else text.decode().encode(codec)))
    return len(to_convert)


def _replace(path: Path, content: bytes) -> None:
    path = path.resolve()  # the target of a link, not the link
    original = path.stat()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, stat.S_IMODE(original.st_mode))
            if os.geteuid() == 0:
                os.fchown(handle, original.st_uid, original.st_gid)
            file.write(content)
            file.flush()
            os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_list(path: Path) -> bytes:
    """Return the content of a user list. Raises UsageError."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise UsageError(f"{path} cannot be read", why=exc.strerror or "") from exc


def hash_typed(password: str) -> str:
    """Return the hash of a password that was typed; a complete hash is returned as is.

    Raises UsageError for a password that is not allowed.
    """
    try:
        user_list.check_password(password)
    except ValueError as exc:
        raise UsageError("This password cannot be used", why=str(exc)) from None
    except UnicodeEncodeError:
        raise UsageError("This password cannot be used", why="not valid UTF-8") from None
    return password if user_list.is_hash(password) else hash_password(password)


def set_password(
    client: docker.DockerClient, stack: str, name: str, password: str
) -> dict[str, Any]:
    """Change the password of an existing account; return the daemon's answer.

    It takes precedence over the profile's list. Raises JhswarmdError.
    """
    hashed = hash_typed(password)
    held = daemon_client.call_with_retry(client, stack, "users")["accounts"]
    if name not in {each["name"] for each in held}:
        raise UsageError(
            f"There is no account '{name}'",
            remedy=f"See 'jhswarmd users list', or create it with 'jhswarmd users add {name}'.",
        )
    return change(client, stack, "add", name=name, hash=hashed, replace=True)


def change(
    client: docker.DockerClient, stack: str, action: str, **arguments: Any
) -> dict[str, Any]:
    """Have the daemon change the accounts; return its answer (see daemon/user_commands.py).

    Retries while the daemon is being replaced, or busy with another change.
    """
    request = {"action": action, "request": token_hex(16), **arguments}
    answer: dict[str, Any] = daemon_client.call_with_retry(client, stack, "users_change", request)
    return answer


def describe(answer: Mapping[str, Any]) -> list[str]:
    """Return what a change of the list did, as readable lines."""
    lines = [
        f"{what}: {shorten(answer[key])}"
        for key, what in (("comes", "added"), ("goes", "removed"), ("changes", "changed"))
        if answer.get(key)
    ]
    return lines or ["nothing changes"]


def shorten(names: Sequence[str]) -> str:
    """Return the first of the names, and how many more there are."""
    more = len(names) - _MAX_SHOWN
    return ", ".join(names[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")


def wait_mounted(client: docker.DockerClient, stack: str, number: int) -> None:
    """Return once this node's daemon has restarted with this generation, or a newer one."""

    def is_mounted() -> bool:
        try:
            accounts = daemon_client.call(client, stack, "status")["accounts"]
        except JhswarmdError:
            return False
        return (accounts["mounted"] or 0) >= number

    Retrying(
        retry=retry_if_result(lambda mounted: not mounted),
        stop=stop_after_delay(MOUNT_TIMEOUT_S),
        wait=wait_exponential(multiplier=0.2, max=1),
        retry_error_callback=_raise_not_mounted,
    )(is_mounted)


def _raise_not_mounted(_: object) -> None:
    raise JhswarmdError(
        "The accounts were changed, but the daemon has not restarted with them",
        why=f"no success within {MOUNT_TIMEOUT_S:.0f} s",
        remedy="See 'jhswarmd status' and 'docker service ps' of the service jhswarmd.",
    )
