"""Show the progress of jobs on the terminal, and pass their points on to the curves and MLflow.

Decision record: one thread in the driver empties the mailbox, moves the bars and passes points on, while the main
thread waits for the workers. Without a terminal, plain lines are printed instead of bars.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from raykd.checkpoint.curves import Curves
from raykd.cluster.listening import listen
from raykd.cluster.mailbox import Event, log_event
from raykd.cluster.wait import HEARTBEAT_S
from raykd.driver.ending import find_ending
from raykd.driver.jobs import Job
from raykd.errors import RaykdError
from raykd.point import Point
from raykd.timeline import get_active

log = logging.getLogger("raykd.runs")
SETTLE_S = 60.0
"""Longest wait for the driver to process all events that workers have sent."""


@dataclass
class _Inbox:
    """A mailbox, and how many of its events were processed."""

    mailbox: Any
    taken: int = 0


class JobProgress:
    """Bars of a run's jobs, and the events that move them.

    Args:
        console: Where to show them.
        jobs: The jobs by name, whose metrics and names of curves are shown.
        curves: Keeps the points.
        on_point: Records a point of a job; called once for each value.

    Attributes:
        error: The first error of a worker since the last start of the worker group.
    """

    def __init__(
        self,
        console: Console,
        jobs: Mapping[str, Job],
        curves: Curves,
        on_point: Callable[[str, Point], None],
    ) -> None:
        self._console, self._jobs, self._curves, self._on_point = console, jobs, curves, on_point
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[steps]:>11}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            refresh_per_second=4,
        )
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, float] = {}
        self._inbox: _Inbox | None = None
        self.error: RaykdError | None = None
        self._beat = time.monotonic()

    def expect(self, job: str, steps: int) -> None:
        """Show a job that has not started yet."""
        if job not in self._tasks:
            self._tasks[job] = self._bars.add_task(
                job, total=steps, start=False, steps=f"0/{steps}", note="waiting for its turn"
            )

    def note(self, job: str, note: str, steps: int | None = None) -> None:
        """Set a job's note. With steps, show it as finished."""
        if job not in self._tasks:
            self._tasks[job] = self._bars.add_task(job, total=steps or 1, start=True, steps="", note=note)
        self._bars.update(self._tasks[job], note=note, completed=steps)
        if not self._console.is_terminal:
            self._console.print(f"  {job}: {note}", highlight=False)

    def show_reading(self, job: str, done: int, total: int, what: str) -> None:
        """Show how far the reading of a job's rows is, before its steps begin.

        Args:
            job: Its name.
            done: Rows or texts so far.
            total: All of them.
            what: What happens to them, in words.
        """
        self.expect(job, total)
        task, share = self._tasks[job], done / max(1, total)
        self._bars.start_task(task)
        note = f"{done:,} of {total:,} {what}"
        self._bars.update(task, completed=done, total=total, steps=f"{share:.0%}", note=note)

    def say(self, line: str) -> None:
        """Print a line, above the bars if there are any."""
        self._console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Process what the attached mailbox receives while the body runs."""
        with (
            self._bars if self._console.is_terminal else contextlib.nullcontext(),
            listen(self._drain, name="raykd-progress", patience_s=5.0),
        ):
            yield

    def attach(self, mailbox: Any) -> None:
        """Listen to another mailbox from now on.

        Args:
            mailbox: Handle of an actor with `drain` and `sent`: a `Mailbox`, or a run's only worker.
        """
        if self._inbox is None or self._inbox.mailbox is not mailbox:
            self._inbox = _Inbox(mailbox)

    def settle(self) -> None:
        """Wait until all events that workers have sent are processed, or their mailbox is gone."""
        inbox = self._inbox
        if inbox is None:
            return
        with contextlib.suppress(ray.exceptions.RayError):
            sent = ray.get(inbox.mailbox.sent.remote(), timeout=SETTLE_S)
            deadline = time.monotonic() + SETTLE_S
            while inbox.taken < sent and time.monotonic() < deadline:
                time.sleep(0.02)

    def _drain(self) -> None:
        inbox = self._inbox
        if inbox is not None:
            with contextlib.suppress(ray.exceptions.RayError):  # a lost worker is noticed where it is watched
                self._empty(inbox)
        if not self._console.is_terminal and time.monotonic() - self._beat > HEARTBEAT_S:
            self._beat = time.monotonic()
            self._heartbeat()

    def _empty(self, inbox: _Inbox) -> None:
        for event in ray.get(inbox.mailbox.drain.remote()):
            try:
                self._take(event)
            except Exception:  # an outage of MLflow or a full disk must not stop the thread
                log.exception("a point of %s was not recorded", event.job)
            inbox.taken += 1

    def _heartbeat(self) -> None:
        for job, task in self._tasks.items():
            bar = self._bars.tasks[self._bars.task_ids.index(task)]
            if not bar.finished:
                shown = f"{bar.fields['steps']} {bar.fields['note']}".strip()
                self._console.print(f"  {job}: {shown}", highlight=False)

    def _take(self, event: Event) -> None:
        if event.kind == "error":
            self.error = self.error or event.error
            self.note(event.job, "[red]failed[/red]")
            return
        if event.kind == "note":
            log.warning("%s: %s", event.job, event.text)
            self.say(f"{event.job}: {event.text}")
            return
        if event.kind == "log":
            log_event(event, event.job)
            return
        if event.kind == "spans":
            timeline = get_active()
            if timeline is not None:
                timeline.extend(event.spans)
            return
        assert event.point is not None  # other kinds of events carry a point
        self.expect(event.job, event.total_steps)
        task = self._tasks[event.job]
        if event.kind == "tokens":
            self.show_reading(event.job, event.point.step, event.total_steps, "rows are tokenised")
            return
        if event.kind == "started":
            self.error = None  # the workers were started again
            self._bars.reset(task, total=event.total_steps)
            self._begun[event.job] = time.monotonic()
            self._bars.update(task, note="training")
        if event.kind == "point":
            job = self._jobs[event.job]
            point = job.name_point(event.point)
            fresh = self._curves.add(event.job, point)
            if fresh is not None:
                self._on_point(event.job, fresh)
            metric = job.metric
            score = point.values.get(f"eval/mean/{metric}")
            if score is not None:
                self._bars.update(task, note=f"validation {metric} {score:.3f}")
        step = event.total_steps if event.kind == "done" else event.point.step
        self._bars.update(task, completed=step, steps=f"{event.point.step}/{event.total_steps}")
        if event.kind == "done":
            self._end(event, task)

    def _end(self, event: Event, task: TaskID) -> None:
        """Print and log how a job ended."""
        assert event.point is not None
        points = self._curves.by_job.get(event.job, [])
        ending = find_ending(points, self._jobs[event.job].metric, event.total_steps)
        bar = self._bars.tasks[self._bars.task_ids.index(task)]
        note = bar.fields["note"] if ending is None else str(ending)
        self._bars.update(task, note=note)
        took = time.monotonic() - self._begun.get(event.job, time.monotonic())
        line = f"{event.job}: {event.point.step} steps in {took:.1f} s, {note}"
        log.info("%s", line)
        if not self._console.is_terminal:
            self._console.print(f"  {line}", highlight=False, soft_wrap=True)
