"""Where answers come from: the interface that a student sees of its teachers.

Decision record: student and teachers never import each other; both know this. What comes back is bytes and numpy,
never torch, because Ray moves numpy without a copy and torch 22 times slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from raykd.answers.vocabularies import TeacherVocabulary
from raykd.text.batch import TextBatch


@dataclass(frozen=True)
class TeacherSignal:
    """One teacher's answer to a `TextBatch`. Written by `teachers`, read by weighting and targets.

    logits_NC: raw logits at temperature 1, columns in the order of the run's labels; rows that are not covered hold 0.
    covered_N: False where this teacher has nothing to say: another language, a truncated unit, a teacher that is down.
    latency_s: seconds the teacher's process spent on this batch, encoding and look-up included.
    forwarded: rows that needed a forward pass; the others came from the store.
    bodies: where a row has several units (or choices of its own): the answer to each row as `raykd.answers.answer`
        writes it, None where the teacher was not asked; logits and covered are then empty.
    lost: the teacher has no process left, and is not asked any more.
    """

    teacher: str
    logits_NC: NDArray[np.float32]
    covered_N: NDArray[np.bool_]
    latency_s: float = 0.0
    forwarded: int = 0
    bodies: tuple[bytes | None, ...] | None = None
    lost: bool = False


class PendingBatch(Protocol):
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

    def submit(self, batch: TextBatch) -> PendingBatch:
        """Sends a batch and returns at once."""
        ...

    def vocabularies(self) -> list[TeacherVocabulary]:
        """The vocabulary of each language teacher; asked for once."""
        ...
