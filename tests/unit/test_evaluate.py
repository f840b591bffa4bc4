"""`raykd evaluate`: numbers against scikit-learn, seqeval and transformers; files and models as strangers make them."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score

import raykd
from raykd.cli import main
from raykd.data.rows import Rows
from raykd.errors import ConfigError, DataError, LabelMismatchError, ModelError, RaykdError
from raykd.models import count_stored_parameters
from raykd.prediction.predictor import Predictor
from raykd.report.evaluations.result import EvaluationResult, Slice
from raykd.report.evaluations.tables import build_evaluation_tables
from raykd.scoring.evaluation.labelled_file import FileOptions, read_labelled_file
from raykd.scoring.evaluation.matching import match_labels
from raykd.scoring.model import load_saved_model
from raykd.tasks import SystemAnswers, TokenClassification
from raykd.tasks.schemes import parse_scheme
from raykd.tasks.scores.classes import ClassAnswers, compute_class_scores
from raykd.tasks.scores.classification import compute_calibration_error
from raykd.tasks.scores.intervals import RowShares, compute_bootstrap_interval
from tests.made_models import made_texts, plain_probabilities, save_classifier
from tests.made_units import TAGS, save_answerer, save_tagger, tagged_rows

TEXTS, _TRUE = made_texts(120, seed=5)
LABELS = [label if at % 5 else 1 - label for at, label in enumerate(_TRUE)]
"""A fifth of the labels is wrong, so that a good model is not always right."""
NAMES = ("negative", "positive")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that plain transformers trained a little and saved."""
    return save_classifier(tmp_path_factory.mktemp("evaluate") / "model", "wordpiece")


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tagger(tmp_path_factory.mktemp("evaluate") / "tagger", "wordpiece", steps=6)


def with_config(model: Path, folder: Path, **changes: object) -> Path:
    """The model with another config.json; None takes a key out."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def write_rows(path: Path, names: Any = NAMES, **more: object) -> Path:
    rows = [{"text": text, "label": names[label], **more} for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_scores_are_those_of_scikit_learn_on_the_probabilities_of_transformers(
    model: Path, tmp_path: Path
) -> None:
    p_NC, gold_N = plain_probabilities(model, TEXTS), np.asarray(LABELS)
    found = raykd.evaluate(model, write_rows(tmp_path / "rows.jsonl"))
    chosen_N = p_NC.argmax(axis=1)
    assert 0.5 < found.metrics["accuracy"] < 1.0  # there is something to tell apart
    assert found.metrics["accuracy"] == pytest.approx((chosen_N == gold_N).mean())
    assert found.metrics["macro_f1"] == pytest.approx(f1_score(gold_N, chosen_N, average="macro"))
    assert found.classes is not None and found.calibration is not None
    by_name = {one.name: one for one in (*found.classes.classes, *found.classes.averages)}
    for average in ("micro", "macro", "weighted"):
        assert by_name[average].f1 == pytest.approx(f1_score(gold_N, chosen_N, average=average))
    assert by_name["macro"].f1 == pytest.approx(found.metrics["macro_f1"])
    assert by_name["positive"].support == gold_N.sum() and by_name["positive"].predicted == chosen_N.sum()
    assert found.classes.confusion[0][1] == ((gold_N == 0) & (chosen_N == 1)).sum()
    ece = compute_calibration_error(p_NC.max(axis=1).astype(np.float64), chosen_N == gold_N)
    assert found.calibration.ece == pytest.approx(ece, abs=1e-5)
    assert found.metrics["ece"] == pytest.approx(found.calibration.ece)  # a page has one ECE


def test_an_interval_is_as_wide_as_the_normal_distribution_says() -> None:
    right_B = (np.arange(2000) % 5 > 0).astype(np.float64)
    found = compute_bootstrap_interval(RowShares(right_B, np.ones(2000)))
    half = 1.96 * np.sqrt(0.8 * 0.2 / 2000)
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert found.low + found.high == pytest.approx(1.6, rel=0.01)
    again = compute_bootstrap_interval(RowShares(right_B, np.ones(2000)))
    assert again == found
    # Units in clumps: 100 rows of 20 units that are right or wrong together are as good as 100 units.
    clumps = compute_bootstrap_interval(RowShares(20 * right_B[:100], np.full(100, 20.0)))
    assert clumps is not None
    assert clumps.high - clumps.low == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 100), rel=0.15)


@pytest.mark.parametrize("right_B", [np.ones(50), np.zeros(50), np.ones(1)])
def test_rows_that_all_score_alike_have_no_interval(right_B: np.ndarray) -> None:
    assert compute_bootstrap_interval(RowShares(right_B, np.ones(len(right_B)))) is None


def test_slices_take_the_rows_apart(model: Path, tmp_path: Path) -> None:
    rows = [
        {"text": text, "label": NAMES[label], "lang": "en" if at % 3 else "fr", "domain": "ab"[at % 2]}
        for at, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = raykd.evaluate(model, file, columns={"group": "domain"})
    parts = {by: [part for part in found.slices if part.by == by] for by in ("language", "group", "length")}
    assert [part.name for part in parts["group"]] == ["a", "b"]
    assert [part.name for part in parts["language"]] == ["en", "fr"] and len(parts["length"]) == 4
    for own in parts.values():
        assert sum(part.rows for part in own) == found.rows == len(TEXTS)
        whole = sum(part.rows * part.metrics["accuracy"] for part in own) / found.rows
        assert whole == pytest.approx(found.metrics["accuracy"])
    mean = np.mean([part.metrics["macro_f1"] for part in parts["language"]])
    assert found.mean_of_languages is not None
    assert found.mean_of_languages["macro_f1"] == pytest.approx(mean)
    longest = max(len(text) for text in TEXTS)
    assert parts["length"][-1].name.endswith(f"to {longest}")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The same rows in every kind of file, with other names of columns and more columns."""
    import pandas as pd

    rows = [{"review": t, "stars": NAMES[label], "n": 1} for t, label in zip(TEXTS, LABELS, strict=True)]
    found = {name: tmp_path / f"rows.{name}" for name in ("jsonl", "csv", "tsv", "parquet")}
    found["jsonl"].write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, delimiter, encoding in (("csv", ";", "utf-8-sig"), ("tsv", "\t", "utf-16")):
        with found[name].open("w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(file, ["review", "stars", "n"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    more = {"vector": [[0.5]] * len(rows), "when": pd.Timestamp("2020-02-02")}
    pd.DataFrame(rows).assign(**more).to_parquet(found["parquet"])
    return found


def test_every_kind_of_file_is_read_alike(model: Path, files: dict[str, Path]) -> None:
    columns = {"text": "review", "label": "stars"}
    found = {name: raykd.evaluate(model, file, columns=columns) for name, file in files.items()}
    assert {one.rows for one in found.values()} == {len(TEXTS)}
    assert len({json.dumps(one.metrics) for one in found.values()}) == 1
    assert any("delimiter" in note and "source" not in note for note in found["csv"].notes)


def test_names_count_and_not_numbers(model: Path, tmp_path: Path) -> None:
    """A model whose outputs are named the other way round is as wrong as it was right, and this is said."""
    file = write_rows(tmp_path / "rows.jsonl")
    turned = with_config(
        model, tmp_path / "turned", id2label={"1": "negative", "0": "positive"}, label2id=None
    )
    right, wrong = raykd.evaluate(model, file), raykd.evaluate(turned, file)
    assert wrong.metrics["accuracy"] == pytest.approx(1 - right.metrics["accuracy"])
    assert any("swapped" in note for note in wrong.notes) and not any("swapped" in n for n in right.notes)
    order = with_config(model, tmp_path / "order", id2label={"1": "positive", "0": "negative"})
    assert raykd.evaluate(order, file).metrics == right.metrics


def test_outputs_without_names_are_named_by_the_map(model: Path, tmp_path: Path) -> None:
    plain = with_config(model, tmp_path / "plain", id2label=None, label2id=None)
    file = write_rows(tmp_path / "rows.jsonl")
    with pytest.raises(LabelMismatchError) as caught:
        raykd.evaluate(plain, file)
    for part in ("negative, positive", "LABEL_0, LABEL_1", "--label-map LABEL_0=...", "rows.jsonl"):
        assert part in str(caught.value)
    named = raykd.evaluate(plain, file, label_map={"LABEL_0": "negative", "LABEL_1": "positive"})
    other = raykd.evaluate(plain, file, label_map={"negative": "LABEL_0", "positive": "LABEL_1"})
    assert named.metrics == other.metrics == raykd.evaluate(model, file).metrics
    assert named.classes is not None and [one.name for one in named.classes.classes] == list(NAMES)


def test_several_labels_may_lead_to_one(model: Path, tmp_path: Path) -> None:
    """Numbers of a file to the labels of a model, many to one, and rows that are left out."""
    stars = {0: (1, 2), 1: (4, 5)}
    rows = [
        {"text": t, "label": stars[label][i % 2]}
        for i, (t, label) in enumerate(zip(TEXTS, LABELS, strict=True))
    ]
    rows += [{"text": "so so", "label": 3}] * 7
    file = tmp_path / "stars.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    meant = {"1": "negative", "2": "negative", "4": "positive", "5": "positive", "3": None}
    found = raykd.evaluate(model, file, label_map=meant)
    assert found.metrics == raykd.evaluate(model, write_rows(tmp_path / "rows.jsonl")).metrics
    assert any("7 rows of label 3" in note for note in found.notes)


def test_scores_of_a_file_become_labels_by_ranges(model: Path, tmp_path: Path) -> None:
    rows = [{"text": t, "label": (0.5, 4.25)[label]} for t, label in zip(TEXTS, LABELS, strict=True)]
    file = tmp_path / "scores.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "so so", "label": 2.0}]))
    found = raykd.evaluate(model, file, label_map={"0..2": "negative", "2.5..5": "positive"})
    same = write_rows(tmp_path / "rows.jsonl")
    same.write_text(same.read_text() + json.dumps({"text": "so so", "label": "negative"}) + "\n")
    assert found.metrics == raykd.evaluate(model, same).metrics


def test_columns_of_one_name_are_joined_by_adding_probabilities() -> None:
    own = ("1 star", "2 stars", "5 stars")
    matched = match_labels(
        own,
        ["bad", "good"],
        {"1 star": "bad", "2 stars": "bad", "5 stars": "good"},
        tags=False,
        file="f",
        model="m",
    )
    logits = np.asarray([[0.3, 1.2, 0.9]], dtype=np.float32)
    p = np.exp(logits) / np.exp(logits).sum()
    joined = np.exp(matched.columns.apply(logits))
    assert matched.names == ("bad", "good") and matched.file_map == {}
    np.testing.assert_allclose(joined / joined.sum(), [[p[0, 0] + p[0, 1], p[0, 2]]], rtol=1e-6)


@pytest.mark.parametrize(
    ("label_map", "error", "wanted"),
    [
        ({"x": "good"}, ConfigError, "neither the model nor the file has"),
        ({"good": None}, ConfigError, "leaves out a label of the model"),
        ({"good": "bad"}, ConfigError, "one label only"),
        ({}, LabelMismatchError, "--label-map neutral=...; neutral= leaves its rows out"),
        ({"Good": "good"}, LabelMismatchError, "labels that the model m does not know: neutral"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(
    label_map: dict[str, str | None], error: type[RaykdError], wanted: str
) -> None:
    with pytest.raises(error) as caught:
        match_labels(("good", "bad"), ["good", "neutral", "Good"][: 2 + ("Good" in label_map)], label_map,
                     tags=False, file="f", model="m")  # fmt: skip
    assert wanted in str(caught.value)


def test_a_spelling_is_proposed() -> None:
    with pytest.raises(
        LabelMismatchError, match=r"--label-map Good=good --label-map BAD=bad|BAD=bad --label-map Good=good"
    ):
        match_labels(("good", "bad"), ["Good", "BAD"], {}, tags=False, file="f", model="m")


def tag_file(path: Path, rows: list[tuple[list[str], list[str]]], rename: Callable[[str], str] = str) -> Path:
    lines = [{"tokens": tokens, "tags": [rename(tag) for tag in tags]} for tokens, tags in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_entity_types_are_scored_as_seqeval_does(tagger: Path, tmp_path: Path) -> None:
    rows = tagged_rows(60, seed=9)
    found = raykd.evaluate(tagger, tag_file(tmp_path / "rows.jsonl", rows))
    model = load_saved_model(tagger)
    task = Predictor.of(model).task
    assert isinstance(task, TokenClassification) and found.classes is not None
    read = read_labelled_file(tmp_path / "rows.jsonl", "words", model.labels, FileOptions(), "m").rows
    predicted = []
    for part in Predictor.of(model).answer(read):
        tags = task._decode(part.answers, parse_scheme(model.labels))
        cuts = np.cumsum(part.answers.counts_B)[:-1]
        predicted += list(zip(part.rows, np.split(tags, cuts), strict=True))
    own = [[model.labels[i] for i in tags] for _, tags in sorted(predicted, key=lambda pair: pair[0])]
    report = classification_report(
        [tags for _, tags in rows], own, mode="strict", scheme=IOB2, output_dict=True, zero_division=0
    )
    assert 0.2 < report["micro avg"]["f1-score"] < 1.0
    names = {"micro": "micro avg", "macro": "macro avg", "weighted": "weighted avg"}
    for one in (*found.classes.classes, *found.classes.averages):
        theirs = report[names.get(one.name, one.name)]
        for ours, key in ((one.precision, "precision"), (one.recall, "recall"), (one.f1, "f1-score")):
            assert ours == pytest.approx(theirs[key]), one.name
        assert one.support == theirs["support"]
    assert found.metrics["f1"] == pytest.approx(report["micro avg"]["f1-score"])
    one = Rows(("a",), ("Anna",), ("",), np.asarray([0]), words=(((0, 4),),), golds=((1,),), modes=("split",))
    nothing = SystemAnswers(np.eye(len(TAGS), dtype=np.float32)[[0]], np.asarray([1]), np.ones(1, dtype=bool))
    shares = task.compute_row_shares(nothing, one, TAGS)
    assert shares.numerator_B.tolist() == [0.0] and shares.denominator_B.tolist() == [1.0]


def test_tags_of_another_scheme_and_types_by_other_names(tagger: Path, tmp_path: Path) -> None:
    rows = tagged_rows(40, seed=9)
    wanted = raykd.evaluate(tagger, tag_file(tmp_path / "bio.jsonl", rows)).metrics
    last: list[tuple[list[str], list[str]]] = []
    for tokens, tags in rows:
        ends = [*tags[1:], "O"]
        letters = {(True, True): "U", (True, False): "B", (False, True): "L", (False, False): "I"}
        last.append((tokens, [
            tag if tag == "O" else letters[tag[0] == "B", not after.startswith("I-")] + tag[1:]
            for tag, after in zip(tags, ends, strict=True)
        ]))  # fmt: skip
    assert any(tag.startswith("U-") for _, tags in last for tag in tags)
    assert raykd.evaluate(tagger, tag_file(tmp_path / "bilou.jsonl", last)).metrics == wanted
    other = tag_file(tmp_path / "names.jsonl", rows, lambda tag: tag.replace("PER", "PERSON"))
    with pytest.raises(LabelMismatchError, match=r"types that the model .* does not know: PERSON"):
        raykd.evaluate(tagger, other)
    assert raykd.evaluate(tagger, other, label_map={"PERSON": "PER"}).metrics == wanted


def test_questions_are_scored_and_calibrated(tmp_path: Path) -> None:
    answerer = save_answerer(tmp_path / "answerer", "wordpiece", steps=20)
    rows = [
        {"question": "who?", "context": "Anna Smith lives in Paris .", "answers": {"text": ["Anna Smith"], "answer_start": [0]}},
        {"question": "where?", "context": "Bert lives in Rome .", "answers": {"text": ["Rome"], "answer_start": [14]}},
    ]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = raykd.evaluate(answerer, file, language="en")
    assert found.task == "question_answering" and found.rows == 2 and found.classes is None
    assert {"f1", "exact_match", "nll"} <= set(found.metrics) and found.calibration is not None
    assert any("no language is known" in note for note in raykd.evaluate(answerer, file).notes)


@pytest.mark.parametrize(
    ("content", "name", "error", "wanted"),
    [
        ("", "rows.jsonl", DataError, "holds no rows"),
        ("text,label\n", "rows.csv", DataError, "holds no rows"),
        ('{"text": "a"}\n', "rows.jsonl", DataError, "raykd predict answers rows without labels"),
        ('{"text": "a", "label": null}\n', "rows.jsonl", DataError, "1 rows without a label were left out"),
        ('{"text": " ", "label": "positive"}\n', "rows.jsonl", DataError, "correct the rows"),
        (
            '{"text": " ", "label": "positive"}\n{"text": "a", "label": "positive"}\n',
            "rows.jsonl",
            DataError,
            "--skip-bad-rows",
        ),
        ('{"text": "a", "label": ["positive"]}\n', "rows.jsonl", LabelMismatchError, "does not know: ['positive']"),
    ],
)  # fmt: skip
def test_files_without_anything_to_score(
    model: Path, tmp_path: Path, content: str, name: str, error: type[RaykdError], wanted: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(error) as caught:
        raykd.evaluate(model, tmp_path / name)
    assert wanted in str(caught.value) and "data." not in str(caught.value)


def test_one_label_for_a_head_of_two_outputs_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    folder = with_config(model, tmp_path / "regression", id2label={"0": "LABEL_0"}, label2id=None)
    with pytest.raises(ModelError, match=r"num_labels > 1"):
        raykd.evaluate(folder, write_rows(tmp_path / "rows.jsonl"))


def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["raykd", "evaluate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def test_the_command_shows_what_python_returns(
    model: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(model), str(files["csv"]), "--column", "text=review", "--column", "label=stars"]
    found = raykd.evaluate(model, files["csv"], columns={"text": "review", "label": "stars"})
    code, out, _ = run_command(monkeypatch, capsys, *arguments, "--json")
    printed, wanted = json.loads(out), json.loads(json.dumps(found.to_json()))
    assert printed["size"].pop("ms") > 0 < wanted["size"].pop("ms")
    assert code == 0 and printed == wanted
    assert wanted["size"]["parameters"] == count_stored_parameters(model)
    assert wanted["size"]["megabytes"] == (model / "model.safetensors").stat().st_size / 1e6
    assert wanted["size"]["timed_on"].endswith("cpu")
    code, out, err = run_command(monkeypatch, capsys, *arguments)
    assert code == 0 and err == ""
    assert found.overall.interval is not None
    for shown in (f"{100 * found.metrics['accuracy']:.1f}", f"{100 * found.overall.interval.low:.1f} to",
                  "Confusions", "micro", "Calibration over rows: ECE", "characters", *NAMES):  # fmt: skip
        assert shown in out
    code, _, err = run_command(monkeypatch, capsys, *arguments, "--label-map", "positive")
    assert code == 2 and "FROM=TO" in err
    code, _, err = run_command(monkeypatch, capsys, *arguments[:2])
    assert code == 3 and "--column text=NAME" in err


def test_many_classes_are_shown_by_their_most_frequent_confusions() -> None:
    gold = np.arange(44).repeat(3)
    scores = compute_class_scores(
        ClassAnswers(tuple(f"l{i}" for i in range(44)), gold, np.where(gold == 7, 9, gold))
    )
    found = EvaluationResult(
        model="m", file="f", task="classification", rows=132, metric="accuracy",
        overall=Slice("all", "", 132, {"accuracy": 1.0}, None), mean_of_languages=None,
        slices=(Slice("length", "1 to 9", 2, {"accuracy": math.nan, "nll": 0.5}, None),),
        classes=scores, calibration=None, notes=(),
    )  # fmt: skip
    # What cannot be measured over some rows alone is a dash and not a number.
    assert build_evaluation_tables(found)[0].lines[-1] == ["characters 1 to 9", "2", "–", "–", "0.500"]
    confusions = build_evaluation_tables(found)[3]
    assert [list(line) for line in confusions.lines] == [["l7", "l9", "3"]]
