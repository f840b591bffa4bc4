"""Define what a weighting is: how much each teacher counts for each unit.

Decision record: weights are non-negative and sum to 1 over a unit's eligible teachers, whatever the weighting, so
comparing two weightings never compares two strengths of distillation. `eligible` is separate from `weights` because the
objective counts units before it has seen a student's output, and counting needs no logits. What a weighting reads
(gold labels, the student, a column of the rows) is said by class variables, so that a run that lacks it is refused
before it starts. Which teachers are asked about a row, and which have weight for a unit, follows from one preference
(`prefer`), so that no teacher is asked in vain and none has weight unasked.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import ClassVar, Self, TypeVar

import torch
from pydantic import PrivateAttr

from raykd.devices import copy_to_device
from raykd.distill.signals import UNLABELLED, Signals
from raykd.spec import Spec

Languages = frozenset[str] | None
"""The languages a teacher was declared for; None for any."""
States = Mapping[str, tuple[float, ...]]
"""What a weighting has learned, by names of its own."""
V = TypeVar("V", bound=Hashable)


class WeightingBase(Spec):
    """Base of all weightings; a subclass says how weight is spread over the eligible teachers."""

    needs_probabilities: ClassVar[bool] = False
    """Whether it reads how sure the teachers are, so that it has no meaning for answers that are numbers."""
    reads_gold: ClassVar[bool] = False
    """Whether it reads gold labels, so that it has nothing to go by where no row has one."""
    reads_student: ClassVar[bool] = False
    """Whether it reads the student's logits of all units of a micro-batch at once. Without a student it is uniform."""
    reads_losses: ClassVar[bool] = False
    """Whether it learns from the student's losses of labelled training units (`begin`, `measure`, `learn`)."""
    reads_groups: ClassVar[bool] = False
    """Whether it reads the column `data.columns.group`."""
    has_preferences: ClassVar[bool] = False
    """Whether it prefers some teachers for a row (`prefer`)."""
    kind: str

    @property
    def inner(self) -> WeightingBase:
        """The weighting that spreads weight over most teachers: itself, unless it holds another one."""
        return self

    def check(
        self, teachers: Sequence[str], teacher_languages: Sequence[Languages], languages: Sequence[str]
    ) -> None:
        """Refuse teachers or languages that this weighting cannot serve.

        Args:
            teachers: Names of the run's teachers.
            teacher_languages: The languages that each was declared for.
            languages: Languages of the run's rows.

        Raises:
            ConfigError: A name is missing or unknown.
        """

    def prefer(self, teacher: str, declared: Languages, language: str, group: str | None) -> float:
        """Return the rank of a teacher for a row: those of the smallest rank share it, infinity is none of it.

        Args:
            teacher: Its name.
            declared: The languages that it was declared for.
            language: Of the row.
            group: The row's value in the column `data.columns.group`; None for a row of any group.
        """
        return 0.0

    def may_need(
        self,
        language: str,
        teachers: Sequence[str],
        teacher_languages: Sequence[Languages],
        group: str | None = None,
    ) -> tuple[bool, ...]:
        """Return, per teacher, whether a row could give it a positive weight.

        Rows are sent only to these teachers, so an answer of False saves a forward pass.

        Args:
            language: Of the row.
            teachers: Names of the run's teachers.
            teacher_languages: The languages that each was declared for.
            group: The row's value in the column `data.columns.group`; None for a row of any group.
        """
        ranks = [
            self.prefer(name, declared, language, group) if speaks(declared, language) else math.inf
            for name, declared in zip(teachers, teacher_languages, strict=True)
        ]
        best = min(ranks, default=math.inf)
        return tuple(rank == best < math.inf for rank in ranks)

    def without(self, gone: Collection[str]) -> WeightingBase:
        """Return the weighting of a run that has not these teachers; it names none of them."""
        return self

    def count_needed(self, teachers: int) -> int:
        """Return how many labelled validation rows it learns from at least; 0 of one that learns from none."""
        return 0

    def fit(self, held_out: Signals) -> States:
        """Learn from the teachers' answers to the validation rows, which carry gold labels."""
        return {}

    def begin(self, seed: int, teachers: Sequence[str], languages: Sequence[str]) -> States:
        """Return what one that learns while the student does begins with."""
        return {}

    def measure(self, signals: Signals, loss_N: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what it learns from of a micro-batch, as sums over the units."""
        return {}

    def learn(self, sums: Mapping[str, float], progress: float) -> tuple[States, bool]:
        """Return what it has learned after a step, and whether weights are others from there on.

        Args:
            sums: Of `measure`, over all ranks and micro-batches of the step.
            progress: u in [0, 1].
        """
        return {}, False

    def with_states(self, states: States) -> WeightingBase:
        """Return the weighting with what it has learned."""
        return self

    def eligible(self, signals: Signals) -> torch.Tensor:
        """Return the covering teachers among whom a unit's weight is spread, bool ``[M, N]``; needs no logits."""
        if not self.has_preferences:
            return signals.covered_MN
        groups = signals.groups or ("",) * len(signals.languages)
        teachers = list(zip(signals.teachers, signals.teacher_languages, strict=True))
        rank_MN = lay_out_table(
            list(zip(signals.languages, groups, strict=True)),
            lambda row: [self.prefer(name, declared, *row) for name, declared in teachers],
            signals,
        ).masked_fill(~signals.covered_MN, torch.inf)
        return (rank_MN == rank_MN.amin(dim=0, keepdim=True)) & rank_MN.isfinite()

    def weights(
        self, signals: Signals, student_NC: torch.Tensor | None = None, temperature: float = 1.0
    ) -> torch.Tensor:
        """Return the teacher weights per unit.

        Args:
            signals: The teachers' answers.
            student_NC: The student's logits; None where there is no student, as when teachers are scored together.
            temperature: T of the run's divergences.

        Returns:
            float32 ``[M, N]``, no gradient. Each column sums to 1, or to 0 where no teacher is eligible.
        """
        with torch.no_grad():
            known_MN = signals.eligible_MN
            eligible_MN = self.eligible(signals) if known_MN is None else known_MN
            if not self.reads_student:
                return self._spread(signals, eligible_MN)
            if student_NC is None:
                return spread_evenly(eligible_MN)
            return self._spread_for_student(signals, eligible_MN, student_NC.float(), temperature)

    @abstractmethod
    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        """Spread the weight of each unit over its eligible teachers, ``[M, N]``."""

    def _spread_for_student(
        self, signals: Signals, eligible_MN: torch.Tensor, student_NC: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """Spread it where `reads_student`."""
        return self._spread(signals, eligible_MN)


class LearnedWeighting(WeightingBase):
    """Base of weightings that learn from gold labels; without what they learn they are uniform.

    They are so where teachers are scored together, because what chose the weights must not judge them.
    """

    needs_probabilities: ClassVar[bool] = True
    learns_from_answers: ClassVar[bool] = True
    """Whether it learns from the teachers' answers to validation rows (`fit`), or from the student's losses."""
    _states: States = PrivateAttr(default_factory=dict)

    @property
    def states(self) -> States:
        """What it has learned."""
        return self._states

    def with_states(self, states: States) -> Self:
        made = self.model_copy()
        made._states = dict(states)
        return made

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return self._spread_as_learned(signals, eligible_MN) if self._states else spread_evenly(eligible_MN)

    @abstractmethod
    def _spread_as_learned(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        """Spread the weight of each unit by what was learned, ``[M, N]``."""


def find_judged(held_out: Signals) -> torch.Tensor:
    """Return the answers that a gold label judges, bool ``[M, N]``."""
    return held_out.covered_MN & (held_out.labels_N != UNLABELLED)


def speaks(declared: Languages, language: str) -> bool:
    """Return whether a teacher was declared for a language."""
    return declared is None or language in declared


def lay_out_table(
    values: Sequence[V], list_numbers: Callable[[V], list[float]], signals: Signals
) -> torch.Tensor:
    """Return ``[M, N]``: numbers of teachers that follow from a value of the unit, float64 on the signals' device.

    float64, so that a very small weight renormalises to 1 where its teacher stands alone.

    Args:
        values: Of each unit.
        list_numbers: Returns the numbers ``[M]`` of a value.
        signals: The answers.
    """
    position = {value: i for i, value in enumerate(dict.fromkeys(values))}
    table_VM = torch.tensor([list_numbers(value) for value in position], dtype=torch.float64)
    table_VM = table_VM.reshape(len(position), len(signals.teachers))
    index_N = torch.tensor([position[value] for value in values], dtype=torch.int64)
    return copy_to_device(table_VM.T[:, index_N], signals.covered_MN.device)


def spread_evenly(eligible_MN: torch.Tensor) -> torch.Tensor:
    """Return equal weights over the eligible teachers of each unit, ``[M, N]``."""
    return eligible_MN.float() / eligible_MN.sum(dim=0, keepdim=True).clamp_min(1)


def normalise(weight_MN: torch.Tensor, eligible_MN: torch.Tensor) -> torch.Tensor:
    """Return weights >= 0 scaled to sum to 1 over the eligible teachers of each unit, ``[M, N]``, float32."""
    weight_MN = torch.where(eligible_MN, weight_MN, 0.0)
    return torch.where(eligible_MN, weight_MN / weight_MN.sum(dim=0, keepdim=True), 0.0).float()


def softmax_over_teachers(score_MN: torch.Tensor, eligible_MN: torch.Tensor) -> torch.Tensor:
    """Return the softmax of scores over the eligible teachers of each unit, ``[M, N]``."""
    # A column without an eligible teacher is all -inf and its softmax NaN; the second mask makes it 0.
    weight_MN = score_MN.masked_fill(~eligible_MN, -torch.inf).softmax(dim=0)
    return torch.where(eligible_MN, weight_MN, 0.0)
