"""The public functions: ways to give a configuration, results that are read back, inputs of a prediction."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raykd
from raykd import models
from raykd.config import RunConfig
from raykd.config.loading import load_any_run, load_run
from raykd.errors import ConfigError, DataError
from raykd.results import Run
from raykd.tuning.config import SweepConfig, load_run_or_sweep, load_sweep
from tests.fakes import LABELS, texts_and_labels
from tests.unit.test_cli_bad_input import tree

PACKAGE = Path(raykd.__file__).parent
FUNCTIONS = ("train", "sweep", "compare", "confirm", "label", "predict", "evaluate", "load", "check", "plan")


def test_importing_raykd_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import time; begun = time.perf_counter(); import raykd; took = time.perf_counter() - begun\n"
        "import sys, json; raykd.train; raykd.Run\n"
        "print(json.dumps([took, [m for m in ('torch', 'ray', 'transformers', 'mlflow') if m in sys.modules]]))"
    )
    tries = [json.loads(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3)]
    assert min(took for took, _ in tries) <= 0.3
    assert [loaded for _, loaded in tries] == [[]] * 3


def test_no_room_or_module_hides_a_public_function() -> None:
    assert set(FUNCTIONS) <= set(raykd.__all__)
    for name in raykd.__all__:
        assert callable(getattr(raykd, name))
        assert not (PACKAGE / name).exists() and not (PACKAGE / f"{name}.py").exists(), name
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        raykd.fit  # noqa: B018


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(tree(tmp_path)), encoding="utf-8")
    return path


def test_a_path_a_mapping_and_a_model_are_the_same_run(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_file.parent)  # where paths of a mapping begin
    wanted = load_run(run_file, ["train.steps=7", "seed=5", "student.hidden=32"])
    sources: list[Any] = [run_file, str(run_file), json.loads(run_file.read_text()), load_run(run_file)]
    changes: list[Any] = [("train.steps", np.int64(7)), "seed=5", ("student", {"hidden": 32})]
    assert [load_any_run(source, changes) for source in sources] == [wanted] * 4


def test_overrides_are_texts_a_mapping_or_keywords_and_the_later_one_wins(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RunConfig] = []
    monkeypatch.setattr("raykd.experiments.checks.collect_findings", lambda run: seen.append(run) or [])
    raykd.check(run_file, ["train.steps=7"], seed=2)
    raykd.check(run_file, {"train.steps": 7}, **{"seed": 2})
    raykd.check(run_file, "train.steps=9", **{"train.steps": 7}, seed=2)
    raykd.check(run_file, train={"steps": 7}, seed=2)
    assert seen == [load_run(run_file, ["train.steps=7", "seed=2"])] * 4


def test_a_sweep_is_read_from_a_file_a_mapping_or_a_model(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_file.parent)
    space: dict[str, Any] = {
        "name": "alphas",
        "base": "run.yaml",
        "space": {"objective": {"alpha": {"grid": [0.2, 0.8]}}},
        "search": {"kind": "grid"},
    }
    file = run_file.parent / "space.yaml"
    file.write_text(json.dumps(space), encoding="utf-8")
    wanted = load_sweep(file)
    with_a_model = {**space, "base": load_run(run_file)}
    found = [load_run_or_sweep(s) for s in (file, space, SweepConfig.model_validate(space), with_a_model)]
    assert [(s.fingerprint(), s.name, s.output, s.trials) for s in found] == [
        (wanted.fingerprint(), "alphas", wanted.output, 2)
    ] * 4
    more = load_sweep(space, [("space.objective.alpha", {"grid": [0.1, 0.5, 0.9]})])
    assert more.trials == 3  # an override of a domain takes its place


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        (3, [], "this is no configuration"),
        ({1: 2}, [], "a key is not a text"),
        ({"data": object()}, [], "holds a value that no configuration has"),
        ({}, [("train.steps", {1, 2})], "the override train.steps holds a value"),
        ({"name": "a\0b"}, [], "a sign that no file and no name can hold"),
        ({}, ["train.steps"], "cannot read the override"),
        ("nowhere.yaml", [], "there is no run file nowhere.yaml"),
    ],
)
def test_what_is_no_configuration_is_refused(source: Any, overrides: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        raykd.train(source, overrides)


def test_a_mapping_that_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["data"] = endless
    with pytest.raises(ConfigError, match="nested too deep"):
        raykd.plan(endless)


def test_wrong_keys_of_a_mapping_are_all_named() -> None:
    with pytest.raises(ConfigError) as raised:
        raykd.check({"studnet": {}}, train={"stepz": 3})
    assert "the configuration: " in str(raised.value)
    assert "studnet" in str(raised.value) and "train.stepz" in str(raised.value)


def test_a_sweep_without_a_name_and_a_confirmation_of_one_seed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no sweep is named"):
        raykd.sweep()
    with pytest.raises(ConfigError, match="there is no sweep gone to go on with"):
        raykd.sweep(resume="gone", output=tmp_path)
    with pytest.raises(ConfigError, match="at least 2 seeds"):
        raykd.confirm(tmp_path, seeds=1)


def finished_run(folder: Path, results: list[dict[str, Any]], place: str = "") -> Path:
    (folder / place).mkdir(parents=True, exist_ok=True)
    state = {"status": "finished", "mlflow_run_id": "abc"}
    (folder / "run.json").write_text(json.dumps(state), encoding="utf-8")
    report = {"results": results, "notes": [f"note {place}".strip()]}
    (folder / place / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder


def row(role: str, system: str, language: str, **values: Any) -> dict[str, Any]:
    mean = {"parameters": 10, "ms_per_1000": 2.0, "covers": "en"} if language == "macro" else {}
    return {"system": system, "role": role, "language": language, "rows": 5, **values, **mean}


def test_metrics_of_a_run_have_the_names_of_mlflow(tmp_path: Path) -> None:
    rows = [
        row("teacher", "en", "macro", accuracy=0.9, nll=None),
        row("ensemble", "teachers", "en", accuracy=0.8),
        row("baseline", "undistilled student", "macro", accuracy=0.5),
        row("student", "student", "en", accuracy=1.0, nll=0.25),
        row("student", "student", "macro", accuracy=0.7, x_faster=3.0),
    ]
    run = Run.read(finished_run(tmp_path / "one", rows))
    assert run.metrics == {
        "teacher/en/test/mean/accuracy": 0.9,
        "ensemble/test/en/accuracy": 0.8,
        "baseline/test/mean/accuracy": 0.5,
        "test/en/accuracy": 1.0,
        "test/en/nll": 0.25,
        "test/mean/accuracy": 0.7,
    }
    assert run.table == rows and run.notes == ("note",) and run.mlflow_run_id == "abc"
    assert run.student == tmp_path / "one" / "student" and run.report == tmp_path / "one" / "report.html"


def test_a_run_of_several_tasks_names_the_task_first(tmp_path: Path) -> None:
    for task, score in (("topic", 0.5), ("names", 0.25)):
        finished_run(tmp_path / "mix", [row("student", "student", "macro", f1=score)], f"tasks/{task}")
    run = Run.read(tmp_path / "mix")
    assert run.metrics == {"topic/test/mean/f1": 0.5, "names/test/mean/f1": 0.25}
    assert {r["task"] for r in run.table} == {"topic", "names"}


@pytest.mark.parametrize("state", [None, {"status": "interrupted"}, {"status": "finished"}])
def test_a_folder_without_a_finished_run_is_no_run(tmp_path: Path, state: dict[str, Any] | None) -> None:
    if state is not None:
        (tmp_path / "run.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(DataError, match="is not the folder of a finished run"):
        Run.read(tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("models")

    def save(kind: str) -> Path:
        if not (folder / kind).exists():
            spec = models.LinearStudent(buckets=64)
            labels = LABELS if kind == "classification" else ("O", "B-PER", "I-PER")
            tokenizer = spec.fit_tokenizer(texts_and_labels(50)[0])
            made = models.TextModel(spec.build(tokenizer, labels, 0), tokenizer, labels)
            models.save_model(made, folder / kind)
        return folder / kind

    return save


def test_one_text_texts_and_mappings_get_the_same_predictions(saved: Callable[[str], Path]) -> None:
    model = raykd.load(saved("classification"))
    assert model.task == "classification" and model.labels == LABELS
    texts = ["the room was good", "the food was awful"]
    both = model.predict(texts)
    assert [r["text"] for r in both] == texts
    assert all(sum(r["probabilities"].values()) == pytest.approx(1.0, abs=1e-5) for r in both)
    assert model.predict(texts, probabilities=False) == [
        {"text": r["text"], "label": r["label"], "probability": r["probabilities"][r["label"]]} for r in both
    ]
    assert raykd.predict(saved("classification"), texts[0]) == both[:1]
    assert model.predict(iter(texts)) == both
    rows = model.predict([{"text": text, "id": i} for i, text in enumerate(texts)])
    assert rows == [{"id": i, **answer} for i, answer in enumerate(both)]
    assert model.predict([]) == []


@pytest.mark.parametrize(
    ("inputs", "pairs", "message"),
    [
        (["a", {"text": "b"}], None, "cannot be predicted"),
        ([3], None, "cannot be predicted"),
        (["a", "b"], ["c"], "one text for each text"),
        ([{"text": "a"}, {"texts": "b"}], None, "input 1 has no text 'text'"),
        ([{"tokens": ["a"]}], None, "reads texts, not words"),
    ],
)
def test_inputs_that_are_none_are_refused(
    saved: Callable[[str], Path], inputs: Any, pairs: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        raykd.predict(saved("classification"), inputs, pairs)


def test_a_model_that_is_passed_stays_as_it_is(run_file: Path) -> None:
    run = load_run(run_file)
    before = run.model_dump()
    assert raykd.plan(run, seed=9) and run.model_dump() == before
