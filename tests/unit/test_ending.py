"""How a job ended, out of its curves."""

from __future__ import annotations

from raykd.driver.ending import find_ending
from raykd.point import Point


def curve(*scores: float, metric: str = "accuracy") -> list[Point]:
    return [
        Point(12 * (at + 1), {"eval/mean/nll": 1.0, f"eval/mean/{metric}": score})
        for at, score in enumerate(scores)
    ]


def test_the_saved_step_and_an_early_stop_are_said() -> None:
    ending = find_ending(curve(0.5, 0.6, 0.67, 0.59), "accuracy", 144)
    assert str(ending) == (
        "stopped early at 48 of 144 steps: no better for 1 evaluation; best validation accuracy 0.670 at step 36 (saved)"
    )
    whole = find_ending(curve(0.5, 0.67, 0.6), "accuracy", 36)
    assert str(whole) == "best validation accuracy 0.670 at step 24 (saved)"


def test_less_is_better_and_equal_scores_are_one() -> None:
    lower = find_ending(curve(0.5, 0.4, 0.45, metric="nll"), "nll", 36)
    assert lower is not None and (lower.best, lower.best_step, lower.evaluations_since) == (0.4, 24, 1)
    first = find_ending(curve(0.6499999999999999, 0.65), "accuracy", 24)
    assert first is not None and first.best_step == 12
    assert find_ending([], "accuracy", 12) is None
