"""A run that is made longer: more steps or epochs, more patience, on one that was cut off, stopped early or finished.

Decision record: learning rate, alpha, temperature and lambda are functions of progress, step / total steps. A run that
is made longer goes on from its last checkpoint, and from there they follow the new length; the steps before followed
the old one. An unbroken run of the new length would have been at other values from the start, so the weights are not
those of such a run: that is said, and recorded. A student that was saved already is set aside under its number of
steps, since the run goes on from its last weights, which are not its best ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from raykd.checkpoint.find import find_checkpoint, list_starts
from raykd.checkpoint.storage import StorageFolder
from raykd.config import Run
from raykd.driver.jobs import Job
from raykd.errors import ConfigError
from raykd.folders.changes import Changes
from raykd.folders.earlier_start import EarlierStart

GROUP = "student"
"""Name of the worker group that trains baseline and student."""
STORAGE = "ray"
"""Folder of a run's checkpoints."""
_FOLLOW = "the learning rate, alpha, temperature and lambda"


@dataclass(frozen=True)
class Growth:
    """What making a run longer does. aside: saved models to set aside, and where to. notes: what to say."""

    aside: tuple[tuple[Path, Path], ...] = ()
    notes: tuple[str, ...] = ()

    def set_aside(self) -> None:
        """Rename saved models, so that their jobs are not over."""
        for now, then in self.aside:
            shutil.rmtree(then, ignore_errors=True)
            now.rename(then)


def plan_growth(earlier: EarlierStart, config: Run, jobs: Sequence[Job], path: Path) -> Growth:
    """Return what it takes to make a run longer; change nothing.

    Args:
        earlier: What is there.
        jobs: Baseline and student with the settings of now.
        path: The run's folder.

    Raises:
        ConfigError: Fewer steps or less patience than before; or a finished run whose last checkpoint is
            gone.
    """
    if earlier.config is None or not earlier.changes.growing:
        return Growth()
    before, student = earlier.config, jobs[-1]
    was, steps = _with_settings(student, before).steps, student.steps
    if steps < was:
        raise _shorter_run_error(
            earlier.changes, path, f"with fewer steps: {steps:,}, and it was begun with {was:,}"
        )
    if _is_less(before.train.patience, config.train.patience):
        raise _shorter_run_error(
            earlier.changes, path, "with less patience than it was begun with (null never stops early)"
        )
    aside, notes = [], []
    for job in jobs:
        if not job.is_done:
            continue
        done, stale = _progress(path, job)
        if done is None and job.role == "baseline":  # Ray Train keeps the last two of baseline and student
            aside.append((job.output, path / f"{job.name}-{was}-steps"))
            notes.append(f"the checkpoints of the {job.name} are gone: it is trained anew, {steps:,} steps")
            continue
        if done is None:
            raise _no_checkpoint_error(earlier.changes, path, job)
        patience = config.train.patience
        if done < job.steps and (patience is None or stale < patience):
            kept = path / f"{job.name}-{done}-steps"
            aside.append((job.output, kept))
            notes.append(f"{job.name} trains on from step {done:,}; as it was then it is kept in {kept}")
    if steps > was:
        notes.append(
            f"{_FOLLOW} follow progress, from here on over {steps:,} steps; the steps before followed {was:,}, so the "
            f"student will not be that of an unbroken run of {steps:,} steps"
        )
    if aside and aside[-1][0] == student.output:
        begin = f"name={path.name}-2 student='{{kind: pretrained, path: {aside[-1][1]}}}'"
        notes.append(f"a run with schedules of its own begins with that student instead: {begin}")
    return Growth(tuple(aside), tuple(notes))


def _with_settings(job: Job, config: Run) -> Job:
    """Return the job as it would be with these settings, over the same rows."""
    return replace(job, config=job.config.model_copy(update={"train": config.train}))


def _is_less(before: int | None, now: int | None) -> bool:
    """Return whether a run would be stopped earlier than before; None never stops."""
    return now is not None and (before is None or now < before)


def _progress(path: Path, job: Job) -> tuple[int | None, int]:
    """Steps at the job's newest whole checkpoint (None without one), and its evaluations without a better score."""
    starts = list_starts(StorageFolder(str(path / STORAGE)), GROUP)
    found = find_checkpoint(starts, job.name, passed_over=lambda why: None)
    if found is None:
        return None, 0
    state = json.loads(found.read("loop/state.json"))
    return int(state["step"]), int(state["stale"])


def _shorter_run_error(changes: Changes, path: Path, how: str) -> ConfigError:
    return ConfigError(
        f"cannot resume {path} {how}",
        got="; ".join(f"{c.key} {c.now} (was {c.before})" for c in changes.growing),
        wanted="as many steps and as much patience as before, or more",
        next_step=f"resume without the change; or make another run: name={path.name}-2; or start anew: --overwrite",
    )


def _no_checkpoint_error(changes: Changes, path: Path, job: Job) -> ConfigError:
    return ConfigError(
        f"cannot train {path} on: its last checkpoint is gone",
        got=f"{', '.join(map(str, changes.growing))}, and no whole checkpoint of the {job.name} in {path / STORAGE}",
        wanted="the checkpoint of its last step",
        next_step=f"begin a new run with its student: name={path.name}-2 "
        f"student='{{kind: pretrained, path: {path / job.name}}}'",
    )
