"""Drive a sweep or an experiment: the teachers answer all texts first, then trials train on the stored answers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ray

from raykd.checkpoint.curves import FILE, Curves
from raykd.cluster.mailbox import mailbox_on_cluster
from raykd.cluster.wait import wait_for_resources
from raykd.config import Run
from raykd.distill.weighting import Weighting
from raykd.driver.jobs import Job, load_rows, make_first_jobs
from raykd.driver.pool import check_cluster, group_teachers
from raykd.driver.progress import JobProgress
from raykd.driver.session import Session
from raykd.runs.labelling import LabelReport, label_needed
from raykd.runs.single_worker import ReadyWorker
from raykd.runs.stages import train_teachers
from raykd.runs.teacher_stage import TeacherStage, open_teachers
from raykd.runs.worker import list_worker_resources, share_data
from raykd.scoring.score import System
from raykd.scoring.teacher_systems import score_reference_systems
from raykd.student.prepare import fit_tokenizer
from raykd.teachers.groups import Group
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.named_pool import find_whole_pools, sum_resources_by_node
from raykd.teachers.pools.stored_pool import NeededAnswers
from raykd.timeline.progress import show_progress
from raykd.tuning.capacity import count_concurrent_trials
from raykd.tuning.checks.trials import TrialCheck
from raykd.tuning.journal import JOURNAL, Journal
from raykd.tuning.messages import build_no_score_error
from raykd.tuning.recording.callback import TuneCallback
from raykd.tuning.sizes import TeacherSizes, join_tasks, measure_teachers
from raykd.tuning.suggest import Suggestions
from raykd.tuning.trial_rank import TrialContext
from raykd.tuning.tuner import TrialPlan, run_trials

log = logging.getLogger("raykd.tuning")
CHECKPOINTS = "checkpoints"
TEACHER_CURVES = "teachers.jsonl"
Needed = Mapping[str, Sequence[NeededAnswers]]
"""What the trials ask the teachers about training rows, by task."""


def read_base_jobs(base: Run) -> tuple[list[Job], Job]:
    """Read the rows of the base run.

    Returns:
        What must be trained first (teachers, pretraining), and the student that every trial trains.

    Raises:
        DataError: A file, a column, a label or a size is wrong.
    """
    teachers = make_first_jobs(base)
    student = Job("student", "student", base, load_rows(base), Path())
    for job in [*teachers, student]:
        job.check_gold_labels()
        job.check_batch()
    return teachers, student


def find_shared_weightings(base: Run, searched: Sequence[str]) -> dict[str, Weighting | None]:
    """Return, by task, the weighting that all trials share; None where trials differ in it.

    None asks every teacher that speaks the language of a row.

    Args:
        base: The run that every trial begins with.
        searched: Keys that differ between trials.
    """
    weighting = re.compile(r"(task\.tasks\.[^.]+\.)?objective(\.weighting(\.|$)|$)|select_teachers(\.|$)")
    differs = any(weighting.match(key) for key in searched)
    return {task: None if differs else member.objective.weighting for task, member in base.members.items()}


class SweepDriver:
    """Prepares the teachers and runs trials over their answers.

    Args:
        base: The run that every trial begins with.
        teachers: Teachers that must be trained first.
        student: The rows that trials learn from.
        session: The session of the command.
        label: Whether teachers answer all texts before the first trial.
        needed: Which teachers trials may ask about which training rows.
        references: Teachers that are scored on the held-out rows with their ensemble, to be set beside the students,
            by the arm whose they are; "" is the base. None scores none.

    Attributes:
        journal: The sample and the results of every trial.
        notes: What a reader must know about the teachers; filled by `run`.
        references: Teachers and ensemble of each task on the held-out rows, by arm; filled by `run`, if asked for.
        sizes: How large and fast the teachers are; filled by `run`, where no references are asked for.
        tokenizers: Of the student, by `tokenizer_key`; filled by `run`.
    """

    def __init__(
        self,
        base: Run,
        teachers: Sequence[Job],
        student: Job,
        session: Session,
        label: Literal["ahead", "on_demand"],
        needed: Needed,
        *,
        references: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self.base, self.teacher_jobs, self.student = base, teachers, student
        self.session, self.folder, self.console = session, session.folder, session.console
        self.label, self.needed = label, needed
        self.journal = Journal(self.folder.path / JOURNAL)
        self.notes: tuple[str, ...] = ()
        self.references: dict[str, dict[str, list[System]]] = {}
        self.sizes = TeacherSizes()
        self.tokenizers: dict[str, Any] = {}
        self._asked_references = references

    @property
    def kept_groups(self) -> list[Group]:
        """Teachers started by this command that keep their resources while trials run."""
        own = self.base.serving.pool is None and self.label == "on_demand"
        return group_teachers(self.base, {}) if own else []

    def count_concurrent_trials(self, asked: int | None) -> int:
        """Return how many trials the cluster holds beside the teachers.

        Args:
            asked: The user's own limit; None sets none.

        Raises:
            ResourceError: No trial fits, or fewer than were asked for.
        """
        nodes = list_free_node_resources()
        return count_concurrent_trials(nodes, self.base.workers, self.kept_groups, asked)

    def run(self, *plans: Callable[[], TrialPlan]) -> Journal:
        """Train, open and review the teachers, let them answer, and run the unfinished trials.

        Args:
            plans: Return the trials, one plan after the other. Each is called when its turn comes, since it may depend
                on the journal.

        Returns:
            The journal with the results of all trials.

        Raises:
            ModelError: A teacher is not good enough (`teachers[].on_poor`).
            SweepError: No trial was scored.
        """
        if self.base.teachers or self.teacher_jobs:
            check_cluster(self.base, self.teacher_jobs, together=self.label == "on_demand")
        if not all(job.is_done for job in self.teacher_jobs):
            # An interrupted command without an MLflow run loses its folder, and with it a teacher's checkpoints.
            self.session.open_tracker()
        self._train_teachers()
        with open_teachers(
            self.base, self.teacher_jobs, self.student, self.session, self._print, more=self.needed
        ) as teachers:
            for start in teachers.counts.completed:
                self.journal.record_counters(start)
            self.review(teachers)
            self._score_references(teachers)
            self._answer(teachers)
            for build_plan in plans:
                self._run_trials(build_plan(), teachers)
            counters = [pool.counters() for pool, _ in teachers.pools.values()]
            self.journal.record_counters({name: values for each in counters for name, values in each.items()})
        return self.journal

    def review(self, teachers: TeacherStage) -> None:
        """Score the teachers on the validation rows, once for all trials.

        Raises:
            ModelError: A teacher is not good enough (`teachers[].on_poor`).
        """
        self.session.open_tracker()
        alike = all(len(parts) == 1 and parts[0].weighting is not None for parts in self.needed.values())
        teachers.review(asked_alike=alike)
        self.student = teachers.student
        self.notes = tuple(note for review in teachers.reviews.values() for note in review.notes)
        teachers.refuse_poor("base.teachers")

    def _score_references(self, teachers: TeacherStage) -> None:
        """Score the teachers on the held-out rows: now, since their processes give way to the trials."""
        if self._asked_references is None:
            return
        for arm, names in self._asked_references.items():
            own = self.references.setdefault(arm, {})
            for task, (pool, infos) in teachers.pools.items():
                member, data = self.base.members[task], self.student.data[task]
                own[task] = score_reference_systems(member, data, pool, infos, names, timed=not arm)

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _train_teachers(self) -> None:
        curves = Curves(self.folder.path / TEACHER_CURVES)
        progress = JobProgress(
            self.console, {job.name: job for job in self.teacher_jobs}, curves, lambda job, point: None
        )
        if all(job.is_done for job in self.teacher_jobs):
            train_teachers(
                self.teacher_jobs, self.folder, progress, ReadyWorker()
            )  # says that they are there
            return
        with progress.listen(), ReadyWorker() as ready:
            train_teachers(self.teacher_jobs, self.folder, progress, ready)

    def _answer(self, teachers: TeacherStage) -> None:
        """Let the teachers answer all texts, then hand their resources to the trials. Does nothing on demand."""
        if not teachers.pools or self.label == "on_demand":
            self._measure_teachers(teachers)
            teachers.counts.mark_filled()
            return
        report = LabelReport(0, 0, 0, 0.0)
        for task in teachers.pools:
            if self.needed.get(task):
                with show_progress(self.console, f"teachers answer {task}".rstrip()) as show:
                    report += self._label(teachers, task, show)
        log.info("teachers answered ahead: %s", report)
        self._measure_teachers(teachers)
        teachers.counts.mark_filled()
        with teachers.counts.pause():
            for pool, _ in teachers.pools.values():
                pool.park()

    def _measure_teachers(self, teachers: TeacherStage) -> None:
        """Time the teachers while those that answered have their weights in memory."""
        if self._asked_references is None:
            parts = [
                measure_teachers(self.base.members[task], self.student.data[task], pool, infos)
                for task, (pool, infos) in teachers.pools.items()
            ]
            self.sizes = join_tasks(parts)

    def _label(self, teachers: TeacherStage, task: str, show: Callable[[int, int], None]) -> LabelReport:
        begun = False

        def take(done: int, asked: int) -> None:
            nonlocal begun
            if not begun:  # the first call counts the answers that were stored before
                self.journal.record_labelling(asked, done, task)
            begun = True
            show(done, asked)

        report = label_needed(teachers.pools[task][0], self.needed[task], take)
        self.journal.record_labelled(report.forwarded)
        return report

    def _run_trials(self, plan: TrialPlan, teachers: TeacherStage) -> None:
        path, journal = self.folder.path, self.journal
        higher = plan.mode == "max"
        progress = plan.make_progress(self.console, self.student.metric, plan.trials, plan.names)
        for trial in journal.trials.values():
            if trial.status not in (None, "failed"):
                progress.add_earlier(trial.row(higher))
        workers = self.base.workers
        needs = [list_worker_resources(workers)] * workers.num_workers
        wait_for_resources(needs, "the first trial", self._print, self.base.ray.wait_s)
        with mailbox_on_cluster() as mailbox:
            curves, tracker = Curves(path / FILE), self.session.open_tracker()
            callback = TuneCallback(
                journal, curves, tracker, self.folder, mailbox, progress, higher, self.student.name_point
            )
            suggestions = Suggestions(
                plan.sampler,
                journal,
                num_samples=plan.trials,
                folder=path / CHECKPOINTS,
                scheduler=plan.scheduler if plan.replays else None,
                mode=plan.mode,
                on_begin=callback.on_begin,
                check=TrialCheck(plan.run_factory, self.base, self.student.data),
                on_refusal=callback.on_refusal,
            )
            context = self._context(plan, teachers, mailbox)
            with progress.show():
                run_trials(plan, context, suggestions, callback, path / "tune")
        if not any(trial.row().is_eligible for trial in journal.trials.values()):
            raise build_no_score_error(journal, self.folder, plan.time_budget_s)

    def _context(self, plan: TrialPlan, teachers: TeacherStage, mailbox: Any) -> TrialContext:
        """Collect what every trial's process receives: rows, the student's tokenizer, the pools' addresses."""
        student = self.base.student
        rows = [(task.config.task, task.data.train) for task in self.student.tasks.values()]
        joined = PoolSource(teachers.handles[""], direct=False) if "" in teachers.handles else None
        self.tokenizers = {student.tokenizer_key(): fit_tokenizer(student, rows, joined)}
        return TrialContext(
            run_factory=plan.run_factory,
            base=self.base,
            data=share_data(self.student.data),
            tokenizers=self.tokenizers,
            pools=teachers.handles,
            mailbox=mailbox,
            folder=str(self.folder.path / CHECKPOINTS),
            checkpoint_s=plan.checkpoint_s,
            students=None if plan.students is None else str(plan.students),
        )


def list_free_node_resources() -> list[Mapping[str, float]]:
    """Return the resources of each live node, less what named teacher pools hold there."""
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
