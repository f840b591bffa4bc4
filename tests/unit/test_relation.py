"""Relations: where entities are marked, what a long text keeps, scores against scikit-learn, and triples."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import raykd
from raykd import models
from raykd.cli import main
from raykd.config.loading import validate_run
from raykd.data.load import load_data
from raykd.data.read import read_rows
from raykd.distill.signals import UNLABELLED
from raykd.errors import ConfigError, DataError, ModelError
from raykd.models import LSTMStudent
from raykd.prediction.predictor import Predictor, build_unlabelled_rows
from raykd.report.classes import list_confusion_cells, name_classes
from raykd.student.prepare import fit_tokenizer, prepare_rows
from raykd.tasks import Relation, SystemAnswers
from raykd.tasks.markers import MARKERS, choose_closest, find_spans, mark_spans
from raykd.tasks.scores.classes import compute_class_scores
from raykd.teachers.teacher import Teacher
from raykd.text.tokens import add_markers
from tests.fakes import logits_of, model_spec
from tests.made_models import FAMILIES, made_texts, make_config, make_tokenizer
from tests.unit.test_data_forms import bad, read, write

LABELS = ("Other", "Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Member-Collection(e1,e2)")
ROW = {
    "text": "The flood hit the town after the dam.",
    "head": "flood",
    "tail": "dam",
    "label": "Cause-Effect",
    "direction": "tail-head",
    "lang": "en",
}
MARKED = "The [E1] flood [/E1] hit the town after the [E2] dam [/E2]."
DIRECTED = {"columns": {"direction": "direction"}, "labels": LABELS}
SMALL = LSTMStudent(embedding=8, hidden=8, vocab_size=200, dropout=0.0)


def run_of(path: Path, **task: Any) -> Any:
    source = {"kind": "files", "paths": [str(path)], "columns": {"direction": "direction"}}
    return validate_run(
        {
            "task": {"kind": "relation", "negative_label": "Other", **task},
            "data": {"train": source, "validation": source, "labels": list(LABELS), "languages": ["en"]},
            "student": SMALL.model_dump(),
            "objective": {"alpha": 1.0},
            "train": {"steps": 1, "batch_size": 1},
        },
        "test",
    )


# rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entities",
    [
        {},
        {"head": [4, 9], "tail": [33, 36]},
        {"head": {"text": "flood", "begin": 4, "end": 9}, "tail": {"text": "dam", "start": 33}},
    ],
)
def test_entities_are_marked_and_labels_have_a_direction(entities: dict[str, Any], tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.jsonl", [ROW | entities]), "marked", **DIRECTED)
    assert rows.texts == (MARKED,) and rows.labels_B.tolist() == [2]
    bare = read(tmp_path / "a.jsonl", "marked", labelled=False, **DIRECTED)
    assert bare.texts == (MARKED,) and bare.labels_B.tolist() == [UNLABELLED]


def test_texts_may_be_marked_already_and_csv_holds_places_as_json(tmp_path: Path) -> None:
    given = {"text": MARKED, "label": LABELS[2], "lang": "en"}
    assert read(write(tmp_path / "a.jsonl", [given]), "marked", labels=LABELS).texts == (MARKED,)
    (tmp_path / "a.csv").write_text(f'text,head,tail,label,lang\n{ROW["text"]},"[4, 9]",dam,Other,en\n')
    assert read(tmp_path / "a.csv", "marked", labels=LABELS).texts == (MARKED,)


def test_an_entity_that_stands_several_times_is_marked_where_the_two_are_closest_and_counted(
    tmp_path: Path,
) -> None:
    text = "A catalogue: the cat sat by the mat, near a cat."
    assert find_spans(text, "cat") == [(17, 20), (44, 47)], "not inside catalogue"
    assert find_spans(text, "catal") == [(2, 7)], "no whole word, so a part of one"
    row = ROW | {"text": text, "head": "cat", "tail": "mat"}
    path = write(tmp_path / "a.jsonl", [row, ROW])
    data = load_data(run_of(path).data, tmp_path, "marked")
    assert data.train.texts[0] == text.replace("mat", "[E2] mat [/E2]").replace("a cat", "a [E1] cat [/E1]")
    assert (
        data.left_out[
            f"train: entities of {path} stand several times, the closest two are marked (rows kept)"
        ]
        == 1
    )


def test_entities_inside_one_another_and_without_blanks() -> None:
    assert mark_spans("一片绿叶", (2, 4), (0, 4)) == "[E2]一片[E1]绿叶[/E1][/E2]"
    assert mark_spans("New York", (0, 8), (0, 8)).count("[") == 4
    assert choose_closest([(0, 2), (6, 8)], [(1, 2), (9, 10)]) == ((6, 8), (9, 10)), (
        "apart rather than inside"
    )


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"head": "quake"}, "'quake' is not in 'The flood"),
        ({"head": [4, 99]}, "at [4, 99] stands"),
        ({"head": {"text": "flood", "begin": 5, "end": 10}}, "stands 'lood ', wanted 'flood'"),
        ({"head": [4]}, "wanted [begin, end] in characters"),
        ({"text": MARKED}, "holds [E1] beside the columns"),
        ({"direction": "left"}, "column 'direction': got 'left', wanted one of ['head-tail'"),
    ],
)
def test_a_bad_row_says_what_is_wrong(changes: dict[str, Any], wanted: str, tmp_path: Path) -> None:
    assert wanted in bad(tmp_path, "marked", ROW | changes, **DIRECTED)


def test_a_text_without_its_markers_is_a_bad_row(tmp_path: Path) -> None:
    bare = {"text": ROW["text"], "label": "Other", "lang": "en"}
    assert "wanted each of [E1] [/E1] [E2] [/E2] once" in bad(tmp_path, "marked", bare, labels=LABELS)
    assert "no column 'tail'" in bad_columns(tmp_path, bare | {"head": "flood"})


def bad_columns(tmp_path: Path, row: dict[str, Any]) -> str:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "rows.jsonl", [row]), "marked", labels=LABELS)
    return str(caught.value)


def test_no_embedded_corpus_and_no_unknown_negative_label(tmp_path: Path) -> None:
    config = run_of(tmp_path)
    with pytest.raises(DataError, match="no embedded corpus"):
        embedded = config.data.model_validate(config.data.model_dump() | {"train": {"kind": "embedded"}})
        read_rows(embedded.train, embedded, base_dir=tmp_path, labelled=True, form="marked")
    with pytest.raises(ConfigError, match="negative_label is no label"):
        run_of(tmp_path, negative_label="none")


# long texts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_text_is_cut_around_its_entities(family: str) -> None:
    """Also with the tokenizers of others, whatever their pieces are."""
    tokenizer = add_markers(make_tokenizer(family, made_texts(200)[0]), MARKERS)
    filler = "the room was quite good " * 30
    texts = [f"{filler}[E1] food [/E1] and [E2] place [/E2] {filler}", f"[E2] food [/E2] {filler} [E1] room [/E1]",
             f"[E1] food [/E1] was [E2] good [/E2] {filler}", "a [E1] b [/E1] c [E2] d [/E2]"]  # fmt: skip
    rows = Relation(max_length=40).encode(tokenizer, build_unlabelled_rows("marked", texts))
    assert rows.extra["unmarked_B"].tolist() == [False, True, False, False], (
        "what is too far apart is counted"
    )
    assert rows.long_B is not None and rows.long_B.tolist() == [True, True, True, False]
    assert rows.lengths_B.max() <= 40 and rows.lengths_B[0] >= 34, "the room is used"
    shown = tokenizer.decode(rows.fields["input_ids"][0])
    before, behind = shown.index("[E1]"), len(shown) - shown.index("[/E2]")
    assert 0.5 < before / behind < 2, "the entities stand in the middle"


def test_rows_that_lose_an_entity_are_counted(tmp_path: Path) -> None:
    far = ROW | {"text": ROW["text"].replace("town", "town " * 50)}
    config = run_of(write(tmp_path / "a.jsonl", [ROW, far]), max_length=24)
    rows = load_data(config.data, tmp_path, "marked").train
    tokenizer = fit_tokenizer(SMALL, [(config.task, rows)])
    assert "[E1]" in tokenizer.get_vocab() and "e1" not in tokenizer.get_vocab()
    assert prepare_rows(config, rows, rows, tokenizer).facts["train/rows_without_markers"] == 1.0


# scores -------------------------------------------------------------------------------------------------------


def answers_of(predicted: list[int], count: int) -> SystemAnswers:
    logits_NC = np.eye(count, dtype=np.float32)[predicted] * 5
    return SystemAnswers(logits_NC, np.ones(len(predicted), np.int64), np.ones(len(predicted), bool))


def test_f1_leaves_the_negative_label_out() -> None:
    """Micro F1 as scikit-learn counts it; macro F1 by hand as SemEval's scorer, where a wrong direction is no hit."""
    gold, predicted = [0, 1, 1, 2, 3, 0, 3, 1], [0, 1, 2, 2, 3, 3, 0, 0]
    rows = replace(build_unlabelled_rows("marked", [MARKED] * 8), labels_B=np.asarray(gold))
    task, answers = Relation(negative_label="Other"), answers_of(predicted, 4)
    found = task.compute_metrics(answers, rows, LABELS)
    assert set(found) == set(task.metric_names)
    assert found["micro_f1"] == pytest.approx(f1_score(gold, predicted, labels=[1, 2, 3], average="micro"))
    # Cause-Effect: 4 gold, 3 predicted, 2 right ways; Member-Collection: 2, 2, 1.
    assert found["macro_f1"] == pytest.approx((2 * 2 / 7 + 2 * 1 / 4) / 2)
    assert found["accuracy"] == pytest.approx(4 / 8)
    shares = task.compute_row_shares(answers, rows, LABELS)
    assert shares.numerator_B.sum() / shares.denominator_B.sum() == pytest.approx(found["micro_f1"])
    scores = compute_class_scores(task.compare_classes(answers, rows, LABELS))
    assert scores.names == (*LABELS[1:], "Other") and scores.confusion[3] == (0, 0, 1, 1)
    assert next(one.f1 for one in scores.averages if one.name == "micro") == pytest.approx(found["micro_f1"])
    assert list_confusion_cells(scores)[1][-1] == ["Other", "0", "0", "1", "1"], (
        "what is rightly none is counted"
    )
    assert name_classes(scores) == "label"
    every = Relation().compute_metrics(answers, rows, ("a", "b", "c", "d"))
    assert every["macro_f1"] == pytest.approx(f1_score(gold, predicted, average="macro"))
    assert every["micro_f1"] == every["accuracy"]


# models -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tagger that tags every word that begins with a capital, and a model that says one label of all pairs."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for name, task, labels, bias in (
        ("tagger", "token_classification", ("O", "B-PER"), [0.0, 20.0]),
        ("backward", "classification", LABELS, [0.0, 0.0, 4.0, 0.0]),
        ("none", "classification", LABELS, [4.0, 0.0, 0.0, 0.0]),
        ("undirected", "classification", ("unknown", "Near"), [0.0, 4.0]),
    ):
        tokenizer = add_markers(SMALL.fit_tokenizer(["Anna met Bert in Paris."] * 3), MARKERS)
        model = SMALL.build(tokenizer, labels, 0, task)
        model.classifier.weight.data.zero_()
        model.classifier.bias.data.copy_(model.classifier.bias.new_tensor(bias))
        own = Relation(negative_label=labels[0]).settings if task == "classification" else {}
        kept = models.TextModel(model, tokenizer, labels, kind="lstm", task=task, max_length=32, settings=own)
        found[name] = models.save_model(kept, folder / name)
    return found


def test_a_saved_model_is_asked_with_its_entities(made: dict[str, Path]) -> None:
    model = raykd.load(made["backward"])
    assert model.task == "relation"
    found = model.predict([{"text": ROW["text"], "head": "flood", "tail": [33, 36], "id": 7}])
    assert found[0]["text"] == MARKED and found[0]["label"] == LABELS[2] and found[0]["id"] == 7
    assert model.predict(MARKED)[0]["label"] == LABELS[2]
    assert Predictor.of(models.load_model(made["backward"])).task.negative_label == "Other"  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"two marked entities[\s\S]*text 1: 'no markers'"):
        model.predict("no markers")
    with pytest.raises(DataError, match="row 1: column 'head': 'x' is not in"):
        model.predict([{"text": "a b", "head": "x", "tail": "b"}])


def test_a_saved_model_is_scored_on_a_file_with_directions(made: dict[str, Path], tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        [ROW, ROW | {"direction": "head-tail"}, ROW | {"label": "Other", "direction": ""}],
    )
    result = raykd.evaluate(made["backward"], path, columns={"direction": "direction"})
    # Of two relations in gold and three in the predictions one is right.
    assert result.metrics["micro_f1"] == pytest.approx(2 / 5) and result.task == "relation"


def test_triples_of_a_tagger_and_a_relation_model(made: dict[str, Path]) -> None:
    text = "Anna met Bert"
    tagged = [{"text": word, "type": "PER", "start": at, "end": at + len(word)}
              for word, at in (("Anna", 0), ("met", 5), ("Bert", 9))]  # fmt: skip
    found = raykd.extract_triples(made["tagger"], made["backward"], [text])[0]
    assert found["entities"] == tagged
    pairs = [(t["head"]["text"], t["tail"]["text"]) for t in found["triples"]]
    assert pairs == [("Bert", "met"), ("met", "Anna"), ("Bert", "Anna")], "the closest first, read backwards"
    assert {t["relation"] for t in found["triples"]} == {"Cause-Effect"}
    e4 = np.exp(4.0)
    assert found["triples"][0]["probability"] == pytest.approx(e4 / (e4 + 3), abs=1e-5)
    assert raykd.extract_triples(made["tagger"], made["none"], [text, "A"])[0]["triples"] == []
    both = raykd.extract_triples(made["tagger"], made["undirected"], [text], most_pairs=4)[0]
    assert both["pairs_left_out"] == 2 and len(both["triples"]) == 4
    near = {(t["head"]["text"], t["tail"]["text"]) for t in both["triples"]}
    assert near == {("met", "Bert"), ("Bert", "met"), ("Anna", "met"), ("met", "Anna")}, (
        "the closest, both ways"
    )


def test_models_of_other_tasks_make_no_triples(made: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="triples need a model that finds entities"):
        raykd.extract_triples(made["none"], made["none"], ["a"])
    with pytest.raises(ModelError, match="triples need a model that names relations"):
        raykd.extract_triples(made["tagger"], made["tagger"], ["a"])


def test_predict_prints_triples(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    def call(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["raykd", "predict", str(made["tagger"]), "--relations", *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return str(capsys.readouterr().out)

    assert call(str(made["backward"]), "Anna met").startswith("met - Cause-Effect - Anna 0.948")
    assert call(str(made["none"]), "Anna met").startswith("no relation")
    row = json.loads(call(str(made["backward"]), "--json", "Anna met"))
    assert [t["relation"] for t in row["triples"]] == ["Cause-Effect"]
    file = write(tmp_path / "in.jsonl", [{"text": "Anna met", "id": 3}])
    row = json.loads(call(str(made["backward"]), "--file", str(file)))
    assert row["id"] == 3 and row["prediction"][0]["head"]["text"] == "met"


def test_a_model_of_somebody_else_that_knows_the_markers_teaches(tmp_path: Path) -> None:
    """Made and saved by plain transformers; its logits are those that transformers gives, a label it lacks is -inf."""
    from transformers import AutoModelForSequenceClassification

    texts = [
        mark_spans(text, (0, 3), (len(text) - 3, len(text))) for text in made_texts(60)[0] if len(text) > 8
    ][:6]
    tokenizer = make_tokenizer("wordpiece", made_texts(60)[0])
    tokenizer.add_tokens(list(MARKERS), special_tokens=True)
    names = dict(enumerate(LABELS[:3]))
    config = make_config("bert", tokenizer, id2label=names, label2id={name: i for i, name in names.items()})
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    spec = model_spec(
        "t", str(tmp_path), LABELS, Relation(negative_label="Other"), missing=(LABELS[3],), dtype="float32"
    )
    logits_NC = logits_of(Teacher(spec).answer(build_unlabelled_rows("marked", texts)))
    with torch.inference_mode():
        plain_NC = [model(**tokenizer([text], return_tensors="pt")).logits[0].numpy() for text in texts]
    np.testing.assert_allclose(logits_NC[:, :3], plain_NC, atol=1e-5)
    assert (logits_NC[:, 3] < -1e4).all()
    bare = make_tokenizer("wordpiece", made_texts(60)[0])
    bare.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="cuts markers to pieces"):
        Teacher(spec).answer(build_unlabelled_rows("marked", texts))
