"""Soften the teachers' answers and mix them into one `Target`.

Decision record: each teacher is softened, then all are mixed, in log space. The two mixtures are the two barycentres:

- arithmetic, ``p = sum_k w_k p^k``: ``sum_k w_k KL(p^k || q) = KL(p || q) + const``, so one forward KL
  against it has exactly the gradient of the weighted sum over teachers;
- geometric, ``p ~ prod_k (p^k)^{w_k}``, the softmax of the weighted mean logits:
  ``sum_k w_k KL(q || p^k) = KL(q || p) + const``, the same for the reverse KL.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from raykd.distill.signals import Signals, Target

Mixture = Literal["arithmetic", "geometric"]

LOG_FLOOR = -1e4
"""Smallest log-probability of a target: below any probability that float32 can hold (-104), and finite."""


def soften(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute ``log softmax(logits / T)`` over the last dimension, in float32.

    Raises:
        ValueError: T is not positive.
    """
    if not temperature > 0.0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    return F.log_softmax(logits.float() / temperature, dim=-1)


def combine_signals(
    signals: Signals, weights_MN: torch.Tensor, temperature: float, mixture: Mixture
) -> Target:
    """Mix the teachers' answers at one temperature by weights; carries no gradient.

    Args:
        signals: Logits ``[M, N, C]``.
        weights_MN: >= 0, each column sums to 1 (or is all 0: then p is uniform and the unit is not covered).
        temperature: T > 0.
        mixture: How probabilities are averaged, see the module's docstring.

    Raises:
        ValueError: The weights' shape is not ``[M, N]``, or T is not positive.
    """
    return combine_logits(signals.logits_MNC, weights_MN, temperature, mixture)


def combine_logits(
    logits_MNC: torch.Tensor, weights_MN: torch.Tensor, temperature: float, mixture: Mixture
) -> Target:
    """Mix logits of some of the teachers, or over some of the columns; see `combine_signals`."""
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
        logp_NK = _mix(soften(logits_MNC, temperature), weights_MN1, mixture)
        uniform_NK = torch.zeros_like(logp_NK).log_softmax(dim=-1)
        logp_NK = torch.where(covered_N.unsqueeze(-1), logp_NK, uniform_NK).clamp_min(LOG_FLOOR)
        centred_MNC = logits_MNC - logits_MNC.mean(dim=-1, keepdim=True)
        return Target(
            p_NK=logp_NK.exp(),
            logp_NK=logp_NK,
            logits_NK=(weights_MN1 * centred_MNC).sum(dim=0),
            weights_MN=weights_MN,
            covered_N=covered_N,
            temperature=temperature,
        )


def _mix(logp_MNC: torch.Tensor, weights_MN1: torch.Tensor, mixture: Mixture) -> torch.Tensor:
    if mixture == "arithmetic":
        return torch.logsumexp(weights_MN1.log() + logp_MNC, dim=0)
    return F.log_softmax((weights_MN1 * logp_MNC).sum(dim=0), dim=-1)


def check_alignment(student_logits_NC: torch.Tensor, target: Target) -> tuple[torch.Tensor, Target]:
    """Check that student and target have the same units and columns, and return both.

    Raises:
        ValueError: Shapes differ; a size of 1 is refused too, since it would broadcast.
    """
    if student_logits_NC.shape != target.p_NK.shape:
        raise ValueError(
            f"student logits are {tuple(student_logits_NC.shape)} and the teachers' target is "
            f"{tuple(target.p_NK.shape)}; wanted the same units and the same labels on both sides"
        )
    return student_logits_NC, target
