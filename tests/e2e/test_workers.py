"""Two Ray Train workers with sharded optimizer states learn what one worker learns; teachers on Ray answer both."""

from __future__ import annotations

from typing import Any

from raykd import models
from raykd.runs.outcome import Outcome
from raykd.runs.train import train
from tests.e2e.conftest import World


def student(world: World, name: str, **changes: Any) -> dict[str, Any]:
    run: dict[str, Any] = {
        "baseline": False,
        "ray": {"num_cpus": 4},
        "student": {
            "kind": "transformer",
            "layers": 1,
            "hidden": 16,
            "heads": 2,
            "dropout": 0.0,
            "vocab_size": 120,
        },
        **changes,
    }
    outcome = train(world.config(name, **run))
    return models.load(outcome.student).model.state_dict()  # type: ignore[no-any-return]


def test_two_workers_learn_what_one_learns(first: Outcome, world: World) -> None:
    steps = {"steps": 12, "batch_size": 16, "learning_rate": 0.002, "evaluations": 1}
    one = student(world, "one-worker", train={**steps, "gradient_accumulation": 4})
    two = student(
        world,
        "two-workers",
        train={**steps, "gradient_accumulation": 2, "zero_stage": 2},
        workers={"num_workers": 2},
    )
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
