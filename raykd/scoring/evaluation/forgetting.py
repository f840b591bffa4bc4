"""Measure what a student that went on from an earlier run has forgotten of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from raykd.config import RunConfig
from raykd.config.home import find_student
from raykd.config.loading import load_run
from raykd.data.load import Dataset, load_data
from raykd.data.rows import Rows, draw_share
from raykd.driver.jobs import TaskJob
from raykd.report.forgetting import ForgettingTable, Forgotten
from raykd.report.results import Predictions
from raykd.scoring.score import System, score_student
from raykd.tasks import SystemAnswers
from raykd.tasks.scores.classes import ClassScores
from raykd.tasks.scores.intervals import RowShares, compute_change_interval


def measure_forgetting(job: TaskJob) -> ForgettingTable | None:
    """Return how the old and the new student score on the held-out rows of the earlier run.

    Returns:
        The table; None where the run goes on from none.

    Raises:
        DataError: The rows of the earlier run cannot be read any more.
    """
    config = job.config
    if config.from_run is None or config.data.replay is None:
        return None
    folder, replay = Path(config.from_run), config.data.replay
    earlier = load_run(folder)
    old_data = load_data(earlier.data, Path.cwd(), earlier.form)
    new_data = load_data(replay.data, Path.cwd(), config.form)
    before = score_student("before", "student", find_student(folder), earlier, _held_out(old_data))
    after = score_student("after", "student", job.output, config, _held_out(new_data))
    lines = [
        *_compare_languages((earlier, before, _held_out(old_data)), (config, after, _held_out(new_data))),
        *_compare_classes(before[0].classes, after[0].classes),
    ]
    count = len(draw_share(new_data.train, replay.share, replay.seed)) if replay.share else 0
    return ForgettingTable(tuple(lines), str(folder), new_data.held_out, count)


def _held_out(data: Dataset) -> Rows:
    return data.validation if data.test is None else data.test


def _compare_languages(
    before: tuple[RunConfig, System, Rows], after: tuple[RunConfig, System, Rows]
) -> list[Forgotten]:
    """Return the first metric of each language, with the interval of its change where rows have shares of it."""
    metric = after[0].metric
    old, new = before[1][1], after[1][1]
    lines = []
    for language, count in old.rows.items():
        line = Forgotten(
            language, count, metric, old.by_language[language][metric], new.by_language[language][metric]
        )
        shares = [_read_shares(*one, language) for one in (before, after)]
        if metric == after[0].task.metric_names[0] and shares[0] is not None and shares[1] is not None:
            found = compute_change_interval(shares[0], shares[1])
            line = line if found is None else replace(line, low=found.low, high=found.high)
        lines.append(line)
    return lines


def _read_shares(config: RunConfig, system: System, rows: Rows, language: str) -> RowShares | None:
    predictions: Predictions = system[0]
    if not predictions.logits_NC.size:  # texts and numbers are not kept by unit
        return None
    picked = np.flatnonzero(rows.labelled & rows.is_in_language(language))
    counts_B = config.task.count_units(rows.take(range(len(rows))))
    answers = SystemAnswers(predictions.logits_NC, counts_B, predictions.covered_N).take(picked)
    return config.task.compute_row_shares(answers, rows.take(picked), config.data.labels)


def _compare_classes(before: ClassScores | None, after: ClassScores | None) -> list[Forgotten]:
    """Return F1 of each class that the old student knows."""
    if before is None or after is None:
        return []
    new = {one.name: one for one in after.classes}
    return [
        Forgotten(f"label {one.name}", one.support, "f1", one.f1, new[one.name].f1)
        for one in before.classes
        if one.name in new and one.support
    ]
