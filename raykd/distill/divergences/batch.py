"""Divergences that compare units with one another within a micro-batch: DIST and relational distances.

Decision record: what they compute depends on how a step was split into micro-batches and ranks, which no other loss of
raykd does. So they say `across_units`, and answers that are compared a few units at a time are refused. What concerns
all units is divided equally among those that teachers cover, so that the sum over units is what the paper's formula
gives times their number, and one global division serves as for every term.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from raykd.distill.divergences.base import DivergenceBase, compute_log_q
from raykd.distill.signals import Target

_TINY = 1e-8
"""Below a norm or a mean distance; two equal vectors have no direction."""


class Dist(DivergenceBase):
    """``T^2 (inter_weight (1 - rho over classes) + intra_weight (1 - mean over classes of rho over units))``.

    rho is Pearson's correlation of probabilities: of a unit over its classes, and of a class over the units of the
    micro-batch (DIST, Huang et al., arXiv 2205.10536). It asks for the order and spacing of probabilities and not for
    their values, which a student much smaller than its teachers cannot reach.
    """

    temperature_power: ClassVar[int] = 2
    needs_dense: ClassVar[bool] = True
    across_units: ClassVar[bool] = True
    equal_choices: ClassVar[bool] = True
    least_choices: ClassVar[int] = 3
    kind: Literal["dist"] = "dist"
    inter_weight: float = Field(default=1.0, ge=0.0)
    """Weight of the correlation over classes; beta in the paper."""
    intra_weight: float = Field(default=1.0, ge=0.0)
    """Weight of the correlation over units; gamma in the paper."""

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        q_NK, p_NK = compute_log_q(student_logits_NK, temperature).exp(), target.p_NK
        inter_N = 1.0 - _correlate(q_NK, p_NK, torch.ones_like(p_NK[0]))
        known_N = target.covered_N.float()
        of_classes_K = _correlate(q_NK.T, p_NK.T, known_N)
        # One unit has no correlation with itself. A tensor, because asking would wait for the device.
        intra = (1.0 - of_classes_K.mean()) * (known_N.sum() > 1.0)
        return self.inter_weight * inter_N + self.intra_weight * intra


class RelationalDistance(DivergenceBase):
    """``mean over units j of huber(d_s(i, j) / mean d_s - d_z(i, j) / mean d_z)`` for each unit i; T plays no part.

    d is the Euclidean distance of the logits of two units of the micro-batch (RKD-D, Park et al., arXiv 1904.05068, on
    mean-centred logits). The student learns which texts are alike; of which class they are it must learn from another
    term, or from the gold labels.
    """

    temperature_power: ClassVar[int] = 0
    needs_dense: ClassVar[bool] = True
    across_units: ClassVar[bool] = True
    equal_choices: ClassVar[bool] = True
    kind: Literal["relational_distance"] = "relational_distance"

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        known = target.covered_N
        pairs_NN = (known[:, None] & known[None, :]).fill_diagonal_(False)
        own_NN = _measure_distances(
            student_logits_NK - student_logits_NK.mean(dim=-1, keepdim=True), pairs_NN
        )
        taught_NN = _measure_distances(target.logits_NK.float(), pairs_NN)
        gap_NN = torch.nn.functional.smooth_l1_loss(own_NN, taught_NN, reduction="none")
        return gap_NN.sum(dim=-1) / pairs_NN.sum(dim=-1).clamp_min(1)


def _correlate(a_XY: torch.Tensor, b_XY: torch.Tensor, counted_Y: torch.Tensor) -> torch.Tensor:
    """Return Pearson's correlation of each row of a with that of b, ``[X]``; 0 where a row is constant.

    Args:
        a_XY: Numbers.
        b_XY: Numbers.
        counted_Y: 1 for the columns that count, else 0.
    """
    total = counted_Y.sum().clamp_min(1.0)
    a_XY, b_XY = (
        (x_XY - (x_XY * counted_Y).sum(dim=-1, keepdim=True) / total) * counted_Y for x_XY in (a_XY, b_XY)
    )
    return torch.nn.functional.cosine_similarity(a_XY, b_XY, dim=-1, eps=_TINY)


def _measure_distances(vectors_ND: torch.Tensor, pairs_NN: torch.Tensor) -> torch.Tensor:
    """Return ``[N, N]``: Euclidean distances over their mean, of these pairs of units; 0 for all others."""
    squares_N = vectors_ND.square().sum(dim=-1)
    squared_NN = squares_N[:, None] + squares_N[None, :] - 2.0 * vectors_ND @ vectors_ND.T
    # The root's gradient is infinite at 0, so equal vectors get none.
    apart_NN = (squared_NN > _TINY) & pairs_NN
    distance_NN = torch.where(apart_NN, squared_NN, 1.0).sqrt() * apart_NN
    return distance_NN / (distance_NN.sum() / pairs_NN.sum().clamp_min(1)).clamp_min(_TINY)
