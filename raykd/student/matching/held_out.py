"""Ask the teachers about the validation rows, and let a weighting learn from their answers.

Decision record: teachers are asked as the run's weighting asks them about training rows, once, before the first step.
What was learned is in the run's checkpoints, so a run that goes on does not ask again.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.layout import StudentUnits, lay_out_answers
from raykd.answers.source import AnswerSlots, SignalSource
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.distill.adapting.adaptation import name_weighting, read_weighting
from raykd.distill.signals import UNLABELLED, Signals
from raykd.keys import make_key_part

log = logging.getLogger("raykd.student")
_ASKED_ROWS = 256


def ask_held_out(config: RunConfig, rows: Rows, source: SignalSource) -> tuple[list[AnswerSlots], Signals]:
    """Return each teacher's answers to the validation rows, and the same beside the gold labels.

    Args:
        config: The run of one task.
        rows: Its validation rows.
        source: Its teachers.
    """
    waiting = [
        source.submit(rows.take(range(begin, min(begin + _ASKED_ROWS, len(rows)))).as_asked())
        for begin in range(0, len(rows), _ASKED_ROWS)
    ]
    parts = [pending.result() for pending in waiting]
    slots = [AnswerSlots.concat([part[m] for part in parts]) for m in range(len(source.teachers))]
    batch = rows.take(range(len(rows)))
    labels_N = torch.from_numpy(config.task.list_unit_labels(batch))
    choices = config.task.count_choices(batch, config.data.labels)
    counts_B = config.task.count_units(batch)
    units = StudentUnits(labels_N, counts_B, rows.languages, choices, groups=batch.groups or ())
    return slots, lay_out_answers(slots, source.teacher_languages, units)


def learn_weighting(
    states: dict[str, tuple[float, ...]], config: RunConfig, rows: Rows, source: SignalSource | None
) -> dict[str, float]:
    """Add what a run's weighting learns from the validation rows to the states; does nothing where it has learned.

    Args:
        states: Of the run's learned values.
        config: The run of one task.
        rows: Its validation rows.
        source: Its teachers; None in plain training.

    Returns:
        Mean weights on the validation rows, for the curves: ``teacher/<name>/weight/<language>``.
    """
    weighting = config.objective.weighting
    if source is None or not weighting.inner.count_needed(len(source.teachers)) or read_weighting(states):
        return {}
    _, signals = ask_held_out(config, rows, source)
    found = weighting.fit(signals)
    states |= name_weighting(found)
    weights_MN = weighting.with_states(found).weights(signals).numpy()
    labels_N = signals.labels_N.numpy()
    names = config.task.name_choices(config.data.labels)
    of_label = average_weights(weights_MN, [names[at] if at != UNLABELLED else "" for at in labels_N])
    of_language = average_weights(weights_MN, signals.languages)
    for value, weights in [*of_language.items(), *((k, v) for k, v in of_label.items() if k)]:
        told = ", ".join(f"{name} {own:.2f}" for name, own in zip(signals.teachers, weights, strict=True))
        log.info("%s: mean weights on the validation rows of %s: %s", weighting.kind, value, told)
    return {
        f"teacher/{name}/weight/{make_key_part(language)}": float(own)
        for language, weights in of_language.items()
        for name, own in zip(signals.teachers, weights, strict=True)
    }


def average_weights(
    weights_MN: NDArray[np.float32], values: Sequence[str]
) -> Mapping[str, NDArray[np.float64]]:
    """Return the mean weights ``[M]`` of the covered units of each value, sorted by it."""
    covered_N = weights_MN.sum(axis=0) > 0.0
    at: dict[str, list[int]] = defaultdict(list)
    for n in np.flatnonzero(covered_N).tolist():
        at[values[n]].append(n)
    return {value: weights_MN[:, at[value]].mean(axis=1, dtype=np.float64) for value in sorted(at)}
