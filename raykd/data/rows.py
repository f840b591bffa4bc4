"""`Rows`: texts with languages and labels, in memory, immutable.

Decision record: plain tuples and one array instead of an Arrow table, because rows travel to workers through
Ray's object store (which moves numpy without a copy), are indexed at random at every step, and a table's
laziness would move errors of the data to the middle of a run. Whoever reads rows has checked them: a `Rows`
holds no empty text and no label outside the run's labels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED, TextBatch


@dataclass(frozen=True)
class Rows:
    """B rows. Written by `read`, `corpus` and `load`; read by the stream, the loop and the evaluation.

    ids: names for messages; need not be unique.
    texts, pairs: first and second text; ``pairs is None`` where the task has one text.
    languages: a language code a row.
    labels_B: int64, index into the run's labels, or `UNLABELLED`.

    Raises:
        ValueError: fields of unequal length.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    languages: tuple[str, ...]
    labels_B: NDArray[np.int64]

    def __post_init__(self) -> None:
        sizes = {len(self.ids), len(self.texts), len(self.languages), len(self.labels_B)}
        if self.pairs is not None:
            sizes.add(len(self.pairs))
        if len(sizes) != 1:
            raise ValueError(f"fields of unequal length: {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Iterable[int]) -> TextBatch:
        """The rows at these indices, in this order, as the batch that teachers and tokenizers read."""
        picked = [int(i) for i in indices]
        return TextBatch(
            ids=tuple(self.ids[i] for i in picked),
            texts=tuple(self.texts[i] for i in picked),
            languages=tuple(self.languages[i] for i in picked),
            labels_B=self.labels_B[np.asarray(picked, dtype=np.int64)],
            pairs=None if self.pairs is None else tuple(self.pairs[i] for i in picked),
        )

    def select(self, chosen: Sequence[int] | NDArray[Any]) -> Rows:
        """The rows where a mask of length B is true, or the rows at these indices, in this order."""
        array = np.asarray(chosen)
        if array.dtype == np.bool_:
            if len(array) != len(self):
                raise ValueError(f"a mask of {len(array)} for {len(self)} rows")
            array = np.flatnonzero(array)
        batch = self.take(array.tolist())
        return Rows(batch.ids, batch.texts, batch.pairs, batch.languages, batch.labels_B)

    @staticmethod
    def concat(parts: Sequence[Rows]) -> Rows:
        """All rows of the parts, one part after the other.

        Raises:
            ValueError: no part, or some parts have second texts and some have not.
        """
        if not parts:
            raise ValueError("no rows to join")
        paired = {part.pairs is not None for part in parts if len(part)}
        if len(paired) > 1:
            raise ValueError("some rows have a second text and some have not")
        return Rows(
            ids=tuple(i for part in parts for i in part.ids),
            texts=tuple(t for part in parts for t in part.texts),
            pairs=tuple(p for part in parts for p in part.pairs or ()) if True in paired else None,
            languages=tuple(language for part in parts for language in part.languages),
            labels_B=np.concatenate([part.labels_B for part in parts]).astype(np.int64),
        )

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """``[B]``: whether a row has a gold label."""
        mask: NDArray[np.bool_] = self.labels_B != UNLABELLED
        return mask

    def without_labels(self) -> Rows:
        """The same rows, all unlabelled."""
        labels_B = np.full(len(self), UNLABELLED, dtype=np.int64)
        return Rows(self.ids, self.texts, self.pairs, self.languages, labels_B)

    def fingerprint(self) -> str:
        """sha256 (hex) over all content and its order.

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
        return digest.hexdigest()

    def summary(self, labels: Sequence[str] = ()) -> dict[str, Any]:
        """Counts: rows, labelled, unlabelled, and for each language its rows by label.

        Args:
            labels: the run's labels, to name counts; without them a label goes by its index.
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
