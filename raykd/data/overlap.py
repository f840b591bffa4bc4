"""Find rows that a reader would say are among the held-out ones.

Decision record: two rows are the same by text, by question and context, or by source (the same source with another
target is still the same thing to translate). Rows are compared by 8 bytes of hash each, so that millions of them fit,
and what agrees is compared again as text. The hash is Python's own, which differs from process to process and never
leaves one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from raykd.data.rows import Rows
from raykd.tasks.forms import RowForm

WITH_TARGETS: tuple[RowForm, ...] = ("target", "source_target")
"""Forms of a source and a text to be written."""


class HeldOut:
    """What a run is evaluated on."""

    def __init__(self, parts: Sequence[Rows], form: RowForm) -> None:
        if form == "sentences":  # a text is known as a first or as a second one
            seconds = [replace(rows, texts=tuple(rows.pairs)) for rows in parts if rows.pairs is not None]
            parts = [*parts, *seconds]
        self._parts, self.form = parts, form
        self._hashes = [_hash_rows(rows, form) for rows in parts]
        self._sorted = np.unique(np.concatenate(self._hashes))

    def find(self, rows: Rows) -> NDArray[np.bool_]:
        """Return ``[B]``: whether each row is a held-out one to a reader."""
        hashes_B = _hash_rows(rows, self.form)
        place_B = np.minimum(np.searchsorted(self._sorted, hashes_B), len(self._sorted) - 1)
        found_B: NDArray[np.bool_] = self._sorted[place_B] == hashes_B
        at = np.flatnonzero(found_B)
        if len(at):
            own = (
                part.select(np.isin(h, hashes_B[at]))
                for part, h in zip(self._parts, self._hashes, strict=True)
            )
            texts = {key for part in own for key in _list_keys(part, self.form)}
            found_B[at] = [key in texts for key in _list_keys(rows.select(at), self.form)]
        return found_B


def normalize_text(text: str) -> str:
    """Return what two texts share that are the same to a reader: NFC, case and blanks folded."""
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())


def _hash_rows(rows: Rows, form: RowForm) -> NDArray[np.int64]:
    return np.fromiter(map(hash, _list_keys(rows, form)), dtype=np.int64, count=len(rows))


def _list_keys(rows: Rows, form: RowForm) -> Iterator[str | tuple[str, str]]:
    """Yield keys that are equal for rows that are the same to a reader."""
    texts = map(normalize_text, rows.texts)
    if rows.pairs is None or form == "sentences":
        yield from texts
    elif form in WITH_TARGETS:  # by the source; where there is no prompt, by the target
        for text, target in zip(texts, rows.pairs, strict=True):
            yield text or ("", normalize_text(target))
    else:
        yield from zip(texts, map(normalize_text, rows.pairs), strict=True)
