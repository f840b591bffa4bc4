"""What the watching of a sweep does with points while MLflow is away."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykd.checkpoint.curves import Curves
from raykd.errors import TrackingError
from raykd.point import Point
from raykd.tuning.journal import Journal
from raykd.tuning.recording.callback import TuneCallback


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
