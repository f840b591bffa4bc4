"""The run folder: what lies in it, who may use it again.

Decision record: a name is an identity. A folder that exists is not touched unless the user says how: `--resume`
goes on with the same configuration, `--overwrite` starts anew. Ray would silently go on from whatever it finds.
A run that fails before it has started anything leaves no folder, so that the corrected one needs no flag.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from raykd.config import MultiRun, Run, RunConfig
from raykd.errors import ConfigError
from raykd.student.settings import deepspeed_config
from raykd.tracking import RedactingFilter

STATE = "run.json"
RESULTS = "results.md"
NOISY = (
    "ray",
    "ray.train",
    "ray.tune",
    "mlflow",
    "alembic",
    "sqlalchemy",
    "DeepSpeed",
    "datasets",
    "transformers",
)
_writing = threading.Lock()


@dataclass(frozen=True)
class RunFolder:
    """output/name and what is known of the run from before.

    state: what `run.json` holds. fresh: whether this run made the folder.
    """

    path: Path
    state: dict[str, Any]
    fresh: bool = True

    @property
    def log(self) -> Path:
        """The log file with everything that is not shown."""
        return self.path / "log.txt"

    def write_state(self, **values: Any) -> None:
        """Keeps values for a later resume, atomically; threads may call at once."""
        with _writing:
            self.state.update(values)
            temporary = self.path / f"{STATE}.tmp"
            temporary.write_text(json.dumps(self.state, indent=2), encoding="utf-8")
            os.replace(temporary, self.path / STATE)

    def interrupted(self) -> None:
        """Writes that the run was interrupted, before anything else is put in order; a run that is on record alone."""
        if self.state.get("status") != "finished" and (not self.fresh or "mlflow_run_id" in self.state):
            self.write_state(status="interrupted")

    def give_up(self, status: str) -> None:
        """Writes how the run ended; a fresh folder of a run that was never recorded anywhere is removed."""
        if self.state.get("status") == "finished":
            return  # what comes after that changes nothing
        if self.fresh and "mlflow_run_id" not in self.state:
            shutil.rmtree(self.path)
        else:
            self.write_state(status=status)


class Owner(Protocol):
    """What has a folder: a run, a sweep, a confirmation."""

    @property
    def name(self) -> str:
        """Name of the folder."""

    @property
    def output(self) -> str:
        """Where the folder lies."""

    def fingerprint(self) -> str:
        """Of everything that must be equal for a resume."""


def look_at_folder(config: Owner, *, resume: bool, overwrite: bool) -> dict[str, Any]:
    """Whether the run may use its folder; changes nothing. Returns the state to go on from.

    Raises:
        ConfigError: the folder exists and neither resume nor overwrite was asked for; or resume with another config.
    """
    output = Path(config.output).resolve()
    path = output / config.name
    if path.is_symlink() or path.resolve().parent != output:
        raise ConfigError(
            f"the run folder {path} leads elsewhere", got=str(path.resolve()), wanted=f"a folder in {output}"
        )
    state: dict[str, Any] = {}
    if path.exists():
        state = _previous(path)
        if overwrite:
            return {}
        if not resume:
            raise ConfigError(
                f"the run folder {path} exists already",
                got=f"a run that is {state.get('status', 'unknown')}",
                wanted="a new name, --resume or --overwrite",
                next_step="--resume goes on from its last checkpoint, --overwrite starts anew, name=... makes another",
            )
        if state.get("fingerprint") != config.fingerprint():
            raise ConfigError(
                f"cannot resume {path}: the configuration has changed",
                got=config.fingerprint()[:12],
                wanted=f"{str(state.get('fingerprint'))[:12]}, see {path / 'run.yaml'}",
                next_step="resume with the old configuration, or start anew with --overwrite or another name",
            )
        if isinstance(config, (RunConfig, MultiRun)):
            _check_workers(config, state, path)
    return state


def open_folder(
    config: Owner, data: str, files: Mapping[str, str], *, resume: bool, overwrite: bool
) -> RunFolder:
    """Makes or reopens the run folder and writes what it was made from.

    Args:
        data: fingerprint of the rows; a run goes on over the rows that it began with.
        files: what it was made from, name to content.
    Raises:
        ConfigError: as `look_at_folder`, or the data changed since the run began.
    """
    state = look_at_folder(config, resume=resume, overwrite=overwrite)
    path = Path(config.output).resolve() / config.name
    if state.get("data", data) != data:
        raise ConfigError(
            f"cannot resume {path}: the data have changed since it began",
            got=data[:12],
            wanted=str(state["data"])[:12],
            next_step="put the old files back, or start anew with --overwrite or another name",
        )
    fresh = overwrite or not path.exists()
    if path.exists() and overwrite:
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_text(content, encoding="utf-8")
    folder = RunFolder(path, state, fresh)
    folder.write_state(fingerprint=config.fingerprint(), data=data, status="running")
    if isinstance(config, (RunConfig, MultiRun)):
        folder.write_state(num_workers=config.workers.num_workers)
    return folder


@dataclass(frozen=True)
class Finished:
    """What a run that is finished already left to say. text: its table. lines: where things are."""

    text: str
    lines: tuple[str, ...]


def finished_before(config: Owner) -> Finished | None:
    """What the same run said when it finished; None if it did not."""
    path = Path(config.output).resolve() / config.name
    state = _previous(path) if path.exists() else {}
    if state.get("status") != "finished" or state.get("fingerprint") != config.fingerprint():
        return None
    table = path / RESULTS
    text = table.read_text(encoding="utf-8") if table.is_file() else ""
    return Finished(text, tuple(str(line) for line in state.get("lines", ())))


def _check_workers(config: Run, state: dict[str, Any], path: Path) -> None:
    """A checkpoint of ZeRO 3 belongs to its workers; those of ZeRO 1 and 2 are converted.

    Measured with gloo ranks: weights at the end of a run that went from 2 ranks to 1 or 3 are those of an unbroken one
    to 4e-8 with ZeRO 0 to 2; with ZeRO 3 they are 6e-4 away, so that is refused.
    """
    now, before = config.workers.num_workers, state.get("num_workers")
    stage = deepspeed_config(config.train, now)["zero_optimization"].get("stage", 0)
    if stage == 3 and before not in (None, now):
        raise ConfigError(
            f"cannot resume {path} with another number of workers: ZeRO 3 checkpoints cannot be converted exactly",
            got=f"workers.num_workers {now}",
            wanted=f"{before}",
            next_step="resume with the old number, or start anew with train.zero_stage 2, which is converted",
        )


def _previous(path: Path) -> dict[str, Any]:
    """The state of an earlier run.

    Raises:
        ConfigError: the folder is not one of ours, so nothing in it may be removed or reused.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        assert isinstance(state, dict)
        return state
    except (OSError, ValueError, AssertionError):
        raise ConfigError(
            f"{path} exists and is not a run folder",
            got=f"no readable {STATE}",
            wanted="a folder that raykd made",
            next_step="choose another name or output",
        ) from None


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Sends every logger's records and all warnings to the run's log file while the body runs.

    Nothing is left behind in the process: the next run of it logs to its own file.
    """
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(RedactingFilter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    hush()
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def hush() -> None:
    """Takes the libraries' handlers off the terminal; called again after they were imported, which adds them."""
    for name in NOISY:
        noisy = logging.getLogger(name)
        for old in list(noisy.handlers):
            noisy.removeHandler(old)
        noisy.propagate = True
