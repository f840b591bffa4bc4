"""What travels between a student's worker and a teacher's process: text one way, numpy the other.

Decision record: one request holds the rows of one micro-batch for one *group* of teachers (those that share a
process), so a batch costs one call a group and not one a teacher. Only the rows that some teacher of the group
is asked for are sent; the receiver lays the answers out over the batch's rows. No gold label travels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.answers.source import TeacherSignal
from raykd.distill.signals import UNLABELLED
from raykd.text.batch import TextBatch


@dataclass(frozen=True)
class GroupRequest:
    """Rows for the teachers of a group. ``asked_MB`` says which teacher is asked for which row; ``halved``: in forward
    passes of half the size, because the whole did not fit into memory."""

    batch: TextBatch
    asked_MB: NDArray[np.bool_]
    halved: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Plain tuples and bytes: small arrays cost Ray more than their content (0.3 ms of a call)."""
        batch = self.batch
        columns = (
            batch.ids, batch.texts, batch.languages, batch.pairs, batch.words, batch.modes, batch.source_languages
        )  # fmt: skip
        return _request, (columns, self.asked_MB.tobytes(), len(self.asked_MB), self.halved)


def _request(columns: tuple[Any, ...], asked: bytes, teachers: int, halved: bool) -> GroupRequest:
    ids, texts, languages, pairs, words, modes, source_languages = columns
    labels_B = np.full(len(texts), UNLABELLED, dtype=np.int64)
    asked_MB = np.frombuffer(asked, dtype=bool).reshape(teachers, len(texts))
    batch = TextBatch(
        ids, texts, languages, labels_B, pairs, words, modes=modes, source_languages=source_languages
    )
    return GroupRequest(batch, asked_MB, halved)


@dataclass(frozen=True)
class GroupAnswer:
    """The answers of a group, in the order of its teachers.

    logits_MNC: float32, raw, at temperature 1; rows that are not covered hold 0.
    covered_MN: whether the teacher answers for the unit.
    latency_M: seconds in the teacher's process. forwarded_M: rows that were not in the store.
    bodies_MB: as in `TeacherSignal`, where rows have several units; None elsewhere.
    """

    logits_MNC: NDArray[np.float32]
    covered_MN: NDArray[np.bool_]
    latency_M: tuple[float, ...]
    forwarded_M: tuple[int, ...]
    bodies_MB: tuple[tuple[bytes | None, ...], ...] | None = None


def pack(signals: Sequence[TeacherSignal]) -> GroupAnswer:
    """Signals of equal shape as one answer."""
    return GroupAnswer(
        logits_MNC=np.stack([s.logits_NC for s in signals]),
        covered_MN=np.stack([s.covered_N for s in signals]),
        latency_M=tuple(s.latency_s for s in signals),
        forwarded_M=tuple(s.forwarded for s in signals),
        bodies_MB=None if signals[0].bodies is None else tuple(s.bodies or () for s in signals),
    )


class Sheet:
    """One teacher's answers to a batch of ``size`` rows while they come in, from the store and from its replicas.

    Args:
        classes: width of a row's logits; None where rows have several units. lost: nothing will come in.
    """

    def __init__(self, teacher: str, size: int, classes: int | None, *, lost: bool = False) -> None:
        self.teacher, self.lost = teacher, lost
        self.logits_NC: NDArray[np.float32] = np.zeros((size, classes or 0), dtype=np.float32)
        self.covered_N: NDArray[np.bool_] = np.zeros(size, dtype=bool)
        self.bodies: list[bytes | None] | None = [None] * size if classes is None else None
        self.latency_s = 0.0
        self.forwarded = 0

    def add(self, answer: GroupAnswer, member: int, rows: NDArray[np.int64]) -> None:
        """Lays the answer of a group's member to these rows out over the batch; rows it does not cover stay."""
        self.latency_s += answer.latency_M[member]
        self.forwarded += answer.forwarded_M[member]
        if answer.bodies_MB is not None:
            self.lay(rows, answer.bodies_MB[member])
            return
        covered_N = answer.covered_MN[member]
        there = rows[covered_N]
        self.logits_NC[there] = answer.logits_MNC[member][covered_N]
        self.covered_N[there] = True

    def lay(self, rows: NDArray[np.int64], bodies: Sequence[bytes | None]) -> None:
        """Takes the answers to these rows that are there."""
        assert self.bodies is not None
        for row, body in zip(rows.tolist(), bodies, strict=True):
            if body is not None:
                self.bodies[row], self.covered_N[row] = body, True

    def signal(self) -> TeacherSignal:
        """What has come in."""
        bodies = None if self.bodies is None else tuple(self.bodies)
        return TeacherSignal(
            self.teacher, self.logits_NC, self.covered_N, self.latency_s, self.forwarded, bodies, self.lost
        )
