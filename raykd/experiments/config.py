"""Read an experiment: one YAML with a base run, arms that change it, and seeds.

Decision record: an arm is an overlay of the base, so what differs between two arms can be read in the file. All arms
share what would make a comparison unfair or a teacher answer twice: the held-out rows, the labels, the cluster, the
serving of the teachers. `ExperimentPlan.fix_steps` is the one place that decides how long an arm trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from raykd.config import Run, check_name, overlay
from raykd.config.loading import (
    ConfigSource,
    Override,
    read_source,
    resolve_paths,
    validate_any_run,
    validate_model,
)
from raykd.errors import ConfigError
from raykd.experiments.arms import Arm, ExperimentPlan
from raykd.experiments.generation import GeneratedArm, Generator, generate_arms
from raykd.parse import JsonObject
from raykd.spec import Spec
from raykd.tuning.config import apply_override, list_run_hints, read_base_run

BASE = "base"
"""Name of the arm that is the base itself."""
SHARED_BY_ARMS = {
    "name": "arms are named by the experiment",
    "output": "all arms stand in the experiment's folder",
    "seed": "every arm is trained with all `seeds`",
    "ray": "all arms share one cluster",
    "tracking": "all arms are recorded in one place",
    "serving": "all arms share the teachers' processes and their stored answers",
    "workers": "all arms have the same workers",
    "teacher_defaults": "write the keys into the teachers",
    "baseline": "the arm without teachers is generate: [no_teachers]",
    "smoke": "it is an option of the command",
}
"""Keys of a run that no arm may change, with the reason."""
TRIED = ("objective", "train", "student", "phases")
"""Keys of a run that a trial of an arm may change."""
HELD_OUT = ("validation", "test", "labels", "label_map", "languages", "select_languages")
"""Keys of `data` that are equal in all arms, which are compared on the same rows."""


class ExperimentConfig(Spec):
    """One experiment, as written in its file: arms x seeds over one base run."""

    name: str = "experiment"
    """Folder of the experiment under `output`, and its name in MLflow."""
    base: str | JsonObject
    """The run that every arm begins with: a preset's name, a run file (relative to this file), or a run itself."""
    set: JsonObject = {}
    """Overlay of the base that all arms share."""
    arms: dict[str, JsonObject] = {}
    """Arms by name, each an overlay of the base: `{uniform: {objective: {weighting: {kind: uniform}}}}`. An empty one
    is the base itself."""
    generate: tuple[Generator, ...] = ()
    """Arms that are made from the base, after those of `arms`."""
    seeds: int | tuple[Annotated[int, Field(ge=0)], ...] = Field(5, union_mode="left_to_right")
    """Seeds of every arm, or their number: 5 is 1, 2, 3, 4, 5. An interval needs two."""
    baseline: str | None = None
    """The arm that the others are compared with, seed by seed. None is the arm `base`, the unchanged base, which is
    added if no arm equals it; so it is where the baseline is one of `generate`."""
    equal: Literal["steps", "as_written"] = "steps"
    """What arms have in common beside rows and seeds. steps: all train as many optimizer steps as the base, whatever
    number of rows they use. as_written: each trains as its own `train.steps` or `train.epochs` says."""
    resample_labelled: bool = False
    """Each seed also draws the rows of `data.labelled_per_language` anew (`data.labelled_seed`), the same for all arms.
    The interval then also covers the luck of that draw."""
    trials: tuple[JsonObject, ...] = ()
    """Overlays among which every arm chooses by its best validation score before its seeds, so that no arm is tuned
    more than another: `[{train: {learning_rate: 0.002}}, {train: {learning_rate: 0.008}}]`. Without any, arms are
    trained as they are."""
    trials_without_teachers: tuple[JsonObject, ...] | None = None
    """The same for arms without teachers, for which alpha or a temperature means nothing: as many as `trials`. `null`
    takes `trials`."""
    tuning_seed: int = Field(0, ge=0)
    """Seed of these trainings; none of `seeds`."""
    base_dir: str | None = None
    """What relative paths are relative to; None takes the base's folder. Set in the copy in an experiment's folder."""
    max_concurrent_trials: int | None = Field(None, ge=1)
    """Most trainings at one time; None takes as many as the cluster holds beside the teachers."""
    max_failures: int = Field(1, ge=0)
    """How often a crashed training is tried again."""
    checkpoint_s: float = Field(30.0, ge=0.0)
    """Least seconds between two checkpoints of a training, which are written at evaluations."""
    label: Literal["ahead", "on_demand"] = "ahead"
    """ahead: the teachers answer all texts of all arms before the first training, which then has their resources too.
    on_demand: the teachers answer while students train."""

    _name = field_validator("name")(check_name)

    @field_validator("seeds")
    @classmethod
    def _different_seeds(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(value, int) and value < 1:
            raise ValueError("at least one seed")
        if not isinstance(value, int) and (not value or len(set(value)) != len(value)):
            raise ValueError(f"at least one seed, and none twice: {list(value)}")
        return value

    @field_validator("arms")
    @classmethod
    def _arm_names(cls, value: dict[str, JsonObject]) -> dict[str, JsonObject]:
        for name in value:
            check_name(name)
        return value

    @model_validator(mode="after")
    def _equal_trials(self) -> ExperimentConfig:
        plain = self.trials_without_teachers
        if plain is not None and len(plain) != len(self.trials):
            raise ValueError(
                f"trials_without_teachers has {len(plain)} items and trials has {len(self.trials)}: no arm may be "
                "tuned more than another"
            )
        if self.trials and self.tuning_seed in self.seed_list:
            raise ValueError(
                f"tuning_seed {self.tuning_seed} is one of seeds: what was chosen by it would be reported"
            )
        return self

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(range(1, self.seeds + 1)) if isinstance(self.seeds, int) else self.seeds


def is_experiment(tree: Mapping[str, object]) -> bool:
    """Return whether a file's tree is an experiment, and neither a run nor a sweep."""
    return "base" in tree and "space" not in tree and bool({"arms", "generate", "seeds"} & set(tree))


def load_experiment(source: ConfigSource, overrides: Sequence[Override] = ()) -> ExperimentPlan:
    """Read an experiment from a YAML file, a tree or an `ExperimentConfig`, with overrides on top.

    Args:
        source: The file, a tree or a model.
        overrides: ``key.path=value``, or pairs of a key path and a value. One below ``base`` is laid over a base that
            is named.

    Raises:
        ConfigError: A key or an arm is wrong. Names the arm, the value and what is allowed.
    """
    tree, path = read_source(source)
    for override in overrides:
        tree = apply_override(tree, override)
    config = validate_model(ExperimentConfig, tree, str(path), hints=list_run_hints())
    base, base_dir = read_base_run(config.base, config.set, config.base_dir, path)
    config = config.model_copy(update={"base_dir": str(base_dir)})
    arms = list(_build_arms(config, base, base_dir, str(path)))
    arms, baseline = _choose_baseline(config, base, arms, str(path))
    arms = [_add_trials(arm, config, base_dir, str(path)) for arm in arms]
    return ExperimentPlan(
        name=config.name,
        output=base.output,
        base=base,
        arms=tuple(arms),
        seeds=config.seed_list,
        baseline=baseline,
        equal=config.equal,
        resample_labelled=config.resample_labelled,
        tuning_seed=config.tuning_seed,
        label=config.label,
        max_concurrent_trials=config.max_concurrent_trials,
        max_failures=config.max_failures,
        checkpoint_s=config.checkpoint_s,
        yaml=dump_experiment(config, base),
    )


def dump_experiment(config: ExperimentConfig, base: Run) -> str:
    """Return the experiment as YAML for `load_experiment`. It needs none of the files that it was read from."""
    tree = config.model_dump(mode="json", exclude_unset=True)
    tree |= {"base": base.model_dump(mode="json"), "base_dir": config.base_dir}
    tree.pop("set", None)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _build_arms(config: ExperimentConfig, base: Run, base_dir: Path, origin: str) -> Iterator[Arm]:
    """Yield the written arms, then the generated ones, each run once."""
    seen: dict[str, str] = {}
    for name, changes in config.arms.items():
        arm = _build_arm(GeneratedArm(name, changes), base, base_dir, origin, config.equal)
        other = seen.setdefault(arm.run.fingerprint(), name)
        if other != name:
            raise ConfigError(
                f"{origin}: two arms are the same run", got=f"{other} and {name}", wanted="arms that differ"
            )
        yield arm
    names = set(config.arms)
    for generator in config.generate:
        for made in generate_arms(generator, base):
            arm = _build_arm(made, base, base_dir, origin, config.equal)
            if arm.name in names and seen.get(arm.run.fingerprint()) == arm.name:
                continue  # the arm that two generators compare theirs with
            if arm.name in names:
                raise ConfigError(
                    f"{origin}: two arms have one name",
                    got=arm.name,
                    wanted="another name for the arm under arms, or one item less under generate",
                )
            if seen.setdefault(arm.run.fingerprint(), arm.name) == arm.name:
                names.add(arm.name)
                yield arm


def _build_arm(made: GeneratedArm, base: Run, base_dir: Path, origin: str, equal: str) -> Arm:
    where = f"{origin}: the arm {made.name}"
    for key, reason in SHARED_BY_ARMS.items():
        if key in made.changes:
            raise ConfigError(
                f"{where} changes {key}", got=key, wanted=reason, next_step="write it under set"
            )
    tree = overlay(base.model_dump(mode="json"), made.changes)
    if "teachers" in made.changes and "select_teachers" not in made.changes:
        tree["select_teachers"] = None
    run = resolve_paths(validate_any_run(tree, where), base_dir)
    _refuse_other_rows(run, base, where)
    if made.plain:
        run = _drop_teachers(run)
    lengths = [(r.train.steps, r.train.epochs) for r in (run, base)]
    if equal == "steps" and lengths[0] != lengths[1]:
        raise ConfigError(
            f"{where} trains longer or shorter than the base",
            got="train.steps or train.epochs of its own",
            wanted="equal: as_written, which lets arms train as they say",
            next_step="write equal: as_written, or leave train.steps and train.epochs out of the arm",
        )
    # Teachers that learn from other rows are named by the rows; written out they fill the page.
    shown = {key: made.changes[key] for key in made.changes if made.left_out is None or key == "data"}
    described = ", ".join(_flatten(shown)) or ("" if made.plain else "the base as it is")
    described = ", ".join(part for part in (described, "no teachers" if made.plain else "") if part)
    return Arm(made.name, run, described, made.against, made.labelled, made.is_reference, made.left_out)


def _add_trials(arm: Arm, config: ExperimentConfig, base_dir: Path, origin: str) -> Arm:
    """Return the arm with the runs among which it chooses."""
    has_teachers = bool(arm.run.active_teachers)
    own = config.trials_without_teachers
    trials = config.trials if has_teachers or own is None else own
    runs = []
    for number, changes in enumerate(trials):
        where = f"{origin}: trial {number} of the arm {arm.name}"
        wrong = [key for key in changes if key not in TRIED]
        if wrong:
            raise ConfigError(
                f"{where} changes {wrong[0]}", got=wrong[0], wanted=f"one of {', '.join(TRIED)}",
                next_step="write it as an arm",
            )  # fmt: skip
        tree = overlay(arm.run.model_dump(mode="json"), changes)
        run = resolve_paths(validate_any_run(tree, where), base_dir)
        lengths = [(one.train.steps, one.train.epochs) for one in (run, arm.run)]
        if config.equal == "steps" and lengths[0] != lengths[1]:
            raise ConfigError(
                f"{where} trains longer or shorter than the base",
                got="train.steps or train.epochs of its own",
                wanted="equal: as_written, or trials that leave both out",
            )
        runs.append(run)
    described = tuple(", ".join(_flatten(changes)) or "as it is" for changes in trials)
    return replace(arm, trials=tuple(runs), trial_changes=described)


def _drop_teachers(run: Run) -> Run:
    """Return the arm without teachers. It keeps its length, which `ExperimentPlan.fix_steps` decides."""
    train = run.train
    return run.without_teachers(1).model_copy(update={"name": run.name, "train": train})


def _refuse_other_rows(run: Run, base: Run, where: str) -> None:
    changed = [] if run.members.keys() == base.members.keys() else ["task.tasks"]
    for task, member in run.members.items() if not changed else ():
        place, other = f"task.tasks.{task}." if task else "", base.members[task]
        changed += [
            f"{place}data.{key}" for key in HELD_OUT if getattr(member.data, key) != getattr(other.data, key)
        ]
        changed += [f"{place}task"] if member.task != other.task else []
    if changed:
        raise ConfigError(
            f"{where} would be measured on other rows, or answered differently by the teachers",
            got=f"another {', '.join(changed)} than the base",
            wanted="arms that are compared on the same rows",
            next_step=f"write {changed[0]} under set, for all arms",
        )


def _choose_baseline(
    config: ExperimentConfig, base: Run, arms: list[Arm], origin: str
) -> tuple[list[Arm], str | None]:
    """Return all arms and the name of the baseline; None where every arm names its own."""
    names = [arm.name for arm in arms]
    is_there = any(arm.run.fingerprint() == base.fingerprint() for arm in arms)
    if config.baseline in config.arms:
        return arms, config.baseline
    if config.baseline in names:  # made from the base, which it is there to be compared with
        return arms if is_there else [Arm(BASE, base, "the base as it is"), *arms], config.baseline
    if config.baseline not in (None, BASE):
        raise ConfigError(
            f"{origin}: the baseline is no arm", got=config.baseline, wanted=", ".join([BASE, *names])
        )
    if config.baseline is None and arms and all(arm.against or arm.is_reference for arm in arms):
        return arms, None
    same = next((arm.name for arm in arms if arm.run.fingerprint() == base.fingerprint()), None)
    if same is not None:
        return arms, same
    return [Arm(BASE, base, "the base as it is"), *arms], BASE


def _flatten(tree: Mapping[str, object], above: str = "") -> Iterator[str]:
    """Yield the leaves of an overlay as ``key=value``."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value and "kind" not in value:
            yield from _flatten(value, f"{above}{key}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).strip()
            yield f"{above}{key}={text.removesuffix('...').strip()}"
