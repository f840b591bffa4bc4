"""Speak to MLflow: connect, find experiments, log points, parameters and tags.

Decision record: plain functions on an `MlflowClient` with explicit ids. MLflow takes a batch whole or not at all, so a
value that it refuses for good is looked for by halves: one bad value costs itself and nothing else. MLflow's error code
tells whether a refusal is for good. Where the whole run is gone nothing is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from raykd.environ import bypass_proxy
from raykd.errors import TrackingError
from raykd.keys import append_hash, make_mlflow_key
from raykd.point import Point
from raykd.redaction import redact
from raykd.tracking.address import Experiment, find_database_path, format_mlflow_command
from raykd.tracking.delivery.outbox import describe_error, logger
from raykd.tracking.stores.database import (
    check_database,
    drop_stale_connections,
    is_new,
    make_database,
    remove_misspelled_folders,
)
from raykd.tracking.stores.reading import StoredExperiment
from raykd.tracking.timeouts import disable_telemetry, limit_attempts, silence_loggers

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment as MlflowExperiment
    from mlflow.entities import Metric, Param, RunTag

PARENT = "mlflow.parentRunId"
"""Tag of a run with the id of the run above it."""
ABSENT_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""Error codes for an id that MLflow does not have; the second one for an id that it could not have."""
METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100
"""Most that MLflow takes at once."""
SHORTER = (500, 250)
"""Characters that older servers take in the value of a parameter or tag, tried where one is refused."""
FOR_GOOD = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")
"""Error codes of what MLflow will refuse again; BAD_REQUEST is a value that its database cannot hold."""
RowT = TypeVar("RowT", "Metric", "Param", "RunTag")


def connect_mlflow(uri: str) -> MlflowClient:
    """Return a client of this URI; an SQLite database is made where there is none. Importing mlflow takes a second.

    Raises:
        TrackingError: The database cannot be used.
        MlflowException: As MLflow raises it.
    """
    disable_telemetry()
    from mlflow import MlflowClient

    path = find_database_path(uri)
    if path is None:
        bypass_proxy(uri)
    else:
        if is_new(path):
            make_database(path)
        else:
            check_database(path, uri)
        drop_stale_connections(uri, path)
    # MLflow would print a page of migrations, and try for 100 s where the first try says all.
    with (
        limit_attempts(),
        remove_misspelled_folders(uri),
        silence_loggers("alembic", "mlflow.store.db.utils"),
    ):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def find_experiment(client: MlflowClient, uri: str, asked: Experiment) -> MlflowExperiment | None:
    """Return the experiment if it is there; None where it is to be created.

    Raises:
        TrackingError: It is deleted, or there is none with this id.
        MlflowException: As MLflow raises it.
    """
    from mlflow.exceptions import MlflowException

    if asked.id is None:
        found = client.get_experiment_by_name(asked.name)
    else:
        try:
            found = client.get_experiment(asked.id)
        except MlflowException as error:
            if error.error_code not in ABSENT_CODES:
                raise
            raise make_missing_experiment_error(uri, asked) from None
    if found is not None:
        refuse_deleted_experiment(found, uri, asked)
    return found


def refuse_deleted_experiment(
    found: MlflowExperiment | StoredExperiment, uri: str, asked: Experiment
) -> None:
    """Refuse an experiment that was deleted.

    Raises:
        TrackingError: With the command that restores it.
    """
    if found.lifecycle_stage != "active":
        restore = format_mlflow_command(uri, f"experiments restore -x {found.experiment_id}")
        raise TrackingError(
            f"the MLflow experiment {found.name!r} is deleted", got=redact(uri), wanted="an active experiment",
            next_step=f"restore it: {restore}; or record in another: tracking.experiment=NAME"
            + (f" (now named by {asked.source})" if asked.source.startswith("MLFLOW") else ""),
        )  # fmt: skip


def make_missing_experiment_error(uri: str, asked: Experiment) -> TrackingError:
    """Return the error for an id that MLflow does not have."""
    return TrackingError(
        f"there is no MLflow experiment {asked}",
        got=f"{asked.source} at {redact(uri)}",
        wanted="the id of an experiment that is there",
        next_step="tracking.experiment=NAME or MLFLOW_EXPERIMENT_NAME names one, made if needed",
    )


def find_or_create_experiment(client: MlflowClient, uri: str, asked: Experiment) -> str:
    """Return the id of the experiment, created if needed. With SQLite its artifacts lie beside the database.

    Raises:
        TrackingError: As `find_experiment` raises it.
        MlflowException: As MLflow raises it.
    """
    from mlflow.exceptions import MlflowException

    found = find_experiment(client, uri, asked)
    if found is None:
        path = find_database_path(uri)
        beside = None if path is None else (path.parent / "mlartifacts").as_uri()
        try:
            return str(client.create_experiment(asked.name, artifact_location=beside))
        except MlflowException:  # another driver was faster
            found = find_experiment(client, uri, asked)
            if found is None:
                raise
    return str(found.experiment_id)


Stage = Literal["active", "deleted", "absent"]


def read_stage(client: MlflowClient, run_id: str) -> Stage:
    """Return whether a run is there.

    Raises:
        MlflowException: MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    try:
        stage = client.get_run(run_id).info.lifecycle_stage
    except MlflowException as error:
        if error.error_code in ABSENT_CODES:
            return "absent"
        raise
    return "deleted" if stage == "deleted" else "active"


def check_run(client: MlflowClient, uri: str, run_id: str) -> None:
    """Check that records can be added to a run.

    Raises:
        TrackingError: It is deleted or not there; the error says what helps.
        MlflowException: MLflow does not answer.
    """
    stage = read_stage(client, run_id)
    if stage == "deleted":
        raise TrackingError(
            f"the MLflow run {run_id} is deleted", got=redact(uri), wanted="an active run",
            next_step=f"restore it: {format_mlflow_command(uri, f'runs restore --run-id {run_id}')}",
        )  # fmt: skip
    if stage == "absent":
        raise TrackingError(
            f"there is no MLflow run {run_id}", got=redact(uri), wanted="the database or server that has it",
            next_step="name it: tracking.uri=... or MLFLOW_TRACKING_URI=...",
        )  # fmt: skip


class KeyNames:
    """The keys of one run, none of which meets another, also where upper and lower case are one.

    Args:
        known: Keys that the run has already.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._owner = {key.casefold(): key for key in known}

    def __call__(self, name: str) -> str:
        """Return the key of a name, the same one each time."""
        key = make_mlflow_key(name)
        return key if self._owner.setdefault(key.casefold(), key) == key else append_hash(key, name)


def send_points(
    client: MlflowClient, run_id: str, points: Sequence[Point], names: Callable[[str], str] = make_mlflow_key
) -> None:
    """Send points in batches; NaN and infinities become tags ``non_finite.<metric>``.

    Args:
        client: The connection to MLflow.
        run_id: Id of the run.
        points: Points of the curves.
        names: Returns the key of a metric's name.
    """
    from mlflow.entities import RunTag

    metrics, odd = make_metrics(points, names)
    tags = [RunTag(key, value) for key, value in odd.items()]
    log_rows(client, run_id, "metrics", metrics)
    log_rows(client, run_id, "tags", tags)


def make_metrics(
    points: Sequence[Point], names: Callable[[str], str] = make_mlflow_key
) -> tuple[list[Metric], dict[str, str]]:
    """Return the finite values of points as MLflow's metrics, and the others as tags.

    Args:
        points: Points of the curves.
        names: Returns the key of a metric's name.
    """
    from mlflow.entities import Metric

    metrics, odd = [], {}
    for point in points:
        for name, value in point.values.items():
            if math.isfinite(value):
                metrics.append(Metric(names(name), float(value), point.time_ms, point.step))
            else:
                odd[names(f"non_finite.{name}")] = f"{value} at step {point.step}"
    return metrics, odd


def log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags whose names and values MLflow takes as they are."""
    from mlflow.entities import RunTag

    log_rows(client, run_id, "tags", [RunTag(key, value) for key, value in tags.items()])


def log_rows(
    client: MlflowClient, run_id: str, kind: Literal["metrics", "params", "tags"], rows: Sequence[RowT]
) -> None:
    """Log rows of one kind in batches; what MLflow refuses for good is said in the log and passed over.

    Raises:
        MlflowException: MLflow does not answer, or the run is gone.
    """
    size = METRICS_PER_CALL if kind == "metrics" else PARAMS_PER_CALL

    log_batch: Callable[..., object] = client.log_batch

    def log(part: Sequence[RowT]) -> None:
        log_batch(run_id, **{kind: part}, synchronous=True)

    for start in range(0, len(rows), size):
        refused = _log_by_halves(
            log, rows[start : start + size], lambda: read_stage(client, run_id) == "active"
        )
        for row, error in refused:
            if not _log_shortened(log, row):
                what = kind.removesuffix("s")
                logger.warning("MLflow refuses %s %s: %s", what, row.key, describe_error(error))


def _log_by_halves(
    log: Callable[[Sequence[RowT]], None], rows: Sequence[RowT], is_there: Callable[[], bool]
) -> list[tuple[RowT, Exception]]:
    """Log rows and return those that are refused for good; any other error is raised."""
    from mlflow.exceptions import MlflowException

    try:
        log(rows)
        return []
    except MlflowException as error:
        if error.error_code not in FOR_GOOD or not is_there():
            raise
        if len(rows) == 1:
            return [(rows[0], error)]
    half = len(rows) // 2
    return _log_by_halves(log, rows[:half], is_there) + _log_by_halves(log, rows[half:], is_there)


def _log_shortened(log: Callable[[Sequence[RowT]], None], row: RowT) -> bool:
    """Try a parameter or tag with a shorter value; return whether one was taken."""
    from mlflow.exceptions import MlflowException

    for limit in SHORTER:
        if isinstance(row.value, str) and len(row.value) > limit:
            try:
                log([type(row)(row.key, truncate_text(row.value, limit))])
                return True
            except MlflowException:
                continue
    return False


def clean_text(text: str) -> str:
    """Return the text as every database and file takes it: no half of a surrogate pair, no NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def truncate_text(text: str, limit: int) -> str:
    """Return the text, cut and with an ellipsis at its end where it is longer than the limit."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
