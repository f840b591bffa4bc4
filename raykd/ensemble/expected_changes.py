"""What would change if a teacher were dropped, or asked where the weighting does not ask it, with intervals.

Decision record: a change is judged by two scores, the task's own and NLL at the best temperature. The first is what
people read; the second sees what labels alone do not: the student learns from probabilities. Among many teachers one
bad one does little harm, so it is also looked at beside each single other teacher, where it shows. Intervals are
corrected for the number of all that are looked at, so that a healthy ensemble seldom gets a wrong advice. A teacher is
dropped only where others cover its rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import Signals
from raykd.distill.targets import Mixture
from raykd.distill.weighting import Weighting
from raykd.ensemble.contributions import limit_samples
from raykd.ensemble.mixing import Combined, mix_coalition, mix_with_another
from raykd.ensemble.resampling import SAMPLES, ScoreParts, compute_interval, draw_samples
from raykd.ensemble.units import LabelledUnits

Action = Literal["drop", "add"]
COVERED = 0.99
"""Share of a language's units that others must cover for a teacher to be dropped there, or that it must cover itself
to be added there."""
INTERVALS = 4
"""Intervals of one change: two scores, each for all teachers and for pairs."""


@dataclass(frozen=True)
class Estimate:
    """An expected change of a score, above 0 for the better, with an interval.

    Attributes:
        value: In the score's unit.
        low: Lower end of the interval.
        high: Upper end.
        samples_R: The change in each bootstrap sample.
    """

    value: float
    low: float
    high: float
    samples_R: NDArray[np.float64] = field(repr=False, compare=False)

    @classmethod
    def of(cls, value: float, samples_R: NDArray[np.float64], comparisons: int) -> Estimate:
        """Return an estimate with its interval, corrected for the number of comparisons."""
        return cls(float(value), *compute_interval(samples_R, comparisons), samples_R)

    @classmethod
    def average(cls, estimates: Iterable[Estimate], comparisons: int) -> Estimate:
        """Return the mean of changes that are made at once."""
        parts = list(estimates)
        drawn_R: NDArray[np.float64] = np.mean([p.samples_R for p in parts], axis=0)
        return cls.of(float(np.mean([p.value for p in parts])), drawn_R, comparisons)


@dataclass(frozen=True)
class ExpectedChange:
    """A teacher dropped or added in some languages.

    Attributes:
        action: What is done.
        teacher: The teacher's position.
        languages: Where.
        score: Expected change of the score of all teachers together, mean over these languages.
        nll: Expected change of their negative NLL, nats.
        pair_score: The same for the teacher beside one other teacher, mean over the others; None for one to add.
        pair_nll: The same of the negative NLL.
    """

    action: Action
    teacher: int
    languages: tuple[str, ...]
    score: Estimate
    nll: Estimate
    pair_score: Estimate | None = None
    pair_nll: Estimate | None = None

    @property
    def surely_helps(self) -> bool:
        """Whether one of the scores of all together surely rises, and the other is not expected to fall."""
        return self._may_help and (self.score.low > 0 or self.nll.low > 0)

    @property
    def helps_pairs(self) -> bool:
        """Whether pairs are surely better off without the teacher, and all together are not expected to be worse."""
        surely = any(pair is not None and pair.low > 0 for pair in (self.pair_score, self.pair_nll))
        return self._may_help and self.harms_pairs and surely

    @property
    def harms_pairs(self) -> bool:
        """Whether pairs are expected to be better off without the teacher."""
        return all(pair is not None and pair.value >= 0 for pair in (self.pair_score, self.pair_nll))

    @property
    def helps(self) -> bool:
        """Whether there is reason to make the change."""
        return self.surely_helps or self.helps_pairs

    @property
    def hurts(self) -> bool:
        """Whether one of the scores surely falls."""
        return self.score.high < 0 or self.nll.high < 0

    @property
    def _may_help(self) -> bool:
        return self.score.value >= 0 and self.nll.value >= 0


@dataclass(frozen=True)
class ExpectedChanges:
    """All changes of one teacher in one language each.

    Attributes:
        found: By action, teacher and language.
        comparisons: How many intervals were looked at.
        languages: All languages of the rows.
        alone: Score of each teacher alone, by teacher and language that it covers.
    """

    found: dict[tuple[Action, int, str], ExpectedChange]
    comparisons: int
    languages: tuple[str, ...]
    alone: dict[tuple[int, str], float]

    def list_languages(self, action: Action, teacher: int) -> tuple[str, ...]:
        """Return the languages in which this can be done with a teacher."""
        return tuple(x for x in self.languages if (action, teacher, x) in self.found)

    def join(self, action: Action, teacher: int, languages: Sequence[str]) -> ExpectedChange:
        """Return the change of doing it in several languages at once: the mean over these."""
        parts = [self.found[action, teacher, x] for x in languages]
        pair_scores = [p.pair_score for p in parts if p.pair_score is not None]
        pair_nlls = [p.pair_nll for p in parts if p.pair_nll is not None]
        return ExpectedChange(
            action,
            teacher,
            tuple(languages),
            Estimate.average([p.score for p in parts], self.comparisons),
            Estimate.average([p.nll for p in parts], self.comparisons),
            Estimate.average(pair_scores, self.comparisons) if pair_scores else None,
            Estimate.average(pair_nlls, self.comparisons) if pair_nlls else None,
        )


def estimate_changes(
    units: LabelledUnits,
    signals: Signals,
    weighting: Weighting,
    mixture: Mixture,
    samples: int = SAMPLES,
) -> ExpectedChanges:
    """Estimate every change of one teacher in one language.

    Args:
        units: The labelled units.
        signals: The teachers' answers to them, without gold labels.
        weighting: The run's.
        mixture: The run's.
        samples: Bootstrap samples.
    """
    players = range(len(signals.teachers))
    ways = _list_ways(signals, weighting, mixture)
    place = {key: at for at, key in enumerate(ways)}
    combinations = list(ways.values())
    parts = (units.score_choices(combinations), units.score_nll(combinations))
    languages, weights_MN = parts[0].languages, weighting.weights(signals).numpy()
    covered_MN = signals.covered_MN.numpy()
    codes_N = [units.languages_B[row] for row in units.row_N.tolist()]
    inside = {x: np.asarray([code == x for code in codes_N], dtype=bool) for x in languages}
    share = {x: covered_MN[:, inside[x]].mean(axis=1) for x in languages}
    wanted = [
        (action, m, x)
        for x in languages
        for m in players
        if (action := _find_action(m, weights_MN[:, inside[x]], covered_MN[:, inside[x]])) is not None
    ]
    comparisons = INTERVALS * max(1, len(wanted))
    counts_RB = draw_samples(units.languages_B, limit_samples(len(units.languages_B), samples), 0)
    drawn = {x: [_score_language(p, x, counts_RB) for p in parts] for x in languages}
    found: dict[tuple[Action, int, str], ExpectedChange] = {}
    for action, m, x in wanted:
        gains = [
            _to_estimate(scores_SR, place[action, m], place["all", 0], comparisons) for scores_SR in drawn[x]
        ]
        others = [k for k in players if k != m and share[x][k] >= COVERED] if action == "drop" else []
        found[action, m, x] = ExpectedChange(
            action,
            m,
            (x,),
            *gains,
            *(_compare_pairs(scores_SR, m, others, place, comparisons) for scores_SR in drawn[x] if others),
        )
    alone = {
        (m, x): float(drawn[x][0][place["alone", m], 0])
        for x in languages
        for m in players
        if share[x][m] > 0
    }
    return ExpectedChanges(found, comparisons, languages, alone)


def _list_ways(signals: Signals, weighting: Weighting, mixture: Mixture) -> dict[tuple[str, int], Combined]:
    """Return all teachers, all but one, all and another, each alone, and each two: by name and number.

    The number of two teachers m < k is ``m * M + k``.
    """
    count = len(signals.teachers)
    numbers = np.arange(count)

    def mix(members_M: NDArray[np.bool_]) -> Combined:
        return mix_coalition(signals, weighting, mixture, members_M)

    ways = {("all", 0): mix(numbers >= 0)}
    for m in range(count):
        ways["drop", m] = mix(numbers != m)
        ways["add", m] = mix_with_another(signals, weighting, mixture, m)
        ways["alone", m] = mix(numbers == m)
    for m, k in itertools.combinations(range(count), 2):
        ways["two", m * count + k] = mix((numbers == m) | (numbers == k))
    return ways


def _find_action(m: int, weights_MN: NDArray[np.float32], covered_MN: NDArray[np.bool_]) -> Action | None:
    """Return what can be done with teacher m over the units of one language."""
    used = [bool((weights_N > 0).any()) for weights_N in weights_MN]
    others_MN = np.delete(covered_MN, m, axis=0)
    if used[m]:
        return "drop" if len(others_MN) and others_MN.any(axis=0).mean() >= COVERED else None
    return "add" if any(used) and covered_MN[m].mean() >= COVERED else None


def _score_language(parts: ScoreParts, language: str, counts_RB: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores in one language ``[S, 1 + R]``: of the rows as they are, then of the samples."""
    picked_I = parts.pick_language(language)
    return np.concatenate([parts.score(picked_I), parts.score(picked_I, counts_RB)], axis=1)


def _to_estimate(scores_SR: NDArray[np.float64], way: int, base: int, comparisons: int) -> Estimate:
    gain_R = scores_SR[way] - scores_SR[base]
    return Estimate.of(gain_R[0], gain_R[1:], comparisons)


def _compare_pairs(
    scores_SR: NDArray[np.float64],
    m: int,
    others: Sequence[int],
    place: dict[tuple[str, int], int],
    comparisons: int,
) -> Estimate:
    """Return how much better each other teacher is alone than beside teacher m, on average."""
    count = sum(name == "alone" for name, _ in place)
    twos = [place["two", min(m, k) * count + max(m, k)] for k in others]
    gain_R = (scores_SR[[place["alone", k] for k in others]] - scores_SR[twos]).mean(axis=0)
    return Estimate.of(gain_R[0], gain_R[1:], comparisons)
