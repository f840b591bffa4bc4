"""Define what a divergence is: a number for each unit, of the teachers' distribution p and the student's q.

Decision record: a divergence sums over classes and never averages (dividing by C silently weakens distillation C
times), and carries the power of T that keeps its gradient's size independent of the temperature, because a search over
T must not be a search over the weight of the term. Arithmetic is float32 whatever comes in. What a formula needs
(every logit, the other units, several choices) is said by class variables, so that a run that lacks it is refused
before it starts.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch

from raykd.distill.signals import Support, Target
from raykd.spec import Spec


class DivergenceBase(Spec):
    """Base of all divergences: float32, the shape check and the temperature's power."""

    kind: str
    temperature_power: ClassVar[int]
    """``per_unit`` is already multiplied by ``temperature ** temperature_power``."""
    needs_dense: ClassVar[bool] = False
    """True if the formula reads every column (a mean over logits, an argmax, a sort). A target of some tokens and a
    tail is then refused."""
    linear_in_p: ClassVar[bool] = False
    """True if the gradient is linear in p, as that of ``-sum_c p_c log q_c``. Only then is its mean over tokens drawn
    from p the gradient over all tokens."""
    across_units: ClassVar[bool] = False
    """True if a unit's loss depends on the other units of the micro-batch. Answers that are compared a few units at a
    time, those over a vocabulary, are then refused."""
    equal_choices: ClassVar[bool] = False
    """True if the formula averages over the choices, so that every unit must have the same ones."""
    least_choices: ClassVar[int] = 2
    """Choices below which the formula degenerates."""
    by_rank: ClassVar[bool] = False
    """True where classes are compared by their rank and not by what they are, so that two vocabularies serve it."""

    @classmethod
    def serves(cls, support: Support) -> bool:
        """Return whether this loss can compare the student with a target over such a support."""
        if support == "own":
            return cls.by_rank
        if support == "draws":
            return cls.linear_in_p
        return support == "whole" or not cls.needs_dense

    def per_unit(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        """Compute ``T ** temperature_power * D(p, q)`` per unit, float32 ``[N]``.

        Args:
            student_logits_NK: Raw student logits, any floating dtype, on the support of the target.
            target: p softened at `target.temperature`, ordinarily the same temperature.
            temperature: T > 0 of the student.

        Raises:
            ValueError: The shapes differ (a width of 1 does not broadcast), T is not positive, or the support has
                fewer columns than the formula needs.
        """
        wanted, got = target.p_NK.shape, student_logits_NK.shape
        if got[: 1 if self.by_rank else None] != wanted[: 1 if self.by_rank else None]:
            raise ValueError(
                f"student logits are {tuple(student_logits_NK.shape)}, the target is "
                f"{tuple(target.p_NK.shape)}; both must be [N, K]"
            )
        if self.equal_choices and wanted[-1] < self.least_choices:
            raise ValueError(
                f"{self.kind} needs {self.least_choices} choices, a teacher is compared over {wanted[-1]}; "
                "choose another divergence, or leave out teachers that know so few labels"
            )
        if not temperature > 0.0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        loss_N = self.unscaled(student_logits_NK.float(), target, temperature)
        return loss_N * temperature**self.temperature_power

    @abstractmethod
    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        """Compute ``D(p, q)`` per unit, ``[N]``, without the power of T; inputs are float32 of equal shapes."""


def compute_log_q(student_logits_NK: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return ``log softmax(s / T)``, ``[N, K]``."""
    return torch.log_softmax(student_logits_NK / temperature, dim=-1)


def compute_kl(a_NK: torch.Tensor, loga_NK: torch.Tensor, logb_NK: torch.Tensor) -> torch.Tensor:
    """Return ``sum_c a_c (log a_c - log b_c)`` with ``0 log 0 = 0``, ``[N]``.

    The difference is masked before the product: masking only the product would leave 0 * inf in the backward.
    """
    gap_NK = (loga_NK - logb_NK).masked_fill(a_NK <= 0.0, 0.0)
    return (a_NK * gap_NK).sum(dim=-1)
