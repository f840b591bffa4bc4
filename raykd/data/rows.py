"""Hold the rows of a run: texts with languages and labels, in memory, immutable.

Decision record: plain tuples and one array instead of an Arrow table, because rows travel to workers through
Ray's object store (which moves numpy without a copy), are indexed at random at every step, and a table's
laziness would move errors of the data to the middle of a run. Whoever reads rows has checked them: a `Rows`
holds no empty text and no label outside the run's labels.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED
from raykd.text.batch import Mode, TextBatch


@dataclass(frozen=True)
class Rows(TextBatch):
    """B rows of a run, as `TextBatch` holds them. Made by `read`, `corpus` and `load`; read by the stream, the loop and
    the evaluation.

    Raises:
        ValueError: Fields of unequal length.
    """

    def __post_init__(self) -> None:
        sizes = {len(self.ids), len(self.texts), len(self.languages), len(self.labels_B)}
        others = (self.pairs, self.words, self.golds, self.modes, self.source_languages, self.values)
        sizes |= {len(column) for column in others if column is not None}
        if len(sizes) != 1:
            raise ValueError(f"fields of unequal length: {sorted(sizes)}")

    def select(self, chosen: Sequence[int] | NDArray[np.bool_] | NDArray[np.integer]) -> Rows:
        """Return the rows where a mask of length B is true, or the rows at these indices, in this order."""
        array = np.asarray(chosen)
        if array.dtype == np.bool_:
            if len(array) != len(self):
                raise ValueError(f"a mask of {len(array)} for {len(self)} rows")
            array = np.flatnonzero(array)
        return Rows(**self._take_columns(array.tolist()))

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Return all rows of the parts, one part after the other.

        Raises:
            ValueError: There is no part, or some parts have second texts, words, golds or values and some have not.
        """
        if not parts:
            raise ValueError("no rows to join")
        for name, column in (
            ("a second text", "pairs"),
            ("words", "words"),
            ("golds", "golds"),
            ("values", "values"),
        ):
            if len({getattr(part, column) is not None for part in parts if len(part)}) > 1:
                raise ValueError(f"some rows have {name} and some have not")
        return super().concat(parts)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Return ``[B]``: whether a row has a gold label."""
        mask: NDArray[np.bool_] = self.labels_B != UNLABELLED
        return mask

    def with_mode(self, mode: Mode) -> Rows:
        """Return the same rows, all given to models in this way."""
        return replace(self, modes=(mode,) * len(self))

    def fingerprint(self) -> str:
        """Return the sha256 (hex) over all content and its order.

        Ids do not count: they are names for messages, and a file that is renamed holds the same data. Strings are
        length-prefixed, so that no two contents share their bytes.
        """
        digest = hashlib.sha256()
        columns = (self.texts, self.languages, *(() if self.pairs is None else (self.pairs,)))
        digest.update(f"{len(columns)} {len(self)}\n".encode())
        for column in columns:
            for value in column:
                encoded = value.encode()
                digest.update(b"%d:" % len(encoded))
                digest.update(encoded)
        digest.update(np.ascontiguousarray(self.labels_B, dtype="<i8").tobytes())
        spoken = self.source_languages if any(self.source_languages or ()) else None
        for numbers in (self.words, self.golds, self.modes, spoken, self.values):
            if numbers is not None:  # rows without the column keep the fingerprint of older versions
                digest.update(json.dumps(numbers).encode())
        return digest.hexdigest()

    def summary(self, labels: Sequence[str] = ()) -> dict[str, object]:
        """Return counts: rows, labelled, unlabelled, and for each language its rows by label.

        Args:
            labels: The run's labels, to name counts; without them a label goes by its index.
        """
        counts = Counter(zip(self.languages, self.labels_B.tolist(), strict=True))
        names = {UNLABELLED: "unlabelled", **dict(enumerate(labels))}
        languages: dict[str, dict[str, int]] = {}
        for (language, label), count in sorted(counts.items()):
            languages.setdefault(language, {})[names.get(label, str(label))] = count
        labelled = int(self.labelled.sum())
        return {
            "rows": len(self),
            "labelled": labelled,
            "unlabelled": len(self) - labelled,
            "languages": languages,
        }
