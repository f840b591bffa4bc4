"""A task of somebody else's, in a file of its own, is read, checked, trained, shown and served like those that ship."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, Literal

import cloudpickle
import numpy as np
import pytest

import tests.toy_task  # noqa: F401  (registers its task)
from raykd import models
from raykd.config.loading import validate_run
from raykd.driver.loop import make_task_model
from raykd.errors import ConfigError
from raykd.head import Head
from raykd.prediction.predictor import Predictor, build_unlabelled_rows
from raykd.spaces.space import Space
from raykd.tasks import TaskBase, build_task, find_task_class, register_task
from raykd.tasks.forms import RowForm
from raykd.tasks.scores.metrics import find_metric_title, is_higher_better
from tests.fakes import LABELS, texts_and_labels
from tests.toy_task import Ordinal

SOURCE = {"kind": "files", "paths": ["rows.jsonl"]}
PACKAGE = Path(__file__).resolve().parents[2] / "raykd"


def tree(**changes: object) -> dict[str, object]:
    return {
        "task": {"kind": "ordinal", "max_length": 32},
        "data": {"train": SOURCE, "validation": SOURCE, "labels": list(LABELS), "languages": ["en"]},
        "student": {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 120, "dropout": 0.0},
        "objective": {"alpha": 1.0},
        "train": {"steps": 4},
        **changes,
    }


def test_a_configuration_names_it_and_is_judged_by_its_own_metric() -> None:
    config = validate_run(tree(), "test")
    assert type(config.task) is Ordinal and config.metric == "rank_distance"
    assert not config.train.higher_is_better and not is_higher_better("rank_distance")
    assert find_metric_title("rank_distance") == "rank distance"
    several = validate_multi()
    assert type(several.members["stars"].task) is Ordinal


def validate_multi() -> object:
    from raykd.config.multi import MultiRun

    member = {"task": {"kind": "ordinal"}, "data": tree()["data"], "metric": "accuracy"}
    one = {key: value for key, value in tree().items() if key not in ("task", "data")}
    return MultiRun.model_validate({**one, "task": {"kind": "multi", "tasks": {"stars": member}}})


def test_wrong_keys_of_it_are_answered_like_those_of_any_task() -> None:
    with pytest.raises(ConfigError, match=r"task[\s\S]*max_lenth"):
        validate_run(tree(task={"kind": "ordinal", "max_lenth": 3}), "test")
    with pytest.raises(ConfigError, match=r"ordinal"):  # among the kinds that there are
        validate_run(tree(task={"kind": "nobody's"}), "test")
    with pytest.raises(ConfigError, match=r"metric"):
        validate_run(tree(train={"steps": 4, "metric": "f1"}), "test")


def test_its_student_is_saved_with_its_kind_and_answers_in_its_terms(tmp_path: Path) -> None:
    config = validate_run(tree(), "test")
    texts, labels = texts_and_labels(40, 0)
    student = make_task_model(config, config.student.fit_tokenizer(texts))
    models.save_model(student, tmp_path / "student")
    predictor = Predictor.of(models.load_model(tmp_path / "student"))
    assert type(predictor.task) is Ordinal
    batch = build_unlabelled_rows("text", list(texts[:5]))
    found = list(predictor.predict(batch))
    assert all(row["label"] in LABELS for row in found)
    columns = predictor.task.to_columns(found, LABELS)
    assert list(columns) == [c.name for c in Ordinal.build_signature(LABELS).outputs]
    assert (
        len(labels) == 40
        and np.isfinite([row for name in columns if name != "label" for row in columns[name]]).all()
    )


def test_a_kind_is_registered_once_and_whole() -> None:
    assert find_task_class("ordinal") is Ordinal and type(build_task({"kind": "ordinal"})) is Ordinal
    with pytest.raises(ValueError, match="two tasks are of kind ordinal"):

        @register_task
        class Other(Ordinal):
            kind: Literal["ordinal"] = "ordinal"

    with pytest.raises(ValueError, match="lacks"):

        @register_task
        class Half(TaskBase):
            kind: Literal["half"] = "half"  # type: ignore[assignment]


def test_a_task_says_whether_its_choices_are_the_runs_labels() -> None:
    with pytest.raises(ValueError, match="task unsaid lacks labelled"):

        @register_task
        class Unsaid(TaskBase):
            form: ClassVar[RowForm] = "text"
            head: ClassVar[Head] = "classification"
            metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)
            kind: Literal["unsaid"] = "unsaid"  # type: ignore[assignment]


def test_a_process_that_gets_a_run_imports_the_module_of_its_task(tmp_path: Path) -> None:
    """A worker gets the run, and a trial the space and its base, by pickle; the class is found by its module's name."""
    config = validate_run(tree(), "test")
    space = Space({"seed": {"randint": [1, 9]}}, config.model_dump(mode="json"))
    (tmp_path / "sent").write_bytes(cloudpickle.dumps((space, config)))
    code = (
        "import pathlib, pickle, sys, raykd\n"
        "from raykd.tasks import find_task_class\n"
        "assert find_task_class('ordinal') is None\n"
        "space, config = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "run = space.build_run({'seed': 5})\n"
        "assert type(run.task) is type(config.task) is find_task_class('ordinal')\n"
    )
    place = {"cwd": PACKAGE.parent, "env": {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "sent")], check=True, timeout=120, **place)


def test_the_command_line_reads_the_kinds_that_ship_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(json.dumps(tree()), encoding="utf-8")
    command = [sys.executable, "-m", "raykd.cli", "check", str(tmp_path / "run.yaml")]
    place = {"cwd": PACKAGE.parent, "env": {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **place)
    assert done.returncode == 2 and "kind: causal_lm | classification" in done.stdout + done.stderr


def test_nothing_outside_the_tasks_asks_of_which_kind_one_is() -> None:
    asking = re.compile(r"task\.kind (?:==|!=|in|not in)|\.task (?:==|in) \(?\"")
    found = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in PACKAGE.rglob("*.py")
        if "tasks" not in path.relative_to(PACKAGE).parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if asking.search(line)
    ]
    assert found == []
