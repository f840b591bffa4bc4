"""Suggest what to write for domains and settings in the form of other libraries.

Decision record: Ray Tune, Optuna, Weights & Biases and NNI each write a domain in their own way. These forms are not
accepted, because one way to write a thing is enough. The error names the domain here, with the user's own numbers.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

KINDS = ("uniform", "log_uniform", "randint", "choice", "grid")
DOMAIN_ALIASES = {
    "loguniform": "log_uniform", "reverse_loguniform": "log_uniform", "log": "log_uniform",
    "quniform": "uniform", "float": "uniform", "suggest_float": "uniform", "double": "uniform", "real": "uniform",
    "suggest_uniform": "uniform", "qloguniform": "log_uniform", "suggest_loguniform": "log_uniform",
    "log_uniform_values": "log_uniform", "q_uniform": "uniform", "q_log_uniform_values": "log_uniform",
    "grid_search": "grid", "lograndint": "randint", "qrandint": "randint", "qlograndint": "randint",
    "int": "randint", "integer": "randint", "int_uniform": "randint", "suggest_int": "randint", "random_int": "randint",
    "categorical": "choice", "suggest_categorical": "choice", "values": "choice", "options": "choice",
    "one_of": "choice", "pchoice": "choice", "fixed_values": "choice",
}  # fmt: skip
"""Our domains by the names that other libraries give them."""
UNSUPPORTED_DOMAINS = {
    "normal": "uniform", "randn": "uniform", "qrandn": "uniform", "qnormal": "uniform", "lognormal": "log_uniform",
}  # fmt: skip
"""Domains that raykd lacks, and the nearest that it has."""
LOW, HIGH = ("low", "lower", "min", "minimum", "from"), ("high", "upper", "max", "maximum", "to")
KIND = ("type", "_type", "distribution", "dist", "name", "domain", "sampler")
DOMAIN_WORDS = {
    *LOW,
    *HIGH,
    *KIND,
    "step",
    "q",
    "log",
    "base",
    "values",
    "_value",
    "options",
    "bounds",
    "range",
    "scale",
}
"""Keys of a domain written as a mapping of its parts. No run has such a key beside a bound."""
MAX_STEPS = 12
CALL = re.compile(
    r"^(?:ray\.)?(?:tune|np|hp|trial|optuna|random|distributions)\.(?:random\.)?(\w+)\((.*)\)$", re.DOTALL
)

SETTING_HINTS = {
    "max_t": "a trial's length is that of the run: set: {train: {epochs: ...}} or steps",
    "time_attr": "time is counted in evaluations: set: {train: {evaluations: ...}}",
    "stop": "a trial's length is that of the run: set: {train: {epochs: ...}}; train.patience stops early",
    "hyperparam_mutations": "a population changes the domains of `space`",
    "hyperparam_bounds": "a population changes the domains of `space`",
    "resources_per_trial": "what a trial holds is set: {workers: {num_workers: ..., num_cpus: ..., num_gpus: ...}}",
    "scaling_config": "what a trial holds is set: {workers: {num_workers: ..., num_cpus: ..., num_gpus: ...}}",
    "seed": "search: {seed: ...} draws other trials; set: {seed: ...} is the seed of every trial's run",
    "random_state": "did you mean 'seed'?",
    "random_state_seed": "did you mean 'seed'?",
    "tune_config": "its keys stand at the first level: num_samples, search, scheduler, metric, mode",
    "run_config": "its keys stand at the first level: name, max_failures, checkpoint_s",
    "config": "what is searched stands under `space`, what all trials share under `set`",
    "direction": "did you mean 'mode'?",
    "timeout": "did you mean 'time_budget_s'?",
    "n_trials": "did you mean 'num_samples'?",
    "trials": "did you mean 'num_samples'?",
    "n_jobs": "did you mean 'max_concurrent_trials'?",
    "max_concurrent": "did you mean 'max_concurrent_trials'?",
    "param_space": "did you mean 'space'?",
    "search_space": "did you mean 'space'?",
    "parameters": "did you mean 'space'?",
    "grace_period": "did you mean 'grace'?",
    "n_startup_trials": "did you mean 'startup_trials'?",
    "n_initial_points": "did you mean 'startup_trials'?",
    "evaluated_rewards": "scores of earlier trials come from their sweep: warm_start: runs/NAME",
    "enqueue_trials": "did you mean 'points_to_evaluate'?",
    "storage": "a sweep keeps its trials in its own folder: raykd sweep NAME --resume goes on",
}
"""What to write for keys that other libraries have and a sweep's file lacks."""
KIND_ALIASES = {
    "async_hyperband": "asha", "ashascheduler": "asha", "asynchyperband": "asha", "median_stopping": "median",
    "median_stopping_rule": "median", "medianstoppingrule": "median", "none": "fifo", "hb_bohb": "hyperband",
    "tpe": "optuna", "optunasearch": "optuna", "bayesian": "optuna", "variant_generator": "random",
    "basic_variant": "random", "hyperopt": "{kind: tune, name: hyperopt}", "bohb": "{kind: tune, name: bohb}",
    "bayesopt": "{kind: tune, name: bayesopt}", "ax": "{kind: tune, name: ax}", "hebo": "{kind: tune, name: hebo}",
    "nevergrad": "{kind: tune, name: nevergrad}", "zoopt": "{kind: tune, name: zoopt}", "cmaes": "optuna",
}  # fmt: skip
"""Our searchers and schedulers by the names that other libraries give them."""


def suggest_domain(node: object) -> str | None:
    """Return our form of a domain of another library; None for any other node."""
    if isinstance(node, str):
        return _translate_call(node)
    if not isinstance(node, Mapping) or not node or "kind" in node:
        return None
    if len(node) == 1:
        ((key, value),) = node.items()
        name = str(key).rpartition(".")[2].lower()
        if name == "sample_from":
            return "{choice: [...]}; what holds for one option alone stands inside that option"
        known = {**DOMAIN_ALIASES, **UNSUPPORTED_DOMAINS}.get(name) or (
            name if "." in str(key) and name in KINDS else None
        )
        known = known or next(iter(difflib.get_close_matches(name, KINDS, n=1, cutoff=0.7)), None)
        if known is not None and name not in KINDS and isinstance(value, Sequence | Mapping):
            return _write_domain(known, value, quantised=name.startswith("q"), log="log" in name)
        if known is not None and "." in str(key):
            return _write_domain(known, value)
        return None
    if not set(map(str, node)) <= DOMAIN_WORDS or not (
        set(node) & {*LOW, *HIGH, "values", "_value", "bounds", "range"}
    ):
        return None
    return _translate_parts(node)


def suggest_interval(kind: str, value: object) -> str | None:
    """Return our form of wrong bounds; None if their meaning is not clear."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(f"[{value}]")
        except (ValueError, SyntaxError):
            return None
    if isinstance(value, Mapping):
        return _translate_parts({"type": kind, **value})
    if not isinstance(value, list) or not value or not all(_is_number(one) for one in value):
        return None
    if len(value) == 2 and value[0] == value[1]:
        return f"the value itself, {_text(value[0])}: it is not searched"
    return _write_domain(kind, value, quantised=len(value) == 3, log=kind == "log_uniform")


def nearest_kind(got: object, kinds: Sequence[str]) -> str | None:
    """Return the kind that a text, or a mapping with a wrong kind, was meant as, in YAML; None if nothing is near."""
    if isinstance(got, Mapping):
        got = next((got[key] for key in ("kind", *KIND) if key in got), None)
    if not isinstance(got, str):
        return None
    name = got.lower().strip()
    other = KIND_ALIASES.get(name)
    if other is not None and (other in kinds or (other.startswith("{") and "tune" in kinds)):
        return other if other.startswith("{") else f"{{kind: {other}}}"
    near = [name] if name in kinds else difflib.get_close_matches(name, kinds, n=1, cutoff=0.6)
    return f"{{kind: {near[0]}}}" if near else None


def _translate_call(text: str) -> str | None:
    found = CALL.match(text.strip())
    if found is None:
        return None
    name, inside = found.groups()
    kind = {**DOMAIN_ALIASES, **UNSUPPORTED_DOMAINS, **{k: k for k in KINDS}}.get(name.lower(), "choice")
    try:
        value = list(ast.literal_eval(f"[{inside}]"))
    except (ValueError, SyntaxError):
        return f"{{{kind}: [...]}}"
    if kind in ("choice", "grid") and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    return _write_domain(kind, value, quantised=name.startswith("q"), log="log" in name)


def _translate_parts(node: Mapping[str, object]) -> str:
    name = next((str(node[key]).lower() for key in KIND if key in node), "")
    whole = name in ("randint", "int", "integer", "int_uniform", "suggest_int")
    log = "log" in name or node.get("log") is True or node.get("scale") == "log"
    kind = {**DOMAIN_ALIASES, **{k: k for k in KINDS}}.get(name)
    kind = "randint" if whole else "log_uniform" if log else kind or "uniform"
    listed = next(
        (node[key] for key in ("values", "_value", "options", "bounds", "range") if key in node), None
    )
    if listed is not None:
        return _write_domain(
            kind if name or "bounds" in node or "range" in node else "choice", listed, log=log
        )
    ends = [next((node[key] for key in names if key in node), "...") for names in (LOW, HIGH)]
    step = next((node[key] for key in ("q", "step") if key in node), None)
    return _write_domain(
        kind, [*ends, *([] if step is None else [step])], quantised=step is not None, log=log
    )


def _write_domain(kind: str, value: Any, *, quantised: bool = False, log: bool = False) -> str:
    """Return a domain as YAML, with as many of the values as it can take."""
    if isinstance(value, Mapping):
        return _translate_parts({"type": kind, **value})
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if kind in ("choice", "grid"):
        return f"{{{kind}: {_list(values)}}}"
    numbers = values[:2] if len(values) > 1 and all(map(_is_number, values)) else None
    if numbers is None:
        return f"{{{kind}: [low, high]}}"
    low, high = sorted(numbers)
    if quantised and len(values) == 3:
        steps = _steps(low, high, values[2])
        return f"{{choice: {_list(steps)}}}" if steps else f"{{{kind}: {_list([low, high])}}}, without steps"
    if kind == "log_uniform" and low <= 0:
        return (
            f"{{choice: [0.0, {{log_uniform: [{_text(high / 1000)}, {_text(high)}]}}]}}"
            if high > 0
            else "{uniform: [low, high]}"
        )
    if kind == "randint" and all(float(one).is_integer() for one in numbers):
        low, high = int(low), int(high)
        powers = [2**k for k in range(64) if low <= 2**k <= high]
        if log and 1 < len(powers) <= MAX_STEPS:
            return f"{{choice: {_list(powers)}}}"
    elif kind == "randint":
        kind = "uniform"
    return f"{{{kind}: {_list([low, high])}}}"


def _steps(low: float, high: float, step: float) -> list[float]:
    if step <= 0 or (high - low) / step > MAX_STEPS:
        return []
    first = math.ceil(round(low / step, 9)) * step
    return [round(first + k * step, 12) for k in range(int((high - first) / step + 1e-9) + 1)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _list(values: Sequence[object]) -> str:
    return f"[{', '.join(map(_text, values))}]"


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
