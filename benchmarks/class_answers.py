"""Answers of classifiers, as benchmarks write and read them: one unit per row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import decode_answers, encode_rows
from raykd.answers.source import AnswerSlots


def encode_logits(logits_NC: NDArray[np.float32]) -> list[bytes]:
    """Return the body of each row."""
    answer = DenseAnswer(logits_NC=logits_NC, covered_N=np.ones(len(logits_NC), dtype=np.bool_))
    bodies = encode_rows(answer, np.ones(len(logits_NC), dtype=np.int64), answer.covered_N)
    return [body for body in bodies if body is not None]


def logits_of(slots: AnswerSlots) -> NDArray[np.float32]:
    """Return ``[N, C]`` logits, 0 for a row without an answer."""
    answer, units_B = decode_answers(slots.bodies)
    assert isinstance(answer, DenseAnswer)
    logits_NC = np.zeros((len(slots), answer.logits_NC.shape[1]), dtype=np.float32)
    logits_NC[units_B > 0] = answer.logits_NC
    return logits_NC
