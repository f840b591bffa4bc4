"""Give held-out rows without gold labels the labels of the teachers together, so that students can be scored at all.

Decision record: the labels are those of the ensemble as the student is taught: the run's weighting and mixture at
temperature 1. All arms and trials of an experiment are scored against the labels of its base, so they are compared by
one measure. Such a score says how well a student copies its teachers, and nothing of whether these are right, so
it is called agreement wherever it is shown.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from raykd.config import RunConfig
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.ensemble.mixing import mix_coalition
from raykd.ensemble.units import LabelledUnits
from raykd.errors import DataError
from raykd.report.results import Score
from raykd.scoring.score import ask_teachers, stack_signals
from raykd.tasks.scores.metrics import name_agreement
from raykd.teachers.pools.pool import TeacherPool

log = logging.getLogger("raykd.runs")


def fill_missing_labels(config: RunConfig, data: Dataset, pool: TeacherPool) -> Dataset:
    """Return the rows with the teachers' labels in the held-out parts that have no gold label (`Dataset.judged`).

    Raises:
        DataError: The teachers together answer no row of such a part.
    """
    return data.replace_held_out(
        {name: _label_rows(config, getattr(data, name), name, pool) for name in data.judged}
    )


def _label_rows(config: RunConfig, rows: Rows, name: str, pool: TeacherPool) -> Rows:
    bare = rows.without_labels()
    signals = stack_signals(config, ask_teachers(pool.handle, bare), pool.handle.teacher_languages, bare)
    everyone = np.ones(len(signals.teachers), dtype=bool)
    combined = mix_coalition(signals, config.objective.weighting, config.objective.mixture, everyone)
    counts_B = config.task.count_units(bare.take(range(len(bare))))
    tagging = config.task.form == "words"
    units = LabelledUnits(
        np.full(len(combined.covered_N), UNLABELLED),
        counts_B,
        tuple(bare.languages),
        config.task.name_choices(config.data.labels),
        tagging,
    )
    # A text that its teachers saw in part has no answer to the rest of it that a student could agree with.
    seen_B = np.bincount(units.row_N, weights=combined.covered_N, minlength=len(bare)) == counts_B
    if not seen_B.any():
        raise DataError(
            f"no row of data.{name} has a gold label, and the teachers answer none of them",
            got=f"{len(rows)} rows in {', '.join(dict.fromkeys(rows.languages))}",
            wanted="rows with labels, or in languages that a teacher speaks",
            next_step="check teachers[].languages, or add labels",
        )
    if not seen_B.all():
        log.warning(
            "%d of %d rows of %s: no teacher answers, so they do not count", (~seen_B).sum(), len(rows), name
        )
    return _with_labels(rows, units.choose(combined), counts_B, seen_B)


def _with_labels(rows: Rows, chosen_N: np.ndarray, counts_B: np.ndarray, seen_B: np.ndarray) -> Rows:
    """Return the rows with these labels, a unit each; a row that is not seen stays without."""
    if rows.golds is None:
        return replace(rows, labels_B=np.where(seen_B, chosen_N, UNLABELLED).astype(np.int64))
    parts: Sequence[np.ndarray] = np.split(chosen_N, np.cumsum(counts_B)[:-1])
    golds = tuple(
        tuple(part.tolist()) if seen else () for part, seen in zip(parts, seen_B.tolist(), strict=True)
    )
    return replace(rows, labels_B=np.where(seen_B, 0, UNLABELLED).astype(np.int64), golds=golds)


def name_score(score: Score) -> Score:
    """Return a score against the teachers' labels under the names that say so."""

    def name(metrics: object) -> dict[str, float]:
        assert isinstance(metrics, dict)
        return {name_agreement(metric): value for metric, value in metrics.items()}

    by_language = {language: name(dict(metrics)) for language, metrics in score.by_language.items()}
    macro = None if score.macro is None else name(dict(score.macro))
    by_group = {group: name(dict(metrics)) for group, metrics in score.by_group.items()}
    return Score(by_language, macro, score.rows, by_group)


def describe_agreement(config: RunConfig, data: Dataset) -> tuple[str, ...]:
    """Return notes on which scores are agreement with the teachers, and with whom."""
    who = f"weighting {config.objective.weighting.kind}, {config.objective.mixture} mixture"
    chosen = "validation" in data.judged
    if data.held_out not in data.judged:
        by = f"no validation row has a gold label: the best step was chosen by agreement with the teachers ({who})"
        return (by,) if chosen else ()
    note = (
        f"no {data.held_out} row has a gold label: all scores are agreement with the teachers together ({who}), which "
        "says nothing of whether they are right; the teachers' ensemble agrees with itself"
    )
    return (f"{note}; the best step was chosen by it, too" if chosen else note,)
