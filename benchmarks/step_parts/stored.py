"""A step with stored answers beside a bare one and a plain torch loop, in CPU seconds, step by step in turn.

Decision record: blocks of steps hold texts of different lengths, and other work on the machine comes and goes within a
block. Single steps over the same batch, one after the other, differ in neither.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Rounds, alternate, show
from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_rows
from raykd.answers.source import AnswerSlots
from raykd.config import RunConfig
from raykd.student.loop import TrainingLoop
from raykd.student.prefetch import Prefetcher, StepWork
from raykd.teachers.source import ReadyBatch
from raykd.text.batch import TextBatch


class StoredAnswers:
    """Answers of the three teachers as a store gives them back, all there."""

    def __init__(self, teachers: tuple[str, ...], ids: tuple[str, ...], labels: int) -> None:
        self.teachers, self.teacher_languages = teachers, (None,) * len(teachers)
        units = np.ones(len(ids), dtype=np.int64)
        self._bodies = []
        for seed in range(len(teachers)):
            logits_NC = np.random.default_rng(seed).normal(size=(len(ids), labels)).astype(np.float32)
            answer = DenseAnswer(logits_NC=logits_NC, covered_N=units > 0)
            self._bodies.append(dict(zip(ids, encode_rows(answer, units, units > 0), strict=True)))

    def submit(self, batch: TextBatch) -> ReadyBatch:
        """Looks the rows up."""
        return ReadyBatch(
            [
                AnswerSlots(name, [bodies[each] for each in batch.ids])
                for name, bodies in zip(self.teachers, self._bodies, strict=True)
            ]
        )


def run_stored_steps(stored: TrainingLoop, bare: TrainingLoop, rounds: int) -> Rounds:
    """CPU seconds of single steps in turn: with stored answers, bare, and of plain torch."""
    config, labels = stored.config, bare.student.labels
    assert isinstance(config, RunConfig)
    names = tuple(teacher.name for teacher in config.teachers)
    stored.trainer.source = StoredAnswers(names, stored.trainer.rows.ids, len(labels))
    plain = config.student.build(bare.student.tokenizer, labels, 0).train()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.01, fused=True)

    def plain_step(work: StepWork) -> None:
        trainer = bare.trainer
        batch = trainer.task.collate(trainer.tokens, work.rows[0].tolist(), trainer.padding)
        loss = torch.nn.functional.cross_entropy(plain(**batch.inputs).logits, batch.labels_N)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def arm(loop: TrainingLoop, step: Any) -> Any:
        loop.engine.train()
        works = Prefetcher(loop.ask, 2).steps(0, loop.total_steps)

        def run() -> float:
            begun = time.process_time()
            step(next(works))
            return time.process_time() - begun

        return run

    arms = {
        "stored answers": arm(stored, stored.step),
        "bare": arm(bare, bare.step),
        "plain torch": arm(bare, plain_step),
    }
    return alternate(arms, 16 * rounds)


def report_stored(rounds: Rounds) -> None:
    """The table of `stored_steps`."""
    lines = []
    for above, below, goal in (("stored answers", "bare", "at most 1.03"), ("bare", "plain torch", "")):
        middle, low, high = rounds.ratio(above, below)
        total = sum(rounds.seconds[above]) / sum(rounds.seconds[below])
        lines.append([f"{above} / {below}", f"{middle:.3f}", f"{low:.3f}-{high:.3f}", f"{total:.3f}", goal])
    times = ", ".join(f"{name} {rounds.median_ms(name):.1f} ms" for name in rounds.seconds)
    show(
        f"CPU seconds of single steps in turn ({times})",
        ["ratio", "median", "quartiles", "of the sums", "goal"],
        lines,
    )
