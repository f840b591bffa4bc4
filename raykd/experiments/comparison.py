"""Conclude a confirmation: score every student on the held-out rows once, and compare the arms seed by seed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType

from raykd.config import Run
from raykd.config.multi import SCORE
from raykd.driver.jobs import Job
from raykd.driver.recording import describe_results, record_report
from raykd.experiments.arms import ARMS, Arms
from raykd.folders.folder import RunFolder
from raykd.keys import make_key_part
from raykd.point import Point
from raykd.report.sweeps.confirmation import MACRO, SPLITS, ConfirmationReport
from raykd.report.sweeps.confirmation_page import draw_confirmation_figures, write_confirmation_page
from raykd.scoring.score import score_student
from raykd.tracking import Tracker, describe_environment
from raykd.tuning.config import Sweep
from raykd.tuning.journal import Journal


@dataclass(frozen=True)
class Confirmation:
    """What a confirmation found.

    Attributes:
        report: The scores of both arms.
        tables: Tables for the terminal.
        lines: Lines for the terminal, in rich's markup.
        failed: Number of trainings that failed.
        page: The report page.
    """

    report: ConfirmationReport
    tables: tuple[RenderableType, ...]
    lines: tuple[str, ...]
    failed: int
    page: Path


def compare_students(
    plan: Sweep, arms: Arms, student: Job, journal: Journal, students: Path, notes: Sequence[str]
) -> ConfirmationReport:
    """Score every student on the held-out rows, for the first time."""
    scores: dict[str, dict[int, dict[str, float]]] = {arm: {} for arm in ARMS}
    for trial in journal.trials.values():
        if trial.status != "finished":
            continue
        arm, seed = str(trial.sample["arm"]), int(str(trial.sample["seed"]))
        # The folder has the name that Tune gave the trial at its last start.
        folder = students / trial.tune_ids[-1]
        scores[arm][seed] = _score_student(arm, folder, arms.build_run(trial.sample), student)
    chosen_there = [] if all(data.test is not None for data in student.data.values()) else [
        "there is no test set: both arms are compared on the validation rows, on which the winner was chosen"
    ]  # fmt: skip
    return ConfirmationReport(
        arms=ARMS,
        seeds=arms.seeds,
        scores=scores,
        metric=plan.metric,
        title=f"{plan.name}: winner against default",
        summary=f"The sweep's best run and its base, each trained with {len(arms.seeds)} seeds that no trial had.",
        notes=(*notes, *chosen_there),
        environment=describe_environment(),
        created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    )


def _score_student(arm: str, folder: Path, config: Run, student: Job) -> dict[str, float]:
    """Return the scores of a trained student on all held-out rows, by ``split/language/metric``.

    With several tasks, a language is named after its task, and ``split/macro/score`` is the mean over tasks.
    """
    values: dict[str, float] = {}
    for split in SPLITS:
        rates = []
        for task, member in config.members.items():
            rows = getattr(student.data[task], split)
            if rows is None:
                continue
            _, found = score_student(arm, "student", folder / task, member, rows)
            by_language = {
                make_key_part(f"{task} {name}".lstrip()): own for name, own in found.by_language.items()
            }
            if found.macro:
                by_language[f"{task} mean" if task else MACRO] = found.macro
                rates.append(found.macro[member.metric])
            for language, metrics in by_language.items():
                values |= {f"{split}/{language}/{metric}": value for metric, value in metrics.items()}
        if config.metric == SCORE and len(rates) == len(config.members):
            values[f"{split}/{MACRO}/{SCORE}"] = sum(rates) / len(rates)
    return values


def conclude_confirmation(
    report: ConfirmationReport, folder: RunFolder, journal: Journal, tracker: Tracker
) -> Confirmation:
    """Write the page and the table, and record the difference."""
    pictures = draw_confirmation_figures(report)
    page = write_confirmation_page(report, folder.path / "report.html", pictures)
    (folder.path / "results.md").write_text(report.to_markdown(), encoding="utf-8")
    main = report.main_difference
    if main is not None:
        values = {"confirm/difference": main.mean, "confirm/wins": float(main.wins)}
        bounds = {"confirm/low": main.low, "confirm/high": main.high}
        tracker.log_points(
            [Point(main.seeds, {**values, **{k: v for k, v in bounds.items() if v is not None}})]
        )
    record_report(
        tracker,
        page,
        pictures,
        tables={"confirmation.json": report.to_rows()},
        texts={"confirmation.md": report.to_markdown()},
    )
    failed = sum(t.status in ("failed", "diverged") for t in journal.trials.values())
    lines = describe_results(report.notes, page, tracker, folder)
    return Confirmation(report, (report.to_rich(),), lines, failed, page)
