"""Estimate which searched keys decided the score: permutation importance of a random forest, with an interval.

Decision record, which scores are compared: scores must come from one point of training, or a key looks good because
its trials ran longer. If no trial was stopped early, that is the best score of every finished trial. If the scheduler
stopped some, the finished ones were selected by the score itself: keys that decide early are constant among them and
seem not to matter. Then every trial is compared at the last evaluation that all finished and stopped trials reached,
which is where the scheduler judged first. That answers "what decides by then", not "what decides in the end"; the rank
correlation of the rungs says how far the one stands for the other. Failed and diverged trials have no comparable score
and are left out. `Importance.basis` says all this beside the numbers.

The measure: a forest is fitted on the samples, and the values of one key are permuted. The growth of the squared error
on rows that a tree has not seen is twice the variance that this key explains. It is given as a share of the sum of
absolute values over keys, so a key without effect scatters around 0 and may be negative. Columns of one category move
together. An inactive key gets the median (or most frequent) active value and is permuted among its active rows alone,
so that being switched on counts for the key that switches, not twice.

The interval: the whole is repeated on trials drawn with replacement. A trial drawn twice is out of a tree's sample
only if both copies are. The bounds are the 2.5 and 97.5 per cent points of the replicates, widened to the estimate of
all trials where that lies outside: a replicate holds two thirds of the trials and learns less from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raykd.report.sweeps.axes import SearchAxis, build_search_axes
from raykd.report.sweeps.trials import SweepReport, TrialRow

LEAST_TRIALS = 10
"""Scored trials below which nothing is estimated."""
REPLICATES = 40
"""Fits to trials drawn with replacement, for the interval."""
TREES = 30
"""Trees of a forest."""
FORESTS = 5
"""Fits to all trials, averaged for the estimate."""
PERMUTATIONS = 3
"""Permutations of each key, averaged."""
LOW_R2 = 0.1
"""Explained variance below which the shares are shares of next to nothing."""


@dataclass(frozen=True)
class KeyImportance:
    """One searched key.

    Attributes:
        label: Its short name.
        share: Of the explained variance, in [-1, 1].
        low, high: The 95 % interval of the share.
    """

    key: str
    label: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Importance:
    """All searched keys, the most important first.

    Attributes:
        explained: Share of the score's variance that the forest predicts on trials it has not seen: R², at most 1.
            At 0 or below it predicts nothing.
        trials: Number of trials compared.
        basis: Which scores were compared, as a text.
    """

    keys: tuple[KeyImportance, ...]
    explained: float
    trials: int
    basis: str

    def describe(self) -> str:
        """Return which scores were compared and how far to trust the shares."""
        text = f"Over {self.basis}. The forest explains {max(0.0, self.explained):.0%} of their variance."
        if self.explained < LOW_R2:
            text += " That is next to nothing: these shares are shares of noise."
        return text


@dataclass(frozen=True)
class ComparableTrials:
    """Trials whose scores come from one point of training.

    Attributes:
        basis: Which point, as a text.
    """

    trials: tuple[TrialRow, ...]
    score_N: NDArray[np.float64]
    basis: str


def select_comparable_trials(report: SweepReport) -> ComparableTrials:
    """Return the scores that may be compared with each other; the module says how they are chosen."""
    sound = [t for t in report.trials if t.is_eligible]
    ended = [t for t in sound if t.status in ("finished", "stopped")]
    if any(t.status == "stopped" for t in ended):
        at = min(t.last_evaluation for t in ended)
        pairs = [(t, s) for t in sound if (s := t.score_at(at)) is not None]
        basis = (
            f"the scores of {len(pairs)} trials at evaluation {at}, the last that all of them reached "
            "(later scores exist only for those that the scheduler let go on)"
        )
    else:
        pairs = [(t, t.score) for t in ended if t.score is not None]
        basis = f"the best scores of {len(pairs)} finished trials"
    scores = np.asarray([s for _, s in pairs], dtype=np.float64)
    return ComparableTrials(tuple(t for t, _ in pairs), scores, basis)


def compute_importance(report: SweepReport, seed: int = 0) -> Importance | None:
    """Estimate the importance of every searched key; None where `explain_missing_importance` says why.

    Args:
        report: The sweep.
        seed: Of the forests, permutations and draws.
    """
    found = select_comparable_trials(report)
    axes = build_search_axes(report)
    if explain_missing_importance(report) or not axes:
        return None
    columns = [_encode(axis, found.trials) for axis in axes]
    active = [np.asarray([a.key in t.sample for t in found.trials]) for a in axes]
    design = _Design(
        np.concatenate(columns, axis=1).astype(np.float32), _slice_columns(columns), active, found.score_N
    )
    rng = np.random.default_rng(seed)
    count = len(found.trials)
    whole = [design.compute_gains(np.arange(count), rng) for _ in range(FORESTS)]
    share_K = _normalize(np.mean([gain_K for gain_K, _ in whole], axis=0))
    explained = float(np.mean([r2 for _, r2 in whole]))
    shares_BK = np.asarray(
        [_normalize(design.compute_gains(rng.integers(0, count, count), rng)[0]) for _ in range(REPLICATES)]
    )
    low_K, high_K = np.quantile(shares_BK, (0.025, 0.975), axis=0)
    bounds = zip(axes, share_K, np.minimum(share_K, low_K), np.maximum(share_K, high_K), strict=True)
    keys = [KeyImportance(axis.key, axis.label, *map(float, numbers)) for axis, *numbers in bounds]
    return Importance(tuple(sorted(keys, key=lambda k: -k.share)), explained, count, found.basis)


def explain_missing_importance(report: SweepReport) -> str:
    """Return why there is no importance, as a sentence; empty if there is one."""
    found = select_comparable_trials(report)
    if len(found.trials) < LEAST_TRIALS:
        return (
            "The importance of the searched keys is not estimated: it needs comparable scores of at least "
            f"{LEAST_TRIALS} trials, and there are {len(found.trials)}."
        )
    if float(np.ptp(found.score_N)) == 0.0:
        return "The importance of the searched keys is not estimated: all comparable scores are equal."
    return ""


@dataclass(frozen=True)
class _Design:
    """The samples as the forest sees them.

    Attributes:
        x_ND: Encoded samples.
        groups: The columns of each of the K keys.
        active: The rows in which each key is active.
        y_N: Scores.
    """

    x_ND: NDArray[np.float32]
    groups: Sequence[slice]
    active: Sequence[NDArray[np.bool_]]
    y_N: NDArray[np.float64]

    def compute_gains(
        self, rows_N: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], float]:
        """Fit a forest and permute each key.

        Args:
            rows_N: Trials to fit on; one that was drawn twice stands there twice.
            rng: Draws the permutations.

        Returns:
            Growth [K] of the out-of-bag squared error by each key's permutation, and R² without permutation.
        """
        from sklearn.ensemble import RandomForestRegressor

        forest = RandomForestRegressor(
            TREES, min_samples_leaf=2, max_features=0.6, random_state=int(rng.integers(2**31))
        )
        forest.fit(self.x_ND[rows_N], self.y_N[rows_N])
        all_N = np.arange(len(self.y_N))
        drawn_N = np.isin(all_N, rows_N)
        stacked = np.concatenate([self.x_ND, *self._permute(drawn_N, rng)])
        # V variants of the samples: as they are, then each permutation of each key. The forest's own out-of-bag score
        # would take a trial whose copy was fitted for unseen, so predictions are averaged tree by tree.
        sum_VN = np.zeros((len(stacked) // len(all_N), len(all_N)))
        trees_N = np.zeros(len(all_N))
        for tree, sampled in zip(forest.estimators_, forest.estimators_samples_, strict=True):
            unseen_N = drawn_N & ~np.isin(all_N, rows_N[sampled])
            sum_VN += unseen_N * tree.tree_.predict(stacked).reshape(len(sum_VN), -1)
            trees_N += unseen_N
        judged_N = trees_N > 0
        y, weight = self.y_N[judged_N], np.bincount(rows_N, minlength=len(all_N))[judged_N]
        error_V = np.average((sum_VN[:, judged_N] / trees_N[judged_N] - y) ** 2, axis=1, weights=weight)
        variance = float(np.average((y - np.average(y, weights=weight)) ** 2, weights=weight))
        gain_K = (error_V[1:] - error_V[0]).reshape(len(self.groups), PERMUTATIONS).mean(axis=1)
        return gain_K, 1.0 - float(error_V[0]) / variance if variance else 0.0

    def _permute(self, drawn_N: NDArray[np.bool_], rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
        """Yield, for each key, `PERMUTATIONS` copies of the samples with its values permuted among its active rows."""
        for group, active_N in zip(self.groups, self.active, strict=True):
            members = np.flatnonzero(active_N & drawn_N)
            for _ in range(PERMUTATIONS):
                moved_ND = self.x_ND.copy()
                moved_ND[members, group] = self.x_ND[rng.permutation(members), group]
                yield moved_ND


def _normalize(gain_K: NDArray[np.float64]) -> NDArray[np.float64]:
    total = float(np.abs(gain_K).sum())
    return gain_K / total if total else np.zeros_like(gain_K)


def _encode(axis: SearchAxis, trials: Sequence[TrialRow]) -> NDArray[np.float64]:
    """Return places [N, 1] on the axis, or one-hot categories [N, C]; inactive is the median or most frequent value."""
    active_N = np.asarray([axis.key in t.sample for t in trials])
    place_N = np.asarray([axis.place(t.sample) for t in trials])
    if not active_N.any():
        return np.zeros((len(trials), 1))
    if not axis.categories:
        place_N[~active_N] = np.median(place_N[active_N])
        return place_N[:, None]
    index_N = np.rint(place_N * max(1, len(axis.categories) - 1)).astype(int)
    if len(axis.categories) == 1:
        index_N[:] = 0
    index_N[~active_N] = np.bincount(index_N[active_N]).argmax()
    one_hot_NC: NDArray[np.float64] = np.eye(len(axis.categories))[index_N]
    return one_hot_NC


def _slice_columns(columns: Sequence[NDArray[np.float64]]) -> list[slice]:
    ends = np.cumsum([c.shape[1] for c in columns])
    return [slice(int(end) - c.shape[1], int(end)) for end, c in zip(ends, columns, strict=True)]
