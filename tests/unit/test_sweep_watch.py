"""What the watching of a sweep does with points while MLflow is away."""

from __future__ import annotations

import io
import logging
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from rich.console import Console

from raykd.checkpoint.curves import Curves
from raykd.cluster.mailbox import Mailbox
from raykd.errors import TrackingError
from raykd.folders.log_file import log_to_file
from raykd.point import Point
from raykd.tuning.journal import Journal
from raykd.tuning.progress import SweepProgress
from raykd.tuning.recording.callback import TuneCallback
from raykd.tuning.trial import TrialHost


class Runs:
    """Stands for the trials' runs in MLflow; it can be away."""

    def __init__(self, curves: Curves) -> None:
        self.curves, self.away, self.tries = curves, True, 0
        self.open: dict[str, Any] = {}
        self.sent: list[int] = []
        self.waiting: list[str] = []

    def wait(self, name: str) -> None:
        self.waiting.append(name)

    def open_run(self, name: str) -> Any:
        if name not in self.open:
            self.tries += 1
            if self.away:
                raise TrackingError("away")
            self.open[name] = SimpleNamespace(
                log_points=lambda points: self.sent.extend(p.step for p in points)
            )
            self.open[name].log_points(self.curves.by_job[name])
        return self.open[name]


def test_points_are_kept_while_mlflow_is_away_and_sent_once_when_it_is_back(tmp_path: Path) -> None:
    curves, nothing = Curves(tmp_path / "curves.jsonl"), SimpleNamespace(state={}, replaced=False)
    watch = TuneCallback(Journal(tmp_path / "j"), curves, *[nothing] * 4, True, lambda point: point)  # type: ignore[arg-type]
    runs = watch._runs = Runs(curves)  # type: ignore[assignment]
    watch._record_point("t0", Point(1, {"loss": 1.0}))
    with pytest.raises(TrackingError):
        watch._open_run("t0")
    for step in (2, 3):
        watch._record_point("t0", Point(step, {"loss": 1.0}))
        watch._open_run("t0")
    assert runs.tries == 1, "each try takes seconds, so not every look makes one"
    runs.away, watch._open_from = False, 0.0
    watch._open_run("t0")
    for step in (4, 5, 5):
        watch._record_point("t0", Point(step, {"loss": 1.0}))
    assert runs.waiting == ["t0"] * 3
    assert runs.sent == [1, 2, 3, 4, 5]
    assert [p.step for p in Curves(tmp_path / "curves.jsonl").by_job["t0"]] == [1, 2, 3, 4, 5]


def test_what_a_trial_logs_is_in_the_sweeps_log_under_the_trials_name(tmp_path: Path) -> None:
    """A process trains one trial after another: each line belongs to the trial that it is training."""
    mailbox, logger = Mailbox(), logging.getLogger("raykd.student")
    reach: Any = SimpleNamespace(
        put=SimpleNamespace(remote=mailbox.put), drain=SimpleNamespace(remote=mailbox.drain)
    )
    host = object.__new__(TrialHost)
    host.context, host.telling = SimpleNamespace(mailbox=reach), ExitStack()  # type: ignore[assignment]
    host._begin = lambda earlier: logger.info("class weights of %s", host.trial_id)  # type: ignore[method-assign]
    for trial in ("abc_0", "abc_1"):
        host._trial_info = SimpleNamespace(trial_id=trial)
        host.reset_config({})
        logger.warning("a step was left out")
    host.telling.close()
    logger.info("between trials")

    curves, nothing = Curves(tmp_path / "curves.jsonl"), SimpleNamespace(state={}, replaced=False)
    out = io.StringIO()
    progress = SweepProgress(Console(file=out, width=200), "accuracy", 2, {})
    watch = TuneCallback(
        Journal(tmp_path / "j"),
        curves,
        nothing,
        nothing,
        reach,
        progress,
        True,
        lambda point: point,  # type: ignore[arg-type]
    )
    for number in (0, 1):
        watch.on_begin(f"t000{number}", f"abc_{number}")
    with log_to_file(tmp_path / "log.txt"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "get", lambda value: value)
        patch.setattr("raykd.tuning.progress.SILENCE_S", 0.0)
        progress.report_silence()
        watch._drain()
        progress.report_silence()
    waiting, training = out.getvalue().splitlines()
    assert "trials wait for their processes" in waiting and "trials are training" in training
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" raykd.student: ")[1] for line in lines] == [
        "t0000: class weights of abc_0", "t0000: a step was left out",
        "t0001: class weights of abc_1", "t0001: a step was left out",
    ]  # fmt: skip
