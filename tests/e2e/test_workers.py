"""Two Ray Train workers with sharded optimizer states learn what one process learns; teachers on Ray answer both."""

from __future__ import annotations

from raykd import models
from raykd.runs.train import run_training
from raykd.scoring.outcome import Outcome
from tests.e2e.conftest import World
from tests.e2e.sweeps import plain_loop

STUDENT = {"kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "dropout": 0.0, "vocab_size": 120}
STEPS = {"steps": 12, "batch_size": 16, "learning_rate": 0.002, "evaluations": 1}


def test_two_workers_learn_what_one_learns(first: Outcome, world: World) -> None:
    """The one is the loop without Ray, over micro-batches of the same size."""
    one = world.config("one-worker", student=STUDENT, train={**STEPS, "gradient_accumulation": 4})
    alone = plain_loop(one).best_student().model.state_dict()
    outcome = run_training(
        world.config(
            "two-workers",
            baseline=False,
            ray={"num_cpus": 4},
            student=STUDENT,
            train={**STEPS, "gradient_accumulation": 2, "zero_stage": 2},
            workers={"num_workers": 2},
            tracking={"log_model": False},
        )
    )
    two = models.load_model(outcome.student).model.state_dict()
    assert alone.keys() == two.keys()
    assert max(float((alone[name] - two[name]).abs().max()) for name in two) < 1e-5
