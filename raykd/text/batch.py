"""Hold rows of text as they travel to the models that read them.

Decision record: what travels to a teacher is text, never tokens, because each model encodes for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED

Spans = tuple[tuple[int, int], ...]
"""Begin and end of each word of a text, in characters (code points)."""
Mode = Literal["", "split", "optional"]
"""How a row is given to a model.

split: its words came as tokens, and a tokenizer is given each of them by itself. optional: that the context does not
answer the question is a choice. "": neither."""


SAYS_NOTHING: Mapping[str, object] = {
    **dict.fromkeys(("modes", "source_languages", "groups", "asked", "asked_pairs"), ""),
    **dict.fromkeys(("asked_words", "asked_candidates"), ()),
}
"""Columns that a part of the rows may lack, and what stands there in its place."""


@dataclass(frozen=True)
class TextBatch:
    """B rows of text. Made by `data`, read by teachers (which encode it themselves) and the student.

    Attributes:
        ids: Stable row ids, for messages; never a cache key.
        texts: First texts. Question answering: the question; ranking: the query. Language models: the prompt or source.
        languages: A language code per row.
        labels_B: int64, index into the run's labels, or `UNLABELLED`; where gold is not one label, 0 says that the row
            has gold.
        pairs: Second texts; None where the task has one text. Question answering: the context. Language models: the
            target.
        words: Where the words of each text are; None unless words are tagged.
        golds: Tagging: a label per word. Several labels a text: 1 or 0 per label, `UNLABELLED` where not known.
            Question answering: begin and end of each accepted answer in the context, in characters. Empty where the
            row is unlabelled, or (labels_B is 0) has no answer. None for the other tasks.
        modes: How each row is given to a model; None is "" for all.
        source_languages: The language of each source, "" where it is not known; None of rows without sources.
        values: Gold numbers: a row's value, or the relevance of each of its candidates. Empty where the row is
            unlabelled. None for the other tasks.
        groups: Value of the column `data.columns.group` (a domain, a source), "" of rows without one; None where no
            such column is named.
        asked: What teachers are asked about instead of a row's text, "" where it is the text; None is "" for all.
        asked_pairs: The second text of what they are asked about, where `asked` is given; None where there is none.
        asked_words: The same of its words.
        candidates: The texts that are ranked for each query; None for the other tasks.
        asked_candidates: Those of what teachers are asked about, as `asked_words`.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    languages: Sequence[str]
    labels_B: NDArray[np.int64]
    pairs: Sequence[str] | None = None
    words: Sequence[Spans] | None = None
    golds: Sequence[tuple[int, ...]] | None = None
    modes: Sequence[Mode] | None = None
    source_languages: Sequence[str] | None = None
    values: Sequence[tuple[float, ...]] | None = None
    groups: Sequence[str] | None = None
    asked: Sequence[str] | None = None
    asked_pairs: Sequence[str] | None = None
    asked_words: Sequence[Spans] | None = None
    candidates: Sequence[tuple[str, ...]] | None = None
    asked_candidates: Sequence[tuple[str, ...]] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def is_in_mode(self, mode: Mode) -> NDArray[np.bool_]:
        """Return ``[B]``: whether each row is given in this way."""
        return np.asarray([own == mode for own in self.modes or ("",) * len(self)], dtype=bool)

    def code_languages(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """Return the languages, sorted, and ``[B]``: which of them each row is in."""
        names = tuple(sorted(set(self.languages)))
        place = {name: at for at, name in enumerate(names)}
        return names, np.asarray([place[name] for name in self.languages], dtype=np.int32)

    def take(self, rows: Iterable[int]) -> TextBatch:
        """Return the batch of these rows, in this order."""
        chosen = [int(i) for i in rows]
        return self if chosen == list(range(len(self))) else TextBatch(**self._take_columns(chosen))

    def _take_columns(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return every column by name, in these rows."""
        columns = {
            name: None if column is None else tuple(map(column.__getitem__, rows))
            for name, column in vars(self).items()
            if name != "labels_B"
        }
        return {**columns, "labels_B": self.labels_B[np.asarray(rows, dtype=np.int64)]}

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Return all rows of the parts, one part after the other; a column is there where any part has it."""
        columns: dict[str, Any] = {}
        for field in fields(cls):
            values = [getattr(part, field.name) for part in parts]
            known = any(value is not None for value in values)
            if field.name in SAYS_NOTHING and known:
                # A part that says nothing says so of each of its rows.
                nothing = SAYS_NOTHING[field.name]
                values = [value or (nothing,) * len(part) for value, part in zip(values, parts, strict=True)]
            if field.name == "labels_B":
                columns[field.name] = np.concatenate(values).astype(np.int64)
            else:
                joined = tuple(chain.from_iterable(value or () for value in values))
                columns[field.name] = joined if known else None
        return cls(**columns)

    def with_codes(self, codes: Mapping[str, str]) -> Self:
        """Return the same rows with their languages by other names, where the map has any."""
        if not codes:
            return self
        languages = tuple(codes.get(name, name) for name in self.languages)
        sources = self.source_languages
        if sources is not None:
            sources = tuple(codes.get(name, name) for name in sources)
        return replace(self, languages=languages, source_languages=sources)

    def as_asked(self) -> Self:
        """Return the rows that teachers are asked about in place of these."""
        if self.asked is None:
            return self
        parts = ("pairs", "words", "candidates")
        changes: dict[str, Any] = dict.fromkeys(("asked", *(f"asked_{name}" for name in parts)))
        for name in ("texts", *parts):
            other = self.asked if name == "texts" else getattr(self, f"asked_{name}")
            if other is not None:
                rows = zip(self.asked, other, getattr(self, name), strict=True)
                changes[name] = tuple(theirs if asked else own for asked, theirs, own in rows)
        return replace(self, **changes)

    def without_labels(self) -> Self:
        """Return the same rows as a teacher may see them: no gold label leaves the student's side."""
        labels_B = np.full(len(self), UNLABELLED, dtype=np.int64)
        golds = {
            name: self._repeat(name, ()) for name in ("golds", "values") if getattr(self, name) is not None
        }
        return replace(self, labels_B=labels_B, **golds)

    def _repeat(self, column: str, value: object) -> Sequence[Any]:
        """Return a column that has this value in every row."""
        return (value,) * len(self)
