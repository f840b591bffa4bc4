"""Scores of a student on labelled rows: per language and their mean, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from raykd.data.rows import Rows
from raykd.distill.signals import MASKED
from raykd.tasks import EncodedRows, Said, Task

EVALUATION_TOKENS = 16384
"""Largest padded size of one forward pass of an evaluation."""


def gather_ranks(part: Any) -> list[Any]:
    """Every rank's part, in the order of ranks; the part alone where there is one rank."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return [part]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, part)
    return parts


def say(
    model: Callable[..., Any], task: Task, rows: EncodedRows, picked: Sequence[int], device: torch.device
) -> Said:
    """What the model says to the picked rows, in their order, run in passes of rows of similar length."""
    order = sorted(range(len(picked)), key=lambda at: -int(rows.lengths_B[picked[at]]))
    parts: list[tuple[list[int], Said]] = []
    begin = 0
    while begin < len(order):
        width = max(1, int(rows.lengths_B[picked[order[begin]]]))
        part = order[begin : begin + max(1, EVALUATION_TOKENS // width)]
        encoded = task.collate(rows, [picked[at] for at in part]).to(device)
        logits_NC = task.gather(model(**encoded.inputs), encoded).float().cpu().numpy()
        seen = np.ones(len(logits_NC), dtype=bool) if encoded.seen_N is None else encoded.seen_N.cpu().numpy()
        parts.append((part, Said(logits_NC, encoded.counts_B, seen)))
        begin += len(part)
    if not parts:
        return Said(np.empty((0, 0), np.float32), np.empty(0, np.int64), np.empty(0, bool))
    back = np.argsort(np.concatenate([np.asarray(part) for part, _ in parts]))
    return join([said for _, said in parts]).take(back)


def join(parts: Sequence[Said]) -> Said:
    """All rows of the parts, one part after the other; parts without rows are passed over."""
    parts = [part for part in parts if len(part.counts_B)]
    width = max((part.logits_NC.shape[1] for part in parts), default=0)
    wide = [
        np.pad(p.logits_NC, ((0, 0), (0, width - p.logits_NC.shape[1])), constant_values=MASKED)
        for p in parts
    ]
    texts = [p.texts for p in parts if p.texts is not None]
    nll = [p.nll_B for p in parts if p.nll_B is not None]
    tokens = [p.tokens_B for p in parts if p.tokens_B is not None]
    return Said(
        np.concatenate(wide),
        np.concatenate([p.counts_B for p in parts]),
        np.concatenate([p.covered_N for p in parts]),
        tuple(text for column in texts for text in column) if texts else None,
        np.concatenate(nll) if nll else None,
        np.concatenate(tokens) if tokens else None,
    )


def scores_by_language(task: Task, said: Said, rows: Rows, labels: Sequence[str]) -> dict[str, float]:
    """``eval/<language>/<metric>`` of each language with labelled rows and ``eval/mean/<metric>`` over them."""
    codes = np.asarray(rows.languages)
    values: dict[str, float] = {}
    collected: dict[str, list[float]] = {}
    for language in sorted(set(rows.languages)):
        inside = np.flatnonzero((codes == language) & rows.labelled)
        if not len(inside):
            continue
        for metric, value in task.metrics(said.take(inside), rows.take(inside), labels).items():
            values[f"eval/{language}/{metric}"] = value
            collected.setdefault(metric, []).append(value)
    for metric, found in collected.items():
        values[f"eval/mean/{metric}"] = float(np.mean(found))
    return values
