"""Measure a language model that is read at words: accuracy by template and calibration, on labelled rows.

    python -m benchmarks.label_words --model FOLDER_OR_HUB_NAME                # test rows of ../shared/data/sentiment/en
    python -m benchmarks.label_words --model FOLDER --rows 100

Each template is asked once, without calibration. The calibrations divide by the mean probabilities of the texts that
say nothing, or of the first 50 validation rows, as `raykd.teachers.backends.words.reading` does (tests compare them).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import decode_answers
from raykd.config import LabelWordsTeacher
from raykd.config.kinds.label_words import CONTENT_FREE
from raykd.distill.signals import UNLABELLED
from raykd.tasks import Classification
from raykd.teachers.backends.words.backend import LabelWordsBackend
from raykd.teachers.spec import TeacherSpec
from raykd.text.batch import TextBatch

LABELS = ("negative", "positive")
TEMPLATES = (
    ("Review: {text}\nSentiment: {label}", {"negative": "negative", "positive": "positive"}),
    ("{text} It was {label}.", {"negative": ("bad", "terrible"), "positive": ("good", "great")}),
)
DATA = Path(__file__).parents[2] / "shared" / "data" / "sentiment" / "en"
PRIOR_ROWS = 50
"""Validation rows over which a prior is measured."""


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a causal or masked language model")
    parser.add_argument("--rows", type=int, help="the first test rows (default: all)")
    given = parser.parse_args()
    texts, gold = read_rows(DATA / "test.jsonl")
    texts, gold = texts[: given.rows], gold[: given.rows]
    others = read_rows(DATA / "validation.jsonl")[0][:PRIOR_ROWS]
    print(f"{len(texts)} rows, most frequent label {100 * np.bincount(gold).max() / len(gold):.1f} %")
    print("| template | none | content_free | texts |\n|---|---|---|---|")
    for template, words in TEMPLATES:
        teacher = LabelWordsTeacher(
            name="lm", languages="all", path=given.model, template=template, words=words
        )
        backend = LabelWordsBackend(TeacherSpec(teacher, LABELS, Classification(max_length=96)))
        backend.load()
        scores_NC = answer(backend, texts)
        priors = [None, answer(backend, CONTENT_FREE), answer(backend, others)]
        right = [float(np.mean(calibrate(scores_NC, prior).argmax(axis=1) == gold)) for prior in priors]
        shown = json.dumps(template, ensure_ascii=False)
        print(f"| {shown} | {' | '.join(f'{100 * x:.1f}' for x in right)} |", flush=True)


def read_rows(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Return texts and labels of a file."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["text"] for row in rows], np.asarray([LABELS.index(row["label"]) for row in rows])


def answer(backend: LabelWordsBackend, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the log-probability of each label, ``[N, C]``."""
    rows = tuple(texts)
    batch = TextBatch(rows, rows, ("en",) * len(rows), np.full(len(rows), UNLABELLED))
    found, _ = decode_answers(backend.compute(batch))
    assert isinstance(found, DenseAnswer)
    return found.logits_NC


def calibrate(scores_NC: NDArray[np.float32], prior_NC: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Divide probabilities by the mean ones of other texts."""
    if prior_NC is None:
        return scores_NC
    shares_NC = np.exp(prior_NC) / np.exp(prior_NC).sum(axis=1, keepdims=True)
    calibrated: NDArray[np.float32] = scores_NC - np.log(shares_NC.mean(axis=0))
    return calibrated


if __name__ == "__main__":
    main()
