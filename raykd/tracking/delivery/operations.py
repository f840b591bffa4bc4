"""Describe, as data, what is to be recorded in an MLflow run beside the points of curves, and perform it.

Decision record: an operation that MLflow does not take must outlive the process. It is therefore written down (JSON
lines beside the spool of points, appended at once) and not kept as a closure: parameters, tags, texts, files by their
path, the model and how the run ended. Every operation may be performed twice: MLflow takes the same parameter, tag,
artifact and end again. Where no server answered at the start (`tracking.required: false`), the run itself is the first
operation. It has a local id until `raykd mlflow sync` creates it, and is found again by a tag if that was cut off.
"""

from __future__ import annotations

import base64
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raykd.keys import LONGEST_KEY, append_hash, make_mlflow_key
from raykd.parse import JsonObject
from raykd.parse.json_lines import append_json_rows, read_json_rows, replace_json_rows
from raykd.redaction import redact_value
from raykd.tracking.address import Experiment
from raykd.tracking.client import (
    PARENT,
    KeyNames,
    clean_text,
    find_or_create_experiment,
    log_rows,
    log_tags,
    truncate_text,
)
from raykd.tracking.packing import log_model
from raykd.tracking.stores.artifacts import repair_artifact_location

if TYPE_CHECKING:
    from mlflow import MlflowClient

Kind = Literal["create", "params", "tags", "text", "bytes", "file", "model", "status"]
LONGEST_PARAM, LONGEST_TAG = 6000, 8000
"""Characters that MLflow takes in a value."""
LONGEST_FILE = 200
"""Bytes of a file's name, of which file systems take 255."""
_UNFIT_FOR_FILES = re.compile(r'[\x00-\x1f\x7f\ud800-\udfff<>:"|?*#%&\\]')
LATER = "mlflow_later.jsonl"
LOCAL = "local-"
"""How the id of a run begins that MLflow does not know yet."""
LOCAL_TAG = "raykd.local_id"


@dataclass(frozen=True)
class TrackingOp:
    """One thing to record.

    Attributes:
        what: Its name in messages.
        values: What `perform_op` needs, as JSON. Paths are relative to the folder of the file where they can be.
    """

    run_id: str
    kind: Kind
    what: str
    values: JsonObject = field(default_factory=dict)


class WaitingOps:
    """Operations that wait, in memory and in a file.

    Args:
        path: The file; operations of an earlier process are read from it. None keeps them in memory alone.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.ops: list[TrackingOp] = [] if path is None else list(read_ops(path))

    def add(self, op: TrackingOp) -> None:
        """Append an operation."""
        self.ops.append(op)
        if self._path is not None:
            append_json_rows(self._path, [asdict(op)])

    def keep(self, ops: Sequence[TrackingOp]) -> None:
        """Let only these still wait; no file is left where none does."""
        if list(ops) == self.ops:
            return
        self.ops = list(ops)
        if self._path is not None:
            replace_json_rows(self._path, [asdict(op) for op in ops])


def read_ops(path: Path) -> Iterator[TrackingOp]:
    """Yield what waits in a file."""
    return read_json_rows(path, lambda row: TrackingOp(**row))


def now_ms() -> int:
    """Return the time as MLflow takes it, in milliseconds since 1970."""
    return int(time.time() * 1000)


def make_stored_path(path: Path, folder: Path | None) -> str:
    """Return a path as an operation keeps it: a run's folder may be moved before it is synchronised."""
    resolved = path.resolve()
    if folder is not None and resolved.is_relative_to(folder.resolve()):
        return str(resolved.relative_to(folder.resolve()))
    return str(resolved)


def perform_op(client: MlflowClient, run_id: str, op: TrackingOp, folder: Path | None) -> str | None:
    """Perform an operation in the run ``run_id``; one of kind ``create`` is left to `create_run`.

    Args:
        client: The connection to MLflow.
        run_id: Id of the run.
        op: The operation.
        folder: What paths are relative to.

    Returns:
        The URI of the model, from an operation of kind ``model``.

    Raises:
        TrackingError, OSError: A file is not there any more.
        MlflowException: As MLflow raises it.
    """
    values = op.values
    file = (folder or Path()) / values.get("file", "")
    if op.kind == "params":
        _log_params(client, run_id, values["params"], bool(values.get("resumed")))
    elif op.kind == "tags":
        log_tags(client, run_id, values["tags"])
    elif op.kind == "text":
        client.log_text(run_id, values["text"], values["path"])
    elif op.kind == "bytes":  # of folders that earlier versions left waiting
        _log_bytes(client, run_id, base64.b64decode(values["data"]), values["path"])
    elif op.kind == "file":
        log = client.log_artifacts if file.is_dir() else client.log_artifact
        log(run_id, str(file), values.get("dir"))
    elif op.kind == "model":
        run = (run_id, client.get_run(run_id).info.experiment_id)
        return log_model(client, run, file, values["labels"], values["languages"])
    elif op.kind == "status":
        client.set_terminated(run_id, values["status"], end_time=values.get("time_ms"))
    return None


def make_create_op(
    name: str, experiment: Experiment, parent: str | None = None, run_id: str | None = None
) -> TrackingOp:
    """Return the operation that creates a run.

    Args:
        name: The run's name in MLflow.
        experiment: The experiment of the run.
        parent: Id of the run above; it may be local.
        run_id: The local id under which other operations name the run; None makes one.
    """
    values = {"experiment": experiment.name, "experiment_id": experiment.id, "name": name, "parent": parent}
    run_id = run_id or LOCAL + uuid.uuid4().hex
    return TrackingOp(run_id, "create", "the run", {**values, "time_ms": now_ms()})


def create_run(client: MlflowClient, uri: str, op: TrackingOp) -> str:
    """Perform an operation of kind ``create``, or find the run if that was done before; return its id."""
    experiment = Experiment(op.values["experiment"], op.values.get("experiment_id"))
    experiment_id = find_or_create_experiment(client, uri, experiment)
    found = find_created_run(client, experiment_id, op.run_id)
    if found is not None:
        return found
    repair_artifact_location(client, uri, experiment_id)
    parent = op.values.get("parent")
    if parent is not None and parent.startswith(LOCAL):
        parent = find_created_run(client, experiment_id, parent)
    tags = {LOCAL_TAG: op.run_id, **({} if parent is None else {PARENT: parent})}
    run = client.create_run(
        experiment_id, start_time=op.values["time_ms"], run_name=op.values["name"], tags=tags
    )
    return str(run.info.run_id)


def find_created_run(client: MlflowClient, experiment_id: str, local_id: str) -> str | None:
    """Return the id of the run that was created for a local id; None if none was."""
    found = client.search_runs([experiment_id], f"tags.`{LOCAL_TAG}` = '{local_id}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def redact_params(params: Mapping[str, object]) -> dict[str, str]:
    """Return parameters as they may be written anywhere: as texts, secrets hidden."""
    return {key: clean_text(redact_value(key, value)) for key, value in params.items()}


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, str], resumed: bool) -> None:
    """Log parameters; names and long values that MLflow does not take are kept in tags and artifacts."""
    from mlflow.entities import Param

    names = KeyNames()
    keys = {names(name): name for name in params}
    values = {key: truncate_text(params[name], LONGEST_PARAM) for key, name in keys.items()}
    if resumed:
        values = _select_new(client, run_id, values)
    log_rows(client, run_id, "params", [Param(key, value) for key, value in values.items()])
    log_tags(
        client,
        run_id,
        {
            _fit_key(f"param_name.{key}"): truncate_text(clean_text(name), LONGEST_TAG)
            for key, name in keys.items()
            if key != name
        },
    )
    for key, name in keys.items():
        if len(params[name]) > LONGEST_PARAM:
            client.log_text(run_id, params[name], clean_artifact_path(f"params/{key}.txt"))


def _fit_key(key: str) -> str:
    """A key with a prefix, as MLflow takes it: only its length may have become too great."""
    return key if len(key) <= LONGEST_KEY else make_mlflow_key(key)


def _select_new(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> dict[str, str]:
    """The parameters that a resumed run does not have; changed ones become tags, as MLflow refuses new values."""
    data = client.get_run(run_id).data
    count = int(data.tags.get("resumes", "0")) + 1
    changed = {
        _fit_key(f"resume.{count}.{key}"): truncate_text(value, LONGEST_TAG)
        for key, value in values.items()
        if data.params.get(key, value) != value
    }
    log_tags(client, run_id, {"resumes": str(count), **changed})
    return {key: value for key, value in values.items() if key not in data.params}


def clean_artifact_path(path: str) -> str:
    """Return a path of an artifact as file systems, servers and MLflow take it; two paths never become one."""
    return "/".join(_clean_file_name(part) for part in path.split("/") if part)


def _clean_file_name(part: str) -> str:
    clean = _UNFIT_FOR_FILES.sub("_", part)
    if clean == part and len(part.encode()) <= LONGEST_FILE and part.strip(". ") == part:
        return part
    stem, dot, ending = clean.rpartition(".")
    # what is longer than eight characters behind the last dot is no ending of a file
    stem, ending = (stem, f".{ending}") if dot and stem and len(ending) <= 8 else (clean, "")
    short = stem.encode()[: LONGEST_FILE - 20].decode("utf-8", "ignore").strip(". ")
    return append_hash(short or "_", part) + ending


def _log_bytes(client: MlflowClient, run_id: str, data: bytes, path: str) -> None:
    folder, _, name = path.rpartition("/")
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / name
        file.write_bytes(data)
        client.log_artifact(run_id, str(file), folder or None)
