"""Sections of the GPU table: figures with goals, a budget of time, and failures that are caught by name."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.gpu_parts.context import Context


@dataclass(frozen=True)
class Figure:
    """One figure. value is None where it cannot be measured on this device."""

    what: str
    value: float | None
    goal: str
    detail: str = ""

    @property
    def verdict(self) -> str:
        """Return whether the goal, such as ">= 0.8" or "<= 16", is met."""
        if self.value is None or not self.goal:
            return ""
        relation, _, bound = self.goal.partition(" ")
        met = self.value >= float(bound) if relation == ">=" else self.value <= float(bound)
        return "met" if met else "MISSED"

    @property
    def shown(self) -> str:
        """Return the value as the table says it."""
        return "not on a CPU" if self.value is None else f"{self.value:.3g}"


@dataclass(frozen=True)
class Section:
    """A part of the table that runs alone. seconds: what it takes on one H100, by estimate, at full size."""

    name: str
    run: Callable[[Context], list[Figure]]
    seconds: float


@dataclass
class Outcome:
    """What became of a section. Written by `run_sections`, read by the table and the JSON file."""

    name: str
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)
    failure: str = ""
    trace: str = ""


def run_sections(sections: Sequence[Section], context: Context, budget_s: float) -> Iterator[Outcome]:
    """Run sections in their order; one that fails, or no longer fits, is said so and the others go on.

    Args:
        sections: The most important first.
        context: What they share.
        budget_s: Seconds for all of them. At the toy size a section's estimate does not count.
    """
    begun = time.monotonic()
    for section in sections:
        left = budget_s - (time.monotonic() - begun)
        wanted = section.seconds if context.is_full else 0.0
        outcome = Outcome(section.name)
        if left < wanted or left <= 0:
            outcome.failure = f"not run: out of time ({left:.0f} s left, about {wanted:.0f} s wanted)"
        else:
            context.left_s = left
            at = time.monotonic()
            try:
                outcome.figures = section.run(context)
            except Exception as error:  # a section must not take the others with it
                outcome.failure, outcome.trace = f"{type(error).__name__}: {error}", traceback.format_exc()
            finally:
                context.release()
            outcome.seconds = time.monotonic() - at
        yield outcome
