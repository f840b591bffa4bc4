"""`raykd predict`: where texts come from and how answers look."""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from raykd import models
from raykd.cli import app, main
from raykd.scoring import predictions
from tests.fakes import LABELS, texts_and_labels

TEXTS = ["the room was good", "the food was awful [really]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model") / "student"
    spec = models.LinearStudent(buckets=64)
    tokenizer = spec.fit_tokenizer(texts_and_labels(50)[0])
    return models.save_model(models.TextModel(spec.build(tokenizer, LABELS, 0), tokenizer, LABELS), directory)


@pytest.fixture
def predict(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["raykd", "predict", str(model), *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def test_every_way_in_gives_the_same_answers(predict: Any, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    file = tmp_path / "texts.jsonl"
    file.write_text(lines, encoding="utf-8")
    alone = [predict("--json", *TEXTS), predict("--json", stdin="\n".join(TEXTS) + "\n\n")]
    assert {code for code, _, _ in alone} == {0} and len({out for _, out, _ in alone}) == 1
    rows = [json.loads(line) for line in alone[0][1].splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    for row in rows:
        assert set(row["probabilities"]) == set(LABELS)
        assert sum(row["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
    wanted = [
        {"text": row["text"], "prediction": row["label"], "probabilities": row["probabilities"]}
        for row in rows
    ]
    for arguments, stdin in ((("--file", str(file)), ""), (("--file", "-"), lines)):
        code, out, _ = predict(*arguments, "--probabilities", stdin=stdin)
        assert code == 0 and [json.loads(line) for line in out.splitlines()] == wanted
        code, out, _ = predict(*arguments, stdin=stdin)
        assert [json.loads(line) for line in out.splitlines()] == [
            {key: row[key] for key in ("text", "prediction")} for row in wanted
        ]


ROWS: list[dict[str, Any]] = [
    {"id": 7, "review": TEXTS[0], "label": "?", "tags": ["a", "b"], "when": {"day": 3}, "score": 0.5, "none": None},
    {"id": 8, "review": TEXTS[1], "label": "?", "tags": [], "when": {"day": 4}, "score": 1.5, "none": "x"},
]  # fmt: skip


def write_kind(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as a file of the kind that the ending says, not written by raykd."""
    import pandas as pd

    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False, sep=";", encoding="utf-8-sig")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_kind(path: Path) -> list[dict[str, Any]]:
    import pandas as pd
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix in (".csv", ".tsv"):
        read = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", dtype=str, keep_default_na=False)
        return read.to_dict("records")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("written", ["jsonl", "csv", "tsv", "parquet"])
def test_a_row_keeps_its_keys_in_every_kind_of_file(
    predict: Any, tmp_path: Path, kind: str, written: str
) -> None:
    file, output = write_kind(tmp_path / f"rows.{kind}", ROWS), tmp_path / f"answers.{written}"
    code, out, err = predict("--file", str(file), "--column", "review", "--output", str(output))
    assert code == 0 and "2 rows were written" in out, err
    found = read_kind(output)
    assert [list(row) for row in found] == [[*ROWS[0], "prediction"]] * 2
    assert all(row["prediction"] in LABELS for row in found)
    for row, wanted in zip(found, ROWS, strict=True):
        for key in ("review", "label"):
            assert row[key] == wanted[key]
        if kind == "csv" or written in ("csv", "tsv"):  # texts alone
            assert str(row["id"]) == str(wanted["id"]) and float(row["score"]) == wanted["score"]
        else:
            assert {key: row[key] for key in wanted} == wanted
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_columns_of_parquet_keep_their_types(predict: Any, tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    table = pd.DataFrame({"text": TEXTS, "when": pd.Timestamp("2020-02-02"), "vector": [[0.5, 1.5]] * 2})
    table.to_parquet(tmp_path / "rows.parquet")
    code, _, _ = predict("--file", str(tmp_path / "rows.parquet"), "--output", str(tmp_path / "out.parquet"))
    before, after = pq.read_schema(tmp_path / "rows.parquet"), pq.read_schema(tmp_path / "out.parquet")
    assert code == 0 and list(after)[:-1] == list(before) and after.names[-1] == "prediction"
    code, out, _ = predict("--file", str(tmp_path / "rows.parquet"))
    assert code == 0 and json.loads(out.splitlines()[0])["when"] == "2020-02-02 00:00:00"


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (("--file", "rows.jsonl", "--output", "out.xlsx"), 2, "the ending does not say what to write"),
        (("--file", "rows.jsonl", "--output", "rows.jsonl"), 2, "is the file that is read"),
        (("--file", "rows.jsonl", "--output", "no/such/out.jsonl"), 2, "no folder no/such"),
        (("--output", "out.jsonl", "a text"), 2, "--output is for the rows of a file"),
        (("--probabilities", "a text"), 2, "--probabilities is for the rows of a file"),
        (("--file", "rows.jsonl", "a text"), 2, "cannot both be answered"),
        (("--file", "twice.jsonl"), 3, "the file has a column 'prediction' already"),
        (("--file", "mixed.jsonl", "--output", "out.parquet"), 3, "write .jsonl"),
    ],
)
def test_what_cannot_be_written_is_refused(
    predict: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    wanted: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_kind(tmp_path / "rows.jsonl", [{"text": "a"}])
    write_kind(tmp_path / "twice.jsonl", [{"text": "a", "prediction": "b"}])
    write_kind(tmp_path / "mixed.jsonl", [{"text": "a", "n": 1}, {"text": "b", "n": ["x"]}])
    got, _, err = predict(*arguments)
    assert got == code and wanted in err
    assert not list(tmp_path.glob("out.*")) and not list(tmp_path.glob(".out*"))


def test_for_people_a_line_a_text(predict: Any) -> None:
    code, out, err = predict(*TEXTS)
    assert code == 0 and err == ""
    first, second = out.splitlines()
    assert first.endswith(TEXTS[0]) and second.endswith(TEXTS[1])
    assert all(label in first for label in LABELS)


@pytest.mark.parametrize(
    ("arguments", "stdin", "wanted"),
    [
        (("--file", "-"), '{"text": "a"}\n{"text": ', "standard input:2 is not JSON"),
        (("--file", "-"), '{"body": "a"}\n', "standard input:1 has no text 'text'"),
        (("--file", "-", "--pair", "other"), '{"text": "a"}\n', "standard input:1 has no text 'other'"),
        (("--file", "-"), '{"text": null}\n', "standard input:1: 'text' is no text"),
        (("--file", "nothing.jsonl"), "", "nothing.jsonl"),
        (("a text", "--language", "fr"), "", "this model reads all texts alike"),
        (("a text", "--source-language", "fr"), "", "this model reads all texts alike"),
        (("a text", "--no-answer"), "", "no_answer is a choice for questions"),
        (("--file", "-"), "\n", "-: no row to answer"),
        ((), "\n", "no text to answer"),
    ],
)
def test_bad_input(predict: Any, arguments: tuple[str, ...], stdin: str, wanted: str) -> None:
    code, _, err = predict(*arguments, stdin=stdin)
    assert code == 3 and wanted in err and "Traceback" not in err


@pytest.mark.parametrize("option", ["--pair", "--column"])
def test_a_key_of_rows_without_a_file_is_refused_and_not_passed_over(predict: Any, option: str) -> None:
    code, _, err = predict("a text", option, "other")
    assert code == 2 and f"{option} names a key of the rows of a file" in err


def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_asked(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe is refused at first; then the disk fills while rows are written."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    arguments = ("--file", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "out.jsonl"))

    def refuse(number: int) -> Any:
        def act(*_: Any, **__: Any) -> Any:
            raise OSError(number, os.strerror(number), "out.jsonl")

        return act

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", refuse(errno.EROFS))
        patch.setattr("raykd.saved_models.load", refuse(errno.EIO))
        code, _, err = predict(*arguments)
        assert code == 2 and "the folder of --output cannot be written: its file system is read-only" in err
    with monkeypatch.context() as patch:
        patch.setattr(predictions, "format_row", refuse(errno.ENOSPC))
        code, _, err = predict(*arguments)
    assert code == 2 and "No space left on device: out.jsonl" in err and "Traceback" not in err
    assert [path.name for path in tmp_path.glob("*out*")] == []


def test_a_folder_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["raykd", "predict", str(tmp_path / "nothing"), "a text"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3 and "there is no model directory" in capsys.readouterr().err


def list_commands(command: Any, before: tuple[str, ...] = ()) -> list[str]:
    """All commands and groups of commands, as they are typed."""
    below = getattr(command, "commands", {})
    return [" ".join(before), *(one for name in below for one in list_commands(below[name], (*before, name)))]


@pytest.mark.parametrize("command", list_commands(get_command(app)))
def test_help_is_printed_whole(command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["raykd", *command.split(), "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "Usage: raykd" in shown and "[[" not in shown
