"""What a person sees while teachers answer ahead: a bar, or a line now and then where nobody watches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_S = 15.0
"""Seconds between two lines."""


@contextlib.contextmanager
def show_progress(console: Console, what: str = "labelling") -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, else a line now and then.

    Args:
        console: Where.
        what: What is answered.

    Returns:
        What `label_rows` reports to.
    """
    if not console.is_terminal:
        yield _Lines(console, what)
        return
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(bar_width=32), MofNCompleteColumn()]
    columns += [TextColumn("{task.fields[rate]:>12}"), TimeRemainingColumn()]
    with Progress(*columns, console=console, refresh_per_second=4) as bars:
        bar = bars.add_task(what, total=None, rate="")

        def report(done: int, total: int) -> None:
            speed = bars.tasks[bar].speed
            bars.update(bar, completed=done, total=total, rate=f"{speed:,.0f} texts/s" if speed else "")

        yield report


class _Lines:
    """Progress where nobody watches: a line at the start, every quarter of a minute and at the end."""

    def __init__(self, console: Console, what: str) -> None:
        self._console, self._what = console, what
        self._begun = self._said = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        first = self._first is None
        if self._first is None:
            self._first, self._begun = done, now
        if not (first or done == total or now - self._said >= _LINE_S):
            return
        self._said = now
        rate = (done - self._first) / max(1e-9, now - self._begun)
        left = f", {(total - done) / rate:,.0f} s left" if rate > 0 and done < total else ""
        speed = f", {rate:,.0f} texts/s" if rate > 0 else ""
        self._console.print(f"{self._what}: {done:,} of {total:,}{speed}{left}", highlight=False)
