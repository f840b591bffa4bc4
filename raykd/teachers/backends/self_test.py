"""Test that a teacher without weights of its own answers a text alike whenever and beside whatever it is asked.

Decision record: stored answers outlive the request that they were computed in. Code of a user's own can draw at random,
keep state, or scale by the batch, and no loss curve shows it. So some rows are answered twice, in another order and
alone. A difference is refused, since no way of asking would mend it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import decode_answers
from raykd.errors import ModelError
from raykd.tasks.scores.classification import log_softmax
from raykd.text.batch import TextBatch

ROWS = 16
"""Most rows of a test."""
ALONE = 3
"""Rows that are also asked alone."""
LARGEST = 1e-3
"""Largest difference of a probability; arithmetic in another order differs by less."""


def compare_answers(compute: Callable[[TextBatch], list[bytes]], batch: TextBatch, name: str) -> str:
    """Answer rows together, again, backwards and alone, and describe the largest difference of a probability.

    Args:
        compute: Answers a batch.
        batch: The rows; the first `ROWS` are asked.
        name: The teacher, for messages.

    Raises:
        ModelError: A probability differs by more than `LARGEST`.
    """
    rows = range(min(ROWS, len(batch)))
    first = _read(compute(batch.take(rows)))
    again = _find_difference(first, _read(compute(batch.take(rows))))
    _refuse(
        again,
        name,
        "answers the same texts differently when it is asked twice",
        "it draws at random or keeps state",
    )
    turned = _find_difference(first, _read(compute(batch.take(rows[::-1])))[::-1])
    alone = [_read(compute(batch.take([row])))[0] for row in rows[:ALONE]]
    beside = max(turned, _find_difference(first[:ALONE], alone))
    why = "it returns rows in another order, or computes a text from its batch"
    _refuse(beside, name, "answers a text differently beside other texts", why)
    return f"answers do not depend on the texts beside them (differences up to {max(again, beside):.0e})"


def _read(bodies: Sequence[bytes]) -> list[NDArray[np.float64]]:
    """Return the probabilities of each row."""
    found = []
    for body in bodies:
        answer, _ = decode_answers([body])
        assert isinstance(answer, DenseAnswer)
        found.append(np.exp(log_softmax(answer.logits_NC)))
    return found


def _find_difference(one: Sequence[NDArray[np.float64]], other: Sequence[NDArray[np.float64]]) -> float:
    gaps = [float(np.abs(a - b).max(initial=0.0)) for a, b in zip(one, other, strict=True)]
    return max(gaps, default=0.0)


def _refuse(difference: float, name: str, what: str, why: str) -> None:
    if difference > LARGEST:
        raise ModelError(
            f"teacher {name} {what}",
            got=f"probabilities that differ by up to {difference:.2g}",
            wanted="one answer to a text, whenever it is asked, because answers are stored",
            next_step=f"look for the cause: {why}",
        )
