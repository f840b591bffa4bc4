"""Evaluate the objective over a vocabulary a few units at a time.

Decision record: float32 logits of a batch over a vocabulary of 100,000 are larger than the models, and a loss holds
several such tensors.

- A chunk of units goes through head, loss and gradient before the next one begins, and only the gradients of the hidden
  states and of the head are kept, as in fused linear cross entropy.
- It is also faster on a CPU, which reuses small buffers and maps large ones anew each time.
- The gradient is computed in the forward pass. The backward pass only scales it (say by loss scaling) and passes it on,
  so it can run once.
- An objective's shares add up (`Objective.evaluate`), so chunks change nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from raykd.distill.chunk_size import choose_chunk_units
from raykd.distill.logitmap import PLAIN, LogitMap
from raykd.distill.objective import Counts, Objective, ObjectiveResult
from raykd.distill.signals import Signals
from raykd.distill.vocabulary_signals import SparseSignal


def evaluate_hidden(
    objective: Objective,
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    labels_N: torch.Tensor,
    signals: Signals | None,
    progress: float,
    totals: Counts,
    *,
    after: LogitMap = PLAIN,
    chunk: int | None = None,
    dtype: torch.dtype | None = None,
    own: Counts | None = None,
) -> ObjectiveResult:
    """Evaluate an objective for ``after(hidden @ weight.T + bias)``; its gradient reaches all three.

    Args:
        objective: The objective.
        hidden_ND: The student's last hidden states, only those of units.
        weight_VD: Its output head.
        bias_V: Of that head.
        labels_N: As for `Objective.evaluate`, like the next three.
        signals: Of all units.
        progress: u in [0, 1].
        totals: Over all ranks and micro-batches of the step.
        after: What the student does to the product.
        dtype: Of the products with the head; None for the head's own.
        own: This micro-batch's own counts; None counts them, as `Objective.evaluate` does.
        chunk: Units computed at once; None for `choose_chunk_units` of vocabulary and device.

    Raises:
        ValueError: As `Objective.evaluate`, or shapes disagree.
    """
    if hidden_ND.ndim != 2 or hidden_ND.shape != (len(labels_N), weight_VD.shape[1]):
        raise ValueError(
            f"hidden states are {tuple(hidden_ND.shape)}, the head {tuple(weight_VD.shape)}, "
            f"labels {tuple(labels_N.shape)}; wanted [N, D], [V, D], [N]"
        )
    inputs = [hidden_ND, weight_VD] if bias_V is None else [hidden_ND, weight_VD, bias_V]
    wanted = [torch.is_grad_enabled() and each.requires_grad for each in inputs]
    grads = [_buffer(each) if want else None for each, want in zip(inputs, wanted, strict=True)]

    # Once for all chunks, and without their graph: `_Known` hands the gradients to the inputs.
    product_dtype = weight_VD.dtype if dtype is None else dtype
    states_ND, head_VD = hidden_ND.detach().to(product_dtype), weight_VD.detach().to(product_dtype)
    head_bias_V = None if bias_V is None else bias_V.detach().to(product_dtype)
    if signals is not None and signals.eligible_MN is None:
        signals = objective.prepare(signals)
    if own is None:
        own = objective.counts(labels_N if signals is None else signals.on_host.labels_N, signals)
    seen: list[torch.Tensor] = []  # the logits of the chunk at hand

    def logits_of(begin: int, end: int) -> torch.Tensor:
        seen[:] = [after(F.linear(states_ND[begin:end], head_VD, head_bias_V))]
        return seen[0]

    def add(begin: int, end: int, grad_NV: torch.Tensor) -> None:
        hidden, weight, *bias = grads
        grad_NV = after.backward(grad_NV, seen[0]).to(product_dtype)
        if hidden is not None:
            hidden[begin:end] = grad_NV @ head_VD
        if weight is not None:
            _add_product(weight, grad_NV, states_ND[begin:end])
        if bias and bias[0] is not None:
            bias[0] += grad_NV.sum(dim=0)

    wide = product_dtype if _are_read_by_kernels(objective, signals) else None
    size = chunk or choose_chunk_units(weight_VD.shape[0], hidden_ND.device, wide)
    pieces = _cut_pieces(len(labels_N), size)
    with torch.no_grad():
        results = [
            _evaluate(
                objective, logits_of, add if any(wanted) else None, piece, labels_N, signals, progress, totals
            )
            for piece in pieces
        ]
    return _join_results(results, own, inputs, grads)


def _are_read_by_kernels(objective: Objective, signals: Signals | None) -> bool:
    """Return whether nothing of the size of the logits is made of them but gradients, where there are kernels."""
    answers = () if signals is None else signals.vocabulary_M
    sparse = all(answer is None or isinstance(answer, SparseSignal) for answer in answers)
    return sparse and objective.label_smoothing == 0.0


def _cut_pieces(units: int, chunk: int) -> list[tuple[int, int]]:
    """Cut units into pieces; there is at least one, so that a batch without units has a loss of 0 with its graph."""
    return [(begin, min(begin + chunk, units)) for begin in range(0, max(units, 1), chunk)]


def _evaluate(
    objective: Objective,
    logits_of: Callable[[int, int], torch.Tensor],
    add: Callable[[int, int, torch.Tensor], None] | None,
    piece: tuple[int, int],
    labels_N: torch.Tensor,
    signals: Signals | None,
    progress: float,
    totals: Counts,
) -> ObjectiveResult:
    begin, end = piece
    logits_NV = logits_of(begin, end).detach()
    part = None if signals is None else signals.units(begin, end)
    with torch.enable_grad():
        logits_NV.requires_grad_(add is not None)
        # Without teachers nothing of a chunk depends on its counts, and the labels are on the device.
        own = Counts() if part is None else objective.counts(part.on_host.labels_N, part)
        result = objective.evaluate(logits_NV, labels_N[begin:end], part, progress, totals, own=own)
    if add is not None:
        add(begin, end, torch.autograd.grad(result.loss, logits_NV)[0])
    return replace(result, loss=result.loss.detach())


def _buffer(tensor: torch.Tensor) -> torch.Tensor:
    # float32 whatever the parameter is, because many small chunks are added up in it.
    return torch.zeros_like(tensor, dtype=torch.float32, requires_grad=False)


def _add_product(weight: torch.Tensor, grad_NV: torch.Tensor, hidden_ND: torch.Tensor) -> None:
    if grad_NV.dtype == weight.dtype:
        weight.addmm_(grad_NV.T, hidden_ND)
    else:
        weight += grad_NV.T @ hidden_ND


def _join_results(
    results: Sequence[ObjectiveResult],
    counts: Counts,
    inputs: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor | None],
) -> ObjectiveResult:
    first, *others = results
    loss, weights_M = first.loss, first.weights_M
    sums = dict(first.sums)
    for each in others:
        loss = loss + each.loss
        sums = {name: value + each.sums[name] for name, value in sums.items()}
        if weights_M is not None and each.weights_M is not None:
            weights_M = weights_M + each.weights_M
    if any(grad is not None for grad in grads):
        loss = _Known.apply(loss, grads, *inputs)  # type: ignore[no-untyped-call]
    return ObjectiveResult(loss=loss, sums=sums, weights_M=weights_M, counts=counts)


class _Known(torch.autograd.Function):
    """A scalar whose gradients were computed beside it."""

    @staticmethod
    def forward(
        ctx: Any, loss: torch.Tensor, grads: Sequence[torch.Tensor | None], *inputs: torch.Tensor
    ) -> torch.Tensor:
        ctx.grads, ctx.dtypes = grads, [each.dtype for each in inputs]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *factors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError(
                "the loss of chunks can run backward once: its gradients are handed on, not kept"
            )
        scaled = [
            None if grad is None else grad.mul_(factors[0]).to(dtype)
            for grad, dtype in zip(grads, ctx.dtypes, strict=True)
        ]
        return None, None, *scaled
