"""Weightings by how sure teachers are, or how right on the gold label.

Decision record: a unit without a gold label is shared equally by its covering teachers where a weighting reads gold,
because nothing tells them apart.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from raykd.distill.signals import UNLABELLED, Signals
from raykd.distill.weightings.base import WeightingBase, normalise, softmax_over_teachers, spread_evenly


class Entropy(WeightingBase):
    """``w_m ~ exp(-H(p_m) / tau)`` at T = 1: sure teachers count more. Needs no label.

    Beware that a teacher outside its domain is often sure and wrong.
    """

    needs_probabilities: ClassVar[bool] = True
    kind: Literal["entropy"] = "entropy"
    tau: float = Field(default=1.0, gt=0.0)
    """Sharpness: small trusts the surest teacher alone, large is uniform."""

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return softmax_over_teachers(-signals.entropy() / self.tau, eligible_MN)


class Confidence(WeightingBase):
    """CA-MKD: ``w_m = (1 - softmax_m(CE_m)) / (M - 1)`` over the M covering teachers (arXiv 2201.00007).

    ``CE_m = -log p_m(y)`` at T = 1. One covering teacher has weight 1. A unit without a gold label has no
    ``CE_m``; its covering teachers share it equally.
    """

    needs_probabilities: ClassVar[bool] = True
    reads_gold: ClassVar[bool] = True
    kind: Literal["confidence"] = "confidence"

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        badness_MN = softmax_over_teachers(signals.gold_ce(), eligible_MN)
        count_1N = eligible_MN.sum(dim=0, keepdim=True)
        weight_MN = torch.where(eligible_MN, (1.0 - badness_MN) / (count_1N - 1).clamp_min(1), 0.0)
        informed_1N = (signals.labels_N != UNLABELLED) & (count_1N > 1)
        return torch.where(informed_1N, weight_MN, spread_evenly(eligible_MN))


class LossSoftmax(WeightingBase):
    """``w_m ~ exp(-CE_m / tau)``, ``CE_m = -log p_m(y)`` at T = 1; sharper than `Confidence`.

    A unit without a gold label is shared equally by its covering teachers.
    """

    needs_probabilities: ClassVar[bool] = True
    reads_gold: ClassVar[bool] = True
    kind: Literal["loss_softmax"] = "loss_softmax"
    tau: float = Field(default=1.0, gt=0.0)
    """Sharpness: small trusts the best teacher alone, large is uniform."""

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        weight_MN = softmax_over_teachers(-signals.gold_ce() / self.tau, eligible_MN)
        return torch.where(signals.labels_N != UNLABELLED, weight_MN, spread_evenly(eligible_MN))


class InverseLoss(WeightingBase):
    """MT-BERT: ``w_m ~ 1 / (1 + CE_m)``, ``CE_m = -log p_m(y)`` at T = 1 (arXiv 2106.01023), scaled to sum to 1.

    The paper does not scale the weights, so that all teachers together weigh less where all are wrong; that would
    compare strengths of distillation. It is the mildest of the weightings by gold label: a teacher that is wrong keeps
    some weight. A unit without a gold label is shared equally.
    """

    needs_probabilities: ClassVar[bool] = True
    reads_gold: ClassVar[bool] = True
    kind: Literal["inverse_loss"] = "inverse_loss"

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        weight_MN = normalise(1.0 / (1.0 + signals.gold_ce()), eligible_MN)
        return torch.where(signals.labels_N != UNLABELLED, weight_MN, spread_evenly(eligible_MN))
