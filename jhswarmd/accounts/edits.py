"""The list of users as Swarm holds it: hashes, and marks that tell where a line is from. Pure.

It is a list as administrators write them. The lines of the profile's file come first, each in its
place, so that a refused one keeps its number; below the mark ``ADDED`` is what ``users add`` gave.
A name that ``users remove`` took away has a mark, so that a later change of the file does not
bring it back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from jhswarmd.accounts import user_list
from jhswarmd.accounts.user_list import MARK, REFUSED, Entry

ADDED = MARK + "added"
_REMOVED = MARK + "removed "
#: A line that says nothing, and keeps the numbers of those behind it.
_NOTHING = "#"


class NotPossible(ValueError):
    """The list does not allow this change; the text says why and names no password."""


@dataclass(frozen=True)
class Account:
    """One account. ``source`` is ``list``, or ``added`` for one that ``users add`` gave."""

    name: str
    source: str
    is_hashed: bool


@dataclass(frozen=True)
class Change:
    """Names that a change brings, takes away, or gives another password."""

    comes: tuple[str, ...]
    goes: tuple[str, ...]
    changes: tuple[str, ...]


def normalise(
    content: bytes,
    hash_of: Callable[[Entry], str],
    *,
    is_ours: bool,
    system_names: Collection[str] = (),
) -> str:
    """Return the list with hashes only, a line for each line.

    Comments, which may hold anything, become empty ones. Our own marks stay when the list is
    ours; in an administrator's file they mean nothing.
    """
    lines = []
    for line in user_list.read_lines(content, system_names):
        if line.entry:
            hashed = line.entry.password if line.entry.is_hashed else hash_of(line.entry)
            lines.append(f"{line.entry.name}:{hashed}")
        elif line.refusal:
            lines.append(REFUSED + line.refusal)
        else:
            lines.append(line.mark if is_ours and line.mark else _NOTHING)
    while lines and lines[-1] == _NOTHING:
        lines.pop()
    return _joined(lines)


def accounts(content: bytes, system_names: Collection[str] = ()) -> list[Account]:
    """Return the accounts of a list, normalised or not."""
    source, found = "list", []
    for line in user_list.read_lines(content, system_names):
        if line.mark == ADDED:
            source = "added"
        elif line.entry:
            found.append(Account(line.entry.name, source, line.entry.is_hashed))
    return found


def add(text: str, name: str, hashed: str, *, replace: bool) -> str:
    """Return the list with one more account, or with another password for one that is there.

    Raises NotPossible when the account is there already and ``replace`` is not set.
    """
    if name in _names(text) and not replace:
        raise NotPossible("the account is there already")
    file, added = _sections(_without(text, name))
    return _joined([*file, ADDED, *added, f"{name}:{hashed}"])


def remove(text: str, name: str) -> str:
    """Return the list without an account, and with a mark that keeps it out. Raises NotPossible."""
    if name not in _names(text):
        raise NotPossible("there is no such account")
    file, added = _sections(_without(text, name))
    return _joined([*file, ADDED, *added, _REMOVED + name])


def merge(text: str, file_text: str) -> str:
    """Return the list with the lines of a new file; what was added stays, what was removed too.

    An added account keeps its password when the file has the name as well.
    """
    _, added = _sections(text)
    # A line that is no account has no name: the marks of refused lines stay.
    given = ({_name(line) for line in added} | removed(text)) - {""}
    new_file, _ = _sections(file_text)
    lines = [_NOTHING if _name(line) in given else line for line in new_file]
    in_file = {_name(line) for line in new_file}
    # A name that the file no longer has needs no mark to be kept out.
    kept = [
        line
        for line in added
        if not line.startswith(_REMOVED) or line.removeprefix(_REMOVED) in in_file
    ]
    return _joined([*lines, ADDED, *kept] if kept else lines)


def removed(text: str) -> frozenset[str]:
    """Return the names that ``users remove`` keeps out."""
    return frozenset(
        line.removeprefix(_REMOVED) for line in _lines(text) if line.startswith(_REMOVED)
    )


def difference(before: str, after: str) -> Change:
    """Tell what a change does to the accounts."""
    old, new = _entries(before), _entries(after)
    return Change(
        comes=tuple(name for name in new if name not in old),
        goes=tuple(name for name in old if name not in new),
        changes=tuple(name for name in new if name in old and new[name] != old[name]),
    )


def _sections(text: str) -> tuple[list[str], list[str]]:
    """Return the lines of the file, and those below the mark."""
    lines = _lines(text)
    if ADDED not in lines:
        return lines, []
    at = lines.index(ADDED)
    return lines[:at], [line for line in lines[at + 1 :] if line != ADDED]


def _lines(text: str) -> list[str]:
    # Not splitlines(): a hash may hold what that takes for the end of a line.
    return text.removesuffix("\n").split("\n") if text else []


def _name(line: str) -> str:
    return "" if line.startswith("#") else line.partition(":")[0]


def _entries(text: str) -> dict[str, str]:
    return {_name(line): line for line in _lines(text) if _name(line)}


def _names(text: str) -> set[str]:
    return set(_entries(text))


def _without(text: str, name: str) -> str:
    """Return the list without any line or mark of this name."""
    file, added = _sections(text)
    file = [_NOTHING if _name(line) == name else line for line in file]
    added = [line for line in added if _name(line) != name and line != _REMOVED + name]
    return _joined([*file, ADDED, *added])


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
