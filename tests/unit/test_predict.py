"""`raykd predict`: where texts come from and how answers look."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from raykd import models
from raykd.cli import main
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
    answers = [
        predict("--json", *TEXTS),
        predict("--json", stdin="\n".join(TEXTS) + "\n\n"),
        predict("--jsonl", str(file)),
        predict("--jsonl", "-", stdin=lines),
    ]
    assert {code for code, _, _ in answers} == {0} and len({out for _, out, _ in answers}) == 1
    rows = [json.loads(line) for line in answers[0][1].splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    for row in rows:
        assert set(row["probabilities"]) == set(LABELS)
        assert sum(row["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)


def test_other_keys_of_a_line_come_out_with_its_answer(predict: Any) -> None:
    lines = "".join(json.dumps({"id": i, "when": {"day": 3}, "text": text, "label": "?"}) + "\n"
                    for i, text in enumerate(TEXTS))  # fmt: skip
    code, out, _ = predict("--jsonl", "-", stdin=lines)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["id"] for row in rows] == [0, 1]
    for row in rows:
        assert row["when"] == {"day": 3}
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)  # the answer's


def test_for_people_a_line_a_text(predict: Any) -> None:
    code, out, err = predict(*TEXTS)
    assert code == 0 and err == ""
    first, second = out.splitlines()
    assert first.endswith(TEXTS[0]) and second.endswith(TEXTS[1])
    assert all(label in first for label in LABELS)


@pytest.mark.parametrize(
    ("arguments", "stdin", "wanted"),
    [
        (("--jsonl", "-"), '{"text": "a"}\n{"text": ', "standard input:2 is not JSON"),
        (("--jsonl", "-"), '{"body": "a"}\n', "standard input:1 has no text 'text'"),
        (("--jsonl", "-", "--pair", "other"), '{"text": "a"}\n', "standard input:1 has no text 'other'"),
        (("--jsonl", "nothing.jsonl"), "", "nothing.jsonl"),
    ],
)
def test_bad_input(predict: Any, arguments: tuple[str, ...], stdin: str, wanted: str) -> None:
    code, _, err = predict(*arguments, stdin=stdin)
    assert code == 3 and wanted in err and "Traceback" not in err


def test_a_folder_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["raykd", "predict", str(tmp_path / "nothing"), "a text"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3 and "there is no model directory" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "train", "check", "demo", "predict", "evaluate", "ui"])
def test_help_is_printed_whole(command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["raykd", *([command] if command else []), "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "Usage: raykd" in shown and "[[" not in shown
