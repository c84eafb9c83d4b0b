"""Samples, medians, ratios, and how they are shown. Pure: no clock, no I/O."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BARE = "bare"
STOCK = "stock"
OURS = "ours"
CONTENDERS = (BARE, STOCK, OURS)

HEADINGS = (
    "what",
    "bare engine",
    "stock",
    "ours",
    "stock / bare",
    "ours / bare",
    "target",
    "met",
)
NOTHING = "-"


@dataclass(frozen=True)
class Target:
    """What our figure must not exceed; a part that is None is not asked for."""

    ratio: float | None = None
    """Our median, in medians of the bare engine."""
    median_s: float | None = None
    worst_s: float | None = None

    def __str__(self) -> str:
        parts = [
            f"{self.ratio:.2f} x bare" if self.ratio is not None else "",
            f"{self.median_s:g} s" if self.median_s is not None else "",
            f"worst {self.worst_s:g} s" if self.worst_s is not None else "",
        ]
        return ", ".join(filter(None, parts)) or NOTHING


@dataclass
class Figure:
    """One row: what was measured, and the seconds each contender took, in the order measured."""

    key: str
    title: str
    target: Target = field(default_factory=Target)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    """How often a contender did not manage it at all; such a try has no seconds."""

    def add(self, contender: str, seconds: float) -> None:
        """Add one sample."""
        self.seconds.setdefault(contender, []).append(seconds)

    def add_failure(self, contender: str) -> None:
        """Add one try that came to nothing."""
        self.failures[contender] = self.failures.get(contender, 0) + 1

    def median(self, contender: str) -> float | None:
        """Return the median, None without a sample."""
        samples = self.seconds.get(contender)
        return statistics.median(samples) if samples else None

    def worst(self, contender: str) -> float | None:
        """Return the largest sample, None without one."""
        return max(self.seconds.get(contender, ()), default=None)

    def ratio(self, contender: str) -> float | None:
        """Return the contender's median in medians of the bare engine, None if either lacks."""
        median, bare = self.median(contender), self.median(BARE)
        return median / bare if median is not None and bare else None

    def is_met(self) -> bool | None:
        """Tell whether ours meets the target; None when there is none, or nothing to judge."""
        pairs = (
            (self.ratio(OURS), self.target.ratio),
            (self.median(OURS), self.target.median_s),
            (self.worst(OURS), self.target.worst_s),
        )
        wanted = [(seen, most) for seen, most in pairs if most is not None]
        if not wanted:
            return None
        if self.failures.get(OURS):
            return False
        if any(seen is None for seen, _ in wanted):
            return None
        return all(seen <= most for seen, most in wanted if seen is not None)

    def cells(self) -> tuple[str, ...]:
        """Return what the table shows, in the order of ``HEADINGS``."""
        met = {True: "yes", False: "no", None: NOTHING}[self.is_met()]
        return (
            self.title,
            *(self._seconds_cell(contender) for contender in CONTENDERS),
            _ratio_cell(self.ratio(STOCK)),
            _ratio_cell(self.ratio(OURS)),
            str(self.target),
            met,
        )

    def _seconds_cell(self, contender: str) -> str:
        median, worst = self.median(contender), self.worst(contender)
        failed = self.failures.get(contender, 0)
        tries = failed + len(self.seconds.get(contender, ()))
        words = [] if median is None else [f"{median:.2f} s (worst {worst:.2f})"]
        if failed:
            words.append(f"failed {failed} of {tries}")
        return ", ".join(words) or NOTHING

    def as_json(self) -> dict[str, Any]:
        """Return the figure with all its samples, as JSON data."""
        return {
            "key": self.key,
            "title": self.title,
            "seconds": {
                name: [round(each, 4) for each in samples] for name, samples in self.seconds.items()
            },
            "failures": dict(self.failures),
            "medians": {name: _rounded(self.median(name)) for name in CONTENDERS},
            "ratios": {name: _rounded(self.ratio(name)) for name in (STOCK, OURS)},
            "target": {
                "ratio": self.target.ratio,
                "median_s": self.target.median_s,
                "worst_s": self.target.worst_s,
            },
            "is_met": self.is_met(),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _ratio_cell(ratio: float | None) -> str:
    return NOTHING if ratio is None else f"{ratio:.2f}"


def markdown(figures: Iterable[Figure]) -> str:
    """Return the table as Markdown."""
    rows: list[Sequence[str]] = [HEADINGS, ["---"] * len(HEADINGS)]
    rows += [figure.cells() for figure in figures]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def report(figures: Iterable[Figure], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``--json`` writes: what is known about the run, then every sample."""
    return {**about, "figures": [figure.as_json() for figure in figures]}
