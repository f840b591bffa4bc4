"""What all kinds of bad input share: a case, and a good run that each of them spoils."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABELS = ("negative", "positive")
Tree = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One bad input. act: does with it what a command would; has to raise."""

    kind: str
    name: str
    act: Callable[[], object]


def good_rows(count: int = 24) -> list[Tree]:
    return [{"text": f"text number {i}", "label": LABELS[i % 2], "lang": "en"} for i in range(count)]


def write_rows(path: Path, rows: list[Tree]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def good_run(folder: Path) -> Tree:
    """A run that is read and whose files are there."""
    for part in ("train", "validation"):
        if not (folder / f"{part}.jsonl").exists():
            write_rows(folder / f"{part}.jsonl", good_rows())
    return {
        "name": "good",
        "output": str(folder / "runs"),
        "task": {"kind": "classification", "max_length": 32},
        "data": {
            "train": {"kind": "files", "paths": ["train.jsonl"]},
            "validation": {"kind": "files", "paths": ["validation.jsonl"]},
            "labels": list(LABELS),
            "languages": ["en", "fr"],
        },
        "student": {"kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "max_positions": 64},
        "teachers": [{"name": "en", "languages": ["en"], "training": {"train": {"batch_size": 8}}}],
        "objective": {"alpha": 0.5, "temperature": 2.0, "terms": [{"divergence": {"kind": "forward_kl"}}]},
        "train": {"steps": 2, "batch_size": 8, "learning_rate": 0.001},
        "workers": {"num_workers": 1, "num_cpus": 1},
        "serving": {"prefetch": 2},
        "ray": {"num_cpus": 2},
        "tracking": {"experiment": "raykd"},
    }


def changed(tree: Tree, path: str, value: Any) -> Tree:
    """The tree with another value at a path of keys and indices; a new key where there was none."""
    fresh = copy.deepcopy(tree)
    *above, last = path.split(".")
    node: Any = fresh
    for key in above:
        node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
    node[int(last) if isinstance(node, list) else last] = value
    return fresh


def written(folder: Path, name: str, tree: Any) -> Path:
    """A tree as a run file (JSON is YAML)."""
    path = folder / f"{name}.yaml"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree), encoding="utf-8")
    return path
