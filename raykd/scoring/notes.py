"""What a reader of a run must know beside its numbers: rows left out, words that nobody saw, teachers with nothing to
teach.

Decision record: notes are made from the curves and the data alone, so that a resumed run says the same, and stand on
the report page, in the terminal and in MLflow; what a limit cuts off is also a warning of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from raykd.config import Embedded, RunConfig
from raykd.data.load import Dataset
from raykd.driver.language_models import describe_ignored_settings
from raykd.point import Point
from raykd.scoring.score import System
from raykd.student.overrides import describe_overruled_keys
from raykd.tasks.scores.metrics import is_higher_better
from raykd.tasks.scores.ranking import round_score

log = logging.getLogger("raykd.runs")

ENOUGH_COVERAGE = 0.98
"""Share of words (or other units) below which a run says that a limit cuts off what it is to learn."""


def collect_notes(
    config: RunConfig, data: Dataset, curve: Sequence[Point], systems: Sequence[System]
) -> tuple[str, ...]:
    """Return all notes, those about the data first.

    Args:
        curve: Of the student.
        systems: Scores of the final table.
    """
    unseen = _unseen(curve) if not config.task.language else _unread(curve)
    for line in unseen:
        log.warning("%s", line)
    if config.task.language:
        unseen = (*unseen, *_unshared(curve), *describe_ignored_settings(config))
    overruled = describe_overruled_keys(config.train)
    return (
        *overruled,
        *_notes(config, data, curve),
        *_long_rows(config, curve),
        *unseen,
        *_weak_teachers(systems),
    )


def _notes(config: RunConfig, data: Dataset, curve: Sequence[Point]) -> tuple[str, ...]:
    notes = list(data.remarks())
    if config.smoke is not None:
        notes.insert(
            0, f"a smoke run of {config.smoke}: a few rows and steps, so its scores and times say nothing"
        )
    said = {name: value for point in curve for name, value in point.values.items()}
    if skipped := said.get("train/skipped_steps", 0.0):
        back = ", and the run went back to a checkpoint once" if said.get("train/rollbacks") else ""
        notes.append(
            f"{skipped:,.0f} training steps were left out because they were not finite{back}; see the log"
        )
    uncovered = max((p.values.get("train/uncovered", 0.0) for p in curve), default=0.0)
    if uncovered:
        notes.append(f"up to {uncovered:.1%} of units had no teacher and fell back to their gold label")
    held_out = config.data.test or config.data.validation
    if isinstance(held_out, Embedded) and held_out.label_noise:
        notes.append(
            f"the embedded corpus has wrong gold in {held_out.label_noise:.0%}: "
            f"no system can be right in more than {1 - held_out.label_noise:.0%} on average"
        )
    if data.test is None:
        notes.append(
            "there is no test set: the table shows the validation rows, on which the best step was chosen"
        )
    return tuple(notes)


def _unshared(curve: Sequence[Point]) -> tuple[str, ...]:
    """Of teachers with another tokenizer, the student's tokens that they speak about."""
    shares: dict[str, list[float]] = {}
    for point in curve:
        for name, value in point.values.items():
            if name.startswith("teacher/") and name.endswith("/coverage"):
                shares.setdefault(name.split("/")[1], []).append(value)
    return tuple(
        f"teacher {name} covers {np.mean(values):.1%} of the student's tokens: those that its own tokenizer begins and "
        "ends at the same characters"
        for name, values in shares.items()
        if np.mean(values) < 1.0
    )


def _unread(curve: Sequence[Point]) -> tuple[str, ...]:
    """Say so where the student reads less of the targets than it should."""
    shares = [p.values["train/coverage"] for p in curve if "train/coverage" in p.values]
    share = float(np.mean(shares)) if shares else 1.0
    if share >= ENOUGH_COVERAGE:
        return ()
    return (
        f"the student sees {share:.1%} of the tokens that it is to write or to guess (wanted {ENOUGH_COVERAGE:.0%}): "
        "raise task.max_target_length (of a masked model task.max_length), or split long rows",
    )


def _unseen(curve: Sequence[Point]) -> tuple[str, ...]:
    """Say so where the student or a teacher does not see what it should: by the lowest share of any window."""
    shares: dict[str, list[float]] = {}
    for point in curve:
        for name, value in point.values.items():
            if name == "train/coverage" or (name.startswith("teacher/") and name.endswith("/coverage")):
                shares.setdefault(name, []).append(value)
    notes = []
    for name, values in shares.items():
        share = float(np.mean(values))
        if share < ENOUGH_COVERAGE:
            who = "the student" if name == "train/coverage" else f"teacher {name.split('/')[1]}"
            notes.append(
                f"{who} sees {share:.1%} of the words (wanted {ENOUGH_COVERAGE:.0%}): raise its max_length, or split "
                "long rows"
            )
    shared = max((point.values.get("train/shared_words", 0.0) for point in curve), default=0.0)
    if shared:
        notes.append(f"the student reads {shared:.1%} of the words at the same token as the word beside them")
    return tuple(notes)


def _long_rows(config: RunConfig, curve: Sequence[Point]) -> tuple[str, ...]:
    """Return what was cut off, counted once by the student's loop."""
    said = {name: value for point in curve for name, value in point.values.items()}
    long, dropped = said.get("train/long_rows", 0.0), said.get("train/dropped_rows", 0.0)
    unmarked = said.get("train/rows_without_markers", 0.0)
    limits = f"task.max_length {config.task.max_length}"
    if (written := getattr(config.task, "max_target_length", None)) is not None:
        limits += f" or task.max_target_length {written}"
    notes = []
    if dropped:
        notes.append(f"{dropped:,.0f} training rows are over {limits}: dropped")
    elif long:
        notes.append(f"{long:,.0f} training rows are over {limits}: cut")
    if held := said.get("train/held_marks", 0.0):
        notes.append(
            f"{held:,.0f} training rows already held marks of the student's tokenizer, which are not put twice"
        )
    if unmarked:
        notes.append(f"{unmarked:,.0f} training rows lost a marker to task.max_length or never had one")
    return tuple(notes)


def _weak_teachers(systems: Sequence[System]) -> tuple[str, ...]:
    """Say so where the teachers have nothing to teach, by the task's first metric."""
    found = {p.role: next(iter(s.macro.items())) for p, s in systems if s.macro}
    ensemble, baseline = found.get("ensemble"), found.get("baseline")
    if ensemble is None or baseline is None:
        return ()
    sign = 1.0 if is_higher_better(ensemble[0]) else -1.0
    if sign * round_score(ensemble[1]) <= sign * round_score(baseline[1]):
        return (
            "the teachers together are no better than the undistilled student: train them longer, with another "
            "learning rate (training.train), or on more rows",
        )
    return ()
