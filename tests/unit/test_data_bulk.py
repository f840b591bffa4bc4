"""Rows that are read by columns are those that are read one by one; rows of many sources lie in a file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raykd.config import DataConfig, Files
from raykd.data import read
from raykd.data.arrow import writing
from raykd.data.arrow.tables import RowColumn
from raykd.data.files import blocks, opening
from raykd.data.overlap import HeldOut
from raykd.data.read import Tally, read_rows
from raykd.data.rows import Rows
from raykd.errors import DataError, RaykdError

VALUES = [
    "good",
    "a  b",
    "\u3164",
    "",
    " ",
    "三",
    "x\0y",
    "e\u0301",
    "\u200b",
    "2020-01-01",
    "007",
    "NA",
    "한",
    "🙂",
]
LABELS = ["neg", "pos", "pos", "odd", "gone", "", None, 1, True, "-1", "Pos"]


def read_as(
    path: Path, monkeypatch: pytest.MonkeyPatch, by_columns: bool, **settings: object
) -> tuple[object, Tally]:
    """Read a file in one of the two ways; return the content, or the message of the error."""
    files = Files(paths=(str(path),))
    own = {"labels": ("neg", "pos", "1"), "languages": ("en", "de"), "label_map": {"gone": None}}
    config = DataConfig(train=files, validation=files, **(own | settings))  # type: ignore[arg-type]
    tally = Tally()
    with monkeypatch.context() as patch:
        if not by_columns:
            patch.setattr(read.BulkParser, "parse", lambda self, block: None)
        try:
            rows = read_rows(files, config, base_dir=path.parent, labelled=True, tally=tally)
        except RaykdError as error:
            return str(error), tally
    assert isinstance(rows.ids, RowColumn)
    return (tuple(rows.ids), tuple(rows.texts), tuple(rows.languages), rows.labels_B.tolist()), tally


ROW = st.fixed_dictionaries(
    {"text": st.sampled_from(VALUES + ["word"] * 10), "label": st.sampled_from(LABELS + ["neg"] * 20)},
    optional={
        "lang": st.sampled_from(["en", "de"] * 5 + ["xx", None]),
        "id": st.sampled_from(["7", "8"] * 5 + [7, None]),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(ROW, min_size=1, max_size=12),
    empty=st.sampled_from(["fail", "drop", "unlabeled"]),
    kind=st.sampled_from([".jsonl", ".csv", ".parquet"]),
    block=st.sampled_from([40, 1 << 20]),
)
def test_both_ways_read_the_same(
    rows: list[dict[str, object]],
    empty: str,
    kind: str,
    block: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / f"a{kind}"
    if kind == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        names = ["text", "label", "lang"]
        texts = {name: [None if row.get(name) is None else str(row[name]) for row in rows] for name in names}
        if kind == ".parquet":
            pa.parquet.write_table(pa.table(texts, pa.schema([(name, pa.string()) for name in names])), path)
        else:
            lines = [
                [(value or "").replace("\0", "") for value in row]
                for row in zip(*texts.values(), strict=True)
            ]
            path.write_text("\n".join(",".join(line) for line in [names, *lines]) + "\n")
    monkeypatch.setattr(opening, "_BLOCK", block)
    monkeypatch.setattr(blocks, "ROWS", 3)
    ways = [
        read_as(path, monkeypatch, way, empty_label=empty, on_bad_row="skip", max_bad_rows=0.4)
        for way in (True, False)
    ]
    assert ways[0] == ways[1]


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "a", "label": "neg", "text": "b"}',
        '{"text": "\\ud800", "label": "neg"}',
        '{"text": "a", "label": 1.0}',
        '{"text": "a", "label": "neg"} {"text": "b", "label": "neg"}',
        '{"text": ["a"], "label": "neg"}',
        '{"text": "a", "label": "neg", "x": NaN, "y": [{"z": 1}]}',
        '\ufeff{"text": "a", "label": "neg"}',
        "",
        "[1]",
        '{"text": "a"',
    ],
)
def test_strange_lines_of_json_are_read_alike(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = '{"text": "good", "label": "pos"}\n'
    (tmp_path / "a.jsonl").write_text(good + line + "\n" + good, encoding="utf-8")
    ways = [read_as(tmp_path / "a.jsonl", monkeypatch, way, languages=("en",)) for way in (True, False)]
    assert ways[0] == ways[1]


def test_well_formed_rows_are_read_by_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [{"text": f"text {i}", "label": ["neg", 1][i % 2 and i > 6], "lang": "en"} for i in range(10)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(opening, "_BLOCK", 200)
    asked: list[int] = []
    plain = read._parse_record
    monkeypatch.setattr(
        read, "_parse_record", lambda record, *rest: asked.append(record.line) or plain(record, *rest)
    )
    content, _ = read_as(tmp_path / "a.jsonl", monkeypatch, True)
    assert content[3] == [0] * 7 + [2, 0, 2]  # type: ignore[index]
    assert asked and min(asked) > 4  # numbers among texts are left to the other way, and no row before them


def test_a_column_that_comes_late_counts_for_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"text": f"text {i}", "label": "neg"} | ({"lang": "de"} if i == 9 else {}) for i in range(10)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole, _ = read_as(tmp_path / "a.jsonl", monkeypatch, True)
    monkeypatch.setattr(opening, "_BLOCK", 100)
    assert read_as(tmp_path / "a.jsonl", monkeypatch, True)[0] == whole
    assert "language: got None" in str(whole)
    wanted = [{"text": "a"}] * 9 + [{"text": "a", "label": "neg"}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in wanted))
    content, tally = read_as(tmp_path / "b.jsonl", monkeypatch, True, languages=("en",), empty_label="drop")
    assert content[0] == ("b:10",) and tally.without_label == {str(tmp_path / "b.jsonl"): 9}  # type: ignore[index]


@pytest.fixture
def in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Any number of rows goes to a file, in batches of few."""
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(writing, "SMALL", 0)
    monkeypatch.setattr(writing, "_BATCH_ROWS", 3)
    yield tmp_path / "cache" / "rows"


def test_many_rows_lie_in_a_file_that_is_read_once(
    in_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(
        "text\tlabel\tlang\n" + "".join(f'"t{i}\t{"neg" if i else "odd"}\ten\n' for i in range(11))
    )
    monkeypatch.setattr(blocks, "ROWS", 2)
    first = read_as(path, monkeypatch, True, on_bad_row="skip", max_bad_rows=0.1)
    assert len(list(in_files.glob("*.arrow"))) == 1 and "skipped 1 bad rows of 11" in caplog.text
    assert "rows with a field that begins with a quote: 11" in caplog.text
    caplog.clear()
    monkeypatch.setattr(read, "read_file_blocks", None)
    assert read_as(path, monkeypatch, True, on_bad_row="skip", max_bad_rows=0.1) == first
    assert "skipped 1 bad rows of 11" in caplog.text
    monkeypatch.undo()
    assert isinstance(first[0], tuple) and first[0][1] == tuple(f'"t{i}' for i in range(1, 11))


def test_a_changed_file_is_read_again(
    in_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    for text in ("one", "two"):
        path.write_text(json.dumps({"text": text, "label": "neg", "lang": "en"}) + "\n")
        content, _ = read_as(path, monkeypatch, True)
        assert content[1] == (text,)  # type: ignore[index]
    assert len(list(in_files.glob("*.arrow"))) == 2


def test_a_cache_that_cannot_be_written_and_one_that_is_full(
    in_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "one", "label": "neg", "lang": "en"}) + "\n")
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "file"))
    assert read_as(path, monkeypatch, True)[0][1] == ("one",)  # type: ignore[index]
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    in_files.mkdir(parents=True, exist_ok=True)
    (in_files / "old.arrow").write_bytes(b"1" * 100)
    monkeypatch.setattr(writing, "MOST_BYTES", 50)
    read_as(path, monkeypatch, True)
    assert not (in_files / "old.arrow").exists()


def test_held_out_rows_are_found_by_text_though_hashes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(*texts: str) -> Rows:
        return Rows(texts, texts, ("en",) * len(texts), np.zeros(len(texts), np.int64))

    held = HeldOut([rows("One  two", "drei"), rows("vier")], "text")
    asked = rows("one two", "zwei", "VIER", "e\u0301")
    assert held.find(asked).tolist() == [True, False, True, False]
    monkeypatch.setattr("raykd.data.overlap.hash", lambda text: 1, raising=False)
    assert HeldOut([rows("One  two", "drei"), rows("vier")], "text").find(asked).tolist() == [
        True,
        False,
        True,
        False,
    ]
    paired = replace(asked, pairs=("p", "q", "p", "q"))
    assert HeldOut([paired.select([0, 1])], "text").find(
        replace(paired, pairs=("P ", "x", "p", "q"))
    ).tolist() == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("kind", [".jsonl", ".csv.gz", ".parquet"])
def test_files_elsewhere_are_read_as_local_ones(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    table = pa.table({"text": ["one", "two"], "label": ["neg", "pos"], "lang": ["en", "de"]})
    path = tmp_path / f"a{kind}"
    if kind == ".parquet":
        pa.parquet.write_table(table, path)
    elif kind == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        path.write_bytes(gzip.compress(b"text,label,lang\none,neg,en\ntwo,pos,de\n"))
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/rows/a{kind}": path.read_bytes(), f"/rows/b{kind}": path.read_bytes()})
    own = {"labels": ("neg", "pos"), "languages": ("en", "de")}

    def read_url(url: str) -> Rows:
        files = Files(paths=(url,))
        config = DataConfig(train=files, validation=files, **own)  # type: ignore[arg-type]
        return read_rows(files, config, base_dir=tmp_path, labelled=True)

    whole = read_url(f"memory://rows/*{kind}")
    assert (
        whole.texts == ("one", "two") * 2
        and whole.fingerprint() == Rows.concat([read_url(str(path))] * 2).fingerprint()
    )
    assert set(whole.ids) == {
        f"{name}:{line}" for name in "ab" for line in ((1, 2) if kind != ".csv.gz" else (2, 3))
    }
    for url, what in (
        (f"memory://rows/none{kind}", "cannot be read"),
        (f"memory://none/*{kind}", "no file matches"),
        (f"nosuch://rows/a{kind}", "not known here"),
    ):
        with pytest.raises(DataError, match=what):
            read_url(url)
