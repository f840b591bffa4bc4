"""Find the checkpoint that a run or a trial goes on from.

Decision record: Ray Train writes its list of checkpoints in place, so a driver killed at the wrong moment leaves an
unreadable list, and Ray Train would load a damaged checkpoint again and again. So its list is used neither for a
resume (each start of a run is a new Ray Train run) nor after a loss of workers: rank 0 looks for the newest whole
checkpoint and tells the other ranks. Tune's list is not used either, so runs and trials look by the same rule: the
latest attempt first, and in it the highest step.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence

from raykd.checkpoint.manifest import CheckpointInfo, find_problem, is_finished
from raykd.checkpoint.storage import StorageFolder

log = logging.getLogger("raykd.runs")
_NAME = re.compile(r"(?:checkpoint_)?(?P<step>\d{8})-(?P<attempt>\d+)(?:-(?P<job>.+))?")
"""Name of a checkpoint. Trials of earlier versions wrote only a step and an attempt."""


def checkpoint_name(info: CheckpointInfo, attempt: int) -> str:
    """Return the name of a checkpoint's folder.

    Args:
        info: The checkpoint's job and step.
        attempt: Number of the attempt, which grows with time.
    """
    return f"checkpoint_{info.step:08d}-{attempt}-{info.job}"


def find_checkpoint(
    folders: Sequence[StorageFolder],
    job: str,
    passed_over: Callable[[str], None] = log.warning,
    *,
    world: int | None = None,
) -> StorageFolder | None:
    """Return the newest whole checkpoint of a job.

    Args:
        folders: Folders that hold checkpoints.
        job: Name of the job.
        passed_over: Called with a note on each newer checkpoint that cannot be used.
        world: As for `find_problem`.
    """
    found: list[tuple[int, int, StorageFolder]] = []
    for folder in folders:
        for name in {file.partition("/")[0] for file in folder.sizes()}:
            match = _NAME.fullmatch(name)
            if match is not None and match["job"] in (None, job):
                found.append((int(match["attempt"]), int(match["step"]), folder.child(name)))
    # Sorted by attempt and step; folders have no order.
    for _, _, checkpoint in sorted(found, key=lambda one: one[:2], reverse=True):
        wrong = find_problem(checkpoint, world=world)
        if wrong is None:
            return checkpoint
        passed_over(f"passed over checkpoint {checkpoint.url}: {wrong}")
    return None


def list_starts(storage: StorageFolder, name: str) -> list[StorageFolder]:
    """Return the folders of all starts of a worker group, each with the checkpoints of one start."""
    return [storage.child(f"{name}-{number}") for number in _list_numbers(storage, name)]


def next_start(storage: StorageFolder, name: str) -> str:
    """Return a name for the next start of a worker group."""
    return f"{name}-{max(_list_numbers(storage, name), default=0) + 1}"


def prune(storage: StorageFolder, name: str, current: str, keep: StorageFolder | None) -> None:
    """Remove what no attempt needs: earlier starts, and checkpoints that were never finished.

    Finished checkpoints of the current start are left to its host, which counts them.

    Args:
        storage: Folder of all worker groups of a run.
        name: Name of the group.
        current: Name of the current start.
        keep: The checkpoint to go on from, whose start stays.
    """
    for start in list_starts(storage, name):
        if start.name != current and (keep is None or not keep.url.startswith(f"{start.url}/")):
            start.remove()
            continue
        for checkpoint, files in _list_checkpoints(start):
            if checkpoint != keep and not is_finished(checkpoint, files):
                checkpoint.remove()


def keep_newest(start: StorageFolder, count: int) -> None:
    """Remove the checkpoints of a start of a worker group but for the newest ``count``."""
    found = []
    for checkpoint, _ in _list_checkpoints(start):
        match = _NAME.fullmatch(checkpoint.name)
        if match is not None:
            found.append((int(match["attempt"]), int(match["step"]), checkpoint))
    for _, _, checkpoint in sorted(found, key=lambda one: one[:2])[:-count]:
        checkpoint.remove()


def _list_checkpoints(start: StorageFolder) -> Iterator[tuple[StorageFolder, dict[str, int]]]:
    files: dict[str, dict[str, int]] = {}
    for path, size in start.sizes().items():
        name, _, inner = path.partition("/")
        if name.startswith("checkpoint_") and inner:
            files.setdefault(name, {})[inner] = size
    for name, found in files.items():
        yield start.child(name), found


def _list_numbers(storage: StorageFolder, name: str) -> list[int]:
    if (local := storage.local_path) is not None:
        names = [path.name for path in local.glob("*") if path.is_dir()]
    else:
        names = sorted({file.partition("/")[0] for file in storage.sizes() if "/" in file})
    numbers = [one.removeprefix(f"{name}-") for one in names if one.startswith(f"{name}-")]
    return sorted(int(number) for number in numbers if number.isdigit())
