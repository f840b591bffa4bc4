"""Where records lie: any folder's name, two at once, moved, deleted, damaged, of another version, behind a proxy."""

import contextlib
import dataclasses
import os
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from raykd.config import TrackingConfig
from raykd.environ import bypass_proxy, find_proxy, is_this_machine
from raykd.errors import TrackingError
from raykd.point import Point
from raykd.tracking import (
    Experiment,
    Tracker,
    build_sqlite_uri,
    find_database_path,
    find_recording_place,
    resolve_tracking_uri,
)
from raykd.tracking.stores import database as tracking_database
from raykd.tracking.stores.failure import convert_failure
from raykd.tracking.stores.reading import read_experiment

NAMES = [
    "a?b",
    "100%20",
    "p%3Fq",
    "h#b",
    "with blank",
    "中文",
    "a+b",
    "a&b",
    "a@b",
    "q'u",
    'd"q',
    "x;y",
    "$HOME",
]
VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in (*VARIABLES, "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def made(mlflow_uri):
    """A database that plain raykd made, to be copied."""
    Tracker.start(mlflow_uri, "raykd", "first", params={}, tags={}).finish()
    return find_database_path(mlflow_uri)


def client_of(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


@pytest.mark.parametrize("name", NAMES)
def test_any_folder_holds_its_database_and_artifacts(name, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = tmp_path / name
    output.mkdir()
    uri = resolve_tracking_uri(TrackingConfig(), Path(name))
    assert find_database_path(uri) == output / "mlflow.db" and uri == resolve_tracking_uri(
        TrackingConfig(uri=uri), tmp_path
    )
    shutil.copy(made, output / "mlflow.db")
    with Tracker.start(uri, "own", "r", params={}, tags={}, directory=output / "r") as tracker:
        tracker.log_points([Point(1, {"x": 1.0})])
        tracker.log_text("hello", "notes/hello.txt")
    assert client_of(uri).get_run(tracker.run_id).data.metrics == {"x": 1.0}
    assert len(list(output.glob("mlartifacts/*/artifacts/notes/hello.txt"))) == 1
    shutil.rmtree(
        tmp_path / name.replace("%", "%25").replace("?", "%3F"), ignore_errors=True
    )  # of plain mlflow
    assert [path.name for path in tmp_path.iterdir() if path != output] == []


@pytest.mark.nightly
def test_two_first_runs_at_once_share_one_database(tmp_path):
    code = (
        "import sys; from raykd.tracking import Tracker\n"
        "t = Tracker.start(sys.argv[1], 'raykd', sys.argv[2], params={}, tags={}); t.finish(); print(t.run_id)"
    )
    uri = build_sqlite_uri(tmp_path / "mlflow.db")
    both = [
        subprocess.Popen([sys.executable, "-c", code, uri, name], stdout=subprocess.PIPE, text=True)
        for name in ("par1", "par2")
    ]
    ids = [process.communicate(timeout=120)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [client_of(uri).get_run(run_id).info.status for run_id in ids] == ["FINISHED", "FINISHED"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db"]


def test_a_database_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "mlflow.db").touch()  # what a process left that was killed at its first moment
    from mlflow.store.db import utils

    def killed(engine):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setenv("RAYKD_CACHE", "/proc/none")  # no database was made before
        broken.setattr(utils, "_upgrade_db", killed)
        tracking_database.make_database(tmp_path / "mlflow.db")
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("mlflow.db", 0)]


def test_a_database_from_the_cache_is_the_one_that_mlflow_makes(tmp_path, monkeypatch):
    from mlflow.store.db import utils

    theirs = tmp_path / "theirs.db"
    client_of(build_sqlite_uri(theirs)).get_experiment("0")
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    tracking_database.make_database(tmp_path / "first.db")
    monkeypatch.setattr(utils, "_upgrade_db", None)  # MLflow is not asked again
    tracking_database.make_database(tmp_path / "second.db")

    def dump(path):
        with contextlib.closing(sqlite3.connect(path)) as database:
            found = database.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
            # MLflow writes the constraints of a table in an order that differs from process to process.
            schema = {
                (kind, name): sorted(line.strip(" \t,") for line in (sql or "").splitlines())
                for kind, name, sql in found
            }
            tables = sorted(name for kind, name in schema if kind == "table" and name != "experiments")
            return schema, {name: database.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}

    assert dump(tmp_path / "first.db") == dump(tmp_path / "second.db") == dump(theirs)
    experiment = client_of(build_sqlite_uri(theirs)).get_experiment("0")
    ours = client_of(build_sqlite_uri(tmp_path / "second.db")).get_experiment("0")
    assert (ours.name, ours.artifact_location) == (experiment.name, experiment.artifact_location)


def changed(made, path, sql=""):
    """A copy of the database with a change."""
    shutil.copy(made, path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executescript(sql)
    os.utime(path, (1, 1))  # written long ago: nobody is making it
    return path


def looked(path, **config):
    return find_recording_place(TrackingConfig(uri=build_sqlite_uri(path), **config), path.parent)


def test_versions_damage_and_locks_are_told_apart(made, tmp_path, monkeypatch):
    path = tmp_path / "mlflow.db"
    with pytest.raises(TrackingError, match=r"newer MLflow(.|\n)*pip install -U mlflow"):
        looked(changed(made, path, "UPDATE alembic_version SET version_num = 'abc123'"))
    with pytest.raises(TrackingError, match=r"older MLflow(.|\n)*db upgrade"):
        looked(changed(made, path, "UPDATE alembic_version SET version_num = '451aebb31d03'"))
    with pytest.raises(TrackingError, match=r"cut off while it was made(.|\n)*unfinished"):
        looked(changed(made, path, "DELETE FROM alembic_version"))
    path.write_bytes(b"no database at all, but long enough" * 100)
    with pytest.raises(TrackingError, match=r"damaged(.|\n)*mv "):
        looked(path)
    shutil.copy(made, path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(TrackingError, match="damaged"):
        looked(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(TrackingError, match=r"cannot be (made|written)"):
        looked(path)
    path.rmdir()
    shutil.copy(made, path)
    monkeypatch.setattr(tracking_database, "LOCKED_S", 0.2)
    with contextlib.closing(sqlite3.connect(path)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match="locked"):
            looked(path)
        assert "does not answer now" in looked(path, required=False).notes[0]
        with pytest.raises(TrackingError, match="locked"):
            Tracker.start(build_sqlite_uri(path), "raykd", "r", params={}, tags={}, directory=tmp_path / "r")
        away = Tracker.start(
            build_sqlite_uri(path), "raykd", "r", params={}, tags={}, directory=tmp_path / "r", required=False
        )
        assert away.run_id.startswith("local-")
        away.finish()
    assert looked(path, experiment="free").notes == ()


def test_looking_makes_nothing(tmp_path):
    found = find_recording_place(TrackingConfig(), tmp_path / "new" / "runs")
    assert found.uri == build_sqlite_uri(tmp_path / "new" / "runs" / "mlflow.db") and not list(
        tmp_path.iterdir()
    )
    (tmp_path / "file").touch()
    with pytest.raises(TrackingError, match="cannot be made"):
        find_recording_place(TrackingConfig(), tmp_path / "file" / "runs")


def test_a_deleted_experiment_is_found_before_a_run(made, tmp_path):
    path = changed(made, tmp_path / "it's.db")
    client = client_of(build_sqlite_uri(path))
    client.delete_experiment(client.get_experiment_by_name("raykd").experiment_id)
    with pytest.raises(
        TrackingError, match=r"MLFLOW_TRACKING_URI=(.|\n)*tracking\.experiment=NAME"
    ) as caught:
        looked(path)
    words = shlex.split(str(caught.value).split("restore it: ")[1].split("; or")[0])
    assert words[0] == f"MLFLOW_TRACKING_URI={build_sqlite_uri(path)}" and words[-2] == "-x"
    assert looked(path, experiment="another").notes == ()


def test_the_environment_names_the_experiment_and_the_run_file_wins(made, monkeypatch, tmp_path):
    uri = build_sqlite_uri(made)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    found = find_recording_place(TrackingConfig(uri=uri), tmp_path)
    assert found.experiment.name == "mine"
    assert "MLFLOW_EXPERIMENT_NAME" in found.notes[0] and "MLFLOW_RUN_ID is ignored" in found.notes[1]
    with Tracker.start(uri, found.experiment, "r", params={}, tags={}) as tracker:
        assert tracker.experiment.name == "mine"
    written = find_recording_place(TrackingConfig(uri=uri, experiment="raykd"), tmp_path)
    assert written.experiment.name == "raykd" and "is ignored" in written.notes[0]
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", tracker.experiment_id)
    by_id = find_recording_place(TrackingConfig(uri=uri), tmp_path).experiment
    with Tracker.start(uri, by_id, "r", params={}, tags={}) as again:
        assert (again.experiment_id, again.experiment.name) == (tracker.experiment_id, "mine")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "987654")
    with pytest.raises(TrackingError, match="no MLflow experiment with the id 987654"):
        find_recording_place(TrackingConfig(uri=uri), tmp_path)
    with pytest.raises(TrackingError, match="no MLflow experiment"):
        find_recording_place(TrackingConfig(), tmp_path / "new")
    assert Experiment.of(TrackingConfig(experiment="x")).name == "x"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "x" * 501)
    with pytest.raises(TrackingError, match="MLFLOW_EXPERIMENT_NAME is too long"):
        find_recording_place(TrackingConfig(), tmp_path / "new")


def test_an_experiment_is_read_as_mlflow_reads_it_and_what_is_unusual_is_left_to_it(
    made, tmp_path, monkeypatch
):
    path = changed(made, tmp_path / "mlflow.db")
    client = client_of(build_sqlite_uri(path))
    client.create_experiment("own", artifact_location=(tmp_path / "art").as_uri())
    client.delete_experiment(client.create_experiment("put away"))

    def read(asked):
        with contextlib.closing(sqlite3.connect(path)) as database:
            return read_experiment(database, asked)

    for name in ("raykd", "own", "put away", "Default"):
        theirs = client.get_experiment_by_name(name)
        for asked in (Experiment(name), Experiment("", theirs.experiment_id)):
            ours = read(asked)[0]
            for field in dataclasses.fields(ours):
                assert getattr(ours, field.name) == getattr(theirs, field.name)
    assert read(Experiment("new")) == (None,) and client.get_experiment_by_name("new") is None
    assert read(Experiment("", "987654")) is None and read(Experiment("", "no number")) is None
    with monkeypatch.context() as scoped:
        scoped.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
        assert read(Experiment("own")) is None
    unusual = (
        "UPDATE experiments SET workspace = 'team' WHERE name = 'raykd'",
        "DROP TABLE metrics",
        "ALTER TABLE experiments RENAME COLUMN lifecycle_stage TO stage",
        "UPDATE alembic_version SET version_num = 'abc123'",
        "DELETE FROM experiments WHERE name = 'Default'",
    )
    for sql in unusual:
        changed(made, path, sql)
        assert read(Experiment("Default" if "Default" in sql else "raykd")) is None, sql


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_moved_database_takes_its_artifacts_along(how, made, tmp_path):
    old, new = tmp_path / "old", tmp_path / "ne w"
    old.mkdir()
    changed(made, old / "mlflow.db")
    with Tracker.start(build_sqlite_uri(old / "mlflow.db"), "own", "r", params={}, tags={}) as first:
        first.log_text("one", "a.txt")
    before = sorted(old.rglob("*.txt"))
    (shutil.move if how == "moved" else shutil.copytree)(old, new)
    uri = build_sqlite_uri(new / "mlflow.db")
    assert any(
        "moved or copied" in note
        for note in find_recording_place(TrackingConfig(uri=uri, experiment="own"), new).notes
    )
    with Tracker.start(uri, "own", "r", params={}, tags={}, run_id=first.run_id) as again:
        again.log_text("two", "b.txt")
    with Tracker.start(uri, "own", "fresh", params={}, tags={}) as fresh:
        fresh.log_text("three", "c.txt")
    assert again.run_id == first.run_id and "moved or copied" in again.notes[0] and not fresh.notes
    assert sorted(path.name for path in new.rglob("*.txt")) == ["a.txt", "b.txt", "c.txt"]
    assert sorted(old.rglob("*.txt")) == (before if how == "copied" else [])
    names = {a.path for a in client_of(uri).list_artifacts(first.run_id)}
    assert names == {"a.txt", "b.txt"}
    assert find_recording_place(TrackingConfig(uri=uri, experiment="own"), new).notes == ()


def test_a_place_that_somebody_chose_stays_and_is_said(made, tmp_path):
    (tmp_path / "db").mkdir()
    path = changed(made, tmp_path / "db" / "mlflow.db")
    client = client_of(build_sqlite_uri(path))
    client.create_experiment("chosen", artifact_location=(tmp_path / "far" / "mlartifacts").as_uri())
    (tmp_path / "far" / "mlartifacts").mkdir(parents=True)
    assert str(tmp_path / "far") in looked(path, experiment="chosen").notes[0]
    client.create_experiment("nowhere", artifact_location="file:///dev/null/nowhere")
    with pytest.raises(TrackingError, match="cannot be written"):
        looked(path, experiment="nowhere")
    client.create_experiment("bucket", artifact_location="gs://bucket/x")
    with pytest.raises(TrackingError, match="pip install google-cloud-storage"):
        looked(path, experiment="bucket")


def test_a_store_of_files_is_used_where_mlflow_is_told_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError, match="MLFLOW_ALLOW_FILE_STORE=true"):
        find_recording_place(TrackingConfig(uri="./mlruns"), tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    found = find_recording_place(TrackingConfig(uri="./mlruns"), tmp_path)
    assert found.uri == (tmp_path / "mlruns").as_uri()
    with Tracker.start(found.uri, "e", "r", params={"a": 1}, tags={}) as tracker:
        tracker.log_points([Point(1, {"x": 1.0})])
        tracker.log_text("x", "a.txt")
    assert client_of(found.uri).get_run(tracker.run_id).data.metrics == {"x": 1.0}


def test_a_database_without_driver_or_host_is_told_at_once():
    with pytest.raises(TrackingError, match=r"driver(.|\n)*pip install"):
        find_recording_place(TrackingConfig(uri="postgresql://127.0.0.1:9/mlflow"), Path())


def test_this_machine_is_never_asked_through_a_proxy(monkeypatch):
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "[::1]", "::1", socket.gethostname(), "0.0.0.0"):
        assert is_this_machine(host), host
    for host in ("10.0.0.1", "mlflow", "example.org", "1.2.3.4"):
        assert not is_this_machine(host), host
    monkeypatch.setenv("HTTP_PROXY", "http://u:s3cr3tCANARY@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "corp.example")
    assert find_proxy("http://127.0.0.1:5000") and find_proxy("http://mlflow.example:5000")
    bypass_proxy("http://127.0.0.1:5000")
    assert find_proxy("http://127.0.0.1:5000") is None and find_proxy("http://mlflow.example:5000")
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "corp.example,127.0.0.1"
    told = str(convert_failure("http://mlflow.example:5000", OSError("refused")))
    assert "through a proxy" in told and "HTTP_PROXY" in told and "s3cr3tCANARY" not in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("request failed with error code 401 != 200", "MLFLOW_TRACKING_TOKEN"),
        ("403 Client Error: FORBIDDEN", "MLFLOW_TRACKING_USERNAME"),
        ("failed with error code 404 != 200", "no MLflow server"),
        ("connection refused", "mlflow server --port 5000"),
    ],
)
def test_what_a_server_answers_is_told_apart(text, told):
    assert told in str(convert_failure("http://127.0.0.1:5000", OSError(text)))
