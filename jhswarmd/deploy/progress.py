"""Progress of long steps.

On a terminal, a step is a live line with a spinner, the latest detail and the elapsed seconds. In
a log, it is one line at its end, with heartbeat lines before that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

#: Seconds between two heartbeat lines in a log.
HEARTBEAT_S = 15.0


class Step:
    """A step in progress; ``update`` shows the latest detail, ``done`` sets the final result."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._started = time.monotonic()
        self._last_output = self._started
        self.result = ""
        self._live = console.status(escape(title)) if console.is_terminal else None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._started

    def update(self, detail: str) -> None:
        """Show the last line of ``detail``, cut to 100 characters."""
        line = detail.strip().splitlines()[-1][:100] if detail.strip() else ""
        if self._live is not None:
            self._live.update(f"{escape(self._title)} [dim]{self.elapsed_s:.0f} s  {escape(line)}")
        elif time.monotonic() - self._last_output >= HEARTBEAT_S:
            self._last_output = time.monotonic()
            self._console.print(
                f"  ... {self._title}: {self.elapsed_s:.0f} s  {line}", markup=False
            )

    def done(self, result: str) -> None:
        """Set the result on the final line, for example ``already exists``."""
        self.result = result


class Progress:
    """Shows steps, notes and warnings on one console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str, *, is_attempt: bool = False) -> Iterator[Step]:
        """Show a step while its body runs; the final line has the result and the duration.

        An attempt may fail without an error: the caller then has an alternative.
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
        """Print information."""
        self.console.print(escape(text))

    def warn(self, text: str) -> None:
        """Print a warning for the administrator."""
        self.console.print(f"[yellow]warning[/] {escape(text)}")
