"""Agreement, calibration and bootstrap against scikit-learn, scipy and numbers calculated by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.metrics import cohen_kappa_score

from raykd.ensemble.agreement import compare_pairs, compute_kappa
from raykd.ensemble.calibration import compute_gold_nll, fit_temperature, measure_calibration
from raykd.ensemble.resampling import ScoreParts, compute_interval, draw_samples


@pytest.mark.parametrize("classes", [2, 5])
def test_kappa_is_that_of_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    one = rng.integers(classes, size=300)
    other = np.where(rng.random(300) < 0.6, one, rng.integers(classes, size=300))
    assert compute_kappa(one, other, classes) == pytest.approx(cohen_kappa_score(one, other))
    assert compute_kappa(one, one, classes) == pytest.approx(1.0)


def test_kappa_of_one_label_for_everything_is_not_defined() -> None:
    same = np.ones(5, dtype=np.int64)
    assert compute_kappa(same, same, 2) is None and compute_kappa(same[:0], same[:0], 2) is None


def test_pairs_are_compared_where_both_answer() -> None:
    chosen = np.asarray([[0, 1, 1, 0, 1], [0, 1, 0, 0, 0]])
    covered = np.asarray([[True] * 5, [True, True, True, True, False]])
    (pair,) = compare_pairs(["a", "b"], chosen, covered, np.asarray([0, 1, 0, 1, 0]), 2)
    # Of the four shared units three are equal; a errs on units 2 and 3, b on 3 alone, there with the same label.
    assert (pair.units, pair.share, pair.wrong, pair.same_wrong) == (4, 0.75, 2, 1)
    assert pair.shared_errors == 0.5
    (quiet,) = compare_pairs(["a", "b"], chosen, covered, np.asarray([0, 1, 0, 1, 0]), 2, silent=0)
    assert (quiet.wrong, quiet.same_wrong) == (1, 0)  # on unit 3 both say nothing
    assert compare_pairs(["a", "b"], chosen, covered & ~covered[1:], np.zeros(5, np.int64), 2) == ()


def test_the_fitted_temperature_is_the_minimum_that_scipy_finds() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 4)) * 3
    gold = np.asarray([rng.choice(4, p=np.exp(z / 2.5) / np.exp(z / 2.5).sum()) for z in logits])
    found = minimize_scalar(
        lambda t: compute_gold_nll(logits, gold, t).mean(), bounds=(0.1, 10), method="bounded"
    )
    assert fit_temperature(logits, gold) == pytest.approx(found.x, rel=1e-4)
    assert fit_temperature(logits, gold) == pytest.approx(2.5, rel=0.25)  # the one that they were drawn with


def test_calibration_by_hand() -> None:
    # Confidence 0.8 throughout, right in 3 of 4: ECE 0.05. Each half fits T so that confidence becomes its accuracy.
    logits = np.log(np.asarray([[0.8, 0.2]] * 8000))
    gold = (np.arange(8000) % 4 == 0).astype(np.int64)
    found = measure_calibration("x", logits, gold)
    assert found is not None
    assert found.ece == pytest.approx(0.05)
    assert found.nll == pytest.approx(-(0.75 * np.log(0.8) + 0.25 * np.log(0.2)))
    assert found.temperature == pytest.approx(np.log(4) / np.log(3), rel=1e-4)
    assert found.ece_fitted == pytest.approx(0.0, abs=0.01)
    assert found.nll_fitted < found.nll
    assert measure_calibration("x", logits[:1], gold[:1]) is None


def made_parts() -> ScoreParts:
    """Two coalitions over three rows of `en` and one of `de`."""
    right = np.asarray([[1, 0, 1, 0], [1, 1, 1, 1]], dtype=float)
    return ScoreParts(
        right, np.ones_like(right), np.arange(4), np.asarray([0, 0, 1, 1]), ("en", "en", "en", "de")
    )


def test_scores_are_ratios_of_sums_and_their_mean_is_over_languages() -> None:
    parts = made_parts()
    assert parts.score(parts.pick_language("en"))[:, 0].tolist() == pytest.approx([2 / 3, 1])
    assert parts.score(parts.pick_class(1))[:, 0].tolist() == [0.5, 1]
    assert parts.score_mean()[:, 0].tolist() == pytest.approx([1 / 3, 1])
    twice = np.asarray([[2.0, 1, 0, 1]])  # a sample: the first row twice, the third not at all
    assert parts.score_mean(twice)[:, 0].tolist() == pytest.approx([1 / 3, 1])
    assert parts.score(parts.pick_class(7))[:, 0].tolist() == [0, 0]


def test_samples_keep_the_rows_of_a_language_and_give_the_known_spread() -> None:
    languages = ("en",) * 300 + ("de",) * 100
    counts = draw_samples(languages, 4000)
    assert set(counts[:, :300].sum(axis=1)) == {300} and set(counts[:, 300:].sum(axis=1)) == {100}
    right = (np.arange(400) % 4 > 0).astype(float)[None]
    parts = ScoreParts(right, np.ones_like(right), np.arange(400), np.zeros(400, np.int64), languages)
    spread = parts.score(parts.pick_language("en"), counts)[0]
    assert spread.mean() == pytest.approx(0.75, abs=0.002)
    assert spread.std() == pytest.approx(np.sqrt(0.75 * 0.25 / 300), rel=0.05)
    low, high = compute_interval(spread)
    assert (0.75 - low, high - 0.75) == pytest.approx((0.049, 0.049), abs=0.006)
    wider = compute_interval(spread, comparisons=10)
    assert wider[0] < low and wider[1] > high
