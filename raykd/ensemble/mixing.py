"""Combine teachers, all or some of them, as the student is taught: the run's weighting and mixture at temperature 1.

Decision record: gold labels are hidden (`Signals.labels_N` is `UNLABELLED`), because an ensemble must not know more
than its teachers. A weighting that reads gold labels, or the student, spreads evenly here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.distill.signals import MASKED, Signals, Target
from raykd.distill.targets import Mixture, combine_logits
from raykd.distill.weighting import Weighting
from raykd.tasks.scores.classification import is_known


@dataclass(frozen=True)
class Combined:
    """What a coalition of teachers answers.

    Attributes:
        logp_NC: Log-probabilities; uniform where nobody covers the unit.
        covered_N: Whether a teacher of the coalition covers the unit.
    """

    logp_NC: NDArray[np.float32]
    covered_N: NDArray[np.bool_]

    def find_known(self, gold_N: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return which of these labels, one a unit, some teacher of the coalition knows."""
        return is_known(self.logp_NC[np.arange(len(gold_N)), gold_N])


def complete_logits(signals: Signals, weights_MN: torch.Tensor, mixture: Mixture) -> torch.Tensor:
    """Fill in the labels that teachers of a subset do not know, from the teachers that know all labels.

    A filled label gets the probability that those teachers give it. The teacher's own labels share what is left.
    Without such a teacher the unknown labels get no probability.

    Args:
        signals: Of M teachers and N units; C labels.
        weights_MN: Teacher weights per unit.
        mixture: How teachers are combined.

    Returns:
        Logits [M, N, C] that rule no label out for lack of knowledge.
    """
    logits_MNC = signals.logits_MNC.float().clone()
    whole = [m for m in range(len(logits_MNC)) if signals.columns(m) is None]
    # Where these teachers have no weight (or do not cover the unit), nobody can fill the labels.
    sum_N = weights_MN[whole].sum(dim=0)
    helped_N1 = (sum_N > 0.0).unsqueeze(1)
    known = (
        combine_logits(logits_MNC[whole], weights_MN[whole] / sum_N.clamp_min(1e-9), 1.0, mixture)
        if whole
        else None
    )
    for m, logits_NC in enumerate(logits_MNC):
        columns = signals.columns(m)
        if columns is None:
            continue
        own_NK = logits_NC[:, list(columns)].log_softmax(dim=1)
        filled_NC = torch.full_like(logits_NC, MASKED)
        if known is not None:
            filled_NC = torch.where(helped_N1, known.logp_NK, filled_NC)
            mass_N1 = known.logp_NK[:, list(columns)].logsumexp(dim=1, keepdim=True)
            own_NK = torch.where(helped_N1, own_NK + mass_N1, own_NK)
        filled_NC[:, list(columns)] = own_NK
        logits_MNC[m] = filled_NC
    return logits_MNC


def mix_weighted(signals: Signals, weights_MN: torch.Tensor, mixture: Mixture) -> Target:
    """Return the teachers combined by these weights, at temperature 1."""
    logits_MNC = complete_logits(signals, weights_MN, mixture) if signals.columns_M else signals.logits_MNC
    return combine_logits(logits_MNC, weights_MN, 1.0, mixture)


def mix_coalition(
    signals: Signals, weighting: Weighting, mixture: Mixture, members_M: NDArray[np.bool_]
) -> Combined:
    """Combine some of the teachers, as if the run had no others.

    Args:
        signals: Of all teachers, without gold labels.
        weighting: The run's.
        mixture: The run's.
        members_M: Who takes part.
    """
    covered_MN = signals.covered_MN & torch.from_numpy(np.asarray(members_M)).unsqueeze(1)
    some = replace(signals, covered_MN=covered_MN, eligible_MN=None)
    return to_combined(mix_weighted(some, weighting.weights(some), mixture))


def mix_with_another(signals: Signals, weighting: Weighting, mixture: Mixture, another: int) -> Combined:
    """Combine the teachers with one more, which the weighting leaves out, at an equal share of each unit.

    Args:
        signals: Of all teachers, without gold labels.
        weighting: The run's.
        mixture: The run's.
        another: The teacher to add where it covers a unit and has no weight.
    """
    weights_MN = weighting.weights(signals)
    joins_N = signals.covered_MN[another] & (weights_MN[another] == 0.0)
    share_N = torch.where(joins_N, 1.0 / ((weights_MN > 0.0).sum(dim=0) + 1.0), 0.0)
    weights_MN = weights_MN * (1.0 - share_N)
    weights_MN[another] += share_N
    return to_combined(mix_weighted(signals, weights_MN, mixture))


def to_combined(target: Target) -> Combined:
    """Return a target as numpy."""
    return Combined(target.logp_NK.numpy(), target.covered_N.numpy())
