"""Sizes and speeds of trials: those of a student that is saved as a trained one is, measured once a shape."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from raykd import models
from raykd.config.loading import validate_run
from raykd.driver.jobs import load_rows
from raykd.driver.loop import make_student_model
from raykd.folders.folder import RunFolder
from raykd.report.side_by_side.rewrite import read_sweep_report
from raykd.report.sizes import Size
from raykd.report.sweeps.trials import Evaluation
from raykd.scoring.score import join_sizes
from raykd.student.prepare import fit_tokenizer
from raykd.teachers.timing import describe_conditions
from raykd.tuning import sizes as module
from raykd.tuning.config import load_sweep
from raykd.tuning.journal import JOURNAL, Journal, Trial
from raykd.tuning.outcome import conclude_sweep
from raykd.tuning.sizes import TeacherSizes, join_tasks, measure_teachers, measure_trial_sizes
from tests.made_trials import row

PLACE = "1 thread, cpu"


def run_of(sample: Any) -> Any:
    source = {"kind": "embedded", "rows_per_language": 12}
    return validate_run(
        {
            "data": {
                "train": source, "validation": {**source, "split": "validation"},
                "labels": ["negative", "positive"], "languages": ["zh", "en", "fr"],
            },
            "student": {"kind": "linear", "buckets": sample["student.buckets"]},
            "objective": {"alpha": 1.0},
            "train": {"learning_rate": sample["train.learning_rate"]},
        },
        "RUN.yaml",
    )  # fmt: skip


class Factory:
    def build_run(self, sample: Any) -> Any:
        return run_of(sample)


def test_a_trial_is_as_large_as_its_saved_student_and_equal_shapes_are_measured_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = run_of({"student.buckets": 64, "train.learning_rate": 0.01})
    data = load_rows(base)
    measured = []
    measure = module.measure_student
    monkeypatch.setattr(module, "measure_student", lambda *x: measured.append(x) or measure(*x))
    samples = [(64, 0.01), (256, 0.01), (64, 0.02)]
    trials = [
        row(f"t{at}", sample={"student.buckets": b, "train.learning_rate": r})
        for at, (b, r) in enumerate(samples)
    ]
    found = measure_trial_sizes(trials, Factory(), base, data, {})
    assert len(measured) == 2 and found["t0"] == found["t2"]
    for trial in trials[:2]:
        config = run_of(trial.sample)
        tokenizer = fit_tokenizer(config.student, [(config.task, data[""].train)])
        saved = models.save_model(make_student_model(config, tokenizer), tmp_path / trial.name)
        size = found[trial.name]
        assert size.parameters == models.count_stored_parameters(saved)
        assert size.megabytes == models.measure_stored_megabytes(saved)
        assert size.ms is not None and size.ms > 0 and size.timed_on is not None
    assert found["t1"].parameters > found["t0"].parameters  # type: ignore[operator]
    monkeypatch.setattr(module, "LIMIT_S", -1.0)
    assert measure_trial_sizes(trials, Factory(), base, data, {}) == {}


def test_teachers_together_take_what_the_teachers_that_are_asked_take() -> None:
    sizes = [Size(10, 1.0, 4.0, PLACE), Size(20, 2.0, 8.0, PLACE), Size(5, None, None, "2 threads, cpu")]
    assert join_sizes(sizes[:2], [0.25, 0.75]) == Size(30, 3.0, 7.0, PLACE)
    assert join_sizes(sizes, [0.5, 0.5, 0.0]) == Size(35, None, 6.0, PLACE), (
        "one that is never asked costs no time"
    )
    assert join_sizes([sizes[0], Size(0)], [1.0, 1.0]).parameters is None, "one of them has no weights"
    assert join_sizes(sizes, [0.5, 0.5, 0.5]) == Size(35, None, None, None)
    parts = [TeacherSizes({"a": sizes[0]}, sizes[0]), TeacherSizes({"b": sizes[1]}, sizes[1])]
    assert join_tasks(parts[:1]) == parts[0] and join_tasks([]) == TeacherSizes()
    assert join_tasks(parts).together == Size(30, 3.0), "times of other texts do not add up"


def test_teachers_are_timed_on_validation_texts_and_the_winner_stands_beside_them(tmp_path: Path) -> None:
    base = validate_run(
        {
            **run_of({"student.buckets": 64, "train.learning_rate": 0.01}).model_dump(mode="json"),
            "teachers": [
                {"name": name, "languages": who, "path": str(tmp_path)}
                for name, who in (("zh", ["zh"]), ("multi", "all"))
            ],
            "objective": {"alpha": 0.1, "weighting": {"kind": "by_language"}},
        },
        "RUN.yaml",
    )
    data = load_rows(base)[""]
    asked: dict[str, Any] = {}

    def measure_times(samples: Any, student: Any) -> Any:
        asked.update(samples)
        place = {"threads": 1, "device": "cpu", "dtype": "float32"}
        return {
            name: (replace(describe_conditions(batch.texts, **place), ms=ms), None)
            for (name, batch), ms in zip(samples.items(), (3.0, 9.0), strict=True)
        }

    specs = tuple(SimpleNamespace(name=t.name, teacher=t) for t in base.teachers)
    pool: Any = SimpleNamespace(
        handle=SimpleNamespace(
            teachers=("zh", "multi"), teacher_languages=(frozenset({"zh"}), None),
            groups=(SimpleNamespace(specs=specs),),
        ),
        replicas=SimpleNamespace(measure_times=measure_times),
    )  # fmt: skip
    infos: Any = [SimpleNamespace(name=name, parameters=n) for name, n in (("zh", 1000), ("multi", 5000))]
    found = measure_teachers(base, data, pool, infos)
    assert set(asked["zh"].texts) <= set(data.validation.texts) and set(asked["zh"].languages) == {"zh"}
    assert found.each == {"zh": Size(1000, None, 3.0, PLACE), "multi": Size(5000, None, 9.0, PLACE)}
    # A third of the validation rows is Chinese and goes to zh, the others to multi.
    assert found.together == Size(6000, None, pytest.approx(7.0), PLACE)
    tree = {"base": base.model_dump(mode="json"), "space": {"objective": {"alpha": {"uniform": [0.1, 0.9]}}}}
    folder = RunFolder(tmp_path / "swept", {})
    folder.path.mkdir()
    journal = Journal(folder.path / JOURNAL)
    journal.trials["t0000"] = Trial(
        "t0000",
        0,
        {"objective.alpha": 0.5},
        ["x"],
        {1: Evaluation(1, 4, 0.75, 0.5)},
        0.75,
        4,
        status="finished",
    )
    tracker: Any = MagicMock(uri="sqlite:///x", run_id="r")
    own = Size(500, 0.002, 1.0, PLACE)
    outcome = conclude_sweep(
        load_sweep(tree),
        folder,
        journal,
        tracker,
        (),
        None,
        lambda trials: {t.name: own for t in trials},
        found,
    )
    assert outcome.report.best is not None and outcome.report.best.size == own
    text = (folder.path / "results.md").read_text(encoding="utf-8")
    assert "| student of t0000 | 75.00 | 500 | 0.002 | 1,000 | 12 | 7.0 |" in text
    assert "| teachers together | – | 6 k | – | 143 | 1.0 | 1.0 |" in text
    page = outcome.page.read_text(encoding="utf-8")
    assert "student of t0000" in page and "x smaller, x faster: than the teachers together" in page
    assert read_sweep_report(folder.path).together == outcome.report.together
