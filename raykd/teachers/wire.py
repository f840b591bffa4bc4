"""What travels to a teacher's process: text. What comes back is one `AnswerSlots` per teacher.

Decision record: one request holds the rows of one micro-batch for one *group* of teachers (those that share a
process), so a batch costs one call a group and not one a teacher. Only the rows that some teacher of the group
is asked for are sent; the receiver lays the answers out over the batch's rows. No gold label travels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
