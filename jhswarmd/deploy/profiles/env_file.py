"""Env files, by the rules of compose's; where compose guesses, the line is refused in words.

- ``KEY=value`` or ``KEY: value``, with or without ``export``; the last one of a key counts.
- Without quotes the value ends at a blank and ``#``, or with the line.
- In double quotes ``\\n``, ``\\r``, ``\\t``, ``\\f``, ``\\b``, ``\\\\`` and ``\\"`` are escapes; in
  single quotes ``\\'`` alone. Both may span lines. Behind them only a comment may follow.
- ``$KEY``, ``${KEY}``, ``${KEY:-default}``, ``${KEY:?error}`` and ``${KEY:+other}``, each with or
  without the colon, are filled in outside single quotes; ``$$`` is a dollar.

Stricter than compose: a variable that nothing sets, an unquoted ``#`` without a blank before it, a
value that begins with a quote and goes on behind it, and a variable to which environment and file
give different values are faults. A fault repeats no value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jhswarmd import encodings

_BLANKS = " \t\v\f\u00a0"
_KEY = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*[=:]")
_COMMENT = re.compile(rf"(?:^|[{_BLANKS}])#")
_ESCAPES = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "f": "\f",
    "b": "\b",
    "v": "\v",
    "a": "\a",
    "\\": "\\",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")
#: Stands for a dollar that was escaped, while variables are filled in; no value may hold it.
_DOLLAR = "\0"


class Entry(NamedTuple):
    """The value of a key, and the line on which it begins, counted from 1."""

    value: str
    line: int


class Fault(NamedTuple):
    """What is wrong on a line."""

    line: int
    words: str


class _Wrong(ValueError):
    """A value cannot be read; the text says why, and repeats nothing of it."""


def read(
    path: Path, environ: Mapping[str, str], earlier: Mapping[str, str]
) -> tuple[dict[str, Entry], list[Fault]]:
    """Read a file; see ``parse``. Raises OSError and UndecodableError."""
    return parse(encodings.decode(path.read_bytes()), environ, earlier)


def parse(
    text: str, environ: Mapping[str, str], earlier: Mapping[str, str]
) -> tuple[dict[str, Entry], list[Fault]]:
    """Return the entries of a file and everything that is wrong with it. Pure.

    Variables come from ``environ``, from the keys above, and from ``earlier``, the keys of the
    files before.
    """
    text = encodings.LINE_END.sub("\n", text)
    entries: dict[str, Entry] = {}
    faults: list[Fault] = []
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        begin = at + len(text[at:end]) - len(text[at:end].lstrip(_BLANKS))
        number = text.count("\n", 0, at) + 1
        if begin == end or text[begin] == "#":
            at = end + 1
            continue
        match = _KEY.match(text, begin, end)
        if not match:
            faults.append(Fault(number, "not of the form KEY=value"))
            at = end + 1
            continue
        known = {**earlier, **{key: entry.value for key, entry in entries.items()}}
        try:
            value, at = _read_value(text, match.end(), end, _Variables(environ, known))
        except _Wrong as exc:
            faults.append(Fault(number, f"{match[1]}: {exc}"))
            at = _behind(text, match.end(), end)
            continue
        entries[match[1]] = Entry(value, number)
    return entries, faults


class _Variables:
    """What variables stand for."""

    def __init__(self, environ: Mapping[str, str], known: Mapping[str, str]) -> None:
        self._environ = environ
        self._known = known

    def get(self, name: str) -> str | None:
        outside, inside = self._environ.get(name), self._known.get(name)
        if outside is not None and inside is not None and outside != inside:
            raise _Wrong(
                f"the variable {name} has one value in this profile and another in the environment "
                f"of this command: unset it there ('unset {name}'), or write the value itself"
            )
        return inside if outside is None else outside


def _read_value(text: str, at: int, end: int, variables: _Variables) -> tuple[str, int]:
    """Return the value that begins at ``at``, and where the next line begins."""
    while at < end and text[at] in _BLANKS:
        at += 1
    if at < end and text[at] in "'\"":
        return _read_quoted(text, at, variables)
    # The blank before the value counts: 'KEY= # comment' is an empty value.
    raw = text[at:end]
    if raw.startswith("#") and text[at - 1] not in _BLANKS:
        raise _Wrong(_BARE_HASH)
    comment = _COMMENT.search(raw)
    value = (raw[: comment.start()] if comment else raw).strip(_BLANKS)
    if "#" in value:
        raise _Wrong(_BARE_HASH)
    if "\0" in value:
        raise _Wrong("a NUL byte in the value")
    if "\\$" in value:
        raise _Wrong(_NO_VARIABLE)
    return _fill_in(value, variables), end + 1


_BARE_HASH = (
    "a '#' that neither begins a comment (a blank comes before it) nor is in quotes: put the value "
    "in quotes if it belongs to it"
)


def _read_quoted(text: str, at: int, variables: _Variables) -> tuple[str, int]:
    quote, close = text[at], _closing(text, at)
    if close < 0:
        raise _Wrong(f"the quote ({quote}) is not closed")
    raw = text[at + 1 : close]
    end = text.find("\n", close)
    end = len(text) if end < 0 else end
    behind = text[close + 1 : end].strip(_BLANKS)
    if behind and not _COMMENT.match(text[close + 1 : end].lstrip(_BLANKS)):
        raise _Wrong(
            "something follows the closing quote: quote the whole value, and write quotes inside "
            "it as \\" + quote
        )
    if "\0" in raw:
        raise _Wrong("a NUL byte in the value")
    if quote == "'":
        return raw.replace("\\'", "'"), end + 1
    return _fill_in(_unescaped(raw), variables), end + 1


def _closing(text: str, at: int) -> int:
    """Return where the quote that opens at ``at`` closes; -1: nowhere."""
    quote, at = text[at], at + 1
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif text[at] == quote:
            return at
        else:
            at += 1
    return -1


def _behind(text: str, at: int, end: int) -> int:
    """Return where reading goes on behind a value that is wrong."""
    while at < end and text[at] in _BLANKS:
        at += 1
    if at < end and text[at] in "'\"":
        close = _closing(text, at)
        if close >= 0:
            following = text.find("\n", close)
            return len(text) if following < 0 else following + 1
    return end + 1


def _unescaped(raw: str) -> str:
    def escaped(match: re.Match[str]) -> str:
        letter = match[1]
        if letter == "$":
            return _DOLLAR
        if letter == '"':
            return letter
        return _ESCAPES.get(letter, "\\" + letter)

    return re.sub(r"\\(.)", escaped, raw, flags=re.DOTALL)


def _fill_in(value: str, variables: _Variables) -> str:
    """Return the value with variables filled in. Raises _Wrong."""
    filled, at = _substitute(value, 0, variables, is_nested=False)
    assert at == len(value)
    return filled.replace(_DOLLAR, "$")


def _substitute(text: str, at: int, variables: _Variables, *, is_nested: bool) -> tuple[str, int]:
    """Return what ``text`` from ``at`` on stands for, to its end or the brace that closes it."""
    parts: list[str] = []
    while at < len(text):
        if is_nested and text[at] == "}":
            return "".join(parts), at
        if text[at] != "$":
            parts.append(text[at])
            at += 1
            continue
        if text.startswith("$$", at):
            parts.append(_DOLLAR)
            at += 2
            continue
        part, at = _variable(text, at, variables)
        parts.append(part)
    if is_nested:
        raise _Wrong("'${' is not closed")
    return "".join(parts), at


_NO_VARIABLE = "a '$' without a variable's name: write '$$', or put the value in single quotes"


def _variable(text: str, at: int, variables: _Variables) -> tuple[str, int]:
    """Return what the variable at ``at`` stands for, and where it ends."""
    in_braces = text.startswith("${", at)
    match = _NAME.match(text, at + (2 if in_braces else 1))
    if not match:
        raise _Wrong(_NO_VARIABLE)
    name, at = match[0], match.end()
    value = variables.get(name)
    if not in_braces:
        return _need(name, value), at
    if text.startswith("}", at):
        return _need(name, value), at + 1
    operator = _OPERATOR.match(text, at)
    if not operator:
        raise _Wrong(_NO_VARIABLE if at < len(text) else "'${' is not closed")
    is_set = value is not None if operator[0][0] != ":" else bool(value)
    # What is not needed is not filled in, as in a shell.
    wants_word = is_set if operator[0][-1] == "+" else not is_set
    source = variables if wants_word else _Nothing()
    word, at = _substitute(text, operator.end(), source, is_nested=True)
    if operator[0][-1] == "+":
        return (word if is_set else ""), at + 1
    if is_set:
        return value or "", at + 1
    if operator[0][-1] == "?":
        raise _Wrong(f"the variable {name} is needed, and not set")
    return word, at + 1


class _Nothing(_Variables):
    """For words that do not count."""

    def __init__(self) -> None:
        super().__init__({}, {})

    def get(self, name: str) -> str | None:
        return name


def _need(name: str, value: str | None) -> str:
    if value is None:
        raise _Wrong(
            f"the variable {name} is not set, neither above nor in this command's environment; "
            "for a dollar write '$$', or put the value in single quotes"
        )
    return value
