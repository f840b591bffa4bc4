"""Join the teachers' vectors to those of the ensemble.

Decision record: the vectors of all teachers, each of length 1 and times the root of its weight, stand side by side. The
cosine of two texts is then the weighted mean of the teachers' cosines, which is what the geometric mixture teaches, and
the ensemble is searched like one model. Weights are those that the run's weighting gives in batches of the held-out
rows; two texts whose teachers differ (two monolingual ones) are at right angles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.layout import StudentUnits, lay_out_answers
from raykd.answers.source import AnswerSlots
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.scoring.score import collect_unit_answers
from raykd.tasks import SystemAnswers


def join_vectors(
    config: RunConfig,
    signals: Sequence[AnswerSlots],
    languages: Sequence[frozenset[str] | None],
    rows: Rows,
) -> SystemAnswers:
    """Return the vectors of all teachers together.

    Args:
        config: The run of one task.
        signals: Each teacher's answers to all rows.
        languages: What each teacher was declared for.
        rows: The held-out rows.
    """
    each = [collect_unit_answers(config, signal, rows) for signal in signals]
    weights_MN = np.concatenate(
        [
            _weigh(config, [slots.pick(picked) for slots in signals], languages, rows.select(picked))
            for begin in range(0, len(rows), config.train.batch_size)
            if (picked := list(range(begin, min(begin + config.train.batch_size, len(rows)))))
        ],
        axis=1,
    )
    parts = [
        np.sqrt(weights_N)[:, None] * answers.logits_NC / _measure_lengths(answers.logits_NC)
        for weights_N, answers in zip(weights_MN, each, strict=True)
    ]
    joined_ND = np.concatenate(parts, axis=1).astype(np.float32)
    covered_N = np.any([answers.covered_N for answers in each], axis=0)
    return SystemAnswers(joined_ND, each[0].counts_B, np.asarray(covered_N, dtype=np.bool_))


def _weigh(
    config: RunConfig,
    signals: Sequence[AnswerSlots],
    languages: Sequence[frozenset[str] | None],
    rows: Rows,
) -> NDArray[np.float32]:
    """Return each teacher's weight for each text, ``[M, N]``, without gold."""
    counts_B = config.task.count_units(rows)
    hidden_N = torch.full((int(counts_B.sum()),), UNLABELLED, dtype=torch.int64)
    units = StudentUnits(
        hidden_N,
        counts_B,
        rows.languages,
        choices=len(hidden_N),
        place=config.task.place_answers,
        groups=rows.groups or (),
    )
    weights_MN = config.objective.weighting.weights(lay_out_answers(signals, languages, units))
    found: NDArray[np.float32] = weights_MN.numpy()
    return found


def _measure_lengths(
    vectors_ND: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return ``[N, 1]``: the length of each vector; 1 where it is 0."""
    length_N1: NDArray[np.float32] = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.where(length_N1 > 0.0, length_N1, 1.0)
