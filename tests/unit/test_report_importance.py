"""What decided the score is found, what did not is not; early stopping is judged by the right numbers."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from raykd.report.sweeps.importance import (
    LEAST_TRIALS,
    compute_importance,
    explain_missing_importance,
    select_comparable_trials,
)
from raykd.report.sweeps.rungs import (
    RungAgreement,
    compute_rank_correlations,
    compute_survival,
    count_trials_by_evaluation,
    describe_rungs,
)
from tests.made_trials import made_sweep, report_of, row


def searched(count, seed=0, effect=1.0, status="finished"):
    """Trials whose score is decided by the learning rate alone, but for a little noise."""
    rng = np.random.default_rng(seed)
    trials = []
    for at in range(count):
        sample = {
            "rate": float(10 ** rng.uniform(-4, -1)),
            "noise": float(rng.uniform()),
            "choice": str(rng.choice(["a", "b", "c"])),
            "schedule.kind": str(rng.choice(["linear", "constant"])),
        }
        if sample["schedule.kind"] == "linear":
            sample["schedule.end"] = float(rng.uniform())
        score = 0.8 - effect * 0.1 * abs(np.log10(sample["rate"]) + 2.0) + rng.normal(0, 0.01)
        trials.append(row(f"t{at:04}", (float(score),), status, sample))
    return report_of(trials)


def test_the_key_that_decides_gets_most_and_the_others_include_zero():
    found = compute_importance(searched(60))
    first, *rest = found.keys
    assert first.key == "rate" and first.share > 0.7 and first.low > 0.5
    assert {k.key for k in rest} == {"noise", "choice", "schedule.kind", "schedule.end"}
    assert all(k.low <= 0.0 <= k.high and abs(k.share) < 0.1 for k in rest)
    assert found.explained > 0.6 and found.trials == 60
    assert sum(abs(k.share) for k in found.keys) == pytest.approx(1.0)
    assert "next to nothing" not in found.describe()


def test_a_category_decides_as_a_whole_and_its_switched_key_gets_no_credit_for_it():
    rng = np.random.default_rng(1)
    trials = []
    for at in range(80):
        kind = str(rng.choice(["linear", "constant"]))
        sample = {"schedule.kind": kind, "x": float(rng.uniform())}
        if kind == "linear":
            sample["schedule.end"] = float(rng.uniform())
        trials.append(
            row(f"t{at:04}", (0.6 + 0.1 * (kind == "linear") + float(rng.normal(0, 0.01)),), sample=sample)
        )
    shares = {k.key: k for k in compute_importance(report_of(trials)).keys}
    assert shares["schedule.kind"].share > 0.8
    assert (
        abs(shares["schedule.end"].share) < 0.1
        and shares["schedule.end"].low <= 0 <= shares["schedule.end"].high
    )


def test_a_key_that_reveals_another_by_being_inactive_takes_nothing_from_it():
    """Two keys that explain the same variance get the same share, though one of them can be told from a third."""
    rng = np.random.default_rng(2)
    trials = []
    for at in range(100):
        kind, x = str(rng.choice(["linear", "constant"])), float(rng.uniform())
        sample = {
            "schedule.kind": kind,
            "x": x,
            **({"schedule.end": float(rng.uniform())} if kind == "linear" else {}),
        }
        score = 0.1 * (kind == "linear") + 0.1 * np.sqrt(3) * x  # variance 0.0025 each
        trials.append(row(f"t{at:04}", (float(score),), sample=sample))
    shares = {k.key: k.share for k in compute_importance(report_of(trials)).keys}
    assert shares["schedule.kind"] == pytest.approx(shares["x"], abs=0.12)
    assert abs(shares["schedule.end"]) < 0.05


def test_scores_without_a_cause_are_said_to_be_noise():
    found = compute_importance(searched(40, effect=0.0))
    assert found.explained < 0.1 and "shares of noise" in found.describe()
    assert all(k.low <= 0.0 <= k.high for k in found.keys)


def test_the_same_seed_gives_the_same_numbers():
    report = searched(12)
    found = compute_importance(report, seed=3)
    assert found == compute_importance(report, seed=3) and found != compute_importance(report, seed=4)


def test_few_trials_and_equal_scores_give_none_and_a_reason():
    few = searched(LEAST_TRIALS - 1)
    assert compute_importance(few) is None and f"there are {LEAST_TRIALS - 1}" in explain_missing_importance(
        few
    )
    assert (
        compute_importance(searched(LEAST_TRIALS)) is not None
        and explain_missing_importance(searched(LEAST_TRIALS)) == ""
    )
    equal = report_of([row(f"t{i}", (0.5,), sample={"x": i}) for i in range(20)])
    assert compute_importance(equal) is None and "equal" in explain_missing_importance(equal)
    assert compute_importance(report_of([])) is None


def test_without_early_stopping_the_best_scores_are_compared():
    trials = [
        row("a", (0.5, 0.7, 0.6)),
        row("b", (0.4, 0.3, 0.2)),
        row("c", (0.9,), "cut off"),
        row("d", (0.9,), "failed"),
    ]
    found = select_comparable_trials(report_of(trials))
    assert [t.name for t in found.trials] == ["a", "b"] and list(found.score_N) == [0.7, 0.4]


def test_with_early_stopping_all_are_compared_where_all_came():
    trials = [
        row("a", (0.5, 0.6, 0.9)),
        row("b", (0.4, 0.45), "stopped"),
        row("c", (0.3, 0.35), "cut off"),
        row("d", (0.2,), "cut off"),
        row("e", (0.1, 0.1), "diverged"),
    ]
    found = select_comparable_trials(report_of(trials, rungs=(2,)))
    assert {t.name: s for t, s in zip(found.trials, found.score_N, strict=True)} == {
        "a": 0.6,
        "b": 0.45,
        "c": 0.35,
    }
    assert "evaluation 2" in found.basis


def test_tau_is_scipys_over_the_trials_that_ran_to_their_end():
    rng = np.random.default_rng(5)
    curves = rng.uniform(size=(8, 4))
    ended = [row(f"f{i}", tuple(c)) for i, c in enumerate(curves)]
    stopped = [row(f"s{i}", (float(rng.uniform()),), "stopped") for i in range(5)]
    found = compute_rank_correlations(report_of([*ended, *stopped], rungs=(1, 2, 4)))
    assert [(r.evaluation, r.trials) for r in found] == [(1, 8), (2, 8)]  # the last rung is the end itself
    for r in found:
        assert r.tau == pytest.approx(kendalltau(curves[:, r.evaluation - 1], curves[:, -1]).statistic)


def test_tau_needs_three_trials_and_scores_that_differ():
    assert compute_rank_correlations(report_of([row("a", (0.1, 0.2)), row("b", (0.2, 0.3))], rungs=(1,))) == [
        RungAgreement(1, None, 2)
    ]
    equal = [row(f"t{i}", (0.5, 0.1 * i)) for i in range(4)]
    assert compute_rank_correlations(report_of(equal, rungs=(1,))) == [RungAgreement(1, None, 4)]
    assert compute_rank_correlations(report_of(equal)) == []


def test_the_sentence_warns_where_tau_is_low():
    assert "let trials run longer" in describe_rungs([RungAgreement(1, 0.3, 9), RungAgreement(3, 0.8, 9)])
    assert "evaluation 1 here" in describe_rungs([RungAgreement(1, 0.3, 9), RungAgreement(3, 0.8, 9)])
    assert "did not do here" in describe_rungs([RungAgreement(1, 0.6, 9)])
    assert "Too few" in describe_rungs([RungAgreement(1, None, 2)])


def test_survival_puts_every_trial_that_came_in_one_place():
    report = report_of(
        [
            row("a", (0.5, 0.6, 0.7)),
            row("b", (0.4, 0.5), "stopped"),
            row("c", (0.3,), "stopped"),
            row("d", (0.3,), "cut off"),
            row("e", (0.3,), "failed"),
            row("f", (), "waiting"),
        ],
        rungs=(1, 2, 7),
    )
    first, second = compute_survival(report)
    assert [[t.name for t in g] for g in (first.survived, first.stopped, first.open)] == [
        ["a", "b"],
        ["c"],
        ["d", "e"],
    ]
    assert [[t.name for t in g] for g in (second.survived, second.stopped, second.open)] == [["a"], ["b"], []]
    assert count_trials_by_evaluation(report) == [(1, 5), (2, 2), (3, 1)]


def test_a_made_sweep_holds_the_same_trials_at_its_first_rung():
    report = made_sweep()
    first = compute_survival(report)[0]
    assert (
        len(first.survived) + len(first.stopped) + len(first.open)
        == dict(count_trials_by_evaluation(report))[1]
        == 29
    )
