"""Sum a feature term over the units of a micro-batch and over the teachers, with their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from raykd.distill.features.plan import FeaturePlan, name_projection
from raykd.distill.features.states import Source, TeacherStates
from raykd.distill.features.terms import ComparedStates, FeatureBase


@dataclass(frozen=True)
class FeatureBatch:
    """The states of student and teachers for one micro-batch. Made by `raykd.student.matching`, read by the objective.

    Attributes:
        plan: What is compared.
        student: As `TeacherStates.vectors`, with their graph.
        teachers: In the order of M; None where a teacher gave none.
        mask_BL: Which of the student's tokens are no padding.
        row_N: The row of each unit.
        project: Applies the matrix of a name (`FeaturePlan.widths`) to states.
    """

    plan: FeaturePlan
    student: Mapping[Source, torch.Tensor]
    teachers: tuple[TeacherStates | None, ...]
    mask_BL: torch.Tensor
    row_N: torch.Tensor
    project: Callable[[str, torch.Tensor], torch.Tensor]


def sum_feature(
    term: FeatureBase,
    batch: FeatureBatch,
    weights_MN: torch.Tensor,
    silent_MN: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return ``sum over n, m of w_mn loss_mn``, w made to sum to 1 over the teachers whose states cover the unit.

    Args:
        term: The term.
        batch: States of student and teachers.
        weights_MN: From the weighting.
        silent_MN: Which units a teacher covers and does not teach (`find_silent`): its loss there is 0.
    """
    losses, weights = [], []
    for m, teacher in enumerate(batch.teachers):
        if teacher is None or (term.kind, m) not in batch.plan.pairs:
            continue
        loss_N, covered_N = _measure_teacher(term, batch, m, teacher), teacher.covered[term.where]
        if term.where != "words":
            loss_N, covered_N = loss_N[batch.row_N], covered_N[batch.row_N]
        taught_N = covered_N if silent_MN is None else covered_N & ~silent_MN[m]
        losses.append(torch.where(taught_N, loss_N, 0.0))
        weights.append(torch.where(covered_N, weights_MN[m], 0.0))
    if not losses:
        return weights_MN.new_zeros(())
    shares_MN = torch.stack(weights)
    total_N = shares_MN.sum(dim=0)
    # The weights have no gradient, so 0 / 0 in the branch that is not taken does no harm.
    shares_MN = torch.where(total_N > 0.0, shares_MN / total_N, 0.0)
    return (shares_MN * torch.stack(losses)).sum()


def _measure_teacher(term: FeatureBase, batch: FeatureBatch, m: int, teacher: TeacherStates) -> torch.Tensor:
    """Return the loss of each row or unit, ``[X]``, the mean over the pairs of layers."""
    losses = []
    for ours, theirs in batch.plan.pairs[term.kind, m]:
        own = tuple(batch.student[source].float() for source in term.list_sources(ours))
        taught = tuple(teacher.vectors[source] for source in term.list_sources(theirs))
        if (name := name_projection(term, m, ours, theirs)) in batch.plan.widths:
            own = tuple(batch.project(name, states) for states in own)
        losses.append(term.measure(ComparedStates(own, taught, batch.mask_BL, batch.plan.heads)))
    return torch.stack(losses).mean(dim=0)
