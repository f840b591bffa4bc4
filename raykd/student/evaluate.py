"""Scores of a student on labelled rows: per language and their mean, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from raykd.data.rows import Rows
from raykd.distill.signals import MASKED
from raykd.keys import make_key_part
from raykd.tasks import EncodedRows, SystemAnswers, Task
from raykd.text.padding import Padding, split_passes

EVALUATION_TOKENS = 16384
"""Largest padded size of one forward pass of an evaluation."""


def gather_ranks(part: Any) -> list[Any]:
    """Every rank's part, in the order of ranks; the part alone where there is one rank."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return [part]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, part)
    return parts


def answer_rows(
    model: Callable[..., Any],
    task: Task,
    rows: EncodedRows,
    picked: Sequence[int],
    device: torch.device,
    padding: Padding,
) -> SystemAnswers:
    """What the model says to the picked rows, in their order, run in passes of rows of similar length."""
    parts: list[tuple[list[int], SystemAnswers]] = []
    for part in split_passes(rows.lengths_B[np.asarray(picked, dtype=np.int64)], EVALUATION_TOKENS):
        encoded = task.collate(rows, [picked[at] for at in part], padding).to(device)
        parts.append((part, task.evaluate_batch(model, encoded)))
    if not parts:
        return SystemAnswers(np.empty((0, 0), np.float32), np.empty(0, np.int64), np.empty(0, bool))
    back = np.argsort(np.concatenate([np.asarray(part) for part, _ in parts]))
    return join_system_answers([said for _, said in parts]).take(back)


def join_system_answers(parts: Sequence[SystemAnswers]) -> SystemAnswers:
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
    hits = [p.hits_B for p in parts if p.hits_B is not None]
    return SystemAnswers(
        np.concatenate(wide),
        np.concatenate([p.counts_B for p in parts]),
        np.concatenate([p.covered_N for p in parts]),
        tuple(text for column in texts for text in column) if texts else None,
        np.concatenate(nll) if nll else None,
        np.concatenate(tokens) if tokens else None,
        np.concatenate(hits) if hits else None,
    )


def compute_language_scores(
    task: Task, said: SystemAnswers, rows: Rows, labels: Sequence[str]
) -> dict[str, float]:
    """``eval/<language>/<metric>`` of each language with labelled rows and ``eval/mean/<metric>`` over them.

    A language is written as `make_key_part` writes it: one that is called mean is not the mean.
    """
    codes = np.asarray(rows.languages)
    values: dict[str, float] = {}
    collected: dict[str, list[float]] = {}
    for language in sorted(set(rows.languages)):
        inside = np.flatnonzero((codes == language) & rows.labelled)
        if not len(inside):
            continue
        for metric, value in task.compute_metrics(said.take(inside), rows.take(inside), labels).items():
            values[f"eval/{make_key_part(language)}/{metric}"] = value
            collected.setdefault(metric, []).append(value)
    for metric, found in collected.items():
        values[f"eval/mean/{metric}"] = float(np.mean(found))
    return values


def prefix_with_task(task: str, values: Mapping[str, float]) -> dict[str, float]:
    """The values of one task as they stand in the curves: behind its name, where it has one."""
    return {f"{task}/{name}": value for name, value in values.items()} if task else dict(values)


def combine_task_scores(
    found: Mapping[str, Mapping[str, float]], metrics: Mapping[str, str]
) -> dict[str, float]:
    """What an evaluation says of all tasks together.

    Of a run of one task its own values. Of several each one's behind its name, and ``eval/mean/score``: the unweighted
    mean over tasks of each one's metric, all of them rates in [0, 1]; likewise ``eval/mean/nll``, which breaks ties.

    Args:
        found: values of each task. metrics: what each task is judged by.
    """
    values: dict[str, float] = {}
    for task, own in found.items():
        values |= prefix_with_task(task, own)
    if "" not in found:
        values["eval/mean/score"] = float(
            np.mean([own[f"eval/mean/{metrics[t]}"] for t, own in found.items()])
        )
        values["eval/mean/nll"] = float(np.mean([own["eval/mean/nll"] for own in found.values()]))
    return values
