"""What micro-batches contribute to a loss: the units counted, and values that stand apart from their factors."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import torch


@dataclass(frozen=True)
class Counts:
    """Units of one micro-batch, or of many added up. Written by `Objective.counts`, read by `Objective.evaluate`.

    Attributes:
        hard: Units with a gold label.
        soft: Units in the soft sum: covered ones, and those that fall back to the gold label.
        uncovered: Those of ``soft`` that fall back.
        seen: Units that the student sees; counted where two students learn from each other.
    """

    hard: int = 0
    soft: int = 0
    uncovered: int = 0
    seen: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(operator.add, astuple(self), astuple(other)))


@dataclass(frozen=True)
class ScheduleValues:
    """The values of all schedules at one progress. Written by `Objective.values_at`, read by it and by tracking.

    Attributes:
        alpha: Weight of the gold label.
        temperature: T.
        lambdas: One per term, under the kind of its divergence or feature.
        least_confidence: Of the teachers, below which a unit without gold label is not taught.
    """

    alpha: float
    temperature: float
    lambdas: Mapping[str, float]
    least_confidence: float


@dataclass(frozen=True)
class ObjectiveResult:
    """What one micro-batch contributes. Written by `Objective.evaluate`, read by the engine and by tracking.

    Attributes:
        loss: Scalar with graph, this micro-batch's share of the global loss; the shares add up to it.
        sums: Detached local sums before alpha, lambda and division: "hard", and "soft/<kind>" of each term, the
            fallback to the gold label included; "temperature" of the covered units where each has its own. A term that
            alpha switched off has no key. The keys depend only on configuration and progress, so all ranks have the
            same.
        weights_M: Each teacher's weight summed over the covered units; None where no teacher took part.
        counts: This micro-batch's own units.
    """

    loss: torch.Tensor
    sums: dict[str, torch.Tensor]
    weights_M: torch.Tensor | None
    counts: Counts


def average_results(results: Sequence[ObjectiveResult], shares: Sequence[float]) -> ObjectiveResult:
    """Return the weighted mean of several passes over one micro-batch, without graph; of one pass the pass itself.

    Args:
        results: Of the same units.
        shares: Of the passes; they add up to 1.
    """
    first = results[0]
    if len(results) == 1:
        return first

    def mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
        return combine_values([value.detach() for value in values], shares)

    return ObjectiveResult(
        loss=mean([result.loss for result in results]),
        sums={name: mean([result.sums[name] for result in results]) for name in first.sums},
        weights_M=first.weights_M
        if first.weights_M is None
        else mean([r.weights_M for r in results if r.weights_M is not None]),
        counts=first.counts,
    )


@dataclass(frozen=True)
class Shares:
    """What a micro-batch, or some units of one, contributes: ``loss = sum_k factors_k values_k``.

    Written by `Objective.compute_shares`. Factors stand apart so that several parts of a micro-batch are added up
    before they are multiplied.

    Attributes:
        values: Scalars with graph. Their number depends only on configuration and progress, like the sums' names.
        factors: Of each value.
        sums: As in `ObjectiveResult`.
        weights_M: As in `ObjectiveResult`.
        counts: The units' own.
    """

    values: tuple[torch.Tensor, ...]
    factors: tuple[float, ...]
    sums: dict[str, torch.Tensor]
    weights_M: torch.Tensor | None
    counts: Counts

    def list_pairs(self) -> list[tuple[torch.Tensor, float]]:
        """Return each value with its factor."""
        return list(zip(self.values, self.factors, strict=True))

    def join(self) -> ObjectiveResult:
        """Return them with the loss."""
        loss = combine_values(self.values, self.factors)
        return ObjectiveResult(loss=loss, sums=self.sums, weights_M=self.weights_M, counts=self.counts)


def combine_values(values: Sequence[torch.Tensor], factors: Sequence[float]) -> torch.Tensor:
    """Return ``sum_k factors_k values_k``."""
    return functools.reduce(operator.add, [v * f for v, f in zip(values, factors, strict=True)])
