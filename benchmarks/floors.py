"""Floors of translation: scores of answers that need no model.

Usage: python -m benchmarks.floors --data DIR [--pairs en-fr,en-zh]

DIR holds translation/{pair}/{train,test}.jsonl with `src`, `tgt` and `tgt_lang`. An answer is the source itself, or the target
of the training pair whose source is nearest (cosine of TF-IDF, words or characters). A translation model that is not
above these has learnt nothing of use.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.measure import show
from raykd.tasks.scores.generation import compute_generation_metrics

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


def main() -> None:
    """Print one table for each pair of languages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", default="en-fr,en-zh")
    options = parser.parse_args()
    for pair in options.pairs.split(","):
        folder = options.data / "translation" / pair
        train, test = read_rows(folder / "train.jsonl"), read_rows(folder / "test.jsonl")
        lines = []
        for name, said in answer_without_model(train, test).items():
            gold = [row["tgt"] for row in test]
            scores = compute_generation_metrics(said, gold, test[0]["tgt_lang"], METRICS)
            lines.append([name, *(f"{scores[metric]:.1f}" for metric in METRICS)])
        show(f"{pair}: {len(test)} test rows", ["answer", *METRICS], lines)


if __name__ == "__main__":
    main()
