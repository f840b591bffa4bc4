"""The messages between rows, teachers and the objective.

Shape legend, used in names everywhere: ``B`` rows of a batch, ``L`` tokens, ``N`` units (what one prediction
is: a row for classification, a word for tagging), ``C`` classes, ``K`` width of a target's support, ``M`` teachers.

Decision record: what travels to a teacher is text, never tokens, because each model encodes for itself; what
comes back is numpy, never torch, because Ray moves numpy without a copy and torch 22 times slower. Teachers
answer with raw logits at temperature 1, so alpha, temperature, lambda, weighting and divergence act at the
student and nothing that is searched crosses the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

UNLABELLED = -100
"""The label of a unit that has no gold label; the value `torch.nn.functional.cross_entropy` ignores."""
MASKED = -1e4
"""The logit of a choice that a unit does not have: its probability is 0 in float32, and nothing becomes NaN."""

Spans = tuple[tuple[int, int], ...]
"""Begin and end of each word of a text, in characters (code points)."""


@dataclass(frozen=True)
class TextBatch:
    """B rows of text. Written by `data`, read by teachers (which encode it themselves) and the student.

    ids: stable row ids, for messages; never a cache key.
    texts, pairs: first and second text; ``pairs is None`` where the task has one text. Of question answering: question
        and context; of the language models: prompt or source, and target.
    languages: a language code a row.
    labels_B: int64, index into the run's labels, or `UNLABELLED`; where gold is not one label, 0 says there is some.
    words: of tagging, where the words of each text are.
    golds: of tagging a label a word; of question answering begin and end of each accepted answer in the context, in
        characters; empty where the row is unlabelled. None for the other tasks.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    languages: tuple[str, ...]
    labels_B: NDArray[np.int64]
    pairs: tuple[str, ...] | None = None
    words: tuple[Spans, ...] | None = None
    golds: tuple[tuple[int, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> TextBatch:
        """The batch of these rows, in this order."""
        return TextBatch(
            ids=tuple(self.ids[i] for i in rows),
            texts=tuple(self.texts[i] for i in rows),
            languages=tuple(self.languages[i] for i in rows),
            labels_B=self.labels_B[np.asarray(rows, dtype=np.int64)],
            pairs=_picked(self.pairs, rows),
            words=_picked(self.words, rows),
            golds=_picked(self.golds, rows),
        )

    def without_labels(self) -> TextBatch:
        """The same rows as a teacher may see them: no gold label leaves the student's side."""
        labels_B = np.full(len(self), UNLABELLED, dtype=np.int64)
        return replace(self, labels_B=labels_B, golds=None if self.golds is None else ((),) * len(self))


def _picked(column: tuple[Any, ...] | None, rows: Sequence[int]) -> tuple[Any, ...] | None:
    return None if column is None else tuple(column[i] for i in rows)


@dataclass(frozen=True)
class TeacherSignal:
    """One teacher's answer to a `TextBatch`. Written by `teachers`, read by weighting and targets.

    logits_NC: raw logits at temperature 1, columns in the order of the run's labels; rows that are not covered hold 0.
    covered_N: False where this teacher has nothing to say: another language, a truncated unit, a teacher that is down.
    latency_s: seconds the teacher's process spent on this batch, encoding and look-up included.
    forwarded: rows that needed a forward pass; the others came from the store.
    """

    teacher: str
    logits_NC: NDArray[np.float32]
    covered_N: NDArray[np.bool_]
    latency_s: float = 0.0
    forwarded: int = 0


@dataclass(frozen=True)
class Signals:
    """All teachers' answers to one micro-batch as tensors. Written by `stack`, read by weighting and targets.

    teachers: names, the order of M.
    logits_MNC: float32. covered_MN: bool.
    labels_N: int64 or `UNLABELLED`. languages: one code a unit.
    teacher_languages: for each teacher the languages it was declared for, or None for any language.
    """

    teachers: tuple[str, ...]
    teacher_languages: tuple[frozenset[str] | None, ...]
    logits_MNC: torch.Tensor
    covered_MN: torch.Tensor
    labels_N: torch.Tensor
    languages: tuple[str, ...]


def stack(
    signals: Sequence[TeacherSignal],
    teacher_languages: Sequence[frozenset[str] | None],
    labels_N: torch.Tensor,
    languages: tuple[str, ...],
) -> Signals:
    """Joins M answers of equal shape ``[N, C]`` to `Signals` on the device of ``labels_N``."""
    device = labels_N.device
    logits = np.stack([s.logits_NC for s in signals]).astype(np.float32, copy=False)
    covered = np.stack([s.covered_N for s in signals])
    return Signals(
        teachers=tuple(s.teacher for s in signals),
        teacher_languages=tuple(teacher_languages),
        logits_MNC=torch.from_numpy(logits).to(device),
        covered_MN=torch.from_numpy(covered).to(device),
        labels_N=labels_N,
        languages=languages,
    )


@dataclass(frozen=True)
class Target:
    """The teachers combined, at one temperature, for N units of support K. Written by targets, read by losses.

    p_NK: probabilities softened at `temperature` and mixed; rows sum to 1 (also rows that nobody covers: uniform).
    logp_NK: their logarithm, finite.
    logits_NK: the weighted mean of the teachers' mean-centred raw logits, for losses on logits.
    weights_MN: the teachers' weights, summing to 1 over M where covered, 0 elsewhere.
    covered_N: whether any teacher covers the unit.
    """

    p_NK: torch.Tensor
    logp_NK: torch.Tensor
    logits_NK: torch.Tensor
    weights_MN: torch.Tensor
    covered_N: torch.Tensor
    temperature: float


class Ticket(Protocol):
    """A request on its way."""

    def result(self, timeout: float | None = None) -> list[TeacherSignal]:
        """Blocks for the answers, one a teacher in the source's order."""
        ...


class SignalSource(Protocol):
    """Where teachers' answers come from: actors on Ray, or the same teachers in this process."""

    @property
    def teachers(self) -> tuple[str, ...]: ...

    @property
    def teacher_languages(self) -> tuple[frozenset[str] | None, ...]: ...

    def submit(self, batch: TextBatch) -> Ticket:
        """Sends a batch and returns at once."""
        ...
