"""Accounts, from the administrator's side: hashed here, changed by the daemon.

Plain passwords are hashed on the machine where they were typed or where their file is: neither
Swarm nor the daemon ever gets them from here.
"""

from __future__ import annotations

import os
import re
import secrets as random
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_exponential

from jhswarmd import encodings
from jhswarmd.accounts import edits, user_list
from jhswarmd.accounts.hashing import Hasher, hash_password
from jhswarmd.accounts.user_list import Entry
from jhswarmd.api import daemon_client
from jhswarmd.errors import JhswarmdError, UsageError

#: Seconds in which the daemons are back with the list that they were given.
TAKEN_UP_WITHIN_S = 90.0
#: Seconds between two words about how far the hashing is.
_TELL_EVERY_S = 1.0

#: Names that are shown of many.
_SHOWN = 20

Tell = Callable[[str], None]


def _silent(_: str) -> None:
    pass


def hash_list(content: bytes, tell: Tell = _silent) -> str:
    """Return a list with hashes only, a line for each line of ``content``."""
    hash_of = _hash_all(content, tell)
    return edits.normalise(content, hash_of, is_ours=False)


def _hash_all(content: bytes, tell: Tell) -> Callable[[Entry], str]:
    plain = [
        (each.name, each.password)
        for each in user_list.parse(content).entries.values()
        if not each.is_hashed
    ]
    hasher = Hasher()
    while left := hasher.work(plain, _TELL_EVERY_S):
        tell(f"hashing passwords: {left} of {len(plain)} left")

    def hash_of(entry: Entry) -> str:
        hashed = hasher.get(entry.name, entry.password)
        assert hashed
        return hashed

    return hash_of


def count_plain(accounts: user_list.UserList) -> int:
    """Return how many passwords of a list are plain text."""
    return sum(not each.is_hashed for each in accounts.entries.values())


def convert(path: Path, tell: Tell = _silent) -> int:
    """Replace the plain passwords in a file by hashes; returns how many.

    Every other line stays as it is. The file is replaced as a whole, with its owner and mode.
    """
    content = read_list(path)
    hash_of = _hash_all(content, tell)
    to_convert = {
        line.number: f"{line.entry.name}:{hash_of(line.entry)}".encode()
        for line in user_list.read_lines(content)
        if line.entry and not line.entry.is_hashed
    }
    if to_convert:
        codec, mark = encodings.detect(content)
        # Lines, and between them their ends.
        parts = re.split(b"(" + encodings.LINE_END_BYTES.pattern + b")", encodings.to_utf8(content))
        for number, line in to_convert.items():
            parts[2 * (number - 1)] = line
        text = b"".join(parts)
        _replace(path, mark + (text if codec == "utf-8" else text.decode().encode(codec)))
    return len(to_convert)


def _replace(path: Path, content: bytes) -> None:
    path = path.resolve()  # what a link leads to, not the link
    was = path.stat()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, stat.S_IMODE(was.st_mode))
            if os.geteuid() == 0:
                os.fchown(handle, was.st_uid, was.st_gid)
            file.write(content)
            file.flush()
            os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_list(path: Path) -> bytes:
    """Return the content of a list of users. Raises UsageError."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise UsageError(f"{path} cannot be read", why=exc.strerror or "") from exc


def hash_typed(password: str) -> str:
    """Return the hash of a password that somebody typed; a hash in its full form stays.

    Raises UsageError for one that no account can have.
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
    """Give an account that is there another password; returns what the daemon did.

    It holds whatever the profile's list says later. Raises JhswarmdError.
    """
    hashed = hash_typed(password)
    held = daemon_client.call_with_retry(client, stack, "users")["accounts"]
    if name not in {each["name"] for each in held}:
        raise UsageError(
            f"There is no account '{name}'",
            remedy=f"See 'jhswarmd users list', or make it with 'jhswarmd users add {name}'.",
        )
    return change(client, stack, "add", name=name, hash=hashed, replace=True)


def change(
    client: docker.DockerClient, stack: str, action: str, **arguments: Any
) -> dict[str, Any]:
    """Let the daemon change the accounts; returns what it did (see daemon/user_commands.py).

    A daemon that is being replaced, or busy with another change, is asked again.
    """
    request = {"action": action, "request": random.token_hex(16), **arguments}
    answer: dict[str, Any] = daemon_client.call_with_retry(client, stack, "users_change", request)
    return answer


def describe(answer: Mapping[str, Any]) -> list[str]:
    """Return what a change of the list did, as lines for people."""
    lines = [
        f"{what}: {some(answer[key])}"
        for key, what in (("comes", "added"), ("goes", "removed"), ("changes", "changed"))
        if answer.get(key)
    ]
    return lines or ["nothing changes"]


def some(names: Sequence[str]) -> str:
    """Return the first of the names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def wait_taken_up(client: docker.DockerClient, stack: str, number: int) -> None:
    """Return once the daemon of this node has restarted with this generation, or a newer one."""

    def is_taken_up() -> bool:
        try:
            accounts = daemon_client.call(client, stack, "status")["accounts"]
        except JhswarmdError:
            return False
        return (accounts["mounted"] or 0) >= number

    Retrying(
        retry=retry_if_result(lambda taken_up: not taken_up),
        stop=stop_after_delay(TAKEN_UP_WITHIN_S),
        wait=wait_exponential(multiplier=0.2, max=1),
        retry_error_callback=_not_taken_up,
    )(is_taken_up)


def _not_taken_up(_: object) -> None:
    raise JhswarmdError(
        "The accounts are changed, but the daemon is not back with them",
        why=f"{TAKEN_UP_WITHIN_S:.0f} s went by",
        remedy="See 'jhswarmd status' and 'docker service ps' of the service jhswarmd.",
    )
