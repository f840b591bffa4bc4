"""`raykd train`: one RunConfig in, one folder with the student, the table, the report and the MLflow run out.

Decision record: the order is chosen so that what can fail fails before a worker is taken (folder, data, labels,
resources, MLflow), and so that start-up is paid at most twice: one worker group trains all teachers, one the
baseline and the student. The pool is opened before the second, so that a broken teacher stops the run first, and its
teachers are scored on the validation rows, so that one that answers worse than none stops it too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from raykd.checkpoint.curves import FILE, Curves
from raykd.cluster.interrupts import at_interrupt
from raykd.cluster.mailbox import mailbox_on_cluster
from raykd.config import Run
from raykd.config.loading import dump, flatten
from raykd.driver.growth import plan_growth
from raykd.driver.jobs import AnyJob, Job, data_fingerprints, jobs_of
from raykd.driver.pool import check_cluster, opened_pools
from raykd.driver.progress import JobProgress
from raykd.driver.session import Session, ended_well
from raykd.driver.smoke import smoke_tags
from raykd.driver.teacher_counts import TeacherCounts
from raykd.folders.folder import RESULTS, RunFolder, check_rows, log_to_file, look_at_folder, open_folder
from raykd.folders.lock import locked
from raykd.point import Point
from raykd.preflight.check import preflight, say_notes
from raykd.preflight.model_check import sign_notes
from raykd.runs.stages import fit_group, train_teachers
from raykd.scoring.outcome import Outcome
from raykd.scoring.several_tasks import conclude_all, judge_all
from raykd.scoring.teacher_scores import record_once, stop_if_poor
from raykd.student.overruled import describe_overruled
from raykd.teachers.pool import TeacherPool
from raykd.tracking import Experiment, Tracker, environment, tracking_uri

log = logging.getLogger("raykd.runs")


@dataclass
class Trackers:
    """The run's MLflow run and one child a job, made when its first point comes and kept over a resume."""

    run: Tracker
    folder: RunFolder
    children: dict[str, Tracker]

    def on_point(self, jobs: dict[str, AnyJob], job: str, *points: Point) -> None:
        """Points of the student go to the run, those of another job to its child."""
        if jobs[job].role == "student":
            self.run.log_points(points)
            return
        if job not in self.children:
            known = self.folder.state.get("children", {})
            self.children[job] = Tracker.start(
                self.run.uri,
                self.run.experiment,
                job,
                params=flatten(jobs[job].config),
                tags={"raykd.role": jobs[job].role, **smoke_tags(jobs["student"].config)},
                parent_run_id=self.run.run_id,
                run_id=known.get(job),
                directory=self.folder.path / "mlflow" / job,
                required=False,
            )
            self.folder.write_state(children={**known, job: self.children[job].run_id})
        self.children[job].log_points(points)

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Ends all of them."""
        for child in self.children.values():
            child.finish(status)
        self.run.finish(status)


def train(
    config: Run, *, resume: bool = False, overwrite: bool = False, console: Console | None = None
) -> Outcome:
    """Runs the run and returns what it made.

    Args:
        resume: go on in the run's folder from its last checkpoint. overwrite: empty the folder first.
    Raises:
        RaykdError: with what, got, wanted and the next step; what was written before stays.
    """
    shown = console or Console(emoji=False)
    say_notes(shown, preflight(config))
    path = Path(config.output).resolve() / config.name
    with locked(path):
        # All that can be refused is refused before an old run is overwritten.
        earlier = look_at_folder(config, resume=resume, overwrite=overwrite)
        jobs = jobs_of(config, path)
        growth = plan_growth(earlier, config, jobs[1], path)
        rows, files = data_fingerprints(jobs[1][-1]), {"run.yaml": dump(config)}
        check_rows(path, earlier.state, rows)
        growth.set_aside()
        folder = open_folder(config, rows, files, earlier=earlier, base=config, overwrite=overwrite)
        with log_to_file(folder.log), ended_well(folder):
            try:
                folder.say(shown, growth.notes)
                return _train(config, folder, shown, *jobs)
            except KeyboardInterrupt:
                folder.give_up("interrupted")
                raise
            except BaseException:
                log.exception("the run failed")
                folder.give_up("failed")
                raise


def _train(
    config: Run,
    folder: RunFolder,
    console: Console,
    teacher_jobs: Sequence[Job],
    student_jobs: Sequence[AnyJob],
) -> Outcome:
    for part in [part for job in student_jobs for part in job.parts.values()]:
        log.info("data read: %s: %s", part.name, part.data.train.summary())
    for part in student_jobs[-1].parts.values():
        _say_data(console, part)
        for note in sign_notes(part.config, part.data.train):
            log.warning("%s", note)
    for note in describe_overruled(config.train):
        log.warning("%s", note)
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    tracker = Session(config.ray, folder, lambda: _start_tracker(config, folder)).tracker()
    say_notes(console, tracker.notes)
    trackers = Trackers(tracker, folder, {})
    at_interrupt(lambda: trackers.finish("KILLED"))
    try:
        check_cluster(config, teacher_jobs)
        outcome = _stages(config, folder, console, trackers, teacher_jobs, student_jobs)
    except BaseException as error:
        trackers.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    trackers.finish("FINISHED")
    (folder.path / RESULTS).write_text(outcome.markdown(), encoding="utf-8")
    folder.write_state(status="finished", lines=list(outcome.lines))
    return outcome


def _stages(
    config: Run,
    folder: RunFolder,
    console: Console,
    trackers: Trackers,
    teacher_jobs: Sequence[Job],
    student_jobs: Sequence[AnyJob],
) -> Outcome:
    jobs = {job.name: job for job in [*teacher_jobs, *student_jobs]}
    curves = Curves(folder.path / FILE)
    for job, points in curves.by_job.items():
        trackers.on_point(jobs, job, *points)
    progress = JobProgress(console, config.metric, curves, lambda job, p: trackers.on_point(jobs, job, p))
    trained = {job.name: job.output for job in teacher_jobs}
    with mailbox_on_cluster() as mailbox, progress.watching(mailbox):
        train_teachers(teacher_jobs, folder, progress, mailbox)
        with opened_pools(config, trained, progress.say) as pools, ExitStack() as grown:
            counts = TeacherCounts(folder, [pool for pool, _ in pools.values()])
            grown.enter_context(counts.growing())
            judged = judge_all(config, student_jobs[-1], pools, progress.say)
            counts.filled()
            record_once(judged, trackers.run, folder)
            stop_if_poor(judged.values(), config)
            handed = {task: pool for task, (pool, _) in pools.items()}
            _fit(student_jobs, folder, progress, mailbox, handed)
            progress.note("scoring", "held-out rows, report, MLflow")
            result = conclude_all(
                config, folder, student_jobs, pools, judged, curves.by_job, trackers.run, counts.totals
            )
            progress.note("scoring", "done", steps=1)
    return result


def _fit(
    jobs: Sequence[AnyJob],
    folder: RunFolder,
    progress: JobProgress,
    mailbox: Any,
    pools: Mapping[str, TeacherPool],
) -> None:
    for job in jobs:
        if job.done:
            progress.note(job.name, "kept from before the resume", job.steps)
        else:
            progress.expect(job.name, job.steps)
    fit_group([job for job in jobs if not job.done], "student", folder, progress, mailbox, pools)


def _start_tracker(config: Run, folder: RunFolder) -> Tracker:
    return Tracker.start(
        tracking_uri(config.tracking, folder.path.parent),
        Experiment.of(config.tracking),
        config.name,
        params=flatten(config),
        tags={
            "raykd.role": "run",
            "raykd.fingerprint": config.fingerprint(),
            **environment(),
            **smoke_tags(config),
        },
        run_id=folder.state.get("mlflow_run_id"),
        directory=folder.path,
        required=config.tracking.required,
    )


def _say_data(console: Console, student: Job) -> None:
    rows = student.data.train
    labelled = int((rows.labels_B >= 0).sum())
    console.print(
        f"[bold]{student.config.name}[/bold]  {len(rows):,} training texts ({labelled:,} labelled), "
        f"{len(student.data.validation):,} for validation"
        + (f", {len(student.data.test):,} for test" if student.data.test is not None else "")
        + f"; languages {', '.join(sorted(set(rows.languages)))}; labels {', '.join(student.config.data.labels)}",
        highlight=False,
    )
