"""SweepConfig: one YAML is one sweep, a base run and what is searched about it.

Decision record: what cannot work is refused when the file is read, before a cluster is asked (see
`raykd.tuning.checks.refusals`). Relative paths in `set` and `space` are relative to the base's folder, as an override
of a run file is; that of a warm start is relative to the sweep's own file, or to the working directory as `output`
is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from raykd.config import Run, check_name, overlay
from raykd.config.explain import explain_errors
from raykd.config.home import SPACE, find_folder, find_output
from raykd.config.loading import (
    ConfigSource,
    Override,
    is_sweep,
    load_any_run,
    read_source,
    read_yaml_mapping,
    refuse_credentials,
    resolve_paths,
    set_path,
    validate_any_run,
)
from raykd.errors import ConfigError
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
"""Trials of a sweep that does not say how many."""


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
    search: Search = RandomSearch()
    """Who chooses the next trial."""
    scheduler: Scheduler = Asha()
    """Who stops trials early."""
    metric: MetricName | None = None
    """Validation metric (mean over languages) that trials are compared by; None takes the base's `train.metric`."""
    mode: Mode | None = None
    """Direction of `metric`; it is known, so this is only checked."""
    num_samples: int | None = Field(None, ge=1)
    """Trials; with a grid, how often it is gone through. None is 1 with a grid, else 20, or as many as there are
    different settings if these are fewer."""
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

    _name = field_validator("name")(check_name)

    @field_validator("num_samples", mode="before")
    @classmethod
    def _ends(cls, value: Any) -> Any:
        if value == -1:
            raise ValueError(
                "trials without end are not offered: say how many; time_budget_s ends a sweep before that"
            )
        return value


@dataclass(frozen=True)
class Sweep:
    """A sweep that was read and checked. Written by `load_sweep`, read by everything that runs or shows one.

    Attributes:
        config: The file's keys with `metric`, `mode` and `num_samples` filled in.
        base: The run without anything searched: the base, `set` over it, and the sweep's metric; paths
            absolute.
        space: Makes a trial's run from a sample, `space.build_run(sample)`.
        known: What is tried first, and what is known of an earlier sweep.
        notes: What a reader must know of that and of the space.
    """

    config: SweepConfig
    base: Run
    space: Space
    known: PriorTrials = NO_PRIOR_TRIALS
    notes: tuple[str, ...] = ()

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
    def metric(self) -> str:
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

    def build_sampler(self) -> Sampler:
        """Who chooses the trials, from the first."""
        return self.config.search.build_sampler(self.space, self.mode, self.trials, self.known)

    def known_samples(self, most: int) -> list[Sample] | None:
        """Settings of the first ``most`` trials; None where they depend on scores."""
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
    """Return the sweep of a YAML file, a tree or a `SweepConfig` with overrides on top.

    An override below ``space`` replaces what stands there, so that one domain can take another's place.

    Args:
        source: The file, or a sweep's folder, whose file belongs to it (`raykd.config.home`); or the sweep
            itself.
        overrides: ``key.path=value``, or pairs of a key path and a value.
        folder: The sweep's folder, where a file that lies elsewhere is to go on there.
        check: Whether it is to be run, so that what cannot work is refused.

    Raises:
        ConfigError: With the path, what was got and what is allowed.
    """
    tree: Any
    tree, path = read_source(source)
    if folder is not None:
        output = {"output": str(find_output(folder))}
        tree = {**tree, "name": folder.name, "set": overlay(tree.get("set") or {}, output)}
    for override in overrides:
        key = override.partition("=")[0] if isinstance(override, str) else override[0]
        if key.startswith("space."):
            tree = set_path(tree, (key, None))
        tree = set_path(tree, override)
    config = _validated(tree, str(path))
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
            "metric": base.train.metric,  # of several tasks it is their score, which no key says
            "mode": _direction(metric),
            "num_samples": config.num_samples or default,
            "base_dir": str(base_dir),
        }
    )
    sweep = Sweep(config, base, space, known, (*notes, *list_doubts(space)))
    if check:
        refuse_sweep(sweep, str(path))
    return sweep


def load_run_or_sweep(source: ConfigSource | Sweep, overrides: Sequence[Override] = ()) -> Run | Sweep:
    """Read a run or a sweep, whichever it is; a sweep that was read already is returned as it is."""
    if isinstance(source, Sweep):
        return source
    return (load_sweep if is_sweep(read_source(source)[0]) else load_any_run)(source, overrides)


def load_resumed_sweep(
    name: Path, output: Path, source: ConfigSource | None, overrides: Sequence[Override] = ()
) -> Sweep:
    """Read the sweep of a folder in order to continue it there.

    Args:
        name: The folder, or its name.
        output: Where a name is looked for.
        source: What it is from now on; None is the folder's own file.
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
    """Return the sweep as YAML that `load_sweep` takes again, whatever became of the files that it was read from."""
    tree = sweep.config.model_dump(mode="json") | {"base": sweep.base.model_dump(mode="json"), "set": {}}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _direction(metric: str) -> Mode:
    return "max" if is_higher_better(metric) else "min"


def _base(config: SweepConfig, path: Path) -> tuple[Run, Path]:
    """Return the run without anything searched, and the folder that its relative paths are relative to."""
    if isinstance(config.base, str):
        file = _run_file(config.base, path)
        tree: Mapping[str, Any] = read_yaml_mapping(file)
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
    return resolve_paths(
        validate_any_run(tree, f"{path}: the base {config.base if file != path else ''} with set"), folder
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


def _validated(tree: Mapping[str, Any], origin: str) -> SweepConfig:
    refuse_credentials(tree, origin)
    try:
        return SweepConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(
                explain_errors(error, origin, SweepConfig, hints=SETTING_HINTS, nearest_kind=nearest_kind)
            )
        ) from None
