"""The experiments themselves: sizes, trials, claims with their thresholds. Written down before the figures were taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.quality_parts.setting import (
    DISTILLED,
    OTHER,
    PLAIN,
    SAME,
    UNIFORM,
    Arm,
    Claim,
    Experiment,
    Maker,
    parts,
    trials,
)

LANGUAGES = ("en", "fr", "zh", "de")
TOPICS = ("science/technology", "travel", "politics", "sports", "health", "entertainment", "geography")
TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")


def topic(data: Path) -> Experiment:
    """Seven topics, 50 labelled sentences a language; teachers are linear models over n-grams."""
    model = {"kind": "linear", "buckets": 2**16}
    train = {"epochs": 12, "batch_size": 32, "learning_rate": 0.02, "evaluations": 12, "metric": "nll"}
    names = (*LANGUAGES, "multi")
    makers = tuple(Maker(n, "all" if n == "multi" else (n,), model, train) for n in names)
    rates = (0.01, 0.03)
    return Experiment(
        name="topic",
        metric="accuracy",
        tree={
            "task": {"kind": "classification", "max_length": 96},
            "data": {**parts(data, "topic", LANGUAGES, 50), "labels": TOPICS},
            "student": {"kind": "linear", "buckets": 2**15},
            "train": {"steps": 600, "batch_size": 32, "evaluations": 10},
        },
        teachers=makers,
        arms=(
            Arm(PLAIN, trials(rates, "label_smoothing", (0.0, 0.1))),
            Arm(DISTILLED, trials(rates, "alpha", (0.1, 0.3)), names),
        ),
        claims=(Claim("topic: distilled beats undistilled", DISTILLED, PLAIN),),
    )


def ner(data: Path) -> Experiment:
    """Persons, organisations and places, 200 labelled sentences a language; teachers are larger LSTMs."""
    model = {"kind": "lstm", "embedding": 128, "hidden": 128, "dropout": 0.4, "lowercase": False}
    train: dict[str, Any] = {"batch_size": 32, "learning_rate": 0.004, "evaluations": 8}
    makers = tuple(
        Maker(
            lang,
            (lang,),
            {**model, "vocab_size": 4000 if lang == "fr" else 6000},
            {**train, "epochs": 12 if lang == "fr" else 8},
        )
        for lang in LANGUAGES
    )
    several_languages: dict[str, Any] = {
        "model": {**model, "vocab_size": 6000},
        "train": {**train, "epochs": 6, "evaluations": 16},
        "rows": 1500,
    }
    same = Maker("same", "all", tokenizer="student", like="other", **several_languages)
    other = Maker("other", "all", tokenizer="bytepair", **several_languages)
    student = {
        "kind": "lstm",
        "embedding": 64,
        "hidden": 64,
        "vocab_size": 6000,
        "dropout": 0.3,
        "lowercase": False,
    }
    rates = (0.004, 0.008)
    soft = trials(rates, "alpha", (0.1, 0.3))
    several = (*LANGUAGES, "other")
    return Experiment(
        name="ner",
        metric="f1",
        tree={
            "task": {"kind": "token_classification", "max_length": 128},
            "data": {**parts(data, "ner", LANGUAGES, 200), "labels": TAGS},
            "student": student,
            "train": {"steps": 1500, "batch_size": 16, "evaluations": 5},
        },
        teachers=(*makers, same, other),
        arms=(
            Arm(PLAIN, trials(rates, "label_smoothing", (0.0, 0.1))),
            Arm(DISTILLED, soft, several),
            Arm(UNIFORM, soft, several, anywhere=True, objective={"weighting": {"kind": "uniform"}}),
            Arm(SAME, soft, ("same",), as_chosen_for=DISTILLED),
            Arm(OTHER, soft, ("other",), as_chosen_for=DISTILLED),
        ),
        claims=(
            Claim("NER: distilled beats undistilled", DISTILLED, PLAIN),
            Claim("NER: routed by language beats uniform", DISTILLED, UNIFORM),
            Claim(
                "NER: a teacher of another tokenizer keeps the gain",
                OTHER,
                SAME,
                0.95,
                base=PLAIN,
                alike=("other", "same"),
            ),
        ),
    )


def qa(data: Path) -> Experiment:
    """Answers as spans of contexts; all rows are labelled, for there are few."""
    languages = ("en", "de", "zh")
    student = {"kind": "lstm", "embedding": 48, "hidden": 48, "vocab_size": 6000, "dropout": 0.3}
    model = {"kind": "lstm", "embedding": 64, "hidden": 64, "vocab_size": 8000, "dropout": 0.4}
    train = {"epochs": 8, "batch_size": 32, "learning_rate": 0.005, "evaluations": 6}
    own = {"labelled_per_language": None, "labelled_share": None, "unlabeled": None}
    return Experiment(
        name="qa",
        metric="f1",
        tree={
            "task": {
                "kind": "question_answering",
                "max_length": 256,
                "stride": 64,
                "max_answer_words": 12,
            },
            "data": {**parts(data, "qa", languages, 1), **own},
            "student": student,
            "train": {"steps": 300, "batch_size": 32, "evaluations": 5},
        },
        teachers=(Maker("multi", "all", model, train),),
        arms=(
            Arm(PLAIN, trials((0.005,), "label_smoothing", (0.0, 0.1))),
            Arm(DISTILLED, trials((0.005,), "alpha", (0.1, 0.5)), ("multi",)),
        ),
        claims=tuple(
            Claim(f"QA: {arm} beats the best-overlap sentence", arm, "best-overlap sentence")
            for arm in (PLAIN, DISTILLED)
        ),
        floors=("best-overlap sentence",),
    )


EXPERIMENTS = {"topic": topic, "ner": ner, "qa": qa}
