"""Record an experiment in MLflow: a child run per training with its held-out scores, and page and tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from raykd.driver.recording import describe_results, record_report
from raykd.driver.session import Session
from raykd.experiments.arms import name_training
from raykd.point import Point
from raykd.report.comparisons.differences import MACRO, PairedDifference
from raykd.report.comparisons.plain_data import dump_comparison, list_differences
from raykd.report.comparisons.results import ComparisonReport, TrainedStudent
from raykd.report.comparisons.tables import ComparisonTables
from raykd.tuning.journal import Journal
from raykd.tuning.messages import format_trial_errors

SCORED = "scored"
"""Key of the folder's state: trainings whose held-out scores MLflow has."""


def record_students(report: ComparisonReport, journal: Journal, session: Session) -> None:
    """Add the held-out scores to the child run of every training."""
    tracker, folder = session.open_tracker(), session.folder
    done = set() if tracker.replaced else set(folder.state.get(SCORED, ()))
    children = session.open_child_runs()
    for arm in report.arms:
        for seed, student in arm.students.items():
            name = name_training(arm.name, seed)
            if name in done:
                continue
            child = children.start(
                name,
                params={"arm": arm.name, "seed": seed},
                tags={"raykd.role": "trial", "raykd.trial": "finished"},
                directory=folder.path / "spool" / name,
                find=tracker.find_child,
            )
            child.log_points([Point(journal.trials[name].total_steps, name_scores(student))])
            child.finish()
            del children.open[name]
            done.add(name)
    folder.write_state(**{SCORED: sorted(done)})


def name_scores(student: TrainedStudent) -> dict[str, float]:
    """Return a student's scores and costs by the names that a run's own have in MLflow."""
    values = {
        name.replace(f"/{MACRO}/", "/mean/"): value
        for name, value in student.scores.items()
        if name.startswith("test/")
    }
    return values | {"cpu_s": student.cpu_s, "parameters": float(student.parameters)}


def record_comparison(
    report: ComparisonReport, page: Path, session: Session, journal: Journal, role: str
) -> tuple[str, ...]:
    """Record differences, page and tables with the experiment's own run; return the last lines for the terminal."""
    tracker, tables = session.open_tracker(), ComparisonTables(report)
    values: dict[str, float] = {}
    for d in report.main_differences:
        values |= _name_difference("confirm" if role == "confirmation" else f"compare/{d.arm}", d)
    tracker.log_points([Point(len(report.seeds), values)])
    record_report(
        tracker,
        page,
        tables={f"{role}.json": list_differences(tables.report)},
        texts={f"{role}.md": tables.to_markdown(), "result.json": json.dumps(dump_comparison(tables.report))},
        environment=report.environment,
    )
    found: Sequence[str] = [
        f"[red]broken[/red]   {escape(line)}" for line in format_trial_errors(journal.trials.values())
    ]
    return describe_results(report.notes, page, tracker, session.folder, found=found)


def _name_difference(prefix: str, d: PairedDifference) -> dict[str, float]:
    values = {f"{prefix}/difference": d.mean, f"{prefix}/wins": float(d.wins)}
    if d.interval is not None:
        values |= {f"{prefix}/low": d.interval[0], f"{prefix}/high": d.interval[1]}
    return values
