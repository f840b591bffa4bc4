"""Spaces and settings as other libraries write them: refused, with what to write here, which then is a domain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.errors import ConfigError
from raykd.spaces.domains import parse_domain
from raykd.spaces.foreign import suggest_domain, suggest_interval
from raykd.spaces.space import Space
from raykd.tuning.config import load_sweep

ALPHA = {"objective": {"alpha": {"uniform": [0.0, 0.9]}}}


@pytest.mark.parametrize(
    ("node", "here"),
    [
        ({"lower": 0, "upper": 0.5}, "{uniform: [0, 0.5]}"),
        ({"min": 1, "max": 4, "type": "int"}, "{randint: [1, 4]}"),
        ({"low": 0.1, "high": 1, "log": True}, "{log_uniform: [0.1, 1]}"),
        ({"distribution": "log_uniform_values", "min": 0.1, "max": 1}, "{log_uniform: [0.1, 1]}"),
        ({"distribution": "uniform", "min": 0, "max": 1, "q": 0.25}, "{choice: [0, 0.25, 0.5, 0.75, 1]}"),
        ({"values": [0.1, 0.2]}, "{choice: [0.1, 0.2]}"),
        ({"_type": "loguniform", "_value": [0.1, 1]}, "{log_uniform: [0.1, 1]}"),
        ({"type": "choice", "values": ["a", None]}, "{choice: [a, null]}"),
        ("tune.uniform(0, 1)", "{uniform: [0, 1]}"),
        ("tune.choice([1, 2.5])", "{choice: [1, 2.5]}"),
        ("ray.tune.grid_search([1, 2])", "{grid: [1, 2]}"),
        ("trial.suggest_int('x', 1, 4)", "{randint: [low, high]}"),
        ("np.random.uniform(0, 1)", "{uniform: [0, 1]}"),
        ({"tune.loguniform": [0.1, 1]}, "{log_uniform: [0.1, 1]}"),
        ({"quniform": [0, 1, 0.5]}, "{choice: [0, 0.5, 1]}"),
        ({"qrandint": [8, 32, 8]}, "{choice: [8, 16, 24, 32]}"),
        ({"lograndint": [8, 64]}, "{choice: [8, 16, 32, 64]}"),
        ({"normal": [0, 1]}, "{uniform: [0, 1]}"),
        ({"categorical": ["a", "b"]}, "{choice: [a, b]}"),
    ],
)
def test_a_domain_of_another_library_is_told_in_ours(node: Any, here: str) -> None:
    assert suggest_domain(node) == here
    if "low" not in here:
        assert parse_domain(yaml.safe_load(here), "x") is not None
    with pytest.raises(ConfigError, match=r"space.objective.alpha: no domain is written so") as error:
        Space({"objective": {"alpha": node}})
    assert f"write {here}" in str(error.value)


@pytest.mark.parametrize(
    "node",
    [
        {"kind": "linear", "start": 1, "end": 0},
        {"kind": "step", "values": [1, 0.5], "at": [0.5]},
        {"chain": ["monolingual"]},
        {"stage": 2},
        {"name": "zh"},
        "uniform",
        "a (b)",
        0.5,
        None,
        {"paths": ["a.json"]},
        {},
    ],
)
def test_what_is_no_domain_is_left_alone(node: Any) -> None:
    assert suggest_domain(node) is None


@pytest.mark.parametrize(
    ("kind", "value", "here"),
    [
        ("uniform", [0.9, 0.0], "{uniform: [0, 0.9]}"),
        ("uniform", {"lower": 0, "upper": 1}, "{uniform: [0, 1]}"),
        ("uniform", "0, 1", "{uniform: [0, 1]}"),
        ("uniform", [0, 1, 0.25], "{choice: [0, 0.25, 0.5, 0.75, 1]}"),
        ("uniform", [0.1, 0.1], "the value itself, 0.1: it is not searched"),
        ("log_uniform", [0, 1], "{choice: [0.0, {log_uniform: [0.001, 1]}]}"),
        ("randint", [8.0, 32.0], "{randint: [8, 32]}"),
        ("uniform", ["a", "b"], None),
    ],
)
def test_wrong_bounds_are_told_right(kind: str, value: Any, here: str | None) -> None:
    assert suggest_interval(kind, value) == here


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"scheduler": {"kind": "asha", "max_t": 100}}, ["scheduler.max_t", "wanted:  one of brackets, grace, kind, reduction_factor", "set: {train:"]),
        ({"scheduler": {"kind": "asha", "grace_period": 1}}, ["did you mean 'grace'"]),
        ({"scheduler": {"kind": "pbt", "perturbation_interval": 1}}, ["did you mean 'interval'"]),
        ({"scheduler": "asha"}, ["write {kind: asha}"]),
        ({"scheduler": {"kind": "async_hyperband"}}, ["write {kind: asha}"]),
        ({"search": {"kind": "OptunaSearch"}}, ["write {kind: optuna}"]),
        ({"search": {"type": "random"}}, ["write {kind: random}"]),
        ({"search": {"kind": "hyperopt"}}, ["write {kind: tune, name: hyperopt}"]),
        ({"search": {"kind": "tune", "name": "hyperop"}}, ["did you mean 'hyperopt'"]),
        ({"search": {"kind": "tune", "name": "zoopt"}}, ["pip install zoopt"]),
        ({"search": {"kind": "optuna", "n_startup_trials": 3}}, ["did you mean 'startup_trials'", "warm_start"]),
        ({"search": {"kind": "optuna", "warm_start": {"sweep": "a", "trials": 3}}}, ["wanted:  one of best_first, observations, sweep"]),
        ({"num_samples": -1}, ["trials without end are not offered", "time_budget_s"]),
        ({"num_samples": 0}, ["a number of at least 1"]),
        ({"n_trials": 3}, ["did you mean 'num_samples'"]),
        ({"resources_per_trial": {"cpu": 1}}, ["workers: {num_workers"]),
        ({"seed": 3}, ["search: {seed: ...}"]),
        ({"metric": "eval/mean/accuracy"}, ["write accuracy"]),
        ({"metric": "eval_loss"}, ["write nll"]),
        ({"mode": "maximize"}, ["write max"]),
        ({"space": {"alpha": {"uniform": [0, 1]}}}, ["did you mean 'objective.alpha'"]),
        ({"space": {"objective.alpha": {"uniform": [0, 1]}}}, ["nested, not dotted", "objective: {alpha: ...}"]),
        ({"space": {"train": {"lr": {"uniform": [0.1, 1]}}}}, ["did you mean 'learning_rate'"]),
        ({"space": {"train": {"batch_size": {"uniform": [8, 32]}}}}, ["20 of 20", "randint"]),
        ({"space": {"objective": {"alpha": [0.1, 0.5]}}}, ["no domain", "{choice: [...]}"]),
        ({"scheduler": {"kind": "hyperband"}, "max_concurrent_trials": 2}, ["max_concurrent_trials does not go with"]),
    ],
)  # fmt: skip
def test_settings_of_another_library_are_refused_with_ours(
    tmp_path: Path, keys: Any, words: list[str]
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"base": "demo", "space": ALPHA, **keys}))
    with pytest.raises(ConfigError) as error:
        load_sweep(path)
    assert all(word in str(error.value) for word in words), str(error.value)
