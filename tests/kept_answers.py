"""Answers on the host at once: what a teacher computes, and a wait for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.answer import HiddenAnswer, SampledAnswer, TopKAnswer
from raykd.answers.compress import compute_draws, compute_hidden, compute_top_k
from raykd.tasks import TaskBase
from raykd.text.encoding import EncodedBatch


def keep_top_k(
    logits_NV: torch.Tensor,
    k: int,
    temperatures: Sequence[float],
    *,
    gold_N: torch.Tensor | None = None,
    offsets_N: NDArray[np.int64] | None = None,
) -> TopKAnswer:
    """Return what `compute_top_k` computes; waits for the device."""
    return cast("TopKAnswer", compute_top_k(logits_NV, k, temperatures, gold_N=gold_N).fetch(offsets_N))


def draw_tokens(
    logits_NV: torch.Tensor,
    uniforms_ND: NDArray[np.float64],
    temperature: float = 1.0,
    *,
    gold_N: torch.Tensor | None = None,
    offsets_N: NDArray[np.int64] | None = None,
) -> SampledAnswer:
    """Return what `compute_draws` computes; waits for the device."""
    uniforms = torch.from_numpy(uniforms_ND).to(logits_NV.device)
    drawn = compute_draws(logits_NV, uniforms, temperature, gold_N=gold_N)
    return cast("SampledAnswer", drawn.fetch(offsets_N))


def keep_hidden(
    states_NH: torch.Tensor,
    *,
    logits_NV: torch.Tensor | None = None,
    gold_N: torch.Tensor | None = None,
    offsets_N: NDArray[np.int64] | None = None,
) -> HiddenAnswer:
    """Return what `compute_hidden` computes; waits for the device."""
    computed = compute_hidden(states_NH, logits_NV=logits_NV, gold_N=gold_N)
    return cast("HiddenAnswer", computed.fetch(offsets_N))


def answer_rows(
    task: TaskBase, model: Any, encoded: EncodedBatch, columns: Sequence[Sequence[int]]
) -> list[bytes | None]:
    """Return what `TaskBase.start_answers` computes, as `raykd.answers.codec` writes it: one body per row."""
    pending = task.start_answers(model, encoded, columns)
    return pending.encode([tensor.cpu().numpy() for tensor in pending.tensors])
