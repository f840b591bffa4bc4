"""`raykd predict` for taggers and readers: every way in, and what the wrong rows are told."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import raykd
from raykd import models
from raykd.cli import main
from raykd.models import LSTMStudent
from raykd.prediction.predictor import Predictor, build_unlabelled_rows
from raykd.prediction.selftest import find_padding
from raykd.tasks import TokenClassification

TOKENS = ["Anna", "Smith", "lives", "in", "Paris", "."]
TAGS = ("O", "B-PER", "I-PER")
CONTEXT = "Anna lives in Paris. Bert stays in Rome."


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained tagger that says "person goes on" of all words, and an untrained reader."""
    folder, spec = (
        tmp_path_factory.mktemp("models"),
        LSTMStudent(embedding=8, hidden=8, vocab_size=120, dropout=0.0),
    )
    tokenizer = spec.fit_tokenizer([" ".join(TOKENS), CONTEXT] * 2)
    found = {}
    for task, labels in (("token_classification", TAGS), ("question_answering", ())):
        model = spec.build(tokenizer, labels, 0, task)
        if labels:
            model.classifier.bias.data.copy_(model.classifier.bias.new_tensor([0.0, 0.0, 20.0]))
        kept = models.TextModel(model, tokenizer, labels, kind="lstm", task=task, max_length=64)
        found[task] = models.save_model(kept, folder / task)
    return found


def call(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: str, stdin: str = ""
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["raykd", "predict", str(model), *arguments])
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_a_tagger_says_where_names_stand(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Decoding allows no I- without a B-: the first word begins the name and all others belong to it."""
    tagger, text = made["token_classification"], " ".join(TOKENS)
    line = json.dumps({"tokens": TOKENS}) + "\n"
    entities = [{"text": text, "type": "PER", "start": 0, "end": len(text)}]
    code, out, _ = call(tagger, monkeypatch, capsys, "--json", text)
    assert code == 0 and json.loads(out) == {"text": text, "entities": entities}
    code, out, _ = call(tagger, monkeypatch, capsys, "--file", "-", stdin=line)
    assert code == 0 and json.loads(out) == {"tokens": TOKENS, "prediction": entities}
    code, out, _ = call(tagger, monkeypatch, capsys, "我住在北京")
    assert code == 0 and out.startswith("我住在北京 PER")


def test_words_behind_the_limit_are_no_names(made: dict[str, Path]) -> None:
    predictor = Predictor.of(models.load_model(made["token_classification"]))
    short = Predictor(predictor.model, predictor.task.model_copy(update={"max_length": 6}))
    (row,) = short.predict(build_unlabelled_rows("words", ["Anna Anna Anna Anna Anna Anna"]))
    assert 0 < row["entities"][0]["end"] < len("Anna Anna Anna Anna Anna Anna")


def test_an_answer_stands_in_its_context(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    line = json.dumps({"question": "Where is Bert?", "context": CONTEXT}) + "\n"
    arguments = ("--file", "-", "--probabilities")
    code, out, _ = call(made["question_answering"], monkeypatch, capsys, *arguments, stdin=line)
    row = json.loads(out)
    assert code == 0 and set(row) == {"question", "context", "prediction", "probability"}
    assert row["prediction"] and row["prediction"] in CONTEXT and row["context"] == CONTEXT
    assert 0.0 < row["probability"] <= 1.0
    (found,) = raykd.predict(made["question_answering"], [json.loads(line)])
    assert CONTEXT[found["start"] : found["end"]] == found["answer"] == row["prediction"]


@pytest.mark.parametrize(
    ("task", "arguments", "stdin", "wanted"),
    [
        ("question_answering", ("Where?",), "", "answers questions about a context"),
        ("question_answering", ("--file", "-"), '{"tokens": ["a"]}\n', "this model reads texts, not words"),
        ("question_answering", ("--file", "-"), '{"question": "a", "context": 1}\n', "'context' is no text"),
        ("token_classification", ("--file", "-"), '{"tokens": ["a", ""]}\n', "no words 'tokens'"),
    ],
)
def test_rows_of_another_task(
    task: str, arguments: tuple[str, ...], stdin: str, wanted: str,
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any,
) -> None:  # fmt: skip
    code, _, err = call(made[task], monkeypatch, capsys, *arguments, stdin=stdin)
    assert code == 3 and wanted in err and "Traceback" not in err


def test_words_behind_the_limit_do_not_count_as_changed_by_padding() -> None:
    """They are read nowhere, so what stands in their place depends on the other rows; nobody uses it."""
    spec = LSTMStudent(embedding=8, hidden=8, vocab_size=120, dropout=0.0)
    tokenizer = spec.fit_tokenizer([" ".join(TOKENS), CONTEXT] * 2)
    network = spec.build(tokenizer, TAGS, 0, "token_classification")
    network.classifier.weight.data.mul_(20.0)  # so that answers differ from place to place
    model = models.TextModel(network.eval(), tokenizer, TAGS, kind="lstm", task="token_classification")
    rows = build_unlabelled_rows("words", ["Anna", "Anna Smith", "Anna Smith lives in Paris . " * 5])
    found = find_padding(model, TokenClassification(max_length=12), rows)
    assert found.shapes == "longest" and found.difference < 1e-5


def test_a_model_of_pairs_refuses_lone_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    spec = models.LinearStudent(buckets=64)
    tokenizer = spec.fit_tokenizer(())
    kept = models.TextModel(spec.build(tokenizer, ("no", "yes"), 0), tokenizer, ("no", "yes"), pairs=True)
    model = models.save_model(kept, tmp_path / "model")
    code, out, err = call(model, monkeypatch, capsys, "one text")
    assert code == 3 and out == "" and "learnt from pairs" in err and "--pair KEY" in err
    (answer,) = raykd.load(model).predict(["one text"], pairs=["another"])
    assert answer["label"] in ("no", "yes")
