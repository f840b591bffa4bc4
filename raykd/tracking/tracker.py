"""MLflow, from the controller's side: one `Tracker` is one MLflow run.

Decision record: only the driver makes trackers. Five processes that open a fresh SQLite database at once
crash, and an outage of the server must not reach a training worker; workers report plain numbers to the
driver, which writes them. Everything goes through `MlflowClient` with explicit run ids: the fluent
interface keeps its state in the process and its URI in the environment, so that a sweep's parent and trials
would mix. A tracker that cannot start fails the run, because somebody who asked for tracking wants to know
now; one that fails later warns and keeps what it could not send (`outbox`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from raykd.errors import RaykdError, TrackingError
from raykd.point import Point
from raykd.tracking.address import (
    checked_uri,
    is_server,
    redact,
    redact_value,
    slug,
)
from raykd.tracking.client import (
    PARAMS_PER_CALL,
    cannot_start,
    connect,
    cut,
    experiment_id_of,
    log_model,
    send,
)
from raykd.tracking.outbox import CHUNK, Outbox, first_line, from_lines, logger, write_spool
from raykd.tracking.patience import PROBE, borrowed, quiet, return_patience, take_patience

Status = Literal["FINISHED", "FAILED", "KILLED"]
T = TypeVar("T")
LONGEST_PARAM, LONGEST_TAG = 6000, 8000
"""Characters MLflow takes in a value."""
SPOOL = "mlflow_spool.jsonl"
FINISH_S = 20.0
"""Seconds for the last flush of a run."""


class Tracker:
    """One MLflow run. Made with `start`, ended with `finish` or as a context manager.

    uri, run_id, experiment_id, experiment_name: where it is, for messages and for children.
    """

    def __init__(
        self, client: Any, uri: str, experiment: tuple[str, str], run_id: str, directory: Path | None
    ) -> None:
        self.uri, self.run_id = uri, run_id
        self.experiment_id, self.experiment_name = experiment
        self._client = client
        self._spool = None if directory is None else directory / SPOOL
        self._outbox = Outbox(run_id, lambda points: send(client, run_id, points), self._spool)
        self._later: list[tuple[str, Callable[[], Any]]] = []
        self._finished = False

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        run_name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
        run_id: str | None = None,
        directory: Path | None = None,
    ) -> Tracker:
        """Opens a run, a child of ``parent_run_id``, or goes on with ``run_id``.

        Args:
            uri: from `tracking_uri`. An SQLite database that does not exist is made, which takes about 7 s.
            params: logged once; on resume, values that differ become tags ``resume.N.<key>``.
            directory: the run's folder, where metrics wait in ``mlflow_spool.jsonl`` while MLflow does not
                take them; None keeps them in memory.

        Raises:
            TrackingError: MLflow does not answer within 5 s, or refuses.
        """
        uri = checked_uri(uri)
        take_patience()
        try:
            with borrowed(PROBE if is_server(uri) else {}), quiet("alembic", "mlflow.store.db.utils"):
                client = connect(uri)  # which prints a page of migrations where the database is new
                experiment_id = experiment_id_of(client, uri, experiment)
            resumed = run_id is not None
            if run_id is None:
                family = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
                run_id = client.create_run(experiment_id, run_name=run_name, tags=family).info.run_id
            else:
                client.update_run(run_id, status="RUNNING")
                experiment_id = client.get_run(run_id).info.experiment_id
                experiment = client.get_experiment(experiment_id).name
            tracker = cls(client, uri, (experiment_id, experiment), run_id, directory)
        except Exception as error:
            return_patience()
            if isinstance(error, RaykdError):
                raise
            raise cannot_start(uri, error) from None  # the cause may hold what must not be printed
        tracker.set_tags(tags)
        tracker._attempt("parameters", lambda: tracker._log_params(params, resumed))
        return tracker

    def log_points(self, points: Sequence[Point]) -> None:
        """Takes points and returns at once; a writer thread sends them. NaN and infinities become tags."""
        self._outbox.put(points)

    def flush(self, timeout_s: float = FINISH_S) -> bool:
        """Waits until all points are sent; False if that did not happen in time."""
        return self._outbox.flush(timeout_s)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags; secrets are hidden, long values are cut."""
        clean = {slug(key): cut(redact_value(key, value), LONGEST_TAG) for key, value in tags.items()}
        self._attempt("tags", lambda: self._log_tags(clean))

    def log_text(self, text: str, artifact_path: str) -> None:
        """Keeps a text as the artifact ``artifact_path``."""
        self._attempt(artifact_path, lambda: self._client.log_text(self.run_id, text, artifact_path))

    def log_file(self, path: Path, artifact_dir: str | None = None) -> None:
        """Keeps a file, or a folder with all its files, in the artifact folder ``artifact_dir``."""
        if not path.exists():
            raise TrackingError("there is nothing to log", got=path, wanted="a file or folder that exists")
        log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        self._attempt(str(path), lambda: log(self.run_id, str(path), artifact_dir))

    def log_figure(self, figure: bytes | str, artifact_path: str) -> None:
        """Keeps an SVG text or PNG bytes as the artifact ``artifact_path``."""
        data = figure.encode() if isinstance(figure, str) else figure
        self._attempt(artifact_path, lambda: self._log_bytes(data, artifact_path))

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """Keeps rows as JSON in the form that MLflow's page shows as a table; columns are all keys."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[row.get(column) for column in columns] for row in rows]
        self.log_text(json.dumps({"columns": columns, "data": data}, ensure_ascii=False), artifact_path)
        shown = json.dumps([{"path": artifact_path, "type": "table"}])
        self.set_tags({"mlflow.loggedArtifacts": shown})

    def log_student(
        self,
        directory: Path,
        labels: Sequence[str],
        languages: Sequence[str],
        sample_texts: Sequence[str] = (),
    ) -> str | None:
        """Logs a saved student as an MLflow model and returns its URI (None if MLflow did not take it).

        ``mlflow.pyfunc.load_model(uri).predict(DataFrame({"text": [...]}))`` answers with the columns
        ``label`` and ``p_<label>`` for each label. The model is code and safetensors; nothing is pickled.

        Args:
            directory: what `raykd.models.save` wrote.
            sample_texts: kept with the model as an example of its input; give none if the texts are private.

        Raises:
            TrackingError: the folder is not there or cannot be packed.
        """
        return self._attempt(
            f"the model in {directory}",
            lambda: log_model(
                self._client, (self.run_id, self.experiment_id), directory, labels, languages, sample_texts
            ),
        )

    def child(self, name: str) -> str | None:
        """The id of a run of this name below this one: a killed driver may have made it and not noted it.

        Raises:
            MlflowException: MLflow does not answer.
        """
        below = f"tags.`mlflow.parentRunId` = '{self.run_id}' and tags.`mlflow.runName` = '{name}'"
        found = self._client.search_runs([self.experiment_id], below, max_results=1)
        return str(found[0].info.run_id) if found else None

    def finish(self, status: Status = "FINISHED", timeout_s: float = FINISH_S) -> None:
        """Sends what waits, ends the run, and says where the rest is if MLflow is gone. Does not raise."""
        if self._finished:
            return
        self._finished = True
        sent = self._outbox.close(timeout_s)
        try:
            if sent and not self._outbox.down:
                for what, action in self._later:
                    self._warned(what, action)
                self._warned("the end of the run", lambda: self._client.set_terminated(self.run_id, status))
            else:
                rest = (
                    f"{self._outbox.waiting} points are in {self._spool}; send them with "
                    f"raykd mlflow sync {self._spool.parent}"
                    if self._spool
                    else "some points are lost"
                )
                names = ", ".join(what for what, _ in self._later)
                logger.warning(
                    "MLflow run %s stays RUNNING: %s%s",
                    self.run_id,
                    rest,
                    f"; not logged: {names}" if names else "",
                )
        finally:
            return_patience()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, SystemExit):
            self.finish("FAILED" if error.code else "FINISHED")
        elif isinstance(error, KeyboardInterrupt):
            self.finish("KILLED")
        else:
            self.finish("FINISHED" if error is None else "FAILED")

    def _attempt(self, what: str, action: Callable[[], T]) -> T | None:
        """Does it now, or at `finish` if MLflow does not take it now; a known outage is not waited for."""
        if not self._outbox.down:
            try:
                return action()
            except TrackingError:
                raise
            except Exception as error:
                logger.warning(
                    "MLflow does not take %s (%s); tried again at the end", what, redact(first_line(error))
                )
        self._later.append((what, action))
        return None

    def _warned(self, what: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            logger.warning("MLflow did not take %s: %s", what, redact(first_line(error)))

    def _log_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        rows = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, len(rows), PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, tags=rows[start : start + PARAMS_PER_CALL], synchronous=True)

    def _log_params(self, params: Mapping[str, Any], resumed: bool) -> None:
        from mlflow.entities import Param

        texts = {slug(key): redact_value(key, value) for key, value in params.items()}
        renamed = {f"param_name.{slug(key)}": key for key in params if slug(key) != key}
        long = {key: text for key, text in texts.items() if len(text) > LONGEST_PARAM}
        values = {key: cut(text, LONGEST_PARAM) for key, text in texts.items()}
        if resumed:
            values = self._only_new(values)
        rows = [Param(key, value) for key, value in values.items()]
        for start in range(0, len(rows), PARAMS_PER_CALL):
            self._client.log_batch(
                self.run_id, params=rows[start : start + PARAMS_PER_CALL], synchronous=True
            )
        for key, text in long.items():
            self._client.log_text(self.run_id, text, f"params/{key}.txt")
        self._log_tags({slug(key): value for key, value in renamed.items()})

    def _only_new(self, values: Mapping[str, str]) -> dict[str, str]:
        """On resume: parameters that are new; changed ones become tags, as it refuses new values."""
        data = self._client.get_run(self.run_id).data
        count = int(data.tags.get("resumes", "0")) + 1
        changed = {k: v for k, v in values.items() if k in data.params and data.params[k] != v}
        tags = {slug(f"resume.{count}.{key}"): cut(value, LONGEST_TAG) for key, value in changed.items()}
        self._log_tags({"resumes": str(count), **tags})
        return {k: v for k, v in values.items() if k not in data.params}

    def _log_bytes(self, data: bytes, artifact_path: str) -> None:
        folder, _, name = artifact_path.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / name
            path.write_bytes(data)
            self._client.log_artifact(self.run_id, str(path), folder or None)


def replay(uri: str, spool: Path) -> int:
    """Sends what a dead run left in its spool, each point to its own run; returns how many.

    Raises:
        TrackingError: MLflow does not take them; the file stays as it was, and is removed otherwise.
    """
    rows = list(from_lines(spool))
    by_run: dict[str, list[Point]] = {}
    for run_id, point in rows:
        by_run.setdefault(run_id, []).append(point)
    try:
        with borrowed(PROBE if is_server(uri) else {}):
            client = connect(checked_uri(uri))
            for run_id, points in by_run.items():
                for start in range(0, len(points), CHUNK):
                    send(client, run_id, points[start : start + CHUNK])
    except RaykdError:
        raise
    except Exception as error:
        raise cannot_start(uri, error) from None
    write_spool(spool, [])
    return len(rows)


def serve_ui(output: Path, port: int, say: Callable[[str], None]) -> None:
    """Serves MLflow's pages of the database in ``output`` to this machine alone, until Ctrl-C.

    Raises:
        TrackingError: there is no database, or the server ends by itself.
    """
    database = output.expanduser().resolve() / "mlflow.db"
    if not database.is_file():
        raise TrackingError(
            "there is no MLflow database to show", got=database, wanted="the `output` folder of a run",
            next_step="raykd ui --output FOLDER; runs on a tracking server are shown by that server",
        )  # fmt: skip
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{database.as_posix()}", "--workers", "1"]
    say(f"http://127.0.0.1:{port} shows {database}; starting takes about 20 s, Ctrl-C ends it")
    process = subprocess.Popen(command, env={"MLFLOW_DISABLE_TELEMETRY": "true", **os.environ})
    try:
        code = process.wait()
    except KeyboardInterrupt:
        return
    finally:
        process.terminate()
        process.wait()
    raise TrackingError("the MLflow server ended", got=f"exit status {code}", next_step="try another --port")
