"""Check blocks of rows column by column, where their form is texts and a label.

Decision record: a corpus of millions of rows is mostly well-formed, so what is well-formed is told by a few passes of
Arrow over a column, and each different label is looked up once. A block with a row that this cannot judge is left to
`forms`, which has the messages; so both say the same of every row, and a test compares them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raykd.config import DataConfig
from raykd.data.cells import BadRowError, is_blank_text
from raykd.data.files.blocks import Block
from raykd.data.files.textfiles import Record
from raykd.data.forms import WantedColumns
from raykd.data.labels import ExcludedLabelError, NoLabelError, find_label_index
from raykd.distill.signals import UNLABELLED

_VISIBLE = r"[0-9\p{Latin}\p{Cyrillic}\p{Han}]"
"""Signs of which one shows that a text is not blank; a text without any is looked at sign by sign."""
_TEXTS = {"text": "texts", "text_pair": "pairs"}
_BARE, _EXCLUDED = -1, -2


@dataclass(frozen=True)
class BulkRows:
    """Good rows of a block.

    Attributes:
        columns: As in `TextBatch`, and the labels.
        size: Rows of the block.
        bare: Rows without a label.
        left_out: Rows that the label map leaves out, by label.
    """

    columns: dict[str, pa.Array]
    size: int
    bare: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


class BulkParser:
    """Reads the blocks of one file.

    Args:
        wanted: What to read.
        config: The run's data.
        stem: What ids begin with where no column has them.
        samples: Some of its rows.
    """

    def __init__(
        self, wanted: WantedColumns, config: DataConfig, stem: str, samples: Sequence[Record]
    ) -> None:
        self._wanted, self._config, self._stem = wanted, config, stem
        self._known: dict[object, int | str | None] = {}
        self._kinds = {name: _find_kind(name, samples) for name in wanted.names.values()}
        fits = wanted.form in ("text", "plain") and "tokens" not in wanted.names
        fits = fits and None not in self._kinds.values()
        self._left = 3 if fits else 0
        """Blocks that may still fail, before no other is tried."""

    def parse(self, block: Block) -> BulkRows | None:
        """Return the rows of a block; None where they have to be read one by one."""
        if not self._left:
            return None
        found = block.columns(self._kinds)
        rows = None if found is None else self._parse_columns(found.lines, found.columns)
        self._left = self._left - 1 if rows is None else 3
        return rows

    def _parse_columns(self, lines: Sequence[int], columns: Mapping[str, pa.Array]) -> BulkRows | None:
        names = self._wanted.names
        given = {key: columns[name] for key, name in names.items()}
        labels_B, bare, left_out = np.zeros(len(lines), dtype=np.int32), 0, Counter[str]()
        if not self._wanted.labelled:
            labels_B[:] = UNLABELLED if self._wanted.form == "text" else 0
        elif self._wanted.form == "text":
            judged = self._judge_labels(given["label"])
            if judged is None:
                return None
            codes, labels, excluded = judged
            labels_B = labels[codes]
            bare = int((labels_B == _BARE).sum())
            left_out.update({name: int((codes == at).sum()) for at, name in excluded.items()})
            if self._config.empty_label == "unlabeled":
                labels_B[labels_B == _BARE] = UNLABELLED
        kept = np.flatnonzero((labels_B >= 0) | (labels_B == UNLABELLED))
        if len(kept) < len(lines):
            given = {key: column.take(pa.array(kept)) for key, column in given.items()}
        texts = {column: given[key] for key, column in _TEXTS.items() if key in given}
        languages, ids = self._read_languages(given.get("language"), len(kept)), given.get("id")
        if languages is None or not all(map(_are_good_texts, texts.values())):
            return None
        if ids is None:
            ids = pa.array([f"{self._stem}:{lines[at]}" for at in kept.tolist()], pa.large_string())
        elif ids.null_count or not (pa.types.is_integer(ids.type) or pa.types.is_large_string(ids.type)):
            return None
        good = {"ids": ids.cast(pa.large_string()), **texts, "languages": languages}
        if self._config.columns.group is not None:
            groups = _read_groups(given.get("group"), len(kept))
            if groups is None:
                return None
            good["groups"] = groups
        return BulkRows(good | {"labels_B": pa.array(labels_B[kept])}, len(lines), bare, left_out)

    def _judge_labels(self, column: pa.Array) -> tuple[np.ndarray, np.ndarray, dict[int, str]] | None:
        """Return the code of each row's label, what each code means, and the labels that are left out by code."""
        coded = pc.dictionary_encode(column, null_encoding="encode")
        found: list[int] = []
        excluded: dict[int, str] = {}
        for at, value in enumerate(coded.dictionary.to_pylist()):
            key = (type(value), value)
            if key not in self._known:
                self._known[key] = self._judge_label(value)
            meant = self._known[key]
            if meant is None:
                return None
            if isinstance(meant, str):
                excluded[at] = meant
            found.append(_EXCLUDED if isinstance(meant, str) else meant)
        return coded.indices.to_numpy(), np.asarray(found, dtype=np.int32), excluded

    def _judge_label(self, value: object) -> int | str | None:
        """Return a label's index, `_BARE` for none, its name if its rows are left out, None if they are bad."""
        try:
            return find_label_index(value, self._config)
        except NoLabelError:
            return None if self._config.empty_label == "fail" else _BARE
        except ExcludedLabelError as label:
            return str(label)
        except BadRowError:
            return None

    def _read_languages(self, column: pa.Array | None, count: int) -> pa.Array | None:
        names, of_all = self._config.languages, self._wanted.of_all
        codes = np.full(count, -1 if of_all is None else names.index(of_all), dtype=np.int16)
        if column is not None:
            if not pa.types.is_large_string(column.type):
                return None
            coded = column.dictionary_encode()
            allowed = names if of_all is None else (of_all,)
            own = [names.index(name) if name in allowed else -1 for name in coded.dictionary.to_pylist()]
            there = np.asarray(column.is_valid())
            codes[there] = np.asarray(own, dtype=np.int16)[coded.indices.drop_null().to_numpy()]
        if (codes < 0).any():
            return None
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names))


def _find_kind(name: str, samples: Sequence[Record]) -> pa.DataType | None:
    """Return the Arrow type of a column's values, which the first value shows; None for what is read one by one."""
    found = next((r.values[name] for r in samples if r.values.get(name) is not None), "")
    kinds = {str: pa.large_string(), bool: pa.bool_(), int: pa.int64()}
    return kinds.get(type(found))


def _read_groups(column: pa.Array | None, count: int) -> pa.Array | None:
    """Return the groups of rows, "" where there is none; None where they are neither text nor whole numbers."""
    if column is None:
        column = pa.nulls(count, pa.large_string())
    if not (pa.types.is_integer(column.type) or pa.types.is_large_string(column.type)):
        return None
    coded = column.cast(pa.string()).fill_null("").dictionary_encode()
    if len(coded.dictionary) > np.iinfo(np.int16).max:
        return None  # `TableWriter` says so
    return pa.DictionaryArray.from_arrays(coded.indices.cast(pa.int16()), coded.dictionary)


def _are_good_texts(column: pa.Array) -> bool:
    """Return whether all are texts that hold a visible sign and no NUL."""
    if not pa.types.is_large_string(column.type) or column.null_count:
        return False
    data = column.buffers()[2]
    if data is not None and b"\0" in data.to_pybytes():
        return False
    doubtful = column.filter(pc.invert(pc.match_substring_regex(column, _VISIBLE)))
    return not any(map(is_blank_text, doubtful.to_pylist()))
