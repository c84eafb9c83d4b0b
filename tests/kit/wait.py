"""Waiting for something to come true, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST_PAUSE_S = 0.01
_LAST_PAUSE_S = 0.5


def wait_until(
    predicate: Callable[[], T],
    timeout_s: float,
    *,
    what: str = "",
    ignoring: tuple[type[Exception], ...] = (),
) -> T:
    """Call ``predicate`` until its answer is true, and return that answer.

    The pause between two calls grows from 10 ms to 0.5 s. Exceptions in ``ignoring`` count as
    'not yet'. Raises AssertionError that tells what was seen last.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            seen: object = (answer := predicate())
            if answer:
                return answer
        except ignoring as exc:
            seen = exc
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            name = what or getattr(predicate, "__name__", "condition")
            raise AssertionError(f"{name}: not within {timeout_s:g} s; last seen: {seen!r}")
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, _LAST_PAUSE_S)
