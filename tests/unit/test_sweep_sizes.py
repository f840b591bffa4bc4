"""Sizes and speeds of trials: those of a student that is saved as a trained one is, measured once a shape."""

from pathlib import Path
from typing import Any

import pytest

from raykd import models
from raykd.config.loading import validate_run
from raykd.driver.jobs import load_rows
from raykd.driver.loop import make_student_model
from raykd.report.sizes import Size
from raykd.scoring.score import join_sizes
from raykd.student.prepare import fit_tokenizer
from raykd.tuning import sizes as module
from raykd.tuning.sizes import TeacherSizes, join_tasks, measure_trial_sizes
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
    assert join_sizes(sizes, [0.5, 0.5, 0.5]) == Size(35, None, None, None)
    parts = [TeacherSizes({"a": sizes[0]}, sizes[0]), TeacherSizes({"b": sizes[1]}, sizes[1])]
    assert join_tasks(parts[:1]) == parts[0] and join_tasks([]) == TeacherSizes()
    assert join_tasks(parts).together == Size(30, 3.0), "times of other texts do not add up"
