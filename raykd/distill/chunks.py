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

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from raykd.distill.chunk_size import choose_chunk_units
from raykd.distill.logitmap import PLAIN, LogitMap
from raykd.distill.objective import Objective
from raykd.distill.shares import Counts, ObjectiveResult, Shares, combine_values
from raykd.distill.signals import Signals
from raykd.distill.vocabulary_signals import SparseSignal
from raykd.distill.wide.head_gradients import HeadGradients


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
    # Once for all chunks, and without their graph: `_Known` hands the gradients to the inputs.
    product_dtype = weight_VD.dtype if dtype is None else dtype
    states_ND, head_VD, *head_bias = (each.detach().to(product_dtype) for each in inputs)
    gradients = HeadGradients(states_ND, head_VD, wanted)
    if signals is not None and signals.eligible_MN is None:
        signals = objective.prepare(signals)
    if own is None:
        own = objective.counts(labels_N if signals is None else signals.on_host.labels_N, signals)
    factors: list[torch.Tensor] = []  # the same for all chunks

    def compute_chunk(begin: int, end: int) -> Shares:
        logits_NV = after(F.linear(states_ND[begin:end], head_VD, *head_bias)).requires_grad_(any(wanted))
        part = None if signals is None else signals.units(begin, end)
        # Without teachers nothing of a chunk depends on its counts, and the labels are on the device.
        counts = Counts() if part is None else objective.counts(part.on_host.labels_N, part)
        with torch.enable_grad():
            shares = objective.compute_shares(
                logits_NV, labels_N[begin:end], part, progress, totals, own=counts
            )
        if any(wanted):
            factors[:] = factors or [value.new_full((), f) for value, f in shares.list_pairs()]
            grad_NV = _differentiate(shares.values, factors, logits_NV)
            gradients.add(begin, end, after.backward(grad_NV, logits_NV.detach()).to(product_dtype))
        return replace(shares, values=tuple(value.detach() for value in shares.values))

    wide = product_dtype if _are_read_by_kernels(objective, signals) else None
    chunk = chunk or choose_chunk_units(weight_VD.shape[0], hidden_ND.device, wide)
    with torch.no_grad():
        result = _join_shares([compute_chunk(*piece) for piece in _cut_pieces(len(labels_N), chunk)], own)
    if any(wanted):
        loss = _Known.apply(result.loss, gradients.list_all(), *inputs)  # type: ignore[no-untyped-call]
        result = replace(result, loss=loss)
    return result


def _are_read_by_kernels(objective: Objective, signals: Signals | None) -> bool:
    """Return whether nothing of the size of the logits is made of them but gradients, where there are kernels."""
    answers = () if signals is None else signals.vocabulary_M
    sparse = all(answer is None or isinstance(answer, SparseSignal) for answer in answers)
    plain = objective.class_weights is None and objective.focal_gamma == objective.label_smoothing == 0.0
    return sparse and plain


def _cut_pieces(units: int, chunk: int) -> list[tuple[int, int]]:
    """Cut units into pieces; there is at least one, so that a batch without units has a loss of 0 with its graph."""
    return [(begin, min(begin + chunk, units)) for begin in range(0, max(units, 1), chunk)]


def _differentiate(
    values: Sequence[torch.Tensor], factors: Sequence[torch.Tensor], logits_NV: torch.Tensor
) -> torch.Tensor:
    """Return the gradient of ``sum_k factors_k values_k``; 0 where no value depends on the logits."""
    known = [k for k, value in enumerate(values) if value.requires_grad]
    if not known:
        return torch.zeros_like(logits_NV)
    return torch.autograd.grad([values[k] for k in known], logits_NV, [factors[k] for k in known])[0]


def _join_shares(parts: Sequence[Shares], own: Counts) -> ObjectiveResult:
    """Add up the shares of all chunks, and multiply them by their factors once."""
    first = parts[0]
    numbers = [(*part.values, *part.sums.values()) for part in parts]
    totals, weights_M = numbers[0], first.weights_M
    if len(parts) > 1:
        table_PK = torch.stack([number for row in numbers for number in row]).view(len(parts), -1)
        totals = table_PK.sum(dim=0).unbind()
        weights = [part.weights_M for part in parts if part.weights_M is not None]
        weights_M = torch.stack(weights).sum(dim=0) if weights else None
    count = len(first.values)
    return ObjectiveResult(
        loss=combine_values(totals[:count], first.factors),
        sums=dict(zip(first.sums, totals[count:], strict=True)),
        weights_M=weights_M,
        counts=own,
    )


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
        return (
            None,
            None,
            *(
                None if grad is None else _scale(grad, factors[0], dtype)
                for grad, dtype in zip(grads, ctx.dtypes, strict=True)
            ),
        )


def _scale(grad: torch.Tensor, factor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the gradient times a factor, multiplied in the wider of both precisions."""
    wide = grad if grad.dtype == torch.float32 else grad.to(dtype)
    return wide.mul_(factor).to(dtype)
