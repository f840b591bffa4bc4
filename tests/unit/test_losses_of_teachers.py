"""What a run says of teachers that it lost on its way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raykd.config import ServingConfig
from raykd.distill.signals import Signals
from raykd.distill.weighting import Fixed, Uniform
from raykd.distill.weightings.routing import ByLanguage
from raykd.point import Point
from raykd.scoring.absent_teachers import describe_lost_teachers, drop_lost_teachers, find_loss_steps
from raykd.student.meter import Meter
from tests.fakes import answer_slots
from tests.worlds import run_config


def window(step: int, **lost: float) -> Point:
    names = ("zh", "multi")
    return Point(
        step,
        {f"teacher/{n}/weight": 0.5 for n in names} | {f"teacher/{n}/lost": v for n, v in lost.items()},
    )


def test_a_teacher_is_lost_since_the_first_window_without_it_unless_it_came_back() -> None:
    assert find_loss_steps(
        [window(1), window(2, zh=0.5), window(3, zh=1.0), Point(3, {"eval/mean/nll": 1.0})]
    ) == {"zh": 2}
    assert find_loss_steps([window(1), window(2, zh=1.0), window(3), window(4)]) == {}
    assert find_loss_steps([window(2, zh=1.0), window(3), window(4, zh=1.0)]) == {"zh": 4}
    first, second = describe_lost_teachers({"zh": 1200}, ["zh", "multi"])
    assert "teacher zh was lost by step 1,200" in first and "multi was lost after the last step" in second


def test_windows_count_the_share_of_batches_without_a_teacher() -> None:
    meter = Meter(["forward_kl"], ["zh", "multi"])
    nobody: Any = SimpleNamespace(counts_B=np.ones(1, np.int64), find_seen=lambda: np.ones(1, bool))
    signals = Signals(("zh", "multi"), (None, None), torch.zeros(2, 1, 2), torch.ones(2, 1, dtype=torch.bool),
                      torch.zeros(1, dtype=torch.int64), ("en",))  # fmt: skip
    for lost in (False, True, True, True):
        answers = [
            answer_slots("zh", [[0.0, 0.0]], [not lost], lost=lost),
            answer_slots("multi", [[0.0, 0.0]]),
        ]
        meter.add_signals(answers, signals, nobody)
    values = meter.flush()
    assert values["teacher/zh/lost"] == 0.75 and "teacher/multi/lost" not in values


class Pool:
    """A pool whose teachers are dead as told."""

    def __init__(self, dead: tuple[str, ...]) -> None:
        self.replicas = SimpleNamespace(lost=lambda: dead)
        view = SimpleNamespace(groups=(), teachers=("multi",), timeout_s=1.0)
        self.handle = SimpleNamespace(
            teachers=("zh", "multi"), timeout_s=1.0, select=lambda names, timeout_s: view
        )


@pytest.mark.parametrize("weighting", [Uniform(), ByLanguage(), Fixed(by_teacher={"zh": 3.0, "multi": 1.0})])
def test_the_end_of_a_run_asks_those_that_are_left_and_weighs_them_alone(weighting: Any) -> None:
    infos: Any = [SimpleNamespace(name="zh"), SimpleNamespace(name="multi")]
    base = run_config()
    config = base.model_copy(
        update={
            "objective": base.objective.model_copy(update={"weighting": weighting}),
            "serving": ServingConfig(on_teacher_loss="drop_and_renormalise"),
        }
    )
    for dead, since in ((("zh",), {}), ((), {"zh": 5})):
        pool: Any = Pool(dead)
        left, survivors, known, lost = drop_lost_teachers(config, pool, infos, since)
        assert lost == ("zh",) and [i.name for i in known] == ["multi"]
        assert survivors.handle.teachers == ("multi",)
        left.objective.weighting.check(("multi",), (None,), ("en",))
    pool = Pool(())
    assert drop_lost_teachers(config, pool, infos, {}) == (config, pool, infos, ())
    strict = config.model_copy(update={"serving": ServingConfig()})
    pool = Pool(("zh",))
    assert drop_lost_teachers(strict, pool, infos, {})[1:] == (pool, infos, ())
