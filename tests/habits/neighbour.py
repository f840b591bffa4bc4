"""What a neighbour is: a folder that is made by code, and the outcomes that are accepted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.habit_parts.table import Case
from tests.made_models import made_texts

LABELS = ("negative", "positive")
SHORT = "good room"
LONG = "the room was bad and the food was awful today and here and we said the place was quite bad"


@dataclass(frozen=True)
class Neighbour:
    """A case of our own.

    Attributes:
        make: Writes the case into an empty folder.
        case: The commands and the outcomes that are accepted.
    """

    make: Callable[[Path], None]
    case: Case


def neighbour(make: Callable[[Path], None], wanted: str, *steps: Mapping[str, Any]) -> Neighbour:
    """A neighbour from steps as the table of the benchmark has them."""
    return Neighbour(make, Case.model_validate({"wanted": wanted, "steps": list(steps)}))


def classification_rows(count: int = 24, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of one text and its label."""
    texts, labels = made_texts(count, seed)
    return [{"text": t, "label": LABELS[i], "lang": "en"} for t, i in zip(texts, labels, strict=True)]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


def write_run(
    folder: Path,
    *,
    rows: Sequence[Mapping[str, Any]] | None = None,
    task: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    """A small run: its rows, its validation rows and run.yaml.

    Args:
        rows: Training rows; None takes those of a classification, () writes no file.
        data: Keys of `data` in place of those that are written without it.
        teacher: The run's only teacher; None has none.
        more: Other sections of the run.
    """
    rows = classification_rows() if rows is None else rows
    if rows:
        write_rows(folder / "train.jsonl", rows)
    if not (folder / "validation.jsonl").exists():
        write_rows(folder / "validation.jsonl", rows[:8] or classification_rows(8, 5))
    files = {
        part: {"kind": "files", "paths": [f"{part}.jsonl"], "language": "en"}
        for part in ("train", "validation")
    }
    run: dict[str, Any] = {
        "name": "r",
        "output": "runs",
        "task": {"kind": "classification", "max_length": 32, **(task or {})},
        "data": {"labels": list(LABELS), "languages": ["en"], **files, **(data or {})},
        "student": {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 120},
        "objective": {"alpha": 0.5 if teacher is not None else 1.0},
        "train": {"epochs": 1, "batch_size": 2, "evaluations": 1},
        "ray": {"num_cpus": 2},
        **more,
    }
    if teacher is not None:
        run["teachers"] = [{"name": "t", "languages": "all", "path": "teacher", **teacher}]
    run["data"] = {key: value for key, value in run["data"].items() if value is not None}
    (folder / "run.yaml").write_text(
        yaml.safe_dump(run, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        tree.pop(key, None) if value is None else tree.update({key: value})
    path.write_text(json.dumps(tree), encoding="utf-8")
