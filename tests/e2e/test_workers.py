"""Two Ray Train workers with sharded optimizer states learn what one process learns; teachers on Ray answer both."""

from __future__ import annotations

from typing import Any

import pytest

from raykd import models
from raykd.runs.train import run_training
from raykd.scoring.outcome import Outcome
from tests.e2e.conftest import World
from tests.e2e.sweeps import plain_loop

STUDENT = {"kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "dropout": 0.0, "vocab_size": 120}
STEPS = {"steps": 12, "batch_size": 16, "learning_rate": 0.002, "evaluations": 1}


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="plain"),
        pytest.param(
            {"adversarial": {"kind": "fgm", "epsilon": 0.5}}, id="adversarial", marks=pytest.mark.nightly
        ),
        pytest.param({"alignment": {"weight": 0.5}}, id="alignment", marks=pytest.mark.nightly),
    ],
)
def test_two_workers_learn_what_one_learns(
    first: Outcome, world: World, more: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """The one is the loop without Ray, over micro-batches of the same size."""
    name, steps = request.node.callspec.id, {**STEPS, **more}
    one = world.config(f"one-worker-{name}", student=STUDENT, train={**steps, "gradient_accumulation": 4})
    alone = plain_loop(one).best_student().model.state_dict()
    outcome = run_training(
        world.config(
            f"two-workers-{name}",
            baseline=False,
            ray={"num_cpus": 4},
            student=STUDENT,
            train={**steps, "gradient_accumulation": 2, "zero_stage": 2},
            workers={"num_workers": 2},
            tracking={"log_model": False},
        )
    )
    two = models.load_model(outcome.student).model.state_dict()
    assert alone.keys() == two.keys()
    assert max(float((alone[name] - two[name]).abs().max()) for name in two) < 1e-5
