"""Conclude a task: the final table, the report page, the MLflow artifacts, and the lines for the terminal.

Decision record: the test rows are read once, here, after every choice was made on the validation rows. Without a
test set the validation rows are used and the table says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from raykd.config import RunConfig
from raykd.config.loading import dump_run
from raykd.data.load import Dataset
from raykd.distill.signals import UNLABELLED
from raykd.driver.ending import Ending
from raykd.driver.jobs import TaskJob, name_peer_folder
from raykd.driver.recording import describe_results, record_report
from raykd.folders.folder import RunFolder
from raykd.keys import make_key_part
from raykd.models import measure_stored_megabytes
from raykd.point import Point
from raykd.report.costs import CostTable
from raykd.report.ensembles.page import FILE as ENSEMBLE_FILE
from raykd.report.ensembles.page import write_ensemble_page
from raykd.report.fitted_table import FittedTable
from raykd.report.forgetting import ForgettingTable
from raykd.report.plots import collect_curves
from raykd.report.results import Role, build_calibration_curve, compute_agreement
from raykd.report.runs.page import write_run_page
from raykd.report.runs.report import RunReport
from raykd.report.table import ResultTable, format_system
from raykd.report.time_bar import make_time_bar
from raykd.scoring.ensembles.agreement import name_score
from raykd.scoring.ensembles.feasibility import measure_constraints
from raykd.scoring.evaluation.forgetting import measure_forgetting
from raykd.scoring.notes import collect_notes
from raykd.scoring.score import System, score_student
from raykd.scoring.teacher_results import Counters, TeacherResults, collect_teacher_results
from raykd.scoring.teacher_scores import TeacherReview
from raykd.tasks.scores.metrics import name_agreement
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo
from raykd.tracking import Tracker, describe_environment, redact

LOST_TAG = "raykd.lost_teachers"
"""MLflow tag with the names of the teachers that a run lost."""


@dataclass(frozen=True)
class Outcome:
    """What a run made.

    Attributes:
        table: The final table; in a run of several tasks that of the first task.
        tables: All tables, for the terminal.
        lines: Notes and places of files, for the terminal.
        student: Folder of the saved student.
        report: The report page.
        mlflow_run_id: The MLflow run.
        notes: What a reader must know.
        parts: What each task made, in a run of several tasks.
        of_teachers: Those of the notes that are about single teachers.
        costs: The student beside its teachers; None without any.
        forgetting: What a student that went on from an earlier run has forgotten; None of any other.
    """

    table: ResultTable
    tables: tuple[FittedTable, ...]
    lines: tuple[str, ...]
    student: Path
    report: Path
    mlflow_run_id: str
    notes: tuple[str, ...] = ()
    parts: Mapping[str, Outcome] = field(default_factory=dict)
    of_teachers: tuple[str, ...] = ()
    costs: CostTable | None = None
    forgetting: ForgettingTable | None = None

    def to_markdown(self) -> str:
        """Return the table as it is written into the run's folder, one per task."""
        if not self.parts:
            more = [f"\n{one.to_markdown()}" for one in (self.costs, self.forgetting) if one is not None]
            return "".join([self.table.to_markdown(), *more, *(f"\n{note}\n" for note in self.of_teachers)])
        return "\n".join(f"## {task}\n\n{part.to_markdown()}" for task, part in self.parts.items())

    def macro(self, role: str) -> Mapping[str, float]:
        """Return the macro metrics of the system with this role."""
        return next(s.macro or {} for p, s in self.table.systems if p.role == role)


def conclude_task(
    task: str,
    folder: RunFolder,
    jobs: Sequence[TaskJob],
    pool: TeacherPool | None,
    infos: Sequence[TeacherInfo],
    review: TeacherReview,
    curve: Sequence[Point],
    tracker: Tracker,
    ending: Ending | None,
    read_counters: Callable[[], Counters],
) -> Outcome:
    """Score every system on the held-out rows, write the report and record everything.

    Args:
        task: Its name; empty in a run of one task.
        folder: Where the report goes.
        jobs: Baseline, if there is one, and student.
        pool: The opened teachers; None without any.
        infos: What each teacher says of itself.
        review: What the teachers scored on the validation rows before they taught.
        curve: Points of the student.
        tracker: The MLflow run.
        ending: How the student's training ended; all tasks of a run share it.
        read_counters: Reads the counters of all teachers of the run, over all its starts.
    """
    student, saved = jobs[-1], _list_students(jobs)
    students = [_score_saved(role, output, student) for role, output in saved]
    teachers = TeacherResults()
    if pool is not None:
        own = students[-1][0].size
        teachers = collect_teacher_results(student, pool, infos, review, curve, read_counters, own)
    teachers, gaps = _add_constraints(teachers, student, students[-1])
    systems = [*teachers.systems, *students]
    if student.data.held_out in student.data.judged:
        systems = [(predictions, name_score(scores)) for predictions, scores in systems]
    report = _make_report(student, tuple(systems), teachers, curve, ending, tracker)
    report = replace(report, forgetting=measure_forgetting(student))
    page = write_run_page(report, folder.path / "report.html")
    if report.ensemble is not None:
        tracker.log_file(write_ensemble_page(report.ensemble, folder.path), task or None)
    metrics = {**teachers.to_metrics(), **_list_table_metrics(report.table), **gaps}
    if report.forgetting is not None:
        metrics |= report.forgetting.to_metrics()
    tracker.log_points([Point(max((p.step for p in curve), default=0), metrics).with_task(task)])
    _set_tags(tracker, task, student, teachers)
    _record(tracker, task, student, report, page)
    logged = _log_student(tracker, student)
    places = [f"{role:<7}  {output}" for role, output in reversed(saved) if role != "baseline"]
    return Outcome(
        table=report.table,
        tables=(
            report.table.to_rich(),
            *([report.table.groups_to_rich()] if report.table.groups else []),
            *(one.to_rich() for one in (report.costs, report.forgetting) if one is not None),
        ),
        lines=describe_results(report.notes, page, tracker, folder, logged=logged, places=places),
        student=student.output,
        report=page,
        mlflow_run_id=tracker.run_id,
        notes=report.notes,
        of_teachers=teachers.notes,
        costs=report.costs,
        forgetting=report.forgetting,
    )


def _list_students(jobs: Sequence[TaskJob]) -> list[tuple[Role, Path]]:
    """Return role and folder of every trained student: baseline, peer and student, as far as there are."""
    saved: list[tuple[Role, Path]] = [
        ("baseline" if job.role == "baseline" else "student", job.output) for job in jobs
    ]
    if jobs[-1].config.peer is not None:
        saved.insert(-1, ("peer", name_peer_folder(jobs[-1].output)))
    return saved


def _score_saved(role: Role, output: Path, student: TaskJob) -> System:
    """Return what a saved student answers to the held-out rows of the student's job, and its scores."""
    title = "undistilled student" if role == "baseline" else role
    predictions, scores = score_student(title, role, output, student.config, student.held_out)
    return replace(predictions, megabytes=measure_stored_megabytes(output)), scores


def _add_constraints(
    teachers: TeacherResults, student: TaskJob, system: System
) -> tuple[TeacherResults, Mapping[str, float]]:
    """Return the results with notes on how far the student keeps its constraints, and the gaps as metrics."""
    weighting = student.config.objective.weighting.without(teachers.lost)
    objective = student.config.objective.model_copy(update={"weighting": weighting})
    config = student.config.model_copy(update={"objective": objective})
    told, gaps = measure_constraints(config, system[0].logits_NC, teachers.together)
    return replace(teachers, notes=(*teachers.notes, *told)), gaps


def _make_report(
    student: TaskJob,
    systems: tuple[System, ...],
    teachers: TeacherResults,
    curve: Sequence[Point],
    ending: Ending | None,
    tracker: Tracker,
) -> RunReport:
    config, data = student.config, student.data
    early = None if ending is None else ending.stopped
    facts = {
        "MLflow run": tracker.run_id,
        "MLflow": redact(tracker.uri),
        "student": str(student.output),
        "best step": "kept from an earlier run" if ending is None else ending.saved,
    }
    if early:
        facts["stopped early"] = early
    for name, count in teachers.counters.items():
        key = f"teacher {name} rows answered / forwarded"
        facts[key] = f"{count['answered']:,.0f} / {count['forwarded']:,.0f}"
    calibration = [build_calibration_curve(p, format_system(p)) for p, _ in systems if p.role != "teacher"]
    facts |= {f"teacher {name} restarts": f"{count}" for name, count in teachers.restarts.items() if count}
    return RunReport(
        title=config.name,
        summary=_summarise(config, data),
        systems=systems,
        history=collect_curves(curve),
        teachers=teachers.facts,
        data=_make_data_table(data),
        config=dump_run(config),
        environment=describe_environment(),
        facts=facts,
        notes=(*teachers.notes, *([early] if early else []), *collect_notes(config, data, curve, systems)),
        metric=name_agreement(config.metric) if data.held_out in data.judged else config.metric,
        created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        costs=teachers.costs,
        times=make_time_bar(),
        ensemble=teachers.ensemble,
        agreement=compute_agreement([p for p, _ in systems]),
        calibration=tuple(curve for curve in calibration if curve is not None),
    )


def _summarise(config: RunConfig, data: Dataset) -> str:
    """Return what was run, in one sentence."""
    kind = "LSTM" if config.student.kind == "lstm" else config.student.kind
    article = "An" if kind == "LSTM" or kind[0] in "aeiou" else "A"
    names = [teacher.name for teacher in config.active_teachers]
    teachers = f"from {len(names)} teacher{'s' * (len(names) > 1)} ({', '.join(names)})"
    labelled = int((data.train.labels_B != UNLABELLED).sum())
    return (
        f"{article} {kind} student learns {config.task.kind} in {', '.join(data.train.list_languages())} "
        f"{teachers if names else 'without teachers'}, "
        f"{labelled:,} labelled and {len(data.train) - labelled:,} unlabelled texts."
    )


def _make_data_table(data: Dataset) -> tuple[tuple[str, ...], ...]:
    """Return a heading and a row per split: rows by language, labelled rows, all rows."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    known = {name: rows for name, rows in splits.items() if rows is not None}
    languages = sorted({lang for rows in known.values() for lang in rows.list_languages()})
    table = [("split", *languages, "labelled", "all")]
    for name, rows in known.items():
        counts = (int(rows.is_in_language(lang).sum()) for lang in languages)
        labelled = int((rows.labels_B != UNLABELLED).sum())
        table.append((name, *(f"{count:,}" for count in counts), f"{labelled:,}", f"{len(rows):,}"))
    return tuple(table)


def _set_tags(tracker: Tracker, task: str, student: TaskJob, teachers: TeacherResults) -> None:
    # Names of teachers are unique in a run. Other tags exist once per task and carry its name.
    suffix = f".{task}" if task else ""
    tags = {f"raykd.data.fingerprint{suffix}": student.data.fingerprint()}
    if teachers.lost:
        tags[f"{LOST_TAG}{suffix}"] = ", ".join(teachers.lost)
    for info in teachers.infos:
        tags[f"raykd.teacher.{info.name}.fingerprint"] = info.fingerprint
        tags[f"raykd.teacher.{info.name}.dtype"] = f"{info.dtype} on {info.device}"
    tracker.set_tags(tags)


def _record(
    tracker: Tracker,
    task: str,
    student: TaskJob,
    report: RunReport,
    page: Path,
) -> None:
    rows, costs, forgetting = report.table.to_rows(), report.costs, report.forgetting
    markdown = "\n".join(one.to_markdown() for one in (report.table, costs, forgetting) if one is not None)
    record_report(
        tracker,
        page,
        tables={
            "results.json": rows if costs is None else costs.merge_into(rows),
            **_list_class_tables(report),
            **({} if forgetting is None else {"forgetting.json": forgetting.to_rows()}),
        },
        texts={"results.md": markdown, "run.yaml": dump_run(student.config), **_dump_ensemble(report)},
        environment=report.environment,
        task=task,
    )


def _list_class_tables(report: RunReport) -> dict[str, list[dict[str, object]]]:
    """Return the scores of each class and the confusions of every system as tables of MLflow; {} without classes."""
    systems = [({"system": p.name, "role": p.role}, p.classes) for p, _ in report.table.systems]
    found = [(about, classes) for about, classes in systems if classes is not None]
    if not found:
        return {}
    return {
        "classes.json": [about | row for about, classes in found for row in classes.to_rows()],
        "confusions.json": [about | row for about, classes in found for row in classes.to_confusion_rows()],
    }


def _dump_ensemble(report: RunReport) -> dict[str, str]:
    """Return the ensemble report as an artifact of MLflow."""
    if report.ensemble is None:
        return {}
    return {ENSEMBLE_FILE: json.dumps(report.ensemble.to_json(), ensure_ascii=False, indent=1)}


def _log_student(tracker: Tracker, student: TaskJob) -> str | None:
    """Log the student as a model of MLflow, if the run asks for it; return its URI."""
    if not student.config.tracking.log_model:
        return None
    data = student.config.data
    return tracker.log_student(student.output, data.labels, data.select_languages or data.languages)


def _list_table_metrics(table: ResultTable) -> dict[str, float]:
    """Return the numbers of the final table by metric name."""
    values: dict[str, float] = {}
    prefixes = {
        "student": "test",
        "peer": "peer/test",
        "baseline": "baseline/test",
        "ensemble": "ensemble/test",
    }
    for answers, score in table.systems:
        prefix = prefixes.get(answers.role, f"teacher/{answers.name}/test")
        for lang, metrics in score.by_language.items():
            values |= {f"{prefix}/{make_key_part(lang)}/{metric}": value for metric, value in metrics.items()}
        for group, metrics in score.by_group.items():
            key = f"{prefix}/group/{make_key_part(group)}"
            values |= {f"{key}/{metric}": value for metric, value in metrics.items()}
        values |= {f"{prefix}/mean/{metric}": value for metric, value in (score.macro or {}).items()}
        if answers.ms_per_1000 is not None:
            values[f"{prefix}/ms_per_1000"] = answers.ms_per_1000
    return values
