"""What a sweep and a confirmation share: teachers that answer first, and trials over what they answered."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray
from rich.console import Console

from raykd.checkpoint.curves import FILE, Curves
from raykd.cluster.mailbox import mailbox_on_cluster
from raykd.config import RunConfig
from raykd.data.load import Dataset, load_data
from raykd.distill.weighting import Weighting
from raykd.driver.jobs import Job, teacher_job
from raykd.driver.pool import check_cluster, placements_of, start_pool
from raykd.driver.progress import JobProgress
from raykd.driver.teacher_counts import TeacherCounts
from raykd.driver.wait import wait_for
from raykd.folders.folder import RunFolder
from raykd.runs.labelling import LabelReport, label_rows, shown
from raykd.runs.ray_train import worker_needs
from raykd.runs.stages import train_teachers
from raykd.scoring.teacher_scores import judge_teachers, record_once, stop_if_poor
from raykd.spaces.search import Sampler
from raykd.student.prepare import fit_tokenizer
from raykd.teachers.groups import Group
from raykd.teachers.pool import TeacherPool, group
from raykd.teachers.spec import TeacherInfo
from raykd.teachers.warm import held, whole_pools
from raykd.tracking import Tracker
from raykd.tuning.checks.trials import TrialCheck
from raykd.tuning.journal import FILE as JOURNAL
from raykd.tuning.journal import Journal
from raykd.tuning.messages import no_score
from raykd.tuning.progress import SweepProgress
from raykd.tuning.suggest import Suggestions
from raykd.tuning.trial import Configs, Shared
from raykd.tuning.tuner import TuneSettings, run_trials
from raykd.tuning.watch import Watch

log = logging.getLogger("raykd.tuning")
CHECKPOINTS = "checkpoints"


@dataclass
class Frame:
    """Base run, its rows and teachers, and where everything is written. pool, infos, notes: filled on the way; notes
    are what a reader must know of the teachers.

    weightings: which teachers trials may ask; None in it is every teacher that speaks a row's language.
    """

    base: RunConfig
    data: Dataset
    teacher_jobs: list[Job]
    folder: RunFolder
    console: Console
    label: Literal["ahead", "on_demand"]
    weightings: Sequence[Weighting | None]
    pool: TeacherPool | None = None
    infos: Sequence[TeacherInfo] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder.path / JOURNAL)

    @contextlib.contextmanager
    def teachers(self, record: Callable[[], Tracker]) -> Iterator[None]:
        """Teachers, trained if need be, opened while the body runs; their weights are not loaded yet.

        Args:
            record: waits for the MLflow run. What is recorded nowhere loses its folder when it is cut off, and with
                it a training's checkpoints; without a training MLflow opens while the teachers start.
        """
        if not self.base.teachers:
            yield
            return
        check_cluster(self.base, self.teacher_jobs, together=self.label == "on_demand")
        if not all(job.done for job in self.teacher_jobs):
            record()
        self._train_teachers()
        self.pool, self.infos = start_pool(self.base, {job.name: job.output for job in self.teacher_jobs})
        self.counts = TeacherCounts(self.folder, [self.pool])
        for start in self.counts.completed:
            self.journal.counters(start)
        try:
            with self.counts.growing():
                yield
        finally:
            self.pool.stop()

    def judge_teachers(self, tracker: Tracker) -> None:
        """Scores the teachers on the validation rows, once for all trials.

        Raises:
            ModelError: a teacher is not good enough (`teachers[].on_poor`).
        """
        if self.pool is None:
            return
        say = partial(self.console.print, highlight=False, markup=False, soft_wrap=True)
        rows, languages = self.data.validation, self.data.train.languages
        judged = judge_teachers(
            self.base, self.pool, self.infos, rows, languages, say, asked_alike=None not in self.weightings
        )
        judged.announce(say)
        record_once({"": judged}, tracker, self.folder)
        self.notes = judged.notes
        stop_if_poor([judged], self.base, "base.teachers")

    @property
    def kept(self) -> list[Group]:
        """Teachers of its own that keep their resources while trials run."""
        own = bool(self.base.teachers) and self.base.serving.pool is None and self.label == "on_demand"
        return group(placements_of(self.base, {})) if own else []

    def answer_ahead(self) -> None:
        """Has every text answered, then gives the teachers' resources to the trials; nothing if on demand."""
        if self.pool is None:
            return
        if self.label == "on_demand":
            self.counts.filled()
            return
        report = LabelReport(0, 0, 0, 0.0)
        for weighting in self.weightings:
            with shown(self.console, "teachers answer") as show:
                report += self._label(self.pool, weighting, show)
        log.info("teachers answered ahead: %s", report)
        self.counts.filled()
        with self.counts.still():
            self.pool.park()

    def _label(
        self, pool: TeacherPool, weighting: Weighting | None, show: Callable[[int, int], None]
    ) -> LabelReport:
        begun = False

        def take(done: int, asked: int) -> None:
            nonlocal begun
            if not begun:  # what was stored before
                self.journal.labelling(asked, done)
            begun = True
            show(done, asked)

        report = label_rows(pool, self.data.train, weighting, take)
        self.journal.labelled(report.forwarded)
        return report

    def _train_teachers(self) -> None:
        curves = Curves(self.folder.path / "teachers.jsonl")
        progress = JobProgress(self.console, self.base.metric, curves, lambda job, point: None)
        if all(job.done for job in self.teacher_jobs):
            train_teachers(self.teacher_jobs, self.folder, progress, None)  # says that they are there
            return
        with mailbox_on_cluster() as mailbox, progress.watching(mailbox):
            train_teachers(self.teacher_jobs, self.folder, progress, mailbox)


def read_rows(base: RunConfig) -> tuple[Dataset, list[Job]]:
    """The base's rows, and the teachers that must be trained first.

    Raises:
        DataError: what can be known of files, columns, labels and sizes.
    """
    teachers = [teacher_job(base, t) for t in base.active_teachers if t.training is not None]
    data = load_data(base.data, Path.cwd(), base.form)
    for job in [*teachers, Job("student", "student", base, data, Path())]:
        job.check_batch()
    return data, teachers


@dataclass(frozen=True)
class Search:
    """Who chooses trials, who stops them, and how many there are.

    judged_as_they_come: whether the scheduler is shown earlier results when a sweep goes on.
    """

    configs: Configs
    sampler: Sampler
    scheduler: Any
    trials: int
    mode: Literal["max", "min"]
    names: dict[str, str]
    settings: TuneSettings
    checkpoint_s: float
    judged_as_they_come: bool = False
    students: Path | None = None


def search(frame: Frame, search: Search, tracker: Tracker) -> Journal:
    """Runs the trials that are not over yet; the journal has what came of all.

    Raises:
        SweepError: not one trial came to a score.
    """
    path, journal = frame.folder.path, frame.journal
    higher = search.mode == "max"
    progress = SweepProgress(frame.console, frame.base.metric, search.trials, search.names)
    for trial in journal.trials.values():
        if trial.status not in (None, "failed"):
            progress.restore(trial.row(higher))
    workers, say = frame.base.workers, partial(frame.console.print, highlight=False, markup=False)
    wait_for([worker_needs(workers)] * workers.num_workers, "the first trial", say, frame.base.ray.wait_s)
    with mailbox_on_cluster() as mailbox:
        watch = Watch(journal, Curves(path / FILE), tracker, frame.folder, mailbox, progress, higher)
        suggestions = Suggestions(
            search.sampler,
            journal,
            num_samples=search.trials,
            folder=path / CHECKPOINTS,
            scheduler=search.scheduler if search.judged_as_they_come else None,
            mode=search.mode,
            begun=watch.begun,
            check=TrialCheck(search.configs, frame.base, frame.data),
            refused=watch.refused,
        )
        with progress.shown():
            run_trials(_shared(frame, search, mailbox), suggestions, search.scheduler, watch, search.settings)
    if not any(trial.row().counts for trial in journal.trials.values()):
        raise no_score(journal, frame.folder, search.settings.time_budget_s)
    return journal


def _shared(frame: Frame, search: Search, mailbox: Any) -> Shared:
    """What travels to the trials' processes: rows, the student's tokenizer, the pool's address."""
    base, data = frame.base, frame.data
    teachers = None if frame.pool is None else frame.pool.handle.source(direct=False)
    tokenizer = fit_tokenizer(base.student, [(base.task, data.train)], teachers)
    return Shared(
        configs=search.configs,
        base=base,
        data=data,
        tokenizers={base.student.tokenizer_key(): tokenizer},
        pool=None if frame.pool is None else frame.pool.handle,
        mailbox=mailbox,
        folder=str(frame.folder.path / CHECKPOINTS),
        checkpoint_s=search.checkpoint_s,
        students=None if search.students is None else str(search.students),
    )


def node_resources() -> list[Mapping[str, float]]:
    """Resources of each node that is alive, without what named pools of teachers hold there."""
    taken: dict[str, dict[str, float]] = {}
    for served in whole_pools():
        for node, resources in held(served).items():
            for name, amount in resources.items():
                there = taken.setdefault(node, {})
                there[name] = there.get(name, 0.0) + amount
    return [
        {
            name: amount - taken.get(node["NodeID"], {}).get(name, 0.0)
            for name, amount in node["Resources"].items()
        }
        for node in ray.nodes()
        if node["Alive"]
    ]
