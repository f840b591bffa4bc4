"""Schedules: pure functions of progress ``u = step / total steps`` in [0, 1].

Decision record: a schedule knows no step, no epoch and no optimizer, so an early-stopping search does not bend a
curve and a resumed run continues on it. Every member is monotone between its `knots`, which is what lets
`bounds` give the exact range without sampling.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from raykd.spec import Spec

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

ROUNDING = 1e-6
"""How far outside [0, 1] progress may lie and still be called a rounding error."""


class ScheduleBase(Spec):
    """Base of all schedules; a subclass defines `_at` and, if it has corners, `knots`."""

    kind: str

    def value_at(self, progress: float) -> float:
        """Return the value at progress u; u is clamped to [0, 1] where only rounding pushed it out.

        Raises:
            ValueError: Progress is NaN, or outside [0, 1] by more than rounding.
        """
        if not -ROUNDING <= progress <= 1.0 + ROUNDING:
            raise ValueError(f"progress is {progress}; it must be step / total steps, in [0, 1]")
        return self._at(min(max(float(progress), 0.0), 1.0))

    def knots(self) -> tuple[float, ...]:
        """Return points of [0, 1], both ends included, between which the schedule is monotone."""
        return (0.0, 1.0)

    def bounds(self) -> tuple[float, float]:
        """Return the smallest and largest value on [0, 1]."""
        values = [self._at(u) for u in self.knots()]
        return min(values), max(values)

    @abstractmethod
    def _at(self, u: float) -> float:
        """Return the value at u, which lies in [0, 1]."""


class Constant(ScheduleBase):
    """``value``; a bare number in a YAML means this."""

    kind: Literal["constant"] = "constant"
    value: float = 1.0
    """The value, at any progress."""

    def _at(self, u: float) -> float:
        return self.value


class Linear(ScheduleBase):
    """``(1 - u) start + u end``; exact at both ends."""

    kind: Literal["linear"] = "linear"
    start: float = 1.0
    """Value at u = 0."""
    end: float = 0.0
    """Value at u = 1."""

    def _at(self, u: float) -> float:
        return _interpolate(self.start, self.end, u)


class Cosine(ScheduleBase):
    """``end + (start - end) (1 + cos(pi u)) / 2``."""

    kind: Literal["cosine"] = "cosine"
    start: float = 1.0
    """Value at u = 0."""
    end: float = 0.0
    """Value at u = 1."""

    def _at(self, u: float) -> float:
        return _interpolate(self.start, self.end, (1.0 - math.cos(math.pi * u)) / 2.0)


class Exponential(ScheduleBase):
    """``max(end, start exp(-rate u))``; ``end`` is a floor, reached only if ``rate`` is large enough."""

    kind: Literal["exponential"] = "exponential"
    start: float = Field(default=1.0, ge=0.0)
    """Value at u = 0."""
    rate: float = Field(default=3.0, ge=0.0)
    """Speed of the decay: the value at u = 1 is `start` x exp(-rate)."""
    end: float = 0.0
    """Floor."""

    @model_validator(mode="after")
    def _floor_below_start(self) -> Exponential:
        if self.end > self.start:
            raise ValueError(f"end ({self.end}) is a floor and must not lie above start ({self.start})")
        return self

    def _at(self, u: float) -> float:
        return max(self.end, self.start * math.exp(-self.rate * u))


class Step(ScheduleBase):
    """``values[i]`` from ``at[i - 1]`` (included) to ``at[i]`` (excluded)."""

    kind: Literal["step"] = "step"
    values: tuple[float, ...] = (1.0, 0.3, 0.1)
    """One value more than there are steps."""
    at: tuple[Fraction, ...] = (0.5, 0.75)
    """Progress of each step, rising."""

    @model_validator(mode="after")
    def _one_more_value_than_steps(self) -> Step:
        if len(self.values) != len(self.at) + 1:
            raise ValueError(
                f"{len(self.values)} values need {len(self.values) - 1} points in at, not {len(self.at)}"
            )
        if any(left >= right for left, right in zip(self.at, self.at[1:], strict=False)):
            raise ValueError(f"at must increase strictly, got {self.at}")
        return self

    def knots(self) -> tuple[float, ...]:
        return (0.0, *self.at, 1.0)

    def _at(self, u: float) -> float:
        return self.values[sum(u >= point for point in self.at)]


class Warmup(ScheduleBase):
    """``value min(1, u / fraction)``: up from 0, then flat; ``fraction`` 0 is constant."""

    kind: Literal["warmup"] = "warmup"
    fraction: Fraction = 0.1
    """Share of the run until the value is reached."""
    value: float = 1.0
    """Value after the warm-up."""

    def _at(self, u: float) -> float:
        return self.value * _rise(u, self.fraction)


class WarmupStableDecay(ScheduleBase):
    """Linear from 0 to ``value`` over ``warmup``, flat, linear to ``end`` over the last ``decay``."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    warmup: Fraction = 0.1
    """Share of the run until the value is reached."""
    decay: Fraction = 0.2
    """Share of the run over which it falls."""
    value: float = 1.0
    """Value between the two."""
    end: float = 0.0
    """Value at u = 1."""

    @model_validator(mode="after")
    def _phases_fit(self) -> WarmupStableDecay:
        if self.warmup + self.decay > 1.0 + ROUNDING:
            raise ValueError(f"warmup + decay must not exceed 1, got {self.warmup} + {self.decay}")
        return self

    def knots(self) -> tuple[float, ...]:
        return (0.0, self.warmup, 1.0 - self.decay, 1.0)

    def _at(self, u: float) -> float:
        # Measured back from the end, so that u = 1 gives `end` exactly.
        if 1.0 - u < self.decay:
            return _interpolate(self.end, self.value, (1.0 - u) / self.decay)
        return self.value * _rise(u, self.warmup)


class TeacherAnnealing(ScheduleBase):
    """``(1 - u) start + u end``, rising: as alpha, it moves the weight from teachers to gold label.

    Clark et al. 2019 (BAM, arXiv 1907.04829) train on one cross-entropy with the target
    ``u onehot(y) + (1 - u) p``. Cross-entropy is linear in its target and ``CE(p, q) = KL(p || q) + H(p)``,
    so

        ``CE(u onehot(y) + (1 - u) p, q) = u CE(y, q) + (1 - u) KL(p || q) + (1 - u) H(p)``

    where the last part does not depend on the student: with this as alpha, one forward KL with lambda 1 and
    temperature 1, the objective has exactly BAM's gradient wherever every unit is labelled and covered.
    """

    kind: Literal["teacher_annealing"] = "teacher_annealing"
    start: float = 0.0
    """Value at u = 0."""
    end: float = 1.0
    """Value at u = 1."""

    def _at(self, u: float) -> float:
        return _interpolate(self.start, self.end, u)


def _interpolate(start: float, end: float, share: float) -> float:
    return (1.0 - share) * start + share * end


def _rise(u: float, fraction: float) -> float:
    return 1.0 if u >= fraction else u / fraction


def number_is_constant(value: object) -> object:
    """Return a bare number as the mapping of a constant; anything else as it is."""
    # bool is an int in Python, and `alpha: true` is a mistake, not a 1.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"kind": "constant", "value": value}
    return value


Schedule = Annotated[
    Constant | Linear | Cosine | Exponential | Step | Warmup | WarmupStableDecay | TeacherAnnealing,
    Field(discriminator="kind"),
    BeforeValidator(number_is_constant),
]
"""Any schedule; a number stands for `Constant`."""


S = TypeVar("S", bound=ScheduleBase)


def check_range(schedule: S, name: str, low: float, high: float = float("inf")) -> S:
    """Return a schedule that stays in a range.

    Raises:
        ValueError: It leaves the range.
    """
    smallest, largest = schedule.bounds()
    if smallest < low or largest > high:
        raise ValueError(
            f"{name} must stay in [{low}, {high}], the schedule runs from {smallest} to {largest}"
        )
    return schedule
