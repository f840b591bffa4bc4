"""The benchmarks of a search, of interactions and of the simple model: what they compute, on made numbers."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.interaction import read_effects
from benchmarks.searching import replay_asha


def curve(*scores: float) -> list[float]:
    return list(scores)


def test_a_replay_stops_trials_below_the_best_third_at_each_rung() -> None:
    best_NE = np.asarray(
        [
            curve(0.5, 0.6, 0.7, 0.8),  # the first is judged by nobody
            curve(0.4, 0.9, 0.9, 0.9),  # stopped after 1: its best score is never seen
            curve(0.6, 0.6, 0.6, 0.6),  # passes the rung at 1 (0.6 is above both), is below the only one at 3
            curve(0.6, 0.7, 0.8, 0.9),  # equal to the cut of 1 passes, and so at 3
        ]
    )
    assert replay_asha(best_NE, rungs=(1, 3), reduction=3.0) == (4 + 1 + 3 + 4, 0.9)
    assert replay_asha(best_NE, rungs=(), reduction=3.0) == (16, 0.9)


def test_a_replay_judges_as_tunes_scheduler_does() -> None:
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.schedulers.trial_scheduler import TrialScheduler

    class Known:
        """What the scheduler asks of a trial."""

        def __init__(self, number: int) -> None:
            self.trial_id, self.config = str(number), {}

        def __getattr__(self, name: str) -> None:
            return None

    rng = np.random.default_rng(3)
    best_NE = np.maximum.accumulate(rng.random((30, 12)), axis=1)
    asha = ASHAScheduler(
        time_attr="t", metric="s", mode="max", max_t=12, grace_period=2, reduction_factor=3, brackets=1
    )
    spent, best = 0, 0.0
    for number, score_E in enumerate(best_NE):
        trial = Known(number)
        asha.on_trial_add(None, trial)  # type: ignore[arg-type]
        for at, score in enumerate(score_E, start=1):
            spent, best = spent + 1, max(best, float(score))
            said = asha.on_trial_result(None, trial, {"t": at, "s": float(score)})  # type: ignore[arg-type]
            if said == TrialScheduler.STOP:
                break
    assert replay_asha(best_NE, rungs=(2, 6), reduction=3.0) == (spent, pytest.approx(best))


def test_effects_are_differences_to_the_baseline_of_the_same_seed_in_points() -> None:
    def arm(name: str, **scores: float) -> dict[str, object]:
        students = {seed[1:]: {"scores": {"test/macro/accuracy": value}} for seed, value in scores.items()}
        return {"name": name, "students": students}

    found = read_effects(
        {"split": "test", "baseline": "a", "arms": [arm("a", s1=0.5, s2=0.6), arm("b", s1=0.7, s3=0.9)]},
        "accuracy",
    )
    assert found == {"b": {1: pytest.approx(20.0)}}
