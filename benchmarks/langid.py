"""Language detectors and students on whole sentences and on fragments: macro F1, and texts a second of CPU time on one thread.

Usage: python -m benchmarks.langid STUDENT_DIR [--data ../shared/data/langid] [--timed 1000]

STUDENT_DIR is a saved student of examples/langid.yaml. The detectors are those of examples/langid.py, with the libraries that
it names. All read the same texts in batches of 500; a student's time holds its tokenizer. They give the probability of every
language; "label alone" is what gives the likeliest language alone (its probability too, for the student). What takes
turns is timed in alternating rounds, and the median is shown; CPU time, because other work on the machine does not
count in it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import raykd
from benchmarks.measure import show

EXAMPLE = Path(__file__).parents[1] / "examples" / "langid.py"
BATCH = 500
ROUNDS = 3
Answer = Callable[[Sequence[str]], list[str]]


def load_detectors() -> dict[str, Answer]:
    """Return the detectors of the example by name, as functions that give a label for each text."""
    spec = importlib.util.spec_from_file_location("langid_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def choose(function: Any) -> Answer:
        return lambda texts: [function.labels[at] for at in np.asarray(function(texts)).argmax(axis=1)]

    def name(language: Any) -> str:
        code = "" if language is None else language.iso_code_639_1.name.lower()
        return str(module.RENAMED.get(code, code))

    return {name: choose(getattr(module, name)) for name in ("py3langid_model", "fasttext", "lingua")} | {
        "lingua, label alone": lambda texts: [name(module.LINGUA.detect_language_of(text)) for text in texts]
    }


def measure_file(systems: dict[str, Answer], file: Path, timed: int) -> list[list[str]]:
    """Return a line for each system: macro F1 on all rows of the file, and texts a second of CPU time on `timed` of them."""
    from sklearn.metrics import f1_score

    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    texts, gold = [row["text"] for row in rows], [row["label"] for row in rows]
    some = texts[:: max(1, len(texts) // timed)]
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(ROUNDS):
        for name, answer in systems.items():
            begun = time.process_time()
            for at in range(0, len(some), BATCH):
                answer(some[at : at + BATCH])
            seconds[name].append(time.process_time() - begun)
    lines = []
    for name, answer in systems.items():
        found = [label for at in range(0, len(texts), BATCH) for label in answer(texts[at : at + BATCH])]
        score = 100 * f1_score(gold, found, average="macro", labels=sorted(set(gold)))
        speed = len(some) / float(np.median(seconds[name]))
        lines.append([f"{name}, {file.stem}", f"{score:.2f}", f"{speed:,.0f}"])
    return lines


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("student", type=Path)
    parser.add_argument("--data", type=Path, default=EXAMPLE.parents[2] / "shared" / "data" / "langid")
    parser.add_argument("--timed", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    student = raykd.load(options.student)
    systems = load_detectors() | {
        "student": lambda texts: [answer["label"] for answer in student.predict(list(texts))],
        "student, label alone": lambda texts: [
            answer["label"] for answer in student.predict(list(texts), probabilities=False)
        ],
    }
    lines = []
    for name in ("test", "test_short"):
        lines += measure_file(systems, options.data / f"{name}.jsonl", options.timed)
    show(f"{options.student}", ["system", "macro F1", "texts/CPU s"], lines)


if __name__ == "__main__":
    main()
