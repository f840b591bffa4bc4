"""Rows of text, as they travel to the models that read them.

Decision record: what travels to a teacher is text, never tokens, because each model encodes for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED

Spans = tuple[tuple[int, int], ...]
"""Begin and end of each word of a text, in characters (code points)."""
Mode = Literal["", "split", "optional"]
"""How a row is given to a model where there are two ways. split: its words came as tokens, and a tokenizer is given
each of them apart. optional: that the context does not answer the question is a choice. "": neither."""


@dataclass(frozen=True)
class TextBatch:
    """B rows of text. Written by `data`, read by teachers (which encode it themselves) and the student.

    ids: stable row ids, for messages; never a cache key.
    texts, pairs: first and second text; ``pairs is None`` where the task has one text. Of question answering: question
        and context; of the language models: prompt or source, and target.
    languages: a language code a row.
    labels_B: int64, index into the run's labels, or `UNLABELLED`; where gold is not one label, 0 says there is some.
    words: of tagging, where the words of each text are.
    golds: of tagging a label a word; of question answering begin and end of each accepted answer in the context, in
        characters; empty where the row is unlabelled, or (labels_B is 0) has no answer. None for the other tasks.
    modes: how each row is given to a model; None is "" for all.
    source_languages: of sources and targets the language of each source, "" where it is not known; None of other rows.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    languages: tuple[str, ...]
    labels_B: NDArray[np.int64]
    pairs: tuple[str, ...] | None = None
    words: tuple[Spans, ...] | None = None
    golds: tuple[tuple[int, ...], ...] | None = None
    modes: tuple[Mode, ...] | None = None
    source_languages: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def in_mode(self, mode: Mode) -> NDArray[np.bool_]:
        """``[B]``: which rows are given in this way."""
        return np.asarray([own == mode for own in _modes(self)], dtype=bool)

    def take(self, rows: Sequence[int]) -> TextBatch:
        """The batch of these rows, in this order."""
        return TextBatch(
            ids=tuple(self.ids[i] for i in rows),
            texts=tuple(self.texts[i] for i in rows),
            languages=tuple(self.languages[i] for i in rows),
            labels_B=self.labels_B[np.asarray(rows, dtype=np.int64)],
            pairs=_take_column(self.pairs, rows),
            words=_take_column(self.words, rows),
            golds=_take_column(self.golds, rows),
            modes=_take_column(self.modes, rows),
            source_languages=_take_column(self.source_languages, rows),
        )

    @staticmethod
    def concat(parts: Sequence[TextBatch]) -> TextBatch:
        """All rows of the parts, one part after the other; a column is there where any part has it."""
        return TextBatch(
            ids=tuple(i for part in parts for i in part.ids),
            texts=tuple(t for part in parts for t in part.texts),
            languages=tuple(code for part in parts for code in part.languages),
            labels_B=np.concatenate([part.labels_B for part in parts]).astype(np.int64),
            pairs=_concat_columns([part.pairs for part in parts]),
            words=_concat_columns([part.words for part in parts]),
            golds=_concat_columns([part.golds for part in parts]),
            modes=None
            if all(part.modes is None for part in parts)
            else tuple(mode for part in parts for mode in _modes(part)),
            source_languages=None
            if all(part.source_languages is None for part in parts)
            else tuple(name for part in parts for name in part.source_languages or ("",) * len(part)),
        )

    def in_codes(self, codes: Mapping[str, str]) -> TextBatch:
        """The same rows with their languages by other names, where the map has any."""
        if not codes:
            return self
        languages = tuple(codes.get(name, name) for name in self.languages)
        sources = self.source_languages
        if sources is not None:
            sources = tuple(codes.get(name, name) for name in sources)
        return replace(self, languages=languages, source_languages=sources)

    def without_labels(self) -> TextBatch:
        """The same rows as a teacher may see them: no gold label leaves the student's side."""
        labels_B = np.full(len(self), UNLABELLED, dtype=np.int64)
        return replace(self, labels_B=labels_B, golds=None if self.golds is None else ((),) * len(self))


def _modes(batch: TextBatch) -> tuple[Mode, ...]:
    none: Mode = ""
    return (none,) * len(batch) if batch.modes is None else batch.modes


def _take_column(column: tuple[object, ...] | None, rows: Sequence[int]) -> tuple[Any, ...] | None:
    return None if column is None else tuple(column[i] for i in rows)


def _concat_columns(columns: Sequence[tuple[object, ...] | None]) -> tuple[Any, ...] | None:
    if all(column is None for column in columns):
        return None
    return tuple(value for column in columns for value in column or ())
