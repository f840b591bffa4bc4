"""Define what the public functions return: small typed objects over the folder that a command has written.

Decision record: a `Run` is read from its folder. So a run of now, one that finished before a resume and one of last
week look the same, and a program sees what the report page shows. Metrics have their names in MLflow. Importing this
module imports neither torch nor Ray.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.errors import DataError
from raykd.keys import make_key_part
from raykd.report.evaluations.result import EvaluationResult as EvaluationResult  # noqa: PLC0414 (public here)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from raykd.config import MultiRun, RunConfig
    from raykd.experiments.run import ComparisonOutcome
    from raykd.parse import JsonObject
    from raykd.report.comparisons.differences import PairedDifference
    from raykd.report.comparisons.results import ArmScore
    from raykd.report.ensembles.report import EnsembleReport
    from raykd.report.side_by_side.write import WrittenReport
    from raykd.scoring.ensembles.explained_run import ExplainedTask
    from raykd.scoring.model import Model
    from raykd.tuning.outcome import SweepOutcome

REPORT = "report.json"
_PREFIXES = {"student": "test", "baseline": "baseline/test", "ensemble": "ensemble/test"}
"""Beginnings of metric names, by the system's role. Those of a teacher begin with its name."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every command returns.

    Attributes:
        folder: The folder that the command has written.
        report: The page with tables and plots.
        table: One row per result; see the subclass. ``pandas.DataFrame`` takes it.
        notes: What a reader must know before trusting the numbers.
        shown: Tables that the command line shows.
        lines: Lines that the command line shows below them, in rich's markup.
    """

    folder: Path
    report: Path
    table: list[JsonObject] = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    shown: tuple[RenderableType, ...] = field(default=(), repr=False, compare=False)
    lines: tuple[str, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Run(Result):
    """A finished training run.

    Its table has one row per system (student, baseline, ensemble, teachers) and language, and one with language
    ``macro``. In a run of several tasks each row names its ``task``. Rates are in [0, 1], NLL is in nats.

    Attributes:
        student: Folder of the trained student, for `raykd.load` or the auto classes of transformers.
        mlflow_run_id: Its run in MLflow.
        classes: Precision, recall, F1 and support of each class, one row per system and class, and their micro, macro
            and weighted averages (``average`` is true); [] for a task without classes.
    """

    student: Path
    mlflow_run_id: str
    classes: list[JsonObject] = field(default_factory=list, repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """Scores on the held-out rows, by their names in MLflow.

        ``test/mean/accuracy`` and ``test/en/accuracy`` are the student's. Others begin with ``baseline/``,
        ``ensemble/`` or ``teacher/NAME/``. In a run of several tasks, the name of the task comes first.
        """
        return _collect_metrics(self.table)

    def load(self, *, task: str | None = None) -> Model:
        """Load the student.

        Args:
            task: Name of the task, in a run of several tasks.
        """
        from raykd.scoring.model import Model

        return Model.load(self.student, task=task)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Run:
        """Read a finished run from its folder.

        Args:
            folder: output/name of the run, or its name under ``runs``.

        Raises:
            DataError: The folder is not the folder of a finished run.
        """
        from raykd.config.home import find_folder, read_folder_state

        path = find_folder(Path(folder)).resolve()
        state = read_folder_state(path) or {}
        reports = {"": path} if (path / REPORT).is_file() else _find_task_folders(path)
        if state.get("status") != "finished" or not reports:
            got = f"a run that is {state['status']}" if state else "no run.json of a run"
            raise DataError(
                f"{path} is not the folder of a finished run",
                got=f"no {REPORT}" if state.get("status") == "finished" else got,
                wanted="output/NAME of a run that finished",
                next_step="raykd train RUN.yaml --resume goes on with a run that did not",
            )
        found = {task: _read_report(place) for task, place in reports.items()}
        return cls(
            folder=path,
            student=path / "student",
            report=path / "report.html",
            mlflow_run_id=str(state["mlflow_run_id"]),
            table=[
                {"task": task, **row} if task else row
                for task, report in found.items()
                for row in report["results"]
            ],
            classes=[
                {"task": task, **row} if task else row
                for task, report in found.items()
                for row in _list_class_rows(report)
            ],
            notes=tuple(note for report in found.values() for note in report["notes"]),
        )


def _list_class_rows(report: JsonObject) -> list[JsonObject]:
    """Return the scores of the classes in a report, as `ClassScores.to_rows` has them."""
    return [
        {"system": system["system"], "role": system["role"], **one, "average": key == "averages"}
        for system in report.get("systems", ())
        for key in ("classes", "averages")
        for one in (system.get("classes") or {}).get(key, ())
    ]


def _find_task_folders(folder: Path) -> dict[str, Path]:
    """Return the folders with the reports of a run of several tasks, by task."""
    return {place.parent.name: place.parent for place in sorted(folder.glob(f"tasks/*/{REPORT}"))}


def _read_report(folder: Path) -> JsonObject:
    file = folder / REPORT
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        report["results"], report["notes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} cannot be read",
            got=f"{type(error).__name__}: {error}",
            wanted="the report as raykd wrote it",
            next_step="put it back from a copy, or train the run again",
        ) from None
    return dict(report)


def _collect_metrics(table: Sequence[JsonObject]) -> dict[str, float]:
    from raykd.tasks.scores.metrics import list_metrics

    metrics: dict[str, float] = {}
    for row in table:
        prefix = _PREFIXES.get(row["role"], f"teacher/{row['system']}/test")
        task = f"{row['task']}/" if "task" in row else ""
        # Only the mean over languages has the number of parameters beside it; a language may be called macro too.
        language = "mean" if "parameters" in row else make_key_part(row["language"])
        scores = {name: row[name] for name in list_metrics() if row.get(name) is not None}
        metrics |= {f"{task}{prefix}/{language}/{name}": float(value) for name, value in scores.items()}
    return metrics


@dataclass(frozen=True, kw_only=True)
class SweepResult(Result):
    """What a sweep found.

    Its table has one row per trial, the best first, with status, score and searched keys.

    Attributes:
        best: Configuration of the best trial, for `raykd.train`; None if no trial was scored.
        best_path: The same as a file.
        score: The best trial's validation score: a rate in [0, 1], or NLL in nats.
        metric: Name of the score.
        mlflow_run_id: Its run in MLflow; each trial is a child of it.
        failed: Number of trials that failed for good. Their errors are in the table.
    """

    best: RunConfig | MultiRun | None = field(repr=False)
    best_path: Path | None
    score: float | None
    metric: str
    mlflow_run_id: str
    failed: int

    @classmethod
    def of(cls, outcome: SweepOutcome) -> SweepResult:
        """Return the result of a sweep."""
        from raykd.config.loading import load_any_run
        from raykd.report.sweeps.trial_table import TrialTable

        report = outcome.report
        return cls(
            folder=outcome.page.parent,
            best=None if outcome.best is None else load_any_run(outcome.best),
            best_path=outcome.best,
            score=None if report.best is None else report.best.score,
            metric=report.metric,
            table=TrialTable(report).to_rows(),
            report=outcome.page,
            mlflow_run_id=outcome.mlflow_run_id,
            failed=outcome.failed,
            notes=report.notes,
            shown=outcome.tables,
            lines=outcome.lines,
        )


@dataclass(frozen=True, kw_only=True)
class ComparisonResult(Result):
    """How the arms of an experiment, or a sweep's winner and its base, compare over the same seeds.

    Its table has one row per arm, split, language and metric, unrounded, with the paired difference to the arm that it
    is compared with. Rates are in [0, 1], NLL is in nats.

    Attributes:
        arms: Mean and interval of each arm in the run's metric, mean over languages, on the test rows (else the
            validation rows). An arm without a finished training is missing.
        differences: The paired difference of each compared arm in that score: mean, intervals, p-values, wins.
        failed: Number of trainings that failed.
        mlflow_run_id: Its run in MLflow; each training is a child of it.
        path: Everything that was measured, with every seed, as JSON.
    """

    arms: dict[str, ArmScore] = field(repr=False)
    differences: tuple[PairedDifference, ...]
    failed: int
    mlflow_run_id: str
    path: Path

    @property
    def difference(self) -> PairedDifference | None:
        """The first difference: winner minus base of a confirmation. None if no seed was scored for both."""
        return self.differences[0] if self.differences else None

    @classmethod
    def of(cls, comparison: ComparisonOutcome) -> ComparisonResult:
        """Return the result of an experiment or a confirmation."""
        from raykd.experiments.run import RESULT
        from raykd.report.comparisons.plain_data import list_differences

        report = comparison.report
        scores = {arm.name: report.average(arm) for arm in report.arms}
        return cls(
            folder=comparison.page.parent,
            arms={name: score for name, score in scores.items() if score is not None},
            differences=tuple(report.main_differences),
            table=list_differences(report),
            report=comparison.page,
            failed=comparison.failed,
            mlflow_run_id=comparison.mlflow_run_id,
            path=comparison.page.parent / RESULT,
            notes=report.notes,
            shown=comparison.tables,
            lines=comparison.lines,
        )


@dataclass(frozen=True, kw_only=True)
class Explanation(Result):
    """What each teacher of a run adds.

    Its table has one row per teacher and group of rows: the mean over languages, each language, each class. Values are
    in the run's score, a rate in [0, 1]. In a run of several tasks each row names its ``task``.

    Attributes:
        tasks: The whole report, by task; the only task has an empty name.
        advice: What is worth changing, in words.
    """

    tasks: Mapping[str, EnsembleReport] = field(repr=False)
    advice: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, explained: Sequence[ExplainedTask]) -> Explanation:
        """Return the explanation of a run."""
        from raykd.report.ensembles.tables import build_sections, list_advice, summarize_ensemble

        shown: list[RenderableType] = []
        advice: list[str] = []
        for one in explained:
            mark = f"{one.task}: " if one.task else ""
            shown += [f"{mark}{summarize_ensemble(one.report)}\n"]
            for section in build_sections(one.report):
                shown += [section.to_rich(), ""] if section.brief else []
            advice += [f"{mark}{line}" for line in list_advice(one.report)]
        notes = tuple(note for one in explained for note in one.report.missing)
        notes += tuple(dict.fromkeys(one.unrecorded for one in explained if one.unrecorded))
        rows = [
            {**({"task": one.task} if one.task else {}), **vars(contribution)}
            for one in explained
            for contribution in one.report.contributions
        ]
        return cls(
            folder=folder,
            report=explained[0].page,
            table=rows,
            notes=notes,
            shown=tuple(shown),
            lines=tuple(f"report   {one.page}" for one in explained),
            tasks={one.task: one.report for one in explained},
            advice=tuple(advice),
        )


@dataclass(frozen=True, kw_only=True)
class RunsReport(Result):
    """Runs side by side.

    Its table has one row per run and language, and one with language ``macro`` that holds the costs, too. Rates are in
    [0, 1], NLL is in nats.

    Attributes:
        differences: Key of the configuration to its value in each run, for each key that differs.
        pictures: PNGs that were drawn.
    """

    differences: Mapping[str, list[str]] = field(repr=False)
    pictures: tuple[Path, ...]

    @classmethod
    def of(cls, written: WrittenReport) -> RunsReport:
        """Return what was written."""
        runs = written.runs
        return cls(
            folder=written.page.parent,
            report=written.page,
            table=runs.to_rows(),
            notes=tuple(runs.notes),
            shown=runs.to_rich(),
            lines=(f"report   {written.page}", *(f"picture  {picture}" for picture in written.pictures)),
            differences=runs.list_differences(),
            pictures=written.pictures,
        )
