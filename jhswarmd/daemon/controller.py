"""A thread that takes keys from a workqueue and reconciles them, one at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from jhswarmd import metrics
from jhswarmd.daemon.workqueue import WorkQueue
from jhswarmd.errors import JhswarmdError
from jhswarmd.log import event

log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)


class Controller(Generic[Key]):
    """Runs ``reconcile(key)``; it returns the seconds until the key needs another look, or None.

    A failure makes the key come back after a backoff. Whatever a pass raises is caught here: an
    error in one of them must not end the daemon.
    """

    def __init__(
        self, name: str, queue: WorkQueue[Key], reconcile: Callable[[Key], float | None]
    ) -> None:
        self.queue = queue
        self.last_error = ""
        self._reconcile = reconcile
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the work in hand to end after the queue was closed; tells whether it did."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (key := self.queue.get()) is not None:
            try:
                with metrics.PASS_SECONDS.labels(self._kind(key)).time():
                    again_s = self._reconcile(key)
            except JhswarmdError as exc:
                self._failed(key, exc, str(exc))
            except Exception as exc:  # see the class
                log.exception("Unexpected error while reconciling")
                self._failed(key, exc, type(exc).__name__)
            else:
                self.last_error = ""
                self.queue.succeeded(key)
                if again_s is not None:
                    self.queue.put(key, again_s)
            finally:
                self.queue.done(key)

    def _kind(self, key: Key) -> str:
        # Ids would make a series of their own each.
        return str(getattr(key, "kind", self._thread.name))

    def _failed(self, key: Key, exc: Exception, why: str) -> None:
        metrics.UNKNOWN.labels(self._kind(key), type(exc).__name__).inc()
        again_s = self.queue.put_failed(key)
        # The same failure, again and again, is one line.
        level = logging.DEBUG if why == self.last_error else logging.WARNING
        self.last_error = why
        log.log(
            level,
            event("Reconcile failed; retrying", key=key, why=why, again_s=round(again_s, 1)),
        )
