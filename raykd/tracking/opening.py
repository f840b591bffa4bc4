"""Open a run in MLflow: a new one, or the one that an earlier start of the same folder recorded in.

Decision record: training goes on whatever became of its record. Where the run was deleted in MLflow's page, or its
database is gone, a new one takes its place and gets all curves again from the run's folder. A note says so, with the
command that brings the old one back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.redaction import redact
from raykd.tracking.address import Experiment, format_mlflow_command
from raykd.tracking.client import PARENT, Stage, connect_mlflow, find_or_create_experiment, read_stage
from raykd.tracking.delivery.heartbeat import end_stale
from raykd.tracking.delivery.operations import LOCAL, find_created_run
from raykd.tracking.delivery.outbox import SPOOL, logger, read_spool_lines, write_spool
from raykd.tracking.delivery.replay import send_waiting
from raykd.tracking.stores.artifacts import repair_artifact_location
from raykd.tracking.stores.database import make_away_error
from raykd.tracking.timeouts import ask_briefly

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class OpenedRun:
    """A run that is open.

    Attributes:
        client: None where MLflow does not answer and everything waits.
        resumed: Whether an earlier start recorded in it.
        replaced: Whether it is new in the place of one that is gone.
        metrics, tags: What the run has already.
        notes: What a reader must know.
    """

    client: MlflowClient | None
    run_id: str
    experiment_id: str
    experiment: Experiment
    resumed: bool = False
    replaced: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_run(
    uri: str, asked: Experiment, name: str, parent: str | None, run_id: str | None, directory: Path | None
) -> OpenedRun:
    """Open a run, or go on with ``run_id``.

    Args:
        uri: Address of MLflow.
        asked: The experiment.
        name: The run's name in MLflow.
        parent: Id of the run above.
        run_id: Id of the run to go on with; None makes one.
        directory: Where an earlier start left what MLflow did not take.

    Raises:
        TrackingError: It cannot be recorded.
        MlflowException: As MLflow raises it.
    """
    if parent is not None and parent.startswith(LOCAL):
        raise make_away_error("the run above was not recorded either")
    with ask_briefly(uri):
        client = connect_mlflow(uri)
        if run_id is not None and run_id.startswith(LOCAL) and directory is not None:
            # An earlier start could not create the run; now it can.
            send_waiting(uri, directory)
            run_id = find_created_run(client, find_or_create_experiment(client, uri, asked), run_id)
        stage = None if run_id is None else read_stage(client, run_id)
    if run_id is not None and stage == "active":
        return _reopen_run(client, uri, run_id, parent)
    opened = _create_run(client, uri, asked, name, parent)
    if run_id is None or stage is None:
        return opened
    if directory is not None:
        _hand_over_points(directory / SPOOL, run_id, opened.run_id)
    note = _describe_replacement(uri, run_id, stage, opened.run_id)
    logger.warning("%s", note)
    return replace(opened, replaced=True, notes=(*opened.notes, note))


def _create_run(
    client: MlflowClient, uri: str, asked: Experiment, name: str, parent: str | None
) -> OpenedRun:
    with ask_briefly(uri):
        experiment_id = find_or_create_experiment(client, uri, asked)
    moved = repair_artifact_location(client, uri, experiment_id)
    tags = {PARENT: parent} if parent else {}
    run_id = str(client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
    if parent is None:
        _end_stale_runs(client, experiment_id, run_id)
    experiment = Experiment(asked.name or client.get_experiment(experiment_id).name)
    return OpenedRun(client, run_id, experiment_id, experiment, notes=(moved,) if moved else ())


def _reopen_run(client: MlflowClient, uri: str, run_id: str, parent: str | None) -> OpenedRun:
    experiment_id = client.get_run(run_id).info.experiment_id
    moved = repair_artifact_location(client, uri, experiment_id)
    client.update_run(run_id, status="RUNNING")
    data = client.get_run(run_id).data
    if parent is None:
        _end_stale_runs(client, experiment_id, run_id)
    elif data.tags.get(PARENT) != parent:  # the run above was replaced
        client.set_tag(run_id, PARENT, parent)
    return OpenedRun(
        client, run_id, experiment_id, Experiment(client.get_experiment(experiment_id).name), resumed=True,
        metrics=data.metrics, tags=data.tags, notes=(moved,) if moved else (),
    )  # fmt: skip


def _end_stale_runs(client: MlflowClient, experiment_id: str, run_id: str) -> None:
    with contextlib.suppress(Exception):  # what others left behind is no reason not to run
        end_stale(client, experiment_id, but=run_id)


def _hand_over_points(spool: Path, old: str, new: str) -> None:
    """Let points that wait for the old run wait for the new one."""
    rows = list(read_spool_lines(spool))
    write_spool(spool, [(new if run_id == old else run_id, point) for run_id, point in rows])


def _describe_replacement(uri: str, old: str, stage: Stage, new: str) -> str:
    if stage == "deleted":
        return (
            f"the MLflow run {old} of this folder is deleted; records go to a new run {new} (to go on with the old one "
            f"instead: {format_mlflow_command(uri, f'runs restore --run-id {old}')}, before --resume)"
        )
    return (
        f"the MLflow run {old} of this folder is not at {redact(uri)} (another database or server, or it was removed); "
        f"records go to a new run {new}"
    )
