"""What travels between a student's worker and a teacher's process: text one way, numpy the other.

Decision record: one request holds the rows of one micro-batch for one *group* of teachers (those that share a
process), so a batch costs one call a group and not one a teacher. Only the rows that some teacher of the group
is asked for are sent; the receiver scatters the answers back to the batch's rows. No gold label travels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED, TeacherSignal, TextBatch


@dataclass(frozen=True)
class GroupRequest:
    """Rows for the teachers of a group. ``asked_MB`` says which teacher is asked for which row."""

    batch: TextBatch
    asked_MB: NDArray[np.bool_]

    def __reduce__(self) -> tuple[Any, ...]:
        """Plain tuples and bytes: small arrays cost Ray more than their content (0.3 ms of a call)."""
        batch = self.batch
        columns = (batch.ids, batch.texts, batch.languages, batch.pairs)
        return _request, (columns, self.asked_MB.tobytes(), len(self.asked_MB))


def _request(columns: tuple[Any, ...], asked: bytes, teachers: int) -> GroupRequest:
    ids, texts, languages, pairs = columns
    labels_B = np.full(len(texts), UNLABELLED, dtype=np.int64)
    asked_MB = np.frombuffer(asked, dtype=bool).reshape(teachers, len(texts))
    return GroupRequest(TextBatch(ids, texts, languages, labels_B, pairs), asked_MB)


@dataclass(frozen=True)
class GroupAnswer:
    """The answers of a group, in the order of its teachers.

    logits_MNC: float32, raw, at temperature 1; rows that are not covered hold 0.
    covered_MN: whether the teacher answers for the unit.
    latency_M: seconds in the teacher's process. forwarded_M: rows that were not in the store.
    """

    logits_MNC: NDArray[np.float32]
    covered_MN: NDArray[np.bool_]
    latency_M: tuple[float, ...]
    forwarded_M: tuple[int, ...]


def pack(signals: Sequence[TeacherSignal]) -> GroupAnswer:
    """Signals of equal shape as one answer."""
    return GroupAnswer(
        logits_MNC=np.stack([s.logits_NC for s in signals]),
        covered_MN=np.stack([s.covered_N for s in signals]),
        latency_M=tuple(s.latency_s for s in signals),
        forwarded_M=tuple(s.forwarded for s in signals),
    )


def scatter(
    answer: GroupAnswer, names: Sequence[str], rows: NDArray[np.int64], size: int
) -> list[TeacherSignal]:
    """The answers of the rows sent, laid out over a batch of ``size`` rows."""
    classes = answer.logits_MNC.shape[2]
    signals = []
    for m, name in enumerate(names):
        logits_NC = np.zeros((size, classes), dtype=np.float32)
        covered_N = np.zeros(size, dtype=bool)
        logits_NC[rows] = answer.logits_MNC[m]
        covered_N[rows] = answer.covered_MN[m]
        signals.append(TeacherSignal(name, logits_NC, covered_N, answer.latency_M[m], answer.forwarded_M[m]))
    return signals


def silence(names: Sequence[str], size: int, classes: int) -> list[TeacherSignal]:
    """What a group says of a batch that it is not asked for."""
    return [
        TeacherSignal(name, np.zeros((size, classes), dtype=np.float32), np.zeros(size, dtype=bool))
        for name in names
    ]
