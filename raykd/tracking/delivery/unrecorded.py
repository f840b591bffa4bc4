"""Collect what MLflow did not take, over all runs of this process, and say it once at the end.

Decision record: a sweep has a tracker for each trial, and a run one for each teacher that it trains. Each notes here
what it leaves behind. The command line asks once, however the command ended, and prints a line for each folder, not for
each trial.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from raykd.tracking.address import format_sync_command

_lock = threading.Lock()


@dataclass(frozen=True)
class UnrecordedRun:
    """What one MLflow run lacks.

    Attributes:
        folder: Where it waits; None where all of it is lost.
        points: Points of curves.
        records: Other records: parameters, tags, artifacts, models, the end of the run.
        why: What MLflow said last.
        lost: Points that the folder does not hold, for example since its disk was full.
    """

    uri: str
    folder: Path | None
    points: int
    records: int
    why: str
    lost: int = 0


_unrecorded: list[UnrecordedRun] = []


def note_unrecorded(run: UnrecordedRun) -> None:
    """Keep it until `take_unrecorded_lines` is called."""
    with _lock:
        _unrecorded.append(run)


def take_unrecorded_lines() -> list[str]:
    """Return a line for each run's folder, and forget what was noted."""
    with _lock:
        found = _unrecorded.copy()
        _unrecorded.clear()
    by_folder: dict[tuple[str, Path | None], list[UnrecordedRun]] = {}
    for run in found:
        folder = None if run.folder is None else find_run_folder(run.folder)
        by_folder.setdefault((run.uri, folder), []).append(run)
    return [_describe(uri, folder, runs) for (uri, folder), runs in by_folder.items()]


def find_run_folder(folder: Path) -> Path:
    """Return the run's folder that a folder of a trial or of a teacher's training lies in."""
    return next((near for near in (folder, *folder.parents) if (near / "run.json").exists()), folder)


def _describe(uri: str, folder: Path | None, runs: list[UnrecordedRun]) -> str:
    points, records, lost = (sum(x) for x in zip(*((r.points, r.records, r.lost) for r in runs), strict=True))
    what = " and ".join(
        f"{count:,} {name}{'' if count == 1 else 's'}"
        for count, name in ((points, "point"), (records, "other record"))
        if count
    )
    many = f" of {len(runs)} MLflow runs" if len(runs) > 1 else ""
    why = next((f" ({run.why})" for run in runs if run.why), "")
    if folder is None or lost == points + records:
        rest = "they are lost"
    else:
        gone = f", but {lost:,} of the points, which are lost" if lost else ""
        rest = f"they wait in {folder}{gone}; send them with: {format_sync_command(uri, folder)}"
    return f"not recorded in MLflow: {what}{many}{why}; {rest}"
