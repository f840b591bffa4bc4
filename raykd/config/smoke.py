"""Shorten a run for `--smoke`: a few rows and steps, everything else as in the file.

Decision record: a long run should fail in its first minute or not at all, so only what costs time is shortened.
Batches keep their size, so that one too large for the memory is found. Models, objective, workers, DeepSpeed and
serving stay. Rows are spread over each file, so that a sorted file still shows all labels. Saved teachers are used as
they are. Teachers that the run trains get a few steps and only warn when they are poor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from raykd.config.multi import MultiRun
from raykd.config.run import RunConfig
from raykd.parse import JsonObject

R = TypeVar("R", bound=RunConfig | MultiRun)

STEPS = 4
"""Optimizer steps of a student or teacher, or one per evaluation if there are more."""
HELD_OUT = 16
"""Rows per language of the validation and the test set."""
ROWS = 32
"""Least training rows per language, enough for each label to occur."""


def name_smoke_copy(name: str) -> str:
    """Return the name of the short copy of a run or a sweep, which has 100 characters at most."""
    return f"{name[:94]}-smoke"


def shorten_run(config: R, *, rows: int | None = None, evaluations: int | None = 2) -> R:
    """Return the run with few rows and steps. A run that is short already stays the same.

    Args:
        config: The run.
        rows: Training rows per language; None takes the size of the largest batch.
        evaluations: Most evaluations of the student; None keeps their number, because schedulers count by it.
    """
    tree = config.model_dump(mode="json")
    own = tree.get("pretraining")
    teachers: list[JsonObject] = [*tree["teachers"], *(own["teachers"] if own else ())]
    trained = [teacher["training"] for teacher in teachers if "training" in teacher]
    stages = [*([own] if own else []), *(each["pretraining"] for each in trained if each["pretraining"])]
    batches = [part["train"]["batch_size"] for part in (tree, *trained, *stages)]
    few = max(ROWS, *batches) if rows is None else rows
    for data in _data_of(tree):
        _shorten_data(data, few)
    _shorten_train(tree["train"], evaluations)
    for training in trained:
        _shorten_train(training["train"], 2)
        _shorten_data(training["data"], few)
    for stage in stages:
        _shorten_train(stage["train"], 2)
        _shorten_data({"train": stage["texts"], "validation": stage["validation"]}, few)
    for teacher in teachers:
        if "training" in teacher:
            teacher["on_poor"] = "warn"
    tree["teacher_defaults"] = {}  # each teacher has them already
    made: R = type(config).model_validate(tree)  # type: ignore[assignment]
    return made


def _data_of(tree: JsonObject) -> Iterator[JsonObject]:
    """Yield the `data` of each task."""
    if "data" in tree:
        yield tree["data"]
    else:
        yield from (task["data"] for task in tree["task"]["tasks"].values())


def _shorten_data(data: JsonObject, rows: int) -> None:
    for name in ("train", "unlabeled", "validation", "test"):
        source = data.get(name)
        if isinstance(source, dict):
            most = rows if name in ("train", "unlabeled") else min(rows, HELD_OUT)
            source["rows_per_language"] = min(source.get("rows_per_language") or most, most)
    if data.get("labelled_per_language") is not None:
        data["labelled_per_language"] = min(data["labelled_per_language"], rows)


def _shorten_train(train: JsonObject, evaluations: int | None) -> None:
    if evaluations is not None:
        train["evaluations"] = min(train["evaluations"], evaluations)
    steps = max(STEPS, train["evaluations"])
    train["steps"] = steps if train["steps"] is None else min(train["steps"], steps)
    train["epochs"] = None
