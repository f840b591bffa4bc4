"""What MLflow lacks is said once, a line for each run's folder, with the command that sends it."""

import shutil

import pytest

from raykd.errors import RaykdError, TrackingError
from raykd.point import Point
from raykd.tracking import (
    Experiment,
    Tracker,
    build_sqlite_uri,
    find_database_path,
    send_waiting,
    take_unrecorded_lines,
)
from raykd.tracking.delivery.unrecorded import UnrecordedRun, note_unrecorded

DEAD = "http://127.0.0.1:9"


def start(uri, folder, **more):
    return Tracker.start(uri, "left", "r", params={}, tags={}, directory=folder, required=False, **more)


def test_a_run_and_its_children_are_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    take_unrecorded_lines()
    folder = tmp_path / "a run"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    run = start(DEAD, folder)
    child = start(DEAD, folder / "spool" / "t1", parent_run_id=run.run_id)
    run.log_points([Point(1, {"x": 1.0}), Point(2, {"x": 1.0})])
    for tracker in (child, run):
        tracker.finish("FAILED", timeout_s=1)
    (line,) = take_unrecorded_lines()
    assert line.startswith("not recorded in MLflow: 2 points and ") and "of 2 MLflow runs" in line
    assert f"raykd mlflow sync '{folder}'" in line and "MLFLOW_TRACKING_URI" not in line
    assert take_unrecorded_lines() == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    note_unrecorded(UnrecordedRun(DEAD, folder, 1, 1, "away"))
    assert take_unrecorded_lines() == [
        f"not recorded in MLflow: 1 point and 1 other record (away); they wait in {folder}; send them with: "
        f"MLFLOW_TRACKING_URI={DEAD} raykd mlflow sync '{folder}'"
    ]


@pytest.mark.parametrize(
    ("lost", "records", "words"),
    [
        (2, 1, ["3 points and 1 other record", "but 2 of the points, which are lost; send"]),
        (3, 0, ["3 points", "they are lost"]),
    ],
)
def test_points_that_no_disk_took_are_not_said_to_wait(tmp_path, lost, records, words):
    take_unrecorded_lines()
    note_unrecorded(UnrecordedRun(DEAD, tmp_path, 3, records, "away", lost))
    (line,) = take_unrecorded_lines()
    assert all(word in line for word in words), line
    assert ("sync" in line) is (lost < 3)


def test_all_that_was_recorded_is_not_spoken_of(tmp_path, mlflow_uri):
    take_unrecorded_lines()
    with start(mlflow_uri, tmp_path) as tracker:
        tracker.log_points([Point(1, {"x": 1.0})])
    assert take_unrecorded_lines() == []


def test_a_database_that_is_removed_on_the_way_is_said(tmp_path, mlflow_uri):
    start(mlflow_uri, tmp_path / "r").finish()
    take_unrecorded_lines()
    path = tmp_path / "mlflow.db"
    shutil.copy(find_database_path(mlflow_uri), path)
    with start(build_sqlite_uri(path), tmp_path / "r") as tracker:
        path.unlink()
        tracker.log_points([Point(1, {"x": 1.0})])
    (line,) = take_unrecorded_lines()
    assert "removed or replaced" in line and "raykd mlflow sync" in line
    with pytest.raises(TrackingError, match=r"no database(.|\n)*--new-run"):
        send_waiting(build_sqlite_uri(path), tmp_path / "r")
    assert send_waiting(build_sqlite_uri(path), tmp_path / "r", new_run=Experiment("left")).points == 1


def sync(*words):
    from typer.testing import CliRunner

    from raykd.cli import app

    return CliRunner().invoke(app, ["mlflow", "sync", *words])


def test_sync_refuses_by_name_and_one_record_does_not_hold_up_the_others(tmp_path, mlflow_uri, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = tmp_path / "runs"
    for wrong, told in ((tmp_path / "no", "no such folder"), (tmp_path, "no run.json")):
        error = sync(str(wrong)).exception
        assert error.exit_code == 2 and told in str(error)
    start(mlflow_uri, tmp_path / "other").finish()  # so that the database is there
    folder = runs / "r"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "run.yaml").write_text(
        "teachers: [{path: /on/another/machine}]"
    )  # all but `tracking` may be elsewhere
    shutil.copy(find_database_path(mlflow_uri), runs / "mlflow.db")
    assert f"raykd mlflow sync {runs / 'r'}" in str(sync(str(runs)).exception)
    away = start(DEAD, folder)
    away.log_points([Point(1, {"x": 1.0})])
    page = folder / "report.html"
    page.write_text("a page")
    away.log_file(page)
    away.log_text("after it", "notes.txt")
    away.finish("FAILED", timeout_s=1)
    take_unrecorded_lines()
    page.unlink()
    first = sync(str(folder))
    assert first.exit_code == 5 and "sent 1 points and" in first.output and "report.html" in first.output
    again = sync(str(folder))
    assert again.exit_code == 5 and "sent 0 points and 0 other records" in again.output
    page.write_text("a page")
    assert sync(str(folder)).exit_code == 0 and "nothing waits" in sync(str(folder)).output
    from mlflow import MlflowClient

    client = MlflowClient(build_sqlite_uri(runs / "mlflow.db"))
    (run,) = client.search_runs(
        [client.get_experiment_by_name("left").experiment_id], "tags.`raykd.local_id` != ''"
    )
    assert (run.info.status, run.data.metrics) == ("FAILED", {"x": 1.0})
    assert {a.path for a in client.list_artifacts(run.info.run_id)} == {"report.html", "notes.txt"}
    (folder / "run.yaml").write_text("[")
    (folder / "mlflow_spool.jsonl").write_text("torn\n")
    error = sync(str(folder)).exception
    assert isinstance(error, RaykdError)
