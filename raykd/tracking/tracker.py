"""MLflow, from the controller's side: one `Tracker` is one MLflow run.

Decision record: only the driver makes trackers. Five processes that open a fresh SQLite database at once
crash, and an outage of the server must not reach a training worker; workers report plain numbers to the
driver, which writes them. Everything goes through `MlflowClient` with explicit run ids: the fluent
interface keeps its state in the process and its URI in the environment, so that a sweep's parent and trials
would mix. A tracker that cannot start fails the run, because somebody who asked for tracking wants to know
now, unless the run need not be recorded (`tracking.required: false`); one that fails later warns and keeps what
it could not send: points in the `outbox`, all else as `ops`. Both lie in the run's folder until they are sent.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from raykd.errors import TrackingError
from raykd.point import Point
from raykd.tracking.address import (
    Experiment,
    check_uri,
    find_database_path,
    format_sync_command,
    redact,
    redact_value,
)
from raykd.tracking.client import KeyNames, clean_text, log_tags, send_points, truncate_text
from raykd.tracking.delivery.heartbeat import BEAT_S, make_heartbeat_tag
from raykd.tracking.delivery.operations import (
    LATER,
    LOCAL,
    LONGEST_TAG,
    Kind,
    TrackingOp,
    WaitingOps,
    clean_artifact_path,
    make_local_id,
    make_stored_path,
    perform_op,
    redact_params,
)
from raykd.tracking.delivery.outbox import SPOOL, Outbox, extract_first_line, logger
from raykd.tracking.delivery.unrecorded import UnrecordedRun, find_run_folder, note_unrecorded
from raykd.tracking.opening import OpenedRun, open_run
from raykd.tracking.stores.database import identify_file
from raykd.tracking.stores.failure import convert_failure
from raykd.tracking.timeouts import PROBE_S, restore_timeouts, shorten_timeouts

Status = Literal["FINISHED", "FAILED", "KILLED"]
FINISH_S = 20.0
"""Seconds for the last flush of a run."""
KILLED_S = 1.5
"""The same for an interrupted one, whose process may be killed in a few seconds."""


class Tracker:
    """One MLflow run. Made with `start`, ended with `finish` or as a context manager.

    uri, run_id, experiment_id, experiment: where it is, for messages and for children.
    notes: what a reader must know of how it was opened, for example that the run of before is deleted.
    replaced: whether it is new in the place of one that is gone.
    """

    def __init__(self, uri: str, opened: OpenedRun, directory: Path | None) -> None:
        client, run_id = opened.client, opened.run_id
        self.uri, self.run_id, self.notes = uri, run_id, opened.notes
        self.replaced = opened.replaced
        self.experiment_id, self.experiment = opened.experiment_id, opened.experiment
        self._file = _file_of(uri)
        self._client, self._folder = client, directory
        self._tag_names, metric_names = KeyNames(opened.tags), KeyNames(opened.metrics)
        self._tables: list[dict[str, str]] = _tables_in(opened.tags)
        self._why = ""
        self._outbox = Outbox(
            run_id,
            lambda points: send_points(client, run_id, points, metric_names),
            None if directory is None else directory / SPOOL,
            beat=lambda: log_tags(client, run_id, make_heartbeat_tag()),
            beat_s=BEAT_S,
            offline=client is None,
        )
        self._later = WaitingOps(None if directory is None else directory / LATER)
        self._later.keep([op for op in self._later.ops if op.kind != "status"])  # it goes on
        self._finished = False

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str | Experiment,
        run_name: str,
        *,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
        run_id: str | None = None,
        directory: Path | None = None,
        required: bool = True,
    ) -> Tracker:
        """Opens a run, a child of ``parent_run_id``, or goes on with ``run_id``.

        A ``run_id`` that is deleted or not there is not an error: a new run takes its place, which `notes` says.

        Args:
            uri: from `resolve_tracking_uri`. An SQLite database that does not exist is made, which takes about 7 s.
            params: logged once; on resume, values that differ become tags ``resume.N.<key>``.
            directory: the run's folder, where what MLflow does not take waits in ``mlflow_spool.jsonl`` and
                ``mlflow_later.jsonl``; None keeps it in memory.
            required: else a server that does not answer is a warning, and everything waits in the directory.

        Raises:
            TrackingError: MLflow does not answer within 5 s, or refuses.
        """
        uri = check_uri(uri)
        asked = Experiment(experiment) if isinstance(experiment, str) else experiment
        shorten_timeouts()
        try:
            opened = open_run(uri, asked, run_name, parent_run_id, run_id, directory)
            tracker = cls(uri, opened, directory)
        except Exception as error:
            restore_timeouts()
            failure = convert_failure(uri, error)
            if required or not getattr(failure, "is_away", False) or directory is None:
                raise failure from None  # the cause may hold what must not be printed
            logger.warning(
                "%s; the run goes on without it: what is to be recorded waits in %s", failure, directory
            )
            opened = OpenedRun(None, run_id or make_local_id(), "", asked, resumed=run_id is not None)
            tracker = cls(uri, opened, directory)
            tracker._why = f"{failure.what}: {failure.got}"
            tracker._create_later(asked, run_name, parent_run_id)
        tracker.set_tags({**tags, **make_heartbeat_tag()})
        tracker._attempt("params", "parameters", {"params": redact_params(params), "resumed": opened.resumed})
        return tracker

    def _create_later(self, asked: Experiment, name: str, parent: str | None) -> None:
        if self.run_id.startswith(LOCAL) and not any(op.kind == "create" for op in self._later.ops):
            born = {"experiment": asked.name, "experiment_id": asked.id, "name": name, "parent": parent}
            self._attempt("create", "the run", {**born, "time_ms": int(time.time() * 1000)})

    def log_points(self, points: Sequence[Point]) -> None:
        """Takes points and returns at once; a writer thread sends them. NaN and infinities become tags."""
        self._outbox.put(points)

    def flush(self, timeout_s: float = FINISH_S) -> bool:
        """Waits until all points are sent; False if that did not happen in time."""
        return self._outbox.flush(timeout_s)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags; secrets are hidden, long values are cut."""
        clean = {
            self._tag_names(key): truncate_text(clean_text(redact_value(key, value)), LONGEST_TAG)
            for key, value in tags.items()
        }
        self._attempt("tags", "tags", {"tags": clean})

    def log_text(self, text: str, path: str) -> None:
        """Keeps a text as the artifact ``path``."""
        self._attempt("text", path, {"text": clean_text(text), "path": clean_artifact_path(path)})

    def log_file(self, path: Path, artifact_dir: str | None = None) -> None:
        """Keeps a file, or a folder with all its files, in the artifact folder ``artifact_dir``."""
        if not path.exists():
            raise TrackingError("there is nothing to log", got=path, wanted="a file or folder that exists")
        self._attempt("file", str(path), {"file": make_stored_path(path, self._folder), "dir": artifact_dir})

    def log_figure(self, figure: bytes | str, path: str) -> None:
        """Keeps an SVG text or PNG bytes as the artifact ``path``."""
        data = figure.encode() if isinstance(figure, str) else figure
        encoded = base64.b64encode(data).decode("ascii")
        self._attempt("bytes", path, {"data": encoded, "path": clean_artifact_path(path)})

    def log_table(self, rows: Sequence[Mapping[str, object]], path: str) -> None:
        """Keeps rows as JSON in the form that MLflow's page shows as a table; columns are all keys."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[row.get(column) for column in columns] for row in rows]
        self.log_text(json.dumps({"columns": columns, "data": data}, ensure_ascii=False), path)
        entry = {"path": clean_artifact_path(path), "type": "table"}
        if entry not in self._tables:
            self._tables.append(entry)
        self.set_tags({"mlflow.loggedArtifacts": json.dumps(self._tables)})

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
            directory: what `raykd.models.save_model` wrote.
            sample_texts: kept with the model as an example of its input; give none if the texts are private.

        Raises:
            TrackingError: the folder is not there or cannot be packed.
        """
        if not directory.is_dir():
            raise TrackingError(
                "there is no student to log", got=directory, wanted="a folder that raykd saved"
            )
        values = {"labels": list(labels), "languages": list(languages), "texts": list(sample_texts)}
        uri: str | None = self._attempt(
            "model",
            f"the model in {directory}",
            {"file": make_stored_path(directory, self._folder), **values},
        )
        return uri

    def find_child(self, name: str) -> str | None:
        """The id of a run of this name below this one: a killed driver may have made it and not noted it.

        Raises:
            MlflowException: MLflow does not answer.
        """
        if self._client is None:
            return None
        below = f"tags.`mlflow.parentRunId` = '{self.run_id}' and tags.`mlflow.runName` = '{name}'"
        found = self._client.search_runs([self.experiment_id], below, max_results=1)
        return str(found[0].info.run_id) if found else None

    def finish(self, status: Status = "FINISHED", timeout_s: float = FINISH_S) -> None:
        """Sends what waits, ends the run, and says where the rest is if MLflow is gone. Does not raise."""
        if self._finished:
            return
        self._finished = True
        if status == "KILLED":
            timeout_s = min(timeout_s, KILLED_S)
        end = TrackingOp(
            self.run_id,
            "status",
            "the end of the run",
            {"status": status, "time_ms": int(time.time() * 1000)},
        )
        try:
            sent = self._outbox.flush(timeout_s)
            left = self._perform_later(end) if sent and not self._outbox.down else [*self._later.ops, end]
            self._outbox.close(0.0 if self._outbox.down else timeout_s)
            self._later.keep(left)
            if left or self._outbox.waiting or self._outbox.dropped:
                self._say_rest(left)
        except OSError as error:
            logger.warning("what MLflow did not take is lost: %s", redact(error))
        finally:
            if not self._outbox.offline:
                restore_timeouts()

    def _say_rest(self, left: Sequence[TrackingOp]) -> None:
        names = ", ".join(op.what for op in left)
        waiting, lost = self._outbox.waiting, self._outbox.dropped
        rest = (
            f"{waiting} points are in {self._folder / SPOOL}; "
            f"{format_sync_command(self.uri, find_run_folder(self._folder))} sends all of it"
            + (f"; {lost} points are lost" if lost else "")
            if self._folder
            else "it is lost"
        )
        logger.warning("MLflow run %s: not recorded: %s; %s", self.run_id, names or "points", rest)
        why = self._why or self._outbox.why
        if self._file is not None and _file_of(self.uri) != self._file:
            why = "the database was removed or replaced while the run went on"
        note_unrecorded(UnrecordedRun(self.uri, self._folder, waiting + lost, len(left), why, lost))

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

    def _attempt(self, kind: Kind, what: str, values: dict[str, object]) -> Any:
        """Does it now, or at `finish` if MLflow does not take it now; a known outage is not waited for."""
        op = TrackingOp(self.run_id, kind, what, values)
        if not self._outbox.down:
            try:
                return perform_op(self._client, self.run_id, op, self._folder)
            except TrackingError:
                raise
            except Exception as error:
                self._why = redact(extract_first_line(error))[:300]
                logger.warning("MLflow does not take %s (%s); tried again at the end", what, self._why)
                self._outbox.suspect()
        self._later.add(op)
        return None

    def _perform_later(self, end: TrackingOp) -> list[TrackingOp]:
        """Does what waits, and ends the run; returns what MLflow still did not take."""
        left: list[TrackingOp] = []
        for op in [*self._later.ops, end]:
            if left and self._outbox.down:
                left.append(op)
                continue
            try:
                perform_op(self._client, self.run_id, op, self._folder)
            except Exception as error:
                self._why = redact(extract_first_line(error))[:300]
                logger.warning("MLflow did not take %s: %s", op.what, self._why)
                left.append(op)
                self._outbox.suspect()
                self._outbox.flush(PROBE_S)
        return left


def _file_of(uri: str) -> tuple[int, int] | None:
    path = find_database_path(uri)
    return None if path is None else identify_file(path)


def _tables_in(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """The tables that a run has already."""
    try:
        found = json.loads(tags.get("mlflow.loggedArtifacts", "[]"))
    except ValueError:
        return []
    return list(found) if isinstance(found, list) else []
