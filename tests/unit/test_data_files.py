"""Files as people have them: each way of writing the same rows is read as the same rows, or refused by name."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.config import DataConfig
from raykd.data.files.opening import LONGEST_LINE, read_lines
from raykd.data.files.records import read_file_records
from raykd.data.read import Tally, read_rows
from raykd.data.rows import Rows
from raykd.errors import DataError

CSV = "text,label,lang\nfine,a,en\n“bad”,b,en\n"
TSV = CSV.replace(",", "\t")
JSONL = "".join(
    json.dumps({"text": t, "label": y, "lang": "en"}, ensure_ascii=False) + "\n"
    for t, y in (("fine", "a"), ("“bad”", "b"))
)


def config_of(*names: str, **more: Any) -> DataConfig:
    keys = {k: more.pop(k) for k in ("delimiter", "quoting", "columns", "language") if k in more}
    source = {"kind": "files", "paths": list(names), **keys}
    tree = {"train": source, "validation": source, "labels": ["a", "b"], "languages": ["en"], **more}
    return DataConfig.model_validate(tree)


def read(folder: Path, *names: str, tally: Tally | None = None, labelled: bool = True, **more: Any) -> Rows:
    config = config_of(*names, **more)
    return read_rows(config.train, config, base_dir=folder, labelled=labelled, tally=tally)


def notes_of(folder: Path, name: str, **more: Any) -> str:
    tally = Tally()
    read(folder, name, tally=tally, **more)
    return "\n".join(tally.notes)


def refused(folder: Path, name: str, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, name, **more)
    return str(caught.value)


def is_same(rows: Rows) -> bool:
    return rows.texts == ("fine", "“bad”") and rows.labels_B.tolist() == [0, 1]


# encodings, line ends, packing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(("name", "text"), [("a.csv", CSV), ("a.tsv", TSV), ("a.jsonl", JSONL)])
def test_encodings_with_a_mark_and_line_ends(
    name: str, text: str, encoding: str, ending: str, tmp_path: Path
) -> None:
    mark = "\ufeff" if encoding[-2:] in ("le", "be") else ""
    (tmp_path / name).write_bytes((mark + text.replace("\n", ending)).encode(encoding))
    assert is_same(read(tmp_path, name))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_named(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(CSV.encode(encoding))
    assert f"iconv -f {encoding.replace('16-', '16')} -t utf-8 a.csv" in refused(tmp_path, "a.csv")


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [("café", "latin-1", "latin1"), ("“bad”", "cp1252", "cp1252"), ("房间很好", "gb18030", "gb18030")],
)
def test_other_encodings_are_refused_with_the_command_that_converts(
    text: str, encoding: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(f"text,label\n{text},a\n".encode(encoding))
    message = refused(tmp_path, "a.csv")
    assert "a.csv:2: not UTF-8" in message and f"iconv -f {said} -t utf-8" in message
    assert (tmp_path / "a.csv").read_bytes().decode(said) == f"text,label\n{text},a\n"


def zstd(data: bytes) -> bytes:
    import pyarrow as pa

    return pa.Codec("zstd").compress(data, asbytes=True)


@pytest.mark.parametrize(
    ("ending", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd)],
)
def test_packed_files(ending: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    packed = pack(("\ufeff" + CSV).encode())
    (tmp_path / f"a.csv{ending}").write_bytes(packed)
    rows = read(tmp_path, f"a.csv{ending}")
    assert is_same(rows) and rows.ids[0] == "a:2"
    (tmp_path / f"b.csv{ending}").write_text(CSV, encoding="utf-8")  # a browser unpacked it and kept the name
    assert is_same(read(tmp_path, f"b.csv{ending}"))
    (tmp_path / "c.csv").write_bytes(packed)
    assert is_same(read(tmp_path, "c.csv"))
    if ending != ".zst":
        (tmp_path / f"d.csv{ending}").write_bytes(packed[:-6])
        assert "cannot be unpacked" in refused(tmp_path, f"d.csv{ending}")


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    import os
    import threading

    os.mkfifo(tmp_path / "pipe")
    packed = gzip.compress(JSONL.encode())
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(packed,))
    writer.start()
    assert [line for _, line in read_lines(tmp_path / "pipe")] == JSONL.splitlines(keepends=True)
    writer.join()
    with pytest.raises(DataError, match=r"nowhere: cannot be read[\s\S]*next: +check the path"):
        list(read_lines(tmp_path / "nowhere"))


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    for begin, said in ((b"PAR1", "a Parquet file"), (b"PK\x03\x04", "an Excel workbook")):
        (tmp_path / "a.csv").write_bytes(begin + bytes(40))
        assert said in refused(tmp_path, "a.csv")
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    assert "all but Parquet also with .gz" in refused(tmp_path, "a.parquet.gz")


def test_a_line_is_bounded_whatever_a_file_unpacks_to(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        for _ in range(LONGEST_LINE // (1 << 20) + 2):
            file.write(b"x" * (1 << 20))
    assert (tmp_path / "a.jsonl.gz").stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"a\.jsonl\.gz:1: the line is too long"):
        list(read_lines(tmp_path / "a.jsonl.gz"))


@settings(max_examples=40, deadline=None, database=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff\0"), min_size=1), min_size=1)
)
def test_lines_are_those_of_python(lines: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        for ending in ("\n", "\r\n", "\r"):
            whole = ending.join(lines)
            for encoding in ("utf-8", "utf-16"):
                path.write_bytes(whole.encode(encoding))
                if encoding == "utf-16" or not path.read_bytes()[:8].count(0):
                    found = [line.rstrip("\r\n") for _, line in read_lines(path)]
                    assert found == lines


def test_marks_of_files_that_were_put_together(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"".join(line.encode("utf-8-sig") for line in JSONL.splitlines(True)))
    assert is_same(read(tmp_path, "a.jsonl"))
    (tmp_path / "a.csv").write_text("\ufeff\ufeff" + CSV, encoding="utf-8")
    assert is_same(read(tmp_path, "a.csv"))
    (tmp_path / "b.jsonl").write_text(json.dumps({"\ufefftext": "x", "label": "a"}), encoding="utf-8")
    assert r"\ufefftext" in refused(tmp_path, "b.jsonl")


def test_a_nul_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nfine and well\0,a\n")
    assert "a.csv:2: column 'text': got a NUL (U+0000) at character 13" in refused(tmp_path, "a.csv")
    (tmp_path / "a.jsonl").write_text('{"text": "fine\0", "label": "a"}\n')
    assert "a.jsonl:1: the line is not JSON (a NUL byte, column 15)" in refused(tmp_path, "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"text": "fine\\u0000", "label": "a"}\n')
    assert "got a NUL (U+0000) at character 4" in refused(tmp_path, "a.jsonl")


# delimiters and quotes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_delimiters_are_found_and_said(mark: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV.replace(",", mark), encoding="utf-8")
    assert is_same(read(tmp_path, "a.csv"))
    assert f"the delimiter seems to be {mark!r}" in notes_of(tmp_path, "a.csv")
    named = "tab" if mark == "\t" else mark
    assert is_same(read(tmp_path, "a.csv", delimiter=named)) and not notes_of(
        tmp_path, "a.csv", delimiter=named
    )
    for first in (f"sep={mark}\n", f'"sep={mark}"\r\n'):
        (tmp_path / "b.csv").write_text(first + CSV.replace(",", mark), encoding="utf-8")
        assert is_same(read(tmp_path, "b.csv")) and read(tmp_path, "b.csv").ids[0] == "b:3"


def test_a_header_with_commas_in_names_is_split_where_its_rows_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;note, if any;label\nfine;x;a\nbad;y, z;b\n")
    assert read(tmp_path, "a.csv").texts == ("fine", "bad")
    (tmp_path / "b.csv").write_text("text,label\nfine; well,a\nbad | odd,b\n")
    assert read(tmp_path, "b.csv").texts == ("fine; well", "bad | odd") and not notes_of(tmp_path, "b.csv")


def test_a_tab_file_has_no_quoting(tmp_path: Path) -> None:
    rows = ['"begins', "b", 'in "the" middle', "c", 'ends"', '"whole"']
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"{row}\ta\n" for row in rows))
    assert read(tmp_path, "a.tsv").texts == tuple(rows)
    assert "rows with a field that begins with a quote: 2" in notes_of(tmp_path, "a.tsv")
    assert "never closed" not in refused(tmp_path, "a.tsv", quoting="minimal")


def test_a_tab_file_that_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('"text"\t"label"\n"he said ""so"""\t"a"\n"two\nlines"\t"b"\n')
    assert read(tmp_path, "a.tsv").texts == ('he said "so"', "two\nlines")
    assert "as its header does" in notes_of(tmp_path, "a.tsv") and "several lines: 1" in notes_of(
        tmp_path, "a.tsv"
    )
    (tmp_path / "b.tsv").write_text('text\tlabel\n"he said ""so"""\ta\n')
    assert "b.tsv:2: a field is quoted as CSV quotes it" in refused(tmp_path, "b.tsv")
    assert read(tmp_path, "b.tsv", quoting="minimal").texts == ('he said "so"',)
    assert read(tmp_path, "b.tsv", quoting="none").texts == ('"he said ""so"""',)
    (tmp_path / "c.tsv").write_text('text\tlabel\n"two\nlines"\ta\n')
    message = refused(tmp_path, "c.tsv")
    assert "c.tsv:2: the row has another number of fields" in message and "set quoting: minimal" in message


SWALLOWED = 'text,label\nfine,a\n"well,b\nbad,a\nso so,b\nthe end",a\ngood,b\n'


def test_a_quote_does_not_swallow_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(SWALLOWED)
    message = refused(tmp_path, "a.csv")
    assert (
        "a.csv:3: a quote opens here and closes in line 6" in message
        and "got:    4 lines as one row" in message
    )
    assert len(read(tmp_path, "a.csv", quoting="none")) == 6
    (tmp_path / "b.csv").write_text(SWALLOWED.replace('"well', '"well, then'))
    assert "b.csv:3: a quote opens here and closes in line 6" in refused(tmp_path, "b.csv")
    (tmp_path / "c.csv").write_text('label,text\na,fine\nb,"well\na,bad\nb,end"\nb,good\n')
    assert "c.csv:3: a quote opens here" in refused(tmp_path, "c.csv")
    assert read(tmp_path, "a.csv", quoting="minimal").texts[1] == "well,b\nbad,a\nso so,b\nthe end"
    assert "several lines: 1" in notes_of(tmp_path, "a.csv", quoting="minimal")


def test_texts_of_several_lines_stay_legal_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'text,label\nfine,a\n"Dear all, hello\nwell then",b\n"two\r\nlines, ""q""",a\n'
    )
    assert read(tmp_path, "a.csv").texts == ("fine", "Dear all, hello\nwell then", 'two\r\nlines, "q"')
    assert "several lines: 2" in notes_of(tmp_path, "a.csv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('"Good" film,a', "begins with a quote and goes on after the next one"),
        ('"he said \\"so\\"",a', "begins with a quote and goes on after the next one"),
        ('"open,a', "a quote is opened in this row and never closed"),
    ],
)
def test_advice_on_quotes_fits(row: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"text,label\nfine,a\n{row}\nbad,b\n")
    message = refused(tmp_path, "a.csv")
    assert "a.csv:3: " in message and said in message and "each quote inside a field doubled" in message
    assert "quoting: none" in message


def test_a_file_of_one_column_whose_texts_hold_commas(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\ngood, nice\nbad\n")
    message = refused(tmp_path, "a.csv", labelled=False)
    assert "a.csv:2: " in message and "set delimiter: tab and quoting: none" in message
    rows = read(tmp_path, "a.csv", labelled=False, delimiter="tab", quoting="none")
    assert rows.texts == ("good, nice", "bad")


def test_empty_columns_of_a_sheet_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,,\nfine,a,,\n")
    assert read(tmp_path, "a.csv").texts == ("fine",)
    (tmp_path / "b.csv").write_text(" text,label\nfine,a\n")
    assert 'columns: {text: " text"}' in refused(tmp_path, "b.csv")
    (tmp_path / "a.jsonl").write_text(JSONL, encoding="utf-8")
    assert "keys of CSV and TSV" in refused(tmp_path, "a.jsonl", delimiter=";")
    with pytest.raises(ValueError, match="one sign"):
        config_of("a.csv", delimiter=";;")


@settings(max_examples=60, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(st.text('ab",;|\n\t\r ', min_size=1, max_size=8), st.sampled_from(["yes", "no"])),
        min_size=1,
    ),
    st.sampled_from([",", ";", "|", "\t"]),
)
def test_what_csv_writes_is_read_back_or_refused(rows: list[tuple[str, str]], mark: str) -> None:
    """The reference is Python's csv: no row is lost or made, and no text changes without a word."""
    import csv
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=mark, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
        try:
            found = [(r.values["text"], r.values["label"]) for r in read_file_records(path)]
        except DataError as error:
            assert "looks like a row of its own" in str(error)
        else:
            assert found == rows


# patterns ------------------------------------------------------------------------------------------------------


def test_patterns_are_sorted_and_match_something(tmp_path: Path) -> None:
    folder = tmp_path / "set[1]"
    folder.mkdir()
    for name, text in (("t-2", "two"), ("t-1", "one"), ("v", "v")):
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": text, "label": "a"}))
    assert read(folder, "t-*.jsonl").texts == ("one", "two")
    assert read(tmp_path, "set[1]/t-?.jsonl", "**/v.jsonl").texts == ("one", "two", "v")
    message = refused(folder, "x-*.jsonl")
    assert "x-*.jsonl: no file matches the pattern" in message and "t-1.jsonl" in message
    with pytest.raises(DataError, match=r"t-1\.jsonl: the file is named twice"):
        read(folder, "t-*.jsonl", "t-1.jsonl")
    (folder / "t-*.jsonl").write_text(json.dumps({"text": "itself", "label": "a"}))
    assert read(folder, "t-*.jsonl").texts == ("itself",)


def test_plain_text_is_one_text_a_line_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "more.txt.gz"
    path.write_bytes(gzip.compress(b' the "room", was good\n\nO\r\na\tb\n'))
    records = list(read_file_records(path))
    assert [(r.line, dict(r.values)) for r in records] == [
        (1, {"text": ' the "room", was good'}), (3, {"text": "O"}), (4, {"text": "a\tb"}),
    ]  # fmt: skip
    rows = read(tmp_path, "more.txt.gz", language="en", labelled=False)
    assert len(rows.texts) == 3 and not rows.labelled.any()


@pytest.mark.parametrize(
    ("content", "kind", "ending"),
    [
        (TSV, "a table with tabs", ".tsv"),
        (JSONL, "JSON lines", ".jsonl"),
        ("EU B-ORG\nrejects O\n\nGerman B-MISC\n", "tagged words", ".jsonl"),
    ],
)
def test_other_kinds_of_file_under_the_ending_of_plain_text(
    content: str, kind: str, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / "train.txt"
    path.write_text(content)
    with pytest.raises(DataError, match="the ending says plain text") as error:
        list(read_file_records(path))
    assert kind in str(error.value) and ending in str(error.value)
