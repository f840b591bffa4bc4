"""Record one MLflow run from the driver.

Decision record: only the driver makes trackers. Five processes that open a fresh SQLite database at once crash, and an
outage of the server must not reach a training worker. Workers report plain numbers to the driver, which writes them.

Everything goes through `MlflowClient` with explicit run ids. The fluent interface keeps its state in the process and
its URI in the environment, so a sweep's parent and trials would mix.

A tracker that cannot start fails the run, because somebody who asked for tracking wants to know now, unless the run
need not be recorded (`tracking.required: false`). One that fails later warns and keeps what it could not send: points
in the `outbox`, all else as `operations`. Both lie in the run's folder until they are sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from raykd.errors import TrackingError
from raykd.point import Point
from raykd.redaction import redact, redact_value
from raykd.tracking.address import Experiment, check_uri, find_database_path, format_sync_command
from raykd.tracking.client import PARENT, KeyNames, clean_text, log_tags, send_points, truncate_text
from raykd.tracking.delivery.heartbeat import BEAT_S, make_heartbeat_tag
from raykd.tracking.delivery.operations import (
    LATER,
    LOCAL,
    LONGEST_TAG,
    Kind,
    TrackingOp,
    WaitingOps,
    clean_artifact_path,
    make_create_op,
    make_stored_path,
    now_ms,
    perform_op,
    redact_params,
)
from raykd.tracking.delivery.outbox import SPOOL, Outbox, describe_error, logger
from raykd.tracking.delivery.unrecorded import UnrecordedRun, find_run_folder, note_unrecorded
from raykd.tracking.ended import EndedRun, record_ended_run
from raykd.tracking.opening import OpenedRun, open_run
from raykd.tracking.packing import check_student_folder
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

    Attributes:
        uri, run_id, experiment_id, experiment: Where it is, for messages and for children.
        notes: What a reader must know of how it was opened, for example that the former run is deleted.
        replaced: Whether it is new in the place of one that is gone.
    """

    def __init__(self, uri: str, opened: OpenedRun, directory: Path | None) -> None:
        client, run_id = opened.client, opened.run_id
        self.uri, self.run_id, self.notes = uri, run_id, opened.notes
        self.replaced = opened.replaced
        self.experiment_id, self.experiment = opened.experiment_id, opened.experiment
        self._file = _identify_database(uri)
        self._client, self._folder = client, directory
        self._tag_names, metric_names = KeyNames(opened.tags), KeyNames(opened.metrics)
        self._tables = _read_tables(opened.tags)
        self._why = ""

        def send(points: Sequence[Point]) -> None:
            assert client is not None, "an outbox that is offline sends nothing"
            send_points(client, run_id, points, metric_names)

        def beat() -> None:
            assert client is not None, "an outbox that is offline sends nothing"
            log_tags(client, run_id, make_heartbeat_tag())

        spool = None if directory is None else directory / SPOOL
        self._outbox = Outbox(run_id, send, spool, beat=beat, beat_s=BEAT_S, offline=client is None)
        self._later = WaitingOps(None if directory is None else directory / LATER)
        # A resumed run goes on, so how it ended before is not told any more.
        self._later.keep([op for op in self._later.ops if op.kind != "status"])
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
        """Open a run, a child of ``parent_run_id``, or go on with ``run_id``.

        A ``run_id`` that is deleted or not there is not an error: a new run takes its place, and `notes` says so.

        Args:
            uri: From `resolve_tracking_uri`. An SQLite database that does not exist is made, which takes about 7 s.
            experiment: Name or id of the experiment.
            run_name: The run's name in MLflow.
            params: Logged once. On resume, values that differ become tags ``resume.N.<key>``.
            tags: Tags of the run.
            parent_run_id: Id of the run above.
            run_id: Id of the run to go on with; None makes one.
            directory: The run's folder, where what MLflow does not take waits in ``mlflow_spool.jsonl`` and
                ``mlflow_later.jsonl``. None keeps it in memory.
            required: If False, a server that does not answer is a warning, and everything waits in the directory.

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
            birth = make_create_op(run_name, asked, parent_run_id, run_id)
            opened = OpenedRun(None, birth.run_id, "", asked, resumed=run_id is not None)
            tracker = cls(uri, opened, directory)
            tracker._why = f"{failure.what}: {failure.got}"
            # MLflow knows a run whose id is not local, and an earlier start may have left the birth of this one.
            if birth.run_id.startswith(LOCAL) and not any(op.kind == "create" for op in tracker._later.ops):
                tracker._later.add(birth)
        tracker.set_tags({**tags, **make_heartbeat_tag()})
        tracker._attempt("params", "parameters", params=redact_params(params), resumed=opened.resumed)
        return tracker

    def log_points(self, points: Sequence[Point]) -> None:
        """Take points and return at once; a writer thread sends them. NaN and infinities become tags."""
        self._outbox.put(points)

    def flush(self, timeout_s: float = FINISH_S) -> bool:
        """Wait until all points are sent; return False if that did not happen in time."""
        return self._outbox.flush(timeout_s)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; secrets are hidden, long values are cut."""
        clean = {
            self._tag_names(key): truncate_text(clean_text(redact_value(key, value)), LONGEST_TAG)
            for key, value in tags.items()
        }
        self._attempt("tags", "tags", tags=clean)

    def log_text(self, text: str, path: str) -> None:
        """Log a text as the artifact ``path``."""
        self._attempt("text", path, text=clean_text(text), path=clean_artifact_path(path))

    def log_file(self, path: Path, artifact_dir: str | None = None) -> None:
        """Log a file, or a folder with all its files, into the artifact folder ``artifact_dir``."""
        if not path.exists():
            raise TrackingError("there is nothing to log", got=path, wanted="a file or folder that exists")
        self._attempt("file", str(path), file=make_stored_path(path, self._folder), dir=artifact_dir)

    def log_table(self, rows: Sequence[Mapping[str, object]], path: str) -> None:
        """Log rows as JSON in the form that MLflow's page shows as a table; its columns are all keys."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[row.get(column) for column in columns] for row in rows]
        self.log_text(json.dumps({"columns": columns, "data": data}, ensure_ascii=False), path)
        entry = {"path": clean_artifact_path(path), "type": "table"}
        if entry not in self._tables:
            self._tables.append(entry)
        self.set_tags({"mlflow.loggedArtifacts": json.dumps(self._tables)})

    def log_student(self, directory: Path, labels: Sequence[str], languages: Sequence[str]) -> str | None:
        """Log a saved student as an MLflow model.

        ``mlflow.pyfunc.load_model(uri).predict(DataFrame({"text": [...]}))`` answers with the columns
        ``label`` and ``p_<label>`` for each label. The model is code and safetensors; nothing is pickled.

        Args:
            directory: What `raykd.models.save_model` wrote.
            labels: The student's labels.
            languages: The student's languages.

        Returns:
            The model's URI; None if MLflow did not take it.

        Raises:
            TrackingError: The folder is not there or cannot be packed.
        """
        check_student_folder(directory)
        return self._attempt(
            "model", f"the model in {directory}", file=make_stored_path(directory, self._folder),
            labels=list(labels), languages=list(languages),
        )  # fmt: skip

    def find_child(self, name: str) -> str | None:
        """Return the id of a run of this name below this one. A killed driver may have made it and not noted it.

        Raises:
            MlflowException: MLflow does not answer.
        """
        if self._client is None:
            return None
        below = f"tags.`{PARENT}` = '{self.run_id}' and tags.`mlflow.runName` = '{name}'"
        found = self._client.search_runs([self.experiment_id], below, max_results=1)
        return str(found[0].info.run_id) if found else None

    def record_child(self, child: EndedRun) -> tuple[str | None, bool]:
        """Record a run below this one that has ended already; see `record_ended_run`.

        Where MLflow is known to be away, nothing is tried.
        """
        if self._client is None or self._outbox.down:
            return None, False
        return record_ended_run(self._client, self.experiment_id, self.run_id, child)

    def finish(self, status: Status = "FINISHED", timeout_s: float = FINISH_S) -> None:
        """Send what waits, end the run, and say where the rest is if MLflow is gone. Does not raise.

        Args:
            status: How the run ended.
            timeout_s: Seconds that the last points may take; at most `KILLED_S` for an interrupted run.
        """
        if self._finished:
            return
        self._finished = True
        if status == "KILLED":
            timeout_s = min(timeout_s, KILLED_S)
        values = {"status": status, "time_ms": now_ms()}
        end = TrackingOp(self.run_id, "status", "the end of the run", values)
        try:
            sent = self._outbox.flush(timeout_s)
            left = self._perform_later(end) if sent and not self._outbox.down else [*self._later.ops, end]
            self._outbox.close(0.0 if self._outbox.down else timeout_s)
            self._later.keep(left)
            if left or self._outbox.waiting or self._outbox.dropped:
                self._report_rest(left)
        except OSError as error:
            logger.warning("what MLflow did not take is lost: %s", redact(error))
        finally:
            if not self._outbox.offline:
                restore_timeouts()

    def _report_rest(self, left: Sequence[TrackingOp]) -> None:
        """Say where what MLflow did not take waits, and note it for the end of the command."""
        waiting, lost = self._outbox.waiting, self._outbox.dropped
        rest = "it is lost"
        if self._folder is not None:
            command = format_sync_command(self.uri, find_run_folder(self._folder))
            rest = f"{waiting} points are in {self._folder / SPOOL}; {command} sends all of it"
            rest += f"; {lost} points are lost" if lost else ""
        names = ", ".join(op.what for op in left) or "points"
        logger.warning("MLflow run %s: not recorded: %s; %s", self.run_id, names, rest)
        why = self._why or self._outbox.why
        if self._file is not None and _identify_database(self.uri) != self._file:
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

    def _attempt(self, kind: Kind, what: str, **values: object) -> str | None:
        """Perform an operation now, or at `finish` if MLflow does not take it; a known outage is not waited for."""
        op = TrackingOp(self.run_id, kind, what, values)
        if self._client is not None and not self._outbox.down:
            try:
                return perform_op(self._client, self.run_id, op, self._folder)
            except TrackingError:
                raise
            except Exception as error:
                self._why = describe_error(error)
                logger.warning("MLflow does not take %s (%s); tried again at the end", what, self._why)
                self._outbox.suspect()
        self._later.add(op)
        return None

    def _perform_later(self, end: TrackingOp) -> list[TrackingOp]:
        """Perform what waits and end the run; return what MLflow still did not take."""
        left: list[TrackingOp] = []
        for op in [*self._later.ops, end]:
            if self._client is None or (left and self._outbox.down):
                left.append(op)
                continue
            try:
                perform_op(self._client, self.run_id, op, self._folder)
            except Exception as error:
                self._why = describe_error(error)
                logger.warning("MLflow did not take %s: %s", op.what, self._why)
                left.append(op)
                # Whether this one alone was refused or MLflow is gone shows the next attempt to send points.
                self._outbox.suspect()
                self._outbox.flush(PROBE_S)
        return left


def _identify_database(uri: str) -> tuple[int, int] | None:
    path = find_database_path(uri)
    return None if path is None else identify_file(path)


def _read_tables(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """The tables that a run has already, as MLflow's own tag lists them."""
    try:
        found = json.loads(tags.get("mlflow.loggedArtifacts", "[]"))
    except ValueError:
        return []
    return found if isinstance(found, list) else []
