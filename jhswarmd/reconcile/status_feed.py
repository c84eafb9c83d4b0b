"""Status that a controller publishes, with long polling."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

#: Seconds after which a waiting request is answered, changed or not; it ends then.
LONG_POLL_TIMEOUT_S = 20.0


class StatusFeed:
    """A few facts, as JSON data, with a version that grows with each change. Thread-safe."""

    def __init__(self, stop: threading.Event, **facts: Any) -> None:
        self._stop = stop
        self._facts: dict[str, Any] = {**facts, "version": 0}
        self._changed = threading.Condition()

    @property
    def now(self) -> Mapping[str, Any]:
        """What holds now."""
        with self._changed:
            return dict(self._facts)

    def publish(self, **facts: Any) -> None:
        """Change facts, and wake waiting requests if one of them is new."""
        with self._changed:
            if any(self._facts[key] != value for key, value in facts.items()):
                self._facts.update(facts)
                self._facts["version"] += 1
                self._changed.notify_all()

    def wait_newer(self, seen: int) -> Mapping[str, Any]:
        """Return the facts when their version is not ``seen``, or after LONG_POLL_TIMEOUT_S."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._facts["version"] != seen or self._stop.is_set(), LONG_POLL_TIMEOUT_S
            )
            return dict(self._facts)

    def close(self) -> None:
        """Wake all waiting requests; ``stop`` is set."""
        with self._changed:
            self._changed.notify_all()
