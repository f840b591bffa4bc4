"""Choose the precision in which a teacher computes: bfloat16 where a measurement shows a gain.

Decision record: a CPU that has bfloat16 instructions need not be faster with them (measured: 3.4 x on one with
full-rate avx512_bf16, 0.53 x on one that executes them at half rate). So `auto` reads the flags first and then
multiplies two matrices for some milliseconds. The margin is wide, so that noise does not change the choice between two
runs, because the choice is part of what identifies an answer in the store.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path

import torch

NEEDED_GAIN = 1.3
"""How much faster bfloat16 has to be."""
_PROBE = (512, 384, 1536)
"""Rows, inner and outer width of the product that is timed: the feed-forward layer of a small encoder."""
_REPEATS = 8
_NO_BFLOAT16 = ("fnet", "mra")
"""Model types whose forward pass fails in bfloat16: a Fourier transform, and products of two precisions."""
_NO_MATRIX_PRODUCTS = ("raykd_linear", "raykd_lstm")


@dataclass(frozen=True)
class Precision:
    """The choice and its reason; both go to the log."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        """``float32`` or ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")


def choose_precision(wanted: str, model_type: str, device: str) -> Precision:
    """Choose the precision of a teacher.

    Args:
        wanted: float32, bfloat16 or auto.
        model_type: As in its transformers configuration.
        device: Name of torch's.
    """
    if wanted != "auto":
        return Precision(getattr(torch, wanted), "as configured")
    if model_type in _NO_MATRIX_PRODUCTS:
        return Precision(torch.float32, "auto: matrix products do not rule in this kind of model")
    if model_type in _NO_BFLOAT16:
        return Precision(torch.float32, f"auto: {model_type} does not compute in bfloat16")
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported()
        dtype = torch.bfloat16 if native else torch.float32
        return Precision(dtype, f"auto: CUDA, bfloat16 {'' if native else 'not '}native")
    if not read_cpu_flags() & {"avx512_bf16", "amx_bf16"}:
        return Precision(torch.float32, "auto: this CPU has no bfloat16 instructions")
    gain = measure_bfloat16_gain()
    dtype = torch.bfloat16 if gain >= NEEDED_GAIN else torch.float32
    return Precision(dtype, f"auto: bfloat16 multiplies {gain:.1f} x as fast as float32 on this CPU")


def read_cpu_flags() -> set[str]:
    """Read the CPU's feature flags; empty where the system does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())


@functools.cache
def measure_bfloat16_gain() -> float:
    """Measure how much faster this CPU multiplies in bfloat16 than in float32; takes about 50 ms."""
    rows, inner, columns = _PROBE
    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(rows, inner, dtype=dtype)
        b = torch.ones(columns, inner, dtype=dtype)
        times = []
        with torch.inference_mode():
            for _ in range(_REPEATS):
                begun = time.perf_counter()
                torch.nn.functional.linear(a, b)
                times.append(time.perf_counter() - begun)
        best[dtype] = min(times)  # the least disturbed one
    return best[torch.float32] / best[torch.bfloat16]
