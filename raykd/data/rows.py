"""Hold the rows of a run: texts with languages and labels, immutable.

Decision record: columns are Arrow tables, because a corpus need not fit in memory and a step looks at a batch;
labels are one array, since whatever chooses rows asks for them. Whoever reads rows has checked them: a `Rows` holds no
empty text and no label outside the run's labels, so decoding late moves no error of the data into the middle of a run.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from raykd.cache import compute_key, read_entry, write_entry
from raykd.data.arrow.tables import RowColumn, Selection, Table, build_table, repeat_value
from raykd.distill.signals import UNLABELLED
from raykd.text.batch import SAYS_NOTHING, Mode, TextBatch

_ALL_OR_NONE = {"pairs": "a second text"} | {
    name: name for name in ("words", "golds", "values", "candidates")
}
"""Columns that parts have to have alike, and what they hold."""


@dataclass(frozen=True)
class Rows(TextBatch):
    """B rows of a run, as `TextBatch` holds them; a column may be given as a tuple and is kept as a `RowColumn`.

    Made by `read`, `corpus` and `load`; read by the stream, the loop and the evaluation.

    Raises:
        ValueError: Fields of unequal length.
    """

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        sizes = {len(column) for column in given.values() if column is not None}
        if len(sizes) != 1:
            raise ValueError(f"fields of unequal length: {sorted(sizes)}")
        bare = {
            name: column
            for name, column in given.items()
            if not isinstance(column, RowColumn | np.ndarray) and column is not None
        }
        rows = Selection((build_table(bare),) if bare else ())
        for name in bare:
            object.__setattr__(self, name, RowColumn(name, rows))

    @classmethod
    def of(cls, table: Table) -> Self:
        """Return the rows of a table of columns and labels."""
        if not table.batches:
            return cls((), (), (), np.zeros(0, dtype=np.int64))
        rows, names = Selection((table,)), [n for n in table.batches[0].schema.names if n != "labels_B"]
        labels = [batch.column("labels_B").to_numpy() for batch in table.batches]
        columns: dict[str, Any] = {name: RowColumn(name, rows) for name in names}
        return cls(**columns, labels_B=np.concatenate(labels, dtype=np.int64))

    def _columns(self) -> dict[str, RowColumn[Any]]:
        """Return all columns that there are but the labels."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "labels_B"}
        return {name: column for name, column in found.items() if column is not None}

    def take(self, rows: Iterable[int]) -> TextBatch:
        """Return the batch of these rows, in this order."""
        at = np.asarray(rows if isinstance(rows, Sequence | np.ndarray) else list(rows), dtype=np.int64)
        taken = {name: column.take(at) for name, column in self._columns().items()}
        return TextBatch(**taken, labels_B=self.labels_B[at])

    def select(self, chosen: Sequence[int] | NDArray[np.bool_] | NDArray[np.integer]) -> Rows:
        """Return the rows where a mask of length B is true, or the rows at these indices, in this order."""
        array = np.asarray(chosen)
        if array.dtype == np.bool_:
            if len(array) != len(self):
                raise ValueError(f"a mask of {len(array)} for {len(self)} rows")
            array = np.flatnonzero(array)
        at = array.astype(np.int64)
        columns = self._columns()
        selections = {id(own): own for own in (column.rows for column in columns.values())}
        found = {key: own.select(at) for key, own in selections.items()}
        kept: dict[str, Any] = {
            name: RowColumn(name, found[id(column.rows)]) for name, column in columns.items()
        }
        return Rows(**kept, labels_B=self.labels_B[at])

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Return all rows of the parts, one part after the other; a column is there where any part has it.

        Raises:
            ValueError: There is no part, or some parts have second texts, words, golds, values or candidates and some
                have not.
        """
        if not parts:
            raise ValueError("no rows to join")
        for column, what in _ALL_OR_NONE.items():
            if len({getattr(part, column) is not None for part in parts if len(part)}) > 1:
                raise ValueError(f"some rows have {what} and some have not")
        filled = [part for part in parts if len(part)] or list(parts[:1])
        if len(filled) == 1:
            return filled[0]
        names = dict.fromkeys(name for part in filled for name in part._columns())
        joined: dict[tuple[int, ...], Selection] = {}
        kept: dict[str, Any] = {}
        for name in names:
            # A part that says nothing of modes, source languages or what is asked says so of each of its rows.
            nothing = SAYS_NOTHING.get(name, "")
            own = [part._columns().get(name) or repeat_value(name, nothing, len(part)) for part in filled]
            key = tuple(id(column.rows) for column in own)
            if key not in joined:
                joined[key] = Selection.concat([column.rows for column in own])
            kept[name] = RowColumn(name, joined[key])
        return cls(**kept, labels_B=np.concatenate([part.labels_B for part in filled]).astype(np.int64))

    def in_memory(self) -> Self:
        """Return the same rows, which travel to other machines with their content and not as the path of a file."""
        columns = self._columns()
        found = {id(own): own.in_memory() for own in (column.rows for column in columns.values())}
        kept: dict[str, Any] = {n: RowColumn(n, found[id(column.rows)]) for n, column in columns.items()}
        return replace(self, **kept)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Return ``[B]``: whether a row has a gold label."""
        mask: NDArray[np.bool_] = self.labels_B != UNLABELLED
        return mask

    def with_mode(self, mode: Mode) -> Rows:
        """Return the same rows, all given to models in this way."""
        return replace(self, modes=self._repeat("modes", mode))

    def is_in_mode(self, mode: Mode) -> NDArray[np.bool_]:
        """Return ``[B]``: whether each row is given in this way."""
        return self._compare("modes", mode) if self.modes is not None else np.full(len(self), mode == "")

    def select_asked(self) -> Rows:
        """Return the rows that teachers are asked about: those whose own text is the question, each question once."""
        return self if self.asked is None else self.select(self._compare("asked", ""))

    def is_in_language(self, language: str) -> NDArray[np.bool_]:
        """Return ``[B]``: whether each row is in this language."""
        return self._compare("languages", language)

    def _compare(self, column: str, value: str) -> NDArray[np.bool_]:
        names, codes_B = getattr(self, column).to_codes()
        found: NDArray[np.bool_] = codes_B == (names.index(value) if value in names else -1)
        return found

    def list_languages(self) -> tuple[str, ...]:
        """Return the languages of the rows, sorted."""
        return self.code_languages()[0]

    def code_languages(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """Return the languages, sorted, and ``[B]``: which of them each row is in."""
        return self._columns()["languages"].to_codes()

    def code_groups(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """Return the values of the column `groups`, sorted, and ``[B]``: which of them each row has."""
        return self._columns()["groups"].to_codes()

    def _repeat(self, column: str, value: object) -> Sequence[Any]:
        return repeat_value(column, value, len(self))

    def fingerprint(self) -> str:
        """Return the sha256 (hex) over all content and its order.

        Ids do not count: they are names for messages, and a file that is renamed holds the same data. Strings are
        length-prefixed, so that no two contents share their bytes. It is computed once, and for rows in files once a
        machine.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        places = self._describe_places()
        key = "" if places is None else compute_key(places)
        known = read_entry("fingerprints", key, str) if key else None
        if known is None:
            known = self._compute_fingerprint()
            if key:
                write_entry("fingerprints", key, str, known)
        return known

    def _describe_places(self) -> list[object] | None:
        """Return where the values of rows in files are; None of rows in memory.

        The name of a file follows from what was read into it (`raykd.data.arrow.writing`).
        """
        places: list[object] = [_hash(self.labels_B)]
        for name, column in self._columns().items():
            if name == "ids":
                continue
            index = column.rows.index
            places += [
                name,
                None if index is None else _hash(index),
            ]
            for table in column.rows.tables:
                if table.path:
                    places.append(Path(table.path).name)
                elif sum(map(len, table.batches)) <= 1:  # one value for all rows
                    places.append([batch.to_pydict() for batch in table.batches])
                else:
                    return None
        return places

    def _compute_fingerprint(self) -> str:
        digest = hashlib.sha256()
        own = self._columns()
        columns = [own[name] for name in ("texts", "languages", "pairs") if name in own]
        digest.update(f"{len(columns)} {len(self)}\n".encode())
        for column in columns:
            for piece in column.iter_lists():
                encoded = map(str.encode, piece)
                digest.update(b"".join([b"%d:%b" % (len(value), value) for value in encoded]))
        digest.update(np.ascontiguousarray(self.labels_B, dtype="<i8").tobytes())
        for name in (
            "words",
            "golds",
            "modes",
            "source_languages",
            "values",
            "groups",
            "asked",
            "asked_pairs",
            "asked_words",
            "candidates",
            "asked_candidates",
        ):
            # Rows without the column keep the fingerprint of older versions.
            coded = name in ("source_languages", "groups")
            if name in own and (not coded or own[name].to_codes()[0] not in ((), ("",))):
                parts = (json.dumps(piece)[1:-1] for piece in own[name].iter_lists())
                digest.update(f"[{', '.join(parts)}]".encode())
        return digest.hexdigest()

    def summary(self, labels: Sequence[str] = ()) -> dict[str, object]:
        """Return counts: rows, labelled, unlabelled, and for each language its rows by label.

        Args:
            labels: The run's labels, to name counts; without them a label goes by its index.
        """
        names = {UNLABELLED: "unlabelled", **dict(enumerate(labels))}
        languages: dict[str, dict[str, int]] = {}
        spoken, codes_B = self.code_languages()
        for at, language in enumerate(spoken):
            found = zip(*np.unique(self.labels_B[codes_B == at], return_counts=True), strict=True)
            languages[language] = {names.get(int(label), str(label)): int(count) for label, count in found}
        labelled = int(self.labelled.sum())
        return {
            "rows": len(self),
            "labelled": labelled,
            "unlabelled": len(self) - labelled,
            "languages": languages,
        }


def _hash(numbers: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).hexdigest()


def draw_share(rows: Rows, share: float, seed: int) -> Rows:
    """Return a share of the rows of each language, with its labels in proportion, in their order.

    Args:
        rows: What is drawn from.
        share: Of it, in [0, 1]; at least a row of each language is drawn.
        seed: Of the choice. Rows of a smaller share are among those of a larger one.
    """
    picked = []
    for language in rows.list_languages():
        members = np.flatnonzero(rows.is_in_language(language))
        generator = np.random.default_rng([seed, zlib.crc32(language.encode())])
        order = stratified_order(rows.labels_B[members], generator)
        picked.append(members[order[: math.ceil(share * len(members))]])
    return rows.select(np.sort(np.concatenate(picked)))


def stratified_order(labels_B: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return a random order in which every beginning holds labels in proportion, to a row per label.

    Row k of a label's n rows (shuffled) stands at (k + u) / n, with one u for each label.
    """
    place_B = np.empty(len(labels_B), dtype=np.float64)
    for label in np.unique(labels_B):
        members = generator.permutation(np.flatnonzero(labels_B == label))
        place_B[members] = (np.arange(len(members)) + generator.uniform(0.25, 0.75)) / len(members)
    order: NDArray[np.int64] = np.argsort(place_B, kind="stable")
    return order
