"""Check the trials of a sweep as `raykd check` checks a run. Known trials before the start, others one by one.

Decision record: a trial differs from the base in a few keys. So the slow checks (the student's checkpoint, rows that a
space searches) run once per value of the keys that they depend on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.config import Run, RunConfig
from raykd.data.load import Dataset, load_data
from raykd.driver.gold_labels import check_gold_labels, share_labels
from raykd.driver.jobs import Job
from raykd.errors import RaykdError
from raykd.preflight.check import available_here, list_replica_groups
from raykd.preflight.combinations import check_combinations
from raykd.preflight.features_check import describe_state_bytes
from raykd.preflight.model_check import check_made
from raykd.preflight.teacher_check import check_pretrained_student
from raykd.spaces.domains import Scalar
from raykd.spaces.space import Sample
from raykd.tuning.capacity import count_concurrent_trials
from raykd.tuning.checks.refusals import DRAWS, MAX_CHECKED_TRIALS, refuse_trials
from raykd.tuning.config import Sweep

if TYPE_CHECKING:
    from raykd.tuning.trial_rank import RunFactory

MAX_CACHED_DATASETS = 4
"""Data sets kept in memory for a space that searches `data`. Others are read again."""


class TrialCheck:
    """Refuses a sample whose run cannot train.

    Args:
        run_factory: Make runs of samples.
        base: The run that trials begin with.
        data: Its rows, by task.
    """

    def __init__(self, run_factory: RunFactory, base: Run, data: Mapping[str, Dataset]) -> None:
        self._run_factory = run_factory
        self._base = data
        self._rows = {member.data.model_dump_json(): data[task] for task, member in base.members.items()}
        self._kept = len(self._rows)
        self._students: set[str] = set()

    def __call__(self, sample: Mapping[str, Scalar]) -> None:
        """Check one trial.

        Raises:
            RaykdError: The error that the trial would end with, without its values.
        """
        run = self._run_factory.build_run(sample)
        for member in run.members.values():
            check_combinations(member)
            parts = (member.student.model_dump_json(), member.task.model_dump_json(), str(member.data.labels))
            stage = "" if member.pretraining is None else member.pretraining.model_dump_json()
            if (student := "\n".join((*parts, stage))) not in self._students:
                check_made(member.student, member, "student")
                if member.pretraining is not None:
                    check_pretrained_student(member)
                self._students.add(student)
        data = {task: self._read(task, member) for task, member in run.members.items()}
        for task, member in run.members.items():
            check_gold_labels(member, data[task], judged_elsewhere=True)
            describe_state_bytes(member, data[task].train)  # refuses what is too much
        Job("student", "student", run, data, Path()).check_batch()

    def _read(self, task: str, run: RunConfig) -> Dataset:
        key = run.data.model_dump_json()
        if key not in self._rows:
            if len(self._rows) >= self._kept + MAX_CACHED_DATASETS:
                self._rows.pop(list(self._rows)[self._kept])  # the base's own rows stay
            self._rows[key] = share_labels(load_data(run.data, Path.cwd(), run.form), self._base[task])
        return self._rows[key]


def check_known_trials(plan: Sweep, data: Mapping[str, Dataset]) -> None:
    """Check every trial that is known before the start. For a search that learns, check draws of its space.

    Raises:
        ConfigError: Some trials cannot be run. Names their values, the key and the reason.
    """
    check = TrialCheck(plan.space, plan.base, data)
    known = plan.known_samples(MAX_CHECKED_TRIALS)
    samples = plan.space.draw_covering(DRAWS) if known is None else known
    bad: list[tuple[Sample, RaykdError]] = []
    for sample in samples:
        try:
            check(sample)
        except RaykdError as error:
            bad.append((sample, error))
    if bad:
        refuse_trials(bad, plan.name, drawn=len(samples) if known is None else None, trials=plan.trials)


def check_trial_resources(plan: Sweep) -> None:
    """Refuse a sweep whose trials do not fit on this machine. A cluster is asked when the sweep starts.

    Raises:
        ResourceError: No trial fits, or fewer than were asked for.
    """
    here = available_here(plan.base)
    if here is not None:
        kept = [] if plan.config.label == "ahead" else list_replica_groups(plan.base)
        count_concurrent_trials([here[0]], plan.base.workers, kept, plan.config.max_concurrent_trials)
