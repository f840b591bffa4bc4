"""A temperature for each unit.

Decision record: ``D(z / T_n, s / T_n)`` is what a divergence computes at temperature 1 of logits that are divided by
T_n, so no divergence has to know of it; ``T_n ** k`` is multiplied afterwards, which keeps a unit's gradient of one
size whatever its temperature. What reads logits beside their ratio to T is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator

from raykd.distill.divergences.base import DivergenceBase
from raykd.distill.parts import TargetPart, make_parts
from raykd.distill.schedules import ScheduleBase
from raykd.distill.signals import MASKED, Signals
from raykd.distill.targets import Mixture

_HALVINGS = 25
"""Of the logarithm of the temperature: 3e-8 of its range is left."""


class TargetEntropy(ScheduleBase):
    """T_n at which the unit's teachers are as unsure as all others: ``sum_m w_m H(softmax(z_m / T_n)) = share log C``.

    Sure answers are softened much and unsure ones little, where one temperature does the same to both. It is instance
    by instance, as in CTKD (arXiv:2211.16231) and DTD (Wen et al., arXiv:1911.07471), and follows from the teachers'
    answers alone, so nothing is learned. C are the labels that a teacher knows.
    """

    kind: Literal["target_entropy"] = "target_entropy"
    share: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Entropy of the softened answers, as a share of the largest, that of no knowledge."""
    low: float = Field(default=1.0, gt=0.0)
    """Smallest T, for teachers that are less sure than this already."""
    high: float = Field(default=10.0, gt=0.0)
    """Largest T."""

    @model_validator(mode="after")
    def _low_below_high(self) -> TargetEntropy:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not lie above high ({self.high})")
        return self

    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    def _at(self, u: float) -> float:
        """Return the temperature of logits that are divided by their unit's."""
        return 1.0

    def find(self, signals: Signals, weights_MN: torch.Tensor) -> torch.Tensor:
        """Return T of each unit, float32 ``[N]``; means nothing where no teacher has weight.

        Args:
            signals: The teachers' answers.
            weights_MN: From the weighting.
        """
        with torch.no_grad():
            logits_MNC, weights_MN = signals.known_logits(), weights_MN.float()
            choices_MN = (logits_MNC > MASKED / 2).sum(dim=-1).clamp_min(1)
            wanted_N = self.share * (weights_MN * choices_MN.log()).sum(dim=0)
            low_N, high_N = (torch.full_like(wanted_N, value).log() for value in self.bounds())
            for _ in range(_HALVINGS):
                middle_N = (low_N + high_N) / 2.0
                softened_MNC = _divide(logits_MNC, middle_N.exp())
                entropy_MN = torch.special.entr(softened_MNC.softmax(dim=-1)).sum(dim=-1)
                is_sharp_N = (weights_MN * entropy_MN).sum(dim=0) < wanted_N
                low_N = torch.where(is_sharp_N, middle_N, low_N)
                high_N = torch.where(is_sharp_N, high_N, middle_N)
            return ((low_N + high_N) / 2.0).exp()


def make_softened_parts(
    schedule: ScheduleBase,
    logits_NC: torch.Tensor,
    signals: Signals,
    weights_MN: torch.Tensor,
    temperature: float,
    mixture: Mixture,
) -> list[TargetPart]:
    """Divide the teachers into parts at the temperature of the run, or of each unit."""
    if not isinstance(schedule, TargetEntropy):
        return make_parts(logits_NC, signals, weights_MN, temperature, mixture)
    temperature_N = schedule.find(signals, weights_MN)
    softened = replace(signals, logits_MNC=_divide(signals.logits_MNC.float(), temperature_N))
    parts = make_parts(_divide(logits_NC, temperature_N), softened, weights_MN, temperature, mixture)
    return [replace(part, temperature_N=temperature_N) for part in parts]


def find_unsuited(divergences: Iterable[DivergenceBase]) -> str | None:
    """Return the kind of the first divergence that has no meaning with a temperature for each unit; None for none."""
    # Standardised logits have lost their scale, and with it the temperature.
    return next(
        (
            each.kind
            for each in divergences
            if each.temperature_power == 0 or each.across_units or each.kind == "standardised_kl"
        ),
        None,
    )


def _divide(logits: torch.Tensor, temperature_N: torch.Tensor) -> torch.Tensor:
    """Divide by each unit's temperature; what is masked stays so."""
    return torch.where(logits > MASKED / 2, logits / temperature_N.unsqueeze(-1), logits)
