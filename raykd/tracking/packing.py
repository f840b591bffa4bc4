"""Log the student as an MLflow model: packed here, with raykd's own code, and uploaded by the client's own calls.

Decision record: ``mlflow.pyfunc.log_model`` reads the process-wide tracking URI and the active run, and writes the
last model's id into the process, so it is not used. No package index has raykd, so the model carries the part of it
that loads a student, and names the packages that an index has as requirements. It carries raykd as an artifact and not
as MLflow's `code_paths`: those stay first on the process's path, where Ray's next workers would find half a raykd.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import raykd
from raykd import models
from raykd.errors import TrackingError
from raykd.pretrained.adapters import LANGUAGES, is_adapter
from raykd.tasks import Classification, find_task_class
from raykd.tasks.signature import LANGUAGE_COLUMNS, Column
from raykd.tracking.delivery.outbox import describe_error
from raykd.tracking.timeouts import set_mlflow_variables, silence_loggers

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model
    from mlflow.types import Schema

CODE = "code"
CARRIED = (
    "__init__.py", "answers", "cache.py", "compat/__init__.py", "compat/peft_private.py",
    "compat/transformers_private.py", "devices.py", "distill", "environ.py", "errors.py", "head.py", "keys.py",
    "models", "networks", "parse", "point.py", "prediction", "pretrained", "redaction.py", "spec.py", "tasks",
    "text", "tokenizers",
)  # fmt: skip
"""The rooms of raykd that a saved student is loaded and asked with: prediction, and what lies below it."""
NEEDED = (
    "huggingface_hub", "mlflow", "numpy", "pandas", "pydantic", "pydantic_core", "PyYAML", "regex", "rouge-score",
    "sacrebleu", "safetensors", "scipy", "sentencepiece", "tokenizers", "torch", "transformers",
)  # fmt: skip
"""Packages that these rooms import; a test holds both lists against the code."""


def log_model(
    client: MlflowClient,
    run: tuple[str, str],
    directory: Path,
    labels: Sequence[str],
    languages: Sequence[str],
) -> str:
    """Pack a student in a temporary folder, upload it as a logged model of a run, and return its URI.

    Args:
        client: The connection to MLflow.
        run: Ids of the run and of its experiment.
        directory: What `raykd.models.save_model` wrote.
        labels: The student's labels.
        languages: The student's languages.

    Raises:
        TrackingError: The folder is not there or cannot be packed.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run_id, experiment_id = run
    check_student_folder(directory)
    entry = client.create_logged_model(experiment_id, name="student", source_run_id=run_id)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "model"
            model = Model(
                artifact_path=entry.artifact_location, run_id=run_id, model_uuid=entry.model_id,
                model_id=entry.model_id, metadata={"labels": list(labels), "languages": list(languages)},
            )  # fmt: skip
            code = copy_code(Path(temporary) / CODE)
            _pack_model(path, directory, model, labels, code)
            client.log_model_artifacts(entry.model_id, str(path))
        client.finalize_logged_model(entry.model_id, "READY")
    except Exception:
        with contextlib.suppress(Exception):
            client.finalize_logged_model(entry.model_id, "FAILED")
        raise
    client.log_outputs(run_id, [LoggedModelOutput(entry.model_id, step=0)])
    return f"models:/{entry.model_id}"


def check_student_folder(directory: Path) -> None:
    """Check that there is a student to log.

    Raises:
        TrackingError: There is no such folder.
    """
    if not directory.is_dir():
        raise TrackingError("there is no student to log", got=directory, wanted="a folder that raykd saved")


def _build_schema(columns: Sequence[Column]) -> Schema:
    """The columns in MLflow's terms."""
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import Array, DataType, Object, Property

    specs: list[ColSpec | TensorSpec] = []
    for column in columns:
        kind: DataType | Array
        if isinstance(column.type, Mapping):
            kind = Array(Object([Property(name, DataType[scalar]) for name, scalar in column.type.items()]))
        elif column.type in ("doubles", "strings"):
            kind = Array(DataType[column.type.removesuffix("s")])
        else:
            kind = DataType[column.type]
        specs.append(ColSpec(kind, column.name, required=column.required))
    return Schema(specs)


def copy_code(folder: Path) -> Path:
    """Copy the carried rooms, as they are imported now, into a folder and return it."""
    source, target = Path(raykd.__file__).parent, folder / "raykd"
    target.mkdir(parents=True)
    for name in CARRIED:
        if (source / name).is_dir():
            shutil.copytree(
                source / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
            )
        else:
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, target / name)
    return folder


def list_requirements(student: Path | None = None) -> list[str]:
    """Return the packages that load a saved student, in the versions of this machine, as an index has them.

    Args:
        student: Its folder; an adapter needs peft too.
    """
    needed = (*NEEDED, "peft") if student is not None and is_adapter(student) else NEEDED
    versions = {name: version for name in needed if (version := _version(name))}
    # a local build ("2.13.0+cpu") is in no index
    return [f"{name}=={version.split('+')[0]}" for name, version in versions.items()]


def _pack_model(path: Path, directory: Path, model: Model, labels: Sequence[str], code: Path) -> None:
    """Write a pyfunc model from code. Requirements are given, since MLflow would run the model to find them."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature

    task = find_task_class(str(models.inspect_directory(directory).task))
    columns = (task or Classification).build_signature(labels)
    told = LANGUAGE_COLUMNS[:1] if (directory / LANGUAGES).is_file() else ()
    inputs = _build_schema((*columns.inputs, *told))
    signature = ModelSignature(inputs=inputs, outputs=_build_schema(columns.outputs))
    try:
        with (
            set_mlflow_variables({"MLFLOW_UV_AUTO_DETECT": "false"}),
            silence_loggers("mlflow.pyfunc", "mlflow.pyfunc.model"),
        ):
            mlflow.pyfunc.save_model(
                path=str(path),
                python_model=str(Path(__file__).with_name("model.py")),
                # Addresses, since MLflow reads a bare path as one: %20 in a folder's name would be a blank.
                artifacts={"student": directory.resolve().as_uri(), CODE: code.resolve().as_uri()},
                mlflow_model=model,
                signature=signature,
                pip_requirements=list_requirements(directory),
            )
    except Exception as error:
        raise TrackingError(
            "the student cannot be packed as an MLflow model", got=describe_error(error)
        ) from error


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
