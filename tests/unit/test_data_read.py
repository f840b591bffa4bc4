"""Reading: every bad input is a real file, every error names file and line, got and wanted."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from raykd.config import DataConfig
from raykd.data.read import read_rows
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.errors import DataError

GOOD = [
    {"text": "fine", "label": "positive", "lang": "en"},
    {"text": "差", "label": "negative", "lang": "zh"},
    {"text": "NA", "label": "positive", "lang": "en"},
]


def config_of(source: dict[str, Any], **more: Any) -> DataConfig:
    settings = {"labels": ["negative", "positive"], "languages": ["en", "zh"], **more}
    return DataConfig.model_validate({"train": source, "validation": source, **settings})


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path | str, labelled: bool = True, source: dict[str, Any] | None = None, **more: Any) -> Rows:
    config = config_of({"kind": "files", "paths": [str(path)], **(source or {})}, **more)
    return read_rows(config.train, config, base_dir=Path("/nowhere"), labelled=labelled)


def error_of(path: Path | str, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **more)
    error = caught.value
    assert error.got is not None and error.wanted is not None
    return str(error)


def bad_row(tmp_path: Path, row: dict[str, Any], **more: Any) -> str:
    """The error of a file whose line 3 (line 2 is blank) is the bad row."""
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(GOOD[0])}\n\n{json.dumps(row)}\n", encoding="utf-8")
    message = error_of(path, **more)
    assert f"{path}:3: " in message and "1 of 2 rows cannot be used" in message
    return message


# good files ---------------------------------------------------------------------------------------------------


def assert_good(rows: Rows) -> None:
    assert rows.texts == ("fine", "差", "NA")
    assert rows.languages == ("en", "zh", "en") and rows.labels_B.tolist() == [1, 0, 1] and rows.pairs is None


def test_json_lines(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "set.jsonl", GOOD))
    assert_good(rows)
    assert rows.ids == ("set:1", "set:2", "set:3")


def test_csv_keeps_na_null_and_leading_zeros(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    text = '\ufefftext,label,lang\nNA,positive,en\nnull,negative,en\n007,positive,en\n"two\nlines, ""q""",negative,zh\n'
    path.write_text(text, encoding="utf-8")
    rows = read(path)
    assert rows.texts == ("NA", "null", "007", 'two\nlines, "q"')
    assert rows.ids == ("set:2", "set:3", "set:4", "set:5")


def test_tsv(tmp_path: Path) -> None:
    path = tmp_path / "set.tsv"
    path.write_text(
        "label\ttext\tlang\npositive\tfine\ten\nnegative\t差\tzh\npositive\tNA\ten\n", encoding="utf-8"
    )
    assert_good(read(path))


def test_parquet_with_class_labels(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["positive", "negative"]),
        lang=datasets.Value("string"),
        vector=datasets.Sequence(datasets.Value("float32")),
    )
    columns = {
        "text": ["fine", "差", "NA"],
        "label": [0, 1, 0],
        "lang": ["en", "zh", "en"],
        "vector": [[1.0]] * 3,
    }
    table = datasets.Dataset.from_dict(columns, features=features)
    path = tmp_path / "a[1].parquet"
    table.to_parquet(str(path))
    assert_good(read(path))
    folder = tmp_path / "saved"
    datasets.DatasetDict({"dev": table}).save_to_disk(str(folder))
    config = config_of({"kind": "hub", "name": "saved", "split": "dev"})
    assert_good(read_rows(config.train, config, base_dir=tmp_path, labelled=True))
    with pytest.raises(DataError, match=r"no split 'train'[\s\S]*got: +train[\s\S]*wanted: one of \['dev'\]"):
        config = config_of({"kind": "hub", "name": "saved"})
        read_rows(config.train, config, base_dir=tmp_path, labelled=True)


def test_columns_ids_pairs_and_one_language(tmp_path: Path) -> None:
    rows = [{"q": "a", "r": "b", "y": 1, "key": 17}, {"q": "c", "r": "d", "y": "0", "key": "k"}]
    path = write(tmp_path / "set.jsonl", rows)
    columns = {"text": "q", "text_pair": "r", "label": "y", "id": "key"}
    found = read(path, source={"columns": columns, "language": "zh"}, labels=["0", "1"])
    assert found.pairs == ("b", "d") and found.ids == ("17", "k")
    assert found.labels_B.tolist() == [1, 0] and set(found.languages) == {"zh"}
    assert read(path, source={"columns": columns}, labels=["0", "1"], languages=["fr"]).languages == (
        "fr",
        "fr",
    )


def test_dates_stay_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", [{**GOOD[0], "text": "2020-01-01", "id": 1}, {**GOOD[0], "id": "x"}])
    assert read(path).texts == ("2020-01-01", "fine")


def test_unlabelled_needs_no_label(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "lang": "en"},
        {"text": "b", "lang": "en", "label": None},
        {"text": "c", "lang": "en", "label": "?"},
    ]
    found = read(write(tmp_path / "set.jsonl", rows), labelled=False)
    assert found.labels_B.tolist() == [UNLABELLED] * 3


def test_several_files_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", GOOD[:1])
    write(tmp_path / "a.jsonl", GOOD[1:])
    config = config_of({"kind": "files", "paths": ["b.jsonl", "a.jsonl"]})
    assert_good(read_rows(config.train, config, base_dir=tmp_path, labelled=True))


def test_embedded_follows_the_label_order() -> None:
    source = {"kind": "embedded", "rows_per_language": 20, "label_noise": 0.0}
    config = config_of(source)
    turned = config_of(source, labels=["positive", "negative"])
    rows = read_rows(config.train, config, base_dir=Path(), labelled=True)
    other = read_rows(turned.train, turned, base_dir=Path(), labelled=True)
    assert rows.texts == other.texts and (rows.labels_B == 1 - other.labels_B).all()
    wrong = config_of(source, labels=["bad", "good"])
    with pytest.raises(DataError, match=r"got: +\['bad', 'good'\][\s\S]*wanted: \['negative', 'positive'\]"):
        read_rows(wrong.train, wrong, base_dir=Path(), labelled=True)
    hidden = config_of({**source, "split": "unlabeled"})
    with pytest.raises(DataError, match=r"use it as data\.unlabeled"):
        read_rows(hidden.train, hidden, base_dir=Path(), labelled=True)
    assert not read_rows(hidden.train, hidden, base_dir=Path(), labelled=False).labelled.any()


# bad files ----------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "no" / "set.jsonl"
    message = error_of(path)
    assert f"{path}: there is no such file" in message and f"the folder {tmp_path} is there" in message
    assert "did you mean" not in message
    write(tmp_path / "train.jsonl", GOOD)
    assert "did you mean train.jsonl, which lies in the same folder?" in error_of(tmp_path / "trian.jsonl")


def test_directory(tmp_path: Path) -> None:
    write(tmp_path / "inside.jsonl", GOOD)
    message = error_of(tmp_path)
    assert f"{tmp_path}: is a directory" in message and "inside.jsonl" in message


def test_a_link_that_leads_nowhere_is_not_proposed_in_its_own_place(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").symlink_to(tmp_path / "trian.jsonl")
    assert "did you mean" not in error_of(tmp_path / "train.jsonl")


@pytest.mark.parametrize(
    ("ending", "content", "advice"),
    [
        (".csv", '{"text": "a", "label": "positive", "lang": "en"}\n' * 2, "give the file the ending .jsonl"),
        (".jsonl", "text,label,lang\na,positive,en\n", "a table has the ending .csv or .tsv"),
        (".conll", "EU B-ORG\n", "write a row a sentence"),
        (".xlsx", "PK", "save the sheet as CSV UTF-8"),
        (".csv.zip", "PK", "unpack it"),
    ],
)
def test_a_file_of_another_form_than_its_ending_says_is_refused_with_what_to_do(
    ending: str, content: str, advice: str, tmp_path: Path
) -> None:
    path = tmp_path / f"set{ending}"
    path.write_text(content, encoding="utf-8")
    assert advice in error_of(path)


def test_unknown_ending(tmp_path: Path) -> None:
    message = error_of(write(tmp_path / "set.docx", GOOD))
    assert "got:    .docx" in message and ".jsonl" in message


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_latin1_names_line_and_byte(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"set{ending}"
    first = json.dumps(GOOD[0]) if ending == ".jsonl" else "text,label,lang"
    second = (
        '{"text": "café", "label": "positive", "lang": "en"}' if ending == ".jsonl" else "café,positive,en"
    )
    path.write_bytes(f"{first}\n{second}\n".encode("latin-1"))
    offset = len(first) + 1 + second.index("é")
    message = error_of(path)
    assert f"{path}:2: not UTF-8, at byte {offset} of the file" in message
    assert "got:    byte 0xe9 in" in message and "iconv -f latin1 -t utf-8" in message


def test_truncated_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", GOOD)
    path.write_bytes(path.read_bytes()[:-20])
    message = error_of(path)
    assert f"{path}:3: the line is not JSON" in message and "cut off" in message
    assert 'got:    {"text": "NA"' in message and "wanted: one JSON object a line" in message


def test_json_list_instead_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8")
    assert f"{path}:1: the line is not a JSON object" in error_of(path)
    path.write_text(json.dumps(GOOD, indent=1), encoding="utf-8")
    assert "one object a line" in error_of(path)


def test_empty_files(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", "\n"), ("b.csv", ""), ("c.csv", "text,label,lang\n")):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        assert "no rows" in error_of(path)


def test_missing_column(tmp_path: Path) -> None:
    message = error_of(write(tmp_path / "set.jsonl", [{"body": "a", "label": "positive", "lang": "en"}]))
    assert "no column 'text' (data.columns.text)" in message
    assert "got:    columns body, label, lang" in message and "wanted: text, label, lang" in message
    path = tmp_path / "set.csv"
    path.write_text("text,lang\na,en\n", encoding="utf-8")
    assert "no column 'label'" in error_of(path) and "data.unlabeled" in error_of(path)


def test_missing_language(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", [{"text": "a", "label": "positive"}])
    assert "no column 'lang' (data.columns.language)" in error_of(path)
    message = error_of(path, source={"language": "de"})
    assert "got:    de" in message and "['en', 'zh']" in message


def test_csv_width_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text("text,label,lang\nfine,positive,en\na, b,positive,en\n", encoding="utf-8")
    message = error_of(path)
    assert f"{path}:3: " in message and "got:    4 fields" in message and "wanted: 3 fields" in message
    path.write_text('text,label,lang\nfine,positive,en\n"open,positive,en\nb,positive,en\n', encoding="utf-8")
    assert f"{path}:3: a quote is opened in this row and never closed" in error_of(path)
    path.write_text("text,text,lang\nfine,positive,en\n", encoding="utf-8")
    assert f"{path}:1: a column stands twice" in error_of(path)


def test_broken_parquet(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    path.write_bytes(b"PAR1 and not much more")
    assert f"{path}: cannot be read as Parquet" in error_of(path)


def test_unknown_hub_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    config = config_of({"kind": "hub", "name": "some/set"})
    with pytest.raises(
        DataError, match=r"'some/set' cannot be loaded[\s\S]*ConnectionError: no network[\s\S]*wanted"
    ):
        read_rows(config.train, config, base_dir=tmp_path, labelled=True)


# bad rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \t", None, 3, ["a"]])
def test_empty_or_other_text(tmp_path: Path, text: Any) -> None:
    message = bad_row(tmp_path, {**GOOD[0], "text": text})
    assert (
        f"column 'text': got {'an empty text ' if isinstance(text, str) else ''}{text!r}, wanted" in message
    )


def test_missing_text_and_lone_surrogate(tmp_path: Path) -> None:
    assert "column 'text': got None" in bad_row(tmp_path, {"label": "positive", "lang": "en"})
    assert "half a surrogate pair at character 2" in bad_row(tmp_path, {**GOOD[0], "text": "ab\ud83d"})


@pytest.mark.parametrize(
    ("label", "hint"),
    [("Positive", "did you mean 'positive'?"), ("neutral", ""), (None, ""), (5, ""), (1.0, "")],
)
def test_unknown_label(tmp_path: Path, label: Any, hint: str) -> None:
    message = bad_row(tmp_path, {**GOOD[0], "label": label})
    assert f"label: got {label!r}, wanted one of ['negative', 'positive']" in message and hint in message


@pytest.mark.parametrize(
    ("lang", "hint"), [("EN-us", "did you mean 'en'?"), ("ZH", "did you mean 'zh'?"), ("xx", ""), ("", "")]
)
def test_unknown_language(tmp_path: Path, lang: str, hint: str) -> None:
    message = bad_row(tmp_path, {**GOOD[0], "lang": lang})
    assert f"language: got {lang!r}, wanted one of ['en', 'zh']" in message and hint in message
    assert "data.languages may also name languages as the rows do" in message


def test_language_against_the_source(tmp_path: Path) -> None:
    message = bad_row(tmp_path, {**GOOD[0], "lang": "zh"}, source={"language": "en"})
    assert "got 'zh', wanted 'en', the language of the source" in message


def test_the_next_step_of_a_wrong_label_is_one_that_works(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", [*GOOD, {**GOOD[0], "label": "postive"}])
    message = error_of(path)
    assert 'set data.label_map: {"postive": "positive"}' in message and "..." not in message
    assert "data.on_bad_row: skip and data.max_bad_rows: 0.25" in message
    assert_good(read(path, label_map={"postive": None}))
    assert_good(read(path, on_bad_row="skip", max_bad_rows=0.25))
    few = error_of(path, max_bad_rows=0.25)
    assert "data.on_bad_row: skip to leave them out" in few and "max_bad_rows" not in few
    assert "label: got true, wanted one of" in bad_row(tmp_path, {**GOOD[0], "label": True})


def test_five_bad_rows_are_shown_and_all_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", [{**GOOD[0], "label": str(i)} for i in range(8)] + GOOD)
    message = error_of(path)
    assert "8 of 11 rows cannot be used" in message and "and 3 more" in message
    assert [f"{path}:{i}: " in message for i in range(1, 9)] == [True] * 5 + [False] * 3


def test_skip_counts_logs_and_has_a_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "set.jsonl", [*GOOD, {**GOOD[0], "text": ""}])
    with caplog.at_level(logging.WARNING, logger="raykd.data"):
        assert_good(read(path, on_bad_row="skip", max_bad_rows=0.25))
    assert "skipped 1 bad rows of 4" in caplog.text and f"{path}:4" in caplog.text
    message = error_of(path, on_bad_row="skip", max_bad_rows=0.2)
    assert "got:    bad rows: 1 (25.0%)" in message and "wanted: at most data.max_bad_rows 20.0%" in message
