"""`raykd sweep`: a space in, the best run's YAML, a page and an MLflow run with a child a trial out.

Decision record: what can fail fails first (the space, files, labels, resources, MLflow). Teachers are made once and
answer every text once, before the first trial; then their resources go to the trials, which read the answers from
the disk. A sweep that was cut off goes on from its journal: see `suggest`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from raykd.config import RunConfig
from raykd.data.load import Dataset, load_data
from raykd.distill.weighting import Weighting
from raykd.errors import ConfigError, SweepError
from raykd.load import dump
from raykd.runs.check import preflight
from raykd.runs.cluster import check_fits, demands_of
from raykd.runs.curves import FILE, Curves
from raykd.runs.folder import RunFolder, log_to_file, look_at_folder, open_folder
from raykd.runs.host import Mailbox
from raykd.runs.jobs import Job, teacher_job
from raykd.runs.label import LabelReport, label_rows
from raykd.runs.pool import placements_of, start_pool
from raykd.runs.progress import JobProgress
from raykd.runs.session import interruptible, open_session
from raykd.runs.stages import train_teachers
from raykd.sweep.capacity import concurrent_trials
from raykd.sweep.config import Sweep, dump_sweep
from raykd.sweep.journal import FILE as JOURNAL
from raykd.sweep.journal import Journal
from raykd.sweep.outcome import SweepOutcome, conclude
from raykd.sweep.progress import SweepProgress
from raykd.sweep.suggest import Suggestions
from raykd.sweep.trial import Shared
from raykd.sweep.tuning import TuneSettings, run_trials
from raykd.sweep.watch import Watch
from raykd.teachers.pool import TeacherPool, group
from raykd.tracking import Tracker, environment, tracking_uri

log = logging.getLogger("raykd.sweep")
CHECKPOINTS = "checkpoints"


def sweep(
    plan: Sweep, *, resume: bool = False, overwrite: bool = False, console: Console | None = None
) -> SweepOutcome:
    """Runs the sweep and returns what it found.

    Args:
        resume: go on in the sweep's folder; finished trials are kept. overwrite: empty the folder first.
    Raises:
        RaykdError: with what, got, wanted and the next step; what was written before stays.
    """
    base = plan.base
    preflight(base, together=plan.config.label == "on_demand")
    look_at_folder(plan, resume=resume, overwrite=overwrite)
    teachers = [teacher_job(base, t) for t in base.active_teachers if t.training is not None]
    data = load_data(base.data, Path.cwd())
    for job in [*teachers, Job("student", "student", base, data, Path())]:
        job.check_batch()
    files = {"run.yaml": dump(base), "space.yaml": dump_sweep(plan)}
    folder = open_folder(plan, data.fingerprint(), files, resume=resume, overwrite=overwrite)
    with log_to_file(folder.log), interruptible():
        try:
            return _sweep(Parts(plan, folder, console or Console(), data, teachers))
        except KeyboardInterrupt:
            folder.give_up("interrupted")
            raise
        except BaseException:
            log.exception("the sweep failed")
            folder.give_up("failed")
            raise


@dataclass
class Parts:
    """What the stages of a sweep hand on to one another."""

    plan: Sweep
    folder: RunFolder
    console: Console
    data: Dataset
    teachers: list[Job]
    pool: TeacherPool | None = None
    labelled: LabelReport | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def base(self) -> RunConfig:
        """The run without anything searched."""
        return self.plan.base


def _sweep(parts: Parts) -> SweepOutcome:
    folder, base, plan = parts.folder, parts.base, parts.plan
    _say(parts)
    tracker = open_session(base.ray, folder, lambda: _start_tracker(parts))
    try:
        journal = Journal(folder.path / JOURNAL)
        with _teachers(parts):
            mailbox = ray.remote(Mailbox).options(num_cpus=0).remote()
            _trials(parts, journal, tracker, mailbox)
            counters = {} if parts.pool is None else parts.pool.counters()
        journal.counters(counters)
        outcome = conclude(plan, folder, journal, tracker, parts.labelled, parts.notes)
    except BaseException as error:
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")
    shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)
    folder.write_state(status="finished", lines=list(outcome.lines))
    return outcome


def _start_tracker(parts: Parts) -> Tracker:
    base, folder, plan = parts.base, parts.folder, parts.plan
    search = {
        key: json.dumps(value) for key, value in plan.config.model_dump(mode="json").items() if key != "base"
    }
    from raykd.load import flatten

    return Tracker.start(
        tracking_uri(base.tracking, folder.path.parent),
        base.tracking.experiment,
        plan.name,
        params={**flatten(base), **{f"sweep.{key}": value for key, value in search.items()}},
        tags={"raykd.role": "sweep", "raykd.fingerprint": plan.fingerprint(), **environment()},
        run_id=folder.state.get("mlflow_run_id"),
        directory=folder.path,
    )


@contextlib.contextmanager
def _teachers(parts: Parts) -> Iterator[None]:
    """Teachers: trained if need be, opened, asked for every text; parked while trials run."""
    base = parts.base
    if base.plain and not base.teachers:
        yield
        return
    together = parts.plan.config.label == "on_demand"
    for demands in demands_of(base, group(placements_of(base, {})), together=together):
        check_fits(demands, ray.cluster_resources(), "the cluster")
    curves = Curves(parts.folder.path / "teachers.jsonl")
    progress = JobProgress(parts.console, base.train.metric, curves, lambda job, point: None)
    mailbox = ray.remote(Mailbox).options(num_cpus=0).remote()
    with progress.watching(mailbox):
        train_teachers(parts.teachers, parts.folder, progress, mailbox)
    pool, infos = start_pool(base, {job.name: job.output for job in parts.teachers})
    parts.pool = pool
    try:
        for info in infos:
            log.info(
                "teacher %s answers in %s (%s) on %s", info.name, info.dtype, info.dtype_reason, info.device
            )
        if parts.plan.config.label == "ahead":
            parts.labelled = label_rows(pool, parts.data.train, _asking(parts.plan), parts.console)
            pool.park()
        yield
    finally:
        pool.stop()


def _asking(plan: Sweep) -> Weighting | None:
    """The weighting that says which teachers are asked; None (all that speak the language) where trials differ."""
    searched = ("objective.weighting", "select_teachers", "objective")
    differs = any(key == s or key.startswith(f"{s}.") for key in plan.space.searched for s in searched[:2])
    return None if differs or "objective" in plan.space.searched else plan.base.objective.weighting


def _trials(parts: Parts, journal: Journal, tracker: Tracker, mailbox: Any) -> None:
    plan, folder, base, config = parts.plan, parts.folder, parts.base, parts.plan.config
    kept = [] if config.label == "ahead" or parts.pool is None else parts.pool.groups
    if config.scheduler.pauses and config.max_concurrent_trials is not None:
        raise ConfigError(
            f"max_concurrent_trials does not go with scheduler {config.scheduler.kind}, which pauses trials",
            got=config.max_concurrent_trials,
            wanted="null; the cluster's resources limit the trials that run at once",
        )
    concurrent = concurrent_trials(node_resources(), base.workers, kept, config.max_concurrent_trials)
    log.info("%d trials at once", concurrent)
    progress = SweepProgress(parts.console, plan.metric, plan.mode == "max", plan.trials, plan.space.names())
    for trial in journal.trials.values():
        if trial.status not in (None, "failed"):
            progress.restore(trial.row())
    scheduler = config.scheduler.build(
        plan.space, base.train.evaluations, plan.mode,
        "score" if config.scheduler.needs_population else "objective",
    )  # fmt: skip
    watch = Watch(journal, Curves(folder.path / FILE), tracker, folder, mailbox, progress)
    suggestions = Suggestions(
        config.search.sampler(plan.space, plan.mode, plan.trials),
        journal,
        num_samples=plan.trials,
        folder=folder.path / CHECKPOINTS,
        scheduler=scheduler if config.scheduler.kind in ("asha", "median") else None,
        mode=plan.mode,
        begun=watch.begun,
    )
    shared = share(
        plan.space, base, parts.data, parts.pool, mailbox, folder.path / CHECKPOINTS, config.checkpoint_s
    )
    settings = TuneSettings(
        workers=base.workers,
        concurrent=None if config.scheduler.pauses else concurrent,
        population=plan.trials if config.scheduler.pauses else None,
        time_budget_s=config.time_budget_s,
        max_failures=config.max_failures,
        scratch=folder.path / "tune",
    )
    with progress.shown():
        run_trials(shared, suggestions, scheduler, watch, settings)
    if not any(trial.row().counts for trial in journal.trials.values()):
        errors = sorted({t.error for t in journal.trials.values() if t.error})
        raise SweepError(
            "no trial of the sweep came to a score",
            got="; ".join(errors[:3]) or "no trial ran",
            wanted="at least one trial with a finite validation score",
            next_step=f"see {folder.log} and {folder.path / JOURNAL}; raykd sweep --resume tries failed trials again",
        )


def share(
    configs: Any,
    base: RunConfig,
    data: Dataset,
    pool: TeacherPool | None,
    mailbox: Any,
    checkpoints: Path,
    checkpoint_s: float,
    students: Path | None = None,
) -> Shared:
    """What travels to the trials' processes: rows, the student's tokenizer, the pool's address."""
    tokenizer = base.student.fit_tokenizer([*data.train.texts, *(data.train.pairs or ())])
    return Shared(
        configs=configs,
        base=base,
        data=data,
        tokenizers={base.student.tokenizer_key(): tokenizer},
        pool=None if pool is None else pool.handle,
        mailbox=mailbox,
        folder=str(checkpoints),
        checkpoint_s=checkpoint_s,
        students=None if students is None else str(students),
    )


def node_resources() -> list[Mapping[str, float]]:
    """Resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _say(parts: Parts) -> None:
    plan, rows = parts.plan, parts.data.train
    before = "" if parts.folder.fresh else ", going on"
    names = ", ".join(plan.space.names().values())
    parts.console.print(
        f"[bold]{plan.name}[/bold]{before}  {plan.trials} trials, {plan.config.search.kind} search with "
        f"{plan.config.scheduler.kind}, over {names}; {len(rows):,} training texts, "
        f"{len(parts.base.active_teachers)} teachers; best validation {plan.metric}",
        highlight=False,
    )
