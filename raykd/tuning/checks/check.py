"""Check a sweep for `raykd check`: its base as a run, its trials, and how many fit.

Decision record: reading a space already checks its keys, domains and known samples. What remains is the base, which
every trial begins with, and whether a trial fits beside the teachers.
"""

from __future__ import annotations

from functools import partial

from raykd.driver.jobs import load_rows
from raykd.errors import RaykdError
from raykd.preflight.check import collect_findings
from raykd.preflight.finding import Finding
from raykd.preflight.folder_check import describe_trials_folder
from raykd.preflight.model_check import NOTE
from raykd.tuning.checks.plan import plan_concurrent_trials
from raykd.tuning.checks.resume import compare_sweep, explain_sweep
from raykd.tuning.checks.trials import check_known_trials
from raykd.tuning.config import Sweep


def check_sweep(sweep: Sweep) -> list[Finding]:
    """Return all findings about the space, the base, the trials and their resources."""
    names = ", ".join(dict.fromkeys(sweep.space.short_names().values()))
    config, ahead = sweep.config, sweep.config.label == "ahead"
    summary = (
        f"{sweep.trials:,} trials over {names}; search {config.search.kind}, scheduler {config.scheduler.kind}, "
        f"by validation {sweep.metric}"
    )
    folder = partial(describe_trials_folder, sweep, partial(compare_sweep, sweep), explain_sweep)
    base = collect_findings(sweep.base, together=not ahead, folder=folder)
    return [
        Finding("space", summary),
        *(Finding("space", f"{NOTE}{note}") for note in sweep.notes),
        *base,
        *([] if any(finding.error for finding in base) else [_check_trials(sweep)]),
        plan_concurrent_trials(sweep.base, config.max_concurrent_trials, ahead)[1],
    ]


def _check_trials(sweep: Sweep) -> Finding:
    """Check every trial that is known before the start, as a run beside the base's rows."""
    try:
        check_known_trials(sweep, load_rows(sweep.base))
    except RaykdError as error:
        return Finding("trials", error=error)
    if sweep.config.search.learns:
        return Finding(
            "trials",
            "settings drawn from the space can all be trained; each trial is checked when its turn comes",
        )
    return Finding("trials", f"all {sweep.trials:,} can be trained")
