"""Private names of DeepSpeed 0.19.8, and of torch 2.13's schedules, which it drives."""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine
    from torch.optim.lr_scheduler import LRScheduler


@contextlib.contextmanager
def leaving_out_mlflow() -> Iterator[None]:
    """Let DeepSpeed be imported without MLflow while the body runs.

    Its autotuner, which raykd never runs, imports MLflow where it can: 1.5 of the 2.1 CPU seconds that the import takes
    in a worker. It does without where the import fails. In a process that has MLflow already nothing is left out.
    """
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["mlflow"]


def compile_nothing(deepspeed: ModuleType) -> None:
    """Tell DeepSpeed that no op can be compiled. To be called before an engine is made.

    Reading which ops are compatible probes each with the compiler, and the shared-memory all-reduce would then be
    compiled for a minute. DeepSpeed has no setting against it.
    """
    vars(deepspeed.ops)["__compatible_ops__"] = defaultdict(bool)


@contextlib.contextmanager
def loading_universal(engine: DeepSpeedEngine, converted: bool) -> Iterator[None]:
    """Let an engine read a universal checkpoint while the body runs.

    The key exists in DeepSpeed's configuration, which is read once. An engine that has read it cannot load its own
    format any more.

    Args:
        engine: The DeepSpeed engine.
        converted: Whether the checkpoint is a universal one.
    """
    engine._config.load_universal_checkpoint = converted
    try:
        yield
    finally:
        engine._config.load_universal_checkpoint = False


def set_last_rates(schedule: LRScheduler, rates: Sequence[float]) -> None:
    """Set what ``schedule.get_last_lr()`` returns until the schedule's next step.

    torch sets it in ``step`` alone, which would also move the schedule on.
    """
    schedule._last_lr = list(rates)


def mark_counted(step: Callable[..., object]) -> None:
    """Mark an optimizer's replaced ``step`` as one that counts its calls.

    torch's schedules look for the mark and warn without it that the optimizer was not called before them.
    """
    vars(step)["_wrapped_by_lr_sched"] = True
