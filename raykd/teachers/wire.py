"""What travels to a teacher's process: text. What comes back is one `AnswerSlots` per teacher.

Decision record: one request holds the rows of one micro-batch for one *group* of teachers (those that share a
process), so a batch costs one call per group and not one per teacher. Only rows that some teacher of the group is asked
for are sent; the receiver lays the answers out over the batch's rows. No gold label travels. Columns travel in a fixed
order without their names, which take 3 microseconds a request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.distill.features.states import FeatureRequest
from raykd.distill.signals import UNLABELLED
from raykd.text.batch import TextBatch

_COLUMNS = ("ids", "texts", "languages", "pairs", "words", "modes", "source_languages", "candidates")
"""Columns of a batch that travel, in this order: all but the labels."""
_read_columns = attrgetter(*_COLUMNS)


@dataclass(frozen=True)
class GroupRequest:
    """Rows for the teachers of a group.

    Attributes:
        batch: B rows without labels.
        asked_MB: Which teacher of the process is asked for which row.
        halved: Whether to compute in forward passes of half the size, because the whole did not fit into memory.
        features: Of each teacher of the process, the states that it is asked for beside answers; () asks for none.
        token: Names the request to a process that may be lent threads meanwhile (`raykd.teachers.threads`); b"" where
            the sender lends none.
    """

    batch: TextBatch
    asked_MB: NDArray[np.bool_]
    halved: bool = False
    token: bytes = b""
    features: tuple[FeatureRequest, ...] = ()

    def __reduce__(self) -> tuple[Callable[..., GroupRequest], tuple[object, ...]]:
        # Plain tuples and bytes: small numpy arrays cost Ray more than their content (0.3 ms of a call).
        asked = self.asked_MB.tobytes(), len(self.asked_MB)
        return _rebuild, (_read_columns(self.batch), *asked, self.halved, self.token, self.features)


def _rebuild(
    columns: tuple[Any, ...],
    asked: bytes,
    teachers: int,
    halved: bool,
    token: bytes,
    features: tuple[FeatureRequest, ...],
) -> GroupRequest:
    named = dict(zip(_COLUMNS, columns, strict=True))
    rows = len(named["texts"])
    batch = TextBatch(labels_B=np.full(rows, UNLABELLED, dtype=np.int64), **named)
    asked_MB = np.frombuffer(asked, dtype=bool).reshape(teachers, rows)
    return GroupRequest(batch, asked_MB, halved, token, features)
