"""How `benchmarks.quality` chooses and judges, and the floor it compares with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.quality import chosen_trials, judged
from benchmarks.quality_parts.fitting import best_overlap_sentence
from benchmarks.quality_parts.setting import Arm, Claim
from raykd.data.rows import Rows


def runs(**arms: list[float]) -> list[dict[str, Any]]:
    """Test scores of arms, a number a seed."""
    return [
        {"arm": arm, "seed": seed, "test": {"macro": score}}
        for arm, scores in arms.items()
        for seed, score in enumerate(scores)
    ]


def test_the_trial_with_the_best_validation_score_is_chosen_and_lent() -> None:
    trial: dict[str, dict[str, Any]] = {"train": {"learning_rate": 0.1}}
    arms = [Arm("a", (trial,) * 3), Arm("b", (trial,) * 3, as_chosen_for="a"), Arm("c", (trial,) * 2)]
    tuned = [{"arm": "a", "trial": t, "validation": v} for t, v in enumerate((1.0, 3.0, 2.0))]
    tuned += [{"arm": "c", "trial": t, "validation": v} for t, v in enumerate((5.0, 4.0))]
    assert chosen_trials(tuned, arms) == {"a": 1, "b": 1, "c": 0}


@pytest.mark.parametrize(("better", "verdict"), [([3.0, 4.0, 5.0], "met"), ([1.0, 2.0, 9.0], "NOT MET")])
def test_a_difference_is_met_where_its_whole_interval_is(better: list[float], verdict: str) -> None:
    line = judged(Claim("", "a", "b"), runs(a=better, b=[1.0, 2.0, 3.0]))
    differences = np.asarray(better) - [1.0, 2.0, 3.0]
    assert line["value"] == pytest.approx(differences.mean())
    # 4.3027 is the 97.5 % point of Student's t with 2 degrees of freedom.
    assert line["half"] == pytest.approx(4.3027 * differences.std(ddof=1) / 3**0.5, abs=1e-3)
    assert line["verdict"] == verdict


@pytest.mark.parametrize(
    ("other", "mean", "verdict"),
    [([19.9, 29.4], 0.98, "met"), ([18.0, 26.0], 0.8, "NOT MET"), ([20.0, 30.0], 1.0, "shown")],
)
def test_a_ratio_of_gains(other: list[float], mean: float, verdict: str) -> None:
    found = runs(other=other, same=[20.0, 30.0], plain=[10.0, 10.0])
    line = judged(Claim("", "other", "same", 0.95, base="plain"), found)
    assert line["value"] == pytest.approx(mean) and line["verdict"] == verdict


def test_a_gain_that_is_no_number_meets_no_claim() -> None:
    found = runs(other=[1.0, 2.0], same=[float("nan"), 1.0], plain=[0.0, 0.0])
    assert judged(Claim("", "other", "same", 0.95, base="plain"), found)["verdict"] == "NOT MET"


def test_the_sentence_that_shares_most_words_is_the_floor() -> None:
    context = "The sea is wide. A red ship left Bergen in 1840. Ships sink!"
    begin = context.index("1840")
    rows = Rows(
        ("r",), ("When did the red ship leave Bergen?",), ("en",), np.zeros(1, np.int64), (context,),
        golds=((begin, begin + 4),),
    )  # fmt: skip
    # Six words without the article, one of them the answer: 2 * 1 / (6 + 1).
    assert best_overlap_sentence(rows)["macro"] == pytest.approx(100 * 2 / 7)
