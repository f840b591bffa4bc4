"""One tracker against a real MLflow on SQLite; one database for the module, as making it takes seconds."""

import json
import logging
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from raykd.errors import TrackingError
from raykd.keys import make_mlflow_key
from raykd.point import Point
from raykd.tracking import Tracker, describe_environment, serve_ui
from raykd.tracking.delivery.outbox import SPOOL, write_spool

CANARY = "s3cr3tCANARY"


@pytest.fixture
def uri(mlflow_uri):
    return mlflow_uri


@pytest.fixture
def start(uri, tmp_path, monkeypatch):
    """Starts trackers from an empty folder; checks that MLflow left nothing in the folder or the process."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = {k: v for k, v in os.environ.items() if "MLFLOW" in k}
    made = []

    def make(name="run", **kwargs):
        made.append(
            Tracker.start(
                uri, "tests", name, **{"params": {}, "tags": {}, "directory": tmp_path / "run", **kwargs}
            )
        )
        return made[-1]

    yield make
    for tracker in made:
        tracker.finish()
    assert list(here.iterdir()) == []
    after = {k: v for k, v in os.environ.items() if "MLFLOW" in k and k != "MLFLOW_DISABLE_TELEMETRY"}
    assert after == {k: v for k, v in before.items() if k != "MLFLOW_DISABLE_TELEMETRY"}


@pytest.fixture
def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def points(first, count, value=0.5):
    return [
        Point(step, {"train/loss": value / step, "eval/zh/accuracy": 0.25}, 1_000_000 + step)
        for step in range(first, first + count)
    ]


def test_points_arrive_with_step_time_and_value(start, client):
    tracker = start()
    tracker.log_points(points(1, 1100))
    assert tracker.flush(20)
    history = client.get_metric_history(tracker.run_id, "train/loss")
    assert [(m.step, m.timestamp, m.value) for m in history] == [
        (s, 1_000_000 + s, 0.5 / s) for s in range(1, 1101)
    ]
    assert client.get_run(tracker.run_id).info.status == "RUNNING"
    tracker.finish()
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_sending_again_leaves_no_double_points(start, client):
    tracker = start()
    for _ in range(3):
        tracker.log_points(points(1, 5))
        assert tracker.flush(10)
    assert len(client.get_metric_history(tracker.run_id, "train/loss")) == 5


def test_what_is_not_finite_becomes_a_tag(start, client):
    tracker = start()
    tracker.log_points([Point(7, {"train/loss": float("nan"), "train/hard": float("inf"), "ok": 1.0}, 1)])
    assert tracker.flush(10)
    data = client.get_run(tracker.run_id).data
    assert data.metrics == {"ok": 1.0}
    assert data.tags["non_finite.train/loss"] == "nan at step 7"
    assert data.tags["non_finite.train/hard"] == "inf at step 7"


def test_parameters_are_cut_renamed_and_redacted(start, client, tmp_path):
    long = "x" * 7000
    params = {
        "objective.alpha": 0.3,
        "long": long,
        "odd?key": "v",
        "hub.token": CANARY,
        "u": f"http://a:{CANARY}@h",
    }
    params |= {f"many.{i}": i for i in range(250)}
    tracker = start(params=params, tags={"note": f"password={CANARY}", "big": "y" * 9000})
    data = client.get_run(tracker.run_id).data
    assert data.params["objective.alpha"] == "0.3"
    assert (len(data.params["long"]), data.params["long"][-1]) == (6000, "…")
    odd = make_mlflow_key("odd?key")
    assert odd.startswith("odd_key-") and data.params[odd] == "v"
    assert data.tags[f"param_name.{odd}"] == "odd?key"
    assert len(data.params) == 255
    assert len(data.tags["big"]) == 8000
    assert CANARY not in str(data.to_dictionary())
    assert client.list_artifacts(tracker.run_id, "params")[0].path == "params/long.txt"
    text = client.download_artifacts(tracker.run_id, "params/long.txt", str(tmp_path))
    with open(text, encoding="utf-8") as file:
        assert file.read() == long


def test_resume_goes_on_and_keeps_changed_parameters_as_tags(start, client):
    first = start(params={"lr": 0.1, "seed": 1})
    first.log_points(points(1, 2))
    first.finish("FAILED")
    again = start(params={"lr": 0.2, "seed": 1, "new": 3}, run_id=first.run_id)
    again.log_points(points(2, 3))
    assert client.get_run(first.run_id).info.status == "RUNNING"
    again.finish()
    third = start(params={"lr": 0.3}, run_id=first.run_id)
    third.finish()
    run = client.get_run(first.run_id)
    assert again.run_id == third.run_id == first.run_id
    assert (again.experiment_id, again.experiment.name) == (first.experiment_id, "tests")
    assert run.data.params == {"lr": "0.1", "seed": "1", "new": "3"}
    assert (run.data.tags["resume.1.lr"], run.data.tags["resume.2.lr"]) == ("0.2", "0.3")
    assert [m.step for m in client.get_metric_history(first.run_id, "train/loss")] == [1, 2, 3, 4]


def test_a_child_knows_its_parent_and_both_write_at_once(start, client):
    parent = start("parent")
    child = start("child", parent_run_id=parent.run_id, directory=None)
    parent.log_points(points(1, 50))
    child.log_points(points(1, 30))
    assert parent.flush(10)
    assert child.flush(10)
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
    assert client.get_run(child.run_id).info.run_name == "child"
    assert len(client.get_metric_history(parent.run_id, "train/loss")) == 50
    assert len(client.get_metric_history(child.run_id, "train/loss")) == 30


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("x"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(3), "FAILED"),
        (SystemExit(0), "FINISHED"),
    ],
)
def test_the_end_of_the_block_is_the_status(error, status, start, client):
    tracker = start()
    if error is None:
        with tracker:
            pass
    else:
        with pytest.raises(type(error)), tracker:
            raise error
    assert client.get_run(tracker.run_id).info.status == status


def test_artifacts(start, client, tmp_path, uri):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    tracker = start()
    tracker.log_text("温度", "notes/t.txt")
    tracker.log_file(tmp_path / "folder", "kept")
    tracker.log_file(tmp_path / "folder" / "a.txt")
    tracker.log_table([{"system": "s", "acc": 0.5}, {"system": "t", "f1": 1.0}], "results.json")
    with pytest.raises(TrackingError, match="nothing to log"):
        tracker.log_file(tmp_path / "absent")
    found = {
        a.path for folder in (None, "notes", "kept") for a in client.list_artifacts(tracker.run_id, folder)
    }
    assert {"a.txt", "results.json", "notes/t.txt", "kept/a.txt"} <= found
    with open(
        client.download_artifacts(tracker.run_id, "results.json", str(tmp_path)), encoding="utf-8"
    ) as file:
        assert json.load(file) == {
            "columns": ["system", "acc", "f1"],
            "data": [["s", 0.5, None], ["t", None, 1.0]],
        }
    root = uri.removeprefix("sqlite:///").removesuffix("/mlflow.db")
    assert client.get_run(tracker.run_id).info.artifact_uri.startswith(f"file://{root}/mlartifacts/")


def test_a_failing_artifact_store_is_a_warning_and_is_tried_again(start, client, caplog, monkeypatch):
    tracker = start()
    works = tracker._client.log_text
    monkeypatch.setattr(
        tracker._client, "log_text", lambda *a: (_ for _ in ()).throw(OSError(f"token={CANARY}"))
    )
    with caplog.at_level(logging.WARNING, "raykd.tracking"):
        tracker.log_text("x", "late.txt")
    assert "late.txt" in caplog.text
    assert CANARY not in caplog.text
    monkeypatch.setattr(tracker._client, "log_text", works)
    tracker.finish()
    assert [a.path for a in client.list_artifacts(tracker.run_id)] == ["late.txt"]


def test_a_deleted_experiment_is_an_error_with_a_command_that_works(uri, client):
    gone = client.create_experiment("gone")
    client.delete_experiment(gone)
    with pytest.raises(TrackingError, match=r"experiments restore.*tracking\.experiment") as caught:
        Tracker.start(uri, "gone", "r", params={}, tags={})
    command = str(caught.value).split("restore it: ")[1].split(";")[0]
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=120)
    assert client.get_experiment(gone).lifecycle_stage == "active"


@pytest.mark.parametrize("how", ["deleted", "absent"])
def test_a_run_that_is_gone_is_replaced_by_a_new_one_and_said(how, start, client, tmp_path):
    old = start().run_id if how == "deleted" else "0" * 32
    (tmp_path / "run").mkdir(exist_ok=True)
    if how == "deleted":
        client.delete_run(old)
    write_spool(tmp_path / "run" / SPOOL, [(old, Point(3, {"train/loss": 0.5}, 1000))])
    again = start(params={"lr": 0.1}, run_id=old)
    assert again.run_id != old and again.flush(10)
    assert again.notes and old in again.notes[0] and again.run_id in again.notes[0]
    assert ("runs restore --run-id" in again.notes[0]) == (how == "deleted")
    assert [m.step for m in client.get_metric_history(again.run_id, "train/loss")] == [3]
    assert client.get_run(again.run_id).data.params == {"lr": "0.1"}


def test_a_database_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="cannot be made"):
        Tracker.start(f"sqlite:///{tmp_path}/file/mlflow.db", "e", "r", params={}, tags={})


def test_pages_of_a_database_that_is_not_there(tmp_path):
    with pytest.raises(TrackingError, match="no MLflow database"):
        serve_ui(tmp_path, 5000, print)


def test_the_environment_is_read_without_imports():
    begin = time.monotonic()
    found = describe_environment()
    assert time.monotonic() - begin < 3
    assert {
        "python",
        "platform",
        "cpu",
        "cpu_flags",
        "cores",
        "memory",
        "ray",
        "torch",
        "mlflow",
        "deepspeed",
    } <= set(found)
    assert all(isinstance(v, str) and v for v in found.values())


def test_a_student_is_logged_as_a_model_that_predicts(start, uri, tmp_path, monkeypatch, client):
    import mlflow
    import pandas
    import torch

    from raykd.models import LinearStudent, TextModel, load_model, save_model
    from raykd.text.padding import pad_sequences
    from raykd.text.tokens import tokenize

    texts = ["bon film", "mauvais film", "这部电影很好", ""]
    labels, linear = ("negative", "positive"), LinearStudent()
    tokenizer = linear.fit_tokenizer(texts)
    network = linear.build(tokenizer, labels, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for weights in network.parameters():
            torch.nn.init.normal_(weights)
    built = TextModel(network, tokenizer, labels, kind="linear", max_length=32)
    student = save_model(built, tmp_path / "100%20 a?b#c" / "student")
    tracker = start()
    model_uri = tracker.log_student(student, ("negative", "positive"), ("fr", "zh"))
    tracker.finish()

    registry = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # set_tracking_uri writes it; the fixture puts it back
    try:
        model = mlflow.pyfunc.load_model(model_uri)
        answer = model.predict(pandas.DataFrame({"text": texts}, index=[5, 6, 7, 8]))
    finally:
        mlflow.set_tracking_uri(None)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert registry[1] is None
    assert list(answer.columns) == ["label", "p_negative", "p_positive"]
    assert list(answer.index) == [5, 6, 7, 8]
    direct = load_model(student)
    rows = tokenize(direct.tokenizer, texts, None, direct.max_length or 512)
    with torch.inference_mode():
        p_NC = torch.softmax(direct.model(**pad_sequences(rows, range(4))).logits.double(), -1).numpy()
    np.testing.assert_allclose(answer[["p_negative", "p_positive"]].to_numpy(), p_NC, atol=1e-6)
    assert list(answer["label"]) == [("negative", "positive")[c] for c in p_NC.argmax(1)]
    assert [c.name for c in model.metadata.signature.inputs] == ["text", "text_pair"]
    assert client.get_logged_model(model_uri.removeprefix("models:/")).status == "READY"
    folder = Path(uri.removeprefix("sqlite:///")).parent  # of the database, with the artifacts beside it
    assert list(folder.glob("**/model.safetensors")) != []
    assert [*folder.glob("**/*.pkl"), *tmp_path.glob("**/*.pkl")] == []


def test_sync_command_sends_what_a_run_left_behind(tmp_path, uri):
    import yaml
    from typer.testing import CliRunner

    from raykd.cli import app
    from raykd.config.loading import dump_run
    from tests.worlds import run_config

    with Tracker.start(uri, "e", "r", params={}, tags={}) as tracker:
        run_id = tracker.run_id
    folder = tmp_path / "run"
    folder.mkdir()
    tree = yaml.safe_load(dump_run(run_config()))
    (folder / "run.json").write_text("{}")
    (folder / "run.yaml").write_text(yaml.safe_dump({**tree, "tracking": {"uri": uri}}))
    write_spool(folder / SPOOL, [(run_id, Point(3, {"train/loss": 0.5}, 1000))])
    first = CliRunner().invoke(app, ["mlflow", "sync", str(folder)])
    assert first.exit_code == 0 and "sent 1 points" in first.output
    from mlflow import MlflowClient

    history = MlflowClient(uri).get_metric_history(run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(3, 0.5)]
