"""Choose the precision in which a teacher computes: bfloat16 where a measurement shows a gain.

Decision record: a CPU that has bfloat16 instructions need not be faster with them (measured: 3.4 x on one with
full-rate avx512_bf16, 0.53 x on one that executes them at half rate). So `auto` reads the flags first and then
multiplies two matrices for some milliseconds. The choice is part of what identifies an answer in the store, so it must
be the same in every process and in every run: the margin is wide, the product runs on one thread (two that share a busy
core hide the gain), and what was measured is kept for this CPU.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from raykd.cache import read_entry, write_entry

NEEDED_GAIN = 1.3
"""How much faster bfloat16 has to be."""
_PROBE = (512, 384, 1536)
"""Rows, inner and outer width of the product that is timed: the feed-forward layer of a small encoder."""
_REPEATS = 8
_KEPT = "bfloat16"
"""Folder of what was measured, in the cache."""
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
    gain = find_bfloat16_gain()
    dtype = torch.bfloat16 if gain >= NEEDED_GAIN else torch.float32
    return Precision(dtype, f"auto: bfloat16 multiplies {gain:.1f} x as fast as float32 on this CPU")


def read_cpu_flags() -> set[str]:
    """Read the CPU's feature flags; empty where the system does not list them."""
    return set(_read_cpu_line("flags").split())


def _read_cpu_line(name: str) -> str:
    """Return the first line of this name that the system says of its CPUs; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return next((line for line in text.splitlines() if line.startswith(name)), "")


@functools.cache
def find_bfloat16_gain() -> float:
    """Return how much faster this CPU multiplies in bfloat16 than in float32, measured once for its model."""
    parts = [_read_cpu_line("model name"), _read_cpu_line("flags"), torch.__version__, _PROBE]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    known = read_entry(_KEPT, key, float)
    if known is None:
        known = measure_bfloat16_gain()
        write_entry(_KEPT, key, float, known)
    return known


def measure_bfloat16_gain() -> float:
    """Measure how much faster one thread multiplies in bfloat16 than in float32; takes about 50 ms."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure_gain()
    finally:
        torch.set_num_threads(threads)


def _measure_gain() -> float:
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
