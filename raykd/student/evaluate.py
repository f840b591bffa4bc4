"""Scores of a student on labelled rows: per language and their mean, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED
from raykd.tasks import EncodedRows, Task

EVALUATION_TOKENS = 16384
"""Largest padded size of one forward pass of an evaluation."""


def gather_ranks(part: Any) -> list[Any]:
    """Every rank's part, in the order of ranks; the part alone where there is one rank."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return [part]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, part)
    return parts


def logits_of(
    forward: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    task: Task,
    rows: EncodedRows,
    labels_B: NDArray[np.int64],
    picked: Sequence[int],
    device: torch.device,
) -> NDArray[np.float32]:
    """Raw logits ``[len(picked), C]`` of the picked rows, run in passes of similar length."""
    order = sorted(picked, key=lambda i: -int(rows.lengths_B[i]))
    at = {row: position for position, row in enumerate(picked)}
    result: NDArray[np.float32] | None = None
    begin = 0
    while begin < len(order):
        width = max(1, int(rows.lengths_B[order[begin]]))
        part = order[begin : begin + max(1, EVALUATION_TOKENS // width)]
        padded = task.collate(rows, labels_B, part).to(device)
        logits = task.gather(forward(padded.inputs), padded).float().cpu().numpy()
        if result is None:
            result = np.empty((len(picked), logits.shape[1]), dtype=np.float32)
        result[[at[i] for i in part]] = logits
        begin += len(part)
    return np.empty((0, 0), dtype=np.float32) if result is None else result


def scores_by_language(
    task: Task, logits_NC: NDArray[np.float32], labels_N: NDArray[np.int64], languages: Sequence[str]
) -> dict[str, float]:
    """``eval/<language>/<metric>`` of each language with labelled rows and ``eval/mean/<metric>`` over them."""
    codes = np.asarray(languages)
    values: dict[str, float] = {}
    collected: dict[str, list[float]] = {}
    for language in sorted(set(languages)):
        inside = (codes == language) & (labels_N != UNLABELLED)
        if not inside.any():
            continue
        for metric, value in task.metrics(logits_NC[inside], labels_N[inside]).items():
            values[f"eval/{language}/{metric}"] = value
            collected.setdefault(metric, []).append(value)
    for metric, found in collected.items():
        values[f"eval/mean/{metric}"] = float(np.mean(found))
    return values
