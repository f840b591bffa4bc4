"""Teachers that other teachers teach: whom they may name, what their run is, and what names their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raykd.cluster.connection import demands_of
from raykd.config import RunConfig, TrainedTeacher
from raykd.config.loading import validate_run
from raykd.driver.jobs import make_teacher_job, make_teacher_jobs, make_teacher_run
from raykd.errors import ConfigError
from raykd.experiments.config import load_experiment
from tests.fakes import LABELS, texts_and_labels

SMALL = {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 120}
SHORT = {"steps": 4, "batch_size": 8}


def run_of(folder: Path, **changes: Any) -> RunConfig:
    """A chain: big is trained on labels, with given it teaches the assistant, which teaches the student."""
    sources = {}
    for name, seed in (("train", 1), ("validation", 2), ("unlabeled", 3)):
        texts, labels = texts_and_labels(40, seed)
        path = folder / f"{name}.jsonl"
        lines = [
            {"text": f"{name} {t}", "label": LABELS[y], "lang": "en"}
            for t, y in zip(texts, labels, strict=True)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        sources[name] = {"kind": "files", "paths": [str(path)]}
    chain = {"model": SMALL, "train": SHORT, "teachers": ["big", "given"], "objective": {"temperature": 4.0}}
    tree: dict[str, Any] = {
        "name": "chain", "output": str(folder / "runs"), "student": SMALL, "train": SHORT,
        "data": {**sources, "labels": list(LABELS), "languages": ["en"], "labelled_per_language": 10},
        "teachers": [
            {"name": "big", "languages": ["en"], "training": {"model": {"kind": "linear"}, "train": SHORT}},
            {"name": "given", "languages": "all", "path": "somewhere", "actor": {"num_cpus": 0.5}},
            {"name": "assistant", "languages": ["en"], "training": chain},
        ],
        "select_teachers": ["assistant"],
        "objective": {"alpha": 0.2},
    }  # fmt: skip
    return validate_run({**tree, **changes}, "chain")


def assistant_of(run: RunConfig) -> TrainedTeacher:
    found = next(t for t in run.teachers if t.name == "assistant")
    assert isinstance(found, TrainedTeacher)
    return found


def test_who_teaches_an_assistant_is_trained_before_it_though_it_does_not_teach_the_student(
    tmp_path: Path,
) -> None:
    run = run_of(tmp_path)
    assert [t.name for t in run.active_teachers] == ["assistant"]
    assert [t.name for t in run.needed_teachers] == ["big", "given", "assistant"]
    assert [job.name for job in make_teacher_jobs(run)] == ["teacher-big", "teacher-assistant"]
    # big's training; the assistant's beside its two teachers; pool and student.
    stages = demands_of(run, [])
    assert [[d.cpus for d in stage] for stage in stages] == [[1.0], [1.0, 1.0, 0.5], [1.0]]


def test_an_assistant_is_a_distilled_run_of_its_own(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    made = make_teacher_run(run, assistant_of(run))
    big = next(t for t in run.teachers if t.name == "big")
    assert isinstance(big, TrainedTeacher)
    folder = str(make_teacher_job(run, big).output)
    assert [(t.name, t.kind, getattr(t, "path", "")) for t in made.teachers] == [
        ("big", "model", folder),
        ("given", "model", "somewhere"),
    ]
    assert made.objective.temperature.value_at(0.5) == 4.0 and made.objective.alpha.value_at(0.5) == 0.2
    job = make_teacher_job(run, assistant_of(run))
    # All labelled rows, as for every teacher, and the run's unlabelled texts.
    assert int(job.data[""].train.labelled.sum()) == 40 and len(job.data[""].train) == 80
    plain = make_teacher_run(run, big)
    assert plain.plain and not plain.teachers and plain.data.unlabeled is None


def test_another_training_of_its_teacher_is_another_assistant(tmp_path: Path) -> None:
    def folder(**training: Any) -> str:
        base = run_of(tmp_path).model_dump(mode="json")
        base["teachers"][0]["training"] |= training
        run = validate_run(base, "chain")
        return make_teacher_job(run, assistant_of(run)).output.name

    assert folder() == folder() != folder(seed=3)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"teachers": ["later"]}, r"names later; wanted teachers that stand before it: \['big', 'given'\]"),
        ({"teachers": ["assistant"]}, "names assistant; wanted teachers that stand before it"),
        ({"objective": {"alpha": 0.5}}, "objective plays no part without training.teachers"),
        ({"teachers": ["big"], "objective": {"alhpa": 0.5}}, "objective.alhpa"),
    ],
)
def test_what_is_no_chain_is_refused(tmp_path: Path, training: dict[str, Any], message: str) -> None:
    tree = run_of(tmp_path).model_dump(mode="json")
    tree["teachers"][2]["training"] = {"model": SMALL, "train": SHORT, **training}
    with pytest.raises(ConfigError, match=message):
        run = validate_run(tree, "chain")
        make_teacher_run(run, assistant_of(run))


def test_arms_that_only_an_assistant_teaches_train_its_teachers_too(tmp_path: Path) -> None:
    base = run_of(tmp_path).model_dump(mode="json")
    arms: dict[str, Any] = {"soft": {}, "softer": {"objective": {"temperature": 4.0}}}
    plan = load_experiment({"name": "x", "base": base, "arms": arms, "baseline": "soft"}).share_teachers()
    assert [t.name for t in plan.base.active_teachers] == ["assistant"]
    assert [job.name for job in make_teacher_jobs(plan.base)] == ["teacher-big", "teacher-assistant"]
    assert [[t.name for t in arm.run.active_teachers] for arm in plan.arms] == [["assistant"]] * 2
