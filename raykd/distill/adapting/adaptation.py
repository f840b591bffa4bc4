"""Put learned values into an objective, measure what they learn from, and update them.

Decision record: all that is learned follows from detached logits of the student, computed beside the loss, so no
divergence has to be differentiable by the temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from raykd.distill.adapting.learned import LearnedBase, State, StepMeans
from raykd.distill.adapting.softening import make_softened_parts
from raykd.distill.losses import compute_gold_losses
from raykd.distill.objective import Objective
from raykd.distill.parts import sum_over_parts
from raykd.distill.schedules import Constant, ScheduleBase
from raykd.distill.shares import Counts, ObjectiveResult
from raykd.distill.signals import Signals

V = TypeVar("V")
_WEIGHTING = "weighting/"
_STEP = 0.01
"""Of the difference by the temperature, as a share of it: float32 rounds a loss to 1e-7, so the slope to 1e-5."""


@dataclass(frozen=True)
class UnitGap:
    """How far the student is from its teachers, by units.

    Attributes:
        gap_N: ``T^k D``, float32.
        covered_N: Whether a teacher covers the unit; the gap means nothing elsewhere.
    """

    gap_N: torch.Tensor
    covered_N: torch.Tensor


def name_weighting(states: Mapping[str, State]) -> dict[str, State]:
    """Return what a weighting has learned under the names of a run's states."""
    return {f"{_WEIGHTING}{name}": state for name, state in states.items()}


def read_weighting(states: Mapping[str, V]) -> dict[str, V]:
    """Return what a weighting has learned, under its own names."""
    return {name[len(_WEIGHTING) :]: own for name, own in states.items() if name.startswith(_WEIGHTING)}


def list_learned(objective: Objective) -> dict[str, LearnedBase]:
    """Return the learned values of an objective: under "temperature", or the kind of a term's divergence."""
    values: dict[str, ScheduleBase] = {"temperature": objective.temperature}
    values |= {term.divergence.kind: term.lambda_schedule for term in objective.terms}
    return {name: value for name, value in values.items() if isinstance(value, LearnedBase)}


def fix_learned(objective: Objective, states: Mapping[str, State]) -> Objective:
    """Return the objective with each learned value as a constant; one without a state is at its start."""
    learned = list_learned(objective)
    weighting = objective.weighting.with_states(read_weighting(states))
    if not learned:
        same = weighting is objective.weighting
        return objective if same else objective.model_copy(update={"weighting": weighting})
    values = {
        name: Constant(value=value.read(states.get(name) or value.begin())) for name, value in learned.items()
    }
    terms = tuple(
        term.model_copy(update={"lambda_schedule": values[term.divergence.kind]})
        if term.divergence.kind in values
        else term
        for term in objective.terms
    )
    return objective.model_copy(
        update={
            "terms": terms,
            "temperature": values.get("temperature", objective.temperature),
            "weighting": weighting,
        }
    )


def measure_gaps(
    objective: Objective,
    student_NC: torch.Tensor,
    labels_N: torch.Tensor,
    signals: Signals,
    progress: float,
    *,
    change: float = 1.0,
) -> dict[str, UnitGap]:
    """Return how far the student is from its teachers, by the kind of each term's divergence; carries no gradient.

    Args:
        objective: With learned values fixed.
        student_NC: The student's logits.
        labels_N: Gold labels, or `UNLABELLED`.
        signals: The teachers' answers.
        progress: u in [0, 1].
        change: Factor of the temperature at which it is measured; the teachers' weights are those of the run's.
    """
    with torch.no_grad():
        logits_NC, values = student_NC.float(), objective.values_at(progress)
        weights_MN = objective.weighting.weights(signals, logits_NC, values.temperature)
        temperature = values.temperature * change
        parts = make_softened_parts(
            objective.temperature, logits_NC, signals, weights_MN, temperature, objective.mixture
        )
        return {
            term.divergence.kind: UnitGap(*sum_over_parts(term.divergence, parts, temperature, labels_N))
            for term in objective.terms
        }


def measure_step(
    objective: Objective,
    learned: Mapping[str, LearnedBase],
    student_NC: torch.Tensor,
    labels_N: torch.Tensor,
    signals: Signals,
    progress: float,
) -> dict[str, torch.Tensor]:
    """Return what learned values need of a micro-batch, as sums over its units.

    Args:
        objective: With these values fixed.
        learned: From `list_learned`.
        student_NC: The student's logits.
        labels_N: Gold labels, or `UNLABELLED`.
        signals: The teachers' answers.
        progress: u in [0, 1].
    """

    def add_up(change: float) -> dict[str, torch.Tensor]:
        gaps = measure_gaps(objective, student_NC.detach(), labels_N, signals, progress, change=change)
        return {kind: torch.where(gap.covered_N, gap.gap_N, 0.0).sum() for kind, gap in gaps.items()}

    sums = {f"gap/{kind}": value for kind, value in add_up(1.0).items()}
    if "temperature" in learned:
        values = objective.values_at(progress)
        above, below = add_up(1.0 + _STEP), add_up(1.0 - _STEP)
        rises = [values.lambdas[kind] * (above[kind] - below[kind]) for kind in above]
        sums["slope"] = torch.stack(rises).sum() / (2.0 * _STEP * values.temperature)
    return sums


def list_measured(objective: Objective) -> list[str]:
    """Return the names of the sums of `measure_step`, and of that of the gold labels."""
    return ["hard", "slope", *(f"gap/{term.divergence.kind}" for term in objective.terms)]


def update_states(
    objective: Objective, states: Mapping[str, State], sums: Sequence[float], totals: Counts, progress: float
) -> dict[str, State]:
    """Return the states after a step.

    Args:
        objective: The run's.
        states: Before the step.
        sums: Over all ranks and micro-batches, as `list_measured` names them.
        totals: The step's units.
        progress: u in [0, 1].
    """
    covered = totals.soft - totals.uncovered
    if not covered:
        return dict(states)
    hard, slope, *gaps = sums
    kinds = [term.divergence.kind for term in objective.terms]
    means = StepMeans(
        gaps={kind: gap / covered for kind, gap in zip(kinds, gaps, strict=True)},
        slope=slope / covered,
        hard=hard / totals.hard if totals.hard else None,
    )
    changed = {
        name: value.update(states.get(name) or value.begin(), means, name, progress)
        for name, value in list_learned(objective).items()
    }
    return dict(states) | changed


class Adaptation:
    """Keeps the states of an objective's learned values; does nothing where it has none.

    Attributes:
        states: By the value's name, kept in checkpoints.

    Args:
        begun: What the weighting begins with.
    """

    def __init__(self, begun: Mapping[str, State]) -> None:
        self._begun = name_weighting(begun)
        self.states: dict[str, State] = dict(self._begun)

    def load(self, states: Mapping[str, Sequence[float]]) -> None:
        """Take the states of a checkpoint; a trial's may be of another weighting, and then its own begins anew."""
        self.states = {name: tuple(state) for name, state in states.items()}
        if not self._begun.keys() <= states.keys():
            others = {name: own for name, own in self.states.items() if not name.startswith(_WEIGHTING)}
            self.states = others | self._begun

    def fix(self, objective: Objective) -> Objective:
        """Return the objective with the values that were learned so far."""
        return fix_learned(objective, self.states)

    def measure(
        self,
        objective: Objective,
        result: ObjectiveResult,
        student_NC: torch.Tensor,
        labels_N: torch.Tensor,
        signals: Signals | None,
        progress: float,
    ) -> ObjectiveResult:
        """Add to the result of a micro-batch what the values learn from.

        Args:
            objective: The run's.
            result: Of the objective with the values fixed.
            student_NC: The student's logits.
            labels_N: Gold labels.
            signals: The teachers' answers; None in plain training.
            progress: Step / total steps, in [0, 1].
        """
        learned, fixed = list_learned(objective), self.fix(objective)
        if signals is None:
            return result
        sums: dict[str, torch.Tensor] = {}
        if learned:
            sums = measure_step(fixed, learned, student_NC, labels_N, signals, progress)
        if fixed.weighting.inner.reads_losses:
            loss_N = compute_gold_losses(student_NC.detach().float(), labels_N)
            found = fixed.weighting.measure(signals, loss_N)
            sums |= {f"{_WEIGHTING}{name}": value for name, value in found.items()}
        return replace(result, sums=result.sums | sums)

    def update(
        self,
        objective: Objective,
        found: Sequence[Mapping[str, float]],
        totals: Counts,
        progress: float,
        reduce: Callable[[list[float]], list[float]],
    ) -> bool:
        """Learn from a step and return whether the weighting is another one now; all ranks must call.

        Args:
            objective: The run's.
            found: The sums of this rank's micro-batches.
            totals: The step's units over all ranks.
            progress: Step / total steps, in [0, 1].
            reduce: Adds up numbers over all ranks.
        """
        if not totals.soft:
            return False
        if list_learned(objective):
            sums = _add_up(list_measured(objective), found, reduce)
            self.states = update_states(objective, self.states, list(sums.values()), totals, progress)
        if not objective.weighting.inner.reads_losses:
            return False
        names = [name for name in found[0] if name.startswith(_WEIGHTING)]
        sums = read_weighting(_add_up(names, found, reduce))
        states, is_other = self.fix(objective).weighting.learn(sums, progress)
        self.states |= name_weighting(states)
        return is_other


def _add_up(
    names: Sequence[str],
    found: Sequence[Mapping[str, float]],
    reduce: Callable[[list[float]], list[float]],
) -> dict[str, float]:
    sums = reduce([sum(one.get(name, 0.0) for one in found) for name in names])
    return dict(zip(names, sums, strict=True))
