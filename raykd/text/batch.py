"""Hold rows of text as they travel to the models that read them.

Decision record: what travels to a teacher is text, never tokens, because each model encodes for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED

T = TypeVar("T")
Spans = tuple[tuple[int, int], ...]
"""Begin and end of each word of a text, in characters (code points)."""
Mode = Literal["", "split", "optional"]
"""How a row is given to a model.

split: its words came as tokens, and a tokenizer is given each of them by itself. optional: that the context does not
answer the question is a choice. "": neither."""


@dataclass(frozen=True)
class TextBatch:
    """B rows of text. Made by `data`, read by teachers (which encode it themselves) and the student.

    Attributes:
        ids: Stable row ids, for messages; never a cache key.
        texts: First texts. Question answering: the question. Language models: the prompt or source.
        languages: A language code per row.
        labels_B: int64, index into the run's labels, or `UNLABELLED`; where gold is not one label, 0 says that the row
            has gold.
        pairs: Second texts; None where the task has one text. Question answering: the context. Language models: the
            target.
        words: Where the words of each text are; None unless words are tagged.
        golds: Tagging: a label per word. Question answering: begin and end of each accepted answer in the context, in
            characters. Empty where the row is unlabelled, or (labels_B is 0) has no answer. None for the other tasks.
        modes: How each row is given to a model; None is "" for all.
        source_languages: The language of each source, "" where it is not known; None of rows without sources.
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
        """Return ``[B]``: whether each row is given in this way."""
        return np.asarray([own == mode for own in self.modes or ("",) * len(self)], dtype=bool)

    def take(self, rows: Sequence[int]) -> TextBatch:
        """Return the batch of these rows, in this order."""
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
        """Return all rows of the parts, one part after the other; a column is there where any part has it."""
        return TextBatch(
            ids=tuple(chain.from_iterable(part.ids for part in parts)),
            texts=tuple(chain.from_iterable(part.texts for part in parts)),
            languages=tuple(chain.from_iterable(part.languages for part in parts)),
            labels_B=np.concatenate([part.labels_B for part in parts]).astype(np.int64),
            pairs=_concat_columns([part.pairs for part in parts]),
            words=_concat_columns([part.words for part in parts]),
            golds=_concat_columns([part.golds for part in parts]),
            modes=_concat_columns([part.modes for part in parts], "", parts),
            source_languages=_concat_columns([part.source_languages for part in parts], "", parts),
        )

    def in_codes(self, codes: Mapping[str, str]) -> TextBatch:
        """Return the same rows with their languages by other names, where the map has any."""
        if not codes:
            return self
        languages = tuple(codes.get(name, name) for name in self.languages)
        sources = self.source_languages
        if sources is not None:
            sources = tuple(codes.get(name, name) for name in sources)
        return replace(self, languages=languages, source_languages=sources)

    def without_labels(self) -> TextBatch:
        """Return the same rows as a teacher may see them: no gold label leaves the student's side."""
        labels_B = np.full(len(self), UNLABELLED, dtype=np.int64)
        return replace(self, labels_B=labels_B, golds=None if self.golds is None else ((),) * len(self))


def _take_column(column: tuple[T, ...] | None, rows: Sequence[int]) -> tuple[T, ...] | None:
    return None if column is None else tuple(column[i] for i in rows)


def _concat_columns(
    columns: Sequence[tuple[T, ...] | None], fill: T | None = None, parts: Sequence[TextBatch] = ()
) -> tuple[T, ...] | None:
    """Return the columns one after the other; None where no part has any.

    Args:
        columns: Of each part.
        fill: What stands in the rows of a part without the column; None leaves them out.
        parts: The parts, for their numbers of rows.
    """
    if all(column is None for column in columns):
        return None
    if fill is not None:
        columns = [(fill,) * len(part) if c is None else c for c, part in zip(columns, parts, strict=True)]
    return tuple(value for column in columns for value in column or ())
