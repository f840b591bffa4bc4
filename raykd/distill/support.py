"""Gather the student's logits on a part of its vocabulary, with one tail for the rest, so that softmax stays exact.

Decision record: the tail's logit is ``T logsumexp_{c not in S}(s_c / T)``, so that a softmax of the K + 1 numbers at T
gives exactly the probabilities of the whole softmax, and divergences need not know that anything was gathered. The tail
is summed over its own tokens, never taken as 1 minus the others, which would lose a small tail to rounding. It is one
function with a gradient of its own, because autograd would keep three times the logits for it.
"""

from __future__ import annotations

from typing import Any

import torch

from raykd.distill.signals import MASKED
from raykd.distill.wide.functions import gather_wide_support
from raykd.distill.wide.fused import is_fused


def gather_support(logits_NV: torch.Tensor, ids_NK: torch.Tensor, temperature: float) -> torch.Tensor:
    """Gather the logits at the ids, and the tail's; see the module's docstring.

    Args:
        logits_NV: float32; any floating dtype where `raykd.distill.wide.fused` takes it.
        ids_NK: int64, each at most once per unit; -1 gives an entry of probability 0.
        temperature: T.

    Returns:
        float32 ``[N, K + 1]``, the tail in the last column.
    """
    if is_fused(logits_NV):
        return gather_wide_support(logits_NV, ids_NK, temperature, _zero_logit(temperature))
    return _OnSupport.apply(logits_NV, ids_NK, temperature)  # type: ignore[no-any-return, no-untyped-call]


def gather_columns(
    logits_NV: torch.Tensor, kept: torch.Tensor, rest: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Gather the same columns for all units; `rest` are the others (empty: a tail of probability 0)."""
    logits_NV = logits_NV.float()
    kept_NK = logits_NV.index_select(1, kept)
    if not len(rest):
        return torch.cat([kept_NK, torch.full_like(logits_NV[:, :1], _zero_logit(temperature))], dim=1)
    tail_N1 = torch.logsumexp(logits_NV.index_select(1, rest) / temperature, dim=-1, keepdim=True)
    return torch.cat([kept_NK, temperature * tail_N1], dim=1)


def sum_columns(
    logits_NV: torch.Tensor, column_V: torch.Tensor, width: int, temperature: float
) -> torch.Tensor:
    """Return ``T logsumexp(s / T)`` of the tokens of each column, float32 ``[N, width + 1]``, the tail in the last.

    Args:
        logits_NV: Of any floating dtype.
        column_V: int64, the column of each token; `width` for the tail.
        width: Number of columns without the tail.
        temperature: T.
    """
    scaled_NV = logits_NV.float() / temperature
    top_N1 = scaled_NV.detach().amax(dim=-1, keepdim=True)
    mass_NV = (scaled_NV - top_N1).exp()
    mass_NW = mass_NV.new_zeros(len(mass_NV), width + 1).index_add(1, column_V, mass_NV)
    held_NW = mass_NW > 0.0
    summed_NW = temperature * (torch.where(held_NW, mass_NW, 1.0).log() + top_N1)
    return torch.where(held_NW, summed_NW, _zero_logit(temperature))


def _zero_logit(temperature: float) -> float:
    return MASKED * max(temperature, 1.0)


class _OnSupport(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: torch.Tensor, ids_NK: torch.Tensor, temperature: float) -> torch.Tensor:
        n, v = logits_NV.shape
        held_NK = ids_NK >= 0
        # One more column takes what is written for entries that stand for no token.
        index_NK = torch.where(held_NK, ids_NK, v)
        top_N1 = logits_NV.amax(dim=-1, keepdim=True)
        mass_NV = logits_NV.new_empty(n, v + 1)
        torch.add(top_N1 * (-1.0 / temperature), logits_NV, alpha=1.0 / temperature, out=mass_NV[:, :v])
        mass_NV[:, :v].exp_()
        mass_NV.scatter_(1, index_NK, 0.0)
        mass_NV[:, v] = 0.0
        rest_N1 = mass_NV.sum(dim=-1, keepdim=True)
        tail_N1 = torch.where(rest_N1 > 0.0, top_N1 + temperature * rest_N1.log(), _zero_logit(temperature))
        kept_NK = torch.where(held_NK, logits_NV.gather(1, ids_NK.clamp_min(0)), _zero_logit(temperature))
        ctx.save_for_backward(mass_NV, rest_N1, index_NK)
        return torch.cat([kept_NK, tail_N1], dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad_NK,) = grads
        mass_NV, rest_N1, index_NK = ctx.saved_tensors
        share_N1 = torch.where(rest_N1 > 0.0, grad_NK[:, -1:] / rest_N1, 0.0)
        logits_grad_NV = mass_NV * share_N1
        logits_grad_NV.scatter_(1, index_NK, grad_NK[:, :-1])
        return logits_grad_NV[:, :-1], None, None
