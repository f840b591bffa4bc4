"""Teachers' bodies laid out over the student's units: what `stack` is for answers that are one matrix.

Decision record: a body says what a teacher answered to one row; which units the row has is the student's to say. Both
see the same words, so the numbers of units must agree, and a body with another number is an error and not a smaller
batch. A unit that the student itself does not see (its own tokenizer cut it off) is covered by nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import decode_answers
from raykd.answers.source import TeacherSignal
from raykd.distill.signals import MASKED, Signals

FAINT = -20.0
"""Log-probability of a choice that a teacher lacks and the student has."""


def lay_out(
    signals: Sequence[TeacherSignal],
    teacher_languages: Sequence[frozenset[str] | None],
    labels_N: torch.Tensor,
    languages: Sequence[str],
    counts_B: NDArray[np.int64],
    *,
    choices: int,
    seen_N: torch.Tensor | None = None,
    visible_NC: torch.Tensor | None = None,
) -> Signals:
    """M answers to B rows as `Signals` of N units, on the device of ``labels_N``.

    Args:
        languages: of the B rows. counts_B: units of each row.
        choices: C, the student's; a teacher's answer of fewer choices is padded with `MASKED`.
        seen_N: False where the student does not see the unit; None where it sees all.
        visible_NC: False where the student has no logit for a choice; None where it has one for each.

    Raises:
        ValueError: a teacher answered for another number of units, or more choices than there are.
    """
    n, device = len(labels_N), labels_N.device
    logits_MNC = np.zeros((len(signals), n, choices), dtype=np.float32)
    covered_MN = np.zeros((len(signals), n), dtype=bool)
    columns: list[tuple[int, ...] | None] = []
    for m, signal in enumerate(signals):
        answer_NC, there_N = unit_logits(signal, counts_B, choices)
        # A label that a teacher does not know has the logit -inf in all its answers.
        logits_MNC[m], covered_MN[m] = answer_NC, there_N
        unknown_C = np.isneginf(answer_NC[int(there_N.argmax())]) if n else np.zeros(choices, dtype=bool)
        columns.append(tuple(np.flatnonzero(~unknown_C).tolist()) if unknown_C.any() else None)
        if unknown_C.any():
            logits_MNC[m][:, unknown_C] = 0.0
    covered = torch.from_numpy(covered_MN).to(device)
    logits = torch.from_numpy(logits_MNC).to(device)
    if visible_NC is not None:
        # What the student cannot say a teacher does not teach it, since no probability could come near the teacher's;
        # what the teacher cannot say is all but impossible to it and not impossible, for divergences of q over p.
        faint_MN1 = logits.logsumexp(dim=-1, keepdim=True) + FAINT
        logits = torch.where(logits > MASKED / 2, logits, faint_MN1).masked_fill(~visible_NC, MASKED)
    return Signals(
        teachers=tuple(s.teacher for s in signals),
        teacher_languages=tuple(teacher_languages),
        logits_MNC=logits,
        covered_MN=covered if seen_N is None else covered & seen_N,
        labels_N=labels_N,
        languages=tuple(np.repeat(np.asarray(languages, dtype=object), counts_B).tolist()),
        columns_M=tuple(columns),
    )


def unit_logits(
    signal: TeacherSignal, counts_B: NDArray[np.int64], choices: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """One teacher's logits ``[N, C]`` (0 where it was not asked) and what it covers, ``[N]``.

    Raises:
        ValueError: as `lay_out`.
    """
    bodies = signal.bodies or ()
    payload, units_B = decode_answers(bodies)
    units = int(counts_B.sum())
    if payload is None:
        return np.zeros((units, choices), dtype=np.float32), np.zeros(units, dtype=bool)
    asked_B = np.asarray([body is not None for body in bodies])
    if not isinstance(payload, DenseAnswer) or (units_B[asked_B] != counts_B[asked_B]).any():
        raise ValueError(
            f"teacher {signal.teacher} answered for {units_B.tolist()} units a row ({payload.kind}), "
            f"the rows have {counts_B.tolist()}"
        )
    width = payload.logits_NC.shape[1]
    if width > choices:
        raise ValueError(f"teacher {signal.teacher} answered with {width} choices, there are {choices}")
    if width == choices and asked_B.all() and payload.covered_N.all():  # as it mostly is: nothing to lay out
        return payload.logits_NC, payload.covered_N
    logits_NC, covered_N = np.zeros((units, choices), dtype=np.float32), np.zeros(units, dtype=bool)
    asked_N = np.repeat(asked_B, counts_B)
    covered_N[asked_N] = payload.covered_N
    filled = np.full((len(payload), choices), MASKED, dtype=np.float32)
    filled[:, :width] = payload.logits_NC
    logits_NC[asked_N] = np.where(payload.covered_N[:, None], filled, 0.0)
    return logits_NC, covered_N


def stack(
    signals: Sequence[TeacherSignal],
    teacher_languages: Sequence[frozenset[str] | None],
    labels_N: torch.Tensor,
    languages: tuple[str, ...],
) -> Signals:
    """Joins M answers of equal shape ``[N, C]`` to `Signals` on the device of ``labels_N``."""
    device = labels_N.device
    logits = np.stack([s.logits_NC for s in signals]).astype(np.float32, copy=False)
    covered = np.stack([s.covered_N for s in signals])
    return Signals(
        teachers=tuple(s.teacher for s in signals),
        teacher_languages=tuple(teacher_languages),
        logits_MNC=torch.from_numpy(logits).to(device),
        covered_MN=torch.from_numpy(covered).to(device),
        labels_N=labels_N,
        languages=languages,
    )
