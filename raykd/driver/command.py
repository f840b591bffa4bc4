"""The one driver of train, sweep and confirm: lock and open the folder, connect Ray, record, run, end or give up.

Decision record: what the commands share is the order of things and what happens when one of them fails, so it stands
here once. What differs is a `Command`: what it checks, what it compares on a resume, what it writes into its folder,
how it is recorded, and what it runs. What can fail fails early: checks come before the lock, everything that can
refuse a resume before anything of an earlier start is touched. A command that has no folder (label, predict) uses
`raykd.driver.session.open_ray`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from rich.console import Console

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
    log_to_file,
    open_run_folder,
)
from raykd.folders.lock import lock_folder
from raykd.parse import JsonObject
from raykd.tracking import Experiment, Tracker, describe_environment, resolve_tracking_uri

log = logging.getLogger("raykd.runs")


class CommandResult(Protocol):
    """What a command returns."""

    @property
    def lines(self) -> Sequence[str]:
        """Where things are, for the terminal; kept in the folder's state."""


Result = TypeVar("Result", bound=CommandResult)


@dataclass(frozen=True)
class FolderContents:
    """What a command writes into its folder before it begins.

    Attributes:
        rows: Fingerprints of the rows, by the key of the part; a resume needs the same.
        files: What the command was made from, name to content.
        notes: What to say of a resume, beside what the folder itself says.
    """

    rows: Mapping[str, str]
    files: Mapping[str, str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class TrackedRun:
    """What the MLflow run of a command is opened with.

    Attributes:
        name: Of the run.
        params: Its parameters.
        tags: Its tags, beside those that say where it runs.
        required: Whether the command may not begin while MLflow does not answer.
    """

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    required: bool = True


class Command(ABC, Generic[Result]):
    """A command that works in a folder of its own. The methods are called in the order in which they stand here.

    Attributes:
        owner: The run, sweep or confirmation that the folder is named after.
        base: The run that says which models, which Ray and which MLflow.
        title: What failed, for the log.
    """

    owner: Owner
    base: Run
    title = "the run"

    @abstractmethod
    def check(self) -> Sequence[str]:
        """Check what can be known before the folder is looked at; return notes for the terminal."""

    def compare(self, path: Path, state: JsonObject) -> tuple[Changes, Run | None]:
        """Compare what the folder was made with and what is asked for now (see `compare_settings`)."""
        return compare_settings(self.base, path, state)

    def explain(self, path: Path, changes: Changes) -> ConfigError:
        """Make the error of a resume with changed settings."""
        return changed_settings_error(path, changes)

    @abstractmethod
    def prepare(self, earlier: EarlierStart) -> FolderContents:
        """Read the rows and refuse what cannot be run over them; return what goes into the folder.

        Args:
            earlier: What an earlier start left; empty without one.
        """

    @abstractmethod
    def introduce(self, folder: RunFolder, console: Console) -> None:
        """Print what is about to be done."""

    @abstractmethod
    def record(self) -> TrackedRun:
        """Return what its MLflow run is opened with."""

    @abstractmethod
    def run(self, session: Session) -> Result:
        """Do the work, write the results into the folder and record them."""


def run_command(
    command: Command[Result], *, resume: bool, overwrite: bool, console: Console | None
) -> Result:
    """Run a command in its folder and return what it made.

    Args:
        command: What to do.
        resume: Go on in the folder from where an earlier start was cut off.
        overwrite: Empty the folder first.
        console: Where progress is shown; None makes one.

    Raises:
        RaykdError: With what, got, wanted and the next step; what was written before stays.
    """
    shown = console or Console(emoji=False)
    print_notes(shown, command.check())
    with lock_folder(find_run_path(command.owner)):
        # All that can be refused is refused before an old run is overwritten.
        earlier = check_run_folder(
            command.owner,
            resume=resume,
            overwrite=overwrite,
            compare=command.compare,
            explain=command.explain,
        )
        contents = command.prepare(earlier)
        folder = open_run_folder(
            command.owner,
            contents.rows,
            contents.files,
            earlier=earlier,
            base=command.base,
            overwrite=overwrite,
        )
        ending = interruptible(folder.mark_interrupted, at_last=[lambda: folder.give_up("interrupted")])
        with log_to_file(folder.log), ending, ending_own_ray():
            try:
                folder.say(shown, contents.notes)
                return _run_recorded(command, folder, shown)
            except KeyboardInterrupt:
                folder.give_up("interrupted")
                raise
            except BaseException:
                log.exception("%s failed", command.title)
                folder.give_up("failed")
                raise


def _run_recorded(command: Command[Result], folder: RunFolder, console: Console) -> Result:
    command.introduce(folder, console)
    session = Session(command.base.ray, folder, console, lambda: _start_tracker(command, folder))
    try:
        result = command.run(session)
    except BaseException as error:
        session.end(error)
        raise
    session.end()
    folder.write_state(status="finished", lines=list(result.lines))
    return result


def _start_tracker(command: Command[Result], folder: RunFolder) -> Tracker:
    """Open the MLflow run. Called on a thread of its own, while Ray is being connected."""
    tracking, run = command.base.tracking, command.record()
    return Tracker.start(
        resolve_tracking_uri(tracking, Path(command.base.output).resolve()),
        Experiment.of(tracking),
        run.name,
        params=run.params,
        tags={**describe_environment(), **make_smoke_tags(command.base), **run.tags},
        run_id=folder.state.get("mlflow_run_id"),
        directory=folder.path,
        required=run.required,
    )
