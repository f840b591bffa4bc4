"""Match the labels of a file with those of a model, by name.

Decision record: names are never matched by their order or their number, because a file that sorts its labels otherwise
than the model numbers its outputs would be scored wrong without a sign. One map renames labels on both sides: a label,
of the model or of the file, to what it is called in the tables. Several labels may lead to one (five stars to two); a
model's columns are then joined by adding probabilities. Of tags, a map names tags or types.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raykd.data.cells import find_spelling
from raykd.data.labels import MOST_SHOWN
from raykd.errors import ConfigError, LabelMismatchError
from raykd.tasks.label_columns import ColumnMap
from raykd.tasks.schemes import OUTSIDE, rename_tag

LabelMap = Mapping[str, str | None]
"""Labels of the model or the file to their common names; None leaves the rows of a file's label out."""


@dataclass(frozen=True)
class MatchedLabels:
    """Labels that a model and a file share. Made by `match_labels`.

    Attributes:
        names: The common names, in the order of the model's outputs.
        columns: Which of the model's columns make up each of them.
        file_map: The part of the map that the file's labels go through.
    """

    names: tuple[str, ...]
    columns: ColumnMap
    file_map: dict[str, str | None]


def match_labels(
    own: Sequence[str], found: Iterable[str], label_map: LabelMap, *, tags: bool, file: str, model: str
) -> MatchedLabels:
    """Return the common labels.

    Args:
        own: The model's labels, in the order of its outputs.
        found: The labels that stand in the file.
        label_map: See `LabelMap`.
        tags: Whether labels are tags of words.
        file: The file, for messages.
        model: The model, for messages.

    Raises:
        ConfigError: The map names a label that neither side has, or leaves out one of the model's.
        LabelMismatchError: The file has a label that the model has not.
    """
    there = tuple(sorted(set(found)))
    _check_map(own, there, label_map, tags=tags, file=file)
    renamed = [_rename(label, label_map, tags=tags) or label for label in own]
    names = tuple(dict.fromkeys(renamed))
    if len(names) < 2:
        raise ConfigError(
            "the label map leaves one label only, so that there is nothing to choose",
            got=", ".join(names),
            wanted="two labels at least",
        )
    strange = [
        label
        for label in there
        if (name := _rename(label, label_map, tags=tags)) is not None and name not in names
    ]
    if tags:
        strange = _list_strange_types(strange, names, label_map)
    if strange:
        raise _build_mismatch_error(strange, there, own, label_map, tags=tags, file=file, model=model)
    columns = ColumnMap(tuple(tuple(i for i, name in enumerate(renamed) if name == n) for n in names))
    sides = {*there, *(_get_type(tag) for tag in there)} if tags else set(there)
    return MatchedLabels(names, columns, {key: to for key, to in label_map.items() if key in sides})


def _rename(label: str, label_map: LabelMap, *, tags: bool) -> str | None:
    """Return what a label is called in the tables; None where its rows are left out."""
    if tags:
        return rename_tag(label, {key: to for key, to in label_map.items() if to is not None})
    return label_map.get(label, label)


def _get_type(tag: str) -> str:
    return tag.partition("-")[2]


def _list_strange_types(strange: Sequence[str], names: Sequence[str], label_map: LabelMap) -> list[str]:
    """Return the types, and tags of no type, that the model has not. Tags of another scheme are not strange."""
    kinds = {_get_type(name) for name in names}
    found = [_get_type(tag) or tag for tag in strange]
    renames = {key: to for key, to in label_map.items() if to is not None}
    return [kind for kind in dict.fromkeys(found) if renames.get(kind, kind) not in kinds]


def _check_map(
    own: Sequence[str], there: Sequence[str], label_map: LabelMap, *, tags: bool, file: str
) -> None:
    known = {*own, *there, *(_get_type(tag) for tag in (*own, *there) if tags)} - {""}
    if lost := [key for key in label_map if key not in known]:
        raise ConfigError(
            "the label map names a label that neither the model nor the file has",
            got=", ".join(lost),
            wanted=f"one of the model's {_join(own)} or of {file} {_join(there)}",
        )
    left_out = [key for key, to in label_map.items() if to is None and (tags or key in own)]
    if left_out and tags:
        raise ConfigError(
            "the label map leaves out tags, and a row without a tag is none",
            got=f"{left_out[0]}=",
            wanted="a tag or type for it",
            next_step=f"--label-map {left_out[0]}={OUTSIDE} reads it as no entity",
        )
    if left_out:
        raise ConfigError(
            "the label map leaves out a label of the model, which would still answer with it",
            got=f"{left_out[0]}=",
            wanted="a label of the file alone, whose rows are then left out",
            next_step=f"call it like another label: --label-map {left_out[0]}=NAME",
        )


def _build_mismatch_error(
    strange: Sequence[str],
    there: Sequence[str],
    own: Sequence[str],
    label_map: LabelMap,
    *,
    tags: bool,
    file: str,
    model: str,
) -> LabelMismatchError:
    kinds = list(dict.fromkeys(_get_type(tag) for tag in own if _get_type(tag)))
    mapped = f"; mapped: {', '.join(f'{a}={b or str()}' for a, b in label_map.items())}" if label_map else ""
    what = "types" if tags else "labels"
    return LabelMismatchError(
        f"{file} has {what} that the model {model} does not know: {_join(strange)}",
        got=f"in the file: {_join(there)}{mapped}",
        wanted=f"the model's: {_join(own)}",
        next_step=_advise(strange, kinds if tags else own, tags=tags, unnamed=not set(own) & set(there)),
    )


def _advise(strange: Sequence[str], known: Sequence[str], *, tags: bool, unnamed: bool) -> str:
    """Return the maps to fill in.

    Args:
        strange: Labels of the file that the model does not know; types, of tags.
        known: The model's.
        tags: Whether they are types of tags.
        unnamed: Whether the file has none of the model's labels. If these are LABEL_0 and so on, transformers made them
            up, and only a model card says what they mean.
    """
    if unnamed and all(label.startswith("LABEL_") for label in known):
        return f"say what each output of the model means (see its model card): {_write_maps(known)}"
    spellings = {label: find_spelling(label, tuple(known)) for label in strange}
    if all(spellings.values()):
        return f"if they are the same: {_write_maps(strange, spellings)}"
    out = f"{strange[0]}={OUTSIDE} reads it as no entity" if tags else f"{strange[0]}= leaves its rows out"
    side = "type" if tags else "label"
    return f"say which {side} of the model each is: {_write_maps(strange)}; {out}"


def _write_maps(labels: Sequence[str], targets: Mapping[str, str | None] | None = None) -> str:
    """Return the options that map these labels, with dots where a person has to say to what."""
    maps = [shlex.quote(f"{label}={(targets or {}).get(label) or '...'}") for label in labels[:MOST_SHOWN]]
    return " ".join(f"--label-map {one}" for one in maps)


def _join(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - MOST_SHOWN} more" if len(labels) > MOST_SHOWN else ""
    return f"{', '.join(labels[:MOST_SHOWN])}{more}"
