"""What each teacher adds to the combined teachers: Shapley values in points, over all rows, by language and by class.

Decision record: the score of a coalition is that of its combined teachers on labelled validation rows under the run's
own weighting, and that of the empty one is a guess. Nothing is trained, so it is an estimate of what a teacher adds to
the target that a student learns from, not to the student.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        alone: The teacher's own score.
        without: The score of all others minus that of all: above 0 if the others are better off alone.
        rows: Rows (of a class: items) that it was measured on.
    """

    teacher: str
    group: Group
    name: str
    value: float
    low: float
    high: float
    alone: float
    without: float
    rows: int


def limit_samples(rows: int, samples: int) -> int:
    """Return how many bootstrap samples of so many rows fit into memory, at least 200."""
    return max(200, min(samples, MOST_NUMBERS // max(1, rows)))


def compute_contributions(
    game: Game, parts: ScoreParts, teachers: Sequence[str], classes: Sequence[str], samples: int = 1000
) -> tuple[Contribution, ...]:
    """Compute each teacher's Shapley value over all rows, in each language and in each class.

    Args:
        game: The coalitions, in the order of the scores.
        parts: What each coalition earned with each item.
        teachers: Names, in the order of the players.
        classes: Name of each class.
        samples: Bootstrap samples.
    """
    counts_RB = draw_samples(parts.languages_B, limit_samples(len(parts.languages_B), samples))
    by_language = {x: parts.pick_language(x) for x in parts.languages}
    drawn = {x: parts.score(picked_I, counts_RB) for x, picked_I in by_language.items()}
    found = []
    exact_S = parts.score_mean()[:, 0]
    mean_SR: NDArray[np.float64] = np.mean(list(drawn.values()), axis=0)
    found += _list_values(game, exact_S, mean_SR, teachers, "mean", "", len(parts.languages_B))
    for language, picked_I in by_language.items():
        rows = parts.languages_B.count(language)
        scores_S = parts.score(picked_I)[:, 0]
        found += _list_values(game, scores_S, drawn[language], teachers, "language", language, rows)
    for number in parts.classes:
        picked_I = parts.pick_class(number)
        items = int((parts.bottom_SI[-1][picked_I] > 0).sum())
        scores_SR, scores_S = parts.score(picked_I, counts_RB), parts.score(picked_I)[:, 0]
        found += _list_values(game, scores_S, scores_SR, teachers, "class", classes[number], items)
    return tuple(found)


def _list_values(
    game: Game,
    scores_S: NDArray[np.float64],
    scores_SR: NDArray[np.float64],
    teachers: Sequence[str],
    group: Group,
    name: str,
    rows: int,
) -> list[Contribution]:
    values_M, values_MR = game.compute_values(scores_S), game.compute_values(scores_SR)
    error_M = _NORMAL[LEVEL] * game.compute_sampling_error(scores_S)
    found = []
    for m, teacher in enumerate(teachers):
        low, high = compute_interval(values_MR[m])
        value = float(values_M[m])
        # Rows and orders are drawn apart, so their half-widths add as squares.
        down, up = np.hypot(max(0.0, value - low), error_M[m]), np.hypot(max(0.0, high - value), error_M[m])
        alone, without = scores_S[game.find([m])], scores_S[game.find_without(m)] - scores_S[-1]
        found.append(
            Contribution(
                teacher,
                group,
                name,
                value,
                float(value - down),
                float(value + up),
                float(alone),
                float(without),
                rows,
            )
        )
    return found
