"""Divergences between the combined teachers' distribution p and the student's q, and their union.

The hard term is here too: cross-entropy with the gold labels, smoothed, weighted by class, or focal. Class weights and
focal loss are for gold labels of unequal frequency. They act on the hard term alone, because teachers' soft targets
already say how sure they are, and weighting them would no longer compare divergences of equal size. Class weights have
the mean 1 over the labelled training units, so that alpha keeps its meaning.

Notation: ``p = softmax(z / T)`` mixed over teachers, ``q = softmax(s / T)``, ``z`` teacher and ``s`` student
logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from raykd.distill.divergences.base import DivergenceBase, compute_kl, compute_log_q
from raykd.distill.divergences.batch import Dist, RelationalDistance
from raykd.distill.divergences.transformed import (
    AnnealedLogitMSE,
    DecoupledKL,
    ProbabilityMSE,
    SkewedKL,
    SkewedReverseKL,
    StandardisedKL,
)
from raykd.distill.signals import MASKED, UNLABELLED, Support, Target
from raykd.distill.wide.fused import is_fused


class ForwardKL(DivergenceBase):
    """``T^2 sum_c p_c (log p_c - log q_c)``, gradient ``T (q - p)`` (Hinton et al., arXiv 1503.02531)."""

    temperature_power: ClassVar[int] = 2
    linear_in_p: ClassVar[bool] = True
    kind: Literal["forward_kl"] = "forward_kl"

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        return compute_kl(target.p_NK, target.logp_NK, compute_log_q(student_logits_NK, temperature))


class ReverseKL(DivergenceBase):
    """``T^2 sum_c q_c (log q_c - log p_c)``: mode-seeking, for small students (arXiv 2306.13649)."""

    temperature_power: ClassVar[int] = 2
    kind: Literal["reverse_kl"] = "reverse_kl"

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        logq_NK = compute_log_q(student_logits_NK, temperature)
        return compute_kl(logq_NK.exp(), logq_NK, target.logp_NK)


class JensenShannon(DivergenceBase):
    """``T^2 [beta KL(p || m) + (1 - beta) KL(q || m)] / (beta (1 - beta))``, ``m = beta p + (1 - beta) q``.

    Generalised Jensen-Shannon (GKD, arXiv 2306.13649). The plain form vanishes as beta goes to 0 or 1;
    divided by ``beta (1 - beta)`` it goes to the forward KL at 0 and to the reverse KL at 1, so that beta
    chooses a divergence and not, on the side, a weight. At exactly 0 and 1 the KL itself is computed.
    Rounding grows as ``1e-7 / min(beta, 1 - beta)``, so within 1e-3 of an end prefer the end.
    """

    temperature_power: ClassVar[int] = 2
    kind: Literal["jensen_shannon"] = "jensen_shannon"
    beta: float = Field(default=0.5, ge=0.0, le=1.0)
    """Between the forward KL (0) and the reverse KL (1)."""

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        logq_NK = compute_log_q(student_logits_NK, temperature)
        q_NK = logq_NK.exp()
        if self.beta == 0.0:
            return compute_kl(target.p_NK, target.logp_NK, logq_NK)
        if self.beta == 1.0:
            return compute_kl(q_NK, logq_NK, target.logp_NK)
        logm_NK = torch.logaddexp(target.logp_NK + math.log(self.beta), logq_NK + math.log1p(-self.beta))
        from_p_N = compute_kl(target.p_NK, target.logp_NK, logm_NK)
        from_q_N = compute_kl(q_NK, logq_NK, logm_NK)
        return from_p_N / (1.0 - self.beta) + from_q_N / self.beta


class TotalVariation(DivergenceBase):
    """``T 1/2 sum_c |p_c - q_c|``: bounded, so robust to a teacher's outliers (arXiv 2307.15190).

    First order in ``p - q``, so its gradient falls as 1/T and not as 1/T^2.
    """

    temperature_power: ClassVar[int] = 1
    kind: Literal["total_variation"] = "total_variation"

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        q_NK = compute_log_q(student_logits_NK, temperature).exp()
        return 0.5 * (target.p_NK - q_NK).abs().sum(dim=-1)


class LogitMSE(DivergenceBase):
    """``1/K sum_c (s_c - z_c)^2`` both sides mean-centred over classes; T plays no part (arXiv 2105.08919).

    Of one number (a regression) nothing is centred: it is the squared difference to the teachers' weighted mean. Where
    units have different numbers of choices, K and both means are over a unit's own. Times ``2 K / (K - 1)`` it is the
    mean squared difference of the margins of all pairs of choices: of two candidates, 1/4 of MarginMSE (arXiv
    2010.02666).

    The forward KL's limit for large T is half of the centred form. ``centre=False`` leaves the student's side
    as it is, which also pins the student's mean logit, at 0: the target's logits are centred by contract.
    This 1/K is the definition of the loss, not a reduction over units.
    """

    temperature_power: ClassVar[int] = 0
    needs_dense: ClassVar[bool] = True
    least_choices: ClassVar[int] = 1
    kind: Literal["logit_mse"] = "logit_mse"
    centre: bool = True
    """Whether the student's logits are mean-centred."""

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        gap_NK = student_logits_NK - target.logits_NK
        if gap_NK.shape[-1] == 1:
            return gap_NK.square().mean(dim=-1)
        open_NK = student_logits_NK > MASKED / 2
        counts_N1 = open_NK.sum(dim=-1, keepdim=True).clamp_min(1)
        gap_NK = torch.where(open_NK, gap_NK, 0.0)
        if self.centre:
            gap_NK = torch.where(open_NK, gap_NK - gap_NK.sum(dim=-1, keepdim=True) / counts_N1, 0.0)
        return gap_NK.square().sum(dim=-1) / counts_N1.squeeze(-1)


class TeacherHard(DivergenceBase):
    """``-log softmax(s)_c`` at T = 1 of ``c = argmax p``: the teachers' label, not the gold label.

    A unit whose ``max p`` is below ``threshold`` contributes 0 (and still counts as a unit). p is the mixed
    target as softened at the objective's temperature, so a threshold is read at that temperature. The student's
    softmax at T = 1 needs all its logits, which a tail gathered at another temperature does not give.
    """

    temperature_power: ClassVar[int] = 0
    needs_dense: ClassVar[bool] = True
    kind: Literal["teacher_hard"] = "teacher_hard"
    threshold: float = Field(default=0.0, ge=0.0, le=1.0)
    """Least probability of the teachers' label that counts."""

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        confidence_N, label_N = target.p_NK.max(dim=-1)
        loss_N = torch.nn.functional.cross_entropy(student_logits_NK, label_N, reduction="none")
        return torch.where(confidence_N >= self.threshold, loss_N, torch.zeros_like(loss_N))


class CrossEntropy(DivergenceBase):
    """``-T^2 sum_c p_c log q_c``: the forward KL plus ``T^2 H(p)``, same gradient, but not 0 at q = p."""

    temperature_power: ClassVar[int] = 2
    linear_in_p: ClassVar[bool] = True
    kind: Literal["cross_entropy"] = "cross_entropy"

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        return compute_kl(
            target.p_NK, torch.zeros_like(target.p_NK), compute_log_q(student_logits_NK, temperature)
        )


class UniversalLogit(DivergenceBase):
    """``T sum_i |p_(i) - q_(i)|``, both sorted by size, the shorter padded with 0 (ULD, arXiv 2402.12030).

    The plain fallback where teacher and student share no vocabulary: it says how sure to be and never of what, so
    that a student far from its gold labels learns nothing of use from it. First order in p - q as the total
    variation is, hence the power 1. Widths may differ.
    """

    temperature_power: ClassVar[int] = 1
    needs_dense: ClassVar[bool] = True
    by_rank: ClassVar[bool] = True
    kind: Literal["universal_logit"] = "universal_logit"

    def unscaled(self, student_logits_NK: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
        q_NK = compute_log_q(student_logits_NK, temperature).exp().sort(dim=-1, descending=True).values
        p_NK = target.p_NK.sort(dim=-1, descending=True).values
        wider = q_NK.shape[-1] - p_NK.shape[-1]
        gap_NK = torch.nn.functional.pad(p_NK, (0, max(wider, 0))) - torch.nn.functional.pad(
            q_NK, (0, max(-wider, 0))
        )
        return gap_NK.abs().sum(dim=-1)


ClassWeights = Literal["balanced"] | dict[str, Annotated[float, Field(gt=0.0)]] | None
"""A field that takes weights by label."""


def compute_gold_loss(
    logits_NC: torch.Tensor,
    labels_N: torch.Tensor,
    smoothing: float,
    open_NC: torch.Tensor | None = None,
    *,
    weights_C: torch.Tensor | None = None,
    focal_gamma: float = 0.0,
    values_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the cross-entropy with the gold labels, summed over labelled units; of values as `compute_gold_losses`.

    With ``focal_gamma`` a unit's loss is multiplied by ``(1 - p_gold) ** focal_gamma`` (Lin et al., arXiv:1708.02002).

    Args:
        logits_NC: The student's, any floating dtype.
        labels_N: int64; `UNLABELLED` units count 0.
        smoothing: Share of the target that is spread evenly over the choices that a unit has. Choices that only other
            units of the batch have (`MASKED`) get none of it: their log-probability is -1e4.
        open_NC: The choices that may be gold; None for all that are not masked.
        weights_C: Weight of each class, as of torch's cross_entropy; None weighs all alike.
        focal_gamma: 0 for none; not together with smoothing.
        values_N: As for `compute_gold_losses`.
    """
    if values_N is not None:
        return compute_gold_losses(logits_NC, labels_N, values_N).sum()
    if smoothing == 0.0 and focal_gamma == 0.0 and weights_C is None and is_fused(logits_NC):
        return compute_gold_losses(logits_NC, labels_N).sum()
    logits_NC = logits_NC.float()
    if smoothing == 0.0 and focal_gamma == 0.0:
        return torch.nn.functional.cross_entropy(
            logits_NC, labels_N, weight=weights_C, ignore_index=UNLABELLED, reduction="sum"
        )
    logp_NC = torch.log_softmax(logits_NC, dim=-1)
    labelled_N = labels_N != UNLABELLED
    classes_N = torch.where(labelled_N, labels_N, 0)
    gold_N = logp_NC.gather(1, classes_N.unsqueeze(1)).squeeze(1)
    if focal_gamma:
        # Not quite 0 where the model is sure: with gamma below 1 the gradient of 0 ** gamma is infinite.
        gold_N = (-torch.expm1(gold_N)).clamp_min(1e-7) ** focal_gamma * gold_N
    if open_NC is None:
        open_NC = logits_NC > MASKED / 2  # half: bfloat16 rounds MASKED up
    if weights_C is not None:
        gold_N, logp_NC = weights_C[classes_N] * gold_N, weights_C * logp_NC
    even_N = torch.where(open_NC, logp_NC, 0.0).sum(dim=1) / open_NC.sum(dim=1).clamp_min(1)
    loss_N = -(1.0 - smoothing) * gold_N - smoothing * even_N
    return torch.where(labelled_N, loss_N, 0.0).sum()


def compute_class_weights(
    wanted: Literal["balanced"] | Mapping[str, float], labels: Sequence[str], gold_N: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Return the weight of each class in the gold term; their mean over the labelled units is 1.

    So only their ratios count: the size of the gold term stays alpha's. torch divides a weighted mean by the sum of the
    weights instead, which is the same over all units.

    Args:
        wanted: ``balanced`` for the inverse of each class's frequency, as scikit-learn's; or weights by label, 1 for a
            label that is not named.
        labels: The run's labels.
        gold_N: Gold labels of the training units, or `UNLABELLED`.
    """
    counts_C = np.bincount(gold_N[gold_N != UNLABELLED], minlength=len(labels)).astype(np.float64)
    if wanted == "balanced":
        weights_C = 1.0 / np.maximum(counts_C, 1.0)
    else:
        weights_C = np.asarray([dict(wanted).get(label, 1.0) for label in labels])
    total = float((counts_C * weights_C).sum())
    weights_C = weights_C * (counts_C.sum() / total if total else 1.0)
    if wanted == "balanced":
        weights_C[counts_C == 0] = 1.0  # no unit has it
    return weights_C.astype(np.float32)


def compute_gold_losses(
    logits_NC: torch.Tensor, labels_N: torch.Tensor, values_N: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the cross-entropy of each unit with its gold label, float32 ``[N]``; 0 where it is `UNLABELLED`.

    A teacher that puts all probability on the gold label would give this at T = 1.

    Args:
        logits_NC: The student's.
        labels_N: Gold labels, or `UNLABELLED`.
        values_N: Gold values of units whose answer is a number: the loss is then the squared difference. Or, as
            ``[N, C]``, the share of each choice in a gold distribution: its cross-entropy (ListNet, Cao et al. 2007).
    """
    if values_N is not None and values_N.ndim == 2:
        loss_N = -(values_N * torch.log_softmax(logits_NC.float(), dim=-1)).sum(dim=-1)
        return torch.where(labels_N != UNLABELLED, loss_N, 0.0)
    if values_N is not None:
        return torch.where(labels_N != UNLABELLED, logits_NC.float().squeeze(1) - values_N, 0.0).square()
    if is_fused(logits_NC):
        from raykd.distill.wide.functions import compute_cross_entropy  # its classes need torch

        return compute_cross_entropy(logits_NC, labels_N)
    return torch.nn.functional.cross_entropy(
        logits_NC.float(), labels_N, ignore_index=UNLABELLED, reduction="none"
    )


Divergence = Annotated[
    ForwardKL
    | ReverseKL
    | JensenShannon
    | TotalVariation
    | LogitMSE
    | TeacherHard
    | CrossEntropy
    | UniversalLogit
    | DecoupledKL
    | StandardisedKL
    | SkewedKL
    | SkewedReverseKL
    | ProbabilityMSE
    | AnnealedLogitMSE
    | Dist
    | RelationalDistance,
    Field(discriminator="kind"),
]
"""Any divergence."""


def list_divergences(support: Support) -> list[str]:
    """Return the kinds of the divergences that a target over such a support serves."""
    classes: tuple[type[DivergenceBase], ...] = get_args(get_args(Divergence)[0])
    return [str(one.model_fields["kind"].default) for one in classes if one.serves(support)]
