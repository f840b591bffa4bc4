"""SweepConfig: one YAML is one sweep, a base run and what is searched about it.

Decision record: what cannot work is refused when the file is read, before a cluster is asked: keys that a trial must
not have for itself, pairs of searcher and scheduler, and a space whose samples are no runs (some are drawn, and every
option of every choice is tried once). Relative paths in `set` and `space` are relative to the base's folder, as an
override of a run file is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from raykd.config import RunConfig, checked_name, overlay
from raykd.errors import ConfigError
from raykd.load import explain, read_yaml, refuse_credentials, resolve, set_path, validate
from raykd.presets import preset
from raykd.spec import Spec
from raykd.sweep.domains import Grid
from raykd.sweep.schedulers import Asha, Scheduler
from raykd.sweep.search import GridSearch, Mode, Random, Search
from raykd.sweep.space import Space
from raykd.tasks.metrics import HIGHER_IS_BETTER, MetricName

DRAWS = 8
"""Samples that are validated when a sweep is read."""

REFUSED = {
    "name": "a trial is named by the sweep",
    "output": "all trials stand in the sweep's folder",
    "ray": "all trials share one cluster",
    "tracking": "all trials are recorded in one place",
    "serving": "all trials share the teachers",
    "workers": "all trials have the same workers",
    "teachers": "all trials share the teachers; search select_teachers to choose among them",
    "teacher_defaults": "all trials share the teachers",
    "baseline": "the baseline is no trial",
    "train.metric": "trials are compared by one metric, the sweep's `metric`",
    "train.evaluations": "trials are compared at the same evaluations; write it under `set`",
}
"""Keys of a run that no space may mention, and why."""

NEEDS_ON_DEMAND = ("data", "task")
"""Keys that change which texts the teachers read, so that they cannot be answered ahead."""


class SweepConfig(Spec):
    """One sweep, as its file says it."""

    name: str = "sweep"
    """Folder of the sweep under `output`, and its name in MLflow."""
    base: str | dict[str, Any]
    """The run that every trial begins with: a preset's name, a run file (relative to this file), or a run itself."""
    set: dict[str, Any] = {}
    """Overlay of the base that all trials share."""
    space: dict[str, Any]
    """Overlay of the run whose leaves may be domains."""
    base_dir: str | None = None
    """What relative paths are relative to; None is the base's folder. The copy in a sweep's folder says it."""
    search: Search = Random()
    """Who chooses the next trial."""
    scheduler: Scheduler = Asha()
    """Who stops trials early."""
    metric: MetricName | None = None
    """Validation metric (mean over languages) that trials are compared by; None takes the base's `train.metric`."""
    mode: Mode | None = None
    """Direction of `metric`; it is known, so this is only checked."""
    num_samples: int | None = Field(None, ge=1)
    """Trials; with a grid, how often it is gone through. None is 1 with a grid, else 20."""
    max_concurrent_trials: int | None = Field(None, ge=1)
    """Trials at one time, at most; None takes what the cluster holds beside the teachers."""
    time_budget_s: float | None = Field(None, gt=0.0)
    """No trial starts after so many seconds, and those that run are stopped; None sets no limit."""
    max_failures: int = Field(1, ge=0)
    """How often a crashed trial is tried again."""
    checkpoint_s: float = Field(30.0, ge=0.0)
    """A trial keeps a checkpoint at an evaluation if so many seconds passed since its last one."""
    label: Literal["ahead", "on_demand"] = "ahead"
    """ahead: the teachers answer all texts before trials start, then trials have the teachers' resources too."""

    _name = field_validator("name")(checked_name)


@dataclass(frozen=True)
class Sweep:
    """A sweep that was read and checked. Written by `load_sweep`, read by everything that runs or shows one.

    config: the file's keys with `metric`, `mode` and `num_samples` filled in.
    base: the run without anything searched: the base, `set` over it, and the sweep's metric; paths absolute.
    space: makes a trial's run from a sample, `space.config(sample)`.
    """

    config: SweepConfig
    base: RunConfig
    space: Space

    @property
    def name(self) -> str:
        """Of the sweep, its folder and its MLflow run."""
        return self.config.name

    @property
    def output(self) -> str:
        """Where the sweep's folder lies: with the runs."""
        return self.base.output

    def fingerprint(self) -> str:
        """sha256 over what must be equal for a resume; how long, how many and how many at once may differ."""
        free = {"name", "base", "base_dir", "set", "num_samples", "max_concurrent_trials", "time_budget_s",
                "max_failures", "checkpoint_s"}  # fmt: skip
        tree = self.config.model_dump(mode="json", exclude=free)
        text = self.base.fingerprint() + json.dumps(tree, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def metric(self) -> MetricName:
        """What trials are compared by."""
        return self.base.metric

    @property
    def mode(self) -> Mode:
        """Direction of `metric`."""
        return _direction(self.metric)

    @property
    def trials(self) -> int:
        """Number of trials, if no time budget ends the sweep earlier."""
        return (self.config.num_samples or 1) * self.space.grid_size


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep of a YAML file with ``key.path=value`` overrides on top.

    An override below ``space`` replaces what stands there, so that one domain can take another's place.

    Raises:
        ConfigError: with the path, what was got and what is allowed.
    """
    tree: Any = read_yaml(path)
    for assignment in overrides:
        if assignment.startswith("space."):
            tree = set_path(tree, f"{assignment.partition('=')[0]}=null")
        tree = set_path(tree, assignment)
    config = _validated(tree, str(path))
    base, folder = _base(config, path)
    metric = base.metric
    if config.mode is not None and config.mode != _direction(metric):
        raise ConfigError(
            f"{path}: mode contradicts the metric",
            got=config.mode,
            wanted=f"{_direction(metric)} for {metric}",
        )
    space = Space(config.space, base.model_dump(mode="json"), folder, str(path))
    default = 1 if isinstance(config.search, GridSearch) else 20
    config = config.model_copy(
        update={
            "metric": metric,
            "mode": _direction(metric),
            "num_samples": config.num_samples or default,
            "base_dir": str(folder),
        }
    )
    sweep = Sweep(config, base, space)
    _check(sweep, str(path))
    return sweep


def dump_sweep(sweep: Sweep) -> str:
    """The sweep as YAML that `load_sweep` takes again, whatever became of the files that it was read from."""
    tree = sweep.config.model_dump(mode="json") | {"base": sweep.base.model_dump(mode="json"), "set": {}}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _direction(metric: str) -> Mode:
    return "max" if HIGHER_IS_BETTER[metric] else "min"


def _base(config: SweepConfig, path: Path) -> tuple[RunConfig, Path]:
    """The run without anything searched, and the folder that its relative paths are relative to."""
    if isinstance(config.base, str):
        file = _run_file(config.base, path)
        tree: Mapping[str, Any] = read_yaml(file)
    else:
        file, tree = path, config.base
    tree = overlay(tree, config.set)
    train = config.set.get("train", {})
    said = train.get("metric") if isinstance(train, Mapping) else None
    if config.metric is not None:
        if said not in (None, config.metric):
            raise ConfigError(
                f"{path}: set.train.metric is not the sweep's metric", got=said, wanted=config.metric
            )
        tree = overlay(tree, {"train": {"metric": config.metric}})
    folder = file.resolve().parent if config.base_dir is None else path.resolve().parent / config.base_dir
    return resolve(
        validate(tree, f"{path}: the base {config.base if file != path else ''} with set"), folder
    ), folder


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


def _check(sweep: Sweep, origin: str) -> None:
    config, space = sweep.config, sweep.space
    _check_keys(sweep, origin)
    grids = [one.path for one in space.domains if isinstance(one.domain, Grid)]
    if isinstance(config.search, GridSearch):
        if not grids:
            raise ConfigError(
                f"{origin}: search grid needs a grid", got="none", wanted="a domain {grid: [...]}"
            )
        if len(grids) == len(space.domains) and sweep.trials > space.grid_size:
            raise ConfigError(
                f"{origin}: the grid would be trained {config.num_samples} times with equal results",
                got=f"num_samples {config.num_samples}, and nothing is drawn",
                wanted="num_samples: 1",
                next_step="to see the spread over seeds, search seed: {grid: [0, 1, 2]}",
            )
    elif grids:
        raise ConfigError(
            f"{origin}: space.{grids[0]} is a grid, and the search is {config.search.kind}",
            got=config.search.kind,
            wanted="search: {kind: grid}, or a choice in place of the grid",
        )
    config.scheduler.check(sweep.base, space, config.search.kind, sweep.trials, origin)
    for sample in space.covering(DRAWS):
        space.config(sample)


def _check_keys(sweep: Sweep, origin: str) -> None:
    space = sweep.space
    if not space.domains:
        raise ConfigError(
            f"{origin}: the space has no domain, so all trials would be the same run",
            got=json.dumps(sweep.config.space, default=str),
            wanted="at least one of uniform, log_uniform, randint, choice, grid",
            next_step="to see the spread over seeds, search seed: {grid: [0, 1, 2]} with search: {kind: grid}",
        )
    for refused, why in REFUSED.items():
        if _mentions(space.keys, refused):
            raise ConfigError(f"{origin}: space.{refused} cannot be searched", got=refused, wanted=why)
    for key in NEEDS_ON_DEMAND:
        if sweep.config.label == "ahead" and _mentions(space.keys, key):
            raise ConfigError(
                f"{origin}: space.{key} changes the texts, so teachers cannot answer them ahead",
                got="label: ahead",
                wanted="label: on_demand",
            )


def _mentions(keys: Iterable[str], key: str) -> bool:
    return any(one == key or one.startswith(f"{key}.") for one in keys)


def _validated(tree: Mapping[str, Any], origin: str) -> SweepConfig:
    refuse_credentials(tree, origin)
    try:
        return SweepConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, origin, SweepConfig))) from None
