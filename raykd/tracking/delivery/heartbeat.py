"""Tell the server now and then that a run is alive, and end the runs that no longer do.

Decision record: MLflow never ends the run of a process that was killed, so it stays RUNNING for ever. Each tracker sets
a tag with the time once a minute, on its writer thread. Whoever opens a run in the same experiment marks those KILLED
whose tag is ten minutes old. Runs without the tag are somebody else's and are left alone. A run that was cut off from
the server for so long and lives is marked as well; it says itself how it ended when it ends.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

HEARTBEAT = "raykd.heartbeat"
"""Tag of the last sign of life, in seconds since 1970."""
BEAT_S, STALE_S = 60.0, 600.0
"""Seconds between two signs of life, and without one until a run counts as killed."""
ENDED = "raykd.ended"


def make_heartbeat_tag() -> dict[str, str]:
    """Return the tag with the present time."""
    return {HEARTBEAT: str(int(time.time()))}


def end_stale(client: MlflowClient, experiment_id: str, *, but: str | None = None) -> list[str]:
    """Mark running runs of an experiment KILLED that gave no sign of life for `STALE_S` seconds.

    Args:
        client: The connection to MLflow.
        experiment_id: Id of the experiment.
        but: A run that is left alone.

    Returns:
        The ids of the runs that were ended.

    Raises:
        MlflowException: MLflow does not answer.
    """
    now, ended = time.time(), []
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=1000):
        last = run.data.tags.get(HEARTBEAT, "")
        if run.info.run_id != but and last.isdigit() and now - int(last) > STALE_S:
            client.set_tag(run.info.run_id, ENDED, "no sign of life; marked by a later start")
            client.set_terminated(run.info.run_id, "KILLED", end_time=1000 * int(last))
            ended.append(str(run.info.run_id))
    return ended
