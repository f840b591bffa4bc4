"""What travels to a teacher's process: text. What comes back is one `AnswerSlots` per teacher.

Decision record: one request holds the rows of one micro-batch for one *group* of teachers (those that share a
process), so a batch costs one call per group and not one per teacher. Only rows that some teacher of the group is asked
for are sent; the receiver lays the answers out over the batch's rows. No gold label travels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED
from raykd.text.batch import TextBatch

_COLUMNS = ("ids", "texts", "languages", "pairs", "words", "modes", "source_languages")
"""Columns of a batch that travel: all but the labels."""


@dataclass(frozen=True)
class GroupRequest:
    """Rows for the teachers of a group.

    Attributes:
        batch: B rows without labels.
        asked_MB: Which teacher of the process is asked for which row.
        halved: Whether to compute in forward passes of half the size, because the whole did not fit into memory.
    """

    batch: TextBatch
    asked_MB: NDArray[np.bool_]
    halved: bool = False

    def __reduce__(self) -> tuple[Callable[..., GroupRequest], tuple[object, ...]]:
        # Plain tuples and bytes: small numpy arrays cost Ray more than their content (0.3 ms of a call).
        columns = {name: getattr(self.batch, name) for name in _COLUMNS}
        return _rebuild, (columns, self.asked_MB.tobytes(), len(self.asked_MB), self.halved)


def _rebuild(columns: dict[str, Any], asked: bytes, teachers: int, halved: bool) -> GroupRequest:
    rows = len(columns["texts"])
    labels_B = np.full(rows, UNLABELLED, dtype=np.int64)
    batch = TextBatch(labels_B=labels_B, **columns)
    return GroupRequest(batch, np.frombuffer(asked, dtype=bool).reshape(teachers, rows), halved)
