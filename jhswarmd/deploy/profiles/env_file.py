"""Env files with the rules of Compose; where Compose guesses, the line is rejected with a reason.

- ``KEY=value`` or ``KEY: value``, with or without ``export``; the last value of a key counts.
- An unquoted value ends at a blank followed by ``#``, or at the end of the line.
- In double quotes ``\\n``, ``\\r``, ``\\t``, ``\\f``, ``\\b``, ``\\\\`` and ``\\"`` are escapes; in
  single quotes only ``\\'``. Both may span lines. Only a comment may follow them.
- ``$KEY``, ``${KEY}``, ``${KEY:-default}``, ``${KEY:?error}`` and ``${KEY:+other}``, each with or
  without the colon, are substituted outside single quotes; ``$$`` is a dollar.

Stricter than Compose: an unset variable, an unquoted ``#`` without a blank before it, text after a
closing quote, and a variable with different values in environment and file are errors. An error
message repeats no value.
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
#: Placeholder for an escaped dollar during substitution; no value may contain it.
_DOLLAR = "\0"


class Entry(NamedTuple):
    """The value of a key, and the line where it begins, counted from 1."""

    value: str
    line: int


class LineError(NamedTuple):
    """An error on a line."""

    line: int
    message: str


class _InvalidValue(ValueError):
    """A value cannot be parsed; the text says why, without repeating the value."""


def read(
    path: Path, environ: Mapping[str, str], earlier: Mapping[str, str]
) -> tuple[dict[str, Entry], list[LineError]]:
    """Read a file; see ``parse``. Raises OSError and UndecodableError."""
    return parse(encodings.decode(path.read_bytes()), environ, earlier)


def parse(
    text: str, environ: Mapping[str, str], earlier: Mapping[str, str]
) -> tuple[dict[str, Entry], list[LineError]]:
    """Return the entries of a file and all its errors. Pure.

    Variables come from ``environ``, from the keys above, and from ``earlier``, the keys of the
    preceding files.
    """
    text = encodings.LINE_END.sub("\n", text)
    entries: dict[str, Entry] = {}
    errors: list[LineError] = []
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
            errors.append(LineError(number, "not of the form KEY=value"))
            at = end + 1
            continue
        known = {**earlier, **{key: entry.value for key, entry in entries.items()}}
        try:
            value, at = _read_value(text, match.end(), end, _Variables(environ, known))
        except _InvalidValue as exc:
            errors.append(LineError(number, f"{match[1]}: {exc}"))
            at = _after_value(text, match.end(), end)
            continue
        entries[match[1]] = Entry(value, number)
    return entries, errors


class _Variables:
    """Looks variables up."""

    def __init__(self, environ: Mapping[str, str], known: Mapping[str, str]) -> None:
        self._environ = environ
        self._known = known

    def get(self, name: str) -> str | None:
        outside, inside = self._environ.get(name), self._known.get(name)
        if outside is not None and inside is not None and outside != inside:
            raise _InvalidValue(
                f"the variable {name} has different values in this profile and in the environment "
                f"of this command: unset it there ('unset {name}'), or write the value itself"
            )
        return inside if outside is None else outside


def _read_value(text: str, at: int, end: int, variables: _Variables) -> tuple[str, int]:
    """Return the value that begins at ``at``, and where the next line begins."""
    while at < end and text[at] in _BLANKS:
        at += 1
    if at < end and text[at] in "'\"":
        return _read_quoted(text, at, variables)
    # A blank before the value counts: 'KEY= # comment' is an empty value.
    raw = text[at:end]
    if raw.startswith("#") and text[at - 1] not in _BLANKS:
        raise _InvalidValue(_BARE_HASH)
    comment = _COMMENT.search(raw)
    value = (raw[: comment.start()] if comment else raw).strip(_BLANKS)
    if "#" in value:
        raise _InvalidValue(_BARE_HASH)
    if "\0" in value:
        raise _InvalidValue("a NUL byte in the value")
    if "\\$" in value:
        raise _InvalidValue(_NO_VARIABLE)
    return _expand(value, variables), end + 1


_BARE_HASH = (
    "a '#' that neither begins a comment (with a blank before it) nor is in quotes: put the value "
    "in quotes if the '#' is part of it"
)


def _read_quoted(text: str, at: int, variables: _Variables) -> tuple[str, int]:
    quote, close = text[at], _closing(text, at)
    if close < 0:
        raise _InvalidValue(f"the quote ({quote}) is not closed")
    raw = text[at + 1 : close]
    end = text.find("\n", close)
    end = len(text) if end < 0 else end
    rest = text[close + 1 : end].strip(_BLANKS)
    if rest and not _COMMENT.match(text[close + 1 : end].lstrip(_BLANKS)):
        raise _InvalidValue(
            "text after the closing quote: quote the whole value, and write quotes inside it as \\"
            + quote
        )
    if "\0" in raw:
        raise _InvalidValue("a NUL byte in the value")
    if quote == "'":
        return raw.replace("\\'", "'"), end + 1
    return _expand(_unescaped(raw), variables), end + 1


def _closing(text: str, at: int) -> int:
    """Return the position of the quote that closes the one at ``at``; -1: there is none."""
    quote, at = text[at], at + 1
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif text[at] == quote:
            return at
        else:
            at += 1
    return -1


def _after_value(text: str, at: int, end: int) -> int:
    """Return where parsing continues after an invalid value."""
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


def _expand(value: str, variables: _Variables) -> str:
    """Return the value with variables substituted. Raises _InvalidValue."""
    expanded, at = _substitute(value, 0, variables, is_nested=False)
    assert at == len(value)
    return expanded.replace(_DOLLAR, "$")


def _substitute(text: str, at: int, variables: _Variables, *, is_nested: bool) -> tuple[str, int]:
    """Return the expansion of ``text`` from ``at`` to its end or its closing brace."""
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
        raise _InvalidValue("'${' is not closed")
    return "".join(parts), at


_NO_VARIABLE = "a '$' without a variable's name: write '$$', or put the value in single quotes"


def _variable(text: str, at: int, variables: _Variables) -> tuple[str, int]:
    """Return the value of the variable at ``at``, and the position after it."""
    in_braces = text.startswith("${", at)
    match = _NAME.match(text, at + (2 if in_braces else 1))
    if not match:
        raise _InvalidValue(_NO_VARIABLE)
    name, at = match[0], match.end()
    value = variables.get(name)
    if not in_braces:
        return _need(name, value), at
    if text.startswith("}", at):
        return _need(name, value), at + 1
    operator = _OPERATOR.match(text, at)
    if not operator:
        raise _InvalidValue(_NO_VARIABLE if at < len(text) else "'${' is not closed")
    is_set = value is not None if operator[0][0] != ":" else bool(value)
    # An unused word is not expanded, as in a shell.
    uses_word = is_set if operator[0][-1] == "+" else not is_set
    source = variables if uses_word else _Unused()
    word, at = _substitute(text, operator.end(), source, is_nested=True)
    if operator[0][-1] == "+":
        return (word if is_set else ""), at + 1
    if is_set:
        return value or "", at + 1
    if operator[0][-1] == "?":
        raise _InvalidValue(f"the variable {name} is required, but not set")
    return word, at + 1


class _Unused(_Variables):
    """For words that are not used."""

    def __init__(self) -> None:
        super().__init__({}, {})

    def get(self, name: str) -> str | None:
        return name


def _need(name: str, value: str | None) -> str:
    if value is None:
        raise _InvalidValue(
            f"the variable {name} is set neither above nor in this command's environment; "
            "for a dollar, write '$$' or put the value in single quotes"
        )
    return value
