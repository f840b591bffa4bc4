"""Open the folder of a run, a sweep or an experiment, and keep its state.

Decision record: a name is an identity. An existing folder is not touched unless the user says how: `--resume` goes on
with the same settings, `--overwrite` starts anew. Ray would silently go on from whatever it finds. A run that fails
before it has started anything leaves no folder, so the corrected run needs no flag. `raykd.folders.earlier_start` says
what a resume may change, and what happens to moved and copied folders.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from rich.console import Console

from raykd.config import Run
from raykd.config.home import STATE
from raykd.config.run import TrackingConfig
from raykd.data.load import ALL
from raykd.errors import ConfigError
from raykd.folders.changes import Change, Changes
from raykd.folders.contents import digest_models
from raykd.folders.earlier_start import (
    EarlierStart,
    changed_settings_error,
    compare_run,
    detach_copy,
    find_original,
    read_state,
    rewrite_paths,
    write_atomically,
)
from raykd.folders.lock import is_held
from raykd.parse import JsonObject
from raykd.student.settings import build_deepspeed_config

log = logging.getLogger("raykd.runs")
RESULTS = "results.md"
"""File with the final table."""
_writing = threading.Lock()
"""Held while a state is written: the driver's threads keep counters and ids in it."""


@dataclass(frozen=True)
class RunFolder:
    """An open folder, OUTPUT/NAME.

    Attributes:
        path: The folder.
        state: Content of `run.json`.
        fresh: Whether this start made the folder.
        notes: What a reader must know of a resume.
        changes: Settings that have changed since an earlier start.
    """

    path: Path
    state: JsonObject
    fresh: bool = True
    notes: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def log(self) -> Path:
        """The log file, with everything that the terminal does not show."""
        return self.path / "log.txt"

    def write_state(self, **values: object) -> None:
        """Keep values for a later resume. The file is replaced atomically, and threads may call at once.

        Raises:
            ResourceError: The file cannot be written; what it held before stays.
        """
        with _writing:
            self.state.update(values)
            write_atomically(self.path / STATE, json.dumps(self.state, indent=2))

    def say(self, console: Console, more: Sequence[str] = ()) -> None:
        """Print and log what a reader must know of a resume."""
        notes = list(self.notes)
        if self.changes:
            notes.append(f"resumed with other settings: {', '.join(map(str, self.changes))}")
        for note in (*notes, *more):
            log.info("%s", note)
            console.print(note, markup=False, highlight=False, soft_wrap=True)

    def mark_interrupted(self) -> None:
        """Write at once that the run was interrupted, if it is on record or was resumed."""
        if self.state.get("status") != "finished" and (not self.fresh or "mlflow_run_id" in self.state):
            self.write_state(status="interrupted")

    def give_up(self, status: str) -> None:
        """Write how the run ended. A fresh folder is removed unless MLflow knows the run."""
        if self.state.get("status") == "finished":
            return  # a later error does not make the run fail
        if self.fresh and "mlflow_run_id" not in self.state:
            shutil.rmtree(self.path)
        else:
            self.write_state(status=status)


class Owner(Protocol):
    """A run, a sweep or an experiment, which has a folder."""

    @property
    def name(self) -> str:
        """The folder's name."""

    @property
    def output(self) -> str:
        """The folder above."""

    def fingerprint(self) -> str:
        """Return a digest of everything that must be equal for a resume."""


Compare = Callable[[Path, JsonObject], tuple[Changes, Run | None]]
"""Compares the settings of a folder with this state to those that are asked for; see `compare_run`."""


def find_run_path(config: Owner) -> Path:
    """Return the folder of a run, a sweep or an experiment."""
    return Path(config.output).resolve() / config.name


def read_status(path: Path, state: JsonObject) -> str:
    """Return the status that the state says; a run whose process is gone is not running but killed."""
    status = str(state.get("status", "unknown"))
    return "killed" if status == "running" and not is_held(path) else status


def check_run_folder(
    config: Owner,
    *,
    resume: bool,
    overwrite: bool,
    compare: Compare | None = None,
    explain: Callable[[Path, Changes], ConfigError] = changed_settings_error,
) -> EarlierStart:
    """Check whether the run may use its folder, and return what it may go on from. Changes nothing.

    Args:
        config: The run, sweep or experiment.
        resume: Whether to go on from an earlier start.
        overwrite: Whether to start anew.
        compare: Compares the settings; None takes that of a run.
        explain: Makes the error for settings that may not change.

    Raises:
        ConfigError: The folder exists, and neither resume nor overwrite was asked for; or settings have changed.
    """
    output = Path(config.output).resolve()
    path = output / config.name
    # Through a link, --overwrite would empty a folder that raykd did not make.
    if path.is_symlink() or path.resolve().parent != output:
        raise ConfigError(
            f"the run folder {path} leads elsewhere",
            got=str(path.resolve()),
            wanted=f"a folder in {output}",
            next_step=f"name the folder that it leads to: output={path.resolve().parent} name={path.resolve().name}",
        )
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return EarlierStart()
    state = read_state(path)
    if overwrite:
        return EarlierStart()
    if not resume:
        raise ConfigError(
            f"the run folder {path} exists already",
            got=f"a run that is {read_status(path, state)}",
            wanted="a new name, --resume or --overwrite",
            next_step="--resume goes on from its last checkpoint, --overwrite starts anew, name=... makes another",
        )
    changes, before = (compare or partial(compare_settings, cast(Run, config)))(path, state)
    if changes.refused:
        raise explain(path, changes)
    return EarlierStart(state, changes, before)


def compare_settings(config: Run, path: Path, state: JsonObject) -> tuple[Changes, Run | None]:
    """Compare as `compare_run`, and check that the checkpoints can be converted to another number of workers."""
    changes, before = compare_run(config, path, state)
    if not changes.refused:
        _check_workers(config, state, path)
    return changes, before


def open_run_folder(
    config: Owner,
    rows: Mapping[str, str],
    files: Mapping[str, str],
    *,
    earlier: EarlierStart,
    base: Run,
    overwrite: bool,
) -> RunFolder:
    """Make or reopen the folder, and write into it what the run is made from.

    Args:
        config: The run, sweep or experiment.
        rows: Fingerprints of the rows, by the key of the part. A resume needs the same ones.
        files: Files to write, name to content.
        earlier: What `check_run_folder` found.
        base: The run that names the models and MLflow.
        overwrite: Whether to empty the folder first.

    Raises:
        ConfigError: The data changed since the run began.
    """
    path, state = find_run_path(config), dict(earlier.state)
    check_rows(path, state, rows)
    fresh = not earlier.state
    if path.exists() and overwrite:
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    notes = _adopt_folder(path, state, base.tracking)
    for name, content in files.items():
        write_atomically(path / name, content)
    folder = RunFolder(path, state, fresh, notes, earlier.changes.allowed)
    folder.write_state(
        fingerprint=config.fingerprint(),
        rows=dict(rows),
        models=state.get("models") or digest_models(base),
        num_workers=base.workers.num_workers,
        folder=str(path),
        status="running",
    )
    return folder


def check_rows(path: Path, state: JsonObject, rows: Mapping[str, str]) -> None:
    """Check that a run goes on over the rows that it began with.

    Raises:
        ConfigError: Names the parts that have changed.
    """
    # An earlier version kept one fingerprint of all parts.
    before = state.get("rows", {ALL: state.get("data", rows[ALL])})
    changed = [part for part, print_of in before.items() if rows.get(part) != print_of]
    if not changed and (len(before) == 1 or len(before) == len(rows)):
        return
    added = [part for part in rows if part not in before and len(before) > 1]
    named = [part for part in (*changed, *added) if part != ALL]
    raise ConfigError(
        f"cannot resume {path}: the data have changed since it began",
        got=f"other rows in {', '.join(named)}" if named else "other rows",
        wanted="the rows that it began with; where their files lie does not matter",
        next_step=f"put the old files back, or start anew with --overwrite or another name (name={path.name}-2)",
    )


def _adopt_folder(path: Path, state: JsonObject, tracking: TrackingConfig) -> tuple[str, ...]:
    """Update a folder that was moved or copied; return notes on it."""
    before, notes = state.get("folder"), []
    if before is None or str(before) == str(path):
        return ()
    original = find_original(path, state, tracking)
    if original is not None:
        detach_copy(path, state)
        notes.append(
            f"{path} is a copy of {original}, which is still there: it gets an MLflow run of its own"
        )
    else:
        notes.append(f"going on in {path}; it lay in {before} before")
    rewrite_paths(path, Path(str(before)))
    return tuple(notes)


@dataclass(frozen=True)
class FinishedRun:
    """What the terminal shows of a finished run.

    Attributes:
        text: Its final table, in Markdown.
        lines: Notes and places of files.
    """

    text: str
    lines: tuple[str, ...]


def read_finished_run(config: Run) -> FinishedRun | None:
    """Return what the same run showed when it finished; None if it has not, or if more is asked of it now."""
    path = find_run_path(config)
    state = read_state(path) if path.exists() and not path.is_symlink() else {}
    if state.get("status") != "finished" or not (path / "student" / "config.json").is_file():
        return None
    changes, _ = compare_run(config, path, state)
    if changes.refused or changes.growing or (config.baseline and not (path / "baseline").exists()):
        return None
    table = path / RESULTS
    text = table.read_text(encoding="utf-8") if table.is_file() else ""
    # The folder may have been moved since. Its lines name places in it and beside it (MLflow's database).
    before = state.get("folder") or str(path)
    lines = [str(line).replace(str(before), str(path)) for line in state.get("lines", ())]
    above = (str(Path(before).parent), str(path.parent))
    return FinishedRun(text, tuple(line.replace(*above) for line in lines))


def _check_workers(config: Run, state: JsonObject, path: Path) -> None:
    """Refuse another number of workers with ZeRO 3; checkpoints of ZeRO 0 to 2 are converted.

    Measured with gloo ranks, from 2 ranks to 1 or 3: final weights differ from those of an unbroken run by 4e-8 with
    ZeRO 0 to 2, and by 6e-4 with ZeRO 3.
    """
    now, before = config.workers.num_workers, state.get("num_workers")
    stage = build_deepspeed_config(config.train, now)["zero_optimization"].get("stage", 0)
    if stage == 3 and before not in (None, now):
        raise ConfigError(
            f"cannot resume {path} with another number of workers: ZeRO 3 checkpoints cannot be converted exactly",
            got=f"workers.num_workers {now}",
            wanted=f"{before}",
            next_step="resume with the old number, or start anew with train.zero_stage 2, which is converted",
        )
