"""Weightings: how much each teacher counts for each unit. The simplest, and the union of all.

Decision record: teachers of another language are often confidently wrong, so the default routes by language and does
not trust confidence. What a weighting is stands in `raykd.distill.weightings.base`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator

from raykd.devices import copy_to_device
from raykd.distill.signals import Signals
from raykd.distill.weightings.base import Languages, WeightingBase, normalise, spread_evenly
from raykd.distill.weightings.confidence import Confidence, Entropy, InverseLoss, LossSoftmax
from raykd.distill.weightings.gradients import GradientAgreement
from raykd.distill.weightings.routing import ByColumn, ByLanguage, LanguageSimilarity
from raykd.errors import ConfigError


class Uniform(WeightingBase):
    """``w_m = 1 / M`` over the M covering teachers."""

    kind: Literal["uniform"] = "uniform"

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return spread_evenly(eligible_MN)


class Fixed(WeightingBase):
    """``w_m`` as written, renormalised over the covering teachers; a teacher of weight 0 is never asked."""

    kind: Literal["fixed"] = "fixed"
    by_teacher: dict[str, Annotated[float, Field(ge=0.0)]]
    """A weight for each teacher by name, on any scale."""

    @field_validator("by_teacher")
    @classmethod
    def _some_weight(cls, value: dict[str, float]) -> dict[str, float]:
        if not any(value.values()):
            raise ValueError("at least one teacher needs a weight above 0")
        return value

    def check(
        self, teachers: Sequence[str], teacher_languages: Sequence[Languages], languages: Sequence[str]
    ) -> None:
        self._check_names(teachers)

    def _check_names(self, teachers: Sequence[str]) -> None:
        if set(teachers) != set(self.by_teacher):
            raise ConfigError(
                "a fixed weighting must name every teacher of the run, and no other",
                got=", ".join(sorted(self.by_teacher)),
                wanted=", ".join(sorted(teachers)),
                next_step="write each teacher's name under by_teacher; 0 switches a teacher off",
            )

    def may_need(
        self,
        language: str,
        teachers: Sequence[str],
        teacher_languages: Sequence[Languages],
        group: str | None = None,
    ) -> tuple[bool, ...]:
        self._check_names(teachers)
        speaks = super().may_need(language, teachers, teacher_languages)
        return tuple(ok and self.by_teacher[name] > 0.0 for ok, name in zip(speaks, teachers, strict=True))

    def without(self, gone: Collection[str]) -> WeightingBase:
        kept = {name: weight for name, weight in self.by_teacher.items() if name not in gone}
        return self.model_copy(update={"by_teacher": kept})

    def eligible(self, signals: Signals) -> torch.Tensor:
        return signals.covered_MN & (self._column(signals) > 0.0)

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return normalise(self._column(signals), eligible_MN)

    def _column(self, signals: Signals) -> torch.Tensor:
        self._check_names(signals.teachers)
        values = [self.by_teacher[name] for name in signals.teachers]
        # float64, so that a very small weight renormalises to 1 where its teacher stands alone.
        return copy_to_device(torch.tensor(values, dtype=torch.float64), signals.covered_MN.device).unsqueeze(
            -1
        )


Weighting = Annotated[
    Uniform
    | Fixed
    | ByLanguage
    | ByColumn
    | LanguageSimilarity
    | Entropy
    | Confidence
    | LossSoftmax
    | InverseLoss
    | GradientAgreement,
    Field(discriminator="kind"),
]
"""Any weighting."""
