"""Generations of secrets: which there are, and which one is live. Pure.

A secret's content is immutable, so a new content is a new generation, ``<stack>_<kind>_g<N>``; the
newest complete one that was not rejected is the truth. Its labels, which can be changed, say how
far its rotation is. What is larger than one secret may be has several parts, each a kind of
its own: ``users``, ``users_2``, ``users_3``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from jhswarmd import labels

#: The source of a content that nobody supplied.
GENERATED = "generated"
#: The engine refuses more (swarmkit, MaxSecretSize).
MAX_BYTES = 500 * 1024 - 1

_PART = re.compile(r"_[0-9]+$")
_SCRYPT = {"n": 2**14, "r": 8, "p": 1, "maxmem": 64 * 1024 * 1024}


@dataclass(frozen=True)
class SecretVersion:
    """One secret that Swarm holds: one generation of one kind, or a part of it."""

    id: str
    name: str
    kind: str
    generation: int
    source: str
    created_at: str = ""
    parts: int = 1
    """How many parts this generation has."""
    request: str = ""
    """The id of the request that made it, if it was one."""
    settled_at: str = ""
    """From when on everything worked with it; empty: that is not shown yet."""
    rejected: str = ""
    """Why it was taken back; empty: it was not."""
    revokes: bool = False
    """Whether older generations stop working because of it."""
    expires_at: str = ""
    """When the certificate in it ends, if there is one."""
    certificate_names: tuple[str, ...] = ()
    """The names and addresses that the certificate in it is for; empty: none, or not known."""
    put_right: str = ""
    """``MOMENT WHAT``: what others had done to it, and when that was put right; empty: nothing."""

    @property
    def created(self) -> datetime:
        """When it was created."""
        return parse_utc(self.created_at)


@dataclass(frozen=True)
class Generation:
    """A complete generation; its secrets are in the order of names and parts."""

    number: int
    secrets: tuple[SecretVersion, ...]

    @property
    def source(self) -> str:
        """The label by which ``source_matches`` knows its content."""
        return self.secrets[0].source

    @property
    def created(self) -> datetime:
        """When the last of its secrets was created."""
        return max(each.created for each in self.secrets)

    @property
    def is_verified(self) -> bool:
        """Whether everything was shown to work with it."""
        return bool(self.secrets[0].settled_at)

    @property
    def rejected(self) -> str:
        """Why it was taken back; empty: it was not."""
        return next((each.rejected for each in self.secrets if each.rejected), "")

    @property
    def is_repaired(self) -> str:
        """``MOMENT WHAT`` of the last time that others' doings were put right; empty: never."""
        return max(each.put_right for each in self.secrets)

    @property
    def revokes(self) -> bool:
        """Whether older generations stop working because of it."""
        return any(each.revokes for each in self.secrets)

    @property
    def ids(self) -> frozenset[str]:
        """The ids of its secrets."""
        return frozenset(each.id for each in self.secrets)


def parse_utc(text: str) -> datetime:
    """Read a moment in UTC; the engine's nanoseconds are more than Python takes."""
    return datetime.fromisoformat(text[:19]).replace(tzinfo=timezone.utc)


def format_utc(when: datetime) -> str:
    """Write a moment as ``moment`` reads it."""
    return when.astimezone(timezone.utc).isoformat(timespec="seconds")


def read(secret: Mapping[str, Any]) -> SecretVersion | None:
    """Return what a secret's labels say, as the engine shows it; None: it is no generation."""
    marks = labels.of(secret)
    if not marks.get(labels.GENERATION, "").isdecimal():
        return None
    parts = marks.get(labels.PARTS, "1")
    return SecretVersion(
        id=secret["ID"],
        name=secret["Spec"]["Name"],
        kind=marks.get(labels.KIND, ""),
        generation=int(marks[labels.GENERATION]),
        source=marks.get(labels.SOURCE, ""),
        created_at=secret["CreatedAt"],
        parts=int(parts) if parts.isdecimal() else 1,
        request=marks.get(labels.REQUEST, ""),
        settled_at=marks.get(labels.SETTLED, ""),
        rejected=marks.get(labels.REJECTED, ""),
        revokes=marks.get(labels.REVOKES) == "true",
        expires_at=marks.get(labels.EXPIRES, ""),
        certificate_names=tuple(marks.get(labels.CERTIFICATE_NAMES, "").split()),
        put_right=marks.get(labels.PUT_RIGHT, ""),
    )


def version_labels(
    stack: str,
    kind: str,
    number: int,
    source: str,
    *,
    parts: int = 1,
    request: str = "",
    revokes: bool = False,
    expires_at: str = "",
    certificate_names: Iterable[str] = (),
    put_right: str = "",
) -> dict[str, str]:
    """Return the labels from which ``read`` makes an ``Existing``."""
    found = {
        labels.STACK: stack,
        labels.KIND: kind,
        labels.GENERATION: str(number),
        labels.SOURCE: source,
    }
    if parts > 1:
        found[labels.PARTS] = str(parts)
    if request:
        found[labels.REQUEST] = request
    if revokes:
        found[labels.REVOKES] = "true"
    if expires_at:
        found[labels.EXPIRES] = expires_at
    if certificate_names:
        found[labels.CERTIFICATE_NAMES] = " ".join(certificate_names)
    if put_right:
        found[labels.PUT_RIGHT] = put_right
    return found


def part_names(kind: str, parts: int) -> tuple[str, ...]:
    """Return the kinds of all parts."""
    return (kind, *(f"{kind}_{number}" for number in range(2, parts + 1)))


def base_kind(kind: str) -> str:
    """Return the kind that a kind is, or is a part of."""
    return _PART.sub("", kind)


def newest(existing: Iterable[SecretVersion], *names: str) -> Generation | None:
    """Return the newest complete generation of the kinds that change together, or None.

    One that was rejected is none.
    """
    return next((each for each in complete(existing, *names) if not each.rejected), None)


def complete(existing: Iterable[SecretVersion], *names: str) -> list[Generation]:
    """Return all complete generations of the kinds that change together, the newest first.

    One of which only the certificate or only the key, or not every part, was created is not
    complete: what made it was interrupted, or is still at it.
    """
    held: dict[int, dict[str, SecretVersion]] = {}
    for each in existing:
        if base_kind(each.kind) in names:
            held.setdefault(each.generation, {})[each.kind] = each
    generations = []
    for number in sorted(held, reverse=True):
        found = held[number]
        needed = [
            part
            for name in names
            for part in part_names(name, found[name].parts if name in found else 1)
        ]
        if all(part in found for part in needed):
            generations.append(Generation(number, tuple(found[part] for part in needed)))
    return generations


def split(content: bytes, most: int = MAX_BYTES) -> tuple[bytes, ...]:
    """Cut a content at the ends of lines into parts that each fit into one secret.

    Raises ValueError for a line that is longer than a part.
    """
    parts = [b""]
    for line in content.splitlines(keepends=True):
        if len(line) > most:
            raise ValueError("a line is longer than a secret may be")
        if len(parts[-1]) + len(line) > most:
            parts.append(b"")
        parts[-1] += line
    # Swarm refuses an empty secret.
    return tuple(part or b"\n" for part in parts)


def source_label(contents: Sequence[bytes], *, guessable: bool) -> str:
    """Return the label by which ``source_matches`` knows these contents again.

    It does not give them away: SHA-256 for keys, a salted slow hash for what could be guessed.
    """
    if not guessable:
        return "sha256:" + hashlib.sha256(b"\0".join(contents)).hexdigest()
    salt = os.urandom(16)
    return f"scrypt:{_b64(salt)}:{_b64(_slow(contents, salt))}"


def source_matches(label: str, contents: Sequence[bytes]) -> bool:
    """Tell whether a secret with this label was made from these contents."""
    scheme, _, rest = label.partition(":")
    if scheme == "sha256":
        return hmac.compare_digest(label, source_label(contents, guessable=False))
    if scheme == "scrypt":
        salt, _, digest = rest.partition(":")
        computed = _b64(_slow(contents, base64.b64decode(salt)))
        return hmac.compare_digest(digest, computed)
    return False


def _slow(contents: Sequence[bytes], salt: bytes) -> bytes:
    return hashlib.scrypt(b"\0".join(contents), salt=salt, **_SCRYPT)


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
