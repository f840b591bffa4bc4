"""What the public functions return: small typed objects over the folder that a command leaves.

Decision record: a `Run` is read from its folder, so that a run of today, one that finished before a resume and one of
last week are the same thing, and what a program sees is what the report page shows. Names of metrics are MLflow's.
Importing this module imports neither torch nor Ray.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.errors import DataError
from raykd.keys import make_key_part

if TYPE_CHECKING:
    from rich.console import RenderableType

    from raykd.config import MultiRun, RunConfig
    from raykd.experiments.comparison import Confirmation
    from raykd.report.sweeps.confirmation import PairedDifference
    from raykd.scoring.model import Model
    from raykd.tuning.outcome import SweepOutcome

REPORT = "report.json"
_PREFIXES = {"student": "test", "baseline": "baseline/test", "ensemble": "ensemble/test"}
"""How metrics of a system begin, by its role; those of a teacher begin with its name."""


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: Where everything of the run lies.
        student: Folder of the trained student; `raykd.load` takes it, and transformers' auto classes do.
        report: The page with tables and plots.
        mlflow_run_id: Its run in MLflow.
        table: One row for each system (student, baseline, ensemble, teachers) and language, and one with language
            ``macro``; in a run of several tasks each row names its ``task``. ``pandas.DataFrame(run.table)`` takes it.
            Scores as they come: rates in [0, 1], NLL in nats.
        notes: What a reader must know before believing the numbers.
    """

    folder: Path
    student: Path
    report: Path
    mlflow_run_id: str
    table: list[dict[str, Any]] = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    shown: tuple[RenderableType, ...] = field(default=(), repr=False, compare=False)
    """What the command line shows."""
    lines: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """Lines that the command line shows below that, in rich's markup."""

    @property
    def metrics(self) -> dict[str, float]:
        """Scores on the held-out rows by their name in MLflow.

        ``test/mean/accuracy`` and ``test/en/accuracy`` are the student's; others begin with ``baseline/``,
        ``ensemble/`` or ``teacher/NAME/``. In a run of several tasks the name of the task stands before that.
        """
        return _metrics_of(self.table)

    def load(self, *, task: str | None = None) -> Model:
        """Load the student.

        Args:
            task: Which one, of a run of several tasks.
        """
        from raykd.scoring.model import Model

        return Model.load(self.student, task=task)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Run:
        """Read a finished run from its folder.

        Args:
            folder: output/name of the run, or its name under ``runs``.

        Raises:
            DataError: The folder is not one of a finished run.
        """
        from raykd.config.home import find_folder, read_folder_state

        path = find_folder(Path(folder)).resolve()
        state = read_folder_state(path) or {}
        reports = {"": path} if (path / REPORT).is_file() else _folders_of_tasks(path)
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
            notes=tuple(note for report in found.values() for note in report["notes"]),
        )


def _folders_of_tasks(folder: Path) -> dict[str, Path]:
    """Of a run of several tasks the folder of each one's report, by task."""
    return {place.parent.name: place.parent for place in sorted(folder.glob(f"tasks/*/{REPORT}"))}


def _read_report(folder: Path) -> dict[str, Any]:
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


def _metrics_of(table: Sequence[Mapping[str, Any]]) -> dict[str, float]:
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


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        folder: Where everything of the sweep lies.
        best: The configuration of the best trial, which `raykd.train` takes; None where no trial counts.
        best_path: The same as a file.
        score: The best trial's validation score, as the metric comes (a rate in [0, 1], NLL in nats).
        metric: Name of the score.
        table: One row for each trial, the best first, with its status, score and searched keys.
        report: The page with tables and plots.
        mlflow_run_id: Its run in MLflow; each trial is a child of it.
        failed: Number of trials that failed for good; their errors are in the table.
        notes: What a reader must know before believing the numbers.
    """

    folder: Path
    best: RunConfig | MultiRun | None = field(repr=False)
    best_path: Path | None
    score: float | None
    metric: str
    table: list[dict[str, Any]] = field(repr=False)
    report: Path
    mlflow_run_id: str
    failed: int
    notes: tuple[str, ...] = field(default=(), repr=False)
    shown: tuple[RenderableType, ...] = field(default=(), repr=False, compare=False)
    """What the command line shows."""
    lines: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """Lines that the command line shows below that, in rich's markup."""

    @classmethod
    def of(cls, outcome: SweepOutcome) -> SweepResult:
        """The result of what a sweep made."""
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


@dataclass(frozen=True)
class ConfirmationResult:
    """Whether a sweep's winner is better than its base, over seeds that no trial had.

    Attributes:
        folder: Where everything of the confirmation lies.
        difference: Winner minus base in the sweep's metric, mean over languages, on the test rows (the validation rows
            where there are none): mean, interval, wins. None where no seed was measured for both.
        table: One row for each split, language and metric, unrounded.
        report: The page.
        failed: Number of trainings that failed.
        notes: What a reader must know before believing the numbers.
    """

    folder: Path
    difference: PairedDifference | None
    table: list[dict[str, Any]] = field(repr=False)
    report: Path
    failed: int
    notes: tuple[str, ...] = field(default=(), repr=False)
    shown: tuple[RenderableType, ...] = field(default=(), repr=False, compare=False)
    """What the command line shows."""
    lines: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """Lines that the command line shows below that, in rich's markup."""

    @classmethod
    def of(cls, confirmation: Confirmation) -> ConfirmationResult:
        """The result of what a confirmation found."""
        report = confirmation.report
        return cls(
            folder=confirmation.page.parent,
            difference=report.main_difference,
            table=report.to_rows(),
            report=confirmation.page,
            failed=confirmation.failed,
            notes=report.notes,
            shown=confirmation.tables,
            lines=confirmation.lines,
        )
