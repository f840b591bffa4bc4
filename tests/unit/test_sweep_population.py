"""Populations come to their end, also where trials are equally good."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial

from raykd.compat.tune_schedulers import Population


class Waiting:
    """A trial as a scheduler sees it."""

    def __init__(self, name: str) -> None:
        self.trial_id, self.status, self.config = name, Trial.PAUSED, {"lr": 0.1}
        self.evaluated_params: dict[str, Any] = {}
        self.experiment_tag = name
        keeping = SimpleNamespace(num_to_keep=None, checkpoint_frequency=0)
        self.run_metadata = SimpleNamespace(checkpoint_manager=SimpleNamespace(checkpoint_config=keeping))

    def is_finished(self) -> bool:
        return False


def population(scores: list[float]) -> tuple[Population, list[Any]]:
    scheduler = Population(
        time_attr="evaluation",
        metric="score",
        mode="max",
        hyperparam_mutations={"lr": [0.1, 0.2]},
        quantile_fraction=0.25,
    )
    trials: list[Any] = [Waiting(f"t{n}") for n in range(len(scores))]
    for trial, score in zip(trials, scores, strict=True):
        scheduler.on_trial_add(SimpleNamespace(), trial)
        scheduler._trial_state[trial].last_score = score
        scheduler._trial_state[trial].last_train_time = 3
    return scheduler, trials


@pytest.mark.parametrize(("scores", "copying"), [([0.5, 0.5, 0.5], []), ([0.5, 0.4, 0.6], ["t1"])])
def test_only_who_is_worse_than_the_best_copies_them(scores: list[float], copying: list[str]) -> None:
    scheduler, _ = population(scores)
    lower, upper = scheduler._quantiles()
    assert [t.trial_id for t in lower] == copying and len(upper) == 1


def test_trials_at_the_same_step_take_turns() -> None:
    scheduler, trials = population([0.5, 0.5, 0.5])
    controller = SimpleNamespace(get_trials=lambda: trials)
    assert [scheduler.choose_trial_to_run(controller).trial_id for _ in range(4)] == ["t0", "t1", "t2", "t0"]
    trials[1].status = Trial.RUNNING
    scheduler._trial_state[trials[2]].last_train_time = 2
    assert scheduler.choose_trial_to_run(controller).trial_id == "t2"
