"""Weightings: how much each teacher counts for each unit. The simplest, and the union of all.

Decision record: teachers of another language are often confidently wrong, so the default routes by language and does
not trust confidence. What a weighting is stands in `raykd.distill.weightings.base`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field, field_validator

from raykd.devices import copy_to_device
from raykd.distill.signals import Signals
from raykd.distill.weightings.bandit import Bandit
from raykd.distill.weightings.base import Languages, States, WeightingBase, normalise, spread_evenly
from raykd.distill.weightings.confidence import Confidence, Entropy, InverseLoss, LossSoftmax
from raykd.distill.weightings.gate import Gate
from raykd.distill.weightings.gradients import GradientAgreement
from raykd.distill.weightings.policy import Policy
from raykd.distill.weightings.reliability import HeldOutReliability
from raykd.distill.weightings.routing import ByColumn, ByLanguage, LanguageSimilarity
from raykd.errors import ConfigError


class Uniform(WeightingBase):
    """``w_m = 1 / M`` over the M covering teachers."""

    kind: Literal["uniform"] = "uniform"

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return spread_evenly(eligible_MN)


class Fixed(WeightingBase):
    """``w_m`` as written, renormalised over the covering teachers; a teacher of weight 0 is never asked."""

    has_preferences: ClassVar[bool] = True
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

    def prefer(self, teacher: str, declared: Languages, language: str, group: str | None) -> float:
        if teacher not in self.by_teacher:
            self._check_names((teacher,))
        return 0.0 if self.by_teacher[teacher] > 0.0 else math.inf

    def without(self, gone: Collection[str]) -> WeightingBase:
        kept = {name: weight for name, weight in self.by_teacher.items() if name not in gone}
        return self.model_copy(update={"by_teacher": kept})

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return normalise(self._column(signals), eligible_MN)

    def _column(self, signals: Signals) -> torch.Tensor:
        self._check_names(signals.teachers)
        values = [self.by_teacher[name] for name in signals.teachers]
        # float64, so that a very small weight renormalises to 1 where its teacher stands alone.
        return copy_to_device(torch.tensor(values, dtype=torch.float64), signals.covered_MN.device).unsqueeze(
            -1
        )


_Plain: TypeAlias = (
    Uniform
    | Fixed
    | ByLanguage
    | ByColumn
    | LanguageSimilarity
    | Entropy
    | Confidence
    | LossSoftmax
    | InverseLoss
    | GradientAgreement
    | HeldOutReliability
    | Gate
    | Bandit
    | Policy
)
PlainWeighting = Annotated[_Plain, Field(discriminator="kind")]
"""Any weighting that holds no other."""


class Anchored(WeightingBase):
    """``w_anchor = share``, and ``1 - share`` is spread over the other teachers by `among`.

    Keeps a student that goes on learning near what it was (learning without forgetting, arXiv:1606.09282). A unit that
    only one side covers is that side's alone.
    """

    kind: Literal["anchored"] = "anchored"
    teacher: str
    """Name of the teacher that is the anchor."""
    share: float = Field(0.5, gt=0.0, lt=1.0)
    """The anchor's weight."""
    among: PlainWeighting = ByLanguage()
    """How the other teachers share the rest."""

    @property
    def inner(self) -> WeightingBase:
        """How the other teachers share the rest."""
        return self.among

    def check(
        self, teachers: Sequence[str], teacher_languages: Sequence[Languages], languages: Sequence[str]
    ) -> None:
        others = self._list_others(teachers)
        if others:
            self.among.check([teachers[m] for m in others], [teacher_languages[m] for m in others], languages)

    def may_need(
        self,
        language: str,
        teachers: Sequence[str],
        teacher_languages: Sequence[Languages],
        group: str | None = None,
    ) -> tuple[bool, ...]:
        needed = list(super().may_need(language, teachers, teacher_languages))
        if others := self._list_others(teachers):
            names, declared = [teachers[m] for m in others], [teacher_languages[m] for m in others]
            for m, is_needed in zip(
                others, self.among.may_need(language, names, declared, group), strict=True
            ):
                needed[m] = is_needed
        return tuple(needed)

    def without(self, gone: Collection[str]) -> WeightingBase:
        among = self.among.without(gone)
        return among if self.teacher in gone else self.model_copy(update={"among": among})

    def fit(self, held_out: Signals) -> States:
        return self.among.fit(held_out.of_teachers(self._list_others(held_out.teachers)))

    def begin(self, seed: int, teachers: Sequence[str], languages: Sequence[str]) -> States:
        return self.among.begin(seed, [name for name in teachers if name != self.teacher], languages)

    def measure(self, signals: Signals, loss_N: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.among.measure(signals.of_teachers(self._list_others(signals.teachers)), loss_N)

    def learn(self, sums: Mapping[str, float], progress: float) -> tuple[States, bool]:
        return self.among.learn(sums, progress)

    def with_states(self, states: States) -> WeightingBase:
        return self.model_copy(update={"among": self.among.with_states(states)})

    def eligible(self, signals: Signals) -> torch.Tensor:
        eligible_MN, others = signals.covered_MN.clone(), self._list_others(signals.teachers)
        if others:
            eligible_MN[others] = self.among.eligible(signals.of_teachers(others))
        return eligible_MN

    def weights(
        self, signals: Signals, student_NC: torch.Tensor | None = None, temperature: float = 1.0
    ) -> torch.Tensor:
        known_MN = signals.eligible_MN
        eligible_MN = self.eligible(signals) if known_MN is None else known_MN
        weight_MN = self._spread(signals, eligible_MN)
        if others := self._list_others(signals.teachers):
            rest = replace(signals, eligible_MN=eligible_MN).of_teachers(others)
            left_1N = 1.0 - weight_MN.sum(dim=0, keepdim=True)
            weight_MN[others] = left_1N * self.among.weights(rest, student_NC, temperature)
        return weight_MN

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        """Return the anchor's weight, and 0 for the others."""
        at, others = signals.teachers.index(self.teacher), self._list_others(signals.teachers)
        covered_N, rest_N = eligible_MN[at], eligible_MN[others].any(dim=0)
        weight_MN = torch.zeros_like(eligible_MN, dtype=torch.float32)
        weight_MN[at] = torch.where(covered_N & rest_N, self.share, covered_N.float())
        return weight_MN

    def _list_others(self, teachers: Sequence[str]) -> list[int]:
        if self.teacher not in teachers:
            raise ConfigError(
                "weighting anchored names no teacher of the run", got=self.teacher, wanted=", ".join(teachers)
            )
        return [m for m, name in enumerate(teachers) if name != self.teacher]


Weighting = Annotated[_Plain | Anchored, Field(discriminator="kind")]
"""Any weighting."""
