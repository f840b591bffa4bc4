"""`raykd check` of a search space: its base as a run, and what is searched about it.

Decision record: reading a space checks its keys, domains and the samples that are known; what is left is the base,
which every trial begins with, and whether a trial fits beside the teachers.
"""

from __future__ import annotations

from raykd.errors import RaykdError
from raykd.runs.check import Finding, check
from raykd.sweep.config import Sweep
from raykd.sweep.plan import trials_at_once
from raykd.sweep.run import check_keys


def check_sweep(sweep: Sweep) -> list[Finding]:
    """All findings of a sweep, good and bad: of the space, of the base, of the trials' resources."""
    names = ", ".join(sweep.space.names().values())
    config, ahead = sweep.config, sweep.config.label == "ahead"
    told = (
        f"{sweep.trials:,} trials over {names}; search {config.search.kind}, scheduler {config.scheduler.kind}, "
        f"by validation {sweep.metric}"
    )
    error: RaykdError | None = None
    try:
        check_keys(sweep)
    except RaykdError as found:
        error = found
    at_once = trials_at_once(sweep)[1]
    return [
        Finding("space", told, error),
        *check(sweep.base, together=not ahead, folder=sweep.name),
        Finding("trials at once", at_once.detail, at_once.error),
    ]
