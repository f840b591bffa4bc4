"""Check an experiment for `raykd check`, and plan it for `raykd plan`: its base with all teachers, and every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from raykd.config import Run
from raykd.config.loading import ConfigSource, Override, read_source
from raykd.driver.jobs import Job, load_rows, make_jobs
from raykd.errors import RaykdError
from raykd.experiments.arms import ExperimentPlan
from raykd.experiments.config import is_experiment, load_experiment
from raykd.experiments.resume import compare_arms, explain_arm_changes
from raykd.experiments.starts import plan_starts
from raykd.preflight.check import collect_findings
from raykd.preflight.finding import Finding
from raykd.preflight.folder_check import describe_trials_folder
from raykd.preflight.model_check import NOTE
from raykd.preflight.plan import (
    compute_trial_disk,
    describe_resources,
    describe_sizes,
    describe_states,
    describe_steps,
    estimate_duration,
    plan_run,
)
from raykd.tuning.checks.check import check_sweep
from raykd.tuning.checks.plan import plan_concurrent_trials, plan_sweep
from raykd.tuning.config import Sweep, load_run_or_sweep

Checked = Run | Sweep | ExperimentPlan
"""What `raykd check` looks at."""


def load_checked(source: ConfigSource | Checked, overrides: Sequence[Override] = ()) -> Checked:
    """Read a run, a sweep or an experiment. A `Sweep` or an `ExperimentPlan` is returned unchanged.

    Raises:
        ConfigError: The configuration cannot be read.
    """
    if isinstance(source, Sweep | ExperimentPlan):
        return source
    if is_experiment(read_source(source)[0]):
        return load_experiment(source, overrides)
    return load_run_or_sweep(source, overrides)


def check_config(config: ConfigSource | Checked, overrides: Sequence[Override] = ()) -> list[Finding]:
    """Return all findings about a run, a sweep or an experiment."""
    read = load_checked(config, overrides)
    if isinstance(read, Sweep):
        return check_sweep(read)
    return check_experiment(read) if isinstance(read, ExperimentPlan) else collect_findings(read)


def plan_config(config: ConfigSource | Checked, overrides: Sequence[Override] = ()) -> list[Finding]:
    """Return the plan of a run, a sweep or an experiment."""
    read = load_checked(config, overrides)
    if isinstance(read, Sweep):
        return plan_sweep(read)
    return plan_experiment(read) if isinstance(read, ExperimentPlan) else plan_run(read)


def check_experiment(asked: ExperimentPlan) -> list[Finding]:
    """Return all findings about the base and the arms of an experiment."""
    plan = asked.share_teachers()
    base = collect_findings(
        plan.base,
        together=plan.label == "on_demand",
        folder=partial(describe_trials_folder, plan, partial(compare_arms, plan), explain_arm_changes),
        asked_alike=_asks_as_the_base(plan),
    )
    alone = len(plan.seeds) < 2
    return [
        Finding("experiment", plan.describe()),
        *([Finding("seeds", f"{NOTE}one seed has no interval: write two or more")] if alone else []),
        *base,
        *([] if any(finding.error for finding in base) else [_check_arms(plan)]),
        _count_at_once(plan)[1],
    ]


def _asks_as_the_base(plan: ExperimentPlan) -> bool:
    """Return whether every arm with teachers asks them as the base does."""
    parts = [(task, member) for arm in plan.arms for task, member in arm.run.members.items()]
    return all(
        member.active_teachers == plan.base.members[task].active_teachers
        and member.objective.weighting == plan.base.members[task].objective.weighting
        for task, member in parts
        if not member.plain
    )


def _count_at_once(plan: ExperimentPlan) -> tuple[int | None, Finding]:
    """Return how many trainings fit on this machine, and a line that says so."""
    return plan_concurrent_trials(plan.base, plan.max_concurrent_trials, plan.label == "ahead")


def plan_experiment(asked: ExperimentPlan) -> list[Finding]:
    """Return the plan of an experiment: resources, trainings, steps, answers, disk, time.

    Raises:
        RaykdError: A key, a file or a model of the base or of an arm cannot be used.
    """
    from raykd.experiments.run import check_arms

    plan = asked.share_teachers()
    base = plan.base
    teachers, students = make_jobs(base, Path(base.output).resolve() / plan.name)
    student = students[-1]
    check_arms(plan.fix_steps(student.steps), student.data)
    most, at_once = _count_at_once(plan)
    count = plan.trainings + len(plan.tuning_samples)
    tuned = f" and {len(plan.tuning_samples)} to choose among trials" if plan.tuning_samples else ""
    steps = f" x {student.steps:,} steps = {count * student.steps:,} steps" if plan.equal == "steps" else ""
    trainings = f"{len(plan.arms)} arms x {len(plan.seeds)} seeds = {plan.trainings:,}{tuned}{steps}"
    return [
        *describe_resources(base, together=plan.label == "on_demand"),
        at_once,
        *describe_steps([*teachers, *plan_starts(plan, teachers)[0]]),
        Finding("trainings", trainings),
        *describe_sizes(compute_trial_disk(base, student.data, count, most or 1)),
        *_describe_states(plan, student),
        estimate_duration(base, student, count, most or 1),
    ]


def _describe_states(plan: ExperimentPlan, student: Job) -> list[Finding]:
    """Describe what teachers send for `objective.features` in each arm that has some."""
    rows = {name: task.data.train for name, task in student.tasks.items()}
    found = [(arm.name, line) for arm in plan.arms for line in describe_states(arm.run, rows)]
    return [replace(line, what=f"{arm}: {line.what}") for arm, line in found]


def _check_arms(plan: ExperimentPlan) -> Finding:
    """Check every arm as a run beside the base's rows."""
    from raykd.experiments.run import check_arms  # with Tune, which takes as long as a whole check

    try:
        rows: Mapping[str, object] = load_rows(plan.base)
        check_arms(plan, rows)
    except RaykdError as error:
        return Finding("arms", error=error)
    return Finding("arms", f"all {len(plan.arms)} can be trained: {', '.join(arm.name for arm in plan.arms)}")
