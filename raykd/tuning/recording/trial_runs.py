"""Record each trial of a sweep as a child run in MLflow.

Decision record: a trial that is over within `LIVE_AFTER_S` is recorded at its end, in three calls, and a longer one
while it goes on. Opening a run, sending its points one by one and ending it takes a tenth of a second of CPU time on
cores that trials share. That would be a tenth of a trial of two seconds, of which nobody could have watched the curve.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raykd.checkpoint.curves import Curves
from raykd.driver.session import ChildRuns
from raykd.folders.folder import RunFolder
from raykd.point import Point
from raykd.report.key_names import name_mlflow_params
from raykd.tracking import Tracker
from raykd.tracking.ended import EndedRun
from raykd.tuning.journal import Journal

LIVE_AFTER_S = 5.0
"""Seconds after a trial's first point until its run is opened, if the trial has not ended by then."""
MLFLOW_STATUS: dict[str, Any] = {
    "finished": "FINISHED",
    "stopped": "KILLED",
    "failed": "FAILED",
    "diverged": "FAILED",
    "interrupted": "KILLED",
}
"""Status in MLflow by how a trial ended. The tag raykd.trial tells a stopped trial from an interrupted one."""


class TrialRuns:
    """The MLflow child runs of a sweep, one per trial. Used by one thread.

    Args:
        parent: The sweep's run.
        folder: The sweep's folder. Its state says which children exist and which have ended.
        journal: The results of the trials.
        curves: The points of the trials.
        higher_is_better: Direction of the metric.
        resumed: Whether the sweep continues. A killed driver may have left a child that the state does not name.

    Attributes:
        waiting: Trials whose run is not open yet, and the time of their first point on the monotonic clock.
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
        self._earlier = set(journal.trials)
        self.waiting: dict[str, float] = {}

    @property
    def open(self) -> dict[str, Tracker]:
        """Runs that have not ended, by trial."""
        return self._children.open

    def wait(self, name: str) -> None:
        """Note that a trial without an open run has a point. An earlier start may have opened a run for it."""
        self.waiting.setdefault(name, 0.0 if name in self._earlier else time.monotonic())

    def list_due(self) -> list[str]:
        """Return the trials whose run is to be opened now."""
        now = time.monotonic()
        return [name for name, since in self.waiting.items() if now - since >= LIVE_AFTER_S]

    def open_run(self, name: str) -> Tracker:
        """Return the trial's run. It is opened when first needed; a resumed sweep finds the earlier one."""
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
            self.waiting.pop(name, None)
        return self.open[name]

    @property
    def _spool(self) -> Path:
        return self._folder.path / "spool"

    def remove_spool(self) -> None:
        """Remove the folder of unsent points if MLflow has taken all of them."""
        with contextlib.suppress(OSError):  # not there, or not empty
            self._spool.rmdir()

    def list_unended(self) -> list[tuple[str, str]]:
        """Return (name, status) of finished trials whose MLflow run may still be open.

        If the sweep's own run had to be replaced by a new one, these are all finished trials.
        """
        heard = set() if self._parent.replaced else set(self._folder.state.get("ended", ()))
        over = [t for t in self._journal.trials.values() if t.status is not None and t.name not in heard]
        return [(t.name, t.status) for t in over if t.status is not None and t.status != "failed"]

    def end(self, name: str, status: str) -> None:
        """End a trial's run with its best score and its status."""
        row = self._journal.trials[name].row(self._higher)
        best = []
        if row.best is not None:
            values = {"objective": row.best.score, "best_step": float(row.best.step)}
            best.append(Point(row.best.step, values))
        tags = {"raykd.role": "trial", "raykd.trial": status}
        if row.error:
            tags["raykd.error"] = row.error
        if not self._record_at_once(name, tags, best, status):
            tracker = self.open_run(name)
            tracker.log_points(best)
            tracker.set_tags(tags)
            tracker.finish(MLFLOW_STATUS[status])
            del self.open[name]
            with contextlib.suppress(OSError):  # not empty where MLflow did not take everything
                (self._spool / name).rmdir()
        if status != "interrupted":
            self._folder.write_state(ended=[*self._folder.state.get("ended", ()), name])

    def _record_at_once(self, name: str, tags: dict[str, str], best: Sequence[Point], status: str) -> bool:
        """Record a trial whose run was never opened; return False where that is left to `open_run`."""
        points, children = self._curves.by_job.get(name, ()), self._folder.state.get("children", {})
        if not points or name in children or name in self._earlier:
            return False
        params = name_mlflow_params(self._journal.trials[name].sample)
        ended = EndedRun(name, params, tags, [*points, *best], MLFLOW_STATUS[status])
        run_id, is_whole = self._parent.record_child(ended)
        if run_id is not None:  # from here on a second attempt goes on with this run
            self._folder.write_state(children={**children, name: run_id})
        if is_whole:
            self.waiting.pop(name, None)
        return is_whole
