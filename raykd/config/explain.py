"""Explain pydantic's validation errors key by key.

Decision record: an error names the key's path as written in the file, the value, what is allowed at that level, and the
nearest allowed key or value. All wrong keys are named at once.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from raykd.config import RunConfig
from raykd.spec import KindUnion, NotANumber

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


KindFinder = Callable[[object, Sequence[str]], str | None]
"""Returns what to write for a value where one of some kinds is wanted; None where nothing is near."""


def explain_errors(
    error: ValidationError,
    origin: str,
    model: type[BaseModel] = RunConfig,
    hints: Mapping[str, str] = MappingProxyType({}),
    nearest_kind: KindFinder | None = None,
) -> Iterable[str]:
    """Yield the lines of an error message, all wrong keys in turn.

    Args:
        error: What pydantic found.
        origin: The file or tree, for the first line.
        model: The model that was validated.
        hints: What to write in place of an unknown key, by key.
        nearest_kind: Finds the kind that was meant; None compares spellings.
    """
    problems = _drop_echoes(error.errors(include_url=False))
    yield _count_wrong_keys(origin, len(problems))
    for problem in problems:
        where = _key(model, problem["loc"])
        if problem["type"] == "extra_forbidden":
            allowed = _allowed_keys(model, problem["loc"][:-1])
            *above, wrong = map(str, problem["loc"])
            yield from _explain_unknown_key(where, wrong, allowed, None if above else model, hints)
            continue
        if problem["type"] == "missing":
            yield f"  {where}: this key is missing"
            continue
        value = problem["input"]
        if problem["type"] != "value_error":
            kinds = _kinds(model, problem["loc"])
            yield f"  {where}"
            yield f"    wanted:  {_describe_wanted(problem, kinds)}"
            yield f"    got:     {_shorten(value)}"
            meant = (nearest_kind or _nearest_kind)(value, kinds) if kinds else _near_choice(problem)
            yield from [f"    next:    write {meant}"] if meant else []
            continue
        first, *rest = problem["msg"].removeprefix("Value error, ").splitlines()
        yield f"  {where}: {first}" if where and not first.startswith(where) else f"  {first}"
        yield from (f"  {line}" for line in rest)
        if not isinstance(
            value, Mapping | BaseModel
        ):  # a combination of keys would show all keys of the level
            yield f"    got:     {_shorten(value)}"


def explain_unknown_keys(model: type[BaseModel], keys: Iterable[str], origin: str, above: str) -> list[str]:
    """Return the lines of an error message about the key paths that no kind of the model has.

    Args:
        model: The model that the paths belong to.
        keys: Key paths such as "objective.alpha"; a number is a place in a list.
        origin: The file or tree, for the first line.
        above: What stands before the paths in the file, for example "space.".

    Returns:
        No line where all keys are known.
    """
    unknown: dict[str, list[str]] = {}
    for key in keys:
        if (found := _find_unknown_key(model, key)) is not None:
            unknown.setdefault(*found)
    if not unknown:
        return []
    lines = [_count_wrong_keys(origin, len(unknown))]
    for key, allowed in unknown.items():
        outer, _, wrong = key.rpartition(".")
        lines += _explain_unknown_key(above + key, wrong, allowed, None if outer else model)
    return lines


def _count_wrong_keys(origin: str, count: int) -> str:
    return f"{origin}: 1 key is wrong" if count == 1 else f"{origin}: {count} keys are wrong"


def _explain_unknown_key(
    where: str,
    wrong: str,
    allowed: Sequence[str],
    top: type[BaseModel] | None = None,
    hints: Mapping[str, str] = MappingProxyType({}),
) -> Iterable[str]:
    """Yield the lines about one unknown key.

    Args:
        where: Its path.
        wrong: Its last part.
        allowed: The keys of its level.
        top: The model if the key stands at its first level, so that it may belong to a lower one.
        hints: What to write in place of an unknown key, by key.
    """
    other = _KEY_ALIASES.get(wrong)
    near = [other] if other in allowed else difflib.get_close_matches(wrong, allowed, n=1, cutoff=0.5)
    place = None if top is None or other in allowed else _find_place(top, other or wrong)
    hint = hints.get(wrong) or (f"did you mean {(place or near[0])!r}?" if place or near else None)
    yield f"  {where}"
    yield f"    got:     an unknown key {wrong!r}"
    yield f"    wanted:  one of {', '.join(allowed)}" if allowed else "    wanted:  no such key"
    if hint:
        yield f"    next:    {hint}"


def _find_unknown_key(model: type[BaseModel], key: str) -> tuple[str, list[str]] | None:
    """Return the path up to the first part that no kind has, and the keys of that level; None if all are known."""
    parts = key.split(".")
    found, is_name = [model], False
    for at, part in enumerate(parts):
        if is_name or part.isdigit():  # a name that a person chose, or a place in a list
            is_name = False
            continue
        fields = [one.model_fields[part] for one in found if part in one.model_fields]
        if found and not fields:
            return ".".join(parts[: at + 1]), sorted({name for one in found for name in one.model_fields})
        found = [below for field in fields for below in _list_models(field)]
        is_name = any(_is_mapping(field.annotation) for field in fields)
    return None


def _is_mapping(annotation: object) -> bool:
    return get_origin(annotation) in (dict, Mapping) or any(map(_is_mapping, get_args(annotation)))


def _nearest_kind(got: object, kinds: Sequence[str]) -> str | None:
    """Return the kind that a text, or a mapping with a wrong kind, was meant as."""
    name = got.get("kind") if isinstance(got, Mapping) else got
    if not isinstance(name, str):
        return None
    near = difflib.get_close_matches(name.lower().strip(), kinds, n=1, cutoff=0.6)
    return f"{{kind: {near[0]}}}" if near else None


_KEY_ALIASES = {
    "sep": "delimiter", "separator": "delimiter", "data_files": "paths", "files": "paths", "lr": "learning_rate",
    "num_train_epochs": "epochs", "num_epochs": "epochs", "max_steps": "steps", "seeds": "seed",
    "gradient_accumulation_steps": "gradient_accumulation", "per_device_train_batch_size": "batch_size",
    "early_stopping_patience": "patience", "perturbation_interval": "interval", "quantile_fraction": "quantile",
    "resample_probability": "resample", "n_ei_candidates": "candidates", "min_samples_required": "min_trials",
    "folder": "sweep", "path": "sweep",
}  # fmt: skip
"""Our keys by the names that other libraries give them."""
_WANTED_BY_TYPE = {
    "string_type": "a text",
    "tuple_type": "a list, such as [a, b]",
    "dict_type": "keys with values, such as {a: b}",
    "model_type": "keys with values, such as {a: b}",
    "model_attributes_type": "keys with values, such as {a: b}",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
"""What is wanted, in words, by pydantic's type of error."""


def _describe_wanted(problem: ErrorDetails, kinds: Sequence[str]) -> str:
    kind = problem["type"]
    wanted = _WANTED_BY_TYPE.get(kind, problem["msg"])
    if kind == "string_type" and problem["input"] is None:
        return f'{wanted}; the word null is one in quotes: "null"'
    if kinds and kind in ("model_attributes_type", "union_tag_not_found"):
        number = "a number, or " if "constant" in kinds else ""  # a schedule
        return f"{number}keys with values, among them kind: {' | '.join(kinds)}"
    if kind in _BOUNDS:
        word, name = _BOUNDS[kind]
        return f"a number {word} {problem['ctx'][name]:g}"
    if kind == "literal_error":
        return f"one of {', '.join(_choices(problem))}"
    return f"kind: {' | '.join(kinds)}" if kinds and kind == "union_tag_invalid" else wanted


_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("of at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("of at most", "le"),
}
"""Words for a bound, and the key of its number, by pydantic's type of error."""
_VALUE_ALIASES = {
    "loss": "nll", "cross_entropy": "nll", "ce": "nll", "acc": "accuracy", "f1_macro": "macro_f1", "ppl": "perplexity",
    "maximize": "max", "maximise": "max", "maximum": "max", "minimize": "min", "minimise": "min", "minimum": "min",
}  # fmt: skip
"""Our values by the names that other libraries give them."""


def _choices(problem: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))


def _near_choice(problem: ErrorDetails) -> str | None:
    """Return the allowed text that was meant. Prefixes that trackers put before a metric are ignored."""
    got, known = problem["input"], _choices(problem) if problem["type"] == "literal_error" else []
    if not isinstance(got, str) or not known:
        return None
    name = re.sub(r"^(eval|val|valid|validation|test|dev)[_/-]", "", got.strip().lower().rpartition("/")[2])
    name = _VALUE_ALIASES.get(name, name)
    return (
        name if name in known else next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.6)), None)
    )


def _find_place(model: type[BaseModel], key: str) -> str | None:
    """Return the full path of a key from a lower level that was written at the first level; None if there is none."""
    for name, field in model.model_fields.items():
        if any(key in below.model_fields for below in _list_models(field) if _kind(below) is None):
            return f"{name}.{key}"
    return None


def _drop_echoes(problems: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out lists that are too short only because their items are wrong."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or not any(
            len(at) > len(problem["loc"]) and at[: len(problem["loc"])] == problem["loc"] for at in places
        )
    ]


def _shorten(value: object) -> str:
    got = json.dumps(value.value if isinstance(value, NotANumber) else value, default=str, ensure_ascii=False)
    return got if len(got) <= 120 else got[:117] + "..."


def _allowed_keys(model: type[BaseModel], loc: Sequence[object]) -> list[str]:
    """Return the keys allowed at the location of an error, which passes through lists and kinds of unions."""
    found = [model]
    for part in loc:
        found = _below(found, part) or [c for c in found if _kind(c) is None]
    return sorted({key for candidate in found for key in candidate.model_fields})


def _below(found: Sequence[type[BaseModel]], part: object) -> list[type[BaseModel]]:
    """Return the models that a part of a location leads to; empty for a plain value."""
    following: list[type[BaseModel]] = []
    for candidate in found:
        if isinstance(part, str) and part in candidate.model_fields:
            following += _list_models(candidate.model_fields[part])
        elif isinstance(part, int) or _kind(candidate) == part:
            following.append(candidate)
    return following


def _key(model: type[BaseModel], loc: Sequence[object]) -> str:
    """Return a location as a key path of the file, without the kinds of unions."""
    found, kept = [model], []
    for part in loc:
        if any(part in c.model_fields for c in found) or not any(_kind(c) == part for c in found):
            kept.append(str(part))
        found = _below(found, part)
    return ".".join(kept)


def _kinds(model: type[BaseModel], loc: Sequence[object]) -> list[str]:
    """Return the kinds of the union at a location; empty if there is no union."""
    found = [model]
    for part in loc:
        found = _below(found, part)
    return sorted({str(kind) for candidate in found if (kind := _kind(candidate)) is not None})


def _kind(model: type[BaseModel]) -> object:
    field = model.model_fields.get("kind")
    return field.default if field is not None else None


def _list_models(field: FieldInfo) -> list[type[BaseModel]]:
    """Return the models that a field takes. For a task or a teacher, all that are registered."""
    return _find_models(field.annotation, field.metadata)


def _find_models(annotation: object, notes: Sequence[object] = ()) -> list[type[BaseModel]]:
    for note in (*notes, *get_args(annotation)):
        if isinstance(note, KindUnion):
            return [*note.classes.values()]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _find_models(part)]
