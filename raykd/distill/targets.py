"""Soften the teachers' answers and mix them into one `Target`.

Decision record: each teacher is softened, then all are mixed, in log space. A mixture is the distribution that is
nearest to all teachers, by their weights, under one of the two KL divergences:

- arithmetic, ``p = sum_m w_m p_m``, minimises ``sum_m w_m KL(p_m || p)``. Since ``sum_m w_m KL(p_m || q) = KL(p || q) +
  const``, one forward KL against it has exactly the gradient of the weighted sum over teachers.
- geometric, ``p ~ prod_m p_m^{w_m}``, the softmax of the weighted mean logits, minimises ``sum_m w_m KL(p || p_m)``.
  Since ``sum_m w_m KL(q || p_m) = KL(q || p) + const``, the same holds for the reverse KL.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch

from raykd.distill.signals import MASKED, UNLABELLED, Signals, Target

Mixture = Literal["arithmetic", "geometric"]

LOG_FLOOR = -1e4
"""Smallest log-probability of a target. Finite, and far below -103.3, the log of the smallest number above 0 that
float32 holds, so that its probability is exactly 0."""


def soften(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute ``log softmax(logits / T)`` over the last dimension, in float32.

    Raises:
        ValueError: T is not positive.
    """
    if not temperature > 0.0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    return torch.log_softmax(logits.float() / temperature, dim=-1)


def combine_logits(
    logits_MNC: torch.Tensor, weights_MN: torch.Tensor, temperature: float, mixture: Mixture
) -> Target:
    """Mix the logits of M teachers at one temperature by weights; carries no gradient.

    Args:
        logits_MNC: Raw logits of all teachers or of some, over all columns or over some.
        weights_MN: >= 0, each column sums to 1 (or is all 0: then p is uniform and the unit is not covered).
        temperature: T > 0.
        mixture: How probabilities are averaged, see the module's docstring.

    Raises:
        ValueError: The weights' shape is not ``[M, N]``, or T is not positive.
    """
    if weights_MN.shape != logits_MNC.shape[:2]:
        raise ValueError(
            f"weights are {tuple(weights_MN.shape)}, logits {tuple(logits_MNC.shape)}, not [M, N], [M, N, C]"
        )
    with torch.no_grad():
        used_MN1 = (weights_MN > 0.0).unsqueeze(-1)
        # A teacher without weight must not reach the sums at all: 0 * inf is NaN.
        logits_MNC = torch.where(used_MN1, logits_MNC.float(), 0.0)
        weights_MN1 = weights_MN.float().unsqueeze(-1)
        covered_N = used_MN1.any(dim=0).squeeze(-1)
        logp_NK = _mix_teachers(soften(logits_MNC, temperature), weights_MN1, mixture)
        uniform = -math.log(logp_NK.shape[-1])
        logp_NK = torch.where(covered_N.unsqueeze(-1), logp_NK, uniform).clamp_min(LOG_FLOOR)
        return Target(
            p_NK=logp_NK.exp(),
            logp_NK=logp_NK,
            make_logits=lambda: (weights_MN1 * centre_logits(logits_MNC)).sum(dim=0),
            weights_MN=weights_MN,
            covered_N=covered_N,
            temperature=temperature,
        )


def correct_contradictions(signals: Signals, how: Literal["swap", "drop"]) -> Signals:
    """Return the answers with those corrected or left out that contradict the gold label.

    A teacher that does not know the gold label contradicts nothing.

    Args:
        signals: Answers over labels.
        how: With swap, logits of gold and likeliest label are exchanged; with drop the teacher does not cover the unit.
    """
    read = signals.on_host if how == "drop" else signals
    known_MNC, labels_N = read.known_logits(), read.labels_N
    gold_MN1 = labels_N.clamp_min(0).expand(len(known_MNC), -1).unsqueeze(-1)
    chosen_MN1 = known_MNC.argmax(dim=-1, keepdim=True)
    at_gold_MN1, at_chosen_MN1 = known_MNC.gather(-1, gold_MN1), known_MNC.gather(-1, chosen_MN1)
    wrong_MN1 = (chosen_MN1 != gold_MN1) & (labels_N != UNLABELLED)[:, None] & (at_gold_MN1 > MASKED / 2)
    if how == "drop":
        return signals.hide(wrong_MN1.squeeze(-1))
    swapped_MNC = known_MNC.scatter(-1, gold_MN1, at_chosen_MN1).scatter(-1, chosen_MN1, at_gold_MN1)
    return replace(signals, logits_MNC=torch.where(wrong_MN1, swapped_MNC, signals.logits_MNC))


def centre_logits(logits: torch.Tensor) -> torch.Tensor:
    """Subtract the mean over classes: a constant in all logits then reaches a loss on logits as little as a softmax.

    The mean is over the choices that a unit has (the others are `MASKED`). One number alone is a value, which is left
    as it is.
    """
    if logits.shape[-1] == 1:
        return logits
    is_open = logits > MASKED / 2
    total = torch.where(is_open, logits, 0.0).sum(dim=-1, keepdim=True)
    return logits - total / is_open.sum(dim=-1, keepdim=True).clamp_min(1)


def _mix_teachers(logp_MNC: torch.Tensor, weights_MN1: torch.Tensor, mixture: Mixture) -> torch.Tensor:
    if mixture == "arithmetic":
        # log 0 = -inf is meant: a teacher without weight adds exp(-inf) = 0 to the sum.
        return torch.logsumexp(weights_MN1.log() + logp_MNC, dim=0)
    return torch.log_softmax((weights_MN1 * logp_MNC).sum(dim=0), dim=-1)


def check_alignment(student_logits_NC: torch.Tensor, target: Target) -> None:
    """Check that student and target have the same units and columns.

    Raises:
        ValueError: Shapes differ; a size of 1 is refused too, since it would broadcast.
    """
    if student_logits_NC.shape != target.p_NK.shape:
        raise ValueError(
            f"student logits are {tuple(student_logits_NC.shape)} and the teachers' target is "
            f"{tuple(target.p_NK.shape)}; wanted the same units and the same labels on both sides"
        )
