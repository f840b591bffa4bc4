"""Open Ray and MLflow for a command, and end them as the command ended."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from rich.console import Console
from rich.markup import escape

from raykd.cluster.connection import connect_ray
from raykd.cluster.interrupts import interruptible, run_at_interrupt
from raykd.cluster.own_processes import ending_own_ray
from raykd.compat.ray_private import find_log_folder
from raykd.config import RayConfig
from raykd.errors import RaykdError
from raykd.folders.folder import RunFolder
from raykd.folders.log_file import silence_libraries
from raykd.timeline import stage
from raykd.tracking import Tracker, redact
from raykd.tracking.tracker import Status

log = logging.getLogger("raykd.runs")


@contextlib.contextmanager
def open_ray(config: RayConfig) -> Iterator[None]:
    """Connect to Ray while the body runs, for a command without a folder. A Ray that it started ends with the body.

    Raises:
        ConfigError, ResourceError: There is no such cluster, or Ray cannot be started here.
    """
    with interruptible(), ending_own_ray():
        connect_ray(config)
        yield


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Print notes, a line each."""
    for note in notes:
        console.print(f"[yellow]note[/yellow]     {escape(redact(note))}", highlight=False, soft_wrap=True)


class Session:
    """A connection to Ray and an MLflow run. Each takes seconds to open, so they are opened at the same time.

    Args:
        config: Which cluster.
        folder: The command's folder, which keeps the id of the MLflow run.
        console: Where notes on the MLflow run are printed.
        start_tracker: Opens the MLflow run, on a thread of its own.

    Raises:
        ResourceError: There is no such cluster.
    """

    def __init__(
        self, config: RayConfig, folder: RunFolder, console: Console, start_tracker: Callable[[], Tracker]
    ) -> None:
        self.folder, self.console = folder, console
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._starting = self._background.submit(start_tracker)
        self._tracker: Tracker | None = None
        self._children: list[ChildRuns] = []
        run_at_interrupt(lambda: self._end_run(KeyboardInterrupt()))
        try:
            with stage("Ray connected"):
                connect_ray(config)
        except BaseException as error:
            self.end(error)
            raise
        logs = find_log_folder() or "the cluster"
        log.info("connected to Ray: %s; its logs are in %s", ray.cluster_resources(), logs)

    def open_tracker(self) -> Tracker:
        """Return the MLflow run. The first call waits for it and prints its notes.

        Raises:
            TrackingError: It cannot be opened.
        """
        if self._tracker is None:
            with stage("waiting for MLflow"):
                self._tracker = self._starting.result()
            self._background.shutdown(wait=False)
            silence_libraries()
            log.info("MLflow run %s at %s", self._tracker.run_id, redact(self._tracker.uri))
            self.folder.write_state(mlflow_run_id=self._tracker.run_id)
            print_notes(self.console, self._tracker.notes)
        return self._tracker

    def open_child_runs(self) -> ChildRuns:
        """Return child runs that end with the session."""
        children = ChildRuns(self.open_tracker(), self.folder)
        run_at_interrupt(lambda: children.finish("KILLED"))
        self._children.append(children)
        return children

    def end(self, error: BaseException | None = None) -> None:
        """End the MLflow run and its children as the command ended.

        Args:
            error: What ended the command; None if it succeeded.
        """
        for children in self._children:
            children.finish(_status_of(error))
        self._end_run(error)

    def _end_run(self, error: BaseException | None) -> None:
        # A run that could not be opened has raised its error before, or the command has an earlier error.
        with contextlib.suppress(RaykdError):
            (self._tracker or self._starting.result()).finish(_status_of(error))
        self._background.shutdown(wait=False)


class ChildRuns:
    """Child runs of a command's MLflow run. A resume finds them again.

    Args:
        parent: The command's own run.
        folder: The command's folder, whose state keeps the ids of the children.
    """

    def __init__(self, parent: Tracker, folder: RunFolder) -> None:
        self._parent, self._folder = parent, folder
        self.open: dict[str, Tracker] = {}

    def start(
        self,
        name: str,
        *,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        directory: Path,
        find: Callable[[str], str | None] = lambda name: None,
    ) -> Tracker:
        """Open the child run of this name, or the one that an earlier start opened.

        Args:
            name: Name of the job or trial.
            params: Parameters of the child run.
            tags: Tags of the child run.
            directory: Where points wait while MLflow does not answer.
            find: Returns the id of a child that the state does not know.
        """
        known = self._folder.state.get("children", {})
        self.open[name] = Tracker.start(
            self._parent.uri,
            self._parent.experiment,
            name,
            params=params,
            tags=tags,
            parent_run_id=self._parent.run_id,
            run_id=known.get(name) or find(name),
            directory=directory,
            required=False,
        )
        self._folder.write_state(children={**known, name: self.open[name].run_id})
        return self.open[name]

    def finish(self, status: Status) -> None:
        """End all open children."""
        for child in list(self.open.values()):
            child.finish(status)


def _status_of(error: BaseException | None) -> Status:
    if error is None:
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
