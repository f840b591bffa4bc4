"""Cross-entropy and the support of a target over a vocabulary, without float32 copies of its logits; on a GPU.

Decision record: both are `torch.autograd.Function`s over `raykd.distill.wide.kernels`. They give what
`F.cross_entropy` and `raykd.distill.support` give, up to rounding. The gradient has the dtype of the logits, which is
that of the product with the output head. Entries that a label or an answer names are computed in float32 and written
over the others, because ``p - 1`` of a rounded p would be 0 where a student is sure.
"""

from __future__ import annotations

from typing import Any

import torch

from raykd.distill.signals import UNLABELLED
from raykd.distill.wide.fused import load_kernels


def compute_cross_entropy(logits_NV: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Return ``-log softmax(z)_label`` of each unit, float32 ``[N]``; 0 where it is `UNLABELLED`."""
    return _CrossEntropy.apply(logits_NV, labels_N)  # type: ignore[no-any-return, no-untyped-call]


def gather_wide_support(
    logits_NV: torch.Tensor, ids_NK: torch.Tensor, temperature: float, absent: float
) -> torch.Tensor:
    """Return what `raykd.distill.support.gather_support` returns.

    Args:
        logits_NV: Any floating dtype.
        ids_NK: int64, each at most once per unit; -1 for none.
        temperature: T.
        absent: The logit of what has no probability.
    """
    return _OnWideSupport.apply(logits_NV, ids_NK, temperature, absent)  # type: ignore[no-any-return, no-untyped-call]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        known_N = labels_N != UNLABELLED
        at_N1 = torch.where(known_N, labels_N, 0).unsqueeze(1)
        top_N, sums_N1, _ = load_kernels().sum_exponentials(logits_NV, (1.0,))
        shifted_N = logits_NV.gather(1, at_N1).squeeze(1).float() - top_N
        sum_N = sums_N1.squeeze(1)
        ctx.save_for_backward(logits_NV, top_N, sum_N, shifted_N, at_N1, known_N)
        return torch.where(known_N, sum_N.log() - shifted_N, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits_NV, top_N, sum_N, shifted_N, at_N1, known_N = ctx.saved_tensors
        grad_N = torch.where(known_N, grads[0], 0.0)
        found_NV = load_kernels().write_exponentials(logits_NV, top_N, grad_N / sum_N, 1.0)
        own_N = grad_N * (shifted_N.exp() / sum_N - 1.0)
        return found_NV.scatter_(1, at_N1, own_N.unsqueeze(1).to(found_NV.dtype)), None


class _OnWideSupport(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_NV: torch.Tensor, ids_NK: torch.Tensor, temperature: float, absent: float
    ) -> torch.Tensor:
        held_NK = ids_NK >= 0
        some_N1 = held_NK.any(dim=1, keepdim=True)
        # What stands for no token repeats the first that does, so that writing it changes nothing.
        first_N1 = held_NK.to(torch.uint8).argmax(dim=1, keepdim=True)
        source_NK = torch.where(held_NK, torch.arange(ids_NK.shape[1], device=ids_NK.device), first_N1)
        index_NK = ids_NK.gather(1, source_NK).clamp_min(0)
        raw_NK = logits_NV.gather(1, index_NK)
        # The tail is summed over its own tokens: the others are hidden while the rows are read. `data`, because the
        # logits are as they were when autograd looks at them again.
        logits_NV.data.scatter_(1, index_NK, raw_NK.masked_fill(some_N1, float("-inf")))
        top_N, rest_N1, _ = load_kernels().sum_exponentials(logits_NV, (temperature,))
        logits_NV.data.scatter_(1, index_NK, raw_NK)
        tail_N1 = torch.where(rest_N1 > 0.0, top_N.unsqueeze(1) + temperature * rest_N1.log(), absent)
        ctx.save_for_backward(logits_NV, top_N, rest_N1, index_NK, source_NK, some_N1)
        ctx.temperature = temperature
        return torch.cat([torch.where(held_NK, raw_NK.float(), absent), tail_N1], dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        logits_NV, top_N, rest_N1, index_NK, source_NK, some_N1 = ctx.saved_tensors
        share_N1 = torch.where(rest_N1 > 0.0, grads[0][:, -1:] / rest_N1, 0.0)
        found_NV = load_kernels().write_exponentials(logits_NV, top_N, share_N1.squeeze(1), ctx.temperature)
        own_NK = grads[0][:, :-1].gather(1, source_NK).to(found_NV.dtype)
        own_NK = torch.where(some_N1, own_NK, found_NV.gather(1, index_NK))
        return found_NV.scatter_(1, index_NK, own_NK), None, None, None
