"""Floors of translation and of questions: scores of answers that need no model.

Usage: python -m benchmarks.floors --data DIR [--pairs en-fr,en-zh]
       python -m benchmarks.floors --questions runs/NAME/run.yaml

Translation: DIR holds translation/{pair}/{train,test}.jsonl with `src`, `tgt` and `tgt_lang`. An answer is the source itself,
or the target of the training pair whose source is nearest (cosine of TF-IDF, words or characters).

Questions: the test rows of a run of question answering. The answer is the sentence that shares most words with the question.

A model that is not above these has learnt nothing of use.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.measure import show
from benchmarks.overlap import overlap_sentence
from raykd.config.loading import load_run
from raykd.data.load import load_data
from raykd.data.rows import Rows
from raykd.tasks.scores.generation import compute_generation_metrics
from raykd.tasks.scores.spans import compute_answer_metrics

METRICS = ("chrf", "bleu")
NEAREST = {
    "target of the nearest source, words": {"analyzer": "word", "ngram_range": (1, 2)},
    "target of the nearest source, characters": {"analyzer": "char_wb", "ngram_range": (3, 5)},
}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def find_nearest(
    asked: list[str], known: list[str], analyzer: str, ngram_range: tuple[int, int]
) -> list[int]:
    """Return for each asked text the index of the known text with the largest cosine of TF-IDF; the first of equals."""
    vectors = TfidfVectorizer(analyzer=analyzer, ngram_range=ngram_range, sublinear_tf=True)
    known_KF = vectors.fit_transform(known)
    return [int(at) for at in np.asarray((vectors.transform(asked) @ known_KF.T).argmax(axis=1)).ravel()]


def answer_without_model(train: list[dict[str, str]], test: list[dict[str, str]]) -> dict[str, list[str]]:
    """Return the answers to the test rows, by name of the floor."""
    asked, known = [row["src"] for row in test], [row["src"] for row in train]
    found = {"the source": asked}
    for name, options in NEAREST.items():
        found[name] = [train[at]["tgt"] for at in find_nearest(asked, known, **options)]  # type: ignore[arg-type]
    return found


def score_overlap(rows: Rows) -> dict[str, float]:
    """Return the answer F1 in points of the sentence that shares most words with the question, by language and macro."""
    contexts, golds = rows.pairs or (), rows.golds or ()
    found = {}
    for language in sorted(set(rows.languages)):
        own = [i for i, other in enumerate(rows.languages) if other == language]
        said = [overlap_sentence(rows.texts[i], contexts[i]) for i in own]
        accepted = [
            [contexts[i][begin:end] for begin, end in zip(golds[i][::2], golds[i][1::2], strict=True)]
            for i in own
        ]
        found[language] = 100 * compute_answer_metrics(said, accepted, [language] * len(own))["f1"]
    return {"macro": float(np.mean(list(found.values()))), **found}


def show_questions(file: Path) -> None:
    """Print the floor of a run's test rows."""
    config = load_run(file)
    rows = load_data(config.data, Path.cwd(), config.form).test
    if rows is None:
        raise SystemExit(f"{file} has no data.test")
    found = score_overlap(rows)
    cells = [f"{value:.1f}" for value in found.values()]
    show(f"test F1 of {len(rows)} rows", ["answer", *found], [["sentence that shares most words", *cells]])


def show_translation(folder: Path) -> None:
    """Print the floors of one pair of languages."""
    train, test = read_rows(folder / "train.jsonl"), read_rows(folder / "test.jsonl")
    lines = []
    for name, said in answer_without_model(train, test).items():
        gold = [row["tgt"] for row in test]
        scores = compute_generation_metrics(said, gold, test[0]["tgt_lang"], METRICS)
        lines.append([name, *(f"{scores[metric]:.1f}" for metric in METRICS)])
    show(f"{folder.name}: {len(test)} test rows", ["answer", *METRICS], lines)


def main() -> None:
    """Print a table for each pair of languages, or one for a run of questions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--data", type=Path)
    asked.add_argument("--questions", type=Path)
    parser.add_argument("--pairs", default="en-fr,en-zh")
    options = parser.parse_args()
    if options.questions is not None:
        show_questions(options.questions)
    for pair in options.pairs.split(",") if options.data is not None else ():
        show_translation(options.data / "translation" / pair)


if __name__ == "__main__":
    main()
