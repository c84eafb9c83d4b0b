"""A queue of keys to reconcile.

What it guarantees:

- A key that is waiting is held once, however often it is put.
- A key that is being worked on is not handed out a second time; put meanwhile, it comes again
  after ``done``.
- A key may wait for a delay; put again with a shorter one, it comes at the earlier moment.
- A key that failed comes back after a backoff that doubles, with jitter; success forgets it.
- After ``close``, ``get`` returns None at once.
- Whatever number of keys waits, each step takes about the same time.

A key says what to look at, never what happened.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 30.0


class WorkQueue(Generic[Key]):
    """See the module's guarantees. Any number of threads may use it."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        #: When each waiting key is due.
        self._due: dict[Key, float] = {}
        #: The same by moment; an entry that says something else than ``_due`` is out of date.
        self._order: list[tuple[float, int, Key]] = []
        self._numbers = itertools.count()  # keys themselves need not be comparable
        self._working: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._closed = False
        self._changed = threading.Condition()

    def put(self, key: Key, delay_s: float = 0.0) -> None:
        """Make ``key`` due in ``delay_s`` seconds, or earlier if it is due earlier already."""
        with self._changed:
            due = self._clock() + delay_s
            if key in self._due and self._due[key] <= due:
                return
            self._due[key] = due
            if key not in self._working:
                self._put_in_order(key)

    def put_failed(self, key: Key) -> float:
        """Make ``key`` due after its backoff; returns the seconds until then."""
        with self._changed:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
        # Cap the exponent too: 2.0 ** 2000 overflows.
        most = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 16))
        delay_s = self._jitter(most / 2, most)
        self.put(key, delay_s)
        return delay_s

    def succeeded(self, key: Key) -> None:
        """Forget the failures of ``key``."""
        with self._changed:
            self._failures.pop(key, None)

    def _put_in_order(self, key: Key) -> None:
        heapq.heappush(self._order, (self._due[key], next(self._numbers), key))
        self._changed.notify_all()

    def get(self) -> Key | None:
        """Wait for a due key and return it, or None once the queue is closed."""
        with self._changed:
            while not self._closed:
                due, key = self._first()
                now = self._clock()
                if due is not None and key is not None and due <= now:
                    heapq.heappop(self._order)
                    del self._due[key]
                    self._working.add(key)
                    return key
                self._changed.wait(None if due is None else due - now)
            return None

    def _first(self) -> tuple[float, Key] | tuple[None, None]:
        """Return the key that is due first, of those that nobody works on."""
        while self._order:
            due, _, key = self._order[0]
            if self._due.get(key) == due and key not in self._working:
                return due, key
            heapq.heappop(self._order)
        return None, None

    def done(self, key: Key) -> None:
        """Say that the work on ``key`` has ended, well or not."""
        with self._changed:
            self._working.discard(key)
            if key in self._due:  # it was put meanwhile
                self._put_in_order(key)

    def forget(self, is_meant: Callable[[Key], bool]) -> int:
        """Take out waiting keys that something else makes needless; returns how many."""
        with self._changed:
            meant = [key for key in self._due if is_meant(key)]
            for key in meant:
                del self._due[key]
                self._failures.pop(key, None)
            return len(meant)

    def count_due(self) -> int:
        """Return how many keys wait that are due, those that wait for a delay left out."""
        with self._changed:
            now = self._clock()
            return sum(due <= now for due in self._due.values())

    def close(self) -> None:
        """Wake everybody who waits; nothing is handed out any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        """Return how many keys wait, for whatever moment."""
        with self._changed:
            return len(self._due)
