"""The short copy of a run that `--smoke` trains: a few rows and a few steps, everything else as the file says.

Decision record: a long run should fail in its first minute or not at all, so what is shortened is only what costs time.
Batches keep their size (a batch that does not fit into memory is found), models, objective, workers, DeepSpeed and
serving are the file's. Rows are spread over each file, so that a sorted one still shows all of its labels. Teachers
that exist are asked as they are; those that would be trained first are trained for a few steps, and are too poor to
stop anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from raykd.config.multi import MultiRun
from raykd.config.run import RunConfig

R = TypeVar("R", bound=RunConfig | MultiRun)

STEPS = 4
"""Optimizer steps of a student or teacher, where it is not evaluated more often."""
HELD_OUT = 16
"""Rows a language of the validation and the test set."""
ROWS = 32
"""Rows a language of the training texts at least, so that there are some of each label."""


def name_smoke_copy(name: str) -> str:
    """The name of the short copy of a run or a sweep: its folder, and its name in MLflow."""
    return f"{name[:94]}-smoke"


def shorten_run(config: R, *, rows: int | None = None, evaluations: int | None = 2) -> R:
    """The run with a few rows and a few steps; of a run that is short already, the same.

    Args:
        rows: of the training texts a language; None takes as many as the largest batch.
        evaluations: of the student at most; None leaves them as they are, since schedulers count by them.
    """
    tree = config.model_dump(mode="json")
    teachers: list[dict[str, Any]] = tree["teachers"]
    trained = [teacher["training"] for teacher in teachers if "training" in teacher]
    batches = [train["batch_size"] for train in (tree["train"], *(t["train"] for t in trained))]
    few = max(ROWS, *batches) if rows is None else rows
    for data in _data_of(tree):
        _shorten_data(data, few)
    _shorten_train(tree["train"], evaluations)
    for training in trained:
        _shorten_train(training["train"], 2)
        _shorten_data(training["data"], few)
    for teacher in teachers:
        if "training" in teacher:
            teacher["on_poor"] = "warn"
    tree["teacher_defaults"] = {}  # each teacher has them already
    made: R = type(config).model_validate(tree)  # type: ignore[assignment]
    return made


def _data_of(tree: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The `data` of each task."""
    if "data" in tree:
        yield tree["data"]
    else:
        yield from (task["data"] for task in tree["task"]["tasks"].values())


def _shorten_data(data: dict[str, Any], rows: int) -> None:
    for name in ("train", "unlabeled", "validation", "test"):
        source = data.get(name)
        if isinstance(source, dict):
            most = rows if name in ("train", "unlabeled") else min(rows, HELD_OUT)
            source["rows_per_language"] = min(source.get("rows_per_language") or most, most)
    if data.get("labelled_per_language") is not None:
        data["labelled_per_language"] = min(data["labelled_per_language"], rows)


def _shorten_train(train: dict[str, Any], evaluations: int | None) -> None:
    if evaluations is not None:
        train["evaluations"] = min(train["evaluations"], evaluations)
    steps = max(STEPS, train["evaluations"])
    train["steps"] = steps if train["steps"] is None else min(train["steps"], steps)
    train["epochs"] = None
