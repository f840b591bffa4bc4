"""What is said to MLflow: connecting, experiments, metrics, the logged model.

Decision record: plain functions on an `MlflowClient` with explicit ids. The student is packed here and
uploaded as a logged model by the client's own calls, because ``mlflow.pyfunc.log_model`` reads the
process-wide tracking URI and the active run, and writes the last model's id into the process.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raykd import models
from raykd.errors import TrackingError
from raykd.point import Point
from raykd.tracking.address import is_server, redact, slug
from raykd.tracking.outbox import first_line
from raykd.tracking.patience import PROBE_S, borrowed, quiet

METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100
"""Most that MLflow takes at once."""


def connect(uri: str) -> Any:
    """A client of this URI alone. Importing mlflow takes a second, so it is imported here."""
    # a cluster's job does not phone anybody unasked
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id_of(client: Any, uri: str, name: str) -> str:
    """The id of the experiment, made if needed. With SQLite its artifacts lie beside the database."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        beside = (
            Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" if uri.startswith("sqlite") else None
        )
        try:
            return str(client.create_experiment(name, artifact_location=beside.as_uri() if beside else None))
        except MlflowException:  # another driver was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment {name!r} is deleted", got=redact(uri), wanted="an active experiment",
            next_step=f"choose another name, or: mlflow experiments restore -x {found.experiment_id}",
        )  # fmt: skip
    return str(found.experiment_id)


def send(client: Any, run_id: str, points: Sequence[Point]) -> None:
    """Sends points, 1000 metrics a call; NaN and infinities become tags ``non_finite.<metric>``."""
    from mlflow.entities import Metric, RunTag

    metrics, odd = [], {}
    for point in points:
        for name, value in point.values.items():
            key = slug(name)
            if math.isfinite(value):
                metrics.append(Metric(key, float(value), point.time_ms, point.step))
            else:
                odd[slug(f"non_finite.{key}")] = f"{value} at step {point.step}"
    tags = [RunTag(key, value) for key, value in odd.items()]
    for start in range(0, len(metrics), METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL], synchronous=True)
    for start in range(0, len(tags), PARAMS_PER_CALL):
        client.log_batch(run_id, tags=tags[start : start + PARAMS_PER_CALL], synchronous=True)


def log_model(
    client: Any,
    run: tuple[str, str],
    directory: Path,
    labels: Sequence[str],
    languages: Sequence[str],
    texts: Sequence[str],
) -> str:
    """Packs the student in a temporary folder, then uploads it as a logged model of the run."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run_id, experiment_id = run
    if not directory.is_dir():
        raise TrackingError("there is no student to log", got=directory, wanted="a folder that raykd saved")
    entry = client.create_logged_model(experiment_id, name="student", source_run_id=run_id)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "model"
            model = Model(
                artifact_path=entry.artifact_location, run_id=run_id, model_uuid=entry.model_id,
                model_id=entry.model_id, metadata={"labels": list(labels), "languages": list(languages)},
            )  # fmt: skip
            _pack_model(path, directory, model, labels, texts)
            client.log_model_artifacts(entry.model_id, str(path))
        client.finalize_logged_model(entry.model_id, "READY")
    except Exception:
        with contextlib.suppress(Exception):
            client.finalize_logged_model(entry.model_id, "FAILED")
        raise
    client.log_outputs(run_id, [LoggedModelOutput(entry.model_id, step=0)])
    return f"models:/{entry.model_id}"


def _columns(task: str | None, labels: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """What the model reads and what it answers with; see `raykd.tracking.model`."""
    from mlflow.types import ColSpec
    from mlflow.types.schema import Array, Object, Property

    if task == "question_answering":
        names = {"answer": "string", "start": "long", "end": "long", "probability": "double"}
        return (
            [ColSpec("string", "question"), ColSpec("string", "context")],
            [ColSpec(kind, name) for name, kind in names.items()],  # type: ignore[arg-type]
        )
    if task == "token_classification":
        parts = {"text": "string", "type": "string", "start": "long", "end": "long"}
        entity = Object([Property(name, kind) for name, kind in parts.items()])  # type: ignore[arg-type]
        return [ColSpec("string", "text")], [ColSpec(Array(entity), "entities")]
    if task in ("causal_lm", "seq2seq"):
        return [ColSpec("string", "text")], [ColSpec("string", "written")]
    return (
        [ColSpec("string", "text"), ColSpec("string", "text_pair", required=False)],
        [ColSpec("string", "label"), *(ColSpec("double", f"p_{label}") for label in labels)],
    )


def _pack_model(path: Path, directory: Path, model: Any, labels: Sequence[str], texts: Sequence[str]) -> None:
    """Writes a pyfunc model from code. Requirements are given: MLflow would run the model to find them."""
    import mlflow.pyfunc
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types import Schema

    inputs, outputs = _columns(models.inspect_directory(directory).task, labels)
    signature = ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))
    needed = ("raykd", "mlflow", "numpy", "pandas", "safetensors", "torch", "transformers")
    versions = {name: version for name in needed if (version := _version(name))}
    try:
        with borrowed({"MLFLOW_UV_AUTO_DETECT": "false"}), quiet("mlflow.pyfunc", "mlflow.pyfunc.model"):
            mlflow.pyfunc.save_model(
                path=str(path),
                python_model=str(Path(__file__).with_name("model.py")),
                artifacts={"student": str(directory)},
                mlflow_model=model,
                signature=signature,  # else MLflow runs the model on the example to guess one
                input_example=pandas.DataFrame({"text": list(texts)}) if texts else None,
                pip_requirements=[f"{name}=={version.split('+')[0]}" for name, version in versions.items()],
            )
    except Exception as error:
        raise TrackingError(
            "the student cannot be packed as an MLflow model", got=redact(first_line(error))
        ) from error


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cannot_start(uri: str, error: BaseException) -> TrackingError:
    step = (
        "start the server (mlflow server --port 5000) or correct tracking.uri; remove tracking.uri and "
        "MLFLOW_TRACKING_URI to record in an SQLite database under `output`"
        if is_server(uri)
        else "check that the folder can be written, or set tracking.uri to another database"
    )
    return TrackingError(
        f"MLflow cannot be used at {redact(uri)}",
        got=redact(first_line(error))[:500],
        wanted=f"an answer within {PROBE_S + 1} s" if is_server(uri) else "a database that opens",
        next_step=step,
    )


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
