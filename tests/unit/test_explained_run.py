"""`raykd explain` reads a run's folder: stored answers, the student, curves and sizes; what is gone is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import raykd
from raykd import models
from raykd.cli.app import app
from raykd.config.loading import dump_run, load_run
from raykd.distill.signals import UNLABELLED
from raykd.distill.weightings.confidence import Confidence
from raykd.driver.jobs import load_rows
from raykd.driver.pool import make_teacher_spec
from raykd.errors import ConfigError, DataError, TeacherError
from raykd.report.ensembles.page import FILE, PAGE
from raykd.report.ensembles.report import Effect, EnsembleReport, read_ensemble_report
from raykd.report.ensembles.tables import build_sections
from raykd.scoring.ensembles.comparison import add_retrained
from raykd.scoring.ensembles.inputs import EnsembleInputs
from raykd.scoring.ensembles.measure import make_ensemble_report
from raykd.teachers.teacher import Teacher
from tests.fakes import LABELS, save_transformer, texts_and_labels

ROWS = 80


def centre_answers(folder: Path, texts: list[str]) -> None:
    """Shift an untrained model's bias, so that it does not give one label to everything."""
    loaded = models.load_model(folder)
    p = [row["probabilities"] for row in raykd.predict(folder, texts)]
    loaded.model.classifier.bias.data[1] -= float(np.median([np.log(r[LABELS[1]] / r[LABELS[0]]) for r in p]))
    models.save_model(loaded, folder)


def make_run(folder: Path, **changes: Any) -> Path:
    """A finished run of three teachers, one of them the copy of another, as `raykd train` leaves it."""
    texts, labels = texts_and_labels(ROWS)
    rows = [
        {"text": f"{t} {i}", "lang": ("en", "zh")[i % 2], "label": LABELS[y]}
        for i, (t, y) in enumerate(zip(texts, labels, strict=True))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    taught = [{**row, "label": LABELS[y]} for row, y in zip(rows, labels, strict=True)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taught), encoding="utf-8")
    for name, seed in (("one", 0), ("two", 1)):
        centre_answers(save_transformer(folder / name, seed=seed), texts)
    teachers = [
        {"name": "one", "languages": "all", "path": str(folder / "one")},
        {"name": "two", "languages": ["en"], "path": str(folder / "two")},
        {"name": "again", "languages": "all", "path": str(folder / "one")},
    ]
    files = [{"kind": "files", "paths": [str(folder / name)]} for name in ("train.jsonl", "rows.jsonl")]
    tree: dict[str, Any] = {
        "name": "made",
        "output": str(folder / "runs"),
        "data": {
            "train": files[0],
            "validation": files[1],
            "labels": LABELS,
            "languages": ["en", "zh"],
            "empty_label": "unlabeled",
        },
        "student": {"kind": "linear", "buckets": 64},
        "teachers": teachers,
        "objective": {"weighting": {"kind": "uniform"}},
        "train": {"steps": 4, "batch_size": 8},
    }
    config = load_run({**tree, **changes})
    path = folder / "runs" / "made"
    path.mkdir(parents=True)
    (path / "run.yaml").write_text(dump_run(config), encoding="utf-8")
    state = {"status": "finished", "mlflow_run_id": "x", "folder": str(path)}
    (path / "run.json").write_text(json.dumps(state), encoding="utf-8")
    save_transformer(path / "student", seed=2)
    costs = [
        {"teacher": t["name"], "taught": ["en", "zh"], "texts": 100, "parameters": 4000, "smaller": 2.0,
         "ms": 4.0, "student_ms": 1.0, "megabytes": 0.5, "timed_on": "1 thread, cpu"}
        for t in teachers
    ]  # fmt: skip
    together = {"parameters": 12_000, "ms": 12.0, "timed_on": "1 thread, cpu"}
    table = {"teachers": costs, "parameters": 2000, "languages": ["en"], "conditions": "", "ms": 2.0,
             "timed_on": "1 thread, cpu", "together": together}  # fmt: skip
    report = {"cost_table": table, "results": [], "notes": []}
    (path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    points = [
        {"job": "student", "step": s, "time_ms": 0, "values": {"teacher/one/weight": s / 4}} for s in range(5)
    ]
    (path / "curves.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points), encoding="utf-8")
    return path


def fill_stores(run: Path) -> None:
    """Let the teachers answer the validation rows, as the run did."""
    config = load_run(run)
    rows = load_rows(config)[""].validation
    for teacher in config.active_teachers:
        reader = Teacher(make_teacher_spec(config, teacher, {}))
        reader.answer(rows.take(range(len(rows))))
        reader.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_run(tmp_path_factory.mktemp("explained"))
    fill_stores(path)
    return path


def only(found: Mapping[str, EnsembleReport]) -> EnsembleReport:
    """The report of the only task."""
    (report,) = found.values()
    return report


def test_a_run_is_explained_from_its_stored_answers(run: Path) -> None:
    found = raykd.explain(run)
    report = only(found.tasks)
    assert (report.rows, report.labelled, report.languages) == (ROWS, True, ("en", "zh"))
    assert report.exact and report.coalitions == 8 and report.missing == ()
    means = {c.teacher: c.value for c in report.contributions if c.group == "mean"}
    assert report.base is not None and report.guess == pytest.approx(0.5)
    assert sum(means.values()) == pytest.approx(report.base - 0.5)
    assert means["one"] == pytest.approx(means["again"])  # two players that are alike
    assert {c.name for c in report.contributions if c.group == "class"} == set(LABELS)
    assert {c.system for c in report.calibration} == {"one", "two", "again", "ensemble", "student"}
    assert [d.language for d in report.departures] == ["", "en", "zh"]
    assert all(d.student_right + d.teachers_right <= d.differing for d in report.departures)
    assert report.weights == {"one": ((0.0, 0.0), (0.25, 0.25), (0.5, 0.5), (0.75, 0.75), (1.0, 1.0))}
    one = next(s for s in report.sizes if s.system == "one")
    assert (one.texts_per_s, one.student_texts_per_s, one.seconds, one.megabytes) == (250.0, 1000.0, 0.4, 0.5)
    sizes = build_sections(report)[[s.name for s in build_sections(report)].index("sizes")]
    assert [line[-2:] for line in sizes.lines] == [["3.0", "3.0"]] * 3 + [["1.0", "1.0"], ["6.0", "6.0"]]
    assert report.hardest and all(row.text for row in report.hardest)
    assert [a for a in report.advice if a.kind == "copy" and {a.teacher, a.other} == {"one", "again"}]


def test_what_is_written_is_read_again(run: Path) -> None:
    report = only(raykd.explain(run).tasks)
    text = (run / FILE).read_text(encoding="utf-8")
    assert read_ensemble_report(text, FILE) == report
    page = (run / PAGE).read_text(encoding="utf-8")
    for section in build_sections(report):
        assert section.title in page
    with pytest.raises(DataError, match="cannot be read"):
        read_ensemble_report(text[:-2], FILE)


def test_the_command_prints_tables_and_advice(run: Path) -> None:
    result = CliRunner().invoke(app, ["explain", str(run)], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    for words in ("Points per teacher and language", "kappa", "x smaller", "advice", "is a copy of"):
        assert words in result.output


def test_lost_answers_are_named_and_the_earlier_report_is_shown(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    with pytest.raises(TeacherError, match=r"answers of teacher one are gone") as raised:
        raykd.explain(path)
    assert "80 of 80 validation rows" in str(raised.value)
    assert f"raykd label {path} --all" in str(raised.value)
    fill_stores(path)
    before = only(raykd.explain(path).tasks)
    (tmp_path / "runs" / "store").rename(tmp_path / "elsewhere")
    for _ in range(2):  # the note is not kept twice
        after = only(raykd.explain(path).tasks)
        assert after.contributions == before.contributions
        (note,) = after.missing
        assert "could not be made anew" in note and "teacher one are gone" in note


def test_texts_stay_out_where_the_run_says_so(tmp_path: Path) -> None:
    path = make_run(tmp_path, report={"texts": False})
    fill_stores(path)
    report = only(raykd.explain(path).tasks)
    assert report.hardest and all(row.text is None for row in report.hardest)
    texts = [json.loads(line)["text"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    written = (path / FILE).read_text() + (path / PAGE).read_text()
    assert not any(text in written for text in texts)
    assert "texts are not shown (report.texts)" in written


def test_without_labels_agreement_with_all_teachers_is_measured(run: Path) -> None:
    config = load_run(run)
    rows = load_rows(config)[""].validation
    rows = replace(rows, labels_B=np.full(len(rows), UNLABELLED))
    answers = [Teacher(make_teacher_spec(config, t, {})).answer(rows) for t in config.active_teachers]
    spoken = [t.language_set for t in config.active_teachers]
    report = make_ensemble_report(EnsembleInputs(config, rows, answers, spoken))
    assert not report.labelled and report.base == pytest.approx(1.0)
    assert report.calibration == () and report.advice == () and report.departures == ()
    assert "no validation row has a gold label" in report.missing[-1]
    english = [
        Teacher(make_teacher_spec(config, t, {})).answer(rows)
        for t in config.active_teachers
        if t.name == "two"
    ]
    alone = make_ensemble_report(EnsembleInputs(config, rows, english, [frozenset(["en"])]))
    assert "nobody answers in zh" in alone.missing[0]
    objective = config.objective.model_copy(update={"weighting": Confidence()})
    other = config.model_copy(update={"objective": objective})
    again = make_ensemble_report(EnsembleInputs(other, rows, answers, spoken))
    assert "reads gold labels" in again.missing[0] and again.contributions == report.contributions


def test_what_is_no_run_with_teachers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        raykd.explain(tmp_path)
    path = make_run(tmp_path, teachers=[], objective={"alpha": 1.0})
    with pytest.raises(ConfigError, match="no teachers"):
        raykd.explain(path)


def test_a_student_that_is_gone_is_said(run: Path, tmp_path: Path) -> None:
    student = run / "student"
    student.rename(tmp_path / "student")
    try:
        report = only(raykd.explain(run).tasks)
    finally:
        (tmp_path / "student").rename(student)
    assert report.departures == () and any("the student is not shown" in line for line in report.missing)


def test_retrained_students_stand_beside_the_estimate(run: Path, tmp_path: Path) -> None:
    def row(name: str, d: float, **keys: str) -> dict[str, Any]:
        place = {"split": "test", "language": "macro", "metric": "accuracy", **keys}
        return {
            "arm": f"without_{name}",
            "against": "base",
            **place,
            "difference": d,
            "low": d - 0.01,
            "high": d + 0.01,
        }

    rows = [row("one", -0.03), row("two", 0.02)]
    # What a comparison holds beside: other splits, languages and metrics of the same arms.
    rows += [
        row("one", 0.4, split="validation"),
        row("one", 0.4, language="en"),
        row("two", 0.4, metric="ece"),
    ]
    found = {"metric": "accuracy", "baseline": "base", "split": "test", "differences": rows}
    (tmp_path / "comparison.json").write_text(json.dumps(found), encoding="utf-8")
    report = only(raykd.explain(run, comparison=tmp_path).tasks)
    assert report.retrained is not None and set(report.retrained) == {"one", "two"}
    table = next(section for section in build_sections(report) if section.name == "contributions")
    assert [line[-1] for line in table.lines] == ["−3.0 [−4.0, −2.0]", "+2.0 [+1.0, +3.0]", "–"]
    assert "of 2 teachers; the teacher that is missed most is one" in table.remarks[-1]
    assert "excludes 0" not in table.remarks[-1]
    unsure = {**found, "notes": ["a smoke run of m: a few rows", "another"], "differences": [row("one", 0.0)]}
    (tmp_path / "comparison.json").write_text(json.dumps(unsure), encoding="utf-8")
    told = only(raykd.explain(run, comparison=tmp_path).tasks)
    assert told.missing[-1] == "dropped, retrained: a smoke run of m: a few rows"
    remark = next(s for s in build_sections(told) if s.name == "contributions").remarks[-1]
    assert "no interval of retraining excludes 0" in remark
    worse = {**row("one", 0.2, language="names mean", metric="nll"), "low": 0.1, "high": 0.3}
    (tmp_path / "comparison.json").write_text(
        json.dumps({**found, "metric": "score", "differences": [worse]}), encoding="utf-8"
    )
    of_task = add_retrained(replace(report, metric="nll"), tmp_path, "names")
    assert of_task.retrained == {"one": Effect(-0.2, -0.3, -0.1)}, "more NLL is worse"
    (tmp_path / "comparison.json").write_text(json.dumps({**found, "metric": "f1"}), encoding="utf-8")
    with pytest.raises(DataError, match="does not say how students change"):
        raykd.explain(run, comparison=tmp_path)
    with pytest.raises(DataError, match="not the folder of a finished comparison"):
        raykd.explain(run, comparison=tmp_path / "nowhere")


def test_a_comparison_itself_is_not_explained(run: Path) -> None:
    (run / "experiment.yaml").write_text("{}", encoding="utf-8")
    try:
        with pytest.raises(ConfigError, match="is not the folder of a run"):
            raykd.explain(run)
    finally:
        (run / "experiment.yaml").unlink()


def test_mlflow_gets_the_new_pages_of_a_run_that_was_recorded_there(
    run: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    from raykd.tracking import Tracker

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    tracker = Tracker.start(mlflow_uri, "explained", "made", params={}, tags={}, directory=run)
    tracker.log_text("old", PAGE)
    tracker.finish("FINISHED")
    state = run / "run.json"
    before = state.read_text(encoding="utf-8")
    state.write_text(json.dumps({**json.loads(before), "mlflow_run_id": tracker.run_id}), encoding="utf-8")
    try:
        found = raykd.explain(run)
    finally:
        state.write_text(before, encoding="utf-8")
    client = MlflowClient(tracking_uri=mlflow_uri)
    for name in (PAGE, FILE):
        held = Path(client.download_artifacts(tracker.run_id, name)).read_text(encoding="utf-8")
        assert held == (run / name).read_text(encoding="utf-8")
    assert not any("MLflow" in note for note in found.notes)
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
