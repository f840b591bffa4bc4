"""Drive train, sweep and confirm: lock and open the folder, connect Ray, open MLflow, run, and end all of it.

Decision record: the commands share the order of these steps and what happens when one fails. They differ in a
`Command`: what it checks, compares on a resume, writes into its folder, records and runs. Errors come early: checks
run before the lock, and whatever can refuse a resume runs before an earlier start is touched. A command without a
folder (label, predict) uses `raykd.driver.session.open_ray`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from rich.console import Console

from raykd.cluster.connection import start_ray_ahead
from raykd.cluster.interrupts import interruptible
from raykd.cluster.own_processes import ending_own_ray
from raykd.config import Run
from raykd.driver.session import Session, print_notes
from raykd.driver.smoke import make_smoke_tags
from raykd.errors import ConfigError
from raykd.folders.changes import Changes
from raykd.folders.earlier_start import EarlierStart, changed_settings_error
from raykd.folders.folder import (
    Owner,
    RunFolder,
    check_run_folder,
    compare_settings,
    find_run_path,
    open_run_folder,
)
from raykd.folders.lock import lock_folder
from raykd.folders.log_file import log_to_file
from raykd.parse import JsonObject
from raykd.timeline import stage
from raykd.tracking import Experiment, Tracker, describe_environment, resolve_tracking_uri

log = logging.getLogger("raykd.runs")


@dataclass(frozen=True)
class Start:
    """How a command begins, as whoever called it asked.

    Attributes:
        resume: Go on from where an earlier start was cut off, or start where there is none.
        overwrite: Empty the folder first.
        console: Where progress is shown.
    """

    resume: bool = False
    overwrite: bool = False
    console: Console = field(default_factory=partial(Console, emoji=False))


class CommandResult(Protocol):
    """What a command returns."""

    @property
    def lines(self) -> Sequence[str]:
        """Notes and places of files for the terminal; the folder's state keeps them."""


Result = TypeVar("Result", bound=CommandResult)


@dataclass(frozen=True)
class FolderContents:
    """What a command writes into its folder before it begins.

    Attributes:
        rows: Fingerprints of the rows, by the key of the part. A resume needs the same ones.
        files: Files with the command's settings, name to content.
        notes: Further notes on a resume.
    """

    rows: Mapping[str, str]
    files: Mapping[str, str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class TrackedRun:
    """How a command's MLflow run is opened.

    Attributes:
        name: Name of the MLflow run.
        params: Its parameters.
        tags: Its tags, beside those that describe the environment.
    """

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]


class Command(ABC, Generic[Result]):
    """A command with a folder of its own. The driver calls its methods in the order in which they stand here.

    Attributes:
        owner: The run, sweep or experiment that names the folder.
        base: The run that names the models, the cluster and MLflow.
        title: What the log calls the command if it fails.
    """

    owner: Owner
    base: Run
    title = "the run"

    @abstractmethod
    def check(self) -> Sequence[str]:
        """Check what does not depend on the folder; return notes for the terminal."""

    def compare(self, path: Path, state: JsonObject) -> tuple[Changes, Run | None]:
        """Compare the folder's settings with those that are asked for; see `compare_settings`."""
        return compare_settings(self.base, path, state)

    def explain(self, path: Path, changes: Changes) -> ConfigError:
        """Return the error of a resume with settings that may not change."""
        return changed_settings_error(path, changes)

    @abstractmethod
    def prepare(self, earlier: EarlierStart) -> FolderContents:
        """Read the rows, and refuse what cannot run over them; return what goes into the folder.

        Args:
            earlier: What an earlier start left; empty without one.
        """

    @abstractmethod
    def introduce(self, folder: RunFolder, console: Console) -> None:
        """Print what will be done."""

    @abstractmethod
    def record(self) -> TrackedRun:
        """Return how the MLflow run is opened."""

    @abstractmethod
    def run(self, session: Session) -> Result:
        """Do the work, write the results into the folder and record them."""


def run_command(command: Command[Result], start: Start | None = None) -> Result:
    """Run a command in its folder, anew unless `start` says otherwise, and return its result.

    Raises:
        RaykdError: The command failed. What it wrote before stays.
    """
    start = start or Start()
    start_ray_ahead(command.base.ray)
    with stage("check"):
        print_notes(start.console, command.check())
    with lock_folder(find_run_path(command.owner)):
        # Everything that can refuse the command comes before an old run is overwritten.
        earlier = check_run_folder(
            command.owner,
            resume=start.resume,
            overwrite=start.overwrite,
            compare=command.compare,
            explain=command.explain,
        )
        with stage("rows read"):
            contents = command.prepare(earlier)
        folder = open_run_folder(
            command.owner,
            contents.rows,
            contents.files,
            earlier=earlier,
            base=command.base,
            overwrite=start.overwrite,
        )
        ending = interruptible(folder.mark_interrupted, at_last=[lambda: folder.give_up("interrupted")])
        with log_to_file(folder.log), ending, ending_own_ray():
            try:
                folder.say(start.console, contents.notes)
                return _run_recorded(command, folder, start.console)
            except KeyboardInterrupt:
                folder.give_up("interrupted")
                raise
            except BaseException:
                log.exception("%s failed", command.title)
                folder.give_up("failed")
                raise


def _run_recorded(command: Command[Result], folder: RunFolder, console: Console) -> Result:
    command.introduce(folder, console)
    # Ray is starting, and the session's thread, which imports too, is not there yet.
    import torch.nn  # noqa: F401

    session = Session(command.base.ray, folder, console, lambda: _start_tracker(command, folder))
    try:
        result = command.run(session)
    except BaseException as error:
        session.end(error)
        raise
    with stage("MLflow ended"):
        session.end()
    folder.write_state(status="finished", lines=list(result.lines))
    return result


def _start_tracker(command: Command[Result], folder: RunFolder) -> Tracker:
    """Open the MLflow run, on a thread of its own while Ray is being connected."""
    tracking, run = command.base.tracking, command.record()
    with stage("MLflow opened"):
        return Tracker.start(
            resolve_tracking_uri(tracking, Path(command.base.output).resolve()),
            Experiment.of(tracking),
            run.name,
            params=run.params,
            tags={**describe_environment(), **make_smoke_tags(command.base), **run.tags},
            run_id=folder.state.get("mlflow_run_id"),
            directory=folder.path,
            required=tracking.required,
        )
