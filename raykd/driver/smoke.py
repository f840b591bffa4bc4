"""Make the short copy of a run for `--smoke`, which tries every stage before a long run.

Decision record: nothing of a real run is touched. The short copy has its own name and folder, which also holds the
teachers that it trains and their answers. The next short copy of the same run empties it. It is recorded in the MLflow
of the real run, tagged, because recording can fail too.
"""

from __future__ import annotations

from pathlib import Path

from raykd.config import Run
from raykd.config.home import STATE
from raykd.config.loading import read_yaml_mapping
from raykd.config.smoke import R, name_smoke_copy, shorten_run
from raykd.errors import ConfigError, RaykdError

TAG = "raykd.smoke"
"""MLflow tag of a short copy: the name of the real run."""


def make_smoke_run(config: Run) -> Run:
    """Return the short copy of a run.

    Raises:
        ConfigError: Its folder holds anything but an earlier short copy.
    """
    check_smoke_folder(config.output, config.name)
    return shorten_run(mark_as_smoke(config, config.name))


def mark_as_smoke(config: R, of: str) -> R:
    """Return the run under the name of a short copy, with a store of its own.

    Args:
        config: The run.
        of: Name of the real run or sweep.
    """
    serving = config.serving
    if serving.store is not None:
        serving = serving.model_copy(update={"store": f"{name_smoke_copy(of)}/store"})
    if config.trained_teachers:
        serving = serving.model_copy(update={"pool": None})  # a named pool serves fully trained teachers
    made: R = config.model_copy(update={"name": name_smoke_copy(of), "smoke": of, "serving": serving})  # type: ignore[assignment]
    return made


def check_smoke_folder(output: str, name: str) -> None:
    """Refuse to empty a folder that no short copy made.

    Raises:
        ConfigError: It holds something else.
    """
    path = Path(output).resolve() / name_smoke_copy(name)
    if not path.exists():
        return
    try:
        copied = read_yaml_mapping(path / "run.yaml").get("smoke") if (path / STATE).is_file() else None
    except RaykdError:
        copied = None
    if copied is None:
        raise ConfigError(
            f"{path} is not the folder of a smoke run, so it is not emptied",
            got="a folder of something else",
            wanted="none, or that of an earlier --smoke",
            next_step="move it, or give the run another name for this (name=...)",
        )


def refuse_smoke_resume(*, resume: bool) -> None:
    """Raise ConfigError if a smoke run should be resumed."""
    if resume:
        raise ConfigError(
            "a smoke run always begins anew",
            got="--smoke and --resume",
            wanted="one of them",
            next_step="--smoke alone tries the whole way; --resume alone goes on with the real one",
        )


def make_smoke_tags(config: Run) -> dict[str, str]:
    """Return the MLflow tags of a short copy; none for a real run."""
    return {} if config.smoke is None else {TAG: config.smoke}
