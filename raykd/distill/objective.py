"""`Objective`: combines gold labels and teachers in one loss.

    ``L = alpha CE_sum / N_hard + (1 - alpha) sum_j lambda_j(u) [T^k_j D_j]_sum / N_soft``

Decision record:

- alpha is the size, lambda the shape.
- Every term is a sum over units, divided once by its own *global* count (all ranks, all micro-batches of the step), so
  the loss does not depend on how a step was split.
- A side whose factor, alpha or 1 - alpha, is exactly 0 is not computed, so alpha = 1 is plain supervised training bit
  for bit.
- A unit that no teacher covers falls back to its gold label in every term, and is counted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from raykd.devices import copy_to_device
from raykd.distill.adapting.learned import Factor, LearnedBase, Temperature
from raykd.distill.adapting.softening import make_softened_parts
from raykd.distill.features.sums import FeatureBatch, sum_feature
from raykd.distill.features.terms import Feature
from raykd.distill.losses import (
    ClassWeights,
    Divergence,
    ForwardKL,
    compute_gold_loss,
    compute_gold_losses,
)
from raykd.distill.parts import TargetPart, find_silent, silence_unsure, sum_over_parts
from raykd.distill.schedules import Constant, Schedule, check_range
from raykd.distill.shares import Counts, ObjectiveResult, ScheduleValues, Shares
from raykd.distill.signals import UNLABELLED, Signals
from raykd.distill.targets import Mixture, correct_contradictions
from raykd.distill.weighting import Weighting
from raykd.distill.weightings.routing import ByLanguage
from raykd.distill.wide.fused import is_fused
from raykd.spec import Spec


class Given(TypedDict, total=False):
    """What `Objective.compute_shares` is told beside the arguments that it always has; each may be None."""

    own: Counts | None
    class_weights_C: torch.Tensor | None
    values_N: torch.Tensor | None
    gold_logits_NC: torch.Tensor | None
    features: FeatureBatch | None


class Term(Spec):
    """One divergence of the soft part, and its factor over the run."""

    divergence: Divergence = ForwardKL()
    lambda_schedule: Factor = Constant(value=1.0)
    """>= 0. A shape with peak 1 for a single term; relative weights between several terms. `constraint` and
    `uncertainty` learn it."""

    @field_validator("lambda_schedule")
    @classmethod
    def _not_negative(cls, value: Factor) -> Factor:
        return check_range(value, "lambda", low=0.0)


class Objective(Spec):
    """The whole loss: ``L = alpha CE + (1 - alpha) sum_j lambda_j T^k D_j``, see docs/methods.md."""

    alpha: Schedule = Constant(value=0.1)
    """Weight of the gold label in [0, 1]; the teachers have ``1 - alpha``."""
    temperature: Temperature = Constant(value=2.0)
    """Softens teachers and student alike; > 0. `adversarial` learns it, `target_entropy` has one for each unit."""
    terms: tuple[Term, ...] = Field(default=(Term(),), min_length=1)
    features: tuple[Feature, ...] = ()
    """Terms that compare states of the student's encoder with its teachers', beside `terms`. Each follows its own
    schedule, whatever `anneal_on` says."""
    weighting: Weighting = ByLanguage()
    mixture: Mixture = "arithmetic"
    """How several teachers become one target: the mean of their probabilities (arithmetic) or of their
    log-probabilities (geometric)."""
    anneal_on: Literal["all", "labelled", "unlabelled"] = "all"
    """Under "labelled", a unit without gold label keeps lambda = 1 whatever the schedules say, since the
    teachers are all it has. Under "unlabelled" the others keep it: a schedule that rises is a ramp by which units
    without gold label come in (arXiv:1610.02242). Alpha is not affected."""
    least_confidence: Schedule = Constant(value=0.0)
    """In [0, 1]. A unit without gold label contributes 0 to all soft terms where the teachers together give no answer
    this probability at the run's temperature, and still counts as a unit (arXiv:2001.07685). Of teachers that know
    different labels each set decides for its share. 0 lets all contribute."""
    contradictions: Literal["keep", "swap", "drop"] = "keep"
    """What becomes of a teacher's answer whose most likely label is not the gold label: `swap` exchanges the logits of
    the two labels (probability shift, arXiv:1911.07471), `drop` leaves the teacher out for this unit."""
    drop_surpassed: float | None = None
    """A teacher does not teach a language in which the student's validation score is at least the teacher's plus this
    margin, which each evaluation decides anew (Tan et al., arXiv:1902.10461). None keeps all teachers."""
    label_smoothing: float = Field(default=0.0, ge=0.0, le=1.0)
    """Of the hard term only; a unit that falls back in the soft term is not smoothed."""
    class_weights: ClassWeights = None
    """Of the hard term only, for labels of unequal frequency: `balanced` weighs each label with the inverse of its
    frequency among the labelled training units, or weights by label (`{rare: 5}`; 1 where a label is not named).
    Weights are scaled to the mean 1 over these units, so alpha keeps its meaning. Soft targets are not weighted."""
    focal_gamma: float = Field(default=0.0, ge=0.0)
    """Of the hard term only: units that the student is sure of count less, by (1 - p) ** gamma (focal loss,
    arXiv:1708.02002). 0 is cross-entropy. Not together with `label_smoothing`."""

    @field_validator("alpha")
    @classmethod
    def _alpha_is_a_share(cls, value: Schedule) -> Schedule:
        return check_range(value, "alpha", low=0.0, high=1.0)

    @field_validator("least_confidence")
    @classmethod
    def _confidence_is_a_share(cls, value: Schedule) -> Schedule:
        return check_range(value, "least_confidence", low=0.0, high=1.0)

    @field_validator("temperature")
    @classmethod
    def _temperature_is_positive(cls, value: Temperature) -> Temperature:
        if value.bounds()[0] <= 0.0:
            raise ValueError(f"temperature must stay above 0, the schedule goes down to {value.bounds()[0]}")
        return value

    @field_validator("terms", "features")
    @classmethod
    def _no_kind_twice(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        kinds = [term.divergence.kind if isinstance(term, Term) else term.kind for term in value]
        if len(set(kinds)) != len(kinds):
            raise ValueError(f"each kind may stand in one term only, got {kinds}")
        return value

    @model_validator(mode="after")
    def _can_learn(self) -> Objective:
        learned = [
            one.kind
            for one in (self.temperature, *(term.lambda_schedule for term in self.terms))
            if isinstance(one, LearnedBase)
        ]
        if learned and self.anneal_on != "all":
            raise ValueError(f"{learned[0]} learns from all units alike: leave anneal_on out")
        if {"uncertainty", "constraint"} & set(learned) and self.alpha.bounds()[0] <= 0.0:
            raise ValueError(f"{learned[-1]} sets a term beside that of the gold labels: keep alpha above 0")
        return self

    @model_validator(mode="after")
    def _focal_or_smooth(self) -> Objective:
        if self.focal_gamma and self.label_smoothing:
            raise ValueError(
                "focal_gamma and label_smoothing cannot be set together: one takes weight from units that the student "
                "is sure of, the other keeps it from being sure"
            )
        return self

    def gold_alone(self) -> Objective:
        """Return the objective of supervised training with the same hard term: alpha is 1, no teacher is asked."""
        own = ("label_smoothing", "class_weights", "focal_gamma")
        return Objective(alpha=Constant(value=1.0), **{name: getattr(self, name) for name in own})

    @property
    def plain(self) -> bool:
        """Whether this is plain supervised training: alpha is the constant 1, and no teacher is needed."""
        return isinstance(self.alpha, Constant) and self.alpha.value == 1.0

    def values_at(self, progress: float) -> ScheduleValues:
        """Return the values of all schedules at this progress."""
        return ScheduleValues(
            alpha=self.alpha.value_at(progress),
            temperature=self.temperature.value_at(progress),
            lambdas={
                kind: schedule.value_at(progress)
                for kind, schedule in (
                    *((t.divergence.kind, t.lambda_schedule) for t in self.terms),
                    *((f.kind, f.lambda_schedule) for f in self.features),
                )
            },
            least_confidence=self.least_confidence.value_at(progress),
        )

    def wants_features(self, progress: float) -> bool:
        """Return whether some feature term has weight at this progress."""
        values = self.values_at(progress) if self.features else None
        return (
            values is not None and values.alpha < 1.0 and any(values.lambdas[f.kind] for f in self.features)
        )

    def prepare(self, signals: Signals) -> Signals:
        """Find out, once for a micro-batch, among which teachers each unit's weight is spread.

        It follows from coverage and languages, so the host does it, and neither counts nor chunks ask the device.
        """
        if self.contradictions != "keep":
            signals = correct_contradictions(signals, self.contradictions)
        host = signals.on_host
        eligible_MN = self.weighting.eligible(host)
        if signals.host is not None:
            host = replace(host, eligible_MN=eligible_MN)
            return replace(
                signals, eligible_MN=copy_to_device(eligible_MN, signals.labels_N.device), host=host
            )
        return replace(signals, eligible_MN=eligible_MN)

    def counts(self, labels_N: torch.Tensor, signals: Signals | None) -> Counts:
        """Count the units of one micro-batch; needs no student, so a step is counted before its first backward pass.

        Args:
            labels_N: Best on the host, where counting waits for no device.
            signals: The teachers' answers; None only if `plain`.

        Raises:
            ValueError: `signals` is None although teachers are needed, or holds another number of units.
        """
        labelled_N = labels_N != UNLABELLED
        if signals is None:
            if not self.plain:
                raise ValueError(
                    "signals is None, but alpha is not the constant 1: this objective needs teachers"
                )
            return Counts(hard=int(np.count_nonzero(labelled_N.numpy(force=True))))
        if signals.covered_MN.shape[1:] != labels_N.shape:
            raise ValueError(
                f"signals hold {signals.covered_MN.shape[1]} units, labels {tuple(labels_N.shape)}"
            )
        if self.contradictions != "keep":
            signals = correct_contradictions(signals, self.contradictions)
        host = signals.on_host
        eligible_MN = self.weighting.eligible(host) if host.eligible_MN is None else host.eligible_MN
        labelled, covered = labelled_N.numpy(force=True), eligible_MN.numpy(force=True).any(axis=0)
        uncovered = int(np.count_nonzero(labelled & ~covered))
        soft = int(np.count_nonzero(covered)) + uncovered
        return Counts(hard=int(np.count_nonzero(labelled)), soft=soft, uncovered=uncovered)

    def evaluate(
        self,
        student_logits_NC: torch.Tensor,
        labels_N: torch.Tensor,
        signals: Signals | None,
        progress: float,
        totals: Counts,
        open_NC: torch.Tensor | None = None,
        **given: Unpack[Given],
    ) -> ObjectiveResult:
        """Compute this micro-batch's share of the loss; arguments and errors are those of `compute_shares`."""
        return self.compute_shares(
            student_logits_NC, labels_N, signals, progress, totals, open_NC, **given
        ).join()

    def compute_shares(
        self,
        student_logits_NC: torch.Tensor,
        labels_N: torch.Tensor,
        signals: Signals | None,
        progress: float,
        totals: Counts,
        open_NC: torch.Tensor | None = None,
        *,
        own: Counts | None = None,
        class_weights_C: torch.Tensor | None = None,
        values_N: torch.Tensor | None = None,
        gold_logits_NC: torch.Tensor | None = None,
        features: FeatureBatch | None = None,
    ) -> Shares:
        """Compute what units contribute to the loss, not added up yet.

        Args:
            student_logits_NC: Raw, any floating dtype.
            labels_N: int64, gold label or `UNLABELLED`.
            signals: The teachers' answers for the same units; None only if `plain`.
            progress: u in [0, 1].
            totals: `counts` added up over all ranks and micro-batches of the step, this one included.
            open_NC: The choices that may be gold, over which labels are smoothed; None for all that are not masked.
            own: This micro-batch's own counts; None counts them, which reads `labels_N` back from a device.
            class_weights_C: From `compute_class_weights`, where the objective has `class_weights`.
            values_N: Gold numbers (`compute_gold_losses`); None where gold is a choice.
            gold_logits_NC: What gold labels are compared with, where that is not what teachers are.
            features: States of student and teachers; None where no feature term has weight (`wants_features`).

        Raises:
            ValueError: Shapes disagree, totals are smaller than this micro-batch's own counts, or `signals` or
                `class_weights_C` is None although it is needed.
        """
        if self.class_weights is not None and class_weights_C is None:
            raise ValueError("class_weights_C is None, but this objective has class_weights")
        if student_logits_NC.ndim != 2 or student_logits_NC.shape[:1] != labels_N.shape:
            raise ValueError(
                f"student logits are {tuple(student_logits_NC.shape)}, labels {tuple(labels_N.shape)}; "
                "wanted [N, C] and [N]"
            )
        if signals is not None and signals.eligible_MN is None:
            signals = self.prepare(signals)
        counts = self.counts(labels_N, signals) if own is None else own
        if totals.hard < counts.hard or totals.soft < counts.soft:
            raise ValueError(f"totals {totals} are smaller than this micro-batch's own {counts}")
        values = self.values_at(progress)
        # The kernels read logits in the precision of their product; all others compute with float32 from here on.
        logits_NC = student_logits_NC if is_fused(student_logits_NC) else student_logits_NC.float()
        gold_NC = logits_NC if gold_logits_NC is None else gold_logits_NC
        shares: list[tuple[torch.Tensor, float]] = []
        sums: dict[str, torch.Tensor] = {}
        weights_M = None
        if values.alpha > 0.0:
            hard = compute_gold_loss(
                gold_NC,
                labels_N,
                self.label_smoothing,
                open_NC,
                weights_C=class_weights_C,
                focal_gamma=self.focal_gamma,
                values_N=values_N,
            )
            sums["hard"] = hard.detach()
            # Without a labelled unit the sum is 0 with its graph, and 0 / 1 is 0 where 0 / 0 is NaN.
            shares.append((hard, values.alpha / max(totals.hard, 1)))
        if signals is not None and values.alpha < 1.0:
            weights_MN = self.weighting.weights(signals, logits_NC.detach(), values.temperature)
            weights_M = weights_MN.sum(dim=1)
            parts = make_softened_parts(
                self.temperature, logits_NC, signals, weights_MN, values.temperature, self.mixture
            )
            if parts and parts[0].temperature_N is not None:
                sums["temperature"] = (parts[0].temperature_N * weights_MN.any(dim=0)).sum()
            if values.least_confidence > 0.0:
                parts = silence_unsure(parts, labels_N, values.least_confidence)
            share = (1.0 - values.alpha) / max(totals.soft, 1)
            fallback_N = compute_gold_losses(gold_NC, labels_N, values_N) if counts.uncovered else 0.0
            soft = self._soft(fallback_N, labels_N, parts, values, sums, counts)
            soft += self._compare_features(features, weights_MN, find_silent(parts, weights_MN), values, sums)
            shares += [(value, factor * share) for value, factor in soft]
        return Shares(
            values=tuple(value for value, _ in shares),
            factors=tuple(factor for _, factor in shares),
            sums=sums,
            weights_M=weights_M,
            counts=counts,
        )

    def _soft(
        self,
        fallback_N: torch.Tensor | float,
        labels_N: torch.Tensor,
        parts: list[TargetPart],
        values: ScheduleValues,
        sums: dict[str, torch.Tensor],
        counts: Counts,
    ) -> list[tuple[torch.Tensor, float]]:
        """Compute ``[T^k_j D_j]_sum`` of each term and its factor; write the sums under "soft/<kind>"."""
        shares: list[tuple[torch.Tensor, float]] = []
        for term in self.terms:
            kind, factor = term.divergence.kind, values.lambdas[term.divergence.kind]
            divergence_N, covered_N = sum_over_parts(term.divergence, parts, values.temperature, labels_N)
            is_whole = counts.soft - counts.uncovered == len(labels_N)
            loss_N = divergence_N if is_whole else torch.where(covered_N, divergence_N, fallback_N)
            total = loss_N.sum()
            sums[f"soft/{kind}"] = total.detach()
            if self.anneal_on == "all":
                shares.append((total, factor))
            else:
                follows_N = (labels_N == UNLABELLED) == (self.anneal_on == "unlabelled")
                shares.append((torch.where(follows_N, factor * loss_N, loss_N).sum(), 1.0))
        return shares

    def _compare_features(
        self,
        batch: FeatureBatch | None,
        weights_MN: torch.Tensor,
        silent_MN: torch.Tensor | None,
        values: ScheduleValues,
        sums: dict[str, torch.Tensor],
    ) -> list[tuple[torch.Tensor, float]]:
        """Compute each feature term that has weight, and its factor; write the sums under "soft/<kind>"."""
        shares: list[tuple[torch.Tensor, float]] = []
        for term in self.features:
            if batch is None or not values.lambdas[term.kind]:
                continue
            total = sum_feature(term, batch, weights_MN, silent_MN)
            sums[f"soft/{term.kind}"] = total.detach()
            shares.append((total, values.lambdas[term.kind]))
        return shares
