"""Two Triton kernels over logits of a vocabulary: sums of exponentials of each row, and exponentials written out.

Decision record: on a GPU a loss or an answer over a vocabulary is bound by how often the logits pass through memory.
torch's own operators read and write them, as float32, some twenty times for one loss; with these two kernels they are
read twice and written once, in the precision of the product. All sums are float32. `raykd.distill.wide.fused` says
where the kernels are used; this module is imported there only, because Triton comes with torch's CUDA builds alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

BLOCK = 4096
"""Logits that a program holds at once."""
WARPS = 8


@triton.jit  # type: ignore[untyped-decorator]
def _sum_exponentials(  # type: ignore[no-untyped-def]
    logits, stride, factors, tops, sums, crosses, width, groups, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    begin = logits + row.to(tl.int64) * stride
    lanes = tl.arange(0, BLOCK)
    most = tl.full([BLOCK], float("-inf"), tl.float32)
    for at in range(0, width, BLOCK):
        here = at + lanes
        most = tl.maximum(most, tl.load(begin + here, mask=here < width, other=float("-inf")).to(tl.float32))
    top = tl.max(most, axis=0)
    top = tl.where(top == float("-inf"), 0.0, top)
    tl.store(tops + row, top)
    for group in range(groups):
        factor = tl.load(factors + group)
        total = tl.zeros([BLOCK], tl.float32)
        cross = tl.zeros([BLOCK], tl.float32)
        for at in range(0, width, BLOCK):
            here = at + lanes
            inside = here < width
            x = tl.load(begin + here, mask=inside, other=float("-inf")).to(tl.float32) - top
            e = tl.exp(x * factor)
            total += e
            cross += tl.where(inside, e * x, 0.0)
        tl.store(sums + row * groups + group, tl.sum(total, axis=0))
        tl.store(crosses + row * groups + group, tl.sum(cross, axis=0))


@triton.jit  # type: ignore[untyped-decorator]
def _write_exponentials(  # type: ignore[no-untyped-def]
    logits, stride, out, out_stride, tops, shares, factor, width, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    here = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = here < width
    x = tl.load(logits + row.to(tl.int64) * stride + here, mask=inside, other=0.0).to(tl.float32)
    value = tl.exp((x - tl.load(tops + row)) * factor) * tl.load(shares + row)
    tl.store(out + row.to(tl.int64) * out_stride + here, value.to(out.dtype.element_ty), mask=inside)


def sum_exponentials(
    logits_NV: torch.Tensor, temperatures: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum ``exp((z - top) / T)`` and ``exp((z - top) / T) (z - top)`` over each row, top its largest logit.

    Args:
        logits_NV: z, any floating dtype, the entries of a row side by side.
        temperatures: Each T, G of them.

    Returns:
        top ``[N]`` (0 where a row has nothing but -inf) and both sums ``[N, G]``, float32. The second sum is NaN where
        a logit is not finite.
    """
    n, width, groups = *logits_NV.shape, len(temperatures)
    top_N = logits_NV.new_empty(n, dtype=torch.float32)
    sums_NG, crosses_NG = (logits_NV.new_empty((n, groups), dtype=torch.float32) for _ in range(2))
    if n:
        factors_G = _make_factors(tuple(temperatures), logits_NV.device)
        _launch(
            _sum_exponentials, (n,), logits_NV, logits_NV, logits_NV.stride(0), factors_G, top_N, sums_NG,
            crosses_NG, width, groups,
        )  # fmt: skip
    return top_N, sums_NG, crosses_NG


def write_exponentials(
    logits_NV: torch.Tensor, top_N: torch.Tensor, share_N: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return ``share exp((z - top) / T)`` in the dtype of the logits.

    Args:
        logits_NV: z, any floating dtype, the entries of a row side by side.
        top_N: float32, subtracted.
        share_N: float32, a factor of each row.
        temperature: T.
    """
    n, width = logits_NV.shape
    out_NV = torch.empty((n, width), dtype=logits_NV.dtype, device=logits_NV.device)
    if n:
        _launch(
            _write_exponentials, (n, triton.cdiv(width, BLOCK)), logits_NV, logits_NV, logits_NV.stride(0), out_NV,
            out_NV.stride(0), top_N, share_N.contiguous(), 1.0 / temperature, width,
        )  # fmt: skip
    return out_NV


def _launch(kernel: Any, grid: tuple[int, ...], on: torch.Tensor, *arguments: object) -> None:
    """Queue a kernel on the device of a tensor, which need not be the current one."""
    if on.device.type != "cuda":  # Triton's interpreter
        kernel[grid](*arguments, BLOCK=BLOCK)
        return
    with torch.cuda.device(on.device):
        kernel[grid](*arguments, BLOCK=BLOCK, num_warps=WARPS)


@functools.lru_cache(maxsize=64)
def _make_factors(temperatures: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Return 1 / T of each temperature on the device; kept, because making it waits."""
    return torch.tensor([1.0 / each for each in temperatures], dtype=torch.float32).to(device)
