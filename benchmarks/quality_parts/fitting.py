"""Training and measuring in this process: teachers, their stored answers, students.

Decision record: a student is trained by raykd's own `TrainingLoop`, fed by `LocalSource`, so that what is measured is
the product's loop without Ray around it (that both are the same is tested elsewhere). Teachers answer every training
text once, into a store; all arms, trials and seeds read it. A model is measured by the task's own metrics on the rows
of each language, and the macro mean is over languages.
"""

from __future__ import annotations

import functools
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality_parts.overlap import overlap_sentence
from benchmarks.quality_parts.setting import Arm, Experiment, Maker
from raykd import models
from raykd.config import DataConfig, ModelTeacher, RunConfig
from raykd.data.load import Dataset, load_data
from raykd.data.rows import Rows
from raykd.driver.jobs import make_teacher_run
from raykd.driver.loop import make_task_model
from raykd.student.evaluate import answer_rows, compute_language_scores
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from raykd.tasks.forms import RowForm
from raykd.tasks.scores import spans as answers
from raykd.teachers.source import LocalSource
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.teacher import Teacher

ASKED_ROWS = 256
"""Rows of a request when all answers are collected."""
BYTE_PAIRS = 6000
"""Pieces of a byte-pair tokenizer, at most."""

Scores = dict[str, float]
"""The metric in points: ``macro`` and each language."""


@dataclass(frozen=True)
class Fitted:
    """A trained model. validation: its best score, a share."""

    model: models.TextModel
    validation: float
    seconds: float
    steps: int


def fit(
    config: RunConfig, data: Dataset, tokenizer: Any, source: LocalSource | None, near: float | None = None
) -> Fitted:
    """Trains and gives back the best checkpoint on validation; with ``near``, the one that scores nearest to it."""
    begun = time.perf_counter()
    prepared = prepare_rows(config, data.train, data.validation, tokenizer)
    loop = TrainingLoop(config, prepared, make_task_model(config, tokenizer), source)
    metric = f"eval/mean/{config.metric}"
    nearest, kept = float("inf"), loop.best_weights
    while loop.advance():
        score = loop.state.history[-1][metric]
        if near is not None and abs(score - near) < nearest:
            nearest, kept = abs(score - near), loop.engine.weights()
            chosen = score
    if near is None:
        assert loop.state.best is not None
        chosen = loop.state.best
    else:
        loop.best_weights = kept
    best = loop.best_student()
    loop.engine.close()
    assert isinstance(best, models.TextModel)
    return Fitted(best, chosen, time.perf_counter() - begun, loop.state.step)


def measure(model: models.TextModel, config: RunConfig, rows: Rows, metric: str) -> Scores:
    """The metric in points by language and as macro mean; languages without rows are left out."""
    module = model.model.eval()  # type: ignore[no-untyped-call]
    tokens = config.task.encode(model.tokenizer, rows.take(range(len(rows))))
    with torch.inference_mode():
        said = answer_rows(module, config.task, tokens, range(len(rows)), torch.device("cpu"), model.padding)
    values = compute_language_scores(config.task, said, rows, config.data.labels)
    found = {lang: 100 * values[f"eval/{lang}/{metric}"] for lang in sorted(set(rows.languages))}
    return {
        "macro": 100 * values[f"eval/mean/{metric}"],
        **found,
        "covered": 100 * float(said.covered_N.mean()),
    }


@functools.lru_cache(maxsize=2)
def _read(data: str, form: RowForm) -> Dataset:
    return load_data(DataConfig.model_validate_json(data), Path.cwd(), form)


def data_of(config: RunConfig) -> Dataset:
    """The rows of a run; read once for runs of the same rows."""
    return _read(config.data.model_dump_json(), config.form)


_TOKENIZERS: dict[str, Any] = {}


def student_tokenizer(experiment: Experiment) -> Any:
    """Learnt from all training texts, so that it is the same for all seeds and arms."""
    if experiment.name not in _TOKENIZERS:
        config = experiment.config(experiment.arms[0], 0, 0)
        texts = sorted(set(data_of(config).train.texts))
        _TOKENIZERS[experiment.name] = config.student.fit_tokenizer(texts)
    return _TOKENIZERS[experiment.name]


def folder_of(work: Path, experiment: Experiment, maker: Maker) -> Path:
    """Where a teacher lies, by its settings."""
    content = hashlib.sha256(
        repr((experiment.tree["data"], experiment.tree["task"], maker)).encode()
    ).hexdigest()
    return work / "teachers" / f"{experiment.name}-{maker.name}-{content[:12]}"


def make_teacher(work: Path, experiment: Experiment, maker: Maker) -> dict[str, Any]:
    """Trains a teacher, measures it on its own languages' test rows, and stores its answers to all training texts."""
    torch.set_num_threads(1)
    plain = experiment.config(experiment.arms[0], 0, 0)
    folder = folder_of(work, experiment, maker)
    took = 0.0
    if not (folder / "config.json").exists():
        config = make_teacher_run(plain, maker.config())
        data = load_data(config.data, Path.cwd(), config.form)
        near = None
        if maker.like is not None:
            other = models.load_model(
                str(folder_of(work, experiment, experiment.maker(maker.like))), head=plain.task.kind
            )
            near = measure(other, config, data.validation, experiment.metric)["macro"] / 100
        fitted = fit(config, data, _teacher_tokenizer(experiment, maker, config, data), None, near)
        models.save_model(fitted.model, folder)
        took = fitted.seconds
    rows = data_of(plain)
    asked = Teacher(_spec(work, experiment, maker, plain, anywhere=True))
    for begin in range(0, len(rows.train), ASKED_ROWS):
        asked.answer(rows.train.take(range(begin, min(begin + ASKED_ROWS, len(rows.train)))))
    asked.close()
    own = plain.data.languages if maker.languages == "all" else maker.languages
    assert rows.test is not None
    model = models.load_model(str(folder), head=plain.task.kind)
    parts = {"validation": rows.validation, "test": rows.test}
    scores = {name: measure(model, plain, part, experiment.metric) for name, part in parts.items()}
    size = sum(p.numel() for p in model.model.parameters())
    return {"teacher": maker.name, "own": list(own), "parameters": size, "train_s": took, **scores}


def _teacher_tokenizer(experiment: Experiment, maker: Maker, config: RunConfig, data: Dataset) -> Any:
    if maker.tokenizer == "student":
        return student_tokenizer(experiment)
    if maker.tokenizer == "bytepair":
        from raykd.tokenizers.bytepair import train_bytepair

        return train_bytepair(data.train.texts, vocab_size=BYTE_PAIRS, max_length=None, closed=True)
    return config.student.fit_tokenizer(data.train.texts)


def _spec(
    work: Path, experiment: Experiment, maker: Maker, config: RunConfig, *, anywhere: bool
) -> TeacherSpec:
    declared = "all" if anywhere else maker.languages
    path = str(folder_of(work, experiment, maker))
    return TeacherSpec(
        ModelTeacher(name=maker.name, languages=declared, path=path),
        config.data.labels,
        config.task,
        dtype="float32",
        store=str(work / "answers"),
    )


def run_student(
    work: Path, experiment: Experiment, arm: Arm, trial: int, seed: int, *, test: bool
) -> dict[str, Any]:
    """One student: its validation score, and its test scores if they are asked for."""
    torch.set_num_threads(1)
    config = experiment.config(arm, trial, seed)
    data, tokenizer = data_of(config), student_tokenizer(experiment)
    source = None
    if arm.teachers:
        makers = [experiment.maker(name) for name in arm.teachers]
        teachers = [Teacher(_spec(work, experiment, m, config, anywhere=arm.anywhere)) for m in makers]
        source = LocalSource(teachers, config.objective.weighting)
    fitted = fit(config, data, tokenizer, source)
    scores: Scores = {}
    if test:
        assert data.test is not None
        scores = measure(fitted.model, config, data.test, experiment.metric)
    forwarded = 0 if source is None else sum(t.counters()["forwarded"] for t in teachers)
    size = sum(p.numel() for p in fitted.model.model.parameters())
    return {
        "arm": arm.name, "trial": trial, "seed": seed, "validation": 100 * fitted.validation, "test": scores,
        "seconds": fitted.seconds, "steps": fitted.steps, "parameters": size, "forwarded": forwarded,
    }  # fmt: skip


def floor(experiment: Experiment, name: str) -> Scores:
    """What a floor scores on the test rows, in points."""
    rows = data_of(experiment.config(experiment.arms[0], 0, 0)).test
    assert rows is not None
    return FLOORS[name](rows)


def best_overlap_sentence(rows: Rows) -> Scores:
    """Answer F1 in points where the answer is the sentence that shares most words with the question; no training."""
    contexts, golds = rows.pairs or (), rows.golds or ()
    said = [overlap_sentence(*both) for both in zip(rows.texts, contexts, strict=True)]
    accepted = [
        [context[begin:end] for begin, end in zip(gold[::2], gold[1::2], strict=True)]
        for context, gold in zip(contexts, golds, strict=True)
    ]
    found = {}
    for language in sorted(set(rows.languages)):
        own = [i for i, other in enumerate(rows.languages) if other == language]
        parts = [said[i] for i in own], [accepted[i] for i in own], [language] * len(own)
        found[language] = 100 * answers.compute_answer_metrics(*parts)["f1"]
    return {"macro": sum(found.values()) / len(found), **found}


FLOORS = {"best-overlap sentence": best_overlap_sentence}
"""What needs no training, by the name that an experiment's `floors` and claims use."""
