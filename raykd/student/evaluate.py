"""Score a student on labelled rows: per language and their mean, over all ranks."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.data.rows import Rows
from raykd.distill.signals import MASKED
from raykd.keys import make_key_part
from raykd.tasks import EncodedRows, SystemAnswers, Task, TaskBase
from raykd.text.padding import Padding, split_passes
from raykd.text.shapes import FittedShapes, fit_shapes

T = TypeVar("T")
EVALUATION_TOKENS = 16384
"""Most padded tokens of one forward pass of an evaluation."""


def gather_ranks(part: T) -> list[T]:
    """Return every rank's part, in the order of ranks; the part alone where there is one rank."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return [part]
    parts = [part] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, part)
    return parts


def answer_rows(
    model: Callable[..., object],
    task: TaskBase,
    rows: EncodedRows,
    picked: Sequence[int],
    device: torch.device,
    padding: Padding,
    most_shapes: int | None = None,
) -> SystemAnswers:
    """Return the model's answers to the picked rows, in their order, run in passes of rows of similar length.

    Args:
        model: The model, called with keyword arguments.
        task: Its task.
        rows: Rows in its tokens.
        picked: Which of them.
        device: Where the model is.
        padding: How its rows are padded.
        most_shapes: How many padded shapes the passes may have; None is as many as there are.
    """
    parts: list[tuple[list[int], SystemAnswers]] = []
    padding = padding.answering(device)
    chosen_B, adapters_B = np.asarray(picked, dtype=np.int64), rows.adapters_B
    shapes: FittedShapes | None = None
    few = most_shapes is not None and padding.shapes == "longest" and len(picked) > 0
    passes = split_passes(
        rows.lengths_B[chosen_B],
        EVALUATION_TOKENS,
        # Fewer passes on a GPU, which computes a padded token in no time and waits for the start of each pass.
        much_shorter=0.0 if few else padding.much_shorter,
        adapters_B=None if adapters_B is None else adapters_B[chosen_B],
        joined=padding.joined,
    )
    if most_shapes is not None and few:
        shapes = fit_shapes(rows, [[picked[at] for at in part] for part in passes], most_shapes)
    for part in passes:
        chosen = [picked[at] for at in part]
        own = padding if shapes is None else shapes.find(chosen).apply(padding)
        encoded = task.collate(rows, chosen, own).to(device)
        parts.append((part, task.evaluate_batch(model, encoded)))
    if not parts:
        return SystemAnswers(np.empty((0, 0), np.float32), np.empty(0, np.int64), np.empty(0, bool))
    back = np.argsort(np.concatenate([np.asarray(part) for part, _ in parts]))
    return join_system_answers([answers for _, answers in parts]).take(back)


def join_system_answers(parts: Sequence[SystemAnswers]) -> SystemAnswers:
    """Join the rows of all parts, one part after the other; parts without rows are skipped.

    Narrower logits are padded with `MASKED`.
    """
    parts = [part for part in parts if len(part.counts_B)]
    width = max((part.logits_NC.shape[1] for part in parts), default=0)

    def join_column(name: str) -> NDArray[Any] | None:
        columns = [column for part in parts if (column := getattr(part, name)) is not None]
        return np.concatenate(columns) if columns else None

    texts = [part.texts for part in parts if part.texts is not None]
    return SystemAnswers(
        np.concatenate(
            [
                np.pad(p.logits_NC, ((0, 0), (0, width - p.logits_NC.shape[1])), constant_values=MASKED)
                for p in parts
            ]
        ),
        np.concatenate([p.counts_B for p in parts]),
        np.concatenate([p.covered_N for p in parts]),
        tuple(itertools.chain(*texts)) if texts else None,
        join_column("nll_B"),
        join_column("tokens_B"),
        join_column("hits_B"),
    )


def compute_language_scores(
    task: Task, answers: SystemAnswers, rows: Rows, labels: Sequence[str]
) -> dict[str, float]:
    """Compute ``eval/<language>/<metric>`` per language with labelled rows, and ``eval/mean/<metric>`` over them.

    A language is written as `make_key_part` writes it, so one that is called "mean" is not taken for the mean.
    """
    codes = np.asarray(rows.languages)
    values: dict[str, float] = {}
    collected: dict[str, list[float]] = defaultdict(list)
    for language in sorted(set(rows.languages)):
        inside = np.flatnonzero((codes == language) & rows.labelled)
        if not len(inside):
            continue
        for metric, value in task.compute_metrics(answers.take(inside), rows.take(inside), labels).items():
            values[f"eval/{make_key_part(language)}/{metric}"] = value
            collected[metric].append(value)
    for metric, found in collected.items():
        values[f"eval/mean/{metric}"] = float(np.mean(found))
    return values


def prefix_with_task(task: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return the values of one task as they stand in the curves: behind its name, where it has one."""
    return {f"{task}/{name}": value for name, value in values.items()} if task else dict(values)


def combine_task_scores(
    found: Mapping[str, Mapping[str, float]], metrics: Mapping[str, str]
) -> dict[str, float]:
    """Combine the scores of all tasks of an evaluation.

    Args:
        found: The values of each task; under the name "" those of the only task.
        metrics: The metric by which each task is compared.

    Returns:
        The values of the only task; or those of several, each behind the name of its task, with ``eval/mean/score``,
        the unweighted mean over tasks of each one's metric (rates in [0, 1]), and ``eval/mean/nll``, which breaks ties.
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
