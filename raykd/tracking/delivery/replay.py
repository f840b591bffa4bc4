"""Send later what MLflow did not take: points and operations of runs that ended, or were cut off, without it.

Decision record: points go first and a run's end last, so that whoever sees it ended sees it whole. What was done is
struck out at once, so that a replay that is cut off goes on where it was. Doing something twice does no harm: MLflow
drops a point that it has, takes the same parameter again, and a run that was to be created is found by its local id. A
file that is gone holds back nothing but itself. A run that MLflow does not know is never created anew unasked, since
mostly another server is asked by mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.errors import RaykdError, TrackingError
from raykd.point import Point
from raykd.redaction import redact
from raykd.tracking.address import Experiment, check_uri, find_database_path, format_sync_command
from raykd.tracking.client import FOR_GOOD, KeyNames, check_run, connect_mlflow, read_stage, send_points
from raykd.tracking.delivery.operations import (
    LATER,
    LOCAL,
    TrackingOp,
    WaitingOps,
    create_run,
    find_created_run,
    make_create_op,
    perform_op,
)
from raykd.tracking.delivery.outbox import CHUNK, SPOOL, describe_error, read_spool_lines, write_spool
from raykd.tracking.stores.artifacts import repair_artifact_location
from raykd.tracking.stores.database import is_new
from raykd.tracking.stores.failure import convert_failure
from raykd.tracking.timeouts import ask_briefly

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class SyncResult:
    """What was sent.

    Attributes:
        points: Points of curves.
        operations: Other records: parameters, tags, artifacts, models, ends of runs.
        kept: What could not be sent, each with its reason. It stays where it was.
    """

    points: int = 0
    operations: int = 0
    kept: tuple[str, ...] = ()

    def __add__(self, other: SyncResult) -> SyncResult:
        return SyncResult(
            self.points + other.points, self.operations + other.operations, self.kept + other.kept
        )


def find_waiting_folders(run: Path) -> list[Path]:
    """Return the folders of a run in which something waits, those of parents before those of their children."""
    found = {path.parent for name in (SPOOL, LATER) for path in run.rglob(name)}
    return sorted(found, key=lambda path: (len(path.parts), str(path)))


def send_waiting(uri: str, folder: Path, *, new_run: Experiment | None = None) -> SyncResult:
    """Send what waits in a folder, each thing to its own run, and strike out what was sent.

    Args:
        uri: Address of MLflow.
        folder: The folder of a run.
        new_run: Experiment of a new run for what belongs to a run that MLflow does not know; None refuses.

    Raises:
        TrackingError: MLflow does not take them; what it did not take stays.
    """
    spool, later = folder / SPOOL, WaitingOps(folder / LATER)
    rows = list(read_spool_lines(spool))
    run_ids = list(dict.fromkeys([run_id for run_id, _ in rows] + [op.run_id for op in later.ops]))
    if not run_ids:
        return SyncResult()
    uri = check_uri(uri)
    births = [op for op in later.ops if op.kind == "create"]
    try:
        path = find_database_path(uri)
        if path is not None and is_new(path) and not births and new_run is None:
            raise _make_unknown_error(run_ids[0], f"there is no database {path}", folder, uri)
        with ask_briefly(uri):
            client = connect_mlflow(uri)
            client.search_experiments(max_results=1)
        runs = {op.run_id: create_run(client, uri, op) for op in births}
        for run_id in run_ids:
            if run_id not in runs:
                runs[run_id] = _find_run(client, uri, folder, run_id, new_run)
                check_run(client, uri, runs[run_id])
        for experiment_id in {client.get_run(run_id).info.experiment_id for run_id in runs.values()}:
            repair_artifact_location(client, uri, experiment_id)
        _send_points(client, runs, rows)
        # What a live run added meanwhile stays.
        write_spool(spool, list(read_spool_lines(spool))[len(rows) :])
        return SyncResult(len(rows)) + _perform_waiting(client, runs, later, births, folder)
    except RaykdError:
        raise
    except Exception as error:
        raise convert_failure(uri, error) from None


def _find_run(client: MlflowClient, uri: str, folder: Path, run_id: str, new_run: Experiment | None) -> str:
    """The MLflow run of an id that waits: itself, one that was created for it before, or a new one.

    Raises:
        TrackingError: There is none, and no other may take its place.
    """
    if not run_id.startswith(LOCAL) and read_stage(client, run_id) != "absent":
        return run_id
    for experiment in client.search_experiments():
        if (found := find_created_run(client, experiment.experiment_id, run_id)) is not None:
            return found
    if new_run is None:
        what = f"there is no MLflow run {run_id} at {redact(uri)}"
        raise _make_unknown_error(run_id, what, folder, uri)
    return create_run(client, uri, make_create_op(folder.name, new_run, run_id=run_id))


def _make_unknown_error(run_id: str, what: str, folder: Path, uri: str) -> TrackingError:
    return TrackingError(
        what,
        got=f"records of the MLflow run {run_id} in {folder}",
        wanted="the database or server that has it",
        next_step=f"MLFLOW_TRACKING_URI=... {format_sync_command('', folder)} if it is another one; "
        f"{format_sync_command(uri, folder)} --new-run if it is gone",
    )


def _send_points(client: MlflowClient, runs: dict[str, str], rows: Sequence[tuple[str, Point]]) -> None:
    by_run: dict[str, list[Point]] = {}
    for run_id, point in rows:
        by_run.setdefault(runs[run_id], []).append(point)
    for run_id, points in by_run.items():
        names = KeyNames(client.get_run(run_id).data.metrics)
        for start in range(0, len(points), CHUNK):
            send_points(client, run_id, points[start : start + CHUNK], names)


def _perform_waiting(
    client: MlflowClient, runs: dict[str, str], later: WaitingOps, births: Sequence[TrackingOp], folder: Path
) -> SyncResult:
    rest = [op for op in later.ops if op.kind != "create"]
    left: list[TrackingOp] = []
    kept = []
    for at, op in enumerate(rest, 1):
        try:
            perform_op(client, runs[op.run_id], op, folder)
        except Exception as error:
            if not _concerns_one_op(error):
                try:
                    client.search_experiments(max_results=1)
                except Exception:
                    raise error from None  # MLflow is gone, and all others would fail as well
            left.append(op)
            kept.append(f"{op.what}: {describe_error(error)}")
        # The run's birth is struck out last: without it the others would not find their run.
        later.keep([*births, *left, *rest[at:]])
    later.keep([*births, *left] if left else [])
    born = 0 if left else sum(op.run_id.startswith(LOCAL) for op in births)
    return SyncResult(0, len(rest) - len(left) + born, tuple(kept))


def _concerns_one_op(error: Exception) -> bool:
    """Whether another operation may well succeed: a file is not there, or MLflow refuses a value for good."""
    refused = getattr(error, "error_code", None) in FOR_GOOD
    return refused or isinstance(
        error, (TrackingError, FileNotFoundError, NotADirectoryError, KeyError, ValueError)
    )
