"""Turn what docker-py and requests raise into this project's errors.

The table (sources: the engine's API reference and swarmkit's error mapping):

    404                                   EngineNotFound    definite
    409                                   EngineConflict    definite
    500 'update out of sequence'          EngineOutOfSequence re-read, re-apply, retry
    500 others, 502, 503, 504             EngineUnavailable no leader, deadline exceeded, ...
    503 'not a swarm manager'             EngineError       the wrong node stays the wrong node
    503 '... Manager is being prepared'   EngineUnavailable a manager that starts, or lost its peers
    connection refused, reset, timeout    EngineUnavailable the request may have been applied
    docker-py refuses the arguments       EngineError       nothing was sent
    everything else                       EngineError
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
import urllib3
from docker.errors import (
    APIError,
    DockerException,
    InvalidArgument,
    InvalidVersion,
    TLSParameterError,
)

from jhswarmd.errors import (
    EngineConflict,
    EngineError,
    EngineNotFound,
    EngineOutOfSequence,
    EngineUnavailable,
)

_WRONG_NODE = "not a swarm manager"
#: The same status and beginning, but said by a manager without its peers (moby, daemon/cluster).
_NOT_YET = "Manager is being prepared"
#: swarmkit's ErrSequenceConflict (moby, vendor/.../swarmkit/v2/manager/state/store/memory.go).
OUT_OF_SEQUENCE = "update out of sequence"
_NEVER_SENT = (InvalidArgument, InvalidVersion, TLSParameterError)


def translate(exc: Exception, doing: str) -> EngineError:
    """Return our error for one of docker-py's; ``doing`` names the request, without its content.

    The engine's own words are kept: it never repeats the data of a secret in an error.
    """
    if isinstance(exc, APIError):
        status = exc.response.status_code if exc.response is not None else 0
        words = str(exc.explanation or exc)
        if status == 404:
            return EngineNotFound(f"{doing}: the engine does not have it", why=words)
        if status == 409:
            return EngineConflict(f"{doing}: the name is taken", why=words)
        if status >= 500 and OUT_OF_SEQUENCE in words:
            return EngineOutOfSequence(f"{doing}: it was changed meanwhile", why=words)
        if status >= 500 and (_WRONG_NODE not in words or _NOT_YET in words):
            return EngineUnavailable(f"{doing}: the engine answered {status}", why=words)
        return EngineError(f"{doing}: the engine answered {status}", why=words)
    if isinstance(exc, _NEVER_SENT):
        return EngineError(f"{doing}: the request is not valid", why=str(exc))
    if isinstance(
        exc, (requests.RequestException, urllib3.exceptions.HTTPError, DockerException, OSError)
    ):
        return EngineUnavailable(f"{doing}: no answer from the engine", why=str(exc))
    raise exc


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Raise our errors for whatever docker-py raises inside."""
    try:
        yield
    except (
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        DockerException,
        OSError,
    ) as exc:
        raise translate(exc, doing) from exc
