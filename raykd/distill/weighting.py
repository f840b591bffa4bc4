"""Weightings: how much each teacher counts for each unit.

Decision record: weights are non-negative and sum to 1 over a unit's eligible teachers, whatever the weighting, so
comparing two weightings never compares two strengths of distillation. `eligible` is separate from `weights` because the
objective counts units before it has seen a student's output, and counting needs no logits. Teachers of another language
are often confidently wrong, so the default routes by language and does not trust confidence.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator

from raykd.devices import copy_to_device
from raykd.distill.signals import UNLABELLED, Signals
from raykd.errors import ConfigError
from raykd.spec import Spec

Languages = frozenset[str] | None
"""The languages a teacher was declared for; None for any."""

LanguageClass = Literal["monolingual", "multilingual", "any"]


class WeightingBase(Spec):
    """Base of all weightings; a subclass says how weight is spread over the eligible teachers."""

    needs_probabilities: ClassVar[bool] = False
    """Whether it reads how sure the teachers are, so that it has no meaning for answers that are numbers."""
    kind: str

    def check(self, teachers: Sequence[str]) -> None:
        """Refuse teachers that this weighting cannot serve.

        Raises:
            ConfigError: A name is missing or unknown.
        """

    def may_need(
        self, language: str, teachers: Sequence[str], teacher_languages: Sequence[Languages]
    ) -> tuple[bool, ...]:
        """Return, per teacher, whether a row in this language could give it a positive weight.

        Rows are sent only to these teachers, so an answer of False saves a forward pass.
        """
        return tuple(_speaks(declared, language) for declared in teacher_languages)

    def eligible(self, signals: Signals) -> torch.Tensor:
        """Return the covering teachers among whom a unit's weight is spread, bool ``[M, N]``; needs no logits."""
        return signals.covered_MN

    def weights(self, signals: Signals) -> torch.Tensor:
        """Return the teacher weights per unit.

        Returns:
            float32 ``[M, N]``, no gradient. Each column sums to 1, or to 0 where no teacher is eligible.
        """
        with torch.no_grad():
            known_MN = signals.eligible_MN
            return self._spread(signals, self.eligible(signals) if known_MN is None else known_MN)

    @abstractmethod
    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        """Spread the weight of each unit over its eligible teachers, ``[M, N]``."""


class Uniform(WeightingBase):
    """``w_m = 1 / M`` over the M covering teachers."""

    kind: Literal["uniform"] = "uniform"

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return _spread_evenly(eligible_MN)


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

    def check(self, teachers: Sequence[str]) -> None:
        if set(teachers) != set(self.by_teacher):
            raise ConfigError(
                "a fixed weighting must name every teacher of the run, and no other",
                got=", ".join(sorted(self.by_teacher)),
                wanted=", ".join(sorted(teachers)),
                next_step="write each teacher's name under by_teacher; 0 switches a teacher off",
            )

    def may_need(
        self, language: str, teachers: Sequence[str], teacher_languages: Sequence[Languages]
    ) -> tuple[bool, ...]:
        self.check(teachers)
        speaks = super().may_need(language, teachers, teacher_languages)
        return tuple(ok and self.by_teacher[name] > 0.0 for ok, name in zip(speaks, teachers, strict=True))

    def eligible(self, signals: Signals) -> torch.Tensor:
        return signals.covered_MN & (self._column(signals) > 0.0)

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        weight_MN = torch.where(eligible_MN, self._column(signals), 0.0)
        total_1N = weight_MN.sum(dim=0, keepdim=True)
        return torch.where(eligible_MN, weight_MN / total_1N, 0.0).float()

    def _column(self, signals: Signals) -> torch.Tensor:
        self.check(signals.teachers)
        values = [self.by_teacher[name] for name in signals.teachers]
        # float64, so that a very small weight renormalises to 1 where its teacher stands alone.
        return copy_to_device(torch.tensor(values, dtype=torch.float64), signals.covered_MN.device).unsqueeze(
            -1
        )


class ByLanguage(WeightingBase):
    """Routing: the covering teachers of the first non-empty class of ``chain`` share a unit equally.

    ``monolingual``: declared for exactly the unit's language. ``multilingual``: declared for several
    languages, this one among them, or for any. ``any``: all that cover the unit.

    Trade-off of `may_need`: it narrows a row to the first class that has a teacher *declared* for its language,
    which saves every other teacher's forward pass. If that teacher fails at run time, or truncates the
    unit, the others were not asked and the unit is not covered: it falls back to its gold label.
    """

    kind: Literal["by_language"] = "by_language"
    chain: tuple[LanguageClass, ...] = Field(default=("monolingual", "multilingual", "any"), min_length=1)
    """Classes of teachers, the preferred one first."""

    @field_validator("chain")
    @classmethod
    def _no_class_twice(cls, value: tuple[LanguageClass, ...]) -> tuple[LanguageClass, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"a class stands twice in the chain {value}")
        return value

    def may_need(
        self, language: str, teachers: Sequence[str], teacher_languages: Sequence[Languages]
    ) -> tuple[bool, ...]:
        speaks = super().may_need(language, teachers, teacher_languages)
        for name in self.chain:
            chosen = tuple(
                ok and _in_class(name, declared, language)
                for ok, declared in zip(speaks, teacher_languages, strict=True)
            )
            if any(chosen):
                return chosen
        return (False,) * len(speaks)

    def eligible(self, signals: Signals) -> torch.Tensor:
        eligible_MN = torch.zeros_like(signals.covered_MN)
        for name in self.chain:
            chosen_MN = signals.covered_MN & _class_mask(name, signals)
            # Only units that no earlier class served.
            eligible_MN = eligible_MN | (chosen_MN & ~eligible_MN.any(dim=0, keepdim=True))
        return eligible_MN

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return _spread_evenly(eligible_MN)


class Entropy(WeightingBase):
    """``w_m ~ exp(-H(p_m) / tau)`` at T = 1: sure teachers count more. Needs no label.

    Beware that a teacher outside its domain is often sure and wrong.
    """

    needs_probabilities: ClassVar[bool] = True
    kind: Literal["entropy"] = "entropy"
    tau: float = Field(default=1.0, gt=0.0)
    """Sharpness: small trusts the surest teacher alone, large is uniform."""

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return _softmax_over_teachers(-signals.entropy() / self.tau, eligible_MN)


class Confidence(WeightingBase):
    """CA-MKD: ``w_m = (1 - softmax_m(CE_m)) / (M - 1)`` over the M covering teachers (arXiv 2201.00007).

    ``CE_m = -log p_m(y)`` at T = 1. One covering teacher has weight 1. A unit without a gold label has no
    ``CE_m``; its covering teachers share it equally.
    """

    needs_probabilities: ClassVar[bool] = True
    kind: Literal["confidence"] = "confidence"

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        badness_MN = _softmax_over_teachers(signals.gold_ce(), eligible_MN)
        count_1N = eligible_MN.sum(dim=0, keepdim=True)
        weight_MN = torch.where(eligible_MN, (1.0 - badness_MN) / (count_1N - 1).clamp_min(1), 0.0)
        informed_1N = (signals.labels_N != UNLABELLED) & (count_1N > 1)
        return torch.where(informed_1N, weight_MN, _spread_evenly(eligible_MN))


class LossSoftmax(WeightingBase):
    """``w_m ~ exp(-CE_m / tau)``, ``CE_m = -log p_m(y)`` at T = 1; sharper than `Confidence`.

    A unit without a gold label is shared equally by its covering teachers.
    """

    needs_probabilities: ClassVar[bool] = True
    kind: Literal["loss_softmax"] = "loss_softmax"
    tau: float = Field(default=1.0, gt=0.0)
    """Sharpness: small trusts the best teacher alone, large is uniform."""

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        weight_MN = _softmax_over_teachers(-signals.gold_ce() / self.tau, eligible_MN)
        return torch.where(signals.labels_N != UNLABELLED, weight_MN, _spread_evenly(eligible_MN))


def _speaks(declared: Languages, language: str) -> bool:
    return declared is None or language in declared


def _in_class(name: LanguageClass, declared: Languages, language: str) -> bool:
    if name == "monolingual":
        return declared == frozenset({language})
    if name == "multilingual":
        return declared is None or (len(declared) > 1 and language in declared)
    return True


def _class_mask(name: LanguageClass, signals: Signals) -> torch.Tensor:
    """Return whether teacher m belongs to this class for unit n's language, bool ``[M, N]``."""
    distinct = sorted(set(signals.languages))
    table = [[_in_class(name, declared, code) for code in distinct] for declared in signals.teacher_languages]
    position = {code: i for i, code in enumerate(distinct)}
    device = signals.covered_MN.device
    index_N = torch.tensor([position[code] for code in signals.languages], dtype=torch.int64)
    return copy_to_device(torch.tensor(table, dtype=torch.bool)[:, index_N], device)


def _spread_evenly(eligible_MN: torch.Tensor) -> torch.Tensor:
    return eligible_MN.float() / eligible_MN.sum(dim=0, keepdim=True).clamp_min(1)


def _softmax_over_teachers(score_MN: torch.Tensor, eligible_MN: torch.Tensor) -> torch.Tensor:
    # A column without an eligible teacher is all -inf and its softmax NaN; the second mask makes it 0.
    weight_MN = score_MN.masked_fill(~eligible_MN, -torch.inf).softmax(dim=0)
    return torch.where(eligible_MN, weight_MN, 0.0)


Weighting = Annotated[
    Uniform | Fixed | ByLanguage | Entropy | Confidence | LossSoftmax,
    Field(discriminator="kind"),
]
"""Any weighting."""
