"""Read a sweep: one YAML with a base run and the keys that are searched.

Decision record: what cannot work is refused when the file is read, before a cluster is asked (see
`raykd.tuning.checks.refusals`). Relative paths in `set` and `space` are relative to the base's folder, like those of
the base itself. The folder of a warm start is relative to the sweep's own file or, like `output`, to the working
directory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, field_validator

from raykd.config import Run, RunConfig, check_name, overlay
from raykd.config.home import SPACE, find_folder, find_output
from raykd.config.loading import (
    ConfigSource,
    Override,
    is_sweep,
    load_any_run,
    read_source,
    read_yaml_mapping,
    resolve_paths,
    set_path,
    validate_any_run,
    validate_model,
)
from raykd.errors import ConfigError
from raykd.parse import JsonObject
from raykd.presets import preset
from raykd.spaces.foreign import SETTING_HINTS, nearest_kind
from raykd.spaces.schedulers import Asha, Scheduler
from raykd.spaces.search import NO_PRIOR_TRIALS, GridSearch, Mode, PriorTrials, RandomSearch, Sampler, Search
from raykd.spaces.space import Sample, Space
from raykd.spec import Spec
from raykd.tasks.scores.metrics import MetricName, is_higher_better
from raykd.tuning.checks.refusals import list_doubts, refuse_sweep
from raykd.tuning.warm_start import read_prior_trials

DEFAULT_TRIALS = 20
"""Number of trials where the file does not say it."""


class SweepConfig(Spec):
    """One sweep, as written in its file."""

    name: str = "sweep"
    """Folder of the sweep under `output`, and its name in MLflow."""
    base: str | JsonObject
    """The run that every trial begins with: a preset's name, a run file (relative to this file), or a run itself."""
    set: JsonObject = {}
    """Overlay of the base that all trials share."""
    space: JsonObject
    """Overlay of the run whose leaves may be domains."""
    base_dir: str | None = None
    """What relative paths are relative to; None takes the base's folder. Set in the copy in a sweep's folder."""
    search: Search = RandomSearch()
    """The search, which chooses the next trial."""
    scheduler: Scheduler = Asha()
    """The scheduler, which stops trials early."""
    metric: MetricName | None = None
    """Validation metric (mean over languages) that trials are compared by; None takes the base's `train.metric`."""
    mode: Mode | None = None
    """Direction of `metric`. It follows from the metric, so a value here is only checked."""
    num_samples: int | None = Field(None, ge=1)
    """Trials; with a grid, how often it is gone through. None is 1 with a grid, else 20, or as many as there are
    different settings if these are fewer."""
    max_concurrent_trials: int | None = Field(None, ge=1)
    """Most trials at one time; None takes as many as the cluster holds beside the teachers."""
    time_budget_s: float | None = Field(None, gt=0.0)
    """Seconds after which no trial starts and running trials are stopped; None sets no limit."""
    max_failures: int = Field(1, ge=0)
    """How often a crashed trial is tried again."""
    checkpoint_s: float = Field(30.0, ge=0.0)
    """Least seconds between two checkpoints of a trial, which are written at evaluations."""
    label: Literal["ahead", "on_demand"] = "ahead"
    """ahead: the teachers answer all texts before the first trial, then trials also get the teachers' resources.
    on_demand: the teachers answer while trials run."""

    _name = field_validator("name")(check_name)

    @field_validator("num_samples", mode="before")
    @classmethod
    def _refuse_endless(cls, value: object) -> object:
        if value == -1:
            raise ValueError(
                "trials without end are not offered: say how many; time_budget_s ends a sweep before that"
            )
        return value


@dataclass(frozen=True)
class Sweep:
    """A sweep that was read and checked. Made by `load_sweep`.

    Attributes:
        config: The file's keys with `metric`, `mode` and `num_samples` filled in.
        base: The base run with `set` over it and the sweep's metric; paths are absolute.
        space: Makes the run of a trial from a sample (`space.build_run(sample)`).
        known: Settings to try first, and trials of an earlier sweep.
        notes: What a reader must know about both.
    """

    config: SweepConfig
    base: Run
    space: Space
    known: PriorTrials = NO_PRIOR_TRIALS
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the sweep, of its folder and of its MLflow run."""
        return self.config.name

    @property
    def output(self) -> str:
        """Folder that holds the sweep's folder, beside the runs."""
        return self.base.output

    def fingerprint(self) -> str:
        """Return the sha256 of all keys that must be equal on a resume."""
        free = {"name", "base", "base_dir", "set", "num_samples", "max_concurrent_trials", "time_budget_s",
                "max_failures", "checkpoint_s"}  # fmt: skip
        tree = self.config.model_dump(mode="json", exclude=free)
        text = self.base.fingerprint() + json.dumps(tree, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def metric(self) -> str:
        """Name of the score that trials are compared by."""
        return self.base.metric

    @property
    def mode(self) -> Mode:
        """Direction of `metric`."""
        return _direction(self.metric)

    @property
    def trials(self) -> int:
        """Number of trials. A time budget may end the sweep earlier."""
        return (self.config.num_samples or 1) * self.space.grid_size

    def build_sampler(self) -> Sampler:
        """Return a sampler that begins with the first trial."""
        return self.config.search.build_sampler(self.space, self.mode, self.trials, self.known)

    def known_samples(self, most: int) -> list[Sample] | None:
        """Return the samples of the first ``most`` trials; None where they depend on scores."""
        if self.config.search.learns:
            return None
        sampler = self.build_sampler()
        return [s for s in map(sampler.ask, range(min(self.trials, most))) if s is not None]


def load_sweep(
    source: ConfigSource,
    overrides: Sequence[Override] = (),
    folder: Path | None = None,
    *,
    check: bool = True,
) -> Sweep:
    """Read a sweep from a YAML file, a tree or a `SweepConfig`, with overrides on top.

    An override below ``space`` replaces the whole node, so that one domain can take another's place. One below
    ``base`` is laid over a base that is named.

    Args:
        source: The file, the sweep's folder (see `raykd.config.home`), a tree or a model.
        overrides: ``key.path=value``, or pairs of a key path and a value.
        folder: The sweep's folder, if a file from elsewhere continues the sweep there.
        check: Whether to refuse what cannot work. Off for a sweep that is only read.

    Raises:
        ConfigError: A key or a combination is wrong. Names the path, the value and what is allowed.
    """
    tree, path = read_source(source)
    if folder is not None:
        output = {"output": str(find_output(folder))}
        tree = {**tree, "name": folder.name, "set": overlay(tree.get("set") or {}, output)}
    for override in overrides:
        tree = apply_override(tree, override)
    config = validate_model(
        SweepConfig, tree, str(path), hints={**list_run_hints(), **SETTING_HINTS}, nearest_kind=nearest_kind
    )
    base, base_dir = _base(config, path)
    metric = base.metric
    if config.mode is not None and config.mode != _direction(metric):
        raise ConfigError(
            f"{path}: mode contradicts the metric",
            got=config.mode,
            wanted=f"{_direction(metric)} for {metric}",
        )
    space = Space(config.space, base.model_dump(mode="json"), base_dir, str(path))
    default = 1 if isinstance(config.search, GridSearch) else int(min(DEFAULT_TRIALS, space.size))
    if config.scheduler.needs_population:
        default = DEFAULT_TRIALS
    search, known, notes = read_prior_trials(config.search, base, space, path, str(path))
    config = config.model_copy(
        update={
            "search": search,
            "metric": base.train.metric,  # None in a run of several tasks, whose score is no key
            "mode": _direction(metric),
            "num_samples": config.num_samples or default,
            "base_dir": str(base_dir),
        }
    )
    sweep = Sweep(config, base, space, known, (*notes, *list_doubts(space)))
    if check:
        refuse_sweep(sweep, str(path))
    return sweep


def list_run_hints() -> dict[str, str]:
    """Return what to write in a file of runs (a sweep, an experiment) in place of each key of a run."""
    return {
        key: f"it is a key of the run: set.{key}=..., or under set in the file"
        for key in RunConfig.model_fields
    }


def apply_override(tree: JsonObject, override: Override) -> JsonObject:
    """Change a key of a sweep or an experiment; one below `base` is laid over a base that is named."""
    key = override.partition("=")[0] if isinstance(override, str) else override[0]
    if key.startswith("space."):
        tree = set_path(tree, (key, None))
    elif key.startswith("base.") and isinstance(tree.get("base"), str):
        # The base is a file or a preset: what is laid over it stands in `set`.
        below = f"set.{key.removeprefix('base.')}"
        if isinstance(override, str):
            return set_path(tree, f"{below}{override.removeprefix(key)}")
        return set_path(tree, (below, override[1]))
    return set_path(tree, override)


def load_run_or_sweep(source: ConfigSource | Sweep, overrides: Sequence[Override] = ()) -> Run | Sweep:
    """Read a run or a sweep. A `Sweep` is returned unchanged."""
    if isinstance(source, Sweep):
        return source
    return (load_sweep if is_sweep(read_source(source)[0]) else load_any_run)(source, overrides)


def load_resumed_sweep(
    name: Path, output: Path, source: ConfigSource | None, overrides: Sequence[Override] = ()
) -> Sweep:
    """Read the sweep of a folder to continue it there.

    Args:
        name: The sweep's folder, or its name below `output`.
        output: Folder of all runs.
        source: The configuration from now on; None takes the folder's own file.
        overrides: As for `load_sweep`.

    Raises:
        ConfigError: There is no such sweep, or the overrides name another folder.
    """
    folder = find_folder(name, output).resolve()
    if not (folder / SPACE).is_file():
        raise ConfigError(
            f"there is no sweep {name} to go on with",
            got=f"no {SPACE} of a sweep in {folder}, nor in {(output / name).resolve()}",
            wanted="its name under --output, or its folder",
            next_step="raykd sweep SPACE.yaml starts one",
        )
    own = folder / SPACE
    plan = load_sweep(own, overrides) if source is None else load_sweep(source, overrides, folder)
    if Path(plan.output).resolve() / plan.name != folder:
        raise ConfigError(
            f"--resume goes on in {folder}, and name and output say another folder",
            got=str(Path(plan.output).resolve() / plan.name),
            wanted="neither name= nor output= beside --resume",
            next_step="leave them out; a folder that was moved or renamed is named by --resume itself",
        )
    return plan


def dump_sweep(sweep: Sweep) -> str:
    """Return the sweep as YAML for `load_sweep`. It needs none of the files that the sweep was read from."""
    tree = sweep.config.model_dump(mode="json") | {"base": sweep.base.model_dump(mode="json"), "set": {}}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _direction(metric: str) -> Mode:
    return "max" if is_higher_better(metric) else "min"


def _base(config: SweepConfig, path: Path) -> tuple[Run, Path]:
    """Return the base run with the sweep's metric, and the folder that its relative paths are relative to."""
    changes = config.set
    train = config.set.get("train", {})
    own_metric = train.get("metric") if isinstance(train, Mapping) else None
    if config.metric is not None:
        if own_metric not in (None, config.metric):
            raise ConfigError(
                f"{path}: set.train.metric is not the sweep's metric", got=own_metric, wanted=config.metric
            )
        changes = overlay(changes, {"train": {"metric": config.metric}})
    return read_base_run(config.base, changes, config.base_dir, path)


def read_base_run(
    base: str | JsonObject, changes: JsonObject, base_dir: str | None, path: Path
) -> tuple[Run, Path]:
    """Read the base run of a sweep or an experiment.

    Args:
        base: A preset's name, a run file (relative to the file that names it), or a run.
        changes: Overlay of the base.
        base_dir: What relative paths are relative to; None takes the base's folder.
        path: The file that names the base.

    Returns:
        The run with absolute paths, and the folder that relative paths in overlays are relative to.

    Raises:
        ConfigError: There is no such base, or some of its keys are wrong.
    """
    file = _run_file(base, path) if isinstance(base, str) else path
    tree = read_yaml_mapping(file) if isinstance(base, str) else base
    folder = file.resolve().parent if base_dir is None else path.resolve().parent / base_dir
    origin = f"{path}: the base {base if isinstance(base, str) else ''} with set"
    return resolve_paths(validate_any_run(overlay(tree, changes), origin), folder), folder


def _run_file(base: str, path: Path) -> Path:
    if re.fullmatch(r"[\w-]+", base):
        if preset(base).is_file():
            return preset(base)
        known = sorted(one.stem for one in preset(base).parent.glob("*.yaml"))
        raise ConfigError(
            f"{path}: there is no preset {base!r}",
            got=base,
            wanted=f"one of {', '.join(known)}, or a run file",
        )
    return path.resolve().parent / base
