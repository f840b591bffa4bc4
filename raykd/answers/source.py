"""`SignalSource`: the interface through which a student asks its teachers.

Decision record: student and teachers never import each other; both import this. An answer travels as the bytes that the
store keeps, so stored answers, those of a replica and those of a teacher in this process look alike, and only
`raykd.answers.layout` reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from raykd.answers.vocabularies import TeacherVocabulary
from raykd.distill.features.states import FeatureRequest
from raykd.text.batch import TextBatch

NO_ANSWER = b""
"""Stands in stores and on the wire for the answer to a row that a teacher is known to have none for."""


@dataclass(slots=True)
class AnswerSlots:
    """One teacher's answers to the rows of a batch: one slot per row, filled as answers come in.

    Written on both sides of the wire, read by `raykd.answers.layout` and the meter.

    Attributes:
        teacher: Its name.
        bodies: The answer to each row, as `raykd.answers.codec` writes it; None where the teacher was not asked, does
            not speak the row's language, has no answer (`NO_ANSWER`) or has no process left.
        latency_s: Seconds that the teacher's process spent, encoding and look-up included.
        forwarded: Rows that needed a forward pass; the others came from the store.
        lost: Whether the teacher has no process left and is not asked any more.
    """

    teacher: str
    bodies: list[bytes | None]
    latency_s: float = 0.0
    forwarded: int = 0
    lost: bool = False

    @classmethod
    def empty(cls, teacher: str, rows: int, *, lost: bool = False) -> Self:
        """Return slots for so many rows, none of them filled."""
        return cls(teacher, [None] * rows, lost=lost)

    @classmethod
    def concat(cls, parts: Sequence[AnswerSlots]) -> Self:
        """Return one teacher's answers to several batches as its answers to all their rows."""
        return cls(
            parts[0].teacher,
            [body for part in parts for body in part.bodies],
            sum(part.latency_s for part in parts),
            sum(part.forwarded for part in parts),
            any(part.lost for part in parts),
        )

    def __len__(self) -> int:
        return len(self.bodies)

    @property
    def answered_B(self) -> NDArray[np.bool_]:  # noqa: N802  (a shape, as the fields)
        """Which rows have an answer, ``[B]``."""
        return np.asarray([body is not None for body in self.bodies], dtype=bool)

    def fill(self, rows: Iterable[int], bodies: Sequence[bytes | None]) -> None:
        """Take the answers to these rows; where there is none the slot stays as it is."""
        for row, body in zip(rows, bodies, strict=True):
            if body:
                self.bodies[row] = body

    def merge(self, part: AnswerSlots, rows: Iterable[int]) -> None:
        """Take a reply to some of the rows, and what it cost."""
        self.fill(rows, part.bodies)
        self.latency_s += part.latency_s
        self.forwarded += part.forwarded

    def pick(self, rows: Sequence[int]) -> AnswerSlots:
        """Return the slots of these rows, without their cost."""
        return AnswerSlots(self.teacher, [self.bodies[i] for i in rows], lost=self.lost)

    def slice(self, begin: int, end: int) -> AnswerSlots:
        """Return the slots of the rows from begin to before end, with their share of the cost."""
        share = (end - begin) / max(1, len(self))
        forwarded = min(end - begin, round(self.forwarded * share))
        return AnswerSlots(self.teacher, self.bodies[begin:end], self.latency_s * share, forwarded, self.lost)


class PendingBatch(Protocol):
    """The answers to one batch that are on their way."""

    def result(self, timeout: float | None = None) -> list[AnswerSlots]:
        """Block for the answers; returns one entry per teacher, in the source's order."""


class SignalSource(Protocol):
    """Where teachers' answers come from: actors on Ray, or the same teachers in this process."""

    @property
    def teachers(self) -> tuple[str, ...]: ...

    @property
    def teacher_languages(self) -> tuple[frozenset[str] | None, ...]: ...

    def submit(self, batch: TextBatch, *, features: Sequence[FeatureRequest] = ()) -> PendingBatch:
        """Send a batch and return at once.

        Args:
            batch: B rows.
            features: What each teacher is asked for beside its answers (`raykd.answers.features`); () is nothing.
        """

    def vocabularies(self, teachers: Collection[str] | None = None) -> list[TeacherVocabulary]:
        """Return what these teachers bring beside their answers, in the source's order; called once per run."""
