"""What MLflow lacks is said once, a line for each run's folder, with the command that sends it."""

import shutil

import pytest

from raykd.errors import TrackingError
from raykd.point import Point
from raykd.tracking import Experiment, Tracker, database_path, lines_of_left, replay, sqlite_uri
from raykd.tracking.unrecorded import Left, note_left

DEAD = "http://127.0.0.1:9"


def start(uri, folder, **more):
    return Tracker.start(uri, "left", "r", params={}, tags={}, directory=folder, required=False, **more)


def test_a_run_and_its_children_are_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lines_of_left()
    folder = tmp_path / "a run"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    run = start(DEAD, folder)
    child = start(DEAD, folder / "spool" / "t1", parent_run_id=run.run_id)
    run.log_points([Point(1, {"x": 1.0}), Point(2, {"x": 1.0})])
    for tracker in (child, run):
        tracker.finish("FAILED", timeout_s=1)
    (line,) = lines_of_left()
    assert line.startswith("not recorded in MLflow: 2 points and ") and "of 2 MLflow runs" in line
    assert f"raykd mlflow sync '{folder}'" in line and "MLFLOW_TRACKING_URI" not in line
    assert lines_of_left() == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    note_left(Left(DEAD, folder, 1, 1, "away"))
    assert lines_of_left() == [
        f"not recorded in MLflow: 1 point and 1 other record (away); they wait in {folder}; send them with: "
        f"MLFLOW_TRACKING_URI={DEAD} raykd mlflow sync '{folder}'"
    ]


def test_all_that_was_recorded_is_not_spoken_of(tmp_path, mlflow_uri):
    lines_of_left()
    with start(mlflow_uri, tmp_path) as tracker:
        tracker.log_points([Point(1, {"x": 1.0})])
    assert lines_of_left() == []


def test_a_database_that_is_removed_on_the_way_is_said(tmp_path, mlflow_uri):
    start(mlflow_uri, tmp_path / "r").finish()
    lines_of_left()
    path = tmp_path / "mlflow.db"
    shutil.copy(database_path(mlflow_uri), path)
    with start(sqlite_uri(path), tmp_path / "r") as tracker:
        path.unlink()
        tracker.log_points([Point(1, {"x": 1.0})])
    (line,) = lines_of_left()
    assert "removed or replaced" in line and "raykd mlflow sync" in line
    with pytest.raises(TrackingError, match=r"no database(.|\n)*--new-run"):
        replay(sqlite_uri(path), tmp_path / "r")
    assert replay(sqlite_uri(path), tmp_path / "r", new_run=Experiment("left")).points == 1
