"""Conclude a sweep: write the trial table, the best run as YAML, the report page and the MLflow artifacts.

Decision record: the best trial has the best validation score (see `raykd.report.sweeps.trials`). The test rows are not
read here. Population based training finds a schedule and not one setting, so its winner's YAML holds the changes as
`phases`. Training that YAML repeats them at the same steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import RenderableType
from rich.markup import escape

from raykd.config import Phase, Run
from raykd.config.loading import dump_run, validate_any_run
from raykd.driver.recording import describe_results, record_report
from raykd.driver.teacher_counts import count_finished_starts
from raykd.folders.folder import RunFolder
from raykd.parse import JsonObject
from raykd.point import Point
from raykd.report.sizes import Size
from raykd.report.sweeps.page import write_sweep_page
from raykd.report.sweeps.trial_table import TrialTable
from raykd.report.sweeps.trials import SweepReport, TrialRow
from raykd.spaces.domains import LogUniformDomain
from raykd.tracking import Tracker, describe_environment, redact
from raykd.tuning.config import Sweep, dump_sweep
from raykd.tuning.journal import Journal, Trial
from raykd.tuning.messages import format_trial_errors, suggest_next_steps
from raykd.tuning.progress import indent_lines
from raykd.tuning.sizes import TeacherSizes

BEST = "best.yaml"
MAX_TRIALS_SHOWN = 15
"""Rows of the table on the terminal. The page has all trials."""


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep found.

    Attributes:
        report: All trials, for tables and plots.
        tables: Tables for the terminal.
        lines: Lines for the terminal, in rich's markup.
        best: File with the best run; None if no trial was scored.
        page: The report page.
        failed: Number of trials that failed for good.
        mlflow_run_id: The sweep's run in MLflow.
    """

    report: SweepReport
    tables: tuple[RenderableType, ...]
    lines: tuple[str, ...]
    best: Path | None
    page: Path
    failed: int
    mlflow_run_id: str


def conclude_sweep(
    plan: Sweep,
    folder: RunFolder,
    journal: Journal,
    tracker: Tracker,
    notes: Sequence[str] = (),
    metric: str | None = None,
    measure: Callable[[Sequence[TrialRow]], Mapping[str, Size]] = lambda trials: {},
    teachers: TeacherSizes | None = None,
) -> SweepOutcome:
    """Write and record the results of a sweep.

    Args:
        plan: The sweep.
        folder: Where everything is written.
        journal: The results of the trials.
        tracker: The sweep's MLflow run.
        notes: What a reader must know about the teachers.
        metric: Name of the metric in tables and plots; None is that of the configuration.
        measure: Returns how large and fast the students of trials are, by name; asked for the best trials first.
        teachers: How large and fast the teachers are; None is not known.
    """
    best_path = folder.path / BEST
    report = replace(_report(plan, folder, journal, tracker, notes), metric=metric or plan.metric)
    teachers = teachers or TeacherSizes()
    sizes = measure(report.rank_trials())
    trials = tuple(replace(trial, size=sizes.get(trial.name)) for trial in report.trials)
    report = replace(report, trials=trials, teacher_sizes=teachers.each, together=teachers.together)
    if report.best is not None:
        report = replace(report, best_yaml=dump_run(build_best_run(plan, journal.trials[report.best.name])))
        best_path.write_text(report.best_yaml, encoding="utf-8")
    page = write_sweep_page(report, folder.path / "report.html")
    table = TrialTable(report)
    (folder.path / "trials.csv").write_text(table.to_csv(), encoding="utf-8")
    (folder.path / "results.md").write_text(table.to_markdown(), encoding="utf-8")
    _log(tracker, report, table, page, journal)
    failed = report.by_status.get("failed", 0)
    return SweepOutcome(
        report=report,
        tables=(table.to_rich(MAX_TRIALS_SHOWN), *(() if report.best is None else (table.size_table(),))),
        lines=_lines(report, journal.trials.values(), page, best_path, tracker, folder),
        best=best_path if report.best is not None else None,
        page=page,
        failed=failed,
        mlflow_run_id=tracker.run_id,
    )


def build_best_run(plan: Sweep, trial: Trial) -> Run:
    """Return a trial as a run for `raykd train`: its first sample, and later changes as phases."""
    segments = trial.segments or [(0, trial.sample)]
    config = plan.space.build_run(segments[0][1])
    phases = tuple(
        Phase(at=step / trial.total_steps, set=_mutable(plan.space.build_overlay(sample)))
        for step, sample in segments[1:]
    )
    changes: JsonObject = {"name": f"{plan.name[:95]}-best"}  # a name has 100 letters at most
    if phases:
        changes["phases"] = [phase.model_dump(mode="json") for phase in phases]
    return validate_any_run({**config.model_dump(mode="json"), **changes}, f"the best run of {plan.name}")


def _mutable(tree: JsonObject) -> JsonObject:
    """Return the part of an overlay that a phase may set."""
    train = {k: v for k, v in tree.get("train", {}).items() if k in ("learning_rate", "weight_decay")}
    objective = {"objective": tree["objective"]} if "objective" in tree else {}
    return {**objective, **({"train": train} if train else {})}


def _report(
    plan: Sweep,
    folder: RunFolder,
    journal: Journal,
    tracker: Tracker,
    notes: Sequence[str],
) -> SweepReport:
    """Collect the report, without the best run."""
    names = ", ".join(dict.fromkeys(plan.space.short_names().values()))
    teachers = ", ".join(t.name for t in plan.base.active_teachers)
    trials = sorted(journal.trials.values(), key=lambda t: t.index)
    return SweepReport(
        title=plan.name,
        summary=f"{plan.config.search.kind} search with {plan.config.scheduler.kind} over {names}; "
        f"teachers {teachers}.",
        metric=plan.metric,
        higher_is_better=plan.mode == "max",
        trials=tuple(trial.row() for trial in trials),
        rungs=plan.config.scheduler.rungs(plan.base.train.evaluations),
        best_yaml="",
        space_yaml=dump_sweep(plan),
        teachers=sum_teacher_counters(journal),
        environment=describe_environment(),
        facts={
            "MLflow run": tracker.run_id,
            "MLflow": redact(tracker.uri),
            "folder": str(folder.path),
            "starts that came to their end": str(count_finished_starts(folder.state)),
            **_passes(journal),
        },
        notes=(*notes, *_notes(plan, journal)),
        created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        best_path=str(folder.path / BEST),
        log_keys=tuple(one.path for one in plan.space.domains if isinstance(one.domain, LogUniformDomain)),
    )


def _passes(journal: Journal) -> dict[str, str]:
    """Return the number of teacher passes as a fact for the page; empty if teachers answered on demand."""
    if journal.passes is None:
        return {}
    return {"teacher passes": f"{journal.passes:.4g} over {journal.pairs:,} pairs of a text and a teacher"}


def _notes(plan: Sweep, journal: Journal) -> tuple[str, ...]:
    """Return what a reader must know before trusting the numbers."""
    missing = plan.trials - len(journal.trials)
    notes = [f"{missing} trials never began: the time budget was over"] if missing > 0 else []
    if cut := len(journal.cut_off):
        notes.append(
            f"{cut} trials were cut off when the time budget was over; raykd sweep {plan.name} --resume goes on with "
            "them"
        )
    broken = [t for t in journal.trials.values() if t.status in ("failed", "diverged")]
    notes += suggest_next_steps(broken, plan.name, None)
    for name, counters in sum_teacher_counters(journal).items():
        if counters.get("unkept"):
            notes.append(
                f"{counters['unkept']:,.0f} answers of teacher {name} could not be kept: the disk was full"
            )
        if counters.get("computed_while_parked"):
            notes.append(
                f"{counters['computed_while_parked']:,.0f} answers of teacher {name} were missing from its store "
                "and computed while trials ran: serving.store_limit_gb may be too small"
            )
    return tuple(notes)


def sum_teacher_counters(journal: Journal) -> dict[str, dict[str, float]]:
    """Sum the counters of all starts of the sweep, by teacher."""
    total: dict[str, dict[str, float]] = {}
    for start in journal.teachers:
        for name, values in start.items():
            into = total.setdefault(name, {})
            for key, value in values.items():
                into[key] = into.get(key, 0.0) + value
    return total


def _log(
    tracker: Tracker,
    report: SweepReport,
    table: TrialTable,
    page: Path,
    journal: Journal,
) -> None:
    values: dict[str, float] = {f"sweep/{status}": float(n) for status, n in report.by_status.items()}
    for name, counters in report.teachers.items():
        values |= {
            f"teacher/{name}/rows_{what}": counters[what]
            for what in ("answered", "forwarded")
            if what in counters
        }
    if journal.passes is not None:
        values["sweep/teacher_passes"] = journal.passes
    if report.best is not None and report.best.score is not None:
        values["sweep/best"] = report.best.score
        tracker.set_tags({"raykd.best": report.best.name})
        tracker.log_text(report.best_yaml, BEST)
    tracker.log_points([Point(len(report.trials), values)])
    record_report(
        tracker,
        page,
        tables={"trials.json": table.to_rows()},
        texts={"trials.csv": table.to_csv(), "space.yaml": report.space_yaml},
        environment=report.environment,
    )


def _lines(
    report: SweepReport,
    trials: Iterable[Trial],
    page: Path,
    best: Path,
    tracker: Tracker,
    folder: RunFolder,
) -> tuple[str, ...]:
    found = [f"[red]broken[/red]   {indent_lines(escape(line))}" for line in format_trial_errors(trials)]
    if report.best is not None:
        found.append(f"best     {best}   (raykd train {best})")
        found.append(f"         raykd confirm {folder.path} trains it and the default again with fresh seeds")
    return describe_results(report.notes, page, tracker, folder, found=found)
