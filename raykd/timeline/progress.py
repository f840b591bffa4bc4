"""Show progress while teachers answer or texts are written: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_S = 15.0
"""Seconds between two lines."""


class Report(Protocol):
    """Takes how far the work is."""

    def __call__(self, done: int, total: int, cached: int = 0) -> None:
        """Show it.

        Args:
            done: How many are done.
            total: Of how many.
            cached: How many of them were read from a cache, which are no part of the rate.
        """


@contextlib.contextmanager
def show_progress(console: Console, what: str = "labelling", unit: str = "texts") -> Iterator[Report]:
    """Show progress while the body runs.

    Args:
        console: Where to show it.
        what: What is answered, for example "training texts".
        unit: What is counted.

    Returns:
        The report that `label_rows` takes.
    """
    if not console.is_terminal:
        yield _Lines(console, what, unit)
        return
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>14}"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=4,
    )
    with bars:
        bar = bars.add_task(what, total=None, rate="")

        def report(done: int, total: int, cached: int = 0) -> None:
            speed = bars.tasks[bar].speed or 0.0
            rate = "from the cache" if 0 < done == cached else _describe_rate(speed, unit)
            bars.update(bar, completed=done, total=total, rate=rate)

        yield report


class _Lines:
    """Progress without a terminal: a line at the start, every `_LINE_S` and at the end."""

    def __init__(self, console: Console, what: str, unit: str) -> None:
        self._console, self._what, self._unit = console, what, unit
        self._begun = self._said = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int, cached: int = 0) -> None:
        now, computed = time.monotonic(), done - cached
        if self._first is None:
            self._first, self._begun = computed, now
        elif done != total and now - self._said < _LINE_S:
            return
        self._said = now
        rate = (computed - self._first) / max(1e-9, now - self._begun)
        kept = f"{cached:,} from the cache" if cached else ""
        left = f"about {format_seconds((total - done) / rate)} left" if rate > 0 and done < total else ""
        rest = "".join(f", {part}" for part in (kept, _describe_rate(rate, self._unit), left) if part)
        self._console.print(f"{self._what}: {done:,} of {total:,}{rest}", highlight=False)


def _describe_rate(rate: float, unit: str) -> str:
    """Return how many are done in a second; empty below one, where the time that is left says more."""
    return f"{rate:,.0f} {unit}/s" if rate >= 1.0 else ""


def format_seconds(seconds: float) -> str:
    """Return a time that is left: 40 s, 12 min, 2.5 h."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
