"""What is said to MLflow: connecting, experiments, points, parameters and tags.

Decision record: plain functions on an `MlflowClient` with explicit ids. MLflow takes a batch whole or not at all, so
what it refuses for good is looked for by halves: one bad value costs itself and nothing else. Whether a refusal is for
good is asked of MLflow's error code; where the whole run is gone nothing is thrown away.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from raykd.environ import bypass_proxy
from raykd.errors import TrackingError
from raykd.keys import append_hash
from raykd.point import Point
from raykd.tracking.address import (
    Experiment,
    find_database_path,
    format_mlflow_command,
    make_mlflow_key,
    redact,
)
from raykd.tracking.delivery.outbox import extract_first_line, logger
from raykd.tracking.stores.database import (
    check_database,
    drop_stale_connections,
    is_new,
    make_database,
    remove_misspelled_folders,
)
from raykd.tracking.timeouts import limit_attempts, silence_loggers

METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100
"""Most that MLflow takes at once."""
SHORTER = (500, 250)
"""Characters that older servers take in the value of a parameter or tag, tried where one is refused."""
FOR_GOOD = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")
"""Error codes of what MLflow will refuse again; BAD_REQUEST is a value that its database cannot hold."""
T = TypeVar("T")


def connect_mlflow(uri: str) -> Any:
    """A client of this URI alone, its database made where there is none. Importing mlflow takes a second.

    Raises:
        TrackingError: the database cannot be used. What MLflow raises.
    """
    # a cluster's job does not phone anybody unasked
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
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
    # which would print a page of migrations, and try for 100 s where the first try says all
    with (
        limit_attempts(),
        remove_misspelled_folders(uri),
        silence_loggers("alembic", "mlflow.store.db.utils"),
    ):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def find_experiment(client: Any, uri: str, asked: Experiment) -> Any | None:
    """The experiment that is there; None where it is to be made.

    Raises:
        TrackingError: it is deleted, or there is none with this id. What MLflow raises.
    """
    from mlflow.exceptions import MlflowException

    if asked.id is None:
        found = client.get_experiment_by_name(asked.name)
    else:
        try:
            found = client.get_experiment(asked.id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise make_missing_experiment_error(uri, asked) from None
    if found is not None and found.lifecycle_stage != "active":
        restore = format_mlflow_command(uri, f"experiments restore -x {found.experiment_id}")
        raise TrackingError(
            f"the MLflow experiment {found.name!r} is deleted", got=redact(uri), wanted="an active experiment",
            next_step=f"restore it: {restore}; or record in another: tracking.experiment=NAME"
            + (f" (now named by {asked.source})" if asked.source.startswith("MLFLOW") else ""),
        )  # fmt: skip
    return found


def make_missing_experiment_error(uri: str, asked: Experiment) -> TrackingError:
    """The error where an id is named that MLflow does not have."""
    return TrackingError(
        f"there is no MLflow experiment {asked}",
        got=f"{asked.source} at {redact(uri)}",
        wanted="the id of an experiment that is there",
        next_step="tracking.experiment=NAME or MLFLOW_EXPERIMENT_NAME names one, made if needed",
    )


def find_or_create_experiment(client: Any, uri: str, asked: Experiment) -> str:
    """The id of the experiment, made if needed. With SQLite its artifacts lie beside the database.

    Raises:
        TrackingError: as `find_experiment`. What MLflow raises.
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


def read_stage(client: Any, run_id: str) -> Stage:
    """Whether a run is there; what MLflow raises otherwise."""
    from mlflow.exceptions import MlflowException

    try:
        stage = client.get_run(run_id).info.lifecycle_stage
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return "absent"
        raise
    return "deleted" if stage == "deleted" else "active"


def check_run(client: Any, uri: str, run_id: str) -> None:
    """Check that records can be added to a run.

    Raises:
        TrackingError: it is deleted or not there, with what helps. What MLflow raises.
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
    """Keys of one run, made so that none meets another, also where upper and lower case are one.

    Args:
        known: keys that the run has already.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._owner = {key.casefold(): key for key in known}

    def __call__(self, name: str) -> str:
        """Return the key of a name; the same one each time."""
        key = make_mlflow_key(name)
        return key if self._owner.setdefault(key.casefold(), key) == key else append_hash(key, name)


def send_points(
    client: Any, run_id: str, points: Sequence[Point], names: Callable[[str], str] = make_mlflow_key
) -> None:
    """Sends points, 1000 metrics a call; NaN and infinities become tags ``non_finite.<metric>``."""
    from mlflow.entities import Metric, RunTag

    metrics, odd = [], {}
    for point in points:
        for name, value in point.values.items():
            if math.isfinite(value):
                metrics.append(Metric(names(name), float(value), point.time_ms, point.step))
            else:
                odd[names(f"non_finite.{name}")] = f"{value} at step {point.step}"
    tags = [RunTag(key, value) for key, value in odd.items()]
    log_rows(client, run_id, "metrics", metrics)
    log_rows(client, run_id, "tags", tags)


def log_tags(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    """Sets tags, whose names and values are fit for MLflow already."""
    from mlflow.entities import RunTag

    log_rows(client, run_id, "tags", [RunTag(key, value) for key, value in tags.items()])


def log_rows(
    client: Any, run_id: str, kind: Literal["metrics", "params", "tags"], rows: Sequence[Any]
) -> None:
    """Logs rows of one kind in batches; what MLflow refuses for good is said in the log and passed over.

    Raises:
        What MLflow raises where it does not answer, or the run is gone.
    """
    size = METRICS_PER_CALL if kind == "metrics" else PARAMS_PER_CALL

    def log(part: Sequence[object]) -> None:
        client.log_batch(run_id, **{kind: part}, synchronous=True)

    for start in range(0, len(rows), size):
        refused = _by_halves(log, rows[start : start + size], lambda: read_stage(client, run_id) == "active")
        for row, error in refused:
            if not _shortened(log, row):
                logger.warning(
                    "MLflow refuses %s %s: %s",
                    kind.removesuffix("s"),
                    row.key,
                    redact(extract_first_line(error))[:300],
                )


def _by_halves(
    log: Callable[[Sequence[T]], None], rows: Sequence[T], is_there: Callable[[], bool]
) -> list[tuple[T, Exception]]:
    """Logs rows; returns those that are refused for good. What is no such refusal is raised."""
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
    return _by_halves(log, rows[:half], is_there) + _by_halves(log, rows[half:], is_there)


def _shortened(log: Callable[[Sequence[Any]], None], row: Any) -> bool:
    """Whether a parameter or tag is taken with a shorter value."""
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
    """The text as every database and file takes it: no half of a surrogate pair, no NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def truncate_text(text: str, limit: int) -> str:
    """The text, with an ellipsis at its end where it is longer than the limit."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
