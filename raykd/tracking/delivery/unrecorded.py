"""What MLflow did not take, of all runs of this process: said once, at the end, on the terminal.

Decision record: a sweep has a tracker a trial, and a run one a teacher that it trains. Each notes here what it leaves
behind, and the command line asks once, however the command ended: one line for a folder, not one a trial.
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

    folder: where it waits; None where all of it is lost. why: what MLflow said last. lost: of the points those that the
    folder does not hold, for example since its disk was full.
    """

    uri: str
    folder: Path | None
    points: int
    records: int
    why: str
    lost: int = 0


_left: list[UnrecordedRun] = []


def note_unrecorded(left: UnrecordedRun) -> None:
    """Keep it until somebody asks."""
    with _lock:
        _left.append(left)


def take_unrecorded_lines() -> list[str]:
    """What to say of it, a line for each run's folder; it is said once."""
    with _lock:
        found, _left[:] = list(_left), []
    by_folder: dict[tuple[str, Path | None], list[UnrecordedRun]] = {}
    for left in found:
        folder = None if left.folder is None else find_run_folder(left.folder)
        by_folder.setdefault((left.uri, folder), []).append(left)
    return [_line(uri, folder, lefts) for (uri, folder), lefts in by_folder.items()]


def find_run_folder(folder: Path) -> Path:
    """The run's folder that a folder of a trial or of a teacher's training lies in."""
    return next((near for near in (folder, *folder.parents) if (near / "run.json").exists()), folder)


def _line(uri: str, folder: Path | None, lefts: list[UnrecordedRun]) -> str:
    points, records = sum(left.points for left in lefts), sum(left.records for left in lefts)
    what = " and ".join(
        f"{count:,} {name}{'' if count == 1 else 's'}"
        for count, name in ((points, "point"), (records, "other record"))
        if count
    )
    runs = f" of {len(lefts)} MLflow runs" if len(lefts) > 1 else ""
    why = next((f" ({left.why})" for left in lefts if left.why), "")
    lost = sum(left.lost for left in lefts)
    if folder is None or lost == points + records:
        rest = "they are lost"
    else:
        gone = f", but {lost:,} of the points, which are lost" if lost else ""
        rest = f"they wait in {folder}{gone}; send them with: {format_sync_command(uri, folder)}"
    return f"not recorded in MLflow: {what}{runs}{why}; {rest}"
