"""Sending later what MLflow did not take: points and acts of runs that ended, or were cut off, without it.

Decision record: points go first and a run's end last, so that whoever sees it ended sees it whole. What was done is
struck out at once, so a replay that is cut off goes on where it was; doing something twice does no harm, since MLflow
drops a point that it has, takes the same parameter again, and a run that was to be made is found by its local id.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.errors import RaykdError, TrackingError
from raykd.point import Point
from raykd.tracking.acts import LATER, LOCAL, Later, found_by, made, perform
from raykd.tracking.address import checked_uri, is_server
from raykd.tracking.client import cannot_start, connect, send
from raykd.tracking.outbox import CHUNK, SPOOL, from_lines, write_spool
from raykd.tracking.patience import PROBE, borrowed


@dataclass(frozen=True)
class Sent:
    """What was sent: points of curves, and other records (parameters, tags, artifacts, models, ends of runs)."""

    points: int = 0
    acts: int = 0

    def __add__(self, other: Sent) -> Sent:
        return Sent(self.points + other.points, self.acts + other.acts)


def folders_to_send(run: Path) -> list[Path]:
    """Folders of a run in which something waits, those of parents before those of their children."""
    found = {path.parent for name in (SPOOL, LATER) for path in run.rglob(name)}
    return sorted(found, key=lambda path: (len(path.parts), str(path)))


def replay(uri: str, folder: Path) -> Sent:
    """Sends what waits in a folder, each thing to its own run; what was sent is struck out.

    Raises:
        TrackingError: MLflow does not take them; what it did not take stays. OSError: a file is not there any more.
    """
    spool, later = folder / SPOOL, Later(folder / LATER)
    rows = list(from_lines(spool))
    if not rows and not later.acts:
        return Sent()
    try:
        with borrowed(PROBE if is_server(uri) else {}):
            client = connect(checked_uri(uri))
            client.search_experiments(max_results=1)
        runs = {act.run_id: made(client, uri, act) for act in later.acts if act.kind == "create"}
        _send_points(client, runs, rows)
        write_spool(spool, list(from_lines(spool))[len(rows) :])  # what a live run added meanwhile stays
        return Sent(len(rows), _perform(client, runs, later, folder))
    except (RaykdError, OSError):
        raise
    except Exception as error:
        raise cannot_start(uri, error) from None


def _send_points(client: Any, runs: dict[str, str], rows: list[tuple[str, Point]]) -> None:
    by_run: dict[str, list[Point]] = {}
    for run_id, point in rows:
        if run_id.startswith(LOCAL) and run_id not in runs:
            runs[run_id] = _made_before(client, run_id)
        by_run.setdefault(runs.get(run_id, run_id), []).append(point)
    for run_id, points in by_run.items():
        for start in range(0, len(points), CHUNK):
            send(client, run_id, points[start : start + CHUNK])


def _made_before(client: Any, run_id: str) -> str:
    """The run of a local id whose birth was sent earlier."""
    for experiment in client.search_experiments():
        if (found := found_by(client, experiment.experiment_id, run_id)) is not None:
            return found
    raise TrackingError(
        f"MLflow has no run for {run_id}",
        wanted=f"the file {LATER} that makes it",
        next_step="see the run's folder",
    )


def _perform(client: Any, runs: dict[str, str], later: Later, folder: Path) -> int:
    done, acts = 0, list(later.acts)
    for at, act in enumerate(acts):
        if act.kind != "create":
            perform(client, runs.get(act.run_id, act.run_id), act, folder)
            done += 1
            # The run's birth is struck out last: without it the others would not find their run.
            later.keep(
                [a for a in acts if a.kind == "create"] + [a for a in acts[at + 1 :] if a.kind != "create"]
            )
    later.keep([])
    return done + sum(act.run_id.startswith(LOCAL) and act.kind == "create" for act in acts)
