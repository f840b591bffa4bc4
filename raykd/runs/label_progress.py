"""Show progress while teachers answer ahead: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_S = 15.0
"""Seconds between two lines."""


@contextlib.contextmanager
def show_progress(
    console: Console, what: str = "labelling", unit: str = "texts"
) -> Iterator[Callable[[int, int], None]]:
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
        TextColumn("{task.fields[rate]:>12}"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=4,
    )
    with bars:
        bar = bars.add_task(what, total=None, rate="")

        def report(done: int, total: int) -> None:
            speed = bars.tasks[bar].speed
            bars.update(bar, completed=done, total=total, rate=f"{speed:,.0f} {unit}/s" if speed else "")

        yield report


class _Lines:
    """Progress without a terminal: a line at the start, every `_LINE_S` and at the end."""

    def __init__(self, console: Console, what: str, unit: str) -> None:
        self._console, self._what, self._unit = console, what, unit
        self._begun = self._said = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._begun = done, now
        elif done != total and now - self._said < _LINE_S:
            return
        self._said = now
        rate = (done - self._first) / max(1e-9, now - self._begun)
        left = f", {(total - done) / rate:,.0f} s left" if rate > 0 and done < total else ""
        speed = f", {rate:,.0f} {self._unit}/s" if rate > 0 else ""
        self._console.print(f"{self._what}: {done:,} of {total:,}{speed}{left}", highlight=False)
