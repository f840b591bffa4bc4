"""What a person sees of a sweep while it runs: one bar for it, one for each running trial, lines where there is no
terminal.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from raykd.report.sweeps.trial_table import describe_sample
from raykd.report.sweeps.trials import TrialRow

MAX_TRIAL_BARS = 12
"""Running trials that get a bar of their own."""
SILENCE_S = 30.0
"""After so long without news a line says what is waited for."""


def indent_lines(text: str) -> str:
    """Return a message whose later lines stand below the first one."""
    return text.replace("\n", "\n      ")


class SweepProgress:
    """Bars on a terminal, a line a trial elsewhere. Called from Tune's thread.

    Args:
        total: Trials of the sweep, None where only a time budget ends it. before: trials that are over
            already.
    """

    def __init__(self, console: Console, metric: str, total: int | None, names: dict[str, str]) -> None:
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
        self._tasks: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._news = time.monotonic()
        self._reported = 0
        self.best: TrialRow | None = None

    @contextlib.contextmanager
    def show(self) -> Iterator[None]:
        """Show the bars while the body runs."""
        with self._bars if self._console.is_terminal else contextlib.nullcontext():
            yield

    def add_earlier(self, row: TrialRow) -> None:
        """A trial that was over before this start."""
        self._counts[row.status] += 1
        self._bars.advance(self._sweep)
        self._judge(row)

    def report_silence(self) -> None:
        """Called now and then by the watching thread: says so where nothing happens."""
        with self._lock:
            if time.monotonic() - self._news < SILENCE_S:
                return
            self._news = time.monotonic()
            what = (
                "trials are training; the next line comes with an evaluation"
                if self._reported
                else "trials wait for their processes and for the resources that they ask for"
            )
            self._console.print(f"  no news for {SILENCE_S:g} s: {what}", highlight=False)

    def add_trial(self, name: str) -> None:
        """A trial was handed to Tune."""
        with self._lock:
            self._news = time.monotonic()
            if len(self._tasks) < MAX_TRIAL_BARS:
                self._tasks[name] = self._bars.add_task(f"  {name}", total=None, note="waiting for its turn")

    def note(self, name: str, text: str) -> None:
        """What must be known of a trial, such as a checkpoint that it could not go on from."""
        self._console.print(f"  {name}: {text}", highlight=False, markup=False, soft_wrap=True)

    def update_trial(self, row: TrialRow) -> None:
        """A trial came to an evaluation."""
        with self._lock:
            self._news, self._reported = time.monotonic(), self._reported + 1
            self._judge(row)
            task = self._tasks.get(row.name)
            if task is not None and row.last is not None:
                note = f"{self._metric} {row.last.score:.4f}  {self._values(row)}"
                self._bars.update(task, total=row.total_steps, completed=row.last.step, note=note)
            self._show()

    def finish_trial(self, row: TrialRow) -> None:
        """A trial is over."""
        with self._lock:
            self._counts[row.status] += 1
            task = self._tasks.pop(row.name, None)
            if task is not None:
                self._bars.remove_task(task)
            self._bars.advance(self._sweep)
            self._show()
            if not self._console.is_terminal:
                score = "" if row.score is None else f"{self._metric} {row.score:.4f}, "
                error = f", {indent_lines(row.error)}" if row.error else ""
                self._console.print(
                    f"  {row.name} {row.status}: {score}{row.seconds:.1f} s, {self._values(row)}{error}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )

    def _judge(self, row: TrialRow) -> None:
        if not row.is_eligible or row.score is None:
            return
        if self.best is None or row.order < self.best.order:
            self.best = row

    def _show(self) -> None:
        counts = ", ".join(f"{n} {status}" for status, n in self._counts.items() if status != "finished")
        best = "" if self.best is None else f"best {self._metric} {self.best.score:.4f} ({self.best.name})"
        self._bars.update(self._sweep, note="  ".join(part for part in (best, counts) if part))

    def _values(self, row: TrialRow) -> str:
        return describe_sample(row.sample, self._names)
