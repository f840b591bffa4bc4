"""Measure how much teachers disagree about a unit, without any gold label.

Decision record: the generalised Jensen-Shannon divergence, which is the mutual information of the label and the teacher
that gives it (query by committee in the form of BALD, arXiv:1112.5745). It is 0 where all are unsure alike, as the
entropy of the mixture is not: a label of a person settles a dispute, and tells little about noise.
"""

from __future__ import annotations

import torch

from raykd.distill.signals import Signals
from raykd.ensemble.mixing import complete_logits


def measure_disagreement(signals: Signals) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``H(mean_m p_m) - mean_m H(p_m)`` of the teachers that cover each unit, in nats, and how many these are.

    Args:
        signals: Of all teachers, each asked about every unit in its languages.

    Returns:
        ``[N]`` float32, between 0 and the logarithm of the number of teachers, and ``[N]``.
    """
    covered_MN = signals.covered_MN
    weights_MN = covered_MN / covered_MN.sum(dim=0).clamp(min=1)
    logits_MNC = (
        complete_logits(signals, weights_MN, "arithmetic") if signals.columns_M else signals.logits_MNC
    )
    p_MNC = logits_MNC.float().softmax(dim=-1)
    p_MNC = torch.where(covered_MN[..., None], p_MNC, 0.0)
    mean_NC = (weights_MN[..., None] * p_MNC).sum(dim=0)
    entropy_N = _compute_entropy(mean_NC) - (weights_MN * _compute_entropy(p_MNC)).sum(dim=0)
    return entropy_N.clamp(min=0.0), covered_MN.sum(dim=0)


def _compute_entropy(p: torch.Tensor) -> torch.Tensor:
    terms: torch.Tensor = torch.special.entr(p)
    return terms.sum(dim=-1)
