"""AE-KD: weights in the space of gradients.

Decision record: the point of least norm is found for each set of covering teachers of a micro-batch by itself, since a
teacher that covers no unit has a gradient of 0 and would be that point. The gradient is that of the forward KL to each
teacher, whatever the objective's divergence, because it needs no backward pass. Pairs of weights are moved one after
the other (sequential minimal optimisation), which is exact for two teachers and needs no solver for the few there are.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from raykd.devices import copy_to_device
from raykd.distill.signals import Signals
from raykd.distill.weightings.base import WeightingBase, spread_evenly

_MOST_MOVES = 1000
_SETTLED = 1e-10
"""Gain of a move, over the largest squared norm, below which the weights are final."""


class GradientAgreement(WeightingBase):
    """``min_w || sum_m w_m g_m ||^2`` with ``sum_m w_m = 1``, ``0 <= w_m <= most`` (AE-KD, Du et al., NeurIPS 2020).

    ``g_m = T (q - p_m)`` is the gradient of the forward KL by the student's logits, over the units of a micro-batch
    that the same teachers cover. Against their smallest weighted sum no teacher's loss rises, as far as `most` allows:
    the tolerance of the paper's C. With `most` 1 its norm is at most that of every single teacher's gradient. The
    weights are those of a micro-batch, so they depend on its size.
    """

    needs_probabilities: ClassVar[bool] = True
    reads_student: ClassVar[bool] = True
    kind: Literal["gradient_agreement"] = "gradient_agreement"
    most: float = Field(default=0.6, gt=0.0, le=1.0)
    """Largest weight of a teacher (C in the paper); at least 1 / M is allowed, which is uniform."""

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return spread_evenly(eligible_MN)

    def _spread_for_student(
        self, signals: Signals, eligible_MN: torch.Tensor, student_NC: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        q_NC = torch.softmax(student_NC / temperature, dim=-1)
        gradient_MNC = q_NC - torch.softmax(signals.known_logits() / temperature, dim=-1)
        weights_MN = spread_evenly(eligible_MN)
        host_MN = signals.on_host.eligible_MN
        host_MN = eligible_MN.cpu() if host_MN is None else host_MN
        for pattern_M, units_N in _group_units(host_MN.numpy()):
            members = copy_to_device(torch.from_numpy(np.flatnonzero(pattern_M)), eligible_MN.device)
            units = copy_to_device(torch.from_numpy(units_N), eligible_MN.device)
            flat_KD = gradient_MNC[members][:, units].flatten(start_dim=1)
            found_K = find_least_norm((flat_KD @ flat_KD.T).double().cpu().numpy(), self.most)
            columns_K1 = torch.from_numpy(found_K).float().unsqueeze(1)
            weights_MN[members.unsqueeze(1), units] = copy_to_device(columns_K1, eligible_MN.device)
        return weights_MN


def find_least_norm(products_KK: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """Return the weights ``[K]`` of the point of least norm: sum 1, each from 0 to `most` (or 1 / K, if that is more).

    Args:
        products_KK: Inner products of the K vectors.
        most: Largest weight.
    """
    count = len(products_KK)
    weights_K: NDArray[np.float64] = np.full(count, 1.0 / count)
    most = max(most, 1.0 / count)
    scale = max(float(np.diag(products_KK).max()), np.finfo(np.float64).tiny)
    for _ in range(_MOST_MOVES):
        slope_K = products_KK @ weights_K
        down = int(np.argmin(np.where(weights_K < most, slope_K, np.inf)))
        up = int(np.argmax(np.where(weights_K > 0.0, slope_K, -np.inf)))
        gain = slope_K[up] - slope_K[down]
        if gain <= _SETTLED * scale:
            break
        curve = products_KK[down, down] + products_KK[up, up] - 2.0 * products_KK[down, up]
        room = min(most - weights_K[down], weights_K[up])
        step = min(gain / curve, room) if curve > 0.0 else room
        weights_K[down] += step
        # Exactly 0 where all of it went, so that the pair is not chosen again.
        weights_K[up] = 0.0 if step == weights_K[up] else weights_K[up] - step
    weights_K /= weights_K.sum()
    return weights_K


def _group_units(eligible_MN: NDArray[np.bool_]) -> list[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Return the sets of two and more teachers that share units, each with these units."""
    patterns_PM, of_N = np.unique(eligible_MN.T, axis=0, return_inverse=True)
    return [
        (pattern_M, np.flatnonzero(of_N.ravel() == at))
        for at, pattern_M in enumerate(patterns_PM)
        if pattern_M.sum() > 1
    ]
