"""What reading the answers costs a step: decoding, alignment and collation; and several teachers against one.

Steps are of raykd's default students on one thread, in the processor's time, answers ready before the step begins.
Models are untrained: what is timed does not depend on their weights.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Rounds, alternate
from benchmarks.payload_parts.fitting import data_of
from benchmarks.payload_parts.setting import DENSE, TASK, Setting, top
from raykd import models
from raykd.answers.answer import Answer
from raykd.answers.codec import decode_answers
from raykd.answers.compress import compute_draws, compute_hidden, compute_top_k, draw_uniforms
from raykd.answers.tensors import to_vocabulary_signal
from raykd.config import ModelTeacher, RunConfig
from raykd.distill.chunks import evaluate_hidden
from raykd.distill.objective import Objective
from raykd.distill.signals import Signals
from raykd.driver.loop import make_task_model
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from raykd.teachers.source import LocalSource
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.teacher import Teacher

BATCH = 32
SKIPPED = 3
ROUTED, UNITS, VOCAB, WIDTH = 4, 512, 30_522, 256
"""Monolingual teachers, and the units and tokens of a batch that they share out."""


@dataclass(frozen=True)
class Cost:
    """Median milliseconds of a whole step, and of what is done in it. laid_out includes decoding."""

    name: str
    step: float
    decoded: float
    laid_out: float
    collated: float

    @property
    def share(self) -> float:
        """Of the step, in per cent."""
        return 100 * (self.laid_out + self.collated) / self.step


def costs(setting: Setting, steps: int) -> list[Cost]:
    """All cases, one after the other."""
    torch.set_num_threads(1)
    cases: list[tuple[str, dict[str, Any], int]] = [
        ("top-64, same tokenizer", top(64), 0),
        ("sampled, same tokenizer", {"kind": "sampled"}, 0),
        ("hidden state, same tokenizer", DENSE, 0),
        ("top-64, other tokenizer", top(64), 1000),
    ]
    found = [_measured(name, *_language(setting, answers, fewer), steps) for name, answers, fewer in cases]
    for task in ("token_classification", "question_answering"):
        found.append(_measured(task.replace("_", " "), *_tagging(setting.work, task), steps))
    return found


def _language(setting: Setting, answers: dict[str, Any], fewer: int) -> tuple[TrainingLoop, LocalSource]:
    """raykd's default decoder, and a teacher like it; of another vocabulary if it has so many tokens ``fewer``."""
    tree = setting.config("teacher").model_dump() | {
        "task": {**TASK, "answers": answers},
        "teachers": [{"name": "t", "languages": "all", "path": "untrained"}],
        "objective": {"temperature": 1.0},
        "train": {"steps": 10_000, "batch_size": BATCH},
    }

    def config(vocab: int) -> RunConfig:
        return RunConfig.model_validate({**tree, "student": {"kind": "decoder", "vocab_size": vocab}})

    own = 8000
    folder = setting.work / f"untrained-{own - fewer}"
    return _looped(config(own), config(own - fewer), folder)


def _tagging(work: Path, task: str) -> tuple[TrainingLoop, LocalSource]:
    """Tagging, or answering questions, of the generated corpus."""
    data: dict[str, Any] = {
        "languages": ["zh", "en", "fr"],
        "train": {"kind": "embedded", "rows_per_language": 400},
        "validation": {"kind": "embedded", "split": "validation", "rows_per_language": 20},
    }
    if task == "token_classification":
        data["labels"] = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
    config = RunConfig.model_validate(
        {
            "data": data,
            "task": {"kind": task},
            "student": {"kind": "transformer"},
            "teachers": [{"name": "t", "languages": "all", "path": "untrained"}],
            "train": {"steps": 10_000, "batch_size": BATCH},
        }
    )
    return _looped(config, config, work / f"untrained-{task}")


def _looped(config: RunConfig, teacher: RunConfig, folder: Path) -> tuple[TrainingLoop, LocalSource]:
    data = data_of(config)
    texts = [*data.train.texts, *(data.train.pairs or ())]
    if not (folder / "config.json").exists():
        models.save_model(make_task_model(teacher, teacher.student.fit_tokenizer(texts)), folder)
    tokenizer = config.student.fit_tokenizer(texts)
    labels = config.data.labels if config.task.labelled else ()
    spec = TeacherSpec(
        ModelTeacher(name="t", languages="all", path=str(folder)),
        labels,
        config.task,
        dtype="float32",
        store=str(folder.parent / "untrained"),
    )
    source = LocalSource([Teacher(spec)])
    prepared = prepare_rows(config, data.train, data.validation, tokenizer)
    return TrainingLoop(config, prepared, make_task_model(config, tokenizer), source), source


def _measured(name: str, loop: TrainingLoop, source: LocalSource, steps: int) -> Cost:
    from raykd.student.prefetch import Prefetcher

    member, found = loop.trainer, []
    loop.engine.train()
    works = Prefetcher(loop.ask, loop.config.serving.prefetch).steps(0, loop.total_steps)
    for number, work in zip(range(steps + SKIPPED), works, strict=False):
        assert work.answers is not None
        rows, answers = work.rows[0], work.answers[0]
        times = [time.process_time()]
        decode_answers(answers[0].bodies)
        times.append(time.process_time())
        encoded = member.task.collate(member.tokens, rows.tolist())
        times.append(time.process_time())
        member.signals(answers, encoded, rows.tolist())
        times.append(time.process_time())
        loop.step(work)
        times.append(time.process_time())
        if number >= SKIPPED:
            found.append(np.diff(times))
    loop.engine.close()
    decoded, collated, laid_out, step = (1e3 * np.median(np.asarray(found), axis=0)).tolist()
    cost = Cost(name, step, decoded, laid_out, collated)
    print(f"{name}: {cost.share:.2f} % of {step:.0f} ms", flush=True)
    return cost


def routing(form: str, rounds: int) -> Rounds:
    """Head and loss with answers of ``form``: of one teacher for all units, of four that have a quarter each, and of
    four that all have weight everywhere."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    weight_VD = 0.1 * torch.randn(VOCAB, WIDTH, generator=generator)
    states = torch.randn(UNITS, WIDTH, generator=generator)
    languages = torch.randint(0, ROUTED, (UNITS // 16,), generator=generator).repeat_interleave(16)
    answers = [
        to_vocabulary_signal(_answer(form, weight_VD, generator), weight_VD=weight_VD) for _ in range(ROUTED)
    ]
    covered = {
        "one teacher": (1, torch.ones(1, UNITS, dtype=torch.bool)),
        "four, each its language": (ROUTED, torch.stack([languages == m for m in range(ROUTED)])),
        "four, all of everything": (ROUTED, torch.ones(ROUTED, UNITS, dtype=torch.bool)),
    }
    objective = Objective.model_validate({"alpha": 0.0, "temperature": 1.0, "weighting": {"kind": "uniform"}})

    def step(teachers: int, covered_MN: torch.Tensor) -> float:
        inputs = states.clone().requires_grad_(), weight_VD.clone().requires_grad_()
        labels = torch.zeros(UNITS, dtype=torch.int64)
        names = tuple(f"t{m}" for m in range(teachers))
        signals = Signals(
            names, (None,) * teachers, torch.zeros(teachers, UNITS, 0), covered_MN, labels,
            ("de",) * UNITS, vocabulary_M=tuple(answers[:teachers]),
        )  # fmt: skip
        counts = objective.counts(labels, signals)
        begun = time.process_time()
        evaluate_hidden(objective, *inputs, None, labels, signals, 0.5, counts).loss.backward()  # type: ignore[no-untyped-call]
        return time.process_time() - begun

    return alternate({name: partial(step, *arm) for name, arm in covered.items()}, rounds)


def _answer(form: str, weight_VD: torch.Tensor, generator: torch.Generator) -> Answer:
    states = torch.randn(UNITS, WIDTH, generator=generator)
    if form == "hidden state":
        return compute_hidden(states).fetch()
    logits = states @ weight_VD.T
    if form == "top-64":
        return compute_top_k(logits, 64, (1.0,)).fetch()
    return compute_draws(logits, torch.from_numpy(draw_uniforms(0, UNITS, 50)), 1.0).fetch()
