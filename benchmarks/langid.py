"""Language detectors and students on whole sentences and on fragments: macro F1, and texts a second of CPU time on one thread.

Usage: python -m benchmarks.langid STUDENT_DIR [--data ../shared/data/langid] [--timed 1000]
       python -m benchmarks.langid runs/langid --unseen [--data ../shared/data/langid]

The second form reads all students of a comparison, on `test_short.jsonl` and on fragments that no choice has seen: one of
each test sentence, cut by the rule of `data.augment` out of what the fragment of `test_short.jsonl` leaves of it. Left out
are fragments that are also a row of `test_short.jsonl` or one of the twelve that students learnt from. It shows the mean
over seeds, and its difference from the best detector with two intervals: Student's t over the seeds, and percentiles where seeds and
sentences (with all their translations) are drawn anew.

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
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import raykd
from benchmarks.measure import show
from raykd.config.augmentation import Fragments
from raykd.report.comparisons.statistics import compute_t_interval

EXAMPLE = Path(__file__).parents[1] / "examples" / "langid.py"
BATCH = 500
ROUNDS = 3
COPIES = 12
"""Fragments of each sentence that students of the example learn from."""
DRAWS = 2000
"""Resamples of sentences and seeds."""
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

    rows = read_rows(file)
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
        found = answer_all(answer, texts)
        score = 100 * f1_score(gold, found, average="macro", labels=sorted(set(gold)))
        speed = len(some) / float(np.median(seconds[name]))
        lines.append([f"{name}, {file.stem}", f"{score:.2f}", f"{speed:,.0f}"])
    return lines


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def answer_all(answer: Answer, texts: Sequence[str]) -> list[str]:
    """Return a label for each text, asked in batches."""
    return [label for at in range(0, len(texts), BATCH) for label in answer(texts[at : at + BATCH])]


def cut_unseen(sentence: str, earlier: str, name: str) -> str:
    """Return a fragment of what an earlier fragment leaves of a sentence; empty where nothing is left.

    Args:
        sentence: The text.
        earlier: Taken out wherever it stands.
        name: Of the sentence; draws depend on it.
    """
    random = Random(f"unseen {name}")
    left = [part for part in sentence.split(earlier) if part.strip()] if earlier else [sentence]
    if not left:
        return ""
    (part,) = random.choices(left, weights=[len(one) for one in left])
    return Fragments().change(part, random)


def make_unseen(data: Path) -> list[dict[str, Any]]:
    """Return rows of fragments that no choice of a student has seen."""
    earlier = {row["id"]: row["text"] for row in read_rows(data / "test_short.jsonl")}
    learnt = Fragments(copies=COPIES)
    known = {
        learnt.make_copy(row["text"], n) for row in read_rows(data / "train.jsonl") for n in range(COPIES)
    }
    known |= set(earlier.values())
    cut = [
        {**row, "text": cut_unseen(row["text"], earlier.get(row["id"], ""), row["id"])}
        for row in read_rows(data / "test.jsonl")
    ]
    return [row for row in cut if row["text"] and row["text"] not in known]


def count_answers(rows: Sequence[dict[str, Any]], found: Sequence[str]) -> NDArray[np.float64]:
    """Return how often each label was given for each, by sentence: ``[sentences, gold, found]``."""
    labels = sorted({row["label"] for row in rows})
    sentences = sorted({row["id"].split("-")[0] for row in rows})
    counts = np.zeros((len(sentences), len(labels), len(labels)))
    for row, label in zip(rows, found, strict=True):
        at = sentences.index(row["id"].split("-")[0])
        counts[at, labels.index(row["label"]), labels.index(label)] += 1
    return counts


def score_counts(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the macro F1 of ``[..., gold, found]`` counts, in %."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    both = counts.sum(axis=-1) + counts.sum(axis=-2)
    score: NDArray[np.float64] = 100 * (2 * hits / np.maximum(both, 1)).mean(axis=-1)
    return score


def list_students(run: Path) -> dict[str, list[Path]]:
    """Return the students of each arm of a comparison."""
    found: dict[str, list[Path]] = {}
    for event in read_rows(run / "trials.jsonl"):
        folder = run / "students" / event.get("tune_id", "")
        if event["event"] == "begin" and folder.is_dir():
            found.setdefault(dict(event["sample"])["arm"], []).append(folder)
    return found


def ask_students(run: Path, rows: Sequence[dict[str, Any]]) -> dict[str, list[NDArray[np.float64]]]:
    """Return what each student of each arm said of the rows, as counts."""
    texts = [row["text"] for row in rows]

    def ask(folder: Path) -> NDArray[np.float64]:
        answers = raykd.load(folder).predict(texts, probabilities=False)
        return count_answers(rows, [answer["label"] for answer in answers])

    return {arm: [ask(folder) for folder in folders] for arm, folders in list_students(run).items()}


def resample(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the macro F1 for each of `DRAWS` samples of sentences, the same ones at each call."""
    size = len(counts)
    drawn = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=DRAWS)
    return score_counts((drawn.astype(np.float64) @ counts.reshape(size, -1)).reshape(-1, *counts.shape[1:]))


def measure_students(run: Path, rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return a line for each detector and arm: macro F1, and the difference from the best detector."""
    texts = [row["text"] for row in rows]
    detectors = {name: answer for name, answer in load_detectors().items() if "alone" not in name}
    theirs = {name: count_answers(rows, answer_all(answer, texts)) for name, answer in detectors.items()}
    scores = {name: float(score_counts(counts.sum(axis=0))) for name, counts in theirs.items()}
    lines = [[name, f"{score:.2f}", "", "", ""] for name, score in scores.items()]
    best = max(scores, key=lambda name: scores[name])
    rng, against_D = np.random.default_rng(1), resample(theirs[best])
    for arm, counts in ask_students(run, rows).items():
        own = np.asarray([float(score_counts(one.sum(axis=0))) for one in counts])
        seeds = rng.integers(len(own), size=(DRAWS, len(own)))
        moved_DS = np.take_along_axis(np.stack([resample(one) for one in counts], axis=1), seeds, axis=1)
        low, high = np.quantile(moved_DS.mean(axis=1) - against_D, [0.025, 0.975])
        over = compute_t_interval(own - scores[best])
        shown = "" if over is None else f"{over[0]:+.2f} to {over[1]:+.2f}"
        mean = float(own.mean())
        difference = f"{mean - scores[best]:+.2f}"
        lines.append(
            [f"{arm}, {len(own)} seeds", f"{mean:.2f}", difference, shown, f"{low:+.2f} to {high:+.2f}"]
        )
    return lines


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "student", type=Path, help="a saved student; with --unseen the folder of a comparison"
    )
    parser.add_argument("--unseen", action="store_true")
    parser.add_argument("--data", type=Path, default=EXAMPLE.parents[2] / "shared" / "data" / "langid")
    parser.add_argument("--timed", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.unseen:
        heads = ["system", "macro F1", "- best detector", "t over seeds", "seeds and sentences"]
        sets = {
            "test_short": read_rows(options.data / "test_short.jsonl"),
            "unseen": make_unseen(options.data),
        }
        for name, rows in sets.items():
            length = np.mean([len(row["text"]) for row in rows])
            title = f"{name}: {len(rows):,} fragments of {length:.1f} characters on average"
            show(title, heads, measure_students(options.student, rows))
        return
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
