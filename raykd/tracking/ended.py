"""Record a run that has ended already, in as few calls as MLflow allows.

Decision record: a run that is recorded while it goes on needs a call for its creation, its tags, its parameters, each
batch of points, its last tags and its end. With SQLite each is a transaction of 10 to 20 ms of CPU time, which a trial
of two seconds shares its cores with. A run whose end is known needs three calls. What MLflow does not take as it is
(an odd key, a long value, too many points) is left to `Tracker`, which finds out what is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raykd.point import Point
from raykd.redaction import redact_value
from raykd.tracking.client import (
    METRICS_PER_CALL,
    PARAMS_PER_CALL,
    PARENT,
    KeyNames,
    clean_text,
    make_metrics,
    truncate_text,
)
from raykd.tracking.delivery.heartbeat import make_heartbeat_tag
from raykd.tracking.delivery.operations import LONGEST_PARAM, LONGEST_TAG, now_ms, redact_params
from raykd.tracking.delivery.outbox import describe_error, logger

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class EndedRun:
    """A run that has ended, as it is recorded.

    Attributes:
        name: The run's name in MLflow.
        params: Its parameters.
        tags: Its tags.
        points: The points of its curves, in the order of their steps; at least one.
        status: How it ended, as MLflow calls it.
    """

    name: str
    params: Mapping[str, object]
    tags: Mapping[str, str]
    points: Sequence[Point]
    status: str


def record_ended_run(
    client: MlflowClient, experiment_id: str, parent: str, run: EndedRun
) -> tuple[str | None, bool]:
    """Create a run below another one, with all that is known of it, and end it.

    Args:
        client: The connection to MLflow.
        experiment_id: Id of the experiment.
        parent: Id of the run above.
        run: What is recorded.

    Returns:
        The id of the run, None where none was created; and whether all of it is recorded. Where it is not, the caller
        opens the run (`Tracker.start`) and records it again: MLflow takes the same value twice.
    """
    names = KeyNames()
    tags = {names(key): clean_text(redact_value(key, value)) for key, value in run.tags.items()}
    params = redact_params(run.params)
    metrics, odd = make_metrics(run.points, KeyNames())
    if odd or not _is_taken_as_it_is(params, len(metrics)):
        return None, False
    tags = {key: truncate_text(value, LONGEST_TAG) for key, value in tags.items()} | make_heartbeat_tag()
    run_id = None
    try:
        from mlflow.entities import Param

        created = client.create_run(
            experiment_id, start_time=run.points[0].time_ms, run_name=run.name, tags={PARENT: parent, **tags}
        )
        run_id = str(created.info.run_id)
        rows = [Param(key, value) for key, value in params.items()]
        client.log_batch(run_id, metrics=metrics, params=rows, synchronous=True)
        client.set_terminated(run_id, run.status, end_time=now_ms())
    except Exception as error:  # MLflow is away, or refuses a value: `Tracker` finds out and waits
        logger.info("run %s is not recorded at once: %s", run.name, describe_error(error))
        return run_id, False
    return run_id, True


def _is_taken_as_it_is(params: Mapping[str, str], metrics: int) -> bool:
    """Return whether keys and values of the parameters are MLflow's, and all fits one call."""
    names = KeyNames()
    return (
        len(params) <= PARAMS_PER_CALL
        and metrics + len(params) <= METRICS_PER_CALL
        and all(names(key) == key and len(value) <= LONGEST_PARAM for key, value in params.items())
    )
