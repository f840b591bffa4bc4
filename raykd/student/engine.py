"""`Engine`: the DeepSpeed engine of one worker.

Decision record:

- Losses arrive as this micro-batch's share of the *global* loss (sums over units, divided by global counts). DeepSpeed
  divides by the accumulation steps and averages over ranks, so `backward` multiplies by both, only here. Then the
  gradient is the global one however the batch is split.
- The optimizer is torch's, fused AdamW unless the DeepSpeed configuration asks for another, so nothing is compiled. The
  shared-memory all-reduce op is switched off before initialisation: compiling it takes a minute, and gloo does the
  work.
- ZeRO stage 0 is the default because it has the cheapest step for a model that fits one worker.
- bfloat16 without ZeRO is torch's autocast over float32 weights. DeepSpeed's own optimizer for it reads a number back
  from the device for each tensor and calls 2.6 times the operators. Under ZeRO 1 to 3 weights are bfloat16 and each
  rank holds its share of them in float32, because memory is what those stages are for.
- Networks that learn beside each other have parameter groups of their own, whose rates are multiples of the run's, and
  without ZeRO each is clipped by its own norm. So what one of them learns does not depend on the size of the other's
  gradient. DeepSpeed's own optimizers know one norm.
- A step whose gradient is not finite changes no weight. DeepSpeed's own optimizers (ZeRO 1 to 3) skip it. Where the
  optimizer is torch's (ZeRO 0), the norm that clipping computes anyway is checked first (`TorchStep`). Gradients are
  reduced before they are checked, so all ranks decide alike without a further exchange.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raykd.compat.deepspeed_private import (
    compile_nothing,
    leaving_out_mlflow,
    loading_universal,
    set_last_rates,
)
from raykd.config import TrainConfig
from raykd.devices import leave_out_cudnn_attention
from raykd.errors import TrainingError
from raykd.models.activations import fuse_activations
from raykd.student.settings import build_deepspeed_config, plan_optimizer, plan_schedule
from raykd.student.torch_step import TorchStep, read_numbers
from raykd.student.validation import get_schedule_class


def group_by_decay(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Group the parameters with weight decay (matrices) and without (biases, norms)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def find_hidden_width(model: nn.Module) -> int:
    """Find the hidden width of a model in its configuration, else the longest row of its matrices."""
    config = getattr(model, "config", None)
    named = (getattr(config, key, None) for key in ("hidden_size", "d_model", "n_embd", "dim", "hidden"))
    matrices = [p.shape[1] for p in model.parameters() if p.ndim == 2]
    return next((width for width in named if isinstance(width, int) and width > 0), max(matrices, default=1))


class Engine:
    """A student's model with its optimizer, sharded by DeepSpeed over the ranks of the process group.

    Args:
        model: The student, on the CPU.
        train: Optimizer, schedule, precision and the DeepSpeed configuration.
        total_steps: Optimizer steps of the whole run; the learning rate is a function of progress.
        world: Number of ranks; the process group exists already.
        device: Where the model is trained.
        tuned: Whether a part of a checkpoint is trained (`student.tuning`). The frozen rest stands there, so it is in
            no checkpoint of the run and in no copy of the weights.
        networks: Those that the model consists of, each with its learning rate as a multiple of the run's; () for one.
    """

    def __init__(
        self,
        model: nn.Module,
        train: TrainConfig,
        *,
        total_steps: int,
        world: int,
        device: torch.device,
        tuned: bool = False,
        networks: Sequence[tuple[nn.Module, float]] = (),
    ) -> None:
        deepspeed = import_deepspeed(device)
        config = build_deepspeed_config(train, world, find_hidden_width(model))
        if train.adversarial is not None:  # to DeepSpeed each pass is a micro-batch
            for key in ("gradient_accumulation_steps", "train_batch_size"):
                config[key] *= len(train.adversarial.shares)
        self._schedule: torch.optim.lr_scheduler.LambdaLR | None = None
        self.device, self.world, self.accumulation = device, world, train.gradient_accumulation
        plan, schedule = plan_optimizer(train), plan_schedule(train, total_steps)
        parts = networks or [(model, 1.0)]
        named = [(group, by) for part, by in parts for group in group_by_decay(part, plan.weight_decay)]
        groups = [{**group, "lr": plan.learning_rate * by} for group, by in named]
        fuse_activations(model)
        leave_out_cudnn_attention(device)
        self._decays = [group["params"][0].ndim >= 2 for group in groups]
        self._factors = [by for _, by in named]

        def make_schedule(inner: torch.optim.Optimizer) -> object:
            if schedule is not None:
                name, arguments = schedule
                return get_schedule_class(name)(inner, **arguments)
            self._schedule = torch.optim.lr_scheduler.LambdaLR(
                inner, lambda step: train.lr_schedule.value_at(min(1.0, step / total_steps))
            )
            return self._schedule

        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=model.to(device),
            optimizer=plan.build(groups),
            lr_scheduler=make_schedule,
            config=config,
            dist_init_required=False,
        )
        self._deepspeed = deepspeed
        self.zero_stage = int(self.engine.zero_optimization_stage())
        self.autocast_dtype = (
            torch.bfloat16 if train.precision == "bfloat16" and not self.zero_stage else None
        )
        if self.autocast_dtype is not None:
            # Inside the module, because DeepSpeed's forward switches an autocast around it off.
            model.forward = torch.autocast(device.type, self.autocast_dtype)(model.forward)
            self.optimizer.register_load_state_dict_pre_hook(_refuse_half_weights)
        if world == 1 and self.zero_stage == 0:
            # One rank has nothing to reduce, and flattening all gradients for it costs about 4 % of a step.
            self.engine.enable_backward_allreduce = False
        self._torch_step = (
            None if self.zero_stage else TorchStep(self.engine, [network for network, _ in parts])
        )
        self._tuned = tuned
        # Parameters whose missing gradients `step` sets to 0. DeepSpeed's own optimizers and its reduction do so.
        fills = self._torch_step is not None and world == 1
        self._filled = [p for p in self.module.parameters() if p.requires_grad] if fills else []

    @property
    def module(self) -> nn.Module:
        """The model, in the engine's precision."""
        module: nn.Module = self.engine.module
        return module

    def train(self) -> None:
        """Switch dropout on."""
        self.engine.train()

    def forward(self, route: str = "", /, **inputs: torch.Tensor) -> Any:
        """Return the model's outputs, in the engine's precision; a task's `gather` reads them.

        Args:
            route: Name of the task, for a model of several tasks.
            inputs: The model's.
        """
        return self.engine(route, **inputs) if route else self.engine(**inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """Run the backward pass of this micro-batch's share of the global loss."""
        # DeepSpeed's division by the accumulation steps is left out; ranks are averaged in any case.
        self.engine.backward(loss if self.world == 1 else loss * self.world, scale_wrt_gas=False)

    def step(self, wanted: Sequence[torch.Tensor] = ()) -> tuple[bool, list[float]]:
        """End a micro-batch; at the last one of an optimizer step, reduce, clip and update.

        A parameter that took no part in the step (the head of another task) gets a gradient of 0, as DeepSpeed gives it
        where there are several ranks, so that its moments and decay do not depend on their number.

        Args:
            wanted: What the caller wants to know of the step; read back from the device when an optimizer step ends.

        Returns:
            False where an optimizer step was skipped because its gradient is not finite; and the numbers of ``wanted``.
        """
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()
            return True, []
        for parameter in self._filled:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        skipped = self.engine.skipped_steps
        if self._torch_step is None:
            self.engine.step()
            read = read_numbers(wanted)
        else:
            self._torch_step.wanted = wanted
            self.engine.step()
            read = self._torch_step.read
        if self.engine.skipped_steps == skipped:
            return True, read
        if self.engine.lr_scheduler is not None:  # rates follow progress, also over a skipped step
            self.engine.lr_scheduler.step()
        return False, read

    def set_rates(self, train: TrainConfig) -> None:
        """Take learning rate and weight decay from ``train``; the position in the schedule stays.

        What the user's own DeepSpeed configuration sets, a schedule of its own included, stays as it is.
        """
        groups, plan = self.optimizer.param_groups, plan_optimizer(train)
        if len(self._decays) == len(groups):
            for group, decays in zip(groups, self._decays, strict=True):
                group["weight_decay"] = plan.weight_decay if decays else 0.0
        schedule = self._schedule
        if schedule is None:
            return
        factors = self._factors if len(self._factors) == len(groups) else [1.0] * len(groups)
        bases = [plan.learning_rate * factor for factor in factors]
        schedule.base_lrs = [*bases]
        shares = [share(schedule.last_epoch) for share in schedule.lr_lambdas]
        rates = [base * share for base, share in zip(bases, shares, strict=True)]
        for group, base, rate in zip(groups, bases, rates, strict=True):
            group["initial_lr"], group["lr"] = base, rate
        set_last_rates(schedule, rates)

    def learning_rate(self) -> float:
        """Return the rate of the first parameter group."""
        return float(self.engine.get_lr()[0])

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Yield the module without dropout and without gradients."""
        self.engine.eval()
        try:
            with torch.no_grad():
                if self.autocast_dtype is None:
                    yield self.engine
                else:  # the output head of a language model is called from outside the module
                    with torch.autocast(self.device.type, self.autocast_dtype):
                        yield self.module
        finally:
            self.engine.train()

    def weights(self) -> dict[str, torch.Tensor] | None:
        """Copy the state dict in float32 to the CPU, on rank 0; None on other ranks. All ranks must call."""
        parameters = [p for p in self.module.parameters() if p.requires_grad or not self._tuned]
        # Under ZeRO 3 each rank holds a part of every parameter.
        is_sharded = self.zero_stage == 3
        with self._deepspeed.zero.GatheredParameters(parameters, modifier_rank=None, enabled=is_sharded):
            if self._rank() != 0:
                return None
            state = self.module.state_dict(keep_vars=True)
            return {
                name: _copy_to_cpu(value)
                for name, value in state.items()
                if value.requires_grad or not (self._tuned and isinstance(value, nn.Parameter))
            }

    def save(self, directory: Path, tag: str) -> None:
        """Write this rank's part of model, optimizer and schedule; all ranks must call."""
        self.engine.save_checkpoint(
            str(directory), tag=tag, save_latest=False, exclude_frozen_parameters=self._tuned
        )

    def load(self, directory: Path, tag: str) -> None:
        """Restore what `save` wrote; shards of another number of ranks are converted first. All ranks must call."""
        shards = len(list((directory / tag).glob("*_optim_states.pt")))
        converted = self.zero_stage > 0 and shards not in (0, self.world)
        if converted:
            tag = convert_to_universal(directory, tag, self._rank())
        with loading_universal(self.engine, converted):
            path, _ = self.engine.load_checkpoint(str(directory), tag=tag, load_module_strict=not self._tuned)
        if path is None:
            raise FileNotFoundError(f"no DeepSpeed checkpoint {tag} in {directory}")

    def close(self) -> None:
        """Free hooks and buffers."""
        self.engine.destroy()

    @staticmethod
    def _rank() -> int:
        return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def convert_to_universal(directory: Path, tag: str, rank: int) -> str:
    """Convert a checkpoint that is sharded for its ranks to DeepSpeed's universal form, beside it; return its tag.

    Rank 0 converts, under another name until the result is whole; the others wait.
    """
    target = directory / f"{tag}-universal"
    if rank == 0 and not target.is_dir():
        from deepspeed.checkpoint import ds_to_universal

        fresh = directory / f"{tag}-universal.part"
        shutil.rmtree(fresh, ignore_errors=True)
        wanted = argparse.Namespace(
            input_folder=str(directory / tag),
            output_folder=str(fresh),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            ds_to_universal.main(wanted)
        fresh.rename(target)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    return target.name


def _refuse_half_weights(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of a run whose weights were bfloat16 without ZeRO.

    Raises:
        TrainingError: It is one.
    """
    if "fp32_groups" in state:
        raise TrainingError(
            "this checkpoint was written by an older version, which trained in bfloat16 in another way",
            got="weights in bfloat16, and a float32 copy of each",
            wanted="weights in float32, multiplied in bfloat16",
            next_step="start the run again under another name; to begin from what was learnt, give it the old run's "
            "student: student: {kind: pretrained, path: <the run's folder>/student}",
        )


def _copy_to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    copy = tensor.detach().to("cpu", copy=True)
    return copy.float() if copy.is_floating_point() else copy


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for the device, quietly and without compiling anything.

    A host without a process group gets a group of this process alone.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device.type == "cuda" else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with leaving_out_mlflow():
        import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)  # its import sets the level back
    if device.type == "cpu":
        compile_nothing(deepspeed)
    if not torch.distributed.is_initialized():
        os.environ.setdefault("LOCAL_RANK", "0")
        backend = "nccl" if device.type == "cuda" else "gloo"
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    return deepspeed
