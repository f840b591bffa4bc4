"""What each teacher adds to the combined teachers: Shapley values in points, over all rows, by language and by class.

Decision record: the score of a coalition is that of its combined teachers on labelled validation rows under the run's
own weighting, and that of the empty one is a guess. Nothing is trained, so it is an estimate of what a teacher adds to
the target that a student learns from, not to the student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raykd.ensemble.resampling import LEVEL, ScoreParts, compute_interval, draw_samples
from raykd.ensemble.shapley import Game

Group = Literal["mean", "language", "class"]
MOST_NUMBERS = 20_000_000
"""Bound on the numbers of a bootstrap (samples times rows), for the sake of memory."""
_NORMAL = {0.95: 1.959963984540054}


@dataclass(frozen=True)
class Contribution:
    """What one teacher adds within one group of rows, in the score's unit (a rate in [0, 1]).

    Attributes:
        teacher: Its name.
        group: Over all languages (their mean), in one language, or in one class.
        name: Of the language or class; empty for the mean.
        value: Shapley value.
        low: Lower end of the 95 % interval over validation rows.
        high: Upper end.
        alone: The teacher's own score, in the languages that it answers; None where it answers none of the group.
        without: The score of all others minus that of all: above 0 if the others are better off alone.
        rows: Rows (of a class: items) that it was measured on.
    """

    teacher: str
    group: Group
    name: str
    value: float
    low: float
    high: float
    alone: float | None
    without: float
    rows: int


def limit_samples(rows: int, samples: int) -> int:
    """Return how many bootstrap samples of so many rows fit into memory, at least 200."""
    return max(200, min(samples, MOST_NUMBERS // max(1, rows)))


def compute_contributions(
    game: Game,
    parts: ScoreParts,
    teachers: Sequence[str],
    classes: Sequence[str],
    answered: Mapping[str, Sequence[bool]],
    samples: int = 1000,
) -> tuple[Contribution, ...]:
    """Compute each teacher's Shapley value over all rows, in each language and in each class.

    Args:
        game: The coalitions, in the order of the scores.
        parts: What each coalition earned with each item.
        teachers: Names, in the order of the players.
        classes: Name of each class.
        answered: For each language, whether each teacher answers it.
        samples: Bootstrap samples.
    """
    counts_RB = draw_samples(parts.languages_B, limit_samples(len(parts.languages_B), samples))
    by_language = {x: parts.pick_language(x) for x in parts.languages}
    exact = {x: parts.score(picked_I)[:, 0] for x, picked_I in by_language.items()}
    drawn = {x: parts.score(picked_I, counts_RB) for x, picked_I in by_language.items()}
    single = {
        x: [float(exact[x][game.find([m])]) if there else None for m, there in enumerate(answered[x])]
        for x in by_language
    }
    means = [_average(scores) for scores in zip(*single.values(), strict=True)]
    mean_S: NDArray[np.float64] = np.mean(list(exact.values()), axis=0)
    mean_SR: NDArray[np.float64] = np.mean(list(drawn.values()), axis=0)
    rows = len(parts.languages_B)
    found = _list_values(game, mean_S, mean_SR, teachers, means, "mean", "", rows)
    for x in by_language:
        rows = parts.languages_B.count(x)
        found += _list_values(game, exact[x], drawn[x], teachers, single[x], "language", x, rows)
    for number in parts.classes:
        picked_I = parts.pick_class(number)
        items = int((parts.bottom_SI[-1][picked_I] > 0).sum())
        scores_S, scores_SR = parts.score(picked_I)[:, 0], parts.score(picked_I, counts_RB)
        own: list[float | None] = [None] * len(teachers)  # over languages that it may not answer
        found += _list_values(game, scores_S, scores_SR, teachers, own, "class", classes[number], items)
    return tuple(found)


def _average(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def _list_values(
    game: Game,
    scores_S: NDArray[np.float64],
    scores_SR: NDArray[np.float64],
    teachers: Sequence[str],
    own: Sequence[float | None],
    group: Group,
    name: str,
    rows: int,
) -> list[Contribution]:
    # Rounded, so that a teacher that adds nothing adds exactly nothing.
    values_M = game.compute_values(scores_S).round(12)
    values_MR = game.compute_values(scores_SR).round(12)
    error_M = _NORMAL[LEVEL] * game.compute_sampling_error(scores_S)
    found = []
    for m, teacher in enumerate(teachers):
        low, high = compute_interval(values_MR[m])
        value = float(values_M[m])
        # Rows and orders are drawn apart, so their half-widths add as squares.
        down, up = np.hypot(max(0.0, value - low), error_M[m]), np.hypot(max(0.0, high - value), error_M[m])
        without = float(scores_S[game.find_without(m)] - scores_S[-1])
        found.append(
            Contribution(
                teacher,
                group,
                name,
                value,
                float(value - down),
                float(value + up),
                own[m],
                without,
                rows,
            )
        )
    return found
