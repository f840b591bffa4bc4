"""Offer experiments that go with any run file: `raykd compare RUN.yaml --preset ensemble`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raykd.config.home import is_raykd_folder
from raykd.config.loading import ConfigSource, Override, is_sweep, read_source
from raykd.driver.command import Start
from raykd.driver.smoke import refuse_smoke_resume
from raykd.errors import ConfigError
from raykd.experiments.arms import ExperimentPlan
from raykd.experiments.config import is_experiment, load_experiment
from raykd.experiments.confirmation import read_confirmation
from raykd.experiments.run import ComparisonOutcome, run_comparison
from raykd.experiments.smoke import shorten_experiment
from raykd.parse import JsonObject
from raykd.presets import preset as find_preset
from raykd.tuning.config import apply_override, load_sweep
from raykd.tuning.run import run_sweep

PRESETS: Mapping[str, JsonObject] = {
    # Which teachers help: all together, each alone, one left out, none; and whether the run's weighting pays.
    "ensemble": {
        "generate": ["each_teacher", "leave_one_out", "no_teachers", {"weightings": ["uniform"]}],
    },
    "weighting": {
        "generate": [
            {"weightings": ["uniform", "by_language", "entropy", "confidence", "loss_softmax"]},
            "no_teachers",
        ],
    },
    "data_budget": {"generate": [{"labelled": [30, 100, 300, 1000]}], "resample_labelled": True},
    "student_size": {"generate": [{"sizes": [0.25, 0.5, 2, 4]}]},
}
"""Keys of an experiment, by name of the preset."""
TUNED = "tuned_against_default"
"""Name of the preset that searches first: alpha, temperature and the lambda schedule, then winner against default."""
SEEDS = "seeds"
"""Name of the experiment behind `raykd train --seeds`: the run alone, and without teachers where it has a baseline."""
PRESET_NAMES = (*PRESETS, TUNED)
SHAPES: tuple[JsonObject, ...] = (
    {"kind": "constant", "value": 1.0},
    {"kind": "linear", "start": 1.0, "end": 0.0},
    {"kind": "cosine", "start": 1.0, "end": 0.0},
)
"""Lambda schedules among which that preset searches."""
CONFIRMED_SEEDS = 5
"""Fresh seeds of winner and default."""


def run_experiment(
    source: ConfigSource,
    overrides: Sequence[Override] = (),
    *,
    start: Start | None = None,
    preset: str | None = None,
    smoke: bool = False,
) -> ComparisonOutcome:
    """Run an experiment, or the experiment of a preset over a run.

    Args:
        source: The experiment; with a preset the run.
        overrides: Keys to change.
        start: How it begins; None anew.
        preset: One of `PRESET_NAMES`; None for an experiment of its own.
        smoke: Run all of it in short, in a folder of its own.

    Raises:
        RaykdError: As `run_comparison`, and for `TUNED` as `run_sweep`.
    """
    start = start or Start()
    if smoke:
        refuse_smoke_resume(resume=start.resume)
        if preset == TUNED:
            raise ConfigError(
                f"the preset {TUNED} has no short form",
                got="smoke",
                wanted="another preset or an experiment",
                next_step="shorten its search: num_samples=2 set.train.steps=20 seeds=2",
            )
    if preset == TUNED:
        plan = run_tuning(source, overrides, start)
    elif preset is not None:
        plan = load_preset(preset, source, overrides)
    else:
        plan = load_experiment(source, overrides)
    if smoke:
        plan, start = shorten_experiment(plan), replace(start, overwrite=True)
    return run_comparison(plan, start)


def load_preset(name: str, source: ConfigSource, overrides: Sequence[Override] = ()) -> ExperimentPlan:
    """Read a run as an experiment.

    Args:
        name: The preset, or `SEEDS`; not `TUNED`, which begins with a sweep (`run_tuning`).
        source: The run: a file, the folder of a run, a shipped preset's name, a tree or a model.
        overrides: Keys of the experiment to change.

    Raises:
        ConfigError: There is no such preset, or the source is no run.
    """
    if name not in (*PRESETS, SEEDS):
        raise ConfigError(
            f"there is no preset {name!r} of an experiment", got=name, wanted=", ".join(PRESET_NAMES)
        )
    base = _read_base(source)
    tree: JsonObject = {"name": f"{base.pop('name')}-{name}", **base, **PRESETS.get(name, {})}
    for override in overrides:
        tree = apply_override(tree, override)
    if name == SEEDS and tree["base"].get("baseline"):  # read after the overrides, which may ask for it
        tree.setdefault("generate", ["no_teachers"])
    return load_experiment(tree)


def run_tuning(
    source: ConfigSource, overrides: Sequence[Override], start: Start | None = None
) -> ExperimentPlan:
    """Run the search of `TUNED`, and return winner against default as an experiment.

    Args:
        source: As for `load_preset`.
        overrides: Keys of the sweep to change; `seeds` is the number of fresh seeds.
        start: How the search begins; None anew.

    Raises:
        RaykdError: As `run_sweep`.
    """
    pairs = [one.partition("=")[::2] if isinstance(one, str) else one for one in overrides]
    seeds = next((int(value) for key, value in reversed(pairs) if key == "seeds"), CONFIRMED_SEEDS)
    rest = [one for one, (key, _) in zip(overrides, pairs, strict=True) if key != "seeds"]
    base = _read_base(source)
    tree = {"name": f"{base.pop('name')}-tuning", **base}
    unsearched = load_sweep({**tree, **make_tuned_search({})}, rest, check=False)
    sweep = load_sweep({**tree, **make_tuned_search(unsearched.base.objective.model_dump(mode="json"))}, rest)
    run_sweep(sweep, start)
    return read_confirmation(Path(sweep.output) / sweep.name, seeds)


def make_tuned_search(objective: JsonObject) -> JsonObject:
    """Return space and search of `TUNED` around a base, which is the first trial, so the search cannot lose to it.

    Args:
        objective: The base's own. Where a value of it lies outside the usual range, it is one more choice.
    """
    alpha: JsonObject = {"uniform": [0.0, 0.6]}
    temperature: JsonObject = {"log_uniform": [1.0, 8.0]}
    first, *rest = objective.get("terms") or [{}]
    own = first.get("lambda_schedule")
    shapes = [*SHAPES, *([own] if own is not None and not _is_among(own, SHAPES) else [])]
    return {
        "space": {
            "objective": {
                "alpha": _widen(alpha, objective.get("alpha"), 0.0, 0.6),
                "temperature": _widen(temperature, objective.get("temperature"), 1.0, 8.0),
                "terms": [{**first, "lambda_schedule": {"choice": shapes}}, *rest],
            }
        },
        "search": {"kind": "optuna", "base_first": bool(objective)},
    }


def _widen(domain: JsonObject, own: JsonObject | None, low: float, high: float) -> JsonObject:
    """Return the domain, with the base's schedule as one more choice unless it is a constant inside the domain."""
    if own is None or (own["kind"] == "constant" and low <= own["value"] <= high):
        return domain
    return {"choice": [domain, own]}


def _is_among(schedule: JsonObject, known: Sequence[JsonObject]) -> bool:
    return any(all(schedule.get(key) == value for key, value in one.items()) for one in known)


def _read_base(source: ConfigSource) -> JsonObject:
    """Return the keys `base` and `base_dir` of an experiment over a run, and the run's name."""
    if isinstance(source, str | os.PathLike) and Path(source).name == str(source):
        named, shipped = Path(source), find_preset(str(source))
        is_own = named.is_file() or is_raykd_folder(named)
        source = shipped if shipped.is_file() and not is_own else source
    tree, path = read_source(source)
    if is_sweep(tree) or is_experiment(tree):
        raise ConfigError(
            f"{path} is no run file",
            got="a sweep or an experiment",
            wanted="a run file, which the preset compares arms of",
            next_step="leave --preset out, or name the base of that file",
        )
    base_dir = path.resolve().parent if path.exists() else Path.cwd()
    return {"name": str(tree.get("name", "run")), "base": tree, "base_dir": str(base_dir)}
