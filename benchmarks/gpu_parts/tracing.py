"""What torch's profiler says of a GPU: how long it computes, how many kernels a step starts, how often the host waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.gpu_parts.steps import wait_for

COPIES = ("Memcpy", "Memset")
WORK = "benchmarks.gpu: work"
"""Names the traced work among the events."""
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls of CUDA's runtime in which the host waits; a blocking copy is a copy and one of these."""


@dataclass(frozen=True)
class Trace:
    """What a piece of work did on a GPU.

    Attributes:
        busy_s: Time in which at least one kernel ran.
        kernels: Kernels, without copies and fills.
        waits: Calls in which the host waited.
    """

    busy_s: float
    kernels: int
    waits: int


def trace(work: Callable[[], object], device: torch.device) -> Trace:
    """Run the work under the profiler, which waits for the device itself before and after it."""
    wait_for(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        with record_function(WORK):
            work()
        wait_for(device)
    events: list[Any] = list(profiler.events() or ())
    on_device = [
        each
        for each in events
        if each.device_type == DeviceType.CUDA
        and each.name != WORK
        and not getattr(each, "is_user_annotation", False)
    ]
    kernels = [each for each in on_device if not each.name.startswith(COPIES)]
    on_host = [each for each in events if each.device_type == DeviceType.CPU]
    inside = next(each.time_range for each in on_host if each.name == WORK)
    waits = sum(each.name in WAITS and inside.start <= each.time_range.start < inside.end for each in on_host)
    spans = ((each.time_range.start, each.time_range.end) for each in kernels)
    return Trace(1e-6 * measure_union(spans), len(kernels), waits)


def measure_union(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of what spans of time cover together."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def measure_busy(
    work: Callable[[], object], device: torch.device, times: int = 3
) -> tuple[float | None, float]:
    """Return the share of time in which a GPU computes, and seconds of one piece of work.

    Wall time is taken without the profiler, which slows the host; the kernels' own time is taken under it.

    Returns:
        None for the share on a CPU.
    """
    work()
    wait_for(device)
    walls = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        wait_for(device)
        walls.append(time.perf_counter() - begun)
    wall = sorted(walls)[len(walls) // 2]
    return (trace(work, device).busy_s / wall if device.type == "cuda" else None), wall


def measure_dense_rate(device: torch.device, size: int) -> float:
    """Return the floating-point operations a second of a square product in bfloat16, the median of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    rates = []
    for _ in range(10):
        wait_for(device)
        begun = time.perf_counter()
        for _ in range(4):
            a @ b
        wait_for(device)
        rates.append(4 * 2 * size**3 / (time.perf_counter() - begun))
    return sorted(rates)[len(rates) // 2]
