"""Check that a DeepSpeed configuration can train, before a worker is taken.

Decision record: DeepSpeed's own classes read the blocks that they know, and optimizer and schedule are built once over
a parameter of one number. So what would fail in a worker fails here, with the name of its key. What counts is the
resources that the run asks for, never the machine that checks, so DeepSpeed is not asked for its device.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from raykd.config import TrainConfig
from raykd.errors import ConfigError
from raykd.parse import JsonObject
from raykd.student.overrides import describe_overruled_keys
from raykd.student.settings import (
    KEY,
    build_deepspeed_config,
    is_offloaded,
    plan_optimizer,
    plan_schedule,
    read_deepspeed_keys,
    refuse_key,
)

TRIED = (
    "stage", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "use_multi_rank_bucket_allreduce",
    "allgather_partitions", "allgather_bucket_size", "overlap_comm", "load_from_fp32_weights", "offload_param",
    "offload_optimizer", "sub_group_size", "cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory",
    "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "stage3_model_persistence_threshold",
    "stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_gather_16bit_weights_on_model_save",
    "stage3_gather_fp16_weights_on_model_save", "ignore_unused_parameters", "round_robin_gradients",
    "memory_efficient_linear", "override_module_apply", "log_trace_cache_warnings", "elastic_checkpoint",
)  # fmt: skip
"""Keys of ZeRO that were tried with this engine."""
OFFLOAD = ("device", "pin_memory", "buffer_count", "buffer_size", "max_in_cpu", "nvme_path", "fast_init")


def check_deepspeed(train: TrainConfig, world: int, *, gpus: bool) -> list[str]:
    """Check the DeepSpeed configuration of a run.

    Args:
        train: The run's training.
        world: Number of workers.
        gpus: Whether they ask for GPUs.

    Returns:
        What the user must know, one sentence each.

    Raises:
        ConfigError: Names the key.
    """
    own = read_deepspeed_keys(train)
    config = build_deepspeed_config(train, world, hidden=64)
    if not own:
        return []
    zero = config["zero_optimization"]
    with _quiet():
        _check_offered(zero)
        for key, model in _models().items():
            if key in own:
                _validate(model, {**own, **config}[key], f"{KEY}.{key}")
        _try_optimizer(train)
    _check_stages(own, zero, plan_optimizer(train).kind)
    notes = describe_overruled_keys(train)
    if not gpus and any(is_offloaded(zero, key) for key in ("offload_param", "offload_optimizer")):
        notes.append(f"{KEY}.zero_optimization offloads to the CPU, where the workers are: it has no effect")
    if own.get("memory_breakdown"):
        notes.append(
            f"{KEY}.memory_breakdown looks through all of a worker's objects several times a step: seconds a step"
        )
    return notes


def _models() -> dict[str, type[BaseModel]]:
    """Return DeepSpeed's own classes by the key that they read."""
    import deepspeed  # noqa: F401  (its parts import one another only after it)
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    return {
        "zero_optimization": DeepSpeedZeroConfig,
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
    }


def _check_offered(zero: JsonObject) -> None:
    for key in zero:
        if key not in TRIED and f"stage3_{key}" not in TRIED:
            refuse_key(key, TRIED, f"{KEY}.zero_optimization", known=_is_known_to_deepspeed(key))
    for key in ("offload_param", "offload_optimizer"):
        for inner in zero.get(key) or ():
            if inner not in OFFLOAD:
                refuse_key(inner, OFFLOAD, f"{KEY}.zero_optimization.{key}")


def _is_known_to_deepspeed(key: str) -> bool:
    fields = _models()["zero_optimization"].model_fields
    return key in fields or key in {field.alias for field in fields.values()}


def _validate(model: type[BaseModel], values: JsonObject, path: str) -> None:
    """Let DeepSpeed's class read a block, without each `auto` that is left."""
    values = {key: value for key, value in values.items() if value != "auto"}
    try:
        model(**values)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            where = ".".join([path, *map(str, problem["loc"])])
            if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
                refuse_key(str(problem["loc"][0]), sorted(model.model_fields), path)
            raise ConfigError(
                f"{where} is not what DeepSpeed reads",
                got=repr(problem["input"])[:80],
                wanted=problem["msg"].removeprefix("Value error, ").removeprefix("Input should be "),
            ) from None
    except (AssertionError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is not what DeepSpeed reads", got=str(error)[:200], wanted="see its page"
        ) from None


def _check_stages(own: JsonObject, zero: JsonObject, kind: type[torch.optim.Optimizer]) -> None:
    """Refuse keys that are right by themselves and wrong for the stage of ZeRO."""
    stage = zero["stage"]
    for key, least in (("offload_param", 3), ("offload_optimizer", 1)):
        if is_offloaded(zero, key) and stage < least:
            raise ConfigError(
                f"{KEY}.zero_optimization.{key} needs stage {least}{' or more' if least < 3 else ''} of ZeRO",
                got=f"stage {stage}",
                wanted=f"{KEY}.zero_optimization.stage {'3' if least == 3 else '1, 2 or 3'}, or no {key}",
            )
    if own.get("zero_force_ds_cpu_optimizer") and is_offloaded(zero, "offload_optimizer"):
        raise ConfigError(
            f"{KEY}.zero_force_ds_cpu_optimizer is not offered: DeepSpeed compiles that optimizer, raykd uses torch's",
            got="true",
            wanted="false",
            next_step="leave it out",
        )
    if stage and own.get("zero_allow_untested_optimizer") is False and kind.__name__ not in ("Adam", "AdamW"):
        raise ConfigError(
            f"{KEY}.zero_allow_untested_optimizer is false, and DeepSpeed has not tested {kind.__name__} with ZeRO",
            got=f"stage {stage}",
            wanted="Adam or AdamW, or true",
        )
    if stage and own.get("gradient_predivide_factor", 1.0) != 1.0:
        raise ConfigError(
            f"{KEY}.gradient_predivide_factor works without ZeRO alone",
            got=f"{own['gradient_predivide_factor']} with stage {stage}",
            wanted="1, or stage 0",
        )


def _try_optimizer(train: TrainConfig) -> None:
    """Build optimizer and schedule over one number and take two steps."""
    plan, schedule = plan_optimizer(train), plan_schedule(train, 1000)
    number = torch.nn.Parameter(torch.zeros(1))
    what, name = "optimizer", f"torch.optim.{plan.kind.__name__}"
    _check_arguments(plan.kind, plan.others, f"{KEY}.optimizer.params")
    if schedule is not None:
        _check_arguments(get_schedule_class(schedule[0]), schedule[1], f"{KEY}.scheduler.params")
    try:
        optimizer, rates = plan.build([{"params": [number]}]), None
        if schedule is not None:
            what, name = "scheduler", f"DeepSpeed's {schedule[0]}"
            rates = get_schedule_class(schedule[0])(optimizer, **schedule[1])
        for _ in range(2):
            number.grad = torch.zeros(1)
            optimizer.step()
            if rates is not None:
                rates.step()
    except Exception as error:  # arguments of a wrong kind fail in any way
        raise ConfigError(
            f"{KEY}.{what}.params are not what {name} takes",
            got=f"{type(error).__name__}: {error}"[:300],
            wanted="its arguments, numbers without quotes",
        ) from None


def _check_arguments(kind: type[object], arguments: Iterable[str], path: str) -> None:
    there = [name for name in inspect.signature(kind).parameters if name not in ("params", "optimizer")]
    for name in arguments:
        if name not in there:
            refuse_key(name, there, path)


def get_schedule_class(name: str) -> type[Any]:
    """Return DeepSpeed's class of a schedule."""
    from deepspeed.runtime import lr_schedules

    found: type[Any] = getattr(lr_schedules, name)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Use DeepSpeed without its output, and without leaving a device in the environment that workers inherit."""
    before = os.environ.get("DS_ACCELERATOR")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logger = logging.getLogger("DeepSpeed")
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            import deepspeed  # noqa: F401

            logger.setLevel(logging.ERROR)
            yield
    finally:
        if before is None:
            os.environ.pop("DS_ACCELERATOR", None)
