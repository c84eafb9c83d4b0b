"""The last lines of a notebook's log, fit to be shown. Pure.

They go to the user's browser and into the hub's log, so no token may be in them: neither one that
the notebook was given by its environment, nor one in an address that it printed.
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
_SECRET_TEXT = re.compile(
    r"((?:token|secret|password|passwd|api_key)[\"']?\s*[=:]\s*[\"']?"
    r"|authorization[\"']?\s*[=:]\s*[\"']?\w+\s+)[^\s\"'&,;]+",
    re.IGNORECASE,
)
#: Colours and cursor movements, then all else that is no text.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def secrets_of(environ: Mapping[str, object]) -> set[str]:
    """Return the values of those variables whose names tell that they are secret."""
    values = {str(value) for name, value in environ.items() if _SECRET_NAME.search(name)}
    return {value for value in values if len(value) >= _MIN_SECRET}


def last_lines(text: str, secrets: Iterable[str]) -> tuple[str, ...]:
    """Return the last lines of ``text`` that are not empty, without ``secrets``."""
    # The longest first: one may be the beginning of another.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    lines = []
    for line in text.replace("\r", "\n").split("\n"):
        line = _SECRET_TEXT.sub(rf"\1{_HIDDEN}", _CONTROL.sub("", line).replace("\t", "    "))
        if line.strip():
            lines.append(line.rstrip()[:LINE_LENGTH])
    return tuple(lines[-LINES:])
