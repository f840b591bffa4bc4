"""A student that starts from one of the run's own teachers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from raykd import models
from raykd.config import MultiRun, RunConfig
from raykd.driver.jobs import Job, start_from_jobs
from raykd.models import PretrainedStudent
from raykd.models.starts.handover import describe_labels
from tests.fakes import LABELS, save_transformer
from tests.worlds import TEACHERS, run_config

TRAINED = {"name": "small", "languages": "all", "training": {"model": {"kind": "transformer"}}}


def starting(path: str, *more: dict[str, Any]) -> RunConfig:
    tree = run_config().model_dump(mode="json")
    tree |= {"student": {"kind": "pretrained", "path": path}, "teachers": [*TEACHERS, *more]}
    return RunConfig.model_validate(tree)


def test_a_teacher_that_exists_gives_its_path_revision_and_codes() -> None:
    hub = {
        "name": "hub",
        "languages": "all",
        "path": "who/knows",
        "revision": "v1",
        "language_codes": {"en": "en_XX"},
    }
    student = starting("teacher:hub", hub).student
    assert student == PretrainedStudent(path="who/knows", revision="v1", language_codes={"en": "en_XX"})


def test_a_teacher_that_is_trained_first_gives_its_folder_once_the_jobs_are_known(tmp_path: Path) -> None:
    config = starting("teacher:small", TRAINED)
    assert isinstance(config.student, PretrainedStudent) and config.student.teacher == "small"
    job = Job("teacher", "teacher-small", config, {}, tmp_path / "teachers" / "small-0123")
    begun = start_from_jobs(config, [job]).student
    assert isinstance(begun, PretrainedStudent) and begun.path == str(job.output) and begun.is_awaited
    plain = run_config()
    assert start_from_jobs(plain, [job]) == plain


def test_a_name_that_is_no_model_of_the_run_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValidationError, match="of this run's that is en, zh, multi"):
        starting("teacher:fr")


def test_in_a_run_of_several_tasks_all_parts_start_from_it() -> None:
    one = run_config().model_dump(mode="json")
    task = {"task": one["task"], "data": one["data"], "metric": "accuracy"}
    teachers = [{**teacher, "task": name} for name, teacher in zip(("a", "b"), TEACHERS, strict=False)]
    run = MultiRun.model_validate(
        {
            "task": {"kind": "multi", "tasks": {"a": task, "b": task}},
            "teachers": teachers,
            "student": {"kind": "pretrained", "path": "teacher:en"},
        }
    )
    assert {getattr(each.student, "path", None) for each in (run, *run.members.values())} == {"en"}


def test_before_training_the_student_answers_as_its_teacher(tmp_path: Path) -> None:
    folder = save_transformer(tmp_path / "teacher", layers=2)
    student = PretrainedStudent(path=str(folder))
    model = student.build(student.load_tokenizer(), LABELS, 0).eval()
    teacher = models.load_model(folder).model
    inputs = {"input_ids": torch.tensor([[2, 9, 30, 31, 3]])}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, teacher(**inputs).logits)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (("good", "bad"), ""),
        (("good", "bad", "mixed"), ""),
        (("good", "poor"), "carried over by the names of labels; bad begin at random"),
        (("Good", "BAD"), r"thrown away, since none of its labels \(Good, BAD\) is one of the run's"),
        (("LABEL_0", "LABEL_1"), "thrown away"),
    ],
)
def test_what_a_checkpoints_head_does_not_know_is_said(
    own: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    config |= {"id2label": {str(i): label for i, label in enumerate(own)}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    told = describe_labels(tmp_path, ("bad", "good"), "classification")
    assert re.search(said, told) and bool(told) == bool(said)
    assert not describe_labels(tmp_path, ("bad", "good"), "token_classification"), "a head of another task"
