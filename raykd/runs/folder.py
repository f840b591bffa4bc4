"""The run folder: what lies in it, who may use it again.

Decision record: a name is an identity. A folder that exists is not touched unless the user says how: `--resume`
goes on with the same configuration, `--overwrite` starts anew. Ray would silently go on from whatever it finds.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.config import RunConfig
from raykd.errors import ConfigError
from raykd.load import dump

STATE = "run.json"


@dataclass(frozen=True)
class RunFolder:
    """output/name and what is known of the run from before."""

    path: Path
    state: dict[str, Any]

    @property
    def log(self) -> Path:
        """The log file with everything that is not shown."""
        return self.path / "log.txt"

    def write_state(self, **values: Any) -> None:
        """Keeps values for a later resume, atomically."""
        self.state.update(values)
        temporary = self.path / f"{STATE}.tmp"
        temporary.write_text(json.dumps(self.state, indent=2), encoding="utf-8")
        os.replace(temporary, self.path / STATE)


def open_folder(config: RunConfig, *, resume: bool, overwrite: bool) -> RunFolder:
    """Makes or reopens the run folder and writes the resolved YAML.

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
            shutil.rmtree(path)
            state = {}
        elif not resume:
            raise ConfigError(
                f"the run folder {path} exists already",
                got=f"a run that is {state.get('status', 'unknown')}",
                wanted="a new name, --resume or --overwrite",
                next_step="--resume goes on from its last checkpoint, --overwrite starts anew, name=... makes another",
            )
        elif state.get("fingerprint") != config.fingerprint():
            raise ConfigError(
                f"cannot resume {path}: the configuration has changed",
                got=config.fingerprint()[:12],
                wanted=f"{str(state.get('fingerprint'))[:12]}, see {path / 'run.yaml'}",
                next_step="resume with the old configuration, or start anew with --overwrite or another name",
            )
    path.mkdir(parents=True, exist_ok=True)
    (path / "run.yaml").write_text(dump(config), encoding="utf-8")
    folder = RunFolder(path, state)
    folder.write_state(fingerprint=config.fingerprint(), status="running")
    return folder


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


def log_to_file(path: Path) -> logging.Handler:
    """Sends every logger's records to the run's log file and keeps Ray's and MLflow's off the terminal."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in (
        "ray",
        "ray.train",
        "mlflow",
        "alembic",
        "sqlalchemy",
        "DeepSpeed",
        "datasets",
        "transformers",
    ):
        noisy = logging.getLogger(name)
        for old in list(noisy.handlers):
            noisy.removeHandler(old)
        noisy.propagate = True
    return handler
