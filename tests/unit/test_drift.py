"""Drift: the divergence of a student from its teachers on new texts, its threshold, and a watch that trains on it."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import raykd
from raykd.config.loading import dump_run, load_run, resolve_paths, validate_run
from raykd.driver.jobs import load_rows
from raykd.errors import ConfigError
from raykd.models import load_model
from raykd.report.evaluations.drift import DriftLine, DriftReport
from raykd.runs import watching
from raykd.runs.watching import LOG, DriftWatch, watch_files
from raykd.scoring.evaluation.drift import Distances, compare_distances
from raykd.text.padding import pad_sequences
from raykd.text.tokens import tokenize
from tests.fakes import LABELS, save_transformer, texts_and_labels


def distances(
    rng: np.random.Generator, count: int, scale: float = 0.1, languages: tuple[str, ...] = ("en",)
) -> Distances:
    kl_B = rng.exponential(scale, count)
    spoken = np.asarray([languages[i % len(languages)] for i in range(count)], dtype=object)
    return Distances(kl_B, (kl_B < 0.2).astype(np.float64), spoken)


def test_undrifted_windows_raise_as_many_alarms_as_the_level_says() -> None:
    """Fresh validation rows and windows of one distribution; also windows larger than the validation rows."""
    rng = np.random.default_rng(0)
    for count in (100, 800):
        alarms = [
            compare_distances(distances(rng, 300), distances(rng, count), level=0.9).drifted
            for _ in range(60)
        ]
        # 60 draws of 0.1: standard deviation 0.039.
        assert 0.0 < np.mean(alarms) < 0.25, count


def test_a_window_that_is_twice_as_far_has_drifted() -> None:
    rng = np.random.default_rng(1)
    report = compare_distances(distances(rng, 300), distances(rng, 100, 0.2), level=0.99, run="runs/a")
    (line,) = report.lines
    assert report.drifted and line.divergence > line.threshold > line.usual
    assert line.to_cells()[-1] == "drifted" and report.to_json()["drifted"] is True


def test_each_language_is_compared_with_its_own_validation_rows() -> None:
    rng = np.random.default_rng(2)
    usual = distances(rng, 400, languages=("en", "fr"))
    far = np.where(usual.languages == "fr", 5.0, 1.0)
    known = Distances(usual.kl_B * far, usual.same_B, usual.languages)
    new = distances(rng, 200, languages=("fr", "de"))
    new = Distances(new.kl_B * np.where(new.languages == "fr", 5.0, 1.0), new.same_B, new.languages)
    new.kl_B[:2] = np.nan  # no teacher answers
    lines = {line.what: line for line in compare_distances(known, new, level=0.99).lines}
    assert list(lines) == ["all", "fr", "de"] and [line.texts for line in lines.values()] == [198, 99, 99]
    assert lines["fr"].usual == pytest.approx(known.kl_B[known.languages == "fr"].mean())
    assert lines["de"].usual == pytest.approx(known.kl_B.mean()), "without rows of its own: those of all"
    assert not lines["fr"].drifted


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run whose teacher and student are two random models."""
    folder = tmp_path / "runs" / "old"
    save_transformer(folder / "student", seed=1)
    save_transformer(tmp_path / "teacher", seed=2)
    paths = []
    for name, seed in (("train", 1), ("validation", 2), ("new", 3)):
        texts, labels = texts_and_labels(40, seed)
        lines = [{"text": t, "label": LABELS[y], "lang": "en"} for t, y in zip(texts, labels, strict=True)]
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    tree = {
        "name": "old", "output": str(tmp_path / "runs"),
        "data": {
            "train": {"kind": "files", "paths": [str(paths[0])]},
            "validation": {"kind": "files", "paths": [str(paths[1])]},
            "labels": list(LABELS), "languages": ["en"],
        },
        "task": {"kind": "classification", "max_length": 64},
        "student": {"kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "dropout": 0.0, "vocab_size": 200},
        "teachers": [{"name": "t", "languages": "all", "path": str(tmp_path / "teacher")}],
        "serving": {"dtype": "float32"},
        "train": {"steps": 4, "batch_size": 8},
    }  # fmt: skip
    config = resolve_paths(validate_run(tree, "old"), tmp_path)
    (folder / "run.yaml").write_text(dump_run(config), encoding="utf-8")
    (folder / "run.json").write_text(
        json.dumps({"status": "finished", "folder": str(folder)}), encoding="utf-8"
    )
    return folder


def probabilities(folder: Path, texts: list[str]) -> np.ndarray:
    model = load_model(folder)
    logits = model.model.eval()(
        **pad_sequences(tokenize(model.tokenizer, texts, None, 64), range(len(texts)))
    ).logits
    found: np.ndarray = logits.softmax(-1).double().detach().numpy()
    return found


def test_the_divergence_is_that_of_the_models_probabilities(run: Path, tmp_path: Path) -> None:
    asked: list[tuple[str, int, int]] = []
    report = raykd.drift(run, str(tmp_path / "new.jsonl"), progress=lambda *step: asked.append(step))
    texts = [json.loads(line)["text"] for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    p, q = probabilities(tmp_path / "teacher", texts), probabilities(run / "student", texts)
    wanted = (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
    assert report.lines[0].divergence == pytest.approx(wanted, rel=1e-4) and report.lines[0].texts == 40
    assert report.lines[0].agreement == (p.argmax(1) == q.argmax(1)).mean()
    known = list(load_rows(load_run(run))[""].validation.texts)
    p, q = probabilities(tmp_path / "teacher", known), probabilities(run / "student", known)
    assert report.lines[0].usual == pytest.approx((p * (np.log(p) - np.log(q))).sum(axis=1).mean(), rel=1e-4)
    assert {who for who, _, _ in asked} == {"t", "student"} and asked[-1][1:] == (40, 40)


def test_a_run_without_teachers_has_no_drift(run: Path, tmp_path: Path) -> None:
    tree = validate_run(
        load_run(run).model_dump(mode="json") | {"teachers": [], "objective": {"alpha": 1.0}}, "x"
    )
    (run / "run.yaml").write_text(dump_run(tree), encoding="utf-8")
    with pytest.raises(ConfigError, match="wanted: a run of one task with teachers"):
        raykd.drift(run, str(tmp_path / "new.jsonl"))


def made_report(drifted: bool) -> DriftReport:
    return DriftReport((DriftLine("all", 40, 0.5 if drifted else 0.1, 0.1, 0.2, 0.9, 0.9),), 0.99, "x")


def watch_of(run: Path, verdicts: list[bool], **options: Any) -> DriftWatch:
    tree = load_run(run).model_dump(mode="json") | {"name": "next"}
    measure = lambda at, source: made_report(verdicts.pop(0))  # noqa: E731
    return DriftWatch(run, tree, str(run.parent.parent / "incoming" / "*.jsonl"), {}, measure, **options)


def test_a_watch_whose_log_was_cut_off_goes_on_from_the_lines_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [json.dumps({"files": [[f"{n}.jsonl", 1, 2]], "trained": f"runs/a-{n}"}) for n in (1, 2)]
    (tmp_path / LOG).write_text(f"{lines[0]}\n{lines[1][:30]}", encoding="utf-8")
    watch = DriftWatch(tmp_path, {}, "*", {}, lambda run, source: made_report(False))
    assert (watch.judged, watch.run) == ({("1.jsonl", 1, 2)}, Path("runs/a-1"))
    assert f"{LOG}: line 2 is not whole" in caplog.text


def test_the_next_run_of_a_watch_never_has_the_name_of_the_one_that_it_goes_on_from(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        json.dumps({"files": [[f"{n}.jsonl", 1, 2]], "trained": str(tmp_path / f"next-{n}")}) for n in (1, 2)
    ]
    (run / LOG).write_text(f"{lines[0][:30]}\n{lines[1]}\n", encoding="utf-8")
    save_transformer(tmp_path / "next-2" / "student", seed=5)
    shutil.copy(run / "run.yaml", tmp_path / "next-2")
    (tmp_path / "next-2" / "run.json").write_text('{"status": "finished"}', encoding="utf-8")
    names: list[str] = []
    outcome = type("Outcome", (), {"tables": ()})
    monkeypatch.setattr(watching, "run_training", lambda config, start: names.append(config.name) or outcome)
    watch = watch_of(run, [True], window=10)
    assert watch.run == tmp_path / "next-2"
    watch.look([(str(tmp_path / "new.jsonl"), 1, 1)], Console(file=io.StringIO()))
    assert names == ["next-3"]


def test_a_watch_judges_each_file_once_and_trains_on_what_drifted(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Any] = []

    def train(config: Any, start: Any) -> Any:
        trained.append(config)
        save_transformer(tmp_path / "runs" / config.name / "student", seed=5)
        (tmp_path / "runs" / config.name / "run.yaml").write_text(dump_run(config), encoding="utf-8")
        (tmp_path / "runs" / config.name / "run.json").write_text('{"status": "finished"}', encoding="utf-8")
        return type("Outcome", (), {"tables": ()})

    monkeypatch.setattr(watching, "run_training", train)
    console = Console(file=io.StringIO(), width=120)
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    lines = (tmp_path / "new.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (incoming / "a.jsonl").write_text("".join(lines[:15]), encoding="utf-8")
    (incoming / "folder.jsonl").mkdir()
    (incoming / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    assert watch_files(watch_of(run, []), console, every_s=1, once=True) == [], "too few texts"
    (incoming / "b.jsonl").write_text("".join(lines[15:]), encoding="utf-8")
    watch = watch_of(run, [False], window=40)
    assert [r.drifted for r in watch_files(watch, console, every_s=1, once=True)] == [False]
    assert watch_files(watch, console, every_s=1, once=True) == [], "both files were judged"
    os.utime(incoming / "a.jsonl", ns=(1, 1))
    again = watch_of(run, [True, True], window=10)
    assert [r.drifted for r in watch_files(again, console, every_s=1, once=True)] == [True], (
        "a changed file is new"
    )
    (config,) = trained
    assert config.name == "next-1" and config.from_run == str(run)
    assert config.data.unlabeled.paths == (str(incoming / "a.jsonl"),)
    (incoming / "c.jsonl").write_text("".join(lines[:20]), encoding="utf-8")
    # Another process goes on where this one was ended: from the run that was trained last.
    later = watch_of(run, [True], window=10)
    assert later.run == tmp_path / "runs" / "next-1"
    watch_files(later, console, every_s=1, once=True)
    assert trained[1].name == "next-2" and trained[1].from_run == str(tmp_path / "runs" / "next-1")
    entries = [json.loads(line) for line in (run / LOG).read_text(encoding="utf-8").splitlines()]
    assert [entry["drifted"] for entry in entries] == [False, True, True]
