"""Accuracy of the students of an experiment on test texts with typing errors, and the paired difference of two arms.

Usage: python -m benchmarks.typing_errors runs/unlabelled_texts --arms spelling plain [--rates 0 0.05 0.1 0.2]

The experiment is a finished `raykd compare` over a classification. Errors are those of `data.augment: {kind: spelling}`,
drawn with a seed that no run has, the same for all students. A student's accuracy is the mean over languages; intervals are
Student's t, 95 %, over the seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import raykd
from benchmarks.arms import compare_sides
from benchmarks.measure import show
from raykd.config import RunConfig
from raykd.config.augmentation import Spelling
from raykd.config.loading import load_run
from raykd.data.load import load_data
from raykd.data.rows import Rows

SEED = 12345


def find_students(folder: Path, arm: str) -> dict[int, Path]:
    """Return the folder of each student of an arm by seed."""
    found = {}
    for line in (folder / "trials.jsonl").read_text(encoding="utf-8").splitlines():
        event: dict[str, Any] = json.loads(line)
        sample = event.get("sample", {})
        student = folder / "students" / str(event.get("tune_id"))
        if event["event"] == "begin" and sample.get("arm") == arm and student.is_dir():
            found[int(sample["seed"])] = student
    if not found:
        raise SystemExit(f"no students of an arm {arm} below {folder}/students")
    return found


def measure_accuracy(student: Path, rows: Rows, texts: Sequence[str], labels: Sequence[str]) -> float:
    """Return the accuracy on texts in place of the rows', in percent, mean over languages."""
    gold = [labels[label] for label in rows.labels_B.tolist()]
    answers = raykd.load(student).predict(list(texts))
    right = np.asarray([a["label"] == g for a, g in zip(answers, gold, strict=True)])
    return float(np.mean([right[rows.is_in_language(one)].mean() for one in rows.list_languages()]))


def main() -> None:
    """Print one line for each rate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arms", nargs=2, required=True, metavar=("FIRST", "SECOND"))
    parser.add_argument("--rates", type=float, nargs="*", default=[0.0, 0.05, 0.1, 0.2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = load_run(options.folder / "run.yaml")
    assert isinstance(run, RunConfig)
    data = load_data(run.data, Path.cwd(), run.form)
    rows = data.validation if data.test is None else data.test
    students = [find_students(options.folder, arm) for arm in options.arms]
    lines = []
    for rate in options.rates:
        change = Spelling(rate=rate, seed=SEED) if rate else None
        texts = list(rows.texts) if change is None else [change.make_copy(text, 0) for text in rows.texts]
        first, second = (
            {seed: measure_accuracy(path, rows, texts, run.data.labels) for seed, path in arm.items()}
            for arm in students
        )
        cells, p = compare_sides(first, second, "accuracy")
        lines.append([f"{100 * rate:.0f} %", *cells, "" if p is None else f"{p:.4f}"])
    first_name, second_name = options.arms
    heads = ["letters with errors", first_name, second_name, "difference", "95 %", "wins", "p"]
    show(f"{options.folder}: accuracy, mean over languages", heads, lines)


if __name__ == "__main__":
    main()
