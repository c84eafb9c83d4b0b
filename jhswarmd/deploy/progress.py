"""What a long step shows while it runs.

On a terminal a step is a live line with a spinner, the newest detail and the seconds gone by; in
a log it is one line at its start and one at its end, with a sign of life in between.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

#: Seconds between two signs of life in a log.
HEARTBEAT_S = 15.0


class Step:
    """One step under way; ``update`` shows its newest detail, ``done`` sets what is kept of it."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._started = time.monotonic()
        self._said = self._started
        self.result = ""
        self._live = console.status(escape(title)) if console.is_terminal else None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._started

    def update(self, detail: str) -> None:
        """Show the newest detail, one line; control characters and overlong lines are cut."""
        line = detail.strip().splitlines()[-1][:100] if detail.strip() else ""
        if self._live is not None:
            self._live.update(f"{escape(self._title)} [dim]{self.elapsed_s:.0f} s  {escape(line)}")
        elif time.monotonic() - self._said >= HEARTBEAT_S:
            self._said = time.monotonic()
            self._console.print(
                f"  ... {self._title}: {self.elapsed_s:.0f} s  {line}", markup=False
            )

    def done(self, result: str) -> None:
        """Set what the finished line says, for example ``already there``."""
        self.result = result


class Progress:
    """Shows steps, notes and warnings on one console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str, *, is_attempt: bool = False) -> Iterator[Step]:
        """Show a step while its body runs; its end line says how it went and how long it took.

        An attempt may fail without anything being wrong: the caller goes another way.
        """
        step = Step(self.console, title)
        if step._live is not None:
            step._live.start()
        try:
            yield step
        except BaseException:
            self._stop(step)
            word = "[yellow]no[/]" if is_attempt else "[red]failed[/]"
            self.console.print(f"{word} {escape(title)} [dim]({step.elapsed_s:.1f} s)[/]")
            raise
        self._stop(step)
        result = f": {escape(step.result)}" if step.result else ""
        self.console.print(f"[green]ok[/] {escape(title)}{result} [dim]({step.elapsed_s:.1f} s)[/]")

    @staticmethod
    def _stop(step: Step) -> None:
        if step._live is not None:
            step._live.stop()

    def note(self, text: str) -> None:
        """Say something worth knowing."""
        self.console.print(escape(text))

    def warn(self, text: str) -> None:
        """Say something that the administrator should look at."""
        self.console.print(f"[yellow]warning[/] {escape(text)}")
