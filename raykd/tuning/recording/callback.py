"""Record what trials report: in the journal, the curves, MLflow and on the terminal.

Decision record: Tune's own MLflow callback ends the whole sweep when the server dies. Here Tune's thread only writes
the journal. Points of the curves arrive by the same mailbox as in `raykd train`, and one thread sends them to MLflow,
one child run per trial (see `TrialRuns`). If the driver is killed, MLflow may miss ends and points; the next start of
the sweep sends both again, and MLflow drops duplicates.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import ray
from ray.tune import Callback

from raykd.checkpoint.curves import Curves
from raykd.cluster.listening import listen
from raykd.cluster.mailbox import log_event
from raykd.errors import RaykdError
from raykd.folders.folder import RunFolder
from raykd.parse import JsonObject
from raykd.point import Point
from raykd.report.sweeps.trial_table import describe_sample
from raykd.report.sweeps.trials import TrialRow
from raykd.tracking import Tracker
from raykd.tuning.checks.refusals import extract_reason
from raykd.tuning.journal import Journal, TrialStatus
from raykd.tuning.messages import INVALID_RUN
from raykd.tuning.progress import SweepProgress
from raykd.tuning.recording.trial_runs import TrialRuns

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial

log = logging.getLogger("raykd.tuning")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""Matches the colour codes in Ray's messages."""
MAX_CAUSE_LENGTH = 8000
"""Most characters kept of a trial's error. log.txt has the whole text."""
REOPEN_AFTER_S = 30.0
"""Seconds to wait after a trial's MLflow run could not be opened. Each attempt takes seconds."""


class TuneCallback(Callback):
    """Tune's callback, and the thread that receives the trials' points.

    Args:
        journal: Gets every result before anything follows from it.
        curves: Gets every point.
        tracker: The sweep's MLflow run.
        folder: The sweep's folder.
        mailbox: Actor handle of the `Mailbox` that trials send events to.
        progress: The bars.
        higher_is_better: Direction of the metric.
        name_point: Gives a point the names of curves and MLflow.
    """

    def __init__(
        self,
        journal: Journal,
        curves: Curves,
        tracker: Tracker,
        folder: RunFolder,
        mailbox: Any,
        progress: SweepProgress,
        higher_is_better: bool,
        name_point: Callable[[Point], Point],
    ) -> None:
        self._journal, self._curves, self._tracker = journal, curves, tracker
        self._mailbox, self._progress = mailbox, progress
        self._higher, self._name_point = higher_is_better, name_point
        resumed = bool(journal.trials)
        self._runs = TrialRuns(tracker, folder, journal, curves, higher_is_better, resumed)
        self._names: dict[str, str] = {}
        self._last: dict[str, JsonObject] = {}
        self._open_from = 0.0
        self._ends: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        unheard = self._runs.list_unended()
        for end in unheard:
            self._ends.put(end)
        self._ended = sum(trial.status is not None for trial in journal.trials.values()) - len(unheard)

    def __getstate__(self) -> dict[str, object]:
        """Keep files, locks and threads out of the pickle that Tune makes."""
        return {}

    # Tune's thread -----------------------------------------------------------------------------------------------

    def on_begin(self, name: str, trial_id: str) -> None:
        """Note a trial that was handed to Tune."""
        self._names[trial_id] = name
        self._progress.add_trial(name)

    def on_refusal(self, name: str, error: RaykdError) -> None:
        """Fail a trial whose setting cannot be run. Tune never sees it."""
        self._end(name, "failed", INVALID_RUN + extract_reason(error, self._journal.trials[name].sample))

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: JsonObject, **info: object
    ) -> None:
        """Record an evaluation after the scheduler has seen it, before Tune acts on its decision."""
        name = self._names[trial.trial_id]
        self._journal.record_result(name, result)
        self._last[name] = result
        self._progress.update_trial(self._row(name))

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        """Record the end of a trial that finished, diverged, or was stopped by the scheduler."""
        name = self._names[trial.trial_id]
        result = self._last.get(name, {})
        if result.get("diverged"):
            self._end(name, "diverged", str(result["diverged"]))
        else:
            self._end(name, "finished" if result.get("finished") else "stopped", None)

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        """Record a trial that failed for good."""
        name, error = self._names[trial.trial_id], _read_error(trial)
        if getattr(error, "cause", None) is not None:
            log.error("trial %s failed in its process:\n%s", name, error)  # with the traceback
        self._end(name, "failed", describe_cause(error))

    def _end(self, name: str, status: TrialStatus, error: str | None) -> None:
        if error is not None:
            sample = describe_sample(self._journal.trials[name].sample, {})
            log.error("trial %s %s, with %s: %s", name, status, sample, error)
        self._journal.record_end(name, status, error)
        self._progress.finish_trial(self._row(name))
        self._ends.put((name, status))

    def _row(self, name: str) -> TrialRow:
        return self._journal.trials[name].row(self._higher)

    # The listening thread -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Receive points while the body runs, and the remaining ones after it."""
        try:
            # To its end, since the runs in MLflow are used by one thread; MLflow has its own patience.
            with listen(self._take, name="raykd-sweep"):
                yield
        finally:
            for name in [*self._runs.open, *self._runs.waiting]:
                # A point that came after the end of a trial opened its run again.
                status = self._journal.trials[name].status or "interrupted"
                self._guard(self._runs.end, name, status)
            self._runs.remove_spool()

    def _take(self) -> None:
        self._progress.report_silence()
        self._drain()

    def _drain(self) -> None:
        """Record points before ends, so that a trial's last point is there before its run is closed."""
        ends = []
        while not self._ends.empty():
            ends.append(self._ends.get())
        for event in ray.get(self._mailbox.drain.remote()):
            name = self._names.get(event.job)
            self._progress.has_begun |= name is not None
            if name is not None and event.kind == "note":
                log.warning("%s: %s", name, event.text)
                self._progress.print_note(name, event.text)
            if name is not None and event.kind == "log":
                log_event(event, name)
            if name is not None and event.kind == "point":
                self._guard(self._record_point, name, event.point)
        for name in self._runs.list_due():
            self._guard(self._open_run, name)
        for name, status in ends:
            self._ended += 1
            self._guard(self._runs.end, name, status)
            best = self._progress.best
            if best is not None and best.score is not None:
                point = Point(self._ended, {"sweep/best": best.score})
                self._guard(self._tracker.log_points, [point])

    def _record_point(self, name: str, point: Point) -> None:
        """Write a point to the curves, then to MLflow. A run that is not open gets its points when it is opened."""
        known = name in self._runs.open
        fresh = self._curves.add(name, self._name_point(point))
        if known and fresh is not None:
            self._runs.open_run(name).log_points([fresh])
        elif not known:
            self._runs.wait(name)

    def _open_run(self, name: str) -> None:
        """Open the run of a trial that goes on. While MLflow is away this is not tried again and again."""
        if time.monotonic() >= self._open_from:
            self._open_from = time.monotonic() + REOPEN_AFTER_S
            self._runs.open_run(name)
            self._open_from = 0.0

    def _guard(self, action: Callable[..., object], *arguments: object) -> None:
        """Call an action. An outage of MLflow or a full disk must not end the listening."""
        try:
            action(*arguments)
        except Exception:
            log.exception("a point of a trial was not recorded")


def _read_error(trial: TuneTrial) -> BaseException | None:
    """Return what a trial raised last. Tune's own `get_error` looks in a place where the file is copied only later."""
    try:
        with open(trial.pickled_error_file, "rb") as file:
            error = ray.cloudpickle.load(file)
    except (OSError, TypeError):  # no file, or no name of one
        return None
    return error if isinstance(error, BaseException) else None


def describe_cause(error: BaseException | None) -> str:
    """Return the whole message of a trial's error. Its later lines say which key is wrong, why, and what to do."""
    inner = getattr(error, "cause", None) or error
    if inner is None:
        return "the trial's process ended, and nobody said why"
    plain = COLOUR.sub("", str(inner))
    text = "\n".join(line.rstrip() for line in plain.strip().splitlines() if line.strip())
    if len(text) > MAX_CAUSE_LENGTH:
        text = f"{text[: MAX_CAUSE_LENGTH // 2]}\n[...]\n{text[-MAX_CAUSE_LENGTH // 2 :]}"
    return f"{type(inner).__name__}: {text}"
