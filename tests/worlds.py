"""A small world for tests of the loop: rows in two languages, some unlabelled, three teachers, a tiny student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from raykd import models
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.driver.loop import make_student_model
from raykd.models.multi import StudentModel
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from tests.fakes import LABELS, FixedSource, texts_and_labels

TEACHERS: list[dict[str, Any]] = [
    {"name": "en", "languages": ["en"], "path": "en"},
    {"name": "zh", "languages": ["zh"], "path": "zh"},
    {"name": "multi", "languages": ["en", "zh"], "path": "multi"},
]


def rows(count: int, seed: int, unlabelled: float = 0.4, uncovered: bool = True) -> Rows:
    """Rows of two languages (and of a third that no teacher speaks), unlabelled in an irregular pattern."""
    texts, labels = texts_and_labels(count, seed)
    rng = np.random.default_rng(seed)
    hidden = rng.random(count) < unlabelled
    languages = rng.choice(["en", "zh", "fr"] if uncovered else ["en", "zh"], size=count)
    return Rows(
        ids=tuple(f"r{i}" for i in range(count)),
        texts=tuple(texts),
        pairs=None,
        languages=tuple(str(x) for x in languages),
        labels_B=np.where(hidden, UNLABELLED, np.asarray(labels)).astype(np.int64),
    )


def run_config(objective: dict[str, Any] | None = None, teachers: bool = True, **train: Any) -> RunConfig:
    """A run of 12 steps of 24 rows with dropout off."""
    files = {"kind": "files", "paths": ["unused.jsonl"]}
    return RunConfig.model_validate(
        {
            "data": {"train": files, "validation": files, "labels": LABELS, "languages": ["en", "zh", "fr"]},
            "student": {
                "kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "dropout": 0.0,
                "vocab_size": 150, "max_positions": 64,
            },
            "task": {"kind": "classification", "max_length": 64},
            "teachers": TEACHERS if teachers else [],
            "objective": objective
            or {"alpha": {"kind": "linear", "start": 0.2, "end": 0.6}, "weighting": {"kind": "entropy"}},
            "train": {
                "steps": 12, "batch_size": 24, "learning_rate": 0.002, "evaluations": 3, "weight_decay": 0.1,
                "lr_schedule": 1.0, **train,
            },
        }
    )  # fmt: skip


def source(config: RunConfig) -> FixedSource | None:
    """Teachers whose answers are a function of the text."""
    if not config.teachers:
        return None
    return FixedSource([t.name for t in config.teachers], [t.language_set for t in config.teachers])


def build_loop(
    config: RunConfig,
    *,
    rank: int = 0,
    world: int = 1,
    publish: Callable[[Any], None] = lambda point: None,
    train: Rows | None = None,
    noticed: Callable[[], bool] | None = None,
) -> TrainingLoop:
    """The loop over the world's rows from the student's seeded start."""
    train = rows(160, 1) if train is None else train
    tokenizer = config.student.fit_tokenizer(rows(160, 1).texts)
    student: StudentModel = models.TextModel(
        config.student.build(tokenizer, LABELS, config.seed), tokenizer, LABELS, max_length=64
    )
    if config.peer is not None:
        student = make_student_model(config, tokenizer)
    return TrainingLoop(
        config,
        prepare_rows(config, train, rows(60, 2, unlabelled=0.0), tokenizer),
        student,
        source(config),
        rank=rank,
        world=world,
        publish=publish,
        is_noticed=noticed,
    )
