"""Retry policies as values, built here and handed to the adapters.

Every policy has a deadline, and every wait of the daemon ends at once when it is asked to stop
(architecture, invariant 7). What is retried is decided by the error alone: only
``EngineUnavailable`` and ``HubUnknown`` may differ a moment later.
"""

from __future__ import annotations

import logging
import threading

from tenacity import (
    AsyncRetrying,
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from jhswarmd.errors import EngineOutOfSequence, EngineUnavailable, HubUnavailable

log = logging.getLogger(__name__)

#: Errors after which the same request may succeed.
TRANSIENT = (EngineUnavailable, HubUnavailable)


def _wait(cap_s: float) -> wait_random_exponential:
    # Full jitter: a burst of spawns that failed together must not come back together.
    return wait_random_exponential(multiplier=0.1, max=cap_s)


def blocking(deadline_s: float, stop: threading.Event, cap_s: float = 5.0) -> Retrying:
    """Policy for threads: retry transient errors for ``deadline_s`` seconds or until ``stop``."""
    return Retrying(
        retry=retry_if_exception_type(TRANSIENT),
        stop=stop_after_delay(deadline_s) | stop_when_event_set(stop),
        wait=_wait(cap_s),
        sleep=sleep_using_event(stop),
        before_sleep=before_sleep_log(log, logging.INFO),
        reraise=True,
    )


def rereading(deadline_s: float = 10.0) -> Retrying:
    """Policy for commands that read an object of the swarm, change it and write it.

    Swarm's managers write to the same objects. Nothing was applied then, so that the whole call is
    repeated for ``deadline_s`` seconds; every other error is raised at once.
    """
    return Retrying(
        retry=retry_if_exception_type(EngineOutOfSequence),
        stop=stop_after_delay(deadline_s),
        wait=_wait(1.0),
        before_sleep=before_sleep_log(log, logging.INFO),
        reraise=True,
    )


def coroutine(deadline_s: float, cap_s: float = 5.0) -> AsyncRetrying:
    """Policy for coroutines in the hub's loop: retry transient errors for ``deadline_s`` seconds.

    A cancelled coroutine stops at its next await, so no stop event is needed.
    """
    return AsyncRetrying(
        retry=retry_if_exception_type(TRANSIENT),
        stop=stop_after_delay(deadline_s),
        wait=_wait(cap_s),
        before_sleep=before_sleep_log(log, logging.INFO),
        reraise=True,
    )
