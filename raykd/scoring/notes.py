"""Collect what a reader of a run must know beside its numbers: rows left out, unread words, teachers that are no help.

Decision record: notes are made from the curves and the data alone, so a resumed run says the same. They stand on the
report page, on the terminal and in MLflow. What a length limit cuts off is also a warning in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from raykd.config import Embedded, RunConfig
from raykd.config.kinds.pretraining import FOLDER
from raykd.data.load import Dataset
from raykd.driver.language_models import describe_ignored_settings
from raykd.point import Point
from raykd.scoring.ensembles.agreement import describe_agreement
from raykd.scoring.score import System
from raykd.student.overrides import describe_overruled_keys
from raykd.tasks.scores.metrics import is_higher_better
from raykd.tasks.scores.ranking import round_score

log = logging.getLogger("raykd.runs")
STUDENT = "the student"
ENOUGH_COVERAGE = 0.98
"""Share of words (or other units) below which a run says that a limit cuts off what it should learn."""


def collect_notes(
    config: RunConfig, data: Dataset, curve: Sequence[Point], systems: Sequence[System]
) -> tuple[str, ...]:
    """Return all notes, those about the data first."""
    last = {name: value for point in curve for name, value in point.values.items()}
    coverage = _average_coverage(curve)
    if config.task.language:
        unread = _describe_unread_tokens(coverage)
        others = (*_describe_shared_tokens(coverage), *describe_ignored_settings(config))
    elif config.task.form == "labels":
        unread = others = ()  # a unit that a teacher does not cover is a label that it lacks, as the run says
    else:
        unread = (*_describe_unread_words(coverage), *_describe_shared_places(curve))
        others = ()
    for line in unread:
        log.warning("%s", line)
    return (
        *describe_overruled_keys(config.train),
        *_describe_data(config, data, curve, last),
        *_describe_long_rows(config, last),
        *unread,
        *others,
        *_describe_weak_teachers(systems),
    )


def _describe_data(
    config: RunConfig, data: Dataset, curve: Sequence[Point], last: Mapping[str, float]
) -> list[str]:
    notes = list(data.remarks())
    if config.smoke is not None:
        notes.insert(
            0, f"a smoke run of {config.smoke}: a few rows and steps, so its scores and times say nothing"
        )
    if config.student.kind == "pretrained" and Path(config.student.path).name.startswith(FOLDER):
        who = "the student" + (" and the undistilled student start" if config.baseline else " starts")
        notes.append(f"{who} from one pretraining, {config.student.path}")
    if skipped := last.get("train/skipped_steps", 0.0):
        back = ", and the run went back to a checkpoint once" if last.get("train/rollbacks") else ""
        notes.append(
            f"{skipped:,.0f} training steps were left out because they were not finite{back}; see the log"
        )
    if uncovered := _find_highest(curve, "train/uncovered"):
        notes.append(f"up to {uncovered:.1%} of units had no teacher and fell back to their gold label")
    held_out = config.data.test or config.data.validation
    if isinstance(held_out, Embedded) and held_out.label_noise:
        notes.append(
            f"the embedded corpus has wrong gold in {held_out.label_noise:.0%}: "
            f"no system can be right in more than {1 - held_out.label_noise:.0%} on average"
        )
    notes += describe_agreement(config, data)
    if data.test is None:
        notes.append(
            "there is no test set: the table shows the validation rows, on which the best step was chosen"
        )
    return notes


def _find_highest(curve: Sequence[Point], name: str) -> float:
    return max((point.values.get(name, 0.0) for point in curve), default=0.0)


def _average_coverage(curve: Sequence[Point]) -> dict[str, float]:
    """Return the mean share of units that the student and each teacher see, by who it is."""
    shares: dict[str, list[float]] = {}
    for point in curve:
        for name, value in point.values.items():
            if name == "train/coverage":
                shares.setdefault(STUDENT, []).append(value)
            elif name.startswith("teacher/") and name.endswith("/coverage"):
                shares.setdefault(f"teacher {name.split('/')[1]}", []).append(value)
    return {who: fmean(values) for who, values in shares.items()}


def _describe_shared_tokens(coverage: Mapping[str, float]) -> tuple[str, ...]:
    """Return a note per teacher with another tokenizer: how many of the student's tokens it teaches."""
    return tuple(
        f"{who} covers {share:.1%} of the student's tokens: where its own tokenizer begins one too, or its answer says "
        "how its own token goes on"
        for who, share in coverage.items()
        if who != STUDENT and share < 1.0
    )


def _describe_unread_tokens(coverage: Mapping[str, float]) -> tuple[str, ...]:
    """Return a note if the student reads less of the targets than it should."""
    share = coverage.get(STUDENT, 1.0)
    if share >= ENOUGH_COVERAGE:
        return ()
    return (
        f"the student sees {share:.1%} of the tokens that it is to write or to guess (wanted {ENOUGH_COVERAGE:.0%}): "
        "raise task.max_target_length (of a masked model task.max_length), or split long rows",
    )


def _describe_unread_words(coverage: Mapping[str, float]) -> tuple[str, ...]:
    """Return a note for the student and each teacher that sees less of the words than it should."""
    return tuple(
        f"{who} sees {share:.1%} of the words (wanted {ENOUGH_COVERAGE:.0%}): raise its max_length, or split long rows"
        for who, share in coverage.items()
        if share < ENOUGH_COVERAGE
    )


def _describe_shared_places(curve: Sequence[Point]) -> tuple[str, ...]:
    """Return a note if the student's tokens are longer than words, so that two words share one."""
    shared = _find_highest(curve, "train/shared_words")
    return (
        (f"the student reads {shared:.1%} of the words at the same token as the word beside them",)
        if shared
        else ()
    )


def _describe_long_rows(config: RunConfig, last: Mapping[str, float]) -> list[str]:
    """Return what length limits did to rows. The student's loop counts it once."""
    long, dropped = last.get("train/long_rows", 0.0), last.get("train/dropped_rows", 0.0)
    limits = f"task.max_length {config.task.max_length}"
    if (written := getattr(config.task, "max_target_length", None)) is not None:
        limits += f" or task.max_target_length {written}"
    notes = []
    if dropped:
        notes.append(f"{dropped:,.0f} training rows are over {limits}: dropped")
    elif long:
        notes.append(f"{long:,.0f} training rows are over {limits}: cut")
    if held := last.get("train/held_marks", 0.0):
        notes.append(
            f"{held:,.0f} training rows already held marks of the student's tokenizer, which are not put twice"
        )
    if unmarked := last.get("train/rows_without_markers", 0.0):
        notes.append(f"{unmarked:,.0f} training rows lost a marker to task.max_length or never had one")
    return notes


def _describe_weak_teachers(systems: Sequence[System]) -> tuple[str, ...]:
    """Return a note if the teachers have nothing to teach, judged by the task's first metric."""
    found = {p.role: next(iter(s.macro.items())) for p, s in systems if s.macro}
    ensemble, baseline = found.get("ensemble"), found.get("baseline")
    if ensemble is None or baseline is None:
        return ()
    sign = 1.0 if is_higher_better(ensemble[0]) else -1.0
    if sign * round_score(ensemble[1]) > sign * round_score(baseline[1]):
        return ()
    return (
        "the teachers together are no better than the undistilled student: train them longer, with another "
        "learning rate (training.train), or on more rows",
    )
