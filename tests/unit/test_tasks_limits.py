"""What is cut off, what is refused: long rows, long questions, markers, and combinations a task cannot have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raykd import models
from raykd.config import ModelTeacher, RunConfig
from raykd.data.rows import Rows
from raykd.distill.objective import Objective
from raykd.distill.signals import MASKED, Signals
from raykd.distill.targets import combine_logits
from raykd.ensemble.mixing import complete_logits
from raykd.errors import ConfigError, DataError, ModelError
from raykd.models import LinearStudent, LSTMStudent, PretrainedStudent
from raykd.point import Point
from raykd.preflight.teacher_check import check_teacher
from raykd.scoring.notes import collect_notes
from raykd.student.prepare import check_long_rows, fit_tokenizer, prepare_rows
from raykd.tasks import Classification, QuestionAnswering, TokenClassification
from raykd.tasks.scores import entities
from raykd.teachers.backends.backend import describe_teacher
from raykd.text.batch import TextBatch
from raykd.text.tokens import find_marker_ids, tokenize
from raykd.text.words import find_word_spans
from tests.fakes import model_spec, save_transformer, texts_and_labels

TAGS = ["O", "B-PER", "I-PER"]
SMALL = LSTMStudent(embedding=8, hidden=8, vocab_size=120, dropout=0.0)
MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")


def tree(task: dict[str, Any], **changes: Any) -> dict[str, Any]:
    files = {"kind": "files", "paths": ["unused.jsonl"]}
    labels = {"token_classification": TAGS, "classification": ["no", "yes"]}.get(task["kind"])
    data = {"train": files, "validation": files, "languages": ["en"]}
    return {
        "task": task,
        "data": data | ({} if labels is None else {"labels": labels}) | changes.pop("data", {}),
        "student": {"kind": "lstm"},
        "objective": {"alpha": 1.0},
        "train": {"steps": 1, "batch_size": 2},
        **changes,
    }


def rows_of(texts: list[str], labels: list[int] | None = None) -> Rows:
    labels_B = np.zeros(len(texts), np.int64) if labels is None else np.asarray(labels, np.int64)
    ids = tuple(f"r{i}" for i in range(len(texts)))
    return Rows(ids, tuple(texts), ("en",) * len(texts), labels_B)


def asked(questions: list[str], contexts: list[str]) -> TextBatch:
    return replace(rows_of(questions).take(range(len(questions))), pairs=tuple(contexts))


# combinations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "changes", "wanted"),
    [
        ({"kind": "question_answering"}, {"student": {"kind": "linear"}}, "kind linear cannot learn question_"),
        ({"kind": "token_classification"}, {"train": {"metric": "macro_f1"}}, "macro_f1 is none of token_class"),
        ({"kind": "question_answering"}, {"train": {"metric": "accuracy"}}, "accuracy is none of question_ans"),
        ({"kind": "classification"}, {"train": {"metric": "exact_match"}}, "exact_match is none of classific"),
        ({"kind": "question_answering", "stride": 256}, {}, "stride 256 is not below max_length 256"),
        ({"kind": "token_classification"}, {"data": {"labels": ["O", "PER", "LOC"]}}, "no tags of entities"),
        ({"kind": "token_classification"}, {"data": {"labels": ["B-PER", "I-PER"]}}, "no tags of entities"),
        ({"kind": "question_answering"}, {"data": {"labels": TAGS}}, "the task has no labels"),
        ({"kind": "classification", "markers": ["[E1]", "[E1]"]}, {}, "markers must differ"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_error(
    task: dict[str, Any], changes: dict[str, Any], wanted: str
) -> None:
    with pytest.raises((ValidationError, ConfigError), match=wanted):
        RunConfig.model_validate(tree(task, **changes))


def test_a_mean_over_choices_is_refused_where_rows_have_different_numbers_of_them() -> None:
    objective = Objective.model_validate({"terms": [{"divergence": {"kind": "standardised_kl"}}]})
    with pytest.raises(ConfigError, match=r"contexts have different numbers of words[\s\S]*forward_kl"):
        QuestionAnswering().check((), objective)


@pytest.mark.parametrize("task", [TokenClassification(), QuestionAnswering()])
def test_a_teacher_of_another_task_is_refused_before_its_weights_are_read(task: Any, tmp_path: Path) -> None:
    path = save_transformer(tmp_path / "classifier")
    (path / "model.safetensors").write_bytes(b"")  # what is wrong is said without them
    config = RunConfig.model_validate(tree(task.model_dump()))
    teacher = ModelTeacher(name="t", languages="all", path=str(path))
    with pytest.raises(ModelError, match=r"made for another task[\s\S]*classification[\s\S]*" + task.kind):
        check_teacher(teacher, config)
    with pytest.raises(ModelError, match="made for another task"):
        describe_teacher(model_spec("t", str(path), config.data.labels, task))


# long rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", [SMALL, LinearStudent(buckets=64)])
def test_rows_over_the_limit_are_told_by_any_tokenizer(student: Any) -> None:
    tokenizer = student.fit_tokenizer(["one two three four five six seven"] * 3)
    texts = ["one two", "one two three four five six seven one two three", "one"]
    assert tokenize(tokenizer, texts, None, 7).long_B.tolist() == [False, True, False]
    assert tokenize(tokenizer, texts, texts, 9).long_B.tolist() == [False, True, False]
    assert not tokenize(tokenizer, texts, None, 64).long_B.any()


def long_rows() -> Rows:
    return rows_of(["one two three", "two " * 30, "three four", "four", "five one"])


@pytest.mark.parametrize(
    ("what", "rows", "facts"),
    [
        ("truncate", 5, {"train/long_rows": 1.0}),
        ("drop", 4, {"train/long_rows": 1.0, "train/dropped_rows": 1.0}),
    ],
)
def test_long_rows_are_cut_or_left_out_and_counted(what: str, rows: int, facts: dict[str, float]) -> None:
    task = {"kind": "classification", "max_length": 8}
    config = RunConfig.model_validate(tree(task, data={"on_long_row": what}))
    tokenizer = SMALL.fit_tokenizer(long_rows().texts)
    found = prepare_rows(config, long_rows(), long_rows(), tokenizer)
    assert len(found.train) == len(found.train_tokens) == rows and found.facts == facts
    assert len(found.validation) == 5, "all systems are measured on the same rows"


def test_long_rows_stop_a_run_that_wants_none() -> None:
    task = {"kind": "classification", "max_length": 8}
    config = RunConfig.model_validate(tree(task, data={"on_long_row": "fail"}))
    tokenizer = SMALL.fit_tokenizer(long_rows().texts)
    with pytest.raises(
        DataError, match=r"1 of 5 training rows[\s\S]*r1[\s\S]*max_length 8[\s\S]*on_long_row"
    ):
        prepare_rows(config, long_rows(), long_rows(), tokenizer)
    config = RunConfig.model_validate(
        tree({"kind": "classification", "max_length": 3}, data={"on_long_row": "drop"})
    )
    with pytest.raises(DataError, match="fewer training rows than a batch"):
        prepare_rows(config, long_rows(), long_rows(), tokenizer)
    with pytest.raises(DataError, match="fewer training rows than a batch"):
        check_long_rows([(config, long_rows())])


def test_coverage_is_the_share_of_words_that_are_seen() -> None:
    texts = ["one two three", "two " * 8 + "two"]
    spans = [tuple((int(b), int(e)) for b, e in find_word_spans(text)) for text in texts]
    rows = replace(rows_of(texts), words=tuple(spans), golds=tuple((0,) * len(s) for s in spans))
    config = RunConfig.model_validate(tree({"kind": "token_classification", "max_length": 8}))
    found = prepare_rows(config, rows, rows, SMALL.fit_tokenizer([*texts] * 3))
    assert found.facts == {"train/long_rows": 1.0, "train/coverage": pytest.approx((3 + 6) / 12)}


@pytest.mark.parametrize(("share", "said"), [(0.9, True), (0.985, False)])
def test_a_run_says_so_where_words_are_not_seen(
    share: float, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = RunConfig.model_validate(tree({"kind": "token_classification"}))
    curve = [
        Point(1, {"train/coverage": 1.0, "train/long_rows": 3.0, "teacher/a/coverage": share + 0.01}),
        Point(2, {"teacher/a/coverage": share - 0.01, "teacher/b/coverage": 1.0}),
    ]
    data: Any = SimpleNamespace(left_out={}, test="there", remarks=tuple, judged=(), held_out="test")
    notes = collect_notes(config, data, curve, [])
    wanted = [
        f"teacher a sees {share:.1%} of the words (wanted 98%): raise its max_length, or split long rows"
    ]
    assert list(notes) == ["3 training rows are over task.max_length 128: cut", *(wanted if said else [])]
    assert ("teacher a sees" in caplog.text) == said


# teachers of a subset -------------------------------------------------------------------------------------------


def test_a_teacher_of_a_subset_takes_what_it_does_not_know_from_the_others() -> None:
    """Units: both teachers; the one of the subset alone; nobody."""
    whole, part = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.75, 0.25, 1.0]).log()
    signals = Signals(
        teachers=("whole", "part"),
        teacher_languages=(None, None),
        logits_MNC=torch.stack([whole.expand(3, 3), part.expand(3, 3)]),
        covered_MN=torch.tensor([[True, False, False], [True, True, False]]),
        labels_N=torch.zeros(3, dtype=torch.int64),
        languages=("en",) * 3,
        columns_M=(None, (0, 1)),
    )
    weights_MN = torch.tensor([[0.5, 0.0, 0.0], [0.5, 1.0, 0.0]])
    logits_MNC = complete_logits(signals, weights_MN, "arithmetic")
    assert torch.allclose(logits_MNC[1, 0].softmax(0), torch.tensor([0.6, 0.2, 0.2]))
    assert torch.allclose(logits_MNC[1, 1].softmax(0), torch.tensor([0.75, 0.25, 0.0]))
    p_NK = combine_logits(logits_MNC, weights_MN, 1.0, "arithmetic").p_NK
    assert torch.allclose(p_NK[0], torch.tensor([0.55, 0.25, 0.2]))


def test_a_word_whose_gold_a_teacher_does_not_know_is_not_in_its_likelihood() -> None:
    logits = np.log(np.asarray([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], np.float32))
    logits[1, 1] = MASKED
    found = entities.compute_entity_metrics(logits, np.asarray([1, 1]), np.asarray([2]), TAGS)
    assert found["nll"] == pytest.approx(np.log(4), abs=1e-6)


# questions ------------------------------------------------------------------------------------------------------


def test_a_question_that_leaves_no_room_loses_its_end_and_is_counted() -> None:
    words = [f"w{i}" for i in range(30)]
    batch = asked([" ".join(words), "w1 w2"], ["w3 w4 w5 " * 8, "w6 w7"])
    tokenizer = SMALL.fit_tokenizer([" ".join(words)] * 3)
    rows = QuestionAnswering(max_length=32, stride=4).encode(tokenizer, batch)
    assert rows.long_B is not None and rows.long_B.tolist() == [True, False]
    assert rows.coverage == 1.0 and max(len(ids) for ids in rows.fields["input_ids"]) <= 32
    with pytest.raises(ConfigError, match=r"no room for a question[\s\S]*max_length 8, task.stride 7"):
        QuestionAnswering(max_length=8, stride=7).encode(tokenizer, batch)


# markers --------------------------------------------------------------------------------------------------------


def relations(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Who employs whom: the same words for both labels, only the markers tell."""
    draw = np.random.default_rng(seed)
    names, firms = ["Anna", "Bert", "Cleo", "Dan"], ["Acme", "Bolt", "Core"]
    texts, labels = [], []
    for _ in range(count):
        who, firm, label = draw.choice(names), draw.choice(firms), int(draw.integers(2))
        first, second = (("[E1]", "[/E1]"), ("[E2]", "[/E2]"))[:: 1 - 2 * label]
        texts.append(f"{first[0]} {who} {first[1]} works for {second[0]} {firm} {second[1]}")
        labels.append(label)
    return texts, labels


def test_a_relation_is_told_by_its_markers_alone() -> None:
    task = Classification(max_length=32, markers=MARKERS)
    texts, labels = relations(64)
    rows = rows_of(texts, labels)
    tokenizer = fit_tokenizer(SMALL, [(task, rows)])
    assert len(set(find_marker_ids(tokenizer, MARKERS).tolist())) == 4
    assert "e" not in "".join(t for t in tokenizer.get_vocab() if t.startswith("[e"))
    encoded = task.encode(tokenizer, rows.take(range(64)))
    assert not encoded.extra["unmarked_B"].any()
    model = SMALL.build(tokenizer, ["employs", "employed"], 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(25):
        batch = task.collate(encoded, range(64))
        loss = torch.nn.functional.cross_entropy(model(**batch.inputs).logits, batch.labels_N)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fresh, gold = relations(32, seed=1)
    batch = task.collate(task.encode(tokenizer, rows_of(fresh).take(range(32))), range(32))
    assert (model.eval()(**batch.inputs).logits.argmax(1).numpy() == gold).mean() > 0.95


def test_markers_that_are_cut_off_are_counted() -> None:
    texts, labels = relations(4)
    rows = rows_of(["long " * 30 + texts[0], *texts[1:]], labels)
    config = RunConfig.model_validate(
        tree({"kind": "classification", "max_length": 24, "markers": list(MARKERS)})
    )
    tokenizer = fit_tokenizer(SMALL, [(config.task, rows)])
    assert prepare_rows(config, rows, rows, tokenizer).facts["train/rows_without_markers"] == 1.0


def test_a_checkpoint_is_given_markers_and_keeps_what_it_knew(tmp_path: Path) -> None:
    path = save_transformer(tmp_path / "old")
    student = PretrainedStudent(path=str(path))
    texts, _ = texts_and_labels(4)
    task = Classification(markers=MARKERS)
    plain, tokenizer = student.fit_tokenizer([]), fit_tokenizer(student, [(task, rows_of(texts))])
    before, after = (student.build(t, ["negative", "positive"], 3).eval() for t in (plain, tokenizer))
    grown = after.get_input_embeddings().weight
    assert len(grown) == len(tokenizer) == len(plain) + 4  # type: ignore[arg-type]
    assert torch.equal(grown[:-4], before.get_input_embeddings().weight)
    made = models.TextModel(after, tokenizer, ("negative", "positive"))
    again = models.load_model(models.save_model(made, tmp_path / "new"))
    assert find_marker_ids(again.tokenizer, MARKERS).tolist() == find_marker_ids(tokenizer, MARKERS).tolist()


def test_a_tokenizer_that_cannot_keep_markers_says_so() -> None:
    task, rows = Classification(markers=MARKERS), rows_of(relations(4)[0])
    with pytest.raises(ConfigError, match="does not say where"):
        fit_tokenizer(LinearStudent(), [(task, rows)])
    with pytest.raises(ConfigError, match=r"cuts markers to pieces[\s\S]*\[E1\]"):
        task.encode(SMALL.fit_tokenizer(rows.texts), rows.take(range(4)))
