"""Train the jobs of a run in worker groups: first the teachers, then baseline and student."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from raykd.checkpoint.find import next_start
from raykd.checkpoint.storage import StorageFolder
from raykd.cluster.mailbox import RemoteMailbox, mailbox_on_cluster
from raykd.cluster.wait import wait_for_resources
from raykd.config import WorkersConfig
from raykd.driver.growth import GROUP, STORAGE
from raykd.driver.jobs import Job
from raykd.driver.pool import open_pools
from raykd.driver.progress import JobProgress
from raykd.errors import RaykdError
from raykd.folders.folder import RunFolder
from raykd.models.starts.handover import describe_handover
from raykd.runs.checkpoints import CheckpointPlace
from raykd.runs.ray_train import run_worker_group
from raykd.runs.single_worker import ReadyWorker, run_single_worker
from raykd.runs.worker import Payload, TrainingCall, list_worker_resources, pack_job
from raykd.scoring.several_tasks import Pools
from raykd.student.prepare import fit_tokenizer
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.pool import TeacherPool
from raykd.timeline import TRAINING, is_profiled, stage

log = logging.getLogger("raykd.runs")


def train_teachers(jobs: Sequence[Job], folder: RunFolder, progress: JobProgress, ready: ReadyWorker) -> None:
    """Train the teachers, one worker group for all that ask for the same workers; then those that others teach.

    Args:
        jobs: The teachers.
        folder: The run's folder.
        progress: Shows the jobs.
        ready: The worker of jobs that ask for one.
    """
    for job in jobs:
        if job.is_done:
            progress.note(job.name, "kept from an earlier run", job.steps)
        else:
            progress.expect(job.name, job.steps)
    waiting = [job for job in jobs if not job.is_done]
    alone = [job for job in waiting if not job.config.active_teachers]
    late = [job for job in alone if find_pretraining(job, jobs) is not None]
    _train_alone([job for job in alone if job not in late], "teachers", folder, progress, ready)
    for job in waiting:
        stage = find_pretraining(job, jobs)
        if stage is not None:
            own = job.tasks[""].config
            told = describe_handover(stage, own.data.labels, own.task.head)
            log.info("%s starts from %s: %s", job.name, stage, told)
            progress.say(f"{job.name} starts from its pretraining: {told}")
    _train_alone(late, "pretrained", folder, progress, ready)
    for job in waiting:  # in the order of the run, so the teachers of an assistant are there
        if job.config.active_teachers:
            with open_pools(job.config, {}, progress.say) as opened:
                handed = {task: pool for task, (pool, _) in opened.items()}
                fit_group([job], job.name, folder, progress, handed, ready)


def find_pretraining(job: Job, jobs: Sequence[Job]) -> Path | None:
    """Return the folder of the pretraining that a teacher starts from; None of one that is not pretrained.

    Args:
        job: The teacher's.
        jobs: All teachers of the run, and their pretraining.
    """
    path = getattr(job.config.student, "path", None)
    return next((other.output for other in jobs if str(other.output) == path), None)


def _train_alone(
    jobs: Sequence[Job], what: str, folder: RunFolder, progress: JobProgress, ready: ReadyWorker
) -> None:
    """Train teachers that no other teaches, one worker group for all that ask for the same workers."""
    by_workers: dict[str, list[Job]] = {}
    for job in jobs:
        by_workers.setdefault(job.config.workers.model_dump_json(), []).append(job)
    for workers, alike in by_workers.items():
        # Named by what it asks for, so that a resumed run finds the checkpoints of the same group.
        name = hashlib.sha256(workers.encode()).hexdigest()[:8]
        fit_group(alike, f"{what}-{name}", folder, progress, {}, ready)


def train_students(
    jobs: Sequence[Job], folder: RunFolder, progress: JobProgress, pools: Pools, ready: ReadyWorker
) -> None:
    """Train baseline and student in one worker group.

    Args:
        jobs: Baseline, if there is one, and student.
        folder: The run's folder.
        progress: Shows the jobs.
        pools: The opened teachers, by task.
        ready: The worker of jobs that ask for one.
    """
    for job in jobs:
        if job.is_done:
            progress.note(job.name, "kept from before the resume", job.steps)
        else:
            progress.expect(job.name, job.steps)
    handed = {task: pool for task, (pool, _) in pools.items()}
    fit_group([job for job in jobs if not job.is_done], GROUP, folder, progress, handed, ready)


def fit_group(
    jobs: Sequence[Job],
    name: str,
    folder: RunFolder,
    progress: JobProgress,
    pools: Mapping[str, TeacherPool],
    ready: ReadyWorker,
) -> None:
    """Train jobs one after the other in one worker group.

    Args:
        jobs: The jobs, which ask for the same workers.
        name: Name of the group; a resume finds its checkpoints by it.
        folder: The run's folder.
        progress: Shows the jobs and receives their events.
        pools: The teachers that students ask, by task. A student with a union tokenizer joins their vocabularies.
        ready: The worker of jobs that ask for one.

    Raises:
        RaykdError: The error of a worker, or that workers were lost too often.
    """
    if not jobs:
        return
    log.info("workers for %s: %s", ", ".join(job.name for job in jobs), jobs[0].config.workers)
    payloads = [_pack_job(job, pools, progress) for job in jobs]
    workers, wait_s = jobs[0].config.workers, jobs[0].config.ray.wait_s
    max_failures = jobs[0].config.train.max_failures
    storage = StorageFolder(str(folder.path / STORAGE))
    place = CheckpointPlace(storage, name, next_start(storage, name))
    call = TrainingCall(payloads, None, place, workers.threads, is_profiled())

    def wait() -> None:
        needed = [list_worker_resources(workers)] * workers.num_workers
        wait_for_resources(needed, f"workers for {name}", progress.say, wait_s)

    given_up: RaykdError | None = None
    try:
        with stage(TRAINING):
            if workers.num_workers == 1:
                run_single_worker(call, workers, max_failures, ready, progress, wait)
            else:
                ready.end()
                wait()
                given_up = _run_group(call, workers, max_failures, progress)
    except RaykdError as error:
        given_up = error
    if progress.error is not None:
        # Raised outside the except block and without `given_up` as context: the frames of that error hold Ray Train's
        # actors, which would then stay alive.
        given_up = None
        raise progress.error
    if given_up is not None:
        raise given_up
    log.info("trained %s", ", ".join(job.name for job in jobs))


def _pack_job(job: Job, pools: Mapping[str, TeacherPool], progress: JobProgress) -> Payload:
    """Learn a job's tokenizer where it has none yet, and pack what its workers need."""
    parts = [(task.config.task, task.data.train) for task in job.tasks.values()]
    teachers = PoolSource(pools[""].handle, direct=False) if "" in pools else None
    tell = partial(progress.show_reading, job.name, what="texts are read for the vocabulary")
    tokenizer = fit_tokenizer(job.config.student, parts, teachers, tell)
    taught = bool(job.config.active_teachers)
    return pack_job(job, tokenizer, {task: pool.handle for task, pool in pools.items()} if taught else {})


def _run_group(
    call: TrainingCall, workers: WorkersConfig, max_failures: int, progress: JobProgress
) -> RaykdError | None:
    """Run the jobs in Ray Train, and hear all that its workers tell; return why they were given up."""
    with mailbox_on_cluster() as mailbox:
        progress.attach(mailbox)
        given_up: RaykdError | None = None
        try:
            run_worker_group(replace(call, mailbox=RemoteMailbox(mailbox)), workers, max_failures)
        except RaykdError as error:
            given_up = error
        progress.settle()
        return given_up
