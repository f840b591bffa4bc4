"""Whether losses and answers over a vocabulary are computed by `raykd.distill.wide.kernels`: on a GPU with Triton.

Where there is no Triton, no GPU or no wide vocabulary, torch's own operators are used.
"""

from __future__ import annotations

import functools
import importlib.util
from types import ModuleType

import torch

WIDE = 4096
"""Choices from which on reading the logits is what a loss costs."""


def is_fused(logits_NV: torch.Tensor) -> bool:
    """Return whether the kernels take these logits."""
    n_choices = logits_NV.shape[-1] if logits_NV.ndim == 2 else 0
    return has_kernels(logits_NV.device, n_choices) and logits_NV.stride(1) == 1


def has_kernels(device: torch.device | None, choices: int) -> bool:
    """Return whether the kernels take logits over so many choices on a device; None is the CPU."""
    return device is not None and device.type == "cuda" and choices >= WIDE and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def load_kernels() -> ModuleType:
    """Return `raykd.distill.wide.kernels`, for logits of which `is_fused` is true; elsewhere there may be no Triton."""
    from raykd.distill.wide import kernels

    return kernels
