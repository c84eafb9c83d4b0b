"""The last lines of a container's log, fit to be shown. Pure.

They go to browsers, terminals and logs, so no secret may be in them: none that the container was
given by its environment, none in an address or a line of configuration that it printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

#: How much of a log is shown.
LINES = 20
LINE_LENGTH = 300

_HIDDEN = "[hidden]"
#: Shorter values stand for nothing secret, and would blot out ordinary words.
_MIN_SECRET = 6
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(^|_)KEY($|_)|COOKIE", re.IGNORECASE)
#: What follows such a name; where it is quoted all of it, spaces too.
_SECRET_TEXT = re.compile(
    r"((?:token|secret|passw(?:or)?d|passphrase|pwd|(?:api|access|private|crypt)_?keys?)[\"']?"
    r"\s*[=:]\s*[\[(]?\s*[bru]?)(?:([\"']).*?(?:\2|$)|[^\s\"'&,;]+)"
    r"|(authorization[\"']?\s*[=:]\s*[\"']?\w+\s+)[^\s\"'&,;]+",
    re.IGNORECASE,
)
#: ``user:password@`` in an address, as of a database.
_SECRET_ADDRESS = re.compile(r"(\w://[^\s/:@]*:)[^\s/@]+(?=@)")
#: What this project generates, wherever it is printed. A digest is no secret.
_SECRET_HEX = re.compile(r"(?<![\w:])[0-9a-f]{32,}(?!\w)")
#: Colours and cursor movements, then all else that is no text.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def is_secret_name(name: str) -> bool:
    """Tell whether the value of what is called ``name`` is secret."""
    return _SECRET_NAME.search(name) is not None


def secrets_of(environ: Mapping[str, object]) -> set[str]:
    """Return the values of those variables whose names tell that they are secret."""
    values = {str(value) for name, value in environ.items() if is_secret_name(name)}
    return {value for value in values if len(value) >= _MIN_SECRET}


def last_lines(text: str, secrets: Iterable[str]) -> tuple[str, ...]:
    """Return the last lines of ``text`` that are not empty, without ``secrets``."""
    # The longest first: one may be the beginning of another.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    lines = []
    for line in text.replace("\r", "\n").split("\n"):
        line = hide(_CONTROL.sub("", line).replace("\t", "    "))
        if line.strip():
            lines.append(line.rstrip()[:LINE_LENGTH])
    return tuple(lines[-LINES:])


def hide(line: str) -> str:
    """Return ``line`` with a mark in place of what looks like a secret by itself."""
    line = _SECRET_TEXT.sub(lambda found: f"{found[1] or found[3]}{_HIDDEN}", line)
    line = _SECRET_ADDRESS.sub(rf"\1{_HIDDEN}", line)
    return _SECRET_HEX.sub(_HIDDEN, line)
