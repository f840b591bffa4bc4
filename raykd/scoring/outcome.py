"""The end of a run: the final table, the report page, the MLflow artifacts, and what to say about it.

Decision record: the test rows are read once, here, after every choice was made on the validation rows. Without a
test set the validation rows are used and the table says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.config import RunConfig
from raykd.config.loading import dump_run
from raykd.data.load import Dataset
from raykd.distill.signals import UNLABELLED
from raykd.driver.ending import Ending
from raykd.driver.jobs import TaskJob
from raykd.driver.recording import describe_results, record_report
from raykd.folders.folder import RunFolder
from raykd.keys import make_key_part
from raykd.point import Point
from raykd.report.costs import CostTable
from raykd.report.page import RunReport, TeacherFacts, draw_run_figures, write_run_page
from raykd.report.plots import collect_curves
from raykd.report.table import ResultTable
from raykd.scoring.costs import make_cost_table, time_teachers
from raykd.scoring.lost_teachers import describe_lost_teachers, drop_lost_teachers, find_loss_steps
from raykd.scoring.notes import collect_notes
from raykd.scoring.score import (
    System,
    ask_teachers,
    score_ensemble,
    score_student,
    score_teachers,
    stack_signals,
)
from raykd.scoring.teacher_scores import TeacherReview
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo
from raykd.tracking import Tracker, describe_environment, redact

Counters = Mapping[str, Mapping[str, float]]
"""Counters of the teachers, by teacher."""
LOST_TAG = "raykd.lost_teachers"
"""Names of the teachers that a run lost."""


@dataclass(frozen=True)
class Outcome:
    """What a run made. tables and lines are for the terminal, notes are what a reader must know.

    Attributes:
        table: Of a run of several tasks that of the first.
        parts: Of such a run what each task made.
        of_teachers: Of the notes those about single teachers.
        costs: The student beside its teachers; None without any.
    """

    table: ResultTable
    tables: tuple[Any, ...]
    lines: tuple[str, ...]
    student: Path
    report: Path
    mlflow_run_id: str
    notes: tuple[str, ...] = ()
    parts: Mapping[str, Outcome] = field(default_factory=dict)
    of_teachers: tuple[str, ...] = ()
    costs: CostTable | None = None

    def to_markdown(self) -> str:
        """Return the table as it is kept beside the run, one a task."""
        if not self.parts:
            costs = "" if self.costs is None else f"\n{self.costs.to_markdown()}"
            return "".join([self.table.to_markdown(), costs, *(f"\n{note}\n" for note in self.of_teachers)])
        return "\n".join(f"## {task}\n\n{part.to_markdown()}" for task, part in self.parts.items())

    def macro(self, role: str) -> Mapping[str, float]:
        """Macro metrics of the system with this role."""
        return next(s.macro or {} for p, s in self.table.systems if p.role == role)


@dataclass(frozen=True)
class TeacherScores:
    """What the teachers and their ensemble answered to the held-out rows, and what is known of each teacher."""

    systems: list[System]
    facts: tuple[TeacherFacts, ...]
    costs: CostTable | None = None


def conclude_task(
    config: RunConfig,
    task: str,
    folder: RunFolder,
    jobs: Sequence[TaskJob],
    pool: TeacherPool | None,
    infos: Sequence[TeacherInfo],
    judged: TeacherReview,
    curves: Mapping[str, Sequence[Point]],
    tracker: Tracker,
    ending: Ending | None,
    read_counters: Callable[[], Counters],
) -> Outcome:
    """Score every system on the held-out rows, write the report and log everything.

    Args:
        judged: What the teachers scored on the validation rows before they taught.
        ending: Of the student's training; of a run of several tasks that of all of them.
        read_counters: Of all teachers of the run, over all its starts.
    """
    data = jobs[-1].data
    held_out = data.test if data.test is not None else data.validation
    curve = curves.get("student", ())
    since, scored = find_loss_steps(curve), TeacherScores([], ())
    lost: tuple[str, ...] = ()
    processes = [] if pool is None else [[s.name for s in g.specs] for g in pool.groups]
    if pool is not None:
        left, pool, infos, lost = drop_lost_teachers(config, pool, infos, since)
        student = jobs[-1].output
        scored = _score_teachers(left, pool, infos, judged, data, curve, student)
    of_teachers = (*describe_lost_teachers(since, lost), *judged.notes)
    systems = list(scored.systems)
    for job in jobs:
        title = "student" if job.role == "student" else "undistilled student"
        systems.append(score_student(title, job.role, job.output, config, held_out))
    names = () if pool is None else pool.handle.teachers
    counters = {name: values for name, values in read_counters().items() if name in names} if names else {}
    restarts = {} if pool is None else pool.restarts()
    report = _report(
        config, jobs[-1].output, data, tuple(systems), scored.facts, curve, ending, tracker, counters
    )
    report = replace(
        report,
        notes=(*of_teachers, *report.notes),
        costs=scored.costs,
        facts={**report.facts, **{f"teacher {n} restarts": f"{c}" for n, c in restarts.items() if c}},
    )
    pictures = draw_run_figures(report)
    page = write_run_page(report, folder.path / "report.html", pictures)
    if lost:
        tracker.set_tags({_tag(LOST_TAG, task): ", ".join(lost)})
    tracker.log_points([Point(_last_step(curve), _restarted(restarts, processes)).with_task(task)])
    logged = _log(config, task, tracker, report, (page, pictures), jobs, infos, counters, curves)
    return Outcome(
        table=report.table,
        tables=(report.table.to_rich(), *(() if report.costs is None else (report.costs.to_rich(),))),
        lines=describe_results(
            report.notes, page, tracker, folder, logged=logged, places=[f"student  {jobs[-1].output}"]
        ),
        student=jobs[-1].output,
        report=page,
        mlflow_run_id=tracker.run_id,
        notes=report.notes,
        of_teachers=of_teachers,
        costs=report.costs,
    )


def _tag(name: str, task: str) -> str:
    """Return the name of a tag that each task has: names of teachers are those of the whole run already."""
    return f"{name}.{task}" if task else name


def _last_step(curve: Sequence[Point]) -> int:
    return max((p.step for p in curve), default=0)


def _restarted(restarts: Mapping[str, int], processes: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return how often the process of each teacher was started again, and processes in all; teachers may share one."""
    each = {f"teacher/{name}/restarts": float(count) for name, count in restarts.items()}
    return {**each, "teacher_restarts": float(sum(restarts[names[0]] for names in processes))} if each else {}


def _score_teachers(
    config: RunConfig,
    pool: TeacherPool,
    infos: Sequence[TeacherInfo],
    judged: TeacherReview,
    data: Dataset,
    curve: Sequence[Point],
    student: Path,
) -> TeacherScores:
    """Args: student: its saved model, which is timed beside the teachers."""
    languages, names = pool.handle.teacher_languages, pool.handle.teachers
    held_out = data.test if data.test is not None else data.validation
    held = data.test is None and all(name in judged.answers for name in names)  # answered already
    signals = [judged.answers[name] for name in names] if held else ask_teachers(pool.handle, held_out)
    times = time_teachers(pool, config, student, data.train, held_out)
    spent = {name: 1e3 * own.ms for name, (own, _) in times.items() if own is not None}
    systems = score_teachers(config, pool, signals, infos, held_out, spent)
    weights: list[dict[str, float]] = [{} for _ in infos]
    if not config.task.language:
        together = stack_signals(config, signals, languages, held_out)
        asked_B = np.any([signal.answered_B for signal in signals], axis=0)
        systems.append(score_ensemble(config, together, asked_B, [p for p, _ in systems], held_out))
        weights_MN = config.objective.weighting.weights(together).numpy()
        weights = [_mean_weights(weights_N, together.languages) for weights_N in weights_MN]
    counters = pool.counters()
    facts = []
    for m, info in enumerate(infos):
        spec = next(s for g in pool.groups for s in g.specs if s.name == info.name)
        facts.append(
            TeacherFacts(
                name=info.name,
                languages=() if languages[m] is None else tuple(sorted(languages[m] or ())),
                path=spec.path,
                fingerprint=info.fingerprint,
                parameters=info.parameters,
                validation=dict(judged.scores[info.name].macro or {}),
                latency_ms=_mean_latency_ms(curve, info.name),
                store_hit_rate=1.0
                - counters[info.name]["forwarded"] / max(1, counters[info.name]["answered"]),
                weights=weights[m],
            )
        )
    costs = make_cost_table(config, pool, infos, times, student, data.train)
    return TeacherScores(systems, tuple(facts), costs)


def _mean_latency_ms(curve: Sequence[Point], teacher: str) -> float | None:
    """Mean milliseconds that the teacher spent on a batch; None where the student never asked it."""
    name = f"teacher/{teacher}/latency_s"
    values = [p.values[name] for p in curve if name in p.values]
    return 1e3 * float(np.mean(values)) if values else None


def _mean_weights(weights_N: NDArray[np.float32], languages: Sequence[str]) -> dict[str, float]:
    codes = np.asarray(languages)
    return {lang: float(weights_N[codes == lang].mean()) for lang in sorted(set(languages))}


def _report(
    config: RunConfig,
    student: Path,
    data: Dataset,
    systems: tuple[System, ...],
    facts: tuple[TeacherFacts, ...],
    curve: Sequence[Point],
    ending: Ending | None,
    tracker: Tracker,
    counters: Counters,
) -> RunReport:
    labelled = int((data.train.labels_B != UNLABELLED).sum())
    early = None if ending is None else ending.stopped
    notes = (*([early] if early else []), *collect_notes(config, data, curve, systems))
    names = ", ".join(t.name for t in config.active_teachers)
    count, kind = len(config.active_teachers), config.student.kind
    shown = "LSTM" if kind == "lstm" else kind
    article = "An" if shown == "LSTM" or kind[0] in "aeiou" else "A"
    languages = ", ".join(sorted(set(data.train.languages)))
    summary = (
        f"{article} {shown} student learns {config.task.kind} in {languages} "
        + (f"from {count} teacher{'s' * (count > 1)} ({names}), " if names else "without teachers, ")
        + f"{labelled:,} labelled and {len(data.train) - labelled:,} unlabelled texts."
    )
    return RunReport(
        title=config.name,
        summary=summary,
        systems=systems,
        history=collect_curves(curve),
        teachers=facts,
        data=_data_table(data),
        config=dump_run(config),
        environment=describe_environment(),
        facts={
            "MLflow run": tracker.run_id,
            "MLflow": redact(tracker.uri),
            "student": str(student),
            "best step": "kept from an earlier run" if ending is None else ending.saved,
            **({"stopped early": early} if early else {}),
            **{
                f"teacher {n} rows answered / forwarded": f"{c['answered']:,.0f} / {c['forwarded']:,.0f}"
                for n, c in counters.items()
            },
        },
        notes=notes,
        metric=config.metric,
        created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    )


def _data_table(data: Dataset) -> tuple[tuple[str, ...], ...]:
    splits = {
        "train": data.train,
        "validation": data.validation,
        **({"test": data.test} if data.test else {}),
    }
    languages = sorted({lang for rows in splits.values() for lang in rows.languages})
    table = [("split", *languages, "labelled", "all")]
    for name, rows in splits.items():
        codes = list(rows.languages)
        table.append(
            (name, *(f"{codes.count(lang):,}" for lang in languages),
             f"{int((rows.labels_B != UNLABELLED).sum()):,}", f"{len(rows):,}")
        )  # fmt: skip
    return tuple(table)


def _log(
    config: RunConfig,
    task: str,
    tracker: Tracker,
    report: RunReport,
    drawn: tuple[Path, Mapping[str, tuple[str, str]]],
    jobs: Sequence[TaskJob],
    infos: Sequence[TeacherInfo],
    counters: Counters,
    curves: Mapping[str, Sequence[Point]],
) -> str | None:
    tracker.log_points(
        [Point(_last_step(curves.get("student", ())), _final_values(report, counters)).with_task(task)]
    )
    tracker.set_tags({f"raykd.teacher.{i.name}.fingerprint": i.fingerprint for i in infos})
    tracker.set_tags({f"raykd.teacher.{i.name}.dtype": f"{i.dtype} on {i.device}" for i in infos})
    tracker.set_tags({_tag("raykd.data.fingerprint", task): jobs[-1].data.fingerprint()})
    rows, costs = report.table.to_rows(), report.costs
    page, pictures = drawn
    record_report(
        tracker,
        page,
        pictures,
        tables={"results.json": rows if costs is None else costs.merge_into(rows)},
        texts={
            "results.md": report.table.to_markdown() + ("" if costs is None else f"\n{costs.to_markdown()}"),
            "run.yaml": dump_run(config),
        },
        environment=report.environment,
        task=task,
    )
    if config.tracking.log_model:
        languages = config.data.select_languages or config.data.languages
        return tracker.log_student(jobs[-1].output, config.data.labels, languages)
    return None


def _final_values(report: RunReport, counters: Counters) -> dict[str, float]:
    values: dict[str, float] = {}
    for p, s in report.table.systems:
        prefix = {"student": "test", "baseline": "baseline/test", "ensemble": "ensemble/test"}.get(
            p.role, f"teacher/{p.name}/test"
        )
        for lang, metrics in s.by_language.items():
            values |= {f"{prefix}/{make_key_part(lang)}/{metric}": value for metric, value in metrics.items()}
        values |= {f"{prefix}/mean/{metric}": value for metric, value in (s.macro or {}).items()}
        if p.ms_per_1000 is not None:
            values[f"{prefix}/ms_per_1000"] = p.ms_per_1000
    for cost in () if report.costs is None else report.costs.teachers:
        told = {"x_smaller": cost.smaller, "x_faster": cost.faster, "texts_taught": float(cost.texts)}
        values |= {f"teacher/{cost.teacher}/{k}": v for k, v in told.items() if v is not None}
    for name, count in counters.items():
        values |= {f"teacher/{name}/rows_{what}": float(count[what]) for what in ("answered", "forwarded")}
    return values
