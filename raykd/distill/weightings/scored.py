"""What a weighting that learns reads of a teacher's answer to a unit, and the score that is linear in it.

Decision record: a weighting that learns has a handful of coefficients, because there are hundreds of rows to learn from
and not millions. They begin at 0, so a feature that says nothing changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from raykd.distill.signals import Signals
from raykd.distill.weightings.base import LearnedWeighting, find_judged, lay_out_table


class ScoredWeighting(LearnedWeighting):
    """Base of weightings by ``b_m + b_{m, language} + sum_j theta_j f_j(m)``.

    Its states are the coefficients: ``teacher//<name>``, ``language/<language>/<name>`` and ``<feature>``.
    """

    features: tuple[str, ...]

    def list_coefficients(self) -> dict[str, float]:
        """Return those of the features that are numbers."""
        return {name: self.states[name][0] for name in self.features if name in self.states}

    def _list_kinds(self, signals: Signals) -> dict[str, tuple[str, ...]]:
        """Return the value of each unit by what it is told apart by; a teacher's own number has one value."""
        nothing = ("",) * len(signals.languages)
        kinds = {"teacher": nothing, "language": signals.languages, "group": signals.groups or nothing}
        return {kind: own for kind, own in kinds.items() if kind == "teacher" or kind in self.features}

    def _measure(self, signals: Signals) -> dict[str, torch.Tensor]:
        """Return each feature that is a number, ``[M, N]``."""
        known_MNC, covered_MN = signals.known_logits(), signals.covered_MN
        p_MN, told_MN = known_MNC.softmax(dim=-1).max(dim=-1)
        largest = torch.log(torch.tensor(float(known_MNC.shape[-1]))).clamp_min(1e-6)
        same_MMN = (told_MN[:, None] == told_MN[None]) & covered_MN[None] & covered_MN[:, None]
        others_MN = (covered_MN.sum(dim=0) - 1).clamp_min(1)
        numbers = {
            "entropy": signals.entropy() / largest,
            "confidence": p_MN,
            "agreement": (same_MMN.sum(dim=1) - 1).clamp_min(0) / others_MN,
        }
        if "gold" in self.features:
            numbers["gold"] = _compare_gold(signals)
        return {name: number.double() for name, number in numbers.items() if name in self.features}

    def _score(
        self, signals: Signals, numbers: Mapping[str, torch.Tensor] | None = None, at: int = 0
    ) -> torch.Tensor:
        """Return the score of each answer, float64 ``[M, N]``.

        Args:
            signals: The answers.
            numbers: Their features, of `_measure`; None measures them.
            at: Where in its state a coefficient stands.
        """

        def look_up(kind: str, value: str) -> list[float]:
            found = [self.states.get(f"{kind}/{value}/{name}") for name in signals.teachers]
            return [0.0 if state is None else state[at] for state in found]

        score_MN = torch.zeros_like(signals.covered_MN, dtype=torch.float64)
        for kind, values in self._list_kinds(signals).items():
            score_MN = score_MN + lay_out_table(values, partial(look_up, kind), signals)
        for name, number_MN in (self._measure(signals) if numbers is None else numbers).items():
            score_MN = score_MN + self.states[name][at] * number_MN
        return score_MN


def _compare_gold(signals: Signals) -> torch.Tensor:
    """Return by how much a teacher's probability of the gold label is above the mean of the unit's teachers."""
    judged_MN = find_judged(signals)
    p_MN = torch.where(judged_MN, torch.exp(-signals.gold_ce()), 0.0)
    mean_1N = p_MN.sum(dim=0, keepdim=True) / judged_MN.sum(dim=0, keepdim=True).clamp_min(1)
    return torch.where(judged_MN, p_MN - mean_1N, 0.0)
