"""What happens during a sweep, as the driver sees it: journal, curves, MLflow and the terminal.

Decision record: Tune's own callbacks for MLflow end the whole sweep if the server dies. Here Tune's thread only writes
the journal; points of the curves come from the trials by the same mailbox as in `raykd train`, and one thread hands
them to MLflow, a child run a trial. A child is opened with its trial's first point and ended after its last.
A driver that is killed has trials whose end MLflow never heard of, and points that were on their way there: the next
start of the sweep says both again (MLflow drops what it has already).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback

from raykd.checkpoint.curves import Curves
from raykd.cluster.listening import listen
from raykd.driver.session import ChildRuns
from raykd.errors import RaykdError
from raykd.folders.folder import RunFolder
from raykd.point import Point
from raykd.report.key_names import name_mlflow_params
from raykd.report.sweeps.trial_table import describe_sample
from raykd.report.sweeps.trials import TrialRow
from raykd.tracking import Tracker
from raykd.tuning.checks.refusals import extract_reason
from raykd.tuning.journal import Journal, TrialStatus
from raykd.tuning.messages import INVALID_RUN
from raykd.tuning.progress import SweepProgress

log = logging.getLogger("raykd.tuning")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""What Ray puts into its messages for a terminal."""
MAX_CAUSE_LENGTH = 8000
"""Characters of a trial's error that are kept of a text without end; log.txt has it whole."""
REOPEN_AFTER_S = 30.0
"""After a trial's run could not be opened none is tried for so long: each try takes seconds."""
MLFLOW_STATUS: dict[str, Any] = {
    "finished": "FINISHED",
    "stopped": "KILLED",
    "failed": "FAILED",
    "diverged": "FAILED",
    "interrupted": "KILLED",
}
"""A trial that the scheduler stopped is KILLED in MLflow; the tag raykd.trial says by whom."""


class TrialRuns:
    """A child run of the sweep's MLflow run for each trial; used by one thread.

    Args:
        parent: The sweep's run.
        folder: Of the sweep; its state says which children there are and which have ended.
        journal: What came of the trials.
        curves: Their points.
        higher_is_better: Direction of the metric.
        resumed: Whether the sweep goes on, so that a child may be there that the killed driver did not note.
    """

    def __init__(
        self,
        parent: Tracker,
        folder: RunFolder,
        journal: Journal,
        curves: Curves,
        higher_is_better: bool,
        resumed: bool,
    ) -> None:
        self._parent, self._folder, self._journal, self._curves = parent, folder, journal, curves
        self._higher, self._resumed = higher_is_better, resumed
        self._children = ChildRuns(parent, folder)

    @property
    def open(self) -> dict[str, Tracker]:
        """Run that have not ended, by trial."""
        return self._children.open

    def open_run(self, name: str) -> Tracker:
        """Return the trial's run, opened when it is first needed and found again by a resumed sweep."""
        if name not in self.open:
            spool = self._spool / name
            spool.mkdir(parents=True, exist_ok=True)
            run = self._children.start(
                name,
                params=name_mlflow_params(self._journal.trials[name].sample),
                tags={"raykd.role": "trial", "raykd.trial": "running"},
                directory=spool,
                find=self._parent.find_child if self._resumed else lambda name: None,
            )
            run.log_points(self._curves.by_job.get(name, ()))
        return self.open[name]

    @property
    def _spool(self) -> Path:
        return self._folder.path / "spool"

    def remove_spool(self) -> None:
        """Remove the folder of points that waited for MLflow, where it has taken all."""
        with contextlib.suppress(OSError):  # not there, or not empty
            self._spool.rmdir()

    def list_unended(self) -> list[tuple[str, str]]:
        """Trials that are over, though their run may not be ended, and what they became.

        These are all where the sweep's own run is new in the place of one that is gone.
        """
        heard = set() if self._parent.replaced else set(self._folder.state.get("ended", ()))
        over = [t for t in self._journal.trials.values() if t.status is not None and t.name not in heard]
        return [(t.name, t.status) for t in over if t.status is not None and t.status != "failed"]

    def end(self, name: str, status: str) -> None:
        """End a trial's run as what it became."""
        row = self._journal.trials[name].row(self._higher)
        tracker = self.open_run(name)
        if row.best is not None:
            values = {"objective": row.best.score, "best_step": float(row.best.step)}
            tracker.log_points([Point(row.best.step, values)])
        tags = {"raykd.trial": status}
        if row.error:
            tags["raykd.error"] = row.error
        tracker.set_tags(tags)
        tracker.finish(MLFLOW_STATUS[status])
        del self.open[name]
        if status != "interrupted":
            self._folder.write_state(ended=[*self._folder.state.get("ended", ()), name])
        with contextlib.suppress(OSError):  # not empty where MLflow did not take everything
            (self._spool / name).rmdir()


class TuneCallback(Callback):
    """Tune's callback, and the thread that takes in the trials' points."""

    def __init__(
        self,
        journal: Journal,
        curves: Curves,
        tracker: Tracker,
        folder: RunFolder,
        mailbox: Any,
        progress: SweepProgress,
        higher_is_better: bool,
    ) -> None:
        self._journal, self._curves, self._tracker = journal, curves, tracker
        self._mailbox, self._progress = mailbox, progress
        self._higher = higher_is_better
        resumed = bool(journal.trials)
        self._runs = TrialRuns(tracker, folder, journal, curves, higher_is_better, resumed)
        self._names: dict[str, str] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._open_from = 0.0
        self._ends: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        unheard = self._runs.list_unended()
        for end in unheard:
            self._ends.put(end)
        self._ended = sum(trial.status is not None for trial in journal.trials.values()) - len(unheard)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles what it is given; files, locks and threads stay here."""
        return {}

    # Tune's thread -----------------------------------------------------------------------------------------------

    def on_begin(self, name: str, trial_id: str) -> None:
        """A trial was handed to Tune."""
        self._names[trial_id] = name
        self._progress.add_trial(name)

    def on_refusal(self, name: str, error: RaykdError) -> None:
        """A trial's setting can be no run, so it was not handed to Tune."""
        self._end(name, "failed", INVALID_RUN + extract_reason(error, self._journal.trials[name].sample))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An evaluation, which the scheduler has judged: into the journal before anything comes of it."""
        name = self._names[trial.trial_id]
        self._journal.record_result(name, result)
        self._last[name] = result
        self._progress.update_trial(self._row(name))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is over: by itself, or because the scheduler stopped it."""
        name = self._names[trial.trial_id]
        result = self._last.get(name, {})
        if result.get("diverged"):
            self._end(name, "diverged", str(result["diverged"]))
        else:
            self._end(name, "finished" if result.get("finished") else "stopped", None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        name, error = self._names[trial.trial_id], _error_of(trial)
        if getattr(error, "cause", None) is not None:
            log.error("trial %s failed in its process:\n%s", name, error)  # with the lines that led there
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

    # the watching thread -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take in points while the body runs, and what is left after it."""
        try:
            # To its end, since the runs in MLflow are used by one thread; MLflow has its own patience.
            with listen(self._take, name="raykd-sweep"):
                yield
        finally:
            for name in list(self._runs.open):
                # One that is over was opened again by a point that came after its end.
                status = self._journal.trials[name].status or "interrupted"
                self._guarded(lambda n=name, s=status: self._runs.end(n, s))
            self._runs.remove_spool()

    def _take(self) -> None:
        self._progress.report_silence()
        self._drain()

    def _drain(self) -> None:
        """Points first, so that a trial's last one is there before its run ends."""
        ends = []
        while not self._ends.empty():
            ends.append(self._ends.get())
        for event in ray.get(self._mailbox.drain.remote()):
            name = self._names.get(event.job)
            if name is not None and event.kind == "note":
                log.warning("%s: %s", name, event.text)
                self._progress.note(name, event.text)
            if name is not None and event.kind == "point":
                self._guarded(lambda n=name, p=event.point: self._point(n, p))
        for name, status in ends:
            self._ended += 1
            self._guarded(lambda n=name, s=status: self._runs.end(n, s))
            best = self._progress.best
            if best is not None:
                self._guarded(
                    lambda b=best: self._tracker.log_points([Point(self._ended, {"sweep/best": b.score})])
                )

    def _point(self, name: str, point: Point) -> None:
        """Into the file first. A run that is opened is told all that the file holds, so this point too."""
        known = name in self._runs.open
        fresh = self._curves.add(name, point)
        if known and fresh is not None:
            self._runs.open_run(name).log_points([fresh])
        elif not known and time.monotonic() >= self._open_from:
            self._open_from = time.monotonic() + REOPEN_AFTER_S  # not for every point where MLflow is away
            self._runs.open_run(name)
            self._open_from = 0.0

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except Exception:  # an outage of MLflow or a full disk must not end the watching
            log.exception("a point of a trial was not recorded")


def _error_of(trial: Any) -> BaseException | None:
    """Return what a trial raised last; Tune's own `get_error` looks where the file will be only later."""
    try:
        with open(trial.pickled_error_file, "rb") as file:
            error = ray.cloudpickle.load(file)
    except (OSError, TypeError):  # none was written
        return None
    return error if isinstance(error, BaseException) else None


def describe_cause(error: BaseException | None) -> str:
    """Return what went wrong in a trial, the whole message: its later lines say which key, why, and what to do."""
    inner = getattr(error, "cause", None) or error
    if inner is None:
        return "the trial's process ended, and nobody said why"
    plain = COLOUR.sub("", str(inner))
    text = "\n".join(line.rstrip() for line in plain.strip().splitlines() if line.strip())
    if len(text) > MAX_CAUSE_LENGTH:
        text = f"{text[: MAX_CAUSE_LENGTH // 2]}\n[...]\n{text[-MAX_CAUSE_LENGTH // 2 :]}"
    return f"{type(inner).__name__}: {text}"
