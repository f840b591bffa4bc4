"""The DeepSpeed configuration, decay groups, early stopping and the best checkpoint; one process, no Ray."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from raykd.config import TrainConfig
from raykd.errors import ConfigError, NonFiniteError
from raykd.student.engine import decay_groups, deepspeed_config
from raykd.student.worker import TrainingLoop, evaluation_steps
from tests.worlds import build_loop, run_config


def test_users_own_keys_are_kept_and_completed() -> None:
    own = {"zero_optimization": {"stage": 2, "overlap_comm": False}, "wall_clock_breakdown": True}
    made = deepspeed_config(TrainConfig(batch_size=64, gradient_accumulation=4, deepspeed=own), world=2)
    assert (
        made["zero_optimization"] == {"stage": 2, "overlap_comm": False}
        and made["wall_clock_breakdown"] is True
    )
    assert (made["train_batch_size"], made["gradient_accumulation_steps"]) == (64, 4)
    assert made["train_micro_batch_size_per_gpu"] == 8


def test_zero_block_without_a_stage_keeps_raykds_stage() -> None:
    made = deepspeed_config(
        TrainConfig(zero_stage=2, deepspeed={"zero_optimization": {"overlap_comm": False}}), 1
    )
    assert made["zero_optimization"] == {"stage": 2, "overlap_comm": False}


def test_switches_left_to_deepspeed_are_no_disagreement() -> None:
    own = {"bf16": {"enabled": "auto", "check_grad_overflow": True}, "fp16": {"enabled": "auto"}}
    made = deepspeed_config(TrainConfig(deepspeed=own), world=1)
    assert made["bf16"] == {"enabled": False, "check_grad_overflow": True}
    assert (
        deepspeed_config(TrainConfig(batch_size=32, deepspeed={"train_batch_size": 32}), 3)[
            "train_batch_size"
        ]
        == 30
    )


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"train_batch_size": 128}, "train.batch_size"),
        ({"gradient_clipping": 5.0}, "train.gradient_clipping"),
        ({"fp16": {"enabled": True}}, "fp16"),
        ({"bf16": {"enabled": True}}, "train.precision"),
    ],
)
def test_keys_that_disagree_are_refused(own: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        deepspeed_config(TrainConfig(batch_size=64, deepspeed=own), world=1)


def test_auto_and_equal_values_are_no_disagreement() -> None:
    own = {"train_batch_size": "auto", "gradient_clipping": 1.0, "gradient_accumulation_steps": 1}
    assert deepspeed_config(TrainConfig(batch_size=64, deepspeed=own), world=1)["train_batch_size"] == 64


def test_two_zero_stages_that_disagree_are_refused() -> None:
    own = {"zero_optimization": {"stage": 2}}
    with pytest.raises(ConfigError, match="zero_stage"):
        deepspeed_config(TrainConfig(zero_stage=1, deepspeed=own), world=1)


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    decayed, plain = decay_groups(model, 0.1)
    assert [p.ndim for p in decayed["params"]] == [2] and decayed["weight_decay"] == 0.1
    assert {p.ndim for p in plain["params"]} == {1} and plain["weight_decay"] == 0.0


def test_evaluations_are_spread_evenly_and_end_the_run() -> None:
    assert evaluation_steps(12, 3) == {4, 8, 12}
    assert evaluation_steps(10, 3) == {3, 7, 10}
    assert evaluation_steps(2, 10) == {1, 2}


def test_users_optimizer_and_scheduler_are_honoured() -> None:
    own = {
        "optimizer": {"type": "AdamW", "params": {"lr": 0.005, "torch_adam": True}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 0.005, "warmup_num_steps": 4, "warmup_type": "linear"}},
    }  # fmt: skip
    points: list[Any] = []
    build_loop(run_config(deepspeed=own), publish=points.append).run()
    rates = [p.values["train/learning_rate"] for p in points if "train/learning_rate" in p.values]
    assert rates[-1] == pytest.approx(0.005) and rates[0] < 0.005


def scripted(loop: TrainingLoop, accuracies: list[float]) -> list[dict[str, torch.Tensor]]:
    """Makes the loop's evaluations score what the script says; returns the weights at each evaluation."""
    seen: list[dict[str, torch.Tensor]] = []
    judge = loop._judge
    loop._judge = lambda values: (  # type: ignore[method-assign]
        seen.append(loop.engine.weights() or {}),  # type: ignore[func-returns-value]
        judge({**values, "eval/mean/nll": 1.0, "eval/mean/accuracy": accuracies[len(seen) - 1]}),
    )[1]
    return seen


def test_patience_stops_and_the_best_weights_are_returned() -> None:
    loop = build_loop(run_config(evaluations=6, patience=2))
    seen = scripted(loop, [0.5, 0.9, 0.7, 0.9, 0.95, 1.0])
    state = loop.run()
    assert (state.step, state.best, state.best_step, state.stopped) == (8, 0.9, 4, True)
    best = loop.best_student().model.state_dict()
    assert all(torch.equal(best[name], seen[1][name]) for name in best)
    assert any(not torch.equal(seen[1][name], seen[3][name]) for name in best)


def test_of_equal_scores_the_lower_nll_is_the_best() -> None:
    loop = build_loop(run_config(evaluations=3))
    for step, nll in ((4, 1.0), (8, 0.5), (12, 0.7)):
        loop.state.step = step
        loop._judge({"eval/mean/accuracy": 0.5, "eval/mean/nll": nll})
    assert (loop.state.best_step, loop.state.best_nll, loop.state.stale) == (8, 0.5, 1)


def test_a_metric_where_less_is_better_is_judged_so() -> None:
    loop = build_loop(run_config(evaluations=3, metric="nll"))
    loop.run()
    history = [h["eval/mean/nll"] for h in loop.state.history]
    assert loop.state.best == min(history)


def test_non_finite_loss_names_step_and_rows() -> None:
    loop = build_loop(run_config(learning_rate=1e30, gradient_clipping=0.0, weight_decay=0.0))
    with pytest.raises(NonFiniteError, match=r"at step \d+ of 12, rows \['r"):
        loop.run()


def test_non_finite_validation_scores_are_never_the_best() -> None:
    loop = build_loop(run_config(evaluations=3, metric="nll"))
    assert loop.advance() and loop.state.best is not None
    best = loop.state.best
    with torch.no_grad():
        next(loop.engine.module.parameters()).fill_(math.nan)
    with pytest.raises(NonFiniteError, match="validation scores"):
        loop.evaluate()
    assert loop.state.best == best and len(loop.state.history) == 1


def test_teachers_get_no_gold_labels_and_student_trains() -> None:
    loop = build_loop(run_config())
    before = {k: v.clone() for k, v in loop.student.model.state_dict().items()}
    points: list[Any] = []
    loop.publish = points.append
    loop.run()
    moved = [k for k, v in loop.student.model.state_dict().items() if not torch.equal(v, before[k])]
    assert len(moved) > 10
    names = {name for p in points for name in p.values}
    assert names >= {
        "train/loss", "train/hard", "train/soft/forward_kl", "train/alpha", "train/temperature",
        "train/lambda/forward_kl", "teacher/multi/weight", "teacher/zh/latency_s", "eval/en/accuracy",
        "eval/mean/macro_f1", "train/uncovered",
    }  # fmt: skip
    alphas = [p.values["train/alpha"] for p in points if "train/alpha" in p.values]
    assert alphas == pytest.approx([0.2 + 0.4 * i / 12 for i in range(12)])
    weights = [
        [p.values[f"teacher/{t}/weight"] for t in ("en", "zh", "multi")]
        for p in points
        if "train/loss" in p.values
    ]
    assert all(sum(w) == pytest.approx(1.0) for w in weights)
