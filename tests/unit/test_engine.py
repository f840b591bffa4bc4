"""The DeepSpeed configuration, decay groups, early stopping and the best checkpoint; one process, no Ray."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raykd.config import TrainConfig
from raykd.errors import ConfigError, NonFiniteError
from raykd.student.engine import group_by_decay
from raykd.student.loop import TrainingLoop, plan_evaluation_steps
from raykd.student.prefetch import Prefetcher, StepWork
from raykd.student.settings import build_deepspeed_config
from tests.fakes import answer_slots, logits_of
from tests.worlds import build_loop, run_config


def test_users_own_keys_are_kept_and_completed() -> None:
    own = {"zero_optimization": {"stage": 2, "overlap_comm": False}, "wall_clock_breakdown": True}
    made = build_deepspeed_config(TrainConfig(batch_size=64, gradient_accumulation=4, deepspeed=own), world=2)
    assert (
        made["zero_optimization"] == {"stage": 2, "overlap_comm": False}
        and made["wall_clock_breakdown"] is True
    )
    assert (made["train_batch_size"], made["gradient_accumulation_steps"]) == (64, 4)
    assert made["train_micro_batch_size_per_gpu"] == 8


def test_zero_block_without_a_stage_keeps_raykds_stage() -> None:
    made = build_deepspeed_config(
        TrainConfig(zero_stage=2, deepspeed={"zero_optimization": {"overlap_comm": False}}), 1
    )
    assert made["zero_optimization"] == {"stage": 2, "overlap_comm": False}


def test_switches_left_to_deepspeed_are_no_disagreement() -> None:
    own = {"bf16": {"enabled": "auto", "check_grad_overflow": True}, "fp16": {"enabled": "auto"}}
    made = build_deepspeed_config(TrainConfig(deepspeed=own), world=1)
    assert made["bf16"] == {"enabled": False, "check_grad_overflow": True}
    assert (
        build_deepspeed_config(TrainConfig(batch_size=32, deepspeed={"train_batch_size": 32}), 3)[
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
        build_deepspeed_config(TrainConfig(batch_size=64, deepspeed=own), world=1)


def test_auto_and_equal_values_are_no_disagreement() -> None:
    own = {"train_batch_size": "auto", "gradient_clipping": 1.0, "gradient_accumulation_steps": 1}
    assert (
        build_deepspeed_config(TrainConfig(batch_size=64, deepspeed=own), world=1)["train_batch_size"] == 64
    )


def test_two_zero_stages_that_disagree_are_refused() -> None:
    own = {"zero_optimization": {"stage": 2}}
    with pytest.raises(ConfigError, match="zero_stage"):
        build_deepspeed_config(TrainConfig(zero_stage=1, deepspeed=own), world=1)


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    decayed, plain = group_by_decay(model, 0.1)
    assert [p.ndim for p in decayed["params"]] == [2] and decayed["weight_decay"] == 0.1
    assert {p.ndim for p in plain["params"]} == {1} and plain["weight_decay"] == 0.0


def test_evaluations_are_spread_evenly_and_end_the_run() -> None:
    assert plan_evaluation_steps(12, 3) == {4, 8, 12}
    assert plan_evaluation_steps(10, 3) == {3, 7, 10}
    assert plan_evaluation_steps(2, 10) == {1, 2}


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
    keep = loop._keep_best
    loop._keep_best = lambda values: (  # type: ignore[method-assign]
        seen.append(loop.engine.weights() or {}),  # type: ignore[func-returns-value]
        keep({**values, "eval/mean/nll": 1.0, "eval/mean/accuracy": accuracies[len(seen) - 1]}),
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
        loop._keep_best({"eval/mean/accuracy": 0.5, "eval/mean/nll": nll})
    assert (loop.state.best_step, loop.state.best_nll, loop.state.stale) == (8, 0.5, 1)


def test_a_metric_where_less_is_better_is_judged_so() -> None:
    loop = build_loop(run_config(evaluations=3, metric="nll"))
    loop.run()
    history = [h["eval/mean/nll"] for h in loop.state.history]
    assert loop.state.best == min(history)


def weights_of_26_rows(accumulation: int) -> dict[str, torch.Tensor]:
    """The weights after 12 steps of 26 rows, each of which must be trained on."""
    loop = build_loop(run_config(batch_size=26, gradient_accumulation=accumulation))
    sizes: list[int] = []
    micro = loop.trainer.make_micro_batch

    def counted(rows: Any, *rest: Any) -> Any:
        sizes.append(len(rows))
        return micro(rows, *rest)

    loop.trainer.make_micro_batch = counted  # type: ignore[method-assign]
    loop.run()
    assert (len(sizes), sum(sizes)) == (12 * accumulation, 12 * 26)
    return loop.engine.weights() or {}


def test_a_batch_that_does_not_divide_evenly_trains_all_of_its_rows() -> None:
    whole = weights_of_26_rows(1)
    for accumulation in (4, 16):
        for name, value in weights_of_26_rows(accumulation).items():
            assert float((whole[name] - value).abs().max()) < 1e-5, name


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
    with pytest.raises(NonFiniteError, match="validation NLL nan after step 4 of 12"):
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


def spoil(loop: TrainingLoop, steps: set[int], once: bool = True) -> list[int]:
    """Makes the loss of these steps no number, the first time or every time; returns the steps that were so."""
    met: list[int] = []
    backward = loop.engine.backward

    def spoiled(loss: torch.Tensor) -> None:
        step = loop.state.step
        bad = step in steps and not (once and step in met)
        met.extend([step] if bad else [])
        backward(loss * math.nan if bad else loss)

    loop.engine.backward = spoiled  # type: ignore[method-assign]
    return met


@pytest.mark.parametrize(("precision", "stage"), [("float32", 0), ("float32", 2), ("bfloat16", 0)])
@pytest.mark.parametrize("clipping", [0.0, 1.0])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(
    precision: str, stage: int, clipping: float
) -> None:
    points: list[Any] = []
    config = run_config(precision=precision, zero_stage=stage, gradient_clipping=clipping)
    loop = build_loop(config, publish=points.append)
    spoil(loop, {2, 3})
    weights: list[dict[str, torch.Tensor]] = []
    for work in Prefetcher(loop.ask, 1).steps(0, 6):
        loop.step(work)
        weights.append(loop.engine.weights() or {})
        loop._log(work.step + 1)
    same = [all(torch.equal(a[n], b[n]) for n in a) for a, b in itertools.pairwise(weights)]
    assert same == [False, True, True, False, False]
    assert all(bool(torch.isfinite(w).all()) for w in weights[-1].values())
    counts = [p.values.get("train/skipped_steps", 0.0) for p in points]
    assert counts == [0, 0, 1, 2, 2, 2] and loop.state.in_a_row == 0
    losses = [p.step for p in points if "train/loss" in p.values]
    assert losses == [1, 2, 5, 6] and all(math.isfinite(v) for p in points for v in p.values.values())
    assert loop.engine._schedule is not None and loop.engine._schedule.last_epoch == 6


def test_a_passing_fault_is_gone_after_one_step_back(tmp_path: Path) -> None:
    """More bad steps in a row than are borne with, once: the run ends with the weights of one without any."""

    def run(bad: set[int]) -> TrainingLoop:
        loop = build_loop(run_config(evaluations=3, max_skipped_steps=1, learning_rate=0.01))
        spoil(loop, bad)
        loop.run(
            lambda at: (folder := tmp_path / f"{len(bad)}-{at.state.step}", folder.mkdir(), at.save(folder))[
                0
            ]
        )
        return loop

    whole, back = run(set()), run({5, 6})
    assert (back.state.skipped, back.state.rolled_back, whole.state.skipped) == (2, True, 0)
    assert [h["eval/mean/nll"] for h in back.state.history] == [
        h["eval/mean/nll"] for h in whole.state.history
    ]
    a, b = whole.engine.weights() or {}, back.engine.weights() or {}
    assert a and all(torch.equal(a[name], b[name]) for name in a)


def test_a_fault_that_stays_ends_the_run_after_one_step_back(tmp_path: Path) -> None:
    loop = build_loop(run_config(evaluations=3, max_skipped_steps=1))
    met = spoil(loop, {5, 6, 7}, once=False)
    with pytest.raises(
        NonFiniteError, match=r"gradient that is not finite, at step 6 of 12, rows \['r.*went back"
    ):
        loop.run(lambda at: (folder := tmp_path / str(at.state.step), folder.mkdir(), at.save(folder))[0])
    assert met == [5, 6, 5, 6]


def test_no_checkpoint_to_go_back_to_ends_the_run_at_once() -> None:
    loop = build_loop(run_config(max_skipped_steps=0))
    met = spoil(loop, {1}, once=False)
    with pytest.raises(NonFiniteError, match="at step 1 of 12"):
        loop.run()
    assert met == [1]


def test_the_part_and_the_teacher_that_are_not_finite_are_named() -> None:
    loop = build_loop(run_config(max_skipped_steps=0))
    source = loop.trainer.source
    assert source is not None
    submit = source.submit

    def broken(batch: Any) -> Any:
        ticket = submit(batch)
        answers = ticket.result()
        bad = logits_of(answers[2]).copy()
        bad[:, 0] = math.nan
        answers[2] = answer_slots(answers[2].teacher, bad)
        return SimpleNamespace(result=lambda: answers)

    source.submit = broken  # type: ignore[method-assign]
    with pytest.raises(
        NonFiniteError,
        match=r"weights of teachers nan\), answers of teacher multi not finite, at step 0 of 12, rows \['r",
    ):
        loop.run()


def test_a_batch_that_nobody_labels_or_covers_gives_no_nan() -> None:
    """Every unit is ignored: the sums are empty and the loss is 0."""
    points: list[Any] = []
    loop = build_loop(run_config({"alpha": 0.5}), publish=points.append)
    train = loop.trainer.rows
    empty = np.flatnonzero((train.labels_B < 0) & (np.asarray(train.languages) == "fr"))
    assert len(empty) > 4 and loop.trainer.source is not None
    said = loop.trainer.source.submit(train.take(empty.tolist())).result()
    loop.step(StepWork(0, [empty], [said], 0.0))
    loop._log(1)
    assert points[0].values["train/loss"] == 0.0 and loop.state.skipped == 0
    assert all(bool(torch.isfinite(w).all()) for w in (loop.engine.weights() or {}).values())


def test_a_notice_ends_the_window_between_two_evaluations_without_an_evaluation() -> None:
    asked: list[int] = []
    loop = build_loop(run_config(evaluations=2), noticed=lambda: (asked.append(1), len(asked) == 1)[1])
    loop._last_check = -1e9  # long ago
    assert loop.advance() and loop.state.step == 1 and loop.state.history == []
    assert loop.advance() and loop.state.step == 6 and len(loop.state.history) == 1 and asked == [1]


def test_engine_process_does_not_import_mlflow_through_deepspeed():
    code = (
        "import sys, torch; from raykd.student.engine import import_deepspeed; "
        "found = import_deepspeed(torch.device('cpu')); "
        "print(found.__name__, sorted(n for n in sys.modules if n.split('.')[0] == 'mlflow')); import mlflow"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "deepspeed []"
