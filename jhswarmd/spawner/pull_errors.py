"""Why a node could not pull an image, by the words of its task. Pure.

Up to engine 28 a task says 'No such image' whatever the reason was. From 29 on it carries the words
of the pull itself: the registry's, those of the way to it, or the engine's own. Sources: moby,
daemon/cluster/executor/container/controller.go and daemon/containerd/image_pull.go (29.x);
containerd, core/remotes/docker; distribution's error codes.
"""

from __future__ import annotations

import re
from enum import Enum


class Cause(Enum):
    """What kept an image from being pulled."""

    unknown = "unknown"
    """The node does not have it, and says no more."""
    missing = "missing"
    """The registry does not have it."""
    refused = "refused"
    """The registry wants a login, or another one."""
    unreachable = "unreachable"
    """No useful answer from the registry."""


#: As registries refuse (docker's distribution, Docker Hub) and as the engine says without a login.
REFUSED = re.compile(
    r"no basic auth credentials|unauthorized|authentication required|denied", re.IGNORECASE
)
_UNKNOWN = re.compile(r"No such image")
_MISSING = re.compile(
    r"manifest unknown|manifest for \S+ not found|name unknown|repository name not known"
    r"|no matching manifest|failed to resolve reference \S+ \S+: not found"
    r"|\breference \S+: \S+: not found",
    re.IGNORECASE,
)
#: Only a pull speaks so; the words of _REFUSED and of networks come from mounts as well.
_PULLING = re.compile(
    r"\b(?:Get|Head) \\?\"?https?://|/v2/\S*/(?:manifests|blobs)/|pull access denied"
    r"|failed to resolve reference|failed to authorize|failed to copy: httpReadSeeker"
    r"|error pulling image|no basic auth credentials|toomanyrequests|pull rate limit"
    r"|unauthorized: |requested access to the resource is denied"
    r"|failed to do request|error parsing HTTP \d+ response|received unexpected HTTP status",
    re.IGNORECASE,
)
#: An answer 401 or 403 as containerd words it, whose reason phrase may be left out.
_STATUS_REFUSED = re.compile(r"unexpected status[^:]*:? ?.*\b(?:401|403)\b")


def cause(words: str) -> Cause | None:
    """Return why the image could not be pulled; None: the words are not about a pull."""
    if _UNKNOWN.search(words):
        return Cause.unknown
    if _MISSING.search(words):
        return Cause.missing
    if not _PULLING.search(words):
        return None
    if REFUSED.search(words) or _STATUS_REFUSED.search(words):
        return Cause.refused
    return Cause.unreachable
