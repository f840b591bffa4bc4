"""The section of losses and answers over a vocabulary: the kernels against torch's own operators, numbers and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch

from benchmarks.gpu_parts.context import Context
from benchmarks.gpu_parts.steps import wait_for
from benchmarks.gpu_parts.table import Figure
from benchmarks.measure import alternate, timed
from raykd.answers import compress
from raykd.distill import losses, support
from raykd.distill.wide.fused import is_fused

K = 64
UNITS = 1024


def measure_wide(context: Context) -> list[Figure]:
    """Gold loss, loss on a support and top-k answer, with their gradients: largest difference, and time."""
    size = context.size
    torch.manual_seed(0)
    logits_NV = 3 * torch.randn(UNITS, size.vocabulary, device=context.device)
    logits_NV = logits_NV.to(torch.bfloat16)
    labels_N = torch.randint(size.vocabulary, (UNITS,), device=context.device)
    labels_N[::7] = losses.UNLABELLED
    k = min(K, size.vocabulary // 2)
    ids_NK = torch.rand(UNITS, size.vocabulary, device=context.device).topk(k).indices
    ids_NK[::5, 0], ids_NK[3] = -1, -1

    def compute() -> list[torch.Tensor]:
        own = logits_NV.clone().requires_grad_()
        gold = losses.compute_gold_loss(own, labels_N, 0.0)
        kept = support.gather_support(own if is_fused(own) else own.float(), ids_NK, 2.0)
        (gold + kept.log_softmax(dim=1)[:, -1].sum()).backward()
        answer = compress.compute_top_k(logits_NV, k, (1.0, 2.0), gold_N=labels_N.clamp_min(0)).tensors
        assert own.grad is not None
        return [
            gold.detach().reshape(1),
            own.grad,
            *(answer[name] for name in ("lse_NG", "entropy_N", "gold_logp_N")),
        ]

    def compute_plain() -> list[torch.Tensor]:
        with _without_kernels():
            return compute()

    if not context.on_gpu:
        return [Figure("losses and answers of kernels, largest difference from torch's", None, "<= 0.01")]
    apart = max(_compare(one, other) for one, other in zip(compute(), compute_plain(), strict=True))
    arms = {"kernels": _timed(context, compute), "torch": _timed(context, compute_plain)}
    rounds = alternate(arms, context.rounds)
    middle, low, high = rounds.ratio("torch", "kernels")
    detail = f"{low:.1f}-{high:.1f}; torch {rounds.median_ms('torch'):.2f} ms, kernels {rounds.median_ms('kernels'):.2f} ms"
    return [
        Figure(
            "losses and answers of kernels, largest difference from torch's", apart, "<= 0.01", "relative"
        ),
        Figure(
            f"losses and answer of {UNITS} x {size.vocabulary} logits, torch / kernels", middle, "", detail
        ),
    ]


@contextmanager
def _without_kernels() -> Iterator[None]:
    """Let torch's own operators compute while the body runs."""
    with ExitStack() as stack:
        for module in (losses, support, compress):
            stack.enter_context(patch.object(module, "is_fused", lambda logits_NV: False))
        yield


def _timed(context: Context, work: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        work()
        wait_for(context.device)
        return timed(lambda: (work(), wait_for(context.device)), 3)

    return run


def _compare(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().max() / other.float().abs().max())
