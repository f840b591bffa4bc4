"""Read a DeepSpeed configuration: which keys are read, what `auto` stands for, and what raykd builds from it.

Decision record: raykd builds optimizer and schedule itself, from torch's optimizers and DeepSpeed's schedules, so that
nothing is compiled. DeepSpeed's own FusedAdam and CPUAdam take minutes to build and compute the same. `auto` takes the
value of the run's own key, as in Hugging Face's trainer; where there is no such key it is refused by name. Only keys
that were tried with this engine are read: what DeepSpeed would ignore, compile or do another way is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raykd.config import TrainConfig
from raykd.config.kinds.optimizers import AdamW
from raykd.distill.schedules import WarmupStableDecay
from raykd.errors import ConfigError
from raykd.parse import JsonObject

KEY = "train.deepspeed"
AUTO = "auto"
OWNED = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "gradient_clipping": "train.gradient_clipping",
    "bf16": "train.precision",
}
"""DeepSpeed keys for which raykd has a key of its own, so that the two could disagree."""
SWITCHES = (
    "wall_clock_breakdown", "memory_breakdown", "dump_state", "prescale_gradients", "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
)  # fmt: skip
NUMBERS = ("steps_per_print", "gradient_predivide_factor", *list(OWNED)[:4])
BLOCKS: Mapping[str, tuple[str, ...]] = {
    "zero_optimization": (), "bf16": (), "fp16": (),
    "flops_profiler": (
        "enabled", "recompute_fwd_factor", "profile_step", "module_depth", "top_modules", "detailed", "output_file",
    ),
    "comms_logger": ("enabled", "verbose", "prof_all", "prof_ops", "debug"),
    "optimizer": ("type", "params"), "scheduler": ("type", "params"),
    "activation_checkpointing": (
        "partition_activations", "cpu_checkpointing", "contiguous_memory_optimization", "number_checkpoints",
        "synchronize_checkpoint_boundary", "profile",
    ),
    "aio": ("block_size", "queue_depth", "thread_count", "intra_op_parallelism", "single_submit", "overlap_events"),
}  # fmt: skip
"""Keys that hold an object, and the keys in it; empty where DeepSpeed's own classes check them."""
READ = (*SWITCHES, *NUMBERS, *BLOCKS, "communication_data_type")
NOT_OFFERED = (
    "amp", "autotuning", "bfloat16", "checkpoint", "comet", "compile", "compression_training", "csv_monitor",
    "curriculum_learning", "data_efficiency", "data_types", "dataloader_drop_last", "datastates_ckpt",
    "disable_allgather", "eigenvalue", "elasticity", "expert_parallel", "gradient_allreduce_op", "hybrid_engine",
    "log_level", "managed_gradient_accumulation", "nebula", "pipeline", "progressive_layer_drop", "quantize_training",
    "seq_parallel_communication_data_type", "sequence_parallel_size", "sparse_attention", "sparse_gradients",
    "tensor_parallel", "tensorboard", "timers", "torch_autocast", "vocabulary_size", "wandb", "weight_quantization",
)  # fmt: skip
"""Keys of DeepSpeed, of this version or an older one, that raykd does not use."""
SIZES = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
"""Keys of ZeRO whose `auto` is computed from the width of the model."""
ADAMS = {"adam": "Adam", "adamw": "AdamW"}
TORCH = ("Adam", "AdamW", "SGD", "RMSprop", "NAdam", "RAdam", "Adamax", "Adadelta")
"""torch's optimizers that compute the same on a whole parameter and on the part of it that a rank holds."""
SCHEDULES = ("WarmupLR", "WarmupDecayLR", "WarmupCosineLR", "OneCycle", "LRRangeTest")


@dataclass(frozen=True)
class OptimizerPlan:
    """The optimizer that trains a student: its class and its arguments, but for the parameters."""

    kind: type[torch.optim.Optimizer]
    learning_rate: float
    weight_decay: float
    others: Mapping[str, Any]

    def build(self, groups: Sequence[Mapping[str, object]]) -> torch.optim.Optimizer:
        """Build the optimizer of these parameter groups."""
        arguments = {"lr": self.learning_rate, "weight_decay": self.weight_decay, **self.others}
        return self.kind(groups, **arguments)  # type: ignore[arg-type]  # each class has its own


def read_deepspeed_keys(train: TrainConfig) -> JsonObject:
    """Return the user's DeepSpeed configuration; empty where there is none."""
    return dict(train.deepspeed) if isinstance(train.deepspeed, dict) else {}


def build_deepspeed_config(train: TrainConfig, world: int, hidden: int | None = None) -> JsonObject:
    """Build the configuration that DeepSpeed is given: the user's own, completed by what raykd owns.

    Optimizer and schedule are not in it; see `plan_optimizer` and `plan_schedule`.

    Args:
        train: The run's training.
        world: Number of ranks.
        hidden: Width of the model, from which `auto` sizes are computed; None leaves them out.

    Raises:
        ConfigError: A key is not read, has a value of another kind, or disagrees with the run's.
    """
    own = read_deepspeed_keys(train)
    check_keys(own)
    stage = own.get("zero_optimization", {}).get("stage", train.zero_stage)
    half = train.precision == "bfloat16"
    # DeepSpeed wants sizes that divide evenly and draws no rows by them. `BatchStream.shard` deals out all rows of
    # train.batch_size, in micro-batches that differ by at most one row.
    micro = max(1, train.batch_size // (world * train.gradient_accumulation))
    made: JsonObject = {
        "train_batch_size": micro * world * train.gradient_accumulation,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": train.gradient_accumulation,
        "gradient_clipping": train.gradient_clipping,
        "bf16": {**own.get("bf16", {}), "enabled": half and stage > 0},  # without ZeRO it is torch's autocast
    }
    for key, name in OWNED.items():
        allowed = [AUTO, made[key]]
        if (
            key == "train_batch_size"
        ):  # what DeepSpeed is told may be less, where the batch does not divide evenly
            allowed.append(train.batch_size)
        if key == "bf16":  # only the switch is compared
            agrees = key not in own or own[key].get("enabled", False) in (AUTO, half)
        else:
            agrees = own.get(key, AUTO) in allowed
        if not agrees:
            raise ConfigError(
                f"{KEY}.{key} disagrees with {name}",
                got=own[key],
                wanted=f"enabled {str(half).lower()}" if key == "bf16" else made[key],
                next_step=f"leave {key} out of the DeepSpeed configuration and set {name}",
            )
    if own.get("fp16", {}).get("enabled", False) not in (False, AUTO):
        raise ConfigError(
            f"{KEY}.fp16 is not supported",
            got=f"fp16.enabled {own['fp16']['enabled']}",
            wanted="train.precision float32 or bfloat16",
            next_step="leave fp16 out, or set fp16.enabled to false",
        )
    zero = {"stage": train.zero_stage, **_replace_auto_sizes(own.get("zero_optimization", {}), hidden)}
    if train.zero_stage and zero["stage"] != train.zero_stage:
        raise ConfigError(
            f"{KEY}.zero_optimization.stage disagrees with train.zero_stage",
            got=zero["stage"],
            wanted=str(train.zero_stage),
        )
    defaults = {
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
        # Its timer waits for the device at the beginning and at the end of each step, and prints nothing here.
        "timers": {"throughput": {"enabled": False}},
    }
    kept = {
        key: value
        for key, value in own.items()
        if value != AUTO and key not in ("fp16", "optimizer", "scheduler")
    }
    return {**defaults, **kept, **made, "zero_optimization": zero}


def _replace_auto_sizes(zero: JsonObject, hidden: int | None) -> JsonObject:
    """Replace `auto` in a block of ZeRO by the sizes that Hugging Face's trainer computes from a model's width."""
    sizes = dict(zip(SIZES, (hidden**2, int(0.9 * hidden**2), 10 * hidden), strict=True)) if hidden else {}
    replaced = {key: max(1, sizes[key]) for key in sizes if zero.get(key) == AUTO}
    return {key: value for key, value in zero.items() if value != AUTO} | replaced


def check_keys(own: JsonObject) -> None:
    """Refuse keys that are not read, and values of another kind than DeepSpeed's.

    Raises:
        ConfigError: Names the key, and the nearest one that there is.
    """
    for key, value in own.items():
        if key not in READ:
            refuse_key(key, READ, KEY, known=key in NOT_OFFERED)
        if key in BLOCKS:
            _check_block(key, value)
        elif value == AUTO and (key in OWNED or key == "communication_data_type"):
            continue
        elif key in SWITCHES and not isinstance(value, bool):
            raise ConfigError(f"{KEY}.{key} is no switch", got=repr(value), wanted="true or false")
        elif key in NUMBERS and (isinstance(value, bool) or not isinstance(value, (int, float))):
            numbers = "a number, without quotes" + (" or auto" if key in OWNED else "")
            raise ConfigError(f"{KEY}.{key} is no number", got=repr(value), wanted=numbers)
    if own.get("communication_data_type", "fp32") not in (AUTO, "fp32", "bf16", None):
        raise ConfigError(
            f"{KEY}.communication_data_type is not offered",
            got=repr(own["communication_data_type"]),
            wanted="fp32 or bf16",
        )
    _check_zero(own.get("zero_optimization", {}))


def _check_block(key: str, value: object) -> None:
    if not isinstance(value, Mapping):
        switch = ' such as {"enabled": true}' if key in ("bf16", "fp16") else ""
        stage = ' such as {"stage": 2}' if key == "zero_optimization" else ""
        raise ConfigError(
            f"{KEY}.{key} is no object", got=repr(value)[:80], wanted=f"an object{switch}{stage}"
        )
    allowed = BLOCKS[key]
    for inner in value if allowed else ():
        if inner not in allowed:
            refuse_key(inner, allowed, f"{KEY}.{key}")
    enabled = value.get("enabled", False)
    if key in ("bf16", "fp16") and enabled != AUTO and not isinstance(enabled, bool):
        raise ConfigError(
            f"{KEY}.{key}.enabled is no switch", got=repr(enabled), wanted="true, false or auto"
        )
    if key in ("optimizer", "scheduler"):
        if not isinstance(value.get("type"), str):
            raise ConfigError(
                f"{KEY}.{key}.type is missing",
                got=f"keys {', '.join(map(str, value)) or 'none'}",
                wanted='{"type": ..., "params": {...}}',
            )
        if not isinstance(value.get("params", {}), Mapping):
            raise ConfigError(
                f"{KEY}.{key}.params is no object", got=repr(value["params"])[:80], wanted="an object"
            )
    elif key != "fp16":  # which is not used, whatever stands in it
        _refuse_auto(value, f"{KEY}.{key}", but=("enabled",) if key == "bf16" else SIZES)


def _check_zero(zero: JsonObject) -> None:
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3) or not isinstance(stage, int):
        raise ConfigError(
            f"{KEY}.zero_optimization.stage is no stage of ZeRO",
            got=repr(stage),
            wanted="0, 1, 2 or 3, without quotes; nothing of the run says it, so it cannot be auto",
        )
    for key in ("offload_param", "offload_optimizer"):
        block = zero.get(key)
        if block is None:
            continue
        if not isinstance(block, Mapping):
            raise ConfigError(
                f"{KEY}.zero_optimization.{key} is no object", got=repr(block), wanted='{"device": "cpu"}'
            )
        if block.get("device") == "nvme":
            raise ConfigError(
                f"{KEY}.zero_optimization.{key}.device nvme is not offered: DeepSpeed compiles what it needs",
                got="nvme",
                wanted="cpu or none",
            )


def is_offloaded(zero: JsonObject, key: str) -> bool:
    """Return whether a block of ZeRO moves something to the CPU.

    Args:
        zero: The block.
        key: ``offload_optimizer`` or ``offload_param``; the names of older versions of DeepSpeed count as these.
    """
    older = zero.get("cpu_offload" if key == "offload_optimizer" else "cpu_offload_param")
    return bool(older) or (zero.get(key) or {}).get("device", "none") != "none"


def _refuse_auto(node: object, path: str, but: Sequence[str] = ()) -> None:
    """Refuse each `auto` below a key for which the run has no value."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if value == AUTO and key == "stage":
            continue  # `_check_zero` refuses it, with the stages that there are
        if value == AUTO and key not in but:
            raise ConfigError(
                f"{path}.{key} cannot be auto: nothing of the run says it",
                got=AUTO,
                wanted="a value",
                next_step=f"write it, or leave {key} out for DeepSpeed's default",
            )
        _refuse_auto(value, f"{path}.{key}", but)


def refuse_key(key: str, allowed: Sequence[str], path: str, *, known: bool = False) -> None:
    """Refuse a key below a path.

    Args:
        key: The key.
        allowed: The keys that there are.
        path: Where it stands.
        known: Whether DeepSpeed has it, and raykd does not read it.

    Raises:
        ConfigError: Always.
    """
    near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
    keys = f"keys among {', '.join(sorted(allowed))}"
    if known:
        raise ConfigError(
            f"{path}.{key} is not offered: raykd trains without it",
            got=key,
            wanted="a configuration without it",
            next_step="leave it out",
        )
    raise ConfigError(
        f"{path}.{key} is no key of a DeepSpeed configuration",
        got=f"an unknown key {key!r}",
        wanted=repr(near[0]) if near else keys,
        next_step=f"did you mean {near[0]!r}?" if near else "leave it out",
    )


def plan_optimizer(train: TrainConfig) -> OptimizerPlan:
    """Plan the optimizer of a run: `train.optimizer`, or the one that its DeepSpeed configuration asks for.

    Raises:
        ConfigError: There is no such optimizer, or it does not take what is set.
    """
    own = read_deepspeed_keys(train)
    check_keys(own)
    on_cpu, ours = is_offloaded(own.get("zero_optimization", {}), "offload_optimizer"), train.optimizer
    if "optimizer" not in own:
        fused: dict[str, Any] = {"fused": True} if ours.kind == "adamw" and not on_cpu else {}
        others = {**ours.list_arguments(), **fused}
        return OptimizerPlan(ours.find_class(), train.learning_rate, train.weight_decay, others)
    name, path = own["optimizer"]["type"], f"{KEY}.optimizer"
    if ours != AdamW():
        raise ConfigError(
            f"{path} disagrees with train.optimizer",
            got=f"type {name}, and train.optimizer {ours.kind}",
            wanted="one optimizer",
            next_step="leave optimizer out of the DeepSpeed configuration, or train.optimizer out of the run",
        )
    params = dict(own["optimizer"].get("params", {}))
    adam_w = params.pop("adam_w_mode", True)
    kind = ADAMS.get(name.lower(), name)
    if kind == "Adam" and adam_w:
        kind = "AdamW"  # as DeepSpeed reads it
    if kind not in TORCH:
        raise ConfigError(
            f"{path}.type {name} is not offered: raykd builds torch's optimizers and compiles none",
            got=name,
            wanted=f"one of {', '.join(TORCH)}",
            next_step="AdamW, or leave optimizer out: train.learning_rate and train.weight_decay say the rest",
        )
    params.pop("torch_adam", None)  # torch's is the only one here
    for switch in ("fp32_optimizer_states", "bias_correction"):
        if params.pop(switch, True) is not True:
            raise ConfigError(f"{path}.params.{switch} cannot be switched off", got="false", wanted="true")
    for key in [key for key in ("betas", "eps", "momentum") if params.get(key) == AUTO]:
        params.pop(key)  # torch's defaults are those of Hugging Face's trainer
    rate = params.pop("lr", AUTO)
    decay = params.pop("weight_decay", AUTO)
    _refuse_auto(params, f"{path}.params")
    if kind in ("Adam", "AdamW") and not on_cpu and not {"fused", "foreach", "amsgrad"} & set(params):
        params["fused"] = True
    return OptimizerPlan(
        getattr(torch.optim, kind),
        train.learning_rate if rate == AUTO else rate,
        train.weight_decay if decay == AUTO else decay,
        params,
    )


def plan_schedule(train: TrainConfig, total_steps: int) -> tuple[str, JsonObject] | None:
    """Return name and arguments of the schedule of DeepSpeed's that a run asks for.

    Returns:
        None where `train.lr_schedule` gives the rate.

    Raises:
        ConfigError: DeepSpeed has no such schedule, or there is no value of the run for an `auto`.
    """
    own = read_deepspeed_keys(train)
    check_keys(own)
    if "scheduler" not in own:
        return None
    name, path = own["scheduler"]["type"], f"{KEY}.scheduler"
    if name not in SCHEDULES:
        near = difflib.get_close_matches(name, SCHEDULES, n=1, cutoff=0.5)
        raise ConfigError(
            f"{path}.type {name} is no schedule of DeepSpeed",
            got=name,
            wanted=f"one of {', '.join(SCHEDULES)}",
            next_step=f"did you mean {near[0]}?" if near else "leave scheduler out and set train.lr_schedule",
        )
    warm = train.lr_schedule.warmup if isinstance(train.lr_schedule, WarmupStableDecay) else 0.0
    values = {
        "warmup_min_lr": 0.0,
        "warmup_max_lr": plan_optimizer(train).learning_rate,
        "warmup_num_steps": max(1, round(warm * total_steps)),
        "total_num_steps": total_steps,
        "warmup_min_ratio": 0.0,
    }
    params = {
        key: values[key] if value == AUTO and key in values else value
        for key, value in own["scheduler"].get("params", {}).items()
    }
    if name in ("WarmupLR", "WarmupDecayLR"):
        params.setdefault("warmup_max_lr", values["warmup_max_lr"])
    _refuse_auto(params, f"{path}.params")
    return name, params
