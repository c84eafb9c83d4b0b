"""Text files as editors of all systems save them. Pure.

Encodings are recognised by their mark, or by where the zero bytes are; what cannot be told for
certain (the 8-bit encodings, which all look alike) is refused in words.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

#: Ends of lines: LF, CRLF (also with its CR doubled by a wrong conversion), and a CR alone.
LINE_END = re.compile(r"\r*\n|\r")
LINE_END_BYTES = re.compile(LINE_END.pattern.encode())

#: The longer marks first: that of UTF-32 LE begins with that of UTF-16 LE.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: What the words for an 8-bit encoding are.
NOT_UTF8 = (
    "not UTF-8, but probably Latin-1 or Windows-1252: convert the file "
    "('iconv -f WINDOWS-1252 -t UTF-8')"
)


class Encoding(NamedTuple):
    """How a file is encoded: the codec's name, and the mark it begins with (empty: none)."""

    codec: str
    mark: bytes


class UndecodableError(ValueError):
    """The file is not text in an encoding that can be told; the message has no content of it."""


def detect(content: bytes) -> Encoding:
    """Return the encoding; UTF-8 when nothing says otherwise, whether or not it is valid then."""
    for mark, codec in _MARKS:
        if content.startswith(mark):
            return Encoding(codec, mark)
    # Only the ASCII characters of the first line matter, and a list has a name at its start.
    for width, codec, at in (
        (4, "utf-32-le", 0),
        (4, "utf-32-be", 3),
        (2, "utf-16-le", 0),
        (2, "utf-16-be", 1),
    ):
        first = content[:width]
        zeros = bytes(width - 1)
        if (
            len(first) == width
            and len(content) % width == 0
            and first[at]
            and first[:at] + first[at + 1 :] == zeros
        ):
            return Encoding(codec, b"")
    return Encoding("utf-8", b"")


def to_utf8(content: bytes) -> bytes:
    """Return the content as UTF-8 without a mark, line ends as they are.

    What is not valid UTF-8 and has no mark of another encoding stays as it is, so that a reader
    can name the lines. Raises UndecodableError.
    """
    codec, mark = detect(content)
    body = content[len(mark) :]
    if codec == "utf-8":
        return body
    try:
        return body.decode(codec).encode()
    except UnicodeError:
        # 'from None': the original holds the bytes.
        raise UndecodableError(
            f"begins as {codec.upper()} does, but is damaged: save it as UTF-8"
        ) from None


def decode(content: bytes) -> str:
    """Return the text without a mark. Raises UndecodableError."""
    try:
        return to_utf8(content).decode()
    except UnicodeDecodeError:
        raise UndecodableError(NOT_UTF8) from None
