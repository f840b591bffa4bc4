"""Show the progress of a sweep: a bar for the sweep and for each running trial, or lines without a terminal."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from raykd.report.sweeps.trial_table import describe_sample
from raykd.report.sweeps.trials import TrialRow

MAX_TRIAL_BARS = 12
"""Most running trials with a bar of their own."""
SILENCE_S = 30.0
"""Seconds without news after which a line says what the sweep waits for."""


def indent_lines(text: str) -> str:
    """Indent all lines of a message but the first."""
    return text.replace("\n", "\n      ")


class SweepProgress:
    """Bars on a terminal, one line per finished trial elsewhere. Called from Tune's thread.

    Args:
        console: Where to show it.
        metric: Name of the score.
        total: Number of trials.
        names: Short names of the searched keys, by path.
    """

    def __init__(self, console: Console, metric: str, total: int, names: Mapping[str, str]) -> None:
        self._console, self._metric, self._names = console, metric, names
        self._bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._sweep = self._bars.add_task("trials", total=total, note="starting")
        self._tasks: dict[str, TaskID] = {}
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._news = time.monotonic()
        self.has_begun = False
        self.best: TrialRow | None = None

    @contextlib.contextmanager
    def show(self) -> Iterator[None]:
        """Show the bars while the body runs."""
        with self._bars if self._console.is_terminal else contextlib.nullcontext():
            yield

    def add_earlier(self, row: TrialRow) -> None:
        """Count a trial that ended in an earlier start."""
        self._counts[row.status] += 1
        self._bars.advance(self._sweep)
        self._update_best(row)

    def report_silence(self) -> None:
        """Print what the sweep waits for if nothing has happened for a while. Called often by the listening thread."""
        with self._lock:
            if time.monotonic() - self._news < SILENCE_S:
                return
            self._news = time.monotonic()
            what = (
                "trials are training; the next line comes with an evaluation"
                if self.has_begun
                else "trials wait for their processes and for the resources that they ask for"
            )
            self._console.print(f"  no news for {SILENCE_S:g} s: {what}", highlight=False)

    def add_trial(self, name: str) -> None:
        """Add a bar for a trial that was handed to Tune."""
        with self._lock:
            self._news = time.monotonic()
            if len(self._tasks) < MAX_TRIAL_BARS:
                self._tasks[name] = self._bars.add_task(f"  {name}", total=None, note="waiting for its turn")

    def print_note(self, name: str, text: str) -> None:
        """Print a note about a trial, such as a checkpoint that it could not continue from."""
        self._console.print(f"  {name}: {text}", highlight=False, markup=False, soft_wrap=True)

    def update_trial(self, row: TrialRow) -> None:
        """Show an evaluation of a trial."""
        with self._lock:
            self._news, self.has_begun = time.monotonic(), True
            self._update_best(row)
            task = self._tasks.get(row.name)
            if task is not None and row.last is not None:
                note = f"{self._metric} {row.last.score:.4f}  {self._values(row)}"
                self._bars.update(task, total=row.total_steps, completed=row.last.step, note=note)
            self._show_counts()

    def finish_trial(self, row: TrialRow) -> None:
        """Count a trial that has ended, and print its result where there are no bars."""
        with self._lock:
            self._counts[row.status] += 1
            task = self._tasks.pop(row.name, None)
            if task is not None:
                self._bars.remove_task(task)
            self._bars.advance(self._sweep)
            self._show_counts()
            if not self._console.is_terminal:
                score = "" if row.score is None else f"{self._metric} {row.score:.4f}, "
                rest = [f"{row.seconds:.1f} s", self._values(row), indent_lines(row.error or "")]
                self._console.print(
                    f"  {row.name} {row.status}: {score}{', '.join(part for part in rest if part)}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )

    def _update_best(self, row: TrialRow) -> None:
        if not row.is_eligible or row.score is None:
            return
        if self.best is None or row.order < self.best.order:
            self.best = row

    def _show_counts(self) -> None:
        counts = ", ".join(f"{n} {status}" for status, n in self._counts.items() if status != "finished")
        best = "" if self.best is None else f"best {self._metric} {self.best.score:.4f} ({self.best.name})"
        self._bars.update(self._sweep, note="  ".join(part for part in (best, counts) if part))

    def _values(self, row: TrialRow) -> str:
        return describe_sample(row.sample, self._names)
