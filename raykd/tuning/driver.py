"""What a sweep and a confirmation share: teachers that answer first, and trials over what they answered."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray

from raykd.checkpoint.curves import FILE, Curves
from raykd.cluster.mailbox import mailbox_on_cluster
from raykd.cluster.wait import wait_for_resources
from raykd.config import Run
from raykd.distill.weighting import Weighting
from raykd.driver.jobs import Job, load_rows, make_teacher_jobs, map_metrics
from raykd.driver.pool import check_cluster, make_placements
from raykd.driver.progress import JobProgress
from raykd.driver.session import Session
from raykd.runs.label_progress import show_progress
from raykd.runs.labelling import LabelReport, label_rows
from raykd.runs.ray_train import list_worker_resources
from raykd.runs.stages import train_teachers
from raykd.runs.teacher_stage import TeacherStage, open_teachers
from raykd.spaces.search import Sampler
from raykd.student.prepare import fit_tokenizer
from raykd.teachers.groups import Group
from raykd.teachers.pools.named_pool import find_whole_pools, sum_resources_by_node
from raykd.teachers.pools.own_pool import group_placements
from raykd.tuning.callback import TuneCallback
from raykd.tuning.checks.trials import TrialCheck
from raykd.tuning.journal import JOURNAL, Journal
from raykd.tuning.messages import build_no_score_error
from raykd.tuning.progress import SweepProgress
from raykd.tuning.suggest import Suggestions
from raykd.tuning.trial_rank import RunFactory, TrialContext
from raykd.tuning.tuner import TuneSettings, run_trials

log = logging.getLogger("raykd.tuning")
CHECKPOINTS = "checkpoints"
TEACHER_CURVES = "teachers.jsonl"
TaskWeightings = Mapping[str, Sequence[Weighting | None]]
"""Of each task the weightings of its trials; None stands for every teacher that speaks a row's language."""


@dataclass(frozen=True)
class TrialPlan:
    """Who chooses trials, who stops them, and how many there are.

    Attributes:
        run_factory: Makes runs of samples.
        sampler: Chooses the samples.
        scheduler: Tune's, which stops trials early.
        trials: How many.
        mode: Direction of the metric.
        names: Short names of what is searched, by path.
        settings: How Tune runs the trials.
        checkpoint_s: Seconds between two checkpoints of a trial, at least.
        replays: Whether the scheduler is shown earlier results when a sweep goes on.
        students: Folder of the trained students; None keeps none.
    """

    run_factory: RunFactory
    sampler: Sampler
    scheduler: Any
    trials: int
    mode: Literal["max", "min"]
    names: dict[str, str]
    settings: TuneSettings
    checkpoint_s: float
    replays: bool = False
    students: Path | None = None


def read_base_jobs(base: Run) -> tuple[list[Job], Job]:
    """Read the base's rows: the teachers that must be trained first, and the student that trials train.

    Raises:
        DataError: What can be known of files, columns, labels and sizes.
    """
    teachers = make_teacher_jobs(base)
    student = Job("student", "student", base, load_rows(base), Path())
    for job in [*teachers, student]:
        job.check_batch()
    return teachers, student


def find_shared_weightings(plan_base: Run, searched: Sequence[str]) -> TaskWeightings:
    """Return the weighting that all trials of a space share, of each task; None where trials differ in it.

    Args:
        plan_base: The run that trials begin with.
        searched: Keys that differ between trials.
    """
    weighting = re.compile(r"(task\.tasks\.[^.]+\.)?objective(\.weighting(\.|$)|$)|select_teachers(\.|$)")
    differs = any(weighting.match(key) for key in searched)
    return {
        task: [None if differs else member.objective.weighting] for task, member in plan_base.members.items()
    }


class SweepDriver:
    """Runs trials over teachers that have answered.

    Args:
        base: The run that trials begin with.
        teachers: Those that must be trained first.
        student: The rows that trials learn from.
        session: Of the command.
        label: Whether teachers answer all texts before the first trial.
        weightings: Which teachers trials may ask.

    Attributes:
        journal: What every trial was given and what came of it.
        notes: What a reader must know of the teachers; filled by `run`.
    """

    def __init__(
        self,
        base: Run,
        teachers: Sequence[Job],
        student: Job,
        session: Session,
        label: Literal["ahead", "on_demand"],
        weightings: TaskWeightings,
    ) -> None:
        self.base, self.teacher_jobs, self.student = base, teachers, student
        self.session, self.folder, self.console = session, session.folder, session.console
        self.label, self.weightings = label, weightings
        self.journal = Journal(self.folder.path / JOURNAL)
        self.notes: tuple[str, ...] = ()

    @property
    def kept_groups(self) -> list[Group]:
        """Teachers of its own that keep their resources while trials run."""
        own = self.base.serving.pool is None and self.label == "on_demand"
        members = self.base.members.values() if own else ()
        return [g for member in members for g in group_placements(make_placements(member, {}))]

    def run(self, search: TrialPlan) -> Journal:
        """Train, open and review the teachers, have them answer, and run the trials that are not over yet.

        Returns:
            The journal, which has what came of all trials.

        Raises:
            ModelError: A teacher is not good enough (`teachers[].on_poor`).
            SweepError: Not one trial came to a score.
        """
        if self.base.teachers:
            check_cluster(self.base, self.teacher_jobs, together=self.label == "on_demand")
        if not all(job.is_done for job in self.teacher_jobs):
            # What is recorded nowhere loses its folder when it is cut off, and with it a training's checkpoints.
            self.session.open_tracker()
        self._train_teachers()
        with open_teachers(self.base, self.teacher_jobs, self.student, self.session, self._say) as teachers:
            for start in teachers.counts.completed:
                self.journal.record_counters(start)
            self.review(teachers)
            self._answer(teachers)
            self._run_trials(search, teachers)
            counters = [pool.counters() for pool, _ in teachers.pools.values()]
            self.journal.record_counters({name: values for each in counters for name, values in each.items()})
        return self.journal

    def review(self, teachers: TeacherStage) -> None:
        """Score the teachers on the validation rows, once for all trials.

        Raises:
            ModelError: A teacher is not good enough (`teachers[].on_poor`).
        """
        self.session.open_tracker()
        differs = any(None in weightings for weightings in self.weightings.values())
        teachers.review(asked_alike=not differs)
        self.notes = tuple(note for review in teachers.reviews.values() for note in review.notes)
        teachers.refuse_poor("base.teachers")

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _train_teachers(self) -> None:
        curves = Curves(self.folder.path / TEACHER_CURVES)
        progress = JobProgress(self.console, map_metrics(self.teacher_jobs), curves, lambda job, point: None)
        if all(job.is_done for job in self.teacher_jobs):
            train_teachers(self.teacher_jobs, self.folder, progress)  # says that they are there
            return
        with progress.listen():
            train_teachers(self.teacher_jobs, self.folder, progress)

    def _answer(self, teachers: TeacherStage) -> None:
        """Have every text answered, then give the teachers' resources to the trials; nothing if on demand."""
        if not teachers.pools or self.label == "on_demand":
            teachers.counts.mark_filled()
            return
        report = LabelReport(0, 0, 0, 0.0)
        for task in teachers.pools:
            for weighting in self.weightings[task]:
                with show_progress(self.console, f"teachers answer {task}".rstrip()) as show:
                    report += self._label(teachers, task, weighting, show)
        log.info("teachers answered ahead: %s", report)
        teachers.counts.mark_filled()
        with teachers.counts.pause():
            for pool, _ in teachers.pools.values():
                pool.park()

    def _label(
        self, teachers: TeacherStage, task: str, weighting: Weighting | None, show: Callable[[int, int], None]
    ) -> LabelReport:
        begun = False

        def take(done: int, asked: int) -> None:
            nonlocal begun
            if not begun:  # what was stored before
                self.journal.record_labelling(asked, done, task)
            begun = True
            show(done, asked)

        report = label_rows(teachers.pools[task][0], self.student.data[task].train, weighting, take)
        self.journal.record_labelled(report.forwarded)
        return report

    def _run_trials(self, search: TrialPlan, teachers: TeacherStage) -> None:
        path, journal = self.folder.path, self.journal
        higher = search.mode == "max"
        progress = SweepProgress(self.console, self.base.metric, search.trials, search.names)
        for trial in journal.trials.values():
            if trial.status not in (None, "failed"):
                progress.add_earlier(trial.row(higher))
        workers = self.base.workers
        needs = [list_worker_resources(workers)] * workers.num_workers
        wait_for_resources(needs, "the first trial", self._say, self.base.ray.wait_s)
        with mailbox_on_cluster() as mailbox:
            curves, tracker = Curves(path / FILE), self.session.open_tracker()
            callback = TuneCallback(journal, curves, tracker, self.folder, mailbox, progress, higher)
            suggestions = Suggestions(
                search.sampler,
                journal,
                num_samples=search.trials,
                folder=path / CHECKPOINTS,
                scheduler=search.scheduler if search.replays else None,
                mode=search.mode,
                on_begin=callback.on_begin,
                check=TrialCheck(search.run_factory, self.base, self.student.data),
                on_refusal=callback.on_refusal,
            )
            context = self._context(search, teachers, mailbox)
            with progress.show():
                run_trials(context, suggestions, search.scheduler, callback, search.settings)
        if not any(trial.row().is_eligible for trial in journal.trials.values()):
            raise build_no_score_error(journal, self.folder, search.settings.time_budget_s)

    def _context(self, search: TrialPlan, teachers: TeacherStage, mailbox: Any) -> TrialContext:
        """Return what travels to the trials' processes: rows, the student's tokenizer, the pools' addresses."""
        student = self.base.student
        rows = [(task.config.task, task.data.train) for task in self.student.tasks.values()]
        joined = teachers.handles[""].source(direct=False) if "" in teachers.handles else None
        return TrialContext(
            run_factory=search.run_factory,
            base=self.base,
            data=self.student.data,
            tokenizers={student.tokenizer_key(): fit_tokenizer(student, rows, joined)},
            pools=teachers.handles,
            mailbox=mailbox,
            folder=str(self.folder.path / CHECKPOINTS),
            checkpoint_s=search.checkpoint_s,
            students=None if search.students is None else str(search.students),
        )


def list_free_node_resources() -> list[Mapping[str, float]]:
    """Resources of each node that is alive, without what named pools of teachers hold there."""
    taken: dict[str, dict[str, float]] = {}
    for served in find_whole_pools():
        for node, resources in sum_resources_by_node(served).items():
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
