"""Make a run longer that was cut off, stopped early or finished: more steps or epochs, or more patience.

Decision record: learning rate, alpha, temperature and lambda are functions of progress, step / total steps. A longer
run goes on from its last checkpoint with schedules over the new length, while the steps before followed the old one.
An unbroken run of the new length would have had other values from the start, so its weights would differ; a note says
so. A student that was saved already is kept under its number of steps, since the run goes on from its last weights,
which are not its best ones.
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


@dataclass(frozen=True)
class Growth:
    """What it takes to make a run longer.

    Attributes:
        aside: Folders of saved models to rename, each with its new name.
        notes: What a reader must know.
    """

    aside: tuple[tuple[Path, Path], ...] = ()
    notes: tuple[str, ...] = ()

    def set_aside(self) -> None:
        """Rename the folders of saved models, so that their jobs count as unfinished."""
        for folder, new_name in self.aside:
            shutil.rmtree(new_name, ignore_errors=True)
            folder.rename(new_name)


def plan_growth(earlier: EarlierStart, config: Run, jobs: Sequence[Job], path: Path) -> Growth:
    """Return what it takes to make a run longer. Changes nothing.

    Args:
        earlier: What an earlier start left.
        config: The run with its new settings.
        jobs: Baseline, if there is one, and student, with the new settings.
        path: The run's folder.

    Raises:
        ConfigError: There are fewer steps or less patience than before; or the last checkpoint of a finished run is
            gone.
    """
    if earlier.config is None or not earlier.changes.growing:
        return Growth()
    before, student = earlier.config, jobs[-1]
    old_config = student.config.model_copy(update={"train": before.train})
    was, steps = replace(student, config=old_config).steps, student.steps
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
        if (
            done is None and job.role == "baseline"
        ):  # a host keeps two checkpoints of baseline and student together
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
            "the learning rate, alpha, temperature and lambda follow progress, from here on over "
            f"{steps:,} steps; the steps before followed {was:,}, so the student will not be that of an unbroken run "
            f"of {steps:,} steps"
        )
    if aside and aside[-1][0] == student.output:
        begin = f"name={path.name}-2 student='{{kind: pretrained, path: {aside[-1][1]}}}'"
        notes.append(f"a run with schedules of its own begins with that student instead: {begin}")
    return Growth(tuple(aside), tuple(notes))


def _is_less(before: int | None, now: int | None) -> bool:
    """Return whether patience is less than before; None never stops a run."""
    return now is not None and (before is None or now < before)


def _progress(path: Path, job: Job) -> tuple[int | None, int]:
    """Return the steps at the job's newest whole checkpoint (None without one), and its evaluations since the best."""
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
