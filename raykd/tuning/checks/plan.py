"""Plan a sweep for `raykd plan`: the base's plan, the trials, and how many run at once.

Decision record: `raykd.tuning.capacity` does the arithmetic with this machine as the only node. The nodes of a cluster
are known only when the sweep starts.
"""

from __future__ import annotations

from pathlib import Path

from raykd.config import Run
from raykd.driver.jobs import make_jobs
from raykd.errors import ResourceError
from raykd.preflight.check import available_here, list_replica_groups
from raykd.preflight.finding import Finding
from raykd.preflight.plan import (
    compute_trial_disk,
    describe_resources,
    describe_sizes,
    describe_steps,
    estimate_duration,
)
from raykd.tuning.capacity import count_concurrent_trials
from raykd.tuning.checks.trials import check_known_trials
from raykd.tuning.config import Sweep


def plan_sweep(sweep: Sweep) -> list[Finding]:
    """Return the plan of a sweep.

    Raises:
        RaykdError: A key, a file or a model of the base cannot be used.
    """
    base, config = sweep.base, sweep.config
    ahead = config.label == "ahead"
    teachers, students = make_jobs(base, Path(base.output).resolve() / sweep.name)
    trial = students[-1]
    most, at_once = plan_concurrent_trials(base, config.max_concurrent_trials, ahead)
    fits = most or 1
    check_known_trials(sweep, trial.data)
    return [
        *describe_resources(base, together=not ahead),
        at_once,
        *describe_steps(teachers),
        Finding(
            "trials",
            f"{sweep.trials:,} trials x {trial.steps:,} steps = {sweep.trials * trial.steps:,} steps at most; "
            f"scheduler {config.scheduler.kind}"
            + (" may stop some earlier" if config.scheduler.kind != "fifo" else " lets each end"),
        ),
        *describe_sizes(compute_trial_disk(base, trial.data, sweep.trials, fits)),
        estimate_duration(base, trial, sweep.trials, fits, config.time_budget_s),
    ]


def plan_concurrent_trials(base: Run, asked: int | None, ahead: bool) -> tuple[int | None, Finding]:
    """Return how many trials fit on this machine, and a line that says so.

    The number is the user's limit where a cluster decides, and None without a limit or if no trial fits.

    Args:
        base: The run that every trial begins with.
        asked: The user's own limit; None sets none.
        ahead: Whether teachers answer before the first trial and then give their resources back.
    """
    here = available_here(base)
    if here is None:
        return asked, Finding("trials at once", "the cluster that ray.address names decides at the start")
    has, where = here
    kept = [] if ahead else list_replica_groups(base)
    try:
        fits = count_concurrent_trials([has], base.workers, kept, None)
        chosen = count_concurrent_trials([has], base.workers, kept, asked)
    except ResourceError as error:
        return None, Finding("trials at once", error=error)
    waits = "teachers give their resources back first" if ahead else "teachers keep theirs"
    trial = f"a trial holds {base.workers.num_workers} x CPU {base.workers.num_cpus:g}"
    limit = f"; max_concurrent_trials {asked}" if asked is not None else ""
    return chosen, Finding(
        "trials at once", f"{fits} fit on {where} with CPU {has['CPU']:g} ({trial}, {waits}){limit}"
    )
