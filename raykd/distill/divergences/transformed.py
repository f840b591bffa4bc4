"""Divergences that take a distribution apart, or bring it to a scale, before they compare: DKD, LSKD, skewed KL, MSE.

Decision record:

- Which class is taken apart in `DecoupledKL` is the gold label, as published; a unit without one takes the teachers'
  most likely class, because most units of a distillation have no label.
- `StandardisedKL` standardises the weighted mean of the teachers' logits, not each teacher, so that several teachers
  have the gradient of one. The scale of the student's logits is then free: NLL and calibration of such a student mean
  something only with alpha above 0 or after a temperature was fitted.
- A squared difference of probabilities saturates where the student is surely wrong. It is there because published code
  uses it, and as the floor for those that do better.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field

from raykd.distill.divergences.base import DivergenceBase, compute_kl, compute_log_q
from raykd.distill.signals import UNLABELLED, Target

_LEAST_STD = 1e-7
"""Added to a standard deviation of logits, as the authors do: a unit whose logits are equal becomes uniform."""


class DecoupledKL(DivergenceBase):
    """``T^2 (target_weight KL(b_p || b_q) + other_weight KL(p_o || q_o))``: decoupled KD (arXiv 2203.08679).

    b is the pair (probability of class y, of all others), p_o and q_o are the distributions over the others. The
    forward KL is the case ``target_weight = 1``, ``other_weight = 1 - p_y``, which weakens what a sure teacher says of
    the other classes. y is the gold label, or without one the teachers' most likely class. With two choices the
    second part is always 0.
    """

    temperature_power: ClassVar[int] = 2
    needs_dense: ClassVar[bool] = True
    least_choices: ClassVar[int] = 3
    kind: Literal["decoupled_kl"] = "decoupled_kl"
    target_weight: float = Field(default=1.0, ge=0.0)
    """Weight of how sure to be of class y; alpha in the paper."""
    other_weight: float = Field(default=2.0, ge=0.0)
    """Weight of the distribution over the other classes; beta in the paper, which tunes it from 1 to 10."""

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        label_N1 = target.p_NK.argmax(dim=-1, keepdim=True)
        if target.labels_N is not None:
            gold_N1 = target.labels_N.unsqueeze(-1)
            label_N1 = torch.where(gold_N1 == UNLABELLED, label_N1, gold_N1)
        bp_N2, p_NK = _take_apart(target.logp_NK, label_N1)
        bq_N2, q_NK = _take_apart(compute_log_q(student_logits_NK, temperature), label_N1)
        of_target_N, of_others_N = compute_kl(bp_N2.exp(), bp_N2, bq_N2), compute_kl(p_NK.exp(), p_NK, q_NK)
        # Where float32 leaves the others no probability, their logits are of choices that the unit does not have.
        of_others_N = torch.where(bp_N2[:, 1].exp() > 0.0, of_others_N, 0.0)
        return self.target_weight * of_target_N + self.other_weight * of_others_N


def _take_apart(logp_NK: torch.Tensor, label_N1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities of (class, all others), ``[N, 2]``, and of each other among them, ``[N, K - 1]``."""
    width = logp_NK.shape[-1]
    # By index, and not by a large negative number in its place, which overflows in 16 bits and leaks in 32.
    others_NK = torch.arange(width - 1, device=logp_NK.device).expand(len(logp_NK), -1)
    others_NK = logp_NK.gather(-1, others_NK + (others_NK >= label_N1).long())
    rest_N1 = torch.logsumexp(others_NK, dim=-1, keepdim=True)
    return torch.cat([logp_NK.gather(-1, label_N1), rest_N1], dim=-1), others_NK - rest_N1


class StandardisedKL(DivergenceBase):
    """``T^2 KL(softmax(Z(z) / T) || softmax(Z(s) / T))``, ``Z(x) = (x - mean) / std`` over classes (arXiv 2403.01427).

    The student learns the shape of the teachers' logits and not their size; any affine change of either side leaves the
    loss as it is. With two choices every unit becomes the same pair, so it is refused.
    """

    temperature_power: ClassVar[int] = 2
    needs_dense: ClassVar[bool] = True
    equal_choices: ClassVar[bool] = True
    least_choices: ClassVar[int] = 3
    kind: Literal["standardised_kl"] = "standardised_kl"

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        logp_NK = compute_log_q(_standardise(target.logits_NK.float()), temperature)
        return compute_kl(logp_NK.exp(), logp_NK, compute_log_q(_standardise(student_logits_NK), temperature))


def _standardise(logits_NK: torch.Tensor) -> torch.Tensor:
    centred_NK = logits_NK - logits_NK.mean(dim=-1, keepdim=True)
    variance_N1 = centred_NK.square().sum(dim=-1, keepdim=True) / (logits_NK.shape[-1] - 1)
    # Under the root and not after it: the root's gradient is infinite at 0, where all logits are equal.
    return centred_NK / (variance_N1 + _LEAST_STD**2).sqrt()


class SkewedKL(DivergenceBase):
    """``T^2 KL(p || skew p + (1 - skew) q)``: no probability of the student is divided by alone (arXiv 2402.03898)."""

    temperature_power: ClassVar[int] = 2
    kind: Literal["skewed_kl"] = "skewed_kl"
    skew: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of p in the mixture; 0 is the forward KL."""

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        logq_NK = compute_log_q(student_logits_NK, temperature)
        return compute_kl(target.p_NK, target.logp_NK, _mix(target.logp_NK, logq_NK, self.skew))


class SkewedReverseKL(DivergenceBase):
    """``T^2 KL(q || (1 - skew) p + skew q)``: mode-seeking without infinite losses (DistiLLM, arXiv 2402.03898)."""

    temperature_power: ClassVar[int] = 2
    kind: Literal["skewed_reverse_kl"] = "skewed_reverse_kl"
    skew: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of q in the mixture; 0 is the reverse KL."""

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        logq_NK = compute_log_q(student_logits_NK, temperature)
        return compute_kl(logq_NK.exp(), logq_NK, _mix(logq_NK, target.logp_NK, self.skew))


def _mix(loga_NK: torch.Tensor, logb_NK: torch.Tensor, share: float) -> torch.Tensor:
    """Return ``log(share a + (1 - share) b)``."""
    if share == 0.0:
        return logb_NK
    return torch.logaddexp(loga_NK + math.log(share), logb_NK + math.log1p(-share))


class ProbabilityMSE(DivergenceBase):
    """``T^2 sum_c (q_c - p_c)^2``: the squared difference of probabilities, bounded by 2 T^2.

    Its gradient vanishes where the student is sure and wrong; `logit_mse` and the KL divergences do not.
    """

    temperature_power: ClassVar[int] = 2
    kind: Literal["probability_mse"] = "probability_mse"

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        return (compute_log_q(student_logits_NK, temperature).exp() - target.p_NK).square().sum(dim=-1)


class AnnealedLogitMSE(DivergenceBase):
    """``1/K sum_c (s_c - phi z_c)^2``, ``phi = 1 - (T - 1) / most``: Annealing-KD (Jafari et al., arXiv 2104.07163).

    The temperature falls from `most` to 1, so the target grows from ``z / most`` to the teachers' logits z: a student
    begins with targets that are as soft as its own answers. Both sides are mean-centred over classes. The second
    stage is training on gold labels alone: a step of alpha to 1.
    """

    temperature_power: ClassVar[int] = 0
    needs_dense: ClassVar[bool] = True
    equal_choices: ClassVar[bool] = True
    kind: Literal["annealed_logit_mse"] = "annealed_logit_mse"
    most: float = Field(default=7.0, ge=1.0)
    """Temperature of the start; tau_max in the paper, 7 to 10."""

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        if not 1.0 <= temperature < self.most + 1.0:
            raise ValueError(
                f"temperature is {temperature}; {self.kind} needs it between 1 and most, {self.most}"
            )
        phi = 1.0 - (temperature - 1.0) / self.most
        centred_NK = student_logits_NK - student_logits_NK.mean(dim=-1, keepdim=True)
        return (centred_NK - phi * target.logits_NK).square().mean(dim=-1)
