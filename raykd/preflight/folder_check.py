"""Describe the folder that a run or a sweep would use, for `raykd check`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from raykd.config import Run
from raykd.driver.growth import plan_growth
from raykd.driver.jobs import Job
from raykd.errors import ConfigError
from raykd.folders.changes import Changes
from raykd.folders.earlier_start import EarlierStart
from raykd.folders.folder import Compare, Owner, check_rows, check_run_folder, find_run_path, read_status

_RESUME = "--resume"
"""The option that continues a run, a sweep or an experiment."""


def describe_folder(config: Run, jobs: Sequence[Job]) -> tuple[str, str]:
    """Describe what a run's folder holds already, and find the argument with which the run starts.

    Args:
        config: The run.
        jobs: Baseline and student; () if their data could not be read.

    Raises:
        ConfigError: The run in the folder can neither be continued nor overwritten.
    """

    def go_on(path: Path) -> EarlierStart:
        earlier = check_run_folder(config, resume=True, overwrite=False)
        if jobs:
            check_rows(path, earlier.state, jobs[-1].fingerprints())
            plan_growth(earlier, config, jobs, path)
        return earlier

    return _describe(config, go_on)


def describe_trials_folder(
    owner: Owner,
    compare: Compare,
    explain: Callable[[Path, Changes], ConfigError],
    jobs: Sequence[Job],
) -> tuple[str, str]:
    """Do for a sweep or an experiment what `describe_folder` does for a run.

    Args:
        owner: The sweep or experiment.
        compare: Compares its settings with those in the folder.
        explain: Says which changed settings stop the resume.
        jobs: The student; () if its data could not be read.
    """

    def go_on(path: Path) -> EarlierStart:
        earlier = check_run_folder(owner, resume=True, overwrite=False, compare=compare, explain=explain)
        if jobs:
            check_rows(path, earlier.state, jobs[-1].fingerprints())
        return earlier

    return _describe(owner, go_on)


def _describe(owner: Owner, go_on: Callable[[Path], EarlierStart]) -> tuple[str, str]:
    """Describe the folder of a run or a sweep, which `go_on` checks for whether it can be continued."""
    path = find_run_path(owner)
    if not path.is_symlink() and (not path.exists() or (path.is_dir() and not any(path.iterdir()))):
        return f"{path} is new", ""
    check_run_folder(owner, resume=False, overwrite=True)
    anew = f"--overwrite starts anew, name={path.name}-2 makes another"
    try:
        earlier = go_on(path)
    except ConfigError as error:
        return (
            f"{path} is there; {_RESUME} is refused: {error.what}: {error.got}; {anew}",
            f"name={path.name}-2",
        )
    changes, status = earlier.changes.allowed, read_status(path, earlier.state)
    goes_on = (
        "goes on" if status != "finished" else "trains on" if earlier.changes.growing else "shows its results"
    )
    goes_on += f" with {', '.join(map(str, changes))}" if changes else ""
    return f"{path} exists already, {status}: {_RESUME} {goes_on}, {anew}", _RESUME
