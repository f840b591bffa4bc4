"""`raykd train --smoke`: the whole way of a run, before a long one, in a folder of its own.

Decision record: nothing of a real run is touched. The short copy has a name of its own, and its folder holds also the
teachers that it trains and their answers; the next short copy of the same run begins anew in it. It is recorded in the
same MLflow as the run would be, tagged, because that can fail too.
"""

from __future__ import annotations

from pathlib import Path

from raykd.config import Run
from raykd.config.home import STATE
from raykd.config.loading import read_yaml_mapping
from raykd.config.smoke import R, name_smoke_copy, shorten_run
from raykd.errors import ConfigError, RaykdError

TAG = "raykd.smoke"
"""In MLflow, the name of the run that a run is the short copy of."""


def make_smoke_run(config: Run) -> Run:
    """Return the short copy of a run.

    Raises:
        ConfigError: Its folder holds something else than an earlier short copy.
    """
    check_smoke_folder(config.output, config.name)
    return shorten_run(mark_as_smoke(config, config.name))


def mark_as_smoke(config: R, of: str) -> R:
    """Return the run as one that touches nothing of the run or sweep ``of``: marked, with a place for its answers."""
    serving = config.serving
    if serving.store is not None:
        serving = serving.model_copy(update={"store": f"{name_smoke_copy(of)}/store"})
    if config.trained_teachers:
        serving = serving.model_copy(update={"pool": None})  # it serves teachers that are trained to the end
    made: R = config.model_copy(update={"name": name_smoke_copy(of), "smoke": of, "serving": serving})  # type: ignore[assignment]
    return made


def check_smoke_folder(output: str, name: str) -> None:
    """Refuse to empty a folder that is not a short copy's.

    Raises:
        ConfigError: There is something else.
    """
    path = Path(output).resolve() / name_smoke_copy(name)
    if not path.exists():
        return
    try:
        said = read_yaml_mapping(path / "run.yaml").get("smoke") if (path / STATE).is_file() else None
    except RaykdError:
        said = None
    if said is None:
        raise ConfigError(
            f"{path} is not the folder of a smoke run, so it is not emptied",
            got="a folder of something else",
            wanted="none, or that of an earlier --smoke",
            next_step="move it, or give the run another name for this (name=...)",
        )


def refuse_smoke_resume(*, resume: bool) -> None:
    """Raise ConfigError where a smoke run is to be resumed."""
    if resume:
        raise ConfigError(
            "a smoke run always begins anew",
            got="--smoke and --resume",
            wanted="one of them",
            next_step="--smoke alone tries the whole way; --resume alone goes on with the real one",
        )


def make_smoke_tags(config: Run) -> dict[str, str]:
    """Return what MLflow is told of a run that is a short copy."""
    return {} if config.smoke is None else {TAG: config.smoke}
