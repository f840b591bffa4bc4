"""Values that a run learns: a temperature, and the factors of terms.

Decision record: what is learned is one or two numbers, so no optimizer holds it. The training loop updates them once a
step from sums over all ranks and micro-batches, and they are in its checkpoint, so they do not depend on how a step was
split or where a run was cut. A learned value stands where a schedule may stand: its bounds are known before the run,
and `value_at` is where it begins. The objective of a step is the run's with the current values as constants
(`raykd.distill.adapting.adaptation`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from raykd.distill.adapting.softening import TargetEntropy
from raykd.distill.schedules import (
    Constant,
    Cosine,
    Exponential,
    Fraction,
    Linear,
    ScheduleBase,
    Step,
    TeacherAnnealing,
    Warmup,
    WarmupStableDecay,
    number_is_constant,
)

State = tuple[float, ...]
"""The numbers that a learned value keeps."""


@dataclass(frozen=True)
class StepMeans:
    """What a step measured, over all ranks and micro-batches. Written by `adaptation`, read by learned values.

    Attributes:
        gaps: Mean ``T^k D`` of the covered units, by the kind of the term's divergence.
        slope: Derivative of ``sum_j lambda_j gap_j`` by the temperature.
        hard: Mean loss of the labelled units; None where there were none.
    """

    gaps: Mapping[str, float]
    slope: float
    hard: float | None


class LearnedBase(ScheduleBase):
    """Base of all learned values."""

    @abstractmethod
    def begin(self) -> State:
        """Return the state at the start."""

    @abstractmethod
    def read(self, state: State) -> float:
        """Return the value in a state."""

    @abstractmethod
    def update(self, state: State, means: StepMeans, kind: str, progress: float) -> State:
        """Return the state after a step.

        Args:
            state: Before it.
            means: What the step measured.
            kind: Of the term's divergence; "" for the temperature.
            progress: u in [0, 1].
        """

    def _at(self, u: float) -> float:
        return self.read(self.begin())


class AdversarialTemperature(LearnedBase):
    """CTKD's global temperature: it is changed to make the distillation loss *larger* (Li et al., arXiv 2211.16231).

    ``T = low + (high - low) sigmoid(theta)`` and ``theta += rate c(u) dL/dtheta`` with ``L = sum_j lambda_j T^k D_j``:
    the paper's gradient reversal. The strength c rises from 0 to 1 by a cosine over the first `ramp` of the run, from
    easy to hard. The derivative by T is a central difference over the step's units.
    """

    kind: Literal["adversarial"] = "adversarial"
    low: float = Field(default=1.0, gt=0.0)
    """Smallest T; 1 in the paper."""
    high: float = 10.0
    """Largest T; 21 in the paper."""
    start: float = 4.0
    """T at the start, between the two."""
    rate: float = Field(default=0.1, ge=0.0)
    """Step size of theta."""
    ramp: Fraction = 0.1
    """Share of the run over which the strength rises."""

    @model_validator(mode="after")
    def _start_inside(self) -> AdversarialTemperature:
        if not self.low < self.start < self.high:
            raise ValueError(f"start ({self.start}) must lie between low ({self.low}) and high ({self.high})")
        return self

    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    def begin(self) -> State:
        return (math.log((self.start - self.low) / (self.high - self.start)),)

    def read(self, state: State) -> float:
        return self.low + (self.high - self.low) / (1.0 + math.exp(-state[0]))

    def update(self, state: State, means: StepMeans, kind: str, progress: float) -> State:
        strength = 1.0 if progress >= self.ramp else (1.0 - math.cos(math.pi * progress / self.ramp)) / 2.0
        share = 1.0 / (1.0 + math.exp(-state[0]))
        by_theta = means.slope * (self.high - self.low) * share * (1.0 - share)
        # Far out a sigmoid is flat, and no step would bring theta back.
        return (min(max(state[0] + self.rate * strength * by_theta, -6.0), 6.0),)


class Constraint(LearnedBase):
    """Dual ascent for ``min L_hard subject to gap <= epsilon``, gap the mean ``T^k D`` of the covered units.

    ``lambda <- clip(lambda + rate (gap - epsilon), 0, most)`` once a step: lambda rises while the student is farther
    from its teachers than `epsilon`, and falls to 0 by itself once it is nearer. The run's notes say for held-out units
    whether the constraint holds (mean, 95th and 99th percentile, maximum). Choose epsilon from the gap of a student
    that was trained without it.
    """

    kind: Literal["constraint"] = "constraint"
    epsilon: float = Field(ge=0.0)
    """Largest mean gap, in the unit of the divergence."""
    rate: float = Field(default=0.1, gt=0.0)
    """Step size of lambda."""
    start: float = Field(default=1.0, ge=0.0)
    """Lambda at the start."""
    most: float = Field(default=20.0, gt=0.0)
    """Largest lambda."""

    @model_validator(mode="after")
    def _start_inside(self) -> Constraint:
        if self.start > self.most:
            raise ValueError(f"start ({self.start}) must not lie above most ({self.most})")
        return self

    def bounds(self) -> tuple[float, float]:
        return 0.0, self.most

    def begin(self) -> State:
        return (self.start,)

    def read(self, state: State) -> float:
        return state[0]

    def update(self, state: State, means: StepMeans, kind: str, progress: float) -> State:
        return (min(max(state[0] + self.rate * (means.gaps[kind] - self.epsilon), 0.0), self.most),)


class Uncertainty(LearnedBase):
    """Loss balancing by learned uncertainties (Kendall et al., arXiv 1705.07115).

    Of ``exp(-s_h) L_hard + s_h + exp(-s_j) L_j + s_j`` the gradient by each s is ``1 - exp(-s) L``, and lambda is
    ``exp(s_h - s_j)``, so alpha keeps its meaning. Where the s have settled, lambda is ``L_hard / L_j``: both terms
    weigh alike whatever their units are.
    """

    kind: Literal["uncertainty"] = "uncertainty"
    rate: float = Field(default=0.05, gt=0.0, le=1.0)
    """Step size of the s."""
    most: float = Field(default=20.0, gt=0.0)
    """Largest lambda."""

    def bounds(self) -> tuple[float, float]:
        return 0.0, self.most

    def begin(self) -> State:
        return (0.0, 0.0)

    def read(self, state: State) -> float:
        return min(math.exp(state[0] - state[1]), self.most)

    def update(self, state: State, means: StepMeans, kind: str, progress: float) -> State:
        hard, soft = state
        if means.hard is not None:
            hard = self._follow(hard, means.hard)
        return hard, self._follow(soft, means.gaps[kind])

    def _follow(self, s: float, loss: float) -> float:
        # Bounded, because a loss near 0 would take s to minus infinity.
        return min(max(s - self.rate * (1.0 - math.exp(-s) * loss), -10.0), 10.0)


_FIXED = Constant | Linear | Cosine | Exponential | Step | Warmup | WarmupStableDecay | TeacherAnnealing
Temperature = Annotated[
    _FIXED | AdversarialTemperature | TargetEntropy,
    Field(discriminator="kind"),
    BeforeValidator(number_is_constant),
]
"""Any schedule, a learned temperature, or one for each unit."""
Factor = Annotated[
    _FIXED | Constraint | Uncertainty, Field(discriminator="kind"), BeforeValidator(number_is_constant)
]
"""Any schedule, or a learned factor of a term."""
