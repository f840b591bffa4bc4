"""A probe run: whether MLflow takes one, told before a real run needs it."""

from __future__ import annotations

import time

from raykd.point import Point
from raykd.tracking.address import Experiment, check_uri, is_server
from raykd.tracking.client import connect_mlflow, find_or_create_experiment, send_points
from raykd.tracking.stores.failure import convert_failure
from raykd.tracking.timeouts import PROBE, set_mlflow_variables


def probe_mlflow(uri: str) -> None:
    """Makes a run with one point at this URI (from `resolve_tracking_uri`) and deletes it.

    Raises:
        TrackingError: MLflow does not answer within seconds, or refuses.
    """
    uri = check_uri(uri)
    try:
        with set_mlflow_variables(PROBE if is_server(uri) else {}):
            client = connect_mlflow(uri)
            run = client.create_run(
                find_or_create_experiment(client, uri, Experiment()), run_name="raykd doctor"
            )
            try:
                send_points(client, run.info.run_id, [Point(0, {"probe": 1.0}, int(time.time() * 1000))])
            finally:
                client.delete_run(run.info.run_id)
    except Exception as error:
        raise convert_failure(uri, error) from None  # the cause may hold what must not be printed
