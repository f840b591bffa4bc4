"""What the sections of the GPU table share: the device, sizes, a folder, teachers and a Ray session."""

from __future__ import annotations

import gc
import platform
import subprocess
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts.worlds import FULL, Shape, Size, World, save_teacher
from raykd.teachers.spec import TeacherSpec


@dataclass
class Context:
    """Where and at which size sections run.

    Attributes:
        size: FULL or TOY.
        device: Of all models.
        folder: For teachers and stores; removed by whoever made it.
        rounds: Alternating rounds of each ratio.
        steps: Steps of a block.
        left_s: Seconds that are left of the budget when a section begins.
    """

    size: Size
    device: torch.device
    folder: Path
    rounds: int = 5
    steps: int = 8
    left_s: float = 0.0
    _teachers: dict[str, TeacherSpec] = field(default_factory=dict)
    _closing: list[Callable[[], object]] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether this is the table's own size."""
        return self.size is FULL

    @property
    def on_gpu(self) -> bool:
        """Whether the device is an accelerator."""
        return self.device.type == "cuda"

    def get_teacher(self, world: World, shape: Shape, name: str, store: str | None = None) -> TeacherSpec:
        """Return a saved teacher as it answers for the world's run on this device; written once for a name.

        Args:
            world: Whose tokenizer and task it has.
            shape: Of the teacher.
            name: Teachers of the same name have the same weights, whatever answers they give.
            store: Name of a folder that keeps its answers; None keeps nothing.
        """
        if name not in self._teachers:
            self._teachers[name] = save_teacher(world, shape, self.size, self.folder / name)
        kept = self._teachers[name]
        place = None if store is None else str(self.folder / store)
        return replace(kept, task=world.config.task, device=str(self.device), store=place, dtype="bfloat16")

    def closing(self, close: Callable[[], object]) -> None:
        """Call this when the section has ended, however it did."""
        self._closing.append(close)

    def release(self) -> None:
        """Free what a section left; called after each."""
        while self._closing:
            try:
                self._closing.pop()()
            except Exception as error:  # its figures are there already
                print(f"freeing after a section: {type(error).__name__}: {error}")
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    @contextmanager
    def peak(self) -> Any:
        """Yield a list that holds the body's peak of allocated bytes afterwards; nothing without a GPU."""
        found: list[float] = []
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        yield found
        if self.on_gpu:
            found.append(float(torch.cuda.max_memory_allocated(self.device) - before))


def describe_device(device: torch.device) -> str:
    """Return card, driver, torch and what attention may run on, for the table's title."""
    if device.type != "cuda":
        return f"CPU ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads), torch {torch.__version__}"
    kernels = {
        "cudnn": torch.backends.cuda.cudnn_sdp_enabled(),
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "memory-efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
    }
    properties = torch.cuda.get_device_properties(device)
    enabled = ", ".join(name for name, on in kernels.items() if on)
    return (
        f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, driver {_read_driver()}, torch "
        f"{torch.__version__}, CUDA {torch.version.cuda}, bfloat16, attention kernels enabled: {enabled}"
    )


def _read_driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split(
            "\n"
        )[0]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
