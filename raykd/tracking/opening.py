"""Opening a run in MLflow: a new one, or the one that a run's folder went on with before.

Decision record: training goes on whatever became of its record. A run that was deleted in MLflow's page, or whose
database is gone, gets a new one, which all curves are told to again from the run's folder; both are said, with the
command that brings the old one back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.tracking.address import Experiment, format_mlflow_command, is_server, redact
from raykd.tracking.client import connect_mlflow, find_or_create_experiment, read_stage
from raykd.tracking.delivery.heartbeat import end_stale
from raykd.tracking.delivery.operations import LOCAL, find_created_run
from raykd.tracking.delivery.outbox import SPOOL, logger, read_spool_lines, write_spool
from raykd.tracking.delivery.replay import send_waiting
from raykd.tracking.stores.artifacts import repair_artifact_location
from raykd.tracking.stores.database import make_away_error
from raykd.tracking.timeouts import PROBE, set_mlflow_variables

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class OpenedRun:
    """A run that is open. client: None where MLflow does not answer and all of it waits.

    metrics, tags: what the run has already. resumed: whether it went on. replaced: whether it is new in the place of
        one that is gone. notes: what a reader must know.
    """

    client: Any
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
        parent: the run above. directory: where an earlier start left what MLflow did not take.
    Raises:
        TrackingError: it cannot be recorded. What MLflow raises.
    """
    if parent is not None and parent.startswith(LOCAL):
        raise make_away_error("the run above was not recorded either")
    with set_mlflow_variables(PROBE if is_server(uri) else {}):
        client = connect_mlflow(uri)
        if run_id is not None and run_id.startswith(LOCAL) and directory is not None:
            run_id = _made_since(client, uri, asked, run_id, directory)
        stage = None if run_id is None else read_stage(client, run_id)
    if run_id is None or stage != "active":
        opened = _new(client, uri, asked, name, parent)
        if run_id is None:
            return opened
        _hand_over(directory, run_id, opened.run_id)
        note = _replaced(uri, run_id, str(stage), opened.run_id)
        logger.warning("%s", note)
        return replace(opened, replaced=True, notes=(*opened.notes, note))
    return _again(client, uri, run_id, parent)


def _made_since(
    client: MlflowClient, uri: str, asked: Experiment, run_id: str, directory: Path
) -> str | None:
    """The run that an earlier start could not make, made now."""
    send_waiting(uri, directory)
    return find_created_run(client, find_or_create_experiment(client, uri, asked), run_id)


def _new(client: MlflowClient, uri: str, asked: Experiment, name: str, parent: str | None) -> OpenedRun:
    with set_mlflow_variables(PROBE if is_server(uri) else {}):
        experiment_id = find_or_create_experiment(client, uri, asked)
    moved = repair_artifact_location(client, uri, experiment_id)
    family = {PARENT: parent} if parent else {}
    run = client.create_run(experiment_id, run_name=name, tags=family)
    if parent is None:
        _end_stale(client, experiment_id, str(run.info.run_id))
    named = Experiment(asked.name or client.get_experiment(experiment_id).name)
    return OpenedRun(client, str(run.info.run_id), experiment_id, named, notes=(moved,) if moved else ())


def _again(client: MlflowClient, uri: str, run_id: str, parent: str | None) -> OpenedRun:
    experiment_id = client.get_run(run_id).info.experiment_id
    moved = repair_artifact_location(client, uri, experiment_id)
    client.update_run(run_id, status="RUNNING")
    data = client.get_run(run_id).data
    if parent is None:
        _end_stale(client, experiment_id, run_id)
    elif data.tags.get(PARENT) != parent:  # the run above was replaced
        client.set_tag(run_id, PARENT, parent)
    name = Experiment(client.get_experiment(experiment_id).name)
    notes = (moved,) if moved else ()
    return OpenedRun(
        client, run_id, experiment_id, name, resumed=True, metrics=data.metrics, tags=data.tags, notes=notes
    )


def _end_stale(client: MlflowClient, experiment_id: str, run_id: str) -> None:
    with contextlib.suppress(Exception):  # no reason not to run
        end_stale(client, experiment_id, but=run_id)


def _hand_over(directory: Path | None, old: str, new: str) -> None:
    """Points that wait for the old run wait for the new one."""
    if directory is None or not (directory / SPOOL).exists():
        return
    rows = list(read_spool_lines(directory / SPOOL))
    write_spool(directory / SPOOL, [(new if run_id == old else run_id, point) for run_id, point in rows])


def _replaced(uri: str, old: str, stage: str, new: str) -> str:
    if stage == "deleted":
        return (
            f"the MLflow run {old} of this folder is deleted; records go to a new run {new} (to go on with the old one "
            f"instead: {format_mlflow_command(uri, f'runs restore --run-id {old}')}, before --resume)"
        )
    return (
        f"the MLflow run {old} of this folder is not at {redact(uri)} (another database or server, or it was removed); "
        f"records go to a new run {new}"
    )
