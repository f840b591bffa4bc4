"""Try whether MLflow takes a run, before a real one needs it."""

from __future__ import annotations

from raykd.point import Point
from raykd.tracking.address import Experiment, check_uri
from raykd.tracking.client import connect_mlflow, find_or_create_experiment, send_points
from raykd.tracking.stores.failure import convert_failure
from raykd.tracking.timeouts import ask_briefly


def probe_mlflow(uri: str) -> None:
    """Create a run with one point at this URI (from `resolve_tracking_uri`) and delete it.

    Raises:
        TrackingError: MLflow does not answer within seconds, or refuses.
    """
    uri = check_uri(uri)
    try:
        with ask_briefly(uri):
            client = connect_mlflow(uri)
            experiment_id = find_or_create_experiment(client, uri, Experiment())
            run = client.create_run(experiment_id, run_name="raykd doctor")
            try:
                send_points(client, run.info.run_id, [Point(0, {"probe": 1.0})])
            finally:
                client.delete_run(run.info.run_id)
    except Exception as error:
        raise convert_failure(uri, error) from None  # the cause may hold what must not be printed
