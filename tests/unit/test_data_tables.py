"""Columns of rows as Arrow: they read as the tuples that they were made of, wherever they lie."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raykd.data.arrow.tables import RowColumn, Selection, build_table, find_arrow_types, open_table
from raykd.data.rows import Rows
from raykd.text.batch import TextBatch

COLUMNS = {
    "ids": tuple(f"r{i}" for i in range(7)),
    "texts": ("a", "", "é", "三\n", "x" * 70, "🙂", "a"),
    "languages": ("en", "zh", "en", "de", "zh", "en", "fr"),
    "words": (((0, 1),), (), ((0, 2), (3, 4)), (), ((5, 6),), (), ((7, 9),)),
    "golds": ((1, 2, 3), (), (4,), (), (), (5, 6), (0,)),
    "modes": ("", "split", "", "", "optional", "", "split"),
    "values": ((0.1,), (), (2.0, -3.5), (), (1e300,), (), (0.0,)),
}


def make_rows(begin: int = 0, end: int = 7) -> Rows:
    given = {name: column[begin:end] for name, column in COLUMNS.items()}
    return Rows(**given, labels_B=np.arange(begin, end))  # type: ignore[arg-type]


def write_table(path: Path, sizes: list[int]) -> RowColumn[str]:
    """Write the columns in batches of these sizes, and map them."""
    whole = build_table(COLUMNS).batches[0]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, whole.schema) as writer:
        for begin, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
            writer.write_batch(whole.slice(begin, size))
    return RowColumn("texts", Selection((open_table(str(path)),)))


def check(rows: Rows, at: list[int]) -> None:
    """Compare every column, however it is read, with the tuples."""
    for name, column in COLUMNS.items():
        wanted, found = tuple(column[i] for i in at), getattr(rows, name)
        assert tuple(found) == wanted and found == wanted and wanted == found, name
        assert tuple(found[i] for i in range(len(at))) == wanted and found[1:3] == wanted[1:3]
        assert found.take(range(len(at) - 1, -1, -1)) == wanted[::-1]
        assert getattr(rows.take([0, -1]), name) == (wanted[0], wanted[-1])
    assert rows.labels_B.tolist() == at


def test_columns_read_as_tuples_through_selection_joining_and_pickling() -> None:
    assert set(COLUMNS) < set(find_arrow_types())
    check(make_rows(), list(range(7)))
    chosen = make_rows().select([5, 1, 1, 6]).select([3, 0, 2])
    check(chosen, [6, 5, 1])
    joined = Rows.concat([chosen, make_rows(2, 5), make_rows().select([]), chosen.select([1])])
    check(joined, [6, 5, 1, 2, 3, 4, 5])
    check(pickle.loads(pickle.dumps(joined)), [6, 5, 1, 2, 3, 4, 5])
    check(Rows.concat([make_rows(0, 3), make_rows(3, 7)]), list(range(7)))


def test_parts_of_one_table_keep_it_once() -> None:
    rows = make_rows()
    joined = Rows.concat([rows.select([4]), rows.select([2, 0])])
    assert isinstance(joined.texts, RowColumn) and len(joined.texts.rows.tables) == 1
    assert joined.texts.rows is joined.ids.rows  # type: ignore[attr-defined]


def test_a_mapped_table_travels_as_its_path(tmp_path: Path) -> None:
    column = write_table(tmp_path / "t.arrow", [3, 1, 3])
    assert column == COLUMNS["texts"] and column.take([6, 2, 3]) == ("a", "é", "三\n")
    packed = pickle.dumps(column)
    assert b"t.arrow" in packed and len(packed) < 400 and pickle.loads(packed) == column
    rows = Rows(column, column, ("en",) * 7, np.arange(7)).select([6, 2])
    assert b"t.arrow" in pickle.dumps(rows)
    packed = pickle.dumps(rows.in_memory())  # as it travels to machines without the file
    assert b"t.arrow" not in packed and pickle.loads(packed).texts == ("a", "é")


def test_codes_are_of_the_sorted_values_that_there_are() -> None:
    rows = Rows.concat([make_rows(0, 3), make_rows(3, 7)]).select([0, 1, 3, 4])
    names, codes_B = rows.languages.to_codes()  # type: ignore[attr-defined]
    assert names == ("de", "en", "zh") == rows.list_languages() and codes_B.tolist() == [1, 2, 0, 2]
    assert rows.is_in_language("zh").tolist() == [False, True, False, True]
    assert not rows.is_in_language("xx").any() and rows.is_in_mode("split").tolist() == [
        False,
        True,
        False,
        False,
    ]


def test_a_repeated_value_and_bad_indices() -> None:
    rows = make_rows().with_mode("split").without_labels()
    assert rows.modes == ("split",) * 7 and rows.golds == ((),) * 7 and rows.values == ((),) * 7
    with pytest.raises(IndexError, match="row 7 of 7"):
        rows.texts[7]
    assert isinstance(rows.take([1]), TextBatch) and rows.take([1]).modes == ("split",)


def test_the_fingerprint_of_rows_in_files_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    computed, compute = [], Rows._compute_fingerprint
    monkeypatch.setattr(Rows, "_compute_fingerprint", lambda rows: computed.append(1) or compute(rows))
    column = write_table(tmp_path / "t.arrow", [3, 4])
    rows = Rows(column, column, RowColumn("languages", column.rows), np.arange(7))
    first, same, other = rows.select([6, 2]), rows.select([6, 2]), rows.select([2, 6])
    assert first.fingerprint() == first.fingerprint() == same.fingerprint() != other.fingerprint()
    assert pickle.loads(pickle.dumps(first)).fingerprint() == first.fingerprint() and len(computed) == 2
    labels_B = first.labels_B + 1
    prints = {replace(first, labels_B=labels_B).fingerprint(), first.with_mode("split").fingerprint()}
    assert len(prints | {first.fingerprint()}) == 3 and len(computed) == 4
    in_memory = Rows(*(tuple(c) for c in (first.ids, first.texts, first.languages)), first.labels_B)
    assert in_memory.fingerprint() == first.fingerprint() and len(computed) == 5
