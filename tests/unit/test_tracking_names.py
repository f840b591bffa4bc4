"""Names that people choose arrive in MLflow, each as itself; what MLflow refuses costs nothing else."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykd.data.rows import Rows
from raykd.keys import RESERVED_PARTS, make_key_part, make_mlflow_key
from raykd.point import Point
from raykd.student.evaluate import compute_language_scores
from raykd.tracking import Tracker, send_waiting
from raykd.tracking.client import KeyNames, log_rows
from raykd.tracking.delivery.operations import clean_artifact_path

LANGUAGES = [
    "mean", "macro", ".", "..", "zh(CN)", "zh_CN_", "zh CN", "a/b", "a_b", " a", "a ", "", "😀", "中文", "हिन्दी", "EN", "en",
    "x" * 300, "x" * 301, "mean-82523fae", "en\n", "a\0b", "\ud800", "-", "C:", "%2e", "a..b", "a.b",
]  # fmt: skip
"""What a language may be called, in pairs that would meet."""


@pytest.fixture
def client(mlflow_uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=mlflow_uri)


def test_every_language_has_a_curve_of_its_own(mlflow_uri, client, tmp_path):
    tracker = Tracker.start(mlflow_uri, "names", "r", params={}, tags={}, directory=tmp_path)
    values = {f"eval/{make_key_part(name)}/accuracy": float(at) for at, name in enumerate(LANGUAGES)}
    assert len(values) == len(LANGUAGES)
    tracker.log_points([Point(1, {**values, "eval/mean/accuracy": 0.5})])
    assert tracker.flush(20)
    found = client.get_run(tracker.run_id).data.metrics
    assert sorted(found.values()) == sorted([*values.values(), 0.5]) and found["eval/mean/accuracy"] == 0.5
    assert len({key.casefold() for key in found}) == len(found)
    tracker.finish()
    again = Tracker.start(
        mlflow_uri, "names", "r", params={}, tags={}, directory=tmp_path, run_id=tracker.run_id
    )
    again.log_points([Point(2, values)])
    again.finish()
    assert set(client.get_run(tracker.run_id).data.metrics) == set(found), "the same keys after a resume"


def test_a_language_called_mean_is_not_the_mean_over_languages():
    class Task:
        def compute_metrics(self, said: "Said", rows: Rows, labels: Sequence[str]) -> dict[str, float]:
            return {"accuracy": float(said.values_B.mean())}

    class Said:
        def __init__(self, values_B: np.ndarray) -> None:
            self.values_B = values_B

        def take(self, at: np.ndarray) -> "Said":
            return Said(self.values_B[at])

    languages = ("mean", "mean", "..", "..")
    rows = type(
        "AllRows",
        (),
        {"languages": languages, "labelled": np.ones(4, bool), "take": lambda self, at: self},
    )()
    found = compute_language_scores(Task(), Said(np.array([1.0, 1.0, 0.0, 0.0])), rows, ["a"])  # type: ignore[arg-type]
    assert found["eval/mean/accuracy"] == 0.5
    assert sorted(found.values()) == [0.0, 0.5, 1.0]


@given(st.lists(st.text(max_size=12), unique=True, max_size=8))
def test_parts_and_keys_never_meet(names):
    assert len({make_key_part(name) for name in names}) == len(names)
    assert len({make_mlflow_key(name) for name in names}) == len(names)
    keys = KeyNames()
    made = [keys(name) for name in names]
    assert [keys(name) for name in names] == made
    assert len({key.casefold() for key in made}) == len(names)
    assert not {make_key_part(name) for name in names} & RESERVED_PARTS


@given(st.text(max_size=300), st.text(max_size=300))
def test_paths_of_artifacts_never_meet_and_fit_a_file_system(one, two):
    first, second = clean_artifact_path(one), clean_artifact_path(two)
    parts = [tuple(part for part in path.split("/") if part) for path in (one, two)]
    assert (first == second) == (parts[0] == parts[1])
    assert all(
        0 < len(part.encode()) <= 255 and part not in (".", "..") for part in first.split("/") if first
    )


def test_one_value_that_is_refused_costs_nothing_else(mlflow_uri, client, tmp_path, caplog):
    from mlflow.entities import Metric, Param

    tracker = Tracker.start(mlflow_uri, "names", "refused", params={"a": 1}, tags={}, directory=tmp_path)
    rows = [Metric(f"m{i}", float(i), 1, 0) for i in range(300)]
    rows[77] = Metric("bad?", 1.0, 1, 0)
    rows[201] = Metric("m201", 1.0, -1, 0)
    log_rows(tracker._client, tracker.run_id, "metrics", rows)
    params = [Param(f"p{i}", "v") for i in range(50)] + [Param("a", "2")]
    log_rows(tracker._client, tracker.run_id, "params", params)
    tracker.finish()
    data = client.get_run(tracker.run_id).data
    assert set(data.metrics) == {f"m{i}" for i in range(300)} - {"m77", "m201"}
    assert len(data.params) == 51 and data.params["a"] == "1"
    assert "bad?" in caplog.text and "m201" in caplog.text


def test_what_a_deleted_run_refuses_is_kept(mlflow_uri, client, tmp_path):
    tracker = Tracker.start(mlflow_uri, "names", "gone", params={}, tags={}, directory=tmp_path)
    client.delete_run(tracker.run_id)
    tracker.log_points([Point(1, {"x": 1.0})])
    tracker.set_tags({"late": "tag"})
    tracker.finish("FAILED", timeout_s=2)
    with pytest.raises(Exception, match="is deleted"):
        send_waiting(mlflow_uri, tmp_path)
    client.restore_run(tracker.run_id)
    assert send_waiting(mlflow_uri, tmp_path).points == 1
    run = client.get_run(tracker.run_id)
    assert (run.data.metrics["x"], run.data.tags["late"], run.info.status) == (1.0, "tag", "FAILED")


def test_odd_texts_tags_and_tables_arrive(mlflow_uri, client, tmp_path):
    long = "語" * 7000
    params = {
        "long": long,
        "half": "a\ud800b",
        "nul": "a\0b",
        "empty": "",
        **{f"k{i}": long for i in range(60)},
    }
    tracker = Tracker.start(
        mlflow_uri, "names", "odd", params=params, tags={"..": "x", "a(b)": "y" * 9000, "a_b_": "z"},
        directory=tmp_path,
    )  # fmt: skip
    tracker.log_text("half \ud800", "../x?/zh(CN)%#.txt")
    tracker.log_table([{"a": 1}], "one.json")
    tracker.log_table([{"a": 2}], "mean/two.json")
    tracker.finish()
    assert not list(tmp_path.glob("mlflow_*"))
    data = client.get_run(tracker.run_id).data
    assert set(data.params) == set(params) and len(data.params["long"]) == 6000
    assert (
        data.tags["a_b_"] == "z"
        and data.tags[make_mlflow_key("a(b)")].endswith("…")
        and data.tags[make_mlflow_key("..")] == "x"
    )
    assert [t["path"] for t in json.loads(data.tags["mlflow.loggedArtifacts"])] == [
        "one.json",
        "mean/two.json",
    ]
    folder = clean_artifact_path("../x?/zh(CN)%#.txt").rsplit("/", 1)[0]
    assert len(client.list_artifacts(tracker.run_id, folder)) == 1
