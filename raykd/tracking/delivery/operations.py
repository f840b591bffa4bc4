"""`TrackingOp`: something to be recorded in an MLflow run that is no point of a curve, as data.

Decision record: an op that MLflow does not take must outlive the process, so it is written down (JSON lines beside the
spool of points, appended at once) and not kept as a closure: parameters, tags, texts, files by their path, the model
and how the run ended. Every op may be done twice: MLflow takes the same parameter, tag, artifact and end again.
Where no server answered at the start (`tracking.required: false`), the run itself is the first op: it has a local id
until `raykd mlflow sync` makes it, and finds it again by a tag if it was cut off.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raykd.keys import LONGEST_KEY, append_hash, make_mlflow_key
from raykd.tracking.address import Experiment, redact_value
from raykd.tracking.client import (
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
"""Characters MLflow takes in a value."""
LONGEST_FILE = 200
"""Bytes of a file's name, of which file systems take 255."""
_NO_FILE = re.compile(r'[\x00-\x1f\x7f\ud800-\udfff<>:"|?*#%&\\]')
LATER = "mlflow_later.jsonl"
LOCAL = "local-"
"""How the id of a run begins that MLflow does not know yet."""
LOCAL_TAG = "raykd.local_id"


@dataclass(frozen=True)
class TrackingOp:
    """One thing to record; ``values`` is JSON, paths are relative to the folder of the file where they can be."""

    run_id: str
    kind: Kind
    what: str
    values: dict[str, Any] = field(default_factory=dict)


def make_local_id() -> str:
    """An id for a run that is to be made later."""
    return LOCAL + uuid.uuid4().hex


class WaitingOps:
    """Acts that wait, in memory and in a file.

    Args:
        path: the file; ops of an earlier process are read from it. None keeps them in memory alone.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.ops: list[TrackingOp] = [] if path is None else list(read_ops(path))

    def add(self, op: TrackingOp) -> None:
        """One more, at the end."""
        self.ops.append(op)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(op)) + "\n")

    def keep(self, ops: Sequence[TrackingOp]) -> None:
        """Only these still wait; no file is left where none does."""
        if list(ops) == self.ops:
            return
        self.ops = list(ops)
        if self._path is not None:
            if not ops:
                self._path.unlink(missing_ok=True)
                return
            fresh = self._path.with_suffix(".tmp")
            fresh.write_text("".join(json.dumps(asdict(a)) + "\n" for a in ops), encoding="utf-8")
            fresh.replace(self._path)


def read_ops(path: Path) -> Iterator[TrackingOp]:
    """What waits in a file; a line that was torn by a crash is passed over."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield TrackingOp(**json.loads(line))
        except (ValueError, TypeError):
            continue


def make_stored_path(path: Path, folder: Path | None) -> str:
    """A path as an op keeps it: a run's folder may be moved before it is synchronised."""
    resolved = path.resolve()
    if folder is not None and resolved.is_relative_to(folder.resolve()):
        return str(resolved.relative_to(folder.resolve()))
    return str(resolved)


def perform_op(client: MlflowClient, run_id: str, op: TrackingOp, folder: Path | None) -> object:
    """Does an op in the run ``run_id``; an op of kind ``create`` is done by `create_run` and nothing here.

    Args:
        folder: what paths are relative to.
    Raises:
        What MLflow raises. TrackingError, OSError: a file is not there any more.
    """
    values = op.values
    if op.kind == "params":
        _log_params(client, run_id, values["params"], bool(values.get("resumed")))
    elif op.kind == "tags":
        log_tags(client, run_id, values["tags"])
    elif op.kind == "text":
        client.log_text(run_id, values["text"], values["path"])
    elif op.kind == "bytes":
        _log_bytes(client, run_id, base64.b64decode(values["data"]), values["path"])
    elif op.kind == "file":
        path = _found(values["file"], folder)
        log = client.log_artifacts if path.is_dir() else client.log_artifact
        log(run_id, str(path), values.get("dir"))
    elif op.kind == "model":
        experiment_id = client.get_run(run_id).info.experiment_id
        return log_model(
            client, (run_id, experiment_id), _found(values["file"], folder),
            values["labels"], values["languages"], values["texts"],
        )  # fmt: skip
    elif op.kind == "status":
        client.set_terminated(run_id, values["status"], end_time=values.get("time_ms"))
    return None


def _found(path: str, folder: Path | None) -> Path:
    return Path(path) if folder is None else folder / path


def create_run(client: MlflowClient, uri: str, op: TrackingOp) -> str:
    """The run that an op of kind ``create`` asks for: made, or found if that was done before."""
    asked = Experiment(op.values["experiment"], op.values.get("experiment_id"))
    experiment_id = find_or_create_experiment(client, uri, asked)
    found = find_created_run(client, experiment_id, op.run_id)
    if found is not None:
        return found
    repair_artifact_location(client, uri, experiment_id)
    tags = {LOCAL_TAG: op.run_id}
    parent = op.values.get("parent")
    if parent is not None and str(parent).startswith(LOCAL):
        parent = find_created_run(client, experiment_id, parent)
    if parent is not None:
        tags["mlflow.parentRunId"] = parent
    run = client.create_run(
        experiment_id, start_time=op.values["time_ms"], run_name=op.values["name"], tags=tags
    )
    return str(run.info.run_id)


def find_created_run(client: MlflowClient, experiment_id: str, local: str) -> str | None:
    """The run that was made for a local id, if it was."""
    found = client.search_runs([experiment_id], f"tags.`{LOCAL_TAG}` = '{local}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def redact_params(params: Mapping[str, object]) -> dict[str, str]:
    """Parameters as they may be written anywhere: texts, secrets hidden."""
    return {key: clean_text(redact_value(key, value)) for key, value in params.items()}


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, str], resumed: bool) -> None:
    """Logs `redact_params` parameters; names and long values that MLflow does not take are kept beside."""
    from mlflow.entities import Param

    names = KeyNames()
    texts = {names(key): text for key, text in params.items()}
    renamed = {_fitting(f"param_name.{names(key)}"): key for key in params if names(key) != key}
    long = {key: text for key, text in texts.items() if len(text) > LONGEST_PARAM}
    values = {key: truncate_text(text, LONGEST_PARAM) for key, text in texts.items()}
    if resumed:
        values = _only_new(client, run_id, values)
    log_rows(client, run_id, "params", [Param(key, value) for key, value in values.items()])
    log_tags(
        client, run_id, {key: truncate_text(clean_text(value), LONGEST_TAG) for key, value in renamed.items()}
    )
    for key, text in long.items():
        client.log_text(run_id, text, clean_artifact_path(f"params/{key}.txt"))


def _fitting(key: str) -> str:
    """A key behind a prefix: still one that MLflow takes, unless it became too long."""
    return key if len(key) <= LONGEST_KEY else make_mlflow_key(key)


def _only_new(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> dict[str, str]:
    """On resume: parameters that are new; changed ones become tags, as MLflow refuses new values."""
    data = client.get_run(run_id).data
    count = int(data.tags.get("resumes", "0")) + 1
    changed = {k: v for k, v in values.items() if k in data.params and data.params[k] != v}
    tags = {
        _fitting(f"resume.{count}.{key}"): truncate_text(value, LONGEST_TAG) for key, value in changed.items()
    }
    log_tags(client, run_id, {"resumes": str(count), **tags})
    return {k: v for k, v in values.items() if k not in data.params}


def clean_artifact_path(path: str) -> str:
    """A path of an artifact as file systems, servers and MLflow take it; two paths never become one."""
    return "/".join(_file_name(part) for part in path.split("/") if part)


def _file_name(part: str) -> str:
    clean = _NO_FILE.sub("_", part)
    if clean == part and len(part.encode()) <= LONGEST_FILE and part.strip(". ") == part:
        return part
    stem, dot, ending = clean.rpartition(".")
    stem, ending = (stem, f".{ending}") if dot and stem and len(ending) <= 8 else (clean, "")
    short = stem.encode()[: LONGEST_FILE - 20].decode("utf-8", "ignore").strip(". ")
    return append_hash(short or "_", part) + ending


def _log_bytes(client: MlflowClient, run_id: str, data: bytes, artifact_path: str) -> None:
    folder, _, name = artifact_path.rpartition("/")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        path.write_bytes(data)
        client.log_artifact(run_id, str(path), folder or None)
