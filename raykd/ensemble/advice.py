"""Advise which teacher to drop or to add, and where.

Decision record: nothing is said where an interval holds 0. A teacher is dropped altogether where no language needs it:
where it neither helps nor is about as good as the others, alone. A copy of another teacher changes no score, so it is
found by its errors: two teachers that are wrong on the same rows with the same labels are one teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raykd.ensemble.agreement import PairAgreement
from raykd.ensemble.expected_changes import ExpectedChange, ExpectedChanges
from raykd.tasks.scores.chance import compute_wilson_interval

AdviceKind = Literal["drop", "drop_in", "copy", "add_in"]
NEAR = 0.05
"""A teacher whose own score is at most this far below the mean of the others' is worth keeping in a language."""
SHARED_ERRORS = 0.8
"""Two teachers are copies where surely more than this share of their errors is the same."""
EQUAL_ANSWERS = 0.95
"""... and where at least this share of their answers is."""
LEAST_KAPPA = 0.8
"""... and their kappa is at least this, which two that always say the same label do not reach."""
FEWEST_ERRORS = 12
"""... of at least this many."""


@dataclass(frozen=True)
class Advice:
    """One change that is worth making. Changes are judged one at a time.

    Attributes:
        kind: What to do: drop a teacher, drop it in some languages, drop one of two copies, add it in some languages.
        teacher: Its name.
        languages: Where.
        change: What is expected; None for a copy in languages where nobody else covers it.
        other: Of which teacher it is a copy; empty otherwise.
        pair: How alike the two are; None otherwise.
    """

    kind: AdviceKind
    teacher: str
    languages: tuple[str, ...]
    change: ExpectedChange | None
    other: str = ""
    pair: PairAgreement | None = None


def advise(
    teachers: Sequence[str],
    changes: ExpectedChanges,
    pairs: Sequence[PairAgreement],
    costs: Sequence[float] | None = None,
) -> tuple[Advice, ...]:
    """Return what is worth changing, drops first.

    Args:
        teachers: Names, in the order of the changes.
        changes: What is expected of each change.
        pairs: How alike each two teachers are.
        costs: What each teacher costs, by which one of two copies is chosen; None where it is not known.
    """
    alike = [pair for pair in pairs if _are_copies(pair)]
    copied = {name for pair in alike for name in (pair.first, pair.second)}
    # Two copies count twice where one of them is enough: that alone may make either look harmful.
    own = [m for m, name in enumerate(teachers) if name not in copied]
    drops = [found for m in own if (found := _advise_drop(teachers, m, changes))]
    copies = [_advise_on_copy(teachers, pair, changes, costs) for pair in alike]
    adds = []
    for m, teacher in enumerate(teachers):
        good = [x for x in changes.list_languages("add", m) if changes.found["add", m, x].helps]
        if good:
            adds.append(Advice("add_in", teacher, tuple(good), changes.join("add", m, good)))
    return (*drops, *copies, *adds)


def _advise_drop(teachers: Sequence[str], m: int, changes: ExpectedChanges) -> Advice | None:
    possible = changes.list_languages("drop", m)
    if not possible:
        return None
    good = [x for x in possible if changes.found["drop", m, x].helps]
    needed = [x for x in possible if x not in good and _is_needed(changes, m, x)]
    whole = changes.join("drop", m, possible)
    spoken = [x for x in changes.languages if (m, x) in changes.alone]
    if (good or whole.helps) and not needed and len(possible) == len(spoken):
        return Advice("drop", teachers[m], possible, whole)
    if not good:
        # Together they may say what none says alone.
        good = [x for x in possible if x not in needed]
        if not good or not whole.helps or not changes.join("drop", m, good).helps:
            return None
    return Advice("drop_in", teachers[m], tuple(good), changes.join("drop", m, good))


def _is_needed(changes: ExpectedChanges, m: int, language: str) -> bool:
    """Return whether a teacher should stay in a language: it helps there, or is about as good as the others alone."""
    others = [score for (k, x), score in changes.alone.items() if k != m and x == language]
    near = changes.alone[m, language] >= sum(others) / len(others) - NEAR
    change = changes.found["drop", m, language]
    return change.hurts or near or not change.harms_pairs


def _are_copies(pair: PairAgreement) -> bool:
    if pair.wrong < FEWEST_ERRORS or pair.share < EQUAL_ANSWERS or (pair.kappa or 0.0) < LEAST_KAPPA:
        return False
    low, _ = compute_wilson_interval(pair.same_wrong, pair.wrong)
    return low > SHARED_ERRORS


def _advise_on_copy(
    teachers: Sequence[str], pair: PairAgreement, changes: ExpectedChanges, costs: Sequence[float] | None
) -> Advice:
    """Return the advice to drop the dearer one of two copies; at equal cost the one with fewer languages."""
    both = [teachers.index(pair.first), teachers.index(pair.second)]
    spoken = {m: sum((m, x) in changes.alone for x in changes.languages) for m in both}
    dearer = max(both, key=lambda m: (0.0 if costs is None else costs[m], -spoken[m], m))
    possible = changes.list_languages("drop", dearer)
    change = changes.join("drop", dearer, possible) if possible else None
    other = both[0] if dearer == both[1] else both[1]
    return Advice("copy", teachers[dearer], possible, change, teachers[other], pair)
