"""The teachers as parts: each part's target, and the student brought onto its support.

Decision record: teachers that know all columns are mixed into one target, as `raykd.distill.targets` says, and so are
teachers of one and the same subset. A teacher whose answer has a support of its own (a subset, its k tokens, its draw,
what another vocabulary shares) cannot be mixed with others before the comparison; it is a part, and the parts'
divergences are summed with the teachers' weights. Of a subset the student's softmax is renormalised over it: what the
teacher does not know is not punished. With one part nothing is multiplied, so that classification stays what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from raykd.distill.answers import SparseAnswer, WholeAnswer
from raykd.distill.losses import DivergenceBase
from raykd.distill.signals import Answer, Signals, Support, Target
from raykd.distill.support import on_columns, on_support
from raykd.distill.targets import LOG_FLOOR, Mixture, align, combine, combine_logits, soften


@dataclass(frozen=True)
class Part:
    """A target, the student's logits on its support, and its share of each unit; None for the whole of it."""

    student_NK: torch.Tensor
    target: Target
    support: Support
    share_N: torch.Tensor | None


def parts_of(
    logits_NC: torch.Tensor,
    signals: Signals,
    weights_MN: torch.Tensor,
    temperature: float,
    mixture: Mixture,
) -> list[Part]:
    """The parts; their shares of a unit are the teachers' weights, so they sum to 1 where it is covered.

    Args:
        logits_NC: the student's, float32.
        weights_MN: from the weighting.

    Raises:
        ValueError: widths disagree, a temperature that an answer does not hold, or a geometric mixture of answers
            that are not whole.
    """
    told = signals.logits_MNC.shape[-1] > 0
    if signals.plain and told:
        student_NC, target = align(logits_NC, combine(signals, weights_MN, temperature, mixture))
        return [Part(student_NC, target, "whole", None)]
    groups: dict[object, list[int]] = {}
    for m in range(len(signals.teachers)):
        groups.setdefault(_group(signals, m), []).append(m)
    parts = []
    for members in groups.values():
        weights = weights_MN[members]
        share_N = weights.sum(dim=0)
        inside = torch.where(share_N > 0.0, weights / share_N, 0.0)
        whole = len(groups) == 1
        answer = signals.answer(members[0])
        if answer is None and not told:
            continue  # a language model that was asked for no row of the batch
        if answer is None or answer.support == "whole":
            made = _whole(logits_NC, signals, members, inside, temperature, mixture)
        elif mixture != "arithmetic":
            raise ValueError(
                f"teacher {signals.teachers[members[0]]}: a {mixture} mixture needs all logits of one vocabulary"
            )
        else:
            made = _reduced(logits_NC, signals, members[0], inside, temperature)
        student_NK, target, support = made
        parts.append(Part(student_NK, target, support, None if whole else share_N))
    return parts


def over_parts(
    divergence: DivergenceBase, parts: Sequence[Part], temperature: float, labels_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The divergence summed over the parts with their shares, ``[N]``, and which units any part covers, ``[N]``.

    Args:
        labels_N: of the units; no part at all (nobody was asked for the batch) covers none of them.

    Raises:
        ValueError: the divergence does not serve a part's support.
    """
    total_N = torch.zeros_like(labels_N, dtype=torch.float32)
    covered_N = torch.zeros_like(labels_N, dtype=torch.bool)
    for at, part in enumerate(parts):
        if not divergence.serves(part.support):
            raise ValueError(f"{divergence.kind} cannot be computed over the support {part.support!r}")
        loss_N = divergence.per_unit(part.student_NK, part.target, temperature)
        if part.share_N is not None:
            loss_N = torch.where(part.target.covered_N, part.share_N * loss_N, 0.0)
        total_N = total_N + loss_N if at else loss_N
        covered_N = covered_N | part.target.covered_N
    return total_N, covered_N


def _group(signals: Signals, m: int) -> object:
    """Equal for teachers that can be mixed."""
    answer, columns = signals.answer(m), signals.columns(m)
    if answer is not None:
        return None if answer.support == "whole" else ("alone", m)
    return None if columns is None else tuple(sorted(columns))


Made = tuple[torch.Tensor, Target, Support]


def _whole(
    logits_NC: torch.Tensor,
    signals: Signals,
    members: list[int],
    weights_MN: torch.Tensor,
    temperature: float,
    mixture: Mixture,
) -> Made:
    columns = signals.columns(members[0])
    index = None if columns is None else torch.tensor(sorted(columns), device=logits_NC.device)
    if len(members) == 1 and (answer := signals.answer(members[0])) is not None:
        student_NK, target = align(logits_NC, _single(answer, weights_MN, temperature))
        return student_NK, target, "whole"
    rows = []
    for m in members:
        answer = signals.answer(m)
        known_NC = signals.logits_MNC[m] if answer is None else answer.logits()
        assert known_NC is not None
        rows.append(known_NC if index is None else known_NC[:, index])
    target = combine_logits(torch.stack(rows), weights_MN, temperature, mixture)
    student_NK, target = align(logits_NC if index is None else logits_NC[:, index], target)
    return student_NK, target, "whole"


def _reduced(
    logits_NC: torch.Tensor, signals: Signals, m: int, weights_1N: torch.Tensor, temperature: float
) -> Made:
    answer = signals.answer(m)
    if isinstance(answer, SparseAnswer):
        _same_vocabulary(answer.vocab, logits_NC.shape[1], signals.teachers[m])
        p_NK, logp_NK = answer.target(temperature)
        student_NK = on_support(logits_NC, answer.ids_NK, temperature)
        return student_NK, _target(p_NK, logp_NK, weights_1N, temperature), answer.support
    if not isinstance(answer, WholeAnswer):
        raise TypeError(f"teacher {signals.teachers[m]} answered with {type(answer).__name__}")
    if answer.ids is None:
        return logits_NC, _single(answer, weights_1N, temperature), answer.support
    ids = answer.ids
    _same_vocabulary(ids.student_vocab, logits_NC.shape[1], signals.teachers[m])
    student_NK = on_columns(logits_NC, ids.student_K, ids.student_rest, temperature)
    with torch.no_grad():
        reduced_NK = on_columns(answer.logits(), ids.teacher_K, ids.teacher_rest, temperature)
        logp_NK = (reduced_NK / temperature).log_softmax(dim=-1).clamp_min(LOG_FLOOR)
        target = _target(logp_NK.exp(), logp_NK, weights_1N, temperature)
    return student_NK, target, answer.support


def _single(answer: Answer, weights_1N: torch.Tensor, temperature: float) -> Target:
    """What `combine_logits` gives for one teacher, with a third of the memory: over a vocabulary it is the peak."""
    logits_NV = answer.logits()
    assert logits_NV is not None
    with torch.no_grad():
        centred_NV = logits_NV - logits_NV.mean(dim=-1, keepdim=True)
        del logits_NV
        logp_NV = soften(centred_NV, temperature).clamp_min_(LOG_FLOOR)
        return replace(_target(logp_NV.exp(), logp_NV, weights_1N, temperature), logits_NK=centred_NV)


def _target(
    p_NK: torch.Tensor, logp_NK: torch.Tensor, weights_1N: torch.Tensor, temperature: float
) -> Target:
    """A target over some tokens and a tail; what has no logits has its log-probabilities in their place."""
    return Target(
        p_NK=p_NK,
        logp_NK=logp_NK,
        logits_NK=logp_NK,
        weights_MN=weights_1N,
        covered_N=(weights_1N > 0.0).any(dim=0),
        temperature=temperature,
    )


def _same_vocabulary(wanted: int, got: int, teacher: str) -> None:
    if wanted != got:
        raise ValueError(f"teacher {teacher} answered over {wanted} tokens, the student has {got}")
