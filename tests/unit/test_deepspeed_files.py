"""DeepSpeed configurations as people have them: read as the run's, or refused by the key before a worker is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from raykd.config import TrainConfig
from raykd.config.loading import load_run
from raykd.errors import ConfigError
from raykd.student.overrides import describe_overruled_keys, find_overruled_keys
from raykd.student.settings import (
    build_deepspeed_config,
    plan_optimizer,
    plan_schedule,
)
from raykd.student.validation import check_deepspeed
from raykd.tuning.config import load_sweep
from tests.unit.test_config import tree
from tests.worlds import build_loop, run_config

AUTO_ADAM = {
    "type": "AdamW",
    "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
}
AUTO_WARMUP = {
    "type": "WarmupDecayLR",
    "params": {
        "total_num_steps": "auto",
        "warmup_min_lr": "auto",
        "warmup_max_lr": "auto",
        "warmup_num_steps": "auto",
    },
}
AUTO_SIZES = {
    "gradient_accumulation_steps": "auto", "gradient_clipping": "auto", "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto", "steps_per_print": 2000, "wall_clock_breakdown": False,
    "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16},
    "bf16": {"enabled": "auto"},
}  # fmt: skip
ZERO_2 = {
    "stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": True}, "allgather_partitions": True,
    "allgather_bucket_size": 2e8, "overlap_comm": True, "reduce_scatter": True, "reduce_bucket_size": 2e8,
    "contiguous_gradients": True,
}  # fmt: skip
ZERO_3 = {
    "stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": True},
    "offload_param": {"device": "cpu", "pin_memory": True}, "overlap_comm": True, "contiguous_gradients": True,
    "sub_group_size": 1e9, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
    "stage3_param_persistence_threshold": "auto", "stage3_max_live_parameters": 1e9,
    "stage3_max_reuse_distance": 1e9, "stage3_gather_16bit_weights_on_model_save": True,
}  # fmt: skip
WHOLE = {"optimizer": AUTO_ADAM, "scheduler": AUTO_WARMUP, **AUTO_SIZES}
"""Hugging Face's examples of ZeRO 2 and 3, whole."""


def checked(own: dict[str, Any], **train: Any) -> list[str]:
    return check_deepspeed(TrainConfig(batch_size=16, deepspeed=own, **train), 1, gpus=False)


def test_an_optimizer_that_is_offloaded_is_the_same_under_its_older_name() -> None:
    for block in ({"offload_optimizer": {"device": "cpu"}}, {"cpu_offload": True}):
        own = {"zero_optimization": {"stage": 2, **block}}
        assert "fused" not in plan_optimizer(TrainConfig(deepspeed=own)).others
    assert plan_optimizer(TrainConfig(deepspeed={"zero_optimization": {"stage": 2}})).others["fused"]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"zero_optimisation": {"stage": 2}}, "did you mean 'zero_optimization'"),
        ({"zero_optimization": {"offload_optimiser": {}}}, "did you mean 'offload_optimizer'"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"devices": "cpu"}}}, "did you mean 'device'"),
        ({"bf16": {"enable": True}}, r"bf16\.enable is no key"),
        ({"optimizer": {"type": "AdamW", "params": {"weight_decey": 0.1}}}, "did you mean 'weight_decay'"),
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_step": 3}}}, "mean 'warmup_num_steps'"),
        ({"scheduler": {"type": "WarmupLr"}}, "did you mean WarmupLR"),
        ({"zero_optimization": {"stage": 4}}, "stage is no stage of ZeRO"),
        ({"zero_optimization": {"stage": "auto"}}, "stage is no stage of ZeRO"),
        ({"zero_optimization": {"stage": "2"}}, "stage is no stage of ZeRO"),
        ({"zero_optimization": [2]}, "zero_optimization is no object"),
        ({"zero_optimization": True}, "zero_optimization is no object"),
        ({"fp16": True}, "fp16 is no object"),
        ({"zero_optimization": {"stage": 2, "reduce_bucket_size": -1}}, "reduce_bucket_size is not what"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, "offload_param needs stage 3"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "offload_optimizer needs stage 1"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "nvme is not offered"),
        ({"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}, "weights is not offered"),
        ({"optimizer": {"type": "OneBitAdam", "params": {"freeze_step": 4}}}, "OneBitAdam is not offered"),
        ({"optimizer": {"type": "Lamb"}}, "Lamb is not offered"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": "1e-3"}}}, "numbers without quotes"),
        ({"optimizer": {"type": "SGD", "params": {"nesterov": "auto"}}}, "nesterov cannot be auto"),
        ({"optimizer": {"params": {"lr": 0.1}}}, r"optimizer\.type is missing"),
        ({"scheduler": {"type": "WarmupDecayLR", "params": {}}}, "total_num_steps"),
        ({"gradient_clipping": "1.0"}, "gradient_clipping is no number"),
        ({"wall_clock_breakdown": "false"}, "wall_clock_breakdown is no switch"),
        ({"amp": {"enabled": True}}, "amp is not offered"),
        ({"zero3_init_flag": True}, "zero3_init_flag is no key"),
        ({"train_batch_size": 7}, "disagrees with train.batch_size"),
        (
            {"optimizer": {"type": "SGD"}, "zero_optimization": {"stage": 1}, "zero_allow_untested_optimizer": False},
            "zero_allow_untested_optimizer",
        ),
    ],
    ids=lambda x: json.dumps(x)[:60] if isinstance(x, dict) else None,
)  # fmt: skip
def test_what_cannot_train_is_refused_by_its_key(own: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        checked(own)
    assert "train.deepspeed." in str(error.value)


@pytest.mark.parametrize("zero", [ZERO_2, ZERO_3], ids=["2", "3"])
def test_the_examples_of_hugging_face_train_to_the_weights_of_the_run_itself(zero: dict[str, Any]) -> None:
    own = {"zero_optimization": zero, **{k: v for k, v in WHOLE.items() if k != "scheduler"}}
    run = run_config(deepspeed=own)
    assert check_deepspeed(run.train, 1, gpus=True) == []
    loops = [build_loop(run), build_loop(run_config())]
    for loop in loops:
        loop.run()
    ours, plain = (loop.best_student().model.state_dict() for loop in loops)
    assert all(torch.allclose(ours[name], plain[name], atol=1e-6) for name in plain)


def test_the_whole_example_says_what_its_schedule_overrules_and_trains() -> None:
    run = run_config(deepspeed={**WHOLE, "zero_optimization": ZERO_2})
    notes = check_deepspeed(run.train, 1, gpus=False)
    assert [part in " ".join(notes) for part in ("train.lr_schedule has no effect", "offloads")] == [
        True,
        True,
    ]
    points: list[Any] = []
    build_loop(run, publish=points.append).run()
    rates = [p.values["train/learning_rate"] for p in points if "train/learning_rate" in p.values]
    assert max(rates) == pytest.approx(run.train.learning_rate) and rates[-1] < max(rates)


def test_auto_is_what_the_runs_keys_say() -> None:
    train = TrainConfig(learning_rate=0.02, weight_decay=0.3, deepspeed=dict(WHOLE))
    plan = plan_optimizer(train)
    assert (plan.kind, plan.learning_rate, plan.weight_decay) == (torch.optim.AdamW, 0.02, 0.3)
    assert plan_schedule(train, 200) == (
        "WarmupDecayLR",
        {"total_num_steps": 200, "warmup_min_lr": 0.0, "warmup_max_lr": 0.02, "warmup_num_steps": 20},
    )
    sized = build_deepspeed_config(TrainConfig(deepspeed={"zero_optimization": ZERO_3}), 1, hidden=100)
    zero = sized["zero_optimization"]
    assert [zero[k] for k in ("reduce_bucket_size", "stage3_prefetch_bucket_size")] == [10_000, 9_000]
    assert zero["stage3_param_persistence_threshold"] == 1_000


def test_what_the_file_overrules_is_said_and_equal_values_are_not() -> None:
    own = {"optimizer": {"type": "AdamW", "params": {"lr": 0.005, "weight_decay": 0.01}}}
    assert len(said := describe_overruled_keys(TrainConfig(learning_rate=0.001, deepspeed=own))) == 1
    assert "lr 0.005 counts, train.learning_rate 0.001 has no effect" in said[0]
    assert describe_overruled_keys(TrainConfig(learning_rate=0.005, deepspeed=own)) == []


def test_files_with_comments_are_read_and_other_formats_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree(train={"deepspeed": "ds.json"})))
    file = tmp_path / "ds.json"
    file.write_text(
        '{ // ZeRO\n "zero_optimization": {"stage": 2} /* two */, # end\n "aio": {"block_size": 1}}'
    )
    loaded = load_run(path).train.deepspeed
    assert loaded == {"zero_optimization": {"stage": 2}, "aio": {"block_size": 1}}
    wrong = {
        '{"zero_optimization": {"stage": 2}, "zero_optimization": {}}': "stands twice",
        "[2]": "is no mapping",
        "": "no DeepSpeed configuration",
        "zero_optimization:\n  stage: 2\n": "YAML",
        "distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 2}\n": "accelerate",
        '{\n  "a": 1,\n}': "line 3|line 2",
    }
    for text, said in wrong.items():
        file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            load_run(path)


def test_a_key_that_the_file_sets_cannot_be_searched() -> None:
    own = {
        "optimizer": {"type": "AdamW", "params": {"lr": 0.005, "weight_decay": "auto"}},
        "scheduler": AUTO_WARMUP,
    }
    assert find_overruled_keys(TrainConfig(deepspeed=own)) == {
        "train.learning_rate": "train.deepspeed.optimizer.params.lr",
        "train.lr_schedule": "train.deepspeed.scheduler",
    }
    assert find_overruled_keys(TrainConfig()) == {}


def test_a_search_over_a_key_that_the_file_sets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    base = tree(train={"deepspeed": {"optimizer": {"type": "AdamW", "params": {"lr": 0.005}}}})
    space = {"train": {"learning_rate": {"uniform": [0.001, 0.1]}}}
    path.write_text(yaml.safe_dump({"name": "s", "base": base, "space": space, "num_samples": 4}))
    with pytest.raises(
        ConfigError, match=r"space.train.learning_rate would have no effect, since train.deepspeed"
    ):
        load_sweep(path)
