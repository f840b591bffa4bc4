"""The simple model: n-grams with logistic regression, on the labelled rows that a run's student has, and on all of them.

Usage: python -m benchmarks.ngrams [--run examples/sentiment_small_en_fr_de.yaml] [--labelled 30 100 300 1000]
       [--seeds 5] [key=value ...]

scikit-learn's TfidfVectorizer (words of 1 and 2, characters within words of 1 to 4) and LogisticRegression, a model of
its own for each language, as a person would do it in ten lines. The rows of a number and seed are those of `raykd
compare` with `resample_labelled` (`data.labelled_per_language`, `data.labelled_seed`). C is the best of 0.3, 1, 3, 10, 30
by accuracy on the validation rows of the language; the test rows are read once for each model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import show
from raykd.config import RunConfig
from raykd.config.loading import load_run
from raykd.data.load import load_data
from raykd.data.rows import Rows
from raykd.report.comparisons.statistics import compute_t_interval

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)


def take_language(rows: Rows, language: str) -> tuple[list[str], list[int]]:
    """Return the labelled texts of a language and their labels."""
    chosen = (np.asarray(rows.languages) == language) & rows.labelled
    own = rows.select(np.flatnonzero(chosen))
    return list(own.texts), [int(label) for label in own.labels_B]


def score_language(train: Rows, validation: Rows, test: Rows, language: str) -> float:
    """Return the test accuracy in per cent of the model that is best on the validation rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    parts = [take_language(rows, language) for rows in (train, validation, test)]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    features = make_union(words, characters)
    x_train = features.fit_transform(parts[0][0])
    models = [LogisticRegression(C=c, max_iter=1000).fit(x_train, parts[0][1]) for c in STRENGTHS]
    best = max(models, key=lambda model: model.score(features.transform(parts[1][0]), parts[1][1]))
    return 100 * float(make_pipeline(features, best).score(parts[2][0], parts[2][1]))


def score_draw(run: RunConfig, count: int | None, seed: int) -> list[float]:
    """Return the mean over languages, then each language."""
    changes = {"labelled_per_language": count, "labelled_seed": seed, "unlabeled": None}
    data = load_data(run.data.model_copy(update=changes), Path.cwd(), run.form)
    assert data.test is not None
    own = [
        score_language(data.train, data.validation, data.test, language) for language in run.data.languages
    ]
    return [float(np.mean(own)), *own]


def describe_scores(count: int | None, scores: Sequence[list[float]]) -> list[str]:
    """Return a line of the table: means over the seeds, with the interval of the first."""
    means = np.mean(scores, axis=0)
    ends = compute_t_interval(np.asarray([one[0] for one in scores])) if len(scores) > 1 else None
    macro = f"{means[0]:.2f}" + ("" if ends is None else f" ({ends[0]:.2f} to {ends[1]:.2f})")
    return ["all" if count is None else f"{count:,}", macro, *(f"{mean:.2f}" for mean in means[1:])]


def main() -> None:
    """Fit the models and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("examples/sentiment_small_en_fr_de.yaml"))
    parser.add_argument("--labelled", type=int, nargs="*", default=[30, 100, 300, 1000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    run = load_run(options.run, options.overrides)
    lines = [
        describe_scores(count, [score_draw(run, count, seed) for seed in range(1, options.seeds + 1)])
        for count in options.labelled
    ]
    lines.append(describe_scores(None, [score_draw(run, None, 0)]))  # all rows: there is one draw
    heads = ["labelled rows a language", "mean (95 %)", *run.data.languages]
    show(f"n-grams and logistic regression: test accuracy %, {options.seeds} draws", heads, lines)


if __name__ == "__main__":
    main()
