"""Why a node could not pull an image, by the words of its task. Pure.

Up to engine 29.5 a task says 'No such image' whatever the reason was. Engines 29.6 pass on an
'unauthorized' alone, and reject the task with it even if the node has the image. From 29.7 on a
task whose image the node lacks carries the error of the pull. Sources, in moby at docker-v29.7.2:

- which errors reach the task: daemon/cluster/executor/container/controller.go (Prepare)
- containerd store: daemon/containerd/image_pull.go and registry_errors.go ('error from registry: ',
  'unknown: '); in vendor/github.com/containerd/containerd/v2: client/pull.go ('failed to resolve
  reference'), core/remotes/docker/{authorizer,fetcher,resolver}.go, core/remotes/errors/errors.go
  ('unexpected status from ...')
- graphdriver store: daemon/internal/distribution/errors.go and pull_v2.go; in
  vendor/github.com/docker/distribution/registry: client/errors.go ('received unexpected HTTP
  status', 'error parsing HTTP'), api/errcode and api/v2 (the codes in lower case)
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
    r"|\breference \S+: \S+: not found|from remote: not found"
    r"|image manifest does not exist for tag or digest",
    re.IGNORECASE,
)
#: Only a pull speaks so; the words of _REFUSED and of networks come from mounts as well.
_PULLING = re.compile(
    r"\b(?:Get|Head) \\?\"?https?://|/v2/\S*/(?:manifests|blobs)/|pull access denied"
    r"|failed to resolve reference|failed to authorize|failed to copy: httpReadSeeker"
    r"|error pulling image|no basic auth credentials|toomanyrequests|pull rate limit"
    r"|error from registry: |^authentication required - "
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
