"""Sending later what MLflow did not take: points and ops of runs that ended, or were cut off, without it.

Decision record: points go first and a run's end last, so that whoever sees it ended sees it whole. What was done is
struck out at once, so a replay that is cut off goes on where it was; doing something twice does no harm, since MLflow
drops a point that it has, takes the same parameter again, and a run that was to be made is found by its local id.
A file that is not there any more keeps only itself back. A run that MLflow does not know is never made anew unasked:
mostly it is another server that is asked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.errors import RaykdError, TrackingError
from raykd.point import Point
from raykd.tracking.address import (
    Experiment,
    check_uri,
    find_database_path,
    format_sync_command,
    is_server,
    redact,
)
from raykd.tracking.client import FOR_GOOD, KeyNames, check_run, connect_mlflow, read_stage, send_points
from raykd.tracking.delivery.operations import (
    LATER,
    LOCAL,
    TrackingOp,
    WaitingOps,
    create_run,
    find_created_run,
    perform_op,
)
from raykd.tracking.delivery.outbox import CHUNK, SPOOL, extract_first_line, read_spool_lines, write_spool
from raykd.tracking.stores.artifacts import repair_artifact_location
from raykd.tracking.stores.database import is_new
from raykd.tracking.stores.failure import convert_failure
from raykd.tracking.timeouts import PROBE, set_mlflow_variables

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class SyncResult:
    """What was sent: points of curves, and other records (parameters, tags, artifacts, models, ends of runs).

    kept: what could not be sent, each with its reason; it stays where it was.
    """

    points: int = 0
    operations: int = 0
    kept: tuple[str, ...] = ()

    def __add__(self, other: SyncResult) -> SyncResult:
        return SyncResult(
            self.points + other.points, self.operations + other.operations, self.kept + other.kept
        )


def find_waiting_folders(run: Path) -> list[Path]:
    """Folders of a run in which something waits, those of parents before those of their children."""
    found = {path.parent for name in (SPOOL, LATER) for path in run.rglob(name)}
    return sorted(found, key=lambda path: (len(path.parts), str(path)))


def send_waiting(uri: str, folder: Path, *, new_run: Experiment | None = None) -> SyncResult:
    """Sends what waits in a folder, each thing to its own run; what was sent is struck out.

    Args:
        new_run: the experiment of a new run for what belongs to a run that MLflow does not know; None refuses.
    Raises:
        TrackingError: MLflow does not take them; what it did not take stays.
    """
    spool, later = folder / SPOOL, WaitingOps(folder / LATER)
    rows = list(read_spool_lines(spool))
    if not rows and not later.ops:
        return SyncResult()
    uri = check_uri(uri)
    try:
        with set_mlflow_variables(PROBE if is_server(uri) else {}):
            client = _connected(uri, folder, rows, later.ops, new_run)
        runs = _runs(client, uri, folder, rows, later.ops, new_run)
        _send_points(client, runs, rows)
        write_spool(
            spool, list(read_spool_lines(spool))[len(rows) :]
        )  # what a live run added meanwhile stays
        return SyncResult(len(rows)) + _perform(client, runs, later, folder)
    except RaykdError:
        raise
    except Exception as error:
        raise convert_failure(uri, error) from None


def _connected(
    uri: str, folder: Path, rows: list[tuple[str, Point]], ops: list[TrackingOp], new_run: Experiment | None
) -> Any:
    """A client; a database is made only where a run is to be made in it too."""
    path = find_database_path(uri)
    makes = new_run is not None or any(op.kind == "create" for op in ops)
    if path is not None and is_new(path) and not makes:
        run_id = next(iter([run_id for run_id, _ in rows] + [op.run_id for op in ops]))
        raise _unknown(run_id, f"there is no database {path}", folder, uri)
    client = connect_mlflow(uri)
    client.search_experiments(max_results=1)
    return client


def _runs(
    client: MlflowClient,
    uri: str,
    folder: Path,
    rows: list[tuple[str, Point]],
    ops: list[TrackingOp],
    new_run: Experiment | None,
) -> dict[str, str]:
    """The MLflow run of each id that waits.

    Raises:
        TrackingError: one is deleted, or not there and no other may take its place.
    """
    runs = {op.run_id: create_run(client, uri, op) for op in ops if op.kind == "create"}
    waiting = dict.fromkeys([run_id for run_id, _ in rows] + [op.run_id for op in ops])
    for run_id in waiting:
        if run_id in runs:
            continue
        runs[run_id] = run_id
        if run_id.startswith(LOCAL) or read_stage(client, run_id) == "absent":
            before = _made_before(client, run_id)
            if before is not None:
                runs[run_id] = before
                continue
            if new_run is None:
                raise _unknown(run_id, f"there is no MLflow run {run_id} at {redact(uri)}", folder, uri)
            born = {"experiment": new_run.name, "experiment_id": new_run.id, "name": folder.name}
            op = TrackingOp(
                run_id, "create", "the run", {**born, "parent": None, "time_ms": int(time.time() * 1000)}
            )
            runs[run_id] = create_run(client, uri, op)
        check_run(client, uri, runs[run_id])
    for experiment_id in {client.get_run(run_id).info.experiment_id for run_id in runs.values()}:
        repair_artifact_location(client, uri, experiment_id)
    return runs


def _unknown(run_id: str, what: str, folder: Path, uri: str) -> TrackingError:
    return TrackingError(
        what,
        got=f"records of the MLflow run {run_id} in {folder}",
        wanted="the database or server that has it",
        next_step=f"MLFLOW_TRACKING_URI=... {format_sync_command('', folder)} if it is another one; "
        f"{format_sync_command(uri, folder)} --new-run if it is gone",
    )


def _send_points(client: MlflowClient, runs: dict[str, str], rows: list[tuple[str, Point]]) -> None:
    by_run: dict[str, list[Point]] = {}
    for run_id, point in rows:
        by_run.setdefault(runs[run_id], []).append(point)
    for run_id, points in by_run.items():
        names = KeyNames(client.get_run(run_id).data.metrics)
        for start in range(0, len(points), CHUNK):
            send_points(client, run_id, points[start : start + CHUNK], names)


def _made_before(client: MlflowClient, run_id: str) -> str | None:
    """The run that was made earlier for an id that MLflow does not know."""
    for experiment in client.search_experiments():
        if (found := find_created_run(client, experiment.experiment_id, run_id)) is not None:
            return found
    return None


def _perform(client: MlflowClient, runs: dict[str, str], later: WaitingOps, folder: Path) -> SyncResult:
    done, kept, ops = 0, [], list(later.ops)
    births = [op for op in ops if op.kind == "create"]
    rest = [op for op in ops if op.kind != "create"]
    left: list[TrackingOp] = []
    for at, op in enumerate(rest):
        try:
            perform_op(client, runs[op.run_id], op, folder)
            done += 1
        except Exception as error:
            if not _is_of_this_act(error):
                try:
                    client.search_experiments(max_results=1)
                except Exception:
                    raise error from None
            left.append(op)
            kept.append(f"{op.what}: {redact(extract_first_line(error))[:300]}")
        # The run's birth is struck out last: without it the others would not find their run.
        later.keep([*births, *left, *rest[at + 1 :]])
    later.keep([*births, *left] if left else [])
    return SyncResult(
        0, done + (0 if left else sum(op.run_id.startswith(LOCAL) for op in births)), tuple(kept)
    )


def _is_of_this_act(error: Exception) -> bool:
    """Whether another op may well succeed: a file is not there, or MLflow refuses a value for good."""
    refused = getattr(error, "error_code", None) in FOR_GOOD
    return refused or isinstance(
        error, (TrackingError, FileNotFoundError, NotADirectoryError, KeyError, ValueError)
    )
