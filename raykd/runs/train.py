"""Train one run: teachers, baseline and student, their scores, the report and the MLflow run.

Decision record: folder, data, labels, resources and MLflow are checked before a worker is taken. Start-up is paid at
most twice: one worker group trains the teachers, one the baseline and the student. A single worker starts as soon as
Ray is there and does both, and what scoring needs is imported while it works. The teachers are opened and scored
on the validation rows before the second group starts, so a broken or poor teacher stops the run first.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from raykd.checkpoint.curves import FILE, Curves
from raykd.config import Run
from raykd.config.loading import dump_run, flatten_run
from raykd.config.rewriting.pinning import pin_revisions
from raykd.driver.command import Command, FolderContents, Start, TrackedRun, run_command
from raykd.driver.gold_labels import describe_judged
from raykd.driver.growth import plan_growth
from raykd.driver.jobs import Job, TaskJob, make_jobs
from raykd.driver.pool import check_cluster
from raykd.driver.progress import JobProgress
from raykd.driver.session import Session
from raykd.driver.smoke import make_smoke_tags
from raykd.folders.earlier_start import EarlierStart
from raykd.folders.folder import RESULTS, RunFolder, check_rows, find_run_path
from raykd.point import Point
from raykd.preflight.check import preflight
from raykd.preflight.features_check import describe_state_bytes
from raykd.preflight.model_check import sign_notes
from raykd.runs.single_worker import ReadyWorker
from raykd.runs.stages import train_students, train_teachers
from raykd.runs.teacher_stage import open_teachers
from raykd.runs.times import RunTimes
from raykd.scoring.outcome import Outcome
from raykd.scoring.several_tasks import conclude_all
from raykd.student.overrides import describe_overruled_keys
from raykd.timeline import stage

log = logging.getLogger("raykd.runs")
SCORING = ("transformers.modeling_utils", "mlflow.pyfunc")
"""Modules that scoring, the report and the record of the student's model need, and that take seconds to import."""


def run_training(config: Run, start: Start | None = None, *, profile: bool = False) -> Outcome:
    """Train a run, of one task or of several, and return its outcome.

    Args:
        config: The run.
        start: How it begins, None anew; a resume goes on from the last checkpoint in the run's folder.
        profile: Whether parts of steps are recorded, too, and the stages are printed at the end.

    Raises:
        RaykdError: The run failed. What it wrote before stays.
    """
    start, times = start or Start(), RunTimes(profile=profile)
    with times.record(start.console):
        return run_command(TrainCommand(pin_revisions(config), times), start)


class TrainCommand(Command[Outcome]):
    """Trains teachers, then baseline and student, and scores all of them."""

    def __init__(self, config: Run, times: RunTimes | None = None) -> None:
        self.owner = self.base = self.config = config
        self._times = times

    def check(self) -> Sequence[str]:
        """Check models, combinations, resources and places."""
        return preflight(self.config)

    def prepare(self, earlier: EarlierStart) -> FolderContents:
        """Read the rows; set saved students aside where the run is made longer."""
        path = find_run_path(self.config)
        self.teachers, self.students = make_jobs(self.config, path)
        growth = plan_growth(earlier, self.config, self.students, path)
        rows = self.students[-1].fingerprints()
        check_rows(path, earlier.state, rows)
        growth.set_aside()
        return FolderContents(rows, {"run.yaml": dump_run(self.config)}, growth.notes)

    def introduce(self, folder: RunFolder, console: Console) -> None:
        """Print the rows of each task, and what the run's settings overrule."""
        if self._times is not None:
            self._times.follow(folder.path)
        for task in [task for job in self.students for task in job.tasks.values()]:
            log.info("data read: %s: %s", task.name, task.data.train.summary())
        for task in self.students[-1].tasks.values():
            console.print(_describe_rows(task), highlight=False)
            describe_state_bytes(task.config, task.data.train)  # refuses what is too much
            for note in sign_notes(task.config, task.data.train):
                log.warning("%s", note)
        for note in describe_overruled_keys(self.config.train):
            log.warning("%s", note)
            console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)

    def record(self) -> TrackedRun:
        """Record the settings; the jobs beside the student get child runs."""
        config = self.config
        tags = {"raykd.role": "run", "raykd.fingerprint": config.fingerprint()}
        return TrackedRun(config.name, flatten_run(config), tags)

    def run(self, session: Session) -> Outcome:
        """Train teachers, open and review them, train the students, score everything."""
        config, folder, tracker = self.config, session.folder, session.open_tracker()
        jobs = {job.name: job for job in [*self.teachers, *self.students]}
        recorder = PointRecorder(jobs, session)
        check_cluster(config, self.teachers)
        curves = Curves(folder.path / FILE)
        for name, points in curves.by_job.items():
            recorder.log(name, *points)
        progress = JobProgress(session.console, jobs, curves, recorder.log)
        with progress.listen(), ReadyWorker(import_for_scoring) as ready:
            waiting = [job for job in (*self.teachers, *self.students) if not job.is_done]
            if waiting:
                ready.prepare(waiting[0].config.workers)
            train_teachers(self.teachers, folder, progress, ready)
            ready.end_unless(config.workers)
            with open_teachers(
                config, self.teachers, self.students[-1], session, progress.say, routed=True
            ) as teachers:
                teachers.review()
                self.students = [replace(job, data=teachers.student.data) for job in self.students]
                teachers.counts.mark_filled()
                teachers.refuse_poor()
                train_students(self.students, folder, progress, teachers.pools, ready)
                ready.end()
                progress.note("scoring", "held-out rows, report, MLflow")
                with stage("scoring and report"):
                    outcome = conclude_all(
                        config,
                        folder,
                        self.students,
                        teachers.pools,
                        teachers.reviews,
                        curves.by_job.get("student", ()),
                        tracker,
                        teachers.counts.totals,
                    )
                progress.note("scoring", "done", steps=1)
        (folder.path / RESULTS).write_text(outcome.to_markdown(), encoding="utf-8")
        return outcome


def import_for_scoring() -> None:
    """Import what scoring needs, on the thread that would else wait: lazy modules of transformers allow no other."""
    for name in SCORING:
        with contextlib.suppress(ImportError):  # it is raised where it is needed
            importlib.import_module(name)


class PointRecorder:
    """Records points of the student in the MLflow run, and points of other jobs in child runs.

    Args:
        jobs: The jobs, by name.
        session: The run's session, with an open tracker.
    """

    def __init__(self, jobs: dict[str, Job], session: Session) -> None:
        self._jobs, self._run, self._folder = jobs, session.open_tracker(), session.folder
        self._children = session.open_child_runs()

    def log(self, name: str, *points: Point) -> None:
        """Record points of a job; the first one opens its child run."""
        job = self._jobs[name]
        if job.role == "student":
            self._run.log_points(points)
            return
        if name not in self._children.open:
            self._children.start(
                name,
                params=flatten_run(job.config),
                tags={"raykd.role": job.role, **make_smoke_tags(self._jobs["student"].config)},
                directory=self._folder.path / "mlflow" / name,
            )
        self._children.open[name].log_points(points)


def _describe_rows(task: TaskJob) -> str:
    rows, test = task.data.train, task.data.test
    labelled = int((rows.labels_B >= 0).sum())
    judged = describe_judged(task.data)
    return (
        f"[bold]{task.config.name}[/bold]  {len(rows):,} training texts ({labelled:,} labelled), "
        f"{len(task.data.validation):,} for validation"
        + (f", {len(test):,} for test" if test is not None else "")
        + f"; languages {', '.join(rows.list_languages())}"
        + (f"; labels {', '.join(task.config.data.labels)}" if task.config.data.labels else "")
        + (f"; {judged}" if judged else "")
    )
