"""Several labels a text: units of two choices against sigmoids, binary cross-entropy, scikit-learn and transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_recall_fscore_support

import raykd
from raykd import models
from raykd.answers.codec import decode_answers
from raykd.config import DataConfig, RunConfig
from raykd.data.read import read_rows
from raykd.data.rows import Rows
from raykd.data.summary import summarize_rows
from raykd.distill.objective import Objective
from raykd.distill.shares import Counts
from raykd.distill.signals import UNLABELLED, Signals
from raykd.errors import DataError, LabelMismatchError, ModelError
from raykd.models import PretrainedStudent
from raykd.prediction.predictor import Predictor
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from raykd.tasks import MultiLabel, SystemAnswers
from raykd.tasks.kinds.multi_label import join_logits
from raykd.tasks.scores.classes import ClassAnswers, compute_class_scores
from raykd.tasks.scores.label_sets import FEWEST, compute_set_metrics, tune_thresholds
from raykd.teachers.backends.given_numbers import convert_to_logits
from raykd.teachers.teacher import Teacher
from tests.fakes import model_spec, save_transformer, text_batch
from tests.made_models import make_config, make_tokenizer, plain_probabilities

LABELS = ("funny", "sad", "long")
TASK = MultiLabel(outputs=3)


def answers_of(z_BL: Any, covered_BL: Any = None) -> SystemAnswers:
    z_BL = np.asarray(z_BL, dtype=np.float32)
    covered = np.ones(z_BL.size, bool) if covered_BL is None else np.asarray(covered_BL).reshape(-1)
    logits_NC = np.stack([np.zeros(z_BL.size, np.float32), z_BL.reshape(-1)], axis=1)
    return SystemAnswers(logits_NC, np.full(len(z_BL), z_BL.shape[1]), covered)


def rows_of(gold: Any) -> Rows:
    golds = tuple(tuple(row) for row in gold)
    labels_B = np.asarray([0 if row else UNLABELLED for row in golds], dtype=np.int64)
    ids = tuple(f"r{i}" for i in range(len(golds)))
    texts = tuple(" ".join(["word"] * (i % 5 + 1)) for i in range(len(golds)))
    return Rows(ids, texts, ("en",) * len(golds), labels_B, golds=golds)


def read(tmp_path: Path, text: str, name: str = "a.jsonl", **data: Any) -> Rows:
    (tmp_path / name).write_text(text, encoding="utf-8")
    source = {"kind": "files", "paths": [name]}
    config = DataConfig.model_validate(
        {"train": source, "validation": source, "languages": ["en"], "labels": list(LABELS), **data}
    )
    config.check("labels")
    return read_rows(config.train, config, base_dir=tmp_path, labelled=True, form="labels")


# what is read ---------------------------------------------------------------------------------------------------


def test_lists_and_texts_of_labels_and_an_empty_list(tmp_path: Path) -> None:
    lines = [
        {"text": "a", "labels": v}
        for v in (["sad", "funny"], [], "long", "sad; long", "funny|sad", '["long"]')
    ]
    rows = read(tmp_path, "".join(json.dumps(line) + "\n" for line in lines))
    assert rows.golds == ((1, 1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 0), (0, 0, 1))
    assert rows.labelled.all()
    found = summarize_rows(rows, "labels", LABELS)["languages"]
    assert found == {"en": {"labelled": 6, "funny": 2, "sad": 3, "long": 3, "without any": 1}}


def test_a_column_of_0_and_1_for_each_label_and_one_that_nobody_looked_at(tmp_path: Path) -> None:
    table = "text,funny,sad,long\na,1,0,0\nb,0,0,0\nc,1,,-1\nd,-1,-1,-1\n"
    rows = read(tmp_path, table, "a.csv", empty_label="unlabeled")
    assert rows.golds == ((1, 0, 0), (0, 0, 0), (1, UNLABELLED, UNLABELLED), ())
    assert rows.labelled.tolist() == [True, True, True, False]
    with pytest.raises(DataError, match="column 'sad': got '2', wanted 0 or 1"):
        read(tmp_path, "text,funny,sad,long\na,1,2,0\n", "b.csv")


def test_tags_become_a_set_of_labels_by_a_map_that_merges_and_drops(tmp_path: Path) -> None:
    line = json.dumps({"text": "a b c", "tags": ["O", "B-joke", "I-joke", "B-tear"], "lang": "en"})
    names = {"O": None, "B-joke": "funny", "I-joke": "funny", "B-tear": "sad"}
    assert read(tmp_path, line, columns={"labels": "tags"}, label_map=names).golds == ((1, 1, 0),)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("happy", "got 'happy', wanted one of"),
        (["sad", None], "wanted labels alone"),
        ({"sad": 1}, "wanted a list of labels"),
        (None, "[] for none"),
    ],
)
def test_other_cells_are_bad_rows(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, json.dumps({"text": "a", "labels": value}))
    assert said in str(caught.value)


# the mathematics -------------------------------------------------------------------------------------------------


def test_units_of_two_choices_are_sigmoids_in_every_term_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = (3.0 * torch.randn(4, 3, generator=generator) for _ in range(2))
    gold = torch.randint(0, 2, (4, 3), generator=generator)
    pair = lambda z: torch.stack([torch.zeros(12), z.reshape(-1)], dim=1)  # noqa: E731
    signals = Signals(
        ("t",),
        (None,),
        pair(teacher)[None],
        torch.ones(1, 12, dtype=torch.bool),
        gold.reshape(-1),
        ("en",) * 12,
    )
    temperature = 2.5
    objective = Objective.model_validate(
        {"alpha": 0.3, "temperature": temperature, "weighting": {"kind": "uniform"}}
    )
    found = objective.evaluate(pair(student), gold.reshape(-1), signals, 0.0, Counts(hard=12, soft=12)).loss
    hard = torch.nn.functional.binary_cross_entropy_with_logits(student, gold.float())
    p = torch.sigmoid(teacher / temperature)
    soft = torch.nn.functional.binary_cross_entropy_with_logits(student / temperature, p)
    entropy = torch.nn.functional.binary_cross_entropy(p, p)
    assert float(found) == pytest.approx(
        float(0.3 * hard + 0.7 * temperature**2 * (soft - entropy)), rel=1e-5
    )


def test_labels_that_lead_to_one_are_joined_to_any_of_them() -> None:
    z_NK = np.asarray([[0.3, -1.2, 2.0], [-40.0, -41.0, -45.0], [50.0, 60.0, -3.0]], dtype=np.float32)
    p_NK = 1.0 / (1.0 + np.exp(-z_NK.astype(np.float64)))
    wanted = 1.0 - (1.0 - p_NK[0]).prod()
    joined = join_logits(z_NK).astype(np.float64)
    assert 1.0 / (1.0 + np.exp(-joined[0])) == pytest.approx(wanted, rel=1e-6)
    # Small probabilities add up; where one label is sure, so are all together.
    assert joined[1] == pytest.approx(np.log(p_NK[1].sum()), rel=1e-6)
    assert joined[2] == pytest.approx(110.0 + np.log1p(np.exp(-3.0)), rel=1e-6) and np.isfinite(joined).all()
    assert join_logits(z_NK[:, :1]).tolist() == z_NK[:, 0].tolist()


def test_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    z_BL, gold_BL = rng.normal(size=(80, 3)), rng.integers(0, 2, size=(80, 3))
    answers, rows = answers_of(z_BL), rows_of(gold_BL.tolist())
    chosen_BL = (z_BL >= 0.0).astype(int)
    found = TASK.compute_metrics(answers, rows, LABELS)
    assert found["micro_f1"] == pytest.approx(f1_score(gold_BL, chosen_BL, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(gold_BL, chosen_BL, average="macro"))
    assert found["exact_match"] == pytest.approx(accuracy_score(gold_BL, chosen_BL))
    p_N = 1.0 / (1.0 + np.exp(-z_BL.reshape(-1)))
    assert found["nll"] == pytest.approx(log_loss(gold_BL.reshape(-1), p_N), rel=1e-5)
    shares = TASK.compute_row_shares(answers, rows, LABELS)
    assert shares.numerator_B.sum() / shares.denominator_B.sum() == pytest.approx(found["micro_f1"])
    table = compute_class_scores(TASK.compare_classes(answers, rows, LABELS))
    each = precision_recall_fscore_support(gold_BL, chosen_BL)
    for at, score in enumerate(table.classes):
        assert (score.precision, score.recall, score.f1, score.support) == pytest.approx(
            [column[at] for column in each]
        )
    assert {a.name: a.f1 for a in table.averages}["micro"] == pytest.approx(found["micro_f1"])
    # A teacher is not bad at a label that it lacks, but its mean is over all labels.
    lacking = table.leave_out({LABELS[1]}, LABELS)
    assert [c.name for c in lacking.classes] == [LABELS[0], LABELS[2]]
    assert lacking.averages == table.averages


def test_an_entity_type_is_left_out_with_all_its_tags() -> None:
    gold_X = np.array([0, 1, 1])
    table = compute_class_scores(ClassAnswers(("PER", "LOC"), gold_X, gold_X))
    tags = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    assert [c.name for c in table.leave_out({"B-LOC", "I-LOC"}, tags).classes] == ["PER"]
    assert table.leave_out({"I-LOC"}, tags) == table


def test_a_label_that_nobody_looked_at_and_one_that_is_unknown_do_not_count() -> None:
    answers = answers_of([[2.0, 2.0, -2.0], [2.0, 9.0, 2.0]], [[True, True, True], [True, False, True]])
    rows = rows_of([(1, UNLABELLED, 0), (1, 1, 0)])
    found = TASK.compute_metrics(answers, rows, LABELS)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))  # the unknown label is not given: one miss
    assert found["exact_match"] == 0.5
    assert found["nll"] == pytest.approx(np.log1p(np.exp([-2.0, -2.0, -2.0, 2.0])).mean(), rel=1e-5)


def test_thresholds_are_the_best_of_all_and_a_rare_label_keeps_its_half() -> None:
    rng = np.random.default_rng(5)
    gold_BL = (rng.random((200, 3)) < [0.3, 0.1, 0.02]).astype(np.int64)
    p_BL = 1.0 / (1.0 + np.exp(-(2.0 * gold_BL - 2.5 + rng.normal(size=gold_BL.shape))))
    found = tune_thresholds(p_BL, gold_BL)
    assert gold_BL[:, 2].sum() < FEWEST and found[2] == 0.5 and found[0] < 0.5
    for label in (0, 1):
        best = max(f1_score(gold_BL[:, label], p_BL[:, label] >= cut) for cut in p_BL[:, label])
        assert f1_score(gold_BL[:, label], p_BL[:, label] >= found[label]) == pytest.approx(best)
    tuned = TASK.model_copy(update={"thresholds": found})
    logits = np.log(p_BL / (1 - p_BL))
    scores = tuned.compute_metrics(answers_of(logits), rows_of(gold_BL.tolist()), LABELS)
    wanted = compute_set_metrics(p_BL >= np.asarray(found), gold_BL)
    assert (
        scores["tuned_micro_f1"] == pytest.approx(wanted["micro_f1"])
        and scores["micro_f1"] < wanted["micro_f1"]
    )
    (shown,) = tuned.build_predictions(answers_of(logits[:1]), rows_of([()]), LABELS)
    assert shown["labels"] == [n for n, p, cut in zip(LABELS, p_BL[0], found, strict=True) if p >= cut]


# models -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two labels as plain transformers saves it, in another order than the run's."""
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("plain")
    tokenizer = make_tokenizer("bert", ["a funny text", "a sad text", "long " * 9])
    config = make_config(
        "bert", tokenizer, id2label={0: "sad", 1: "funny"}, label2id={"sad": 0, "funny": 1},
        problem_type="multi_label_classification",
    )  # fmt: skip
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.classifier.weight.data.mul_(30.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


TEXTS = ["a funny text", "sad sad", "long text a", "text"]


def test_a_model_of_plain_transformers_teaches_the_labels_that_it_knows(plain: Path) -> None:
    spec = model_spec("t", str(plain), LABELS, TASK, missing=["long"], dtype="float32")
    answer, units_B = decode_answers(Teacher(spec).answer(text_batch(TEXTS)).bodies)
    assert answer is not None and units_B.tolist() == [3] * 4
    assert answer.covered_N.reshape(4, 3).tolist() == [[True, True, False]] * 4
    own = np.log(plain_probabilities(plain, TEXTS))  # softmax: differences of logits are the model's
    z_BL = answer.logits_NC[:, 1].reshape(4, 3)  # type: ignore[attr-defined]
    assert z_BL[:, 0] - z_BL[:, 1] == pytest.approx(own[:, 1] - own[:, 0], abs=1e-4)
    with pytest.raises(LabelMismatchError, match=r"teachers.t.missing: \[long\]"):
        Teacher(model_spec("t", str(plain), LABELS, TASK)).open()
    one = model_spec("t", str(plain), ("funny", "long"), TASK.with_labels(["funny", "long"]), missing=["long"], label_map={"sad": None})  # fmt: skip
    assert Teacher(one).open().columns == ((1,), ())  # a teacher of a single label has something to say


def test_predict_evaluate_and_other_tasks(plain: Path, tmp_path: Path) -> None:
    loaded = raykd.load(plain)
    (row,) = loaded.predict(["a funny text"])
    z = np.log(plain_probabilities(plain, ["a funny text"]))[0]
    p = row["probabilities"]
    assert set(p) == {"sad", "funny"} and row["labels"] == [
        name for name in ("sad", "funny") if p[name] >= 0.5
    ]
    (short,) = loaded.predict(["a funny text"], probabilities=False)
    assert short == {**row, "probabilities": {name: p[name] for name in row["labels"]}}
    logit = {name: np.log(value / (1 - value)) for name, value in p.items()}
    assert logit["sad"] - logit["funny"] == pytest.approx(z[0] - z[1], abs=1e-3)
    (tmp_path / "a.csv").write_text("text,funny,sad\na funny text,1,0\nsad sad,0,1\ntext,0,0\n")
    scores = raykd.evaluate(plain, tmp_path / "a.csv").overall.metrics
    golds = np.asarray([[0, 1], [1, 0], [0, 0]])
    chosen = [
        [name in r["labels"] for name in ("sad", "funny")]
        for r in loaded.predict(["a funny text", "sad sad", "text"])
    ]
    assert scores["micro_f1"] == pytest.approx(
        f1_score(golds, np.asarray(chosen).astype(int), average="micro")
    )
    with pytest.raises(ModelError, match="several labels at once"):
        models.inspect_model(plain, "classification")


def test_a_classifier_is_no_teacher_of_several_labels(tmp_path: Path) -> None:
    folder = save_transformer(tmp_path / "t", labels=("funny", "sad", "long"))
    with pytest.raises(ModelError, match='"problem_type": "multi_label_classification"'):
        models.inspect_model(folder, "multi_label")


def test_a_student_from_a_checkpoint_keeps_a_head_of_the_same_labels_alone(plain: Path) -> None:
    kept = PretrainedStudent(path=str(plain)).build(None, ("sad", "funny"), 0, "multi_label")
    fresh = PretrainedStudent(path=str(plain)).build(None, ("sad", "funny"), 0, "classification")
    own = models.load_model(plain).model.classifier.weight
    assert torch.equal(kept.classifier.weight, own) and not torch.equal(fresh.classifier.weight, own)  # type: ignore[union-attr]
    assert kept.config.problem_type == "multi_label_classification"


# a run ------------------------------------------------------------------------------------------------------------


def run_config(**changes: Any) -> RunConfig:
    files = {"kind": "files", "paths": ["unused.jsonl"]}
    return RunConfig.model_validate({
        "task": {"kind": "multi_label", "max_length": 16},
        "data": {"train": files, "validation": files, "labels": LABELS, "languages": ["en"]},
        "student": {"kind": "lstm", "embedding": 16, "hidden": 16, "vocab_size": 120, "dropout": 0.0},
        "objective": {"alpha": 1.0},
        "train": {"steps": 60, "batch_size": 16, "learning_rate": 0.02, "evaluations": 2},
        **changes,
    })  # fmt: skip


def test_a_student_learns_and_is_saved_with_thresholds_for_plain_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    config = run_config()
    assert config.task.outputs == 3 and config.metric == "micro_f1"  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    held = rng.integers(0, 2, size=(120, 3))
    texts = tuple(
        " ".join([*("ha" for _ in range(a)), *("alas" for _ in range(b)), *(["on"] * (6 if c else 1))])
        for a, b, c in held.tolist()
    )
    rows = replace(rows_of(held.tolist()), texts=texts)
    tokenizer = config.student.fit_tokenizer(texts)
    student = models.TextModel(
        config.student.build(tokenizer, LABELS, 0, "multi_label"),
        tokenizer,
        LABELS,
        task="multi_label",
        max_length=16,
    )
    loop = TrainingLoop(config, prepare_rows(config, rows, rows, tokenizer), student, None)
    loop.run()
    assert loop.state.best is not None and loop.state.best > 0.95
    best = loop.best_student()
    loop.engine.close()
    assert isinstance(best, models.TextModel) and len(best.settings["thresholds"]) == 3
    folder = models.save_model(best, tmp_path / "s")
    loaded = raykd.load(folder)
    assert Predictor.of(models.load_model(folder)).task.thresholds == tuple(best.settings["thresholds"])  # type: ignore[attr-defined]
    models.register()
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    assert plain.config.problem_type == "multi_label_classification"
    inputs = tokenizer([texts[0]], return_tensors="pt")
    p = torch.sigmoid(plain(**inputs).logits)[0].tolist()
    (row,) = loaded.predict([texts[0]])
    assert list(row["probabilities"].values()) == pytest.approx(p, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": {"alpha": 1.0, "class_weights": "balanced"}}, "thresholds are tuned"),
        ({"task": {"kind": "multi_label", "thresholds": [0.5]}}, "1 numbers for 3 labels"),
        (
            {"teachers": [{"name": "t", "languages": "all", "path": "t", "scale": {"factor": 2}}]},
            "scale plays no part",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        run_config(**changes)
    assert said in str(caught.value)


# other kinds of teacher, and MLflow -----------------------------------------------------------------------------


def test_probabilities_of_a_function_stand_each_alone() -> None:
    p_NC = np.asarray([[0.9, 0.8, 0.0], [0.5, 1.0, 0.25]])
    z_NC = convert_to_logits(p_NC, "probabilities", "teacher t", "teachers.t.output", several=True)
    assert 1.0 / (1.0 + np.exp(-z_NC.astype(np.float64))) == pytest.approx(p_NC, abs=1e-6)
    assert np.isfinite(z_NC).all()
    for wrong in ([[1.2, 0.1, 0.0]], [[-0.1, 0.1, 0.0]]):
        with pytest.raises(ModelError, match=r"teachers\.t\.output: logits"):
            convert_to_logits(
                np.asarray(wrong), "probabilities", "teacher t", "teachers.t.output", several=True
            )


def test_a_served_model_answers_with_the_columns_of_its_signature() -> None:
    rows = rows_of([(), ()])
    made = TASK.build_predictions(answers_of([[2.0, -1.0, 0.5], [-3.0, -3.0, -3.0]]), rows, LABELS)
    columns = TASK.to_columns(made, LABELS)
    assert list(columns) == [column.name for column in TASK.build_signature(LABELS).outputs]
    assert columns["labels"] == ['["funny", "long"]', "[]"]
    assert columns["p_sad"] == pytest.approx([1 / (1 + np.e), 1 / (1 + np.exp(3.0))], abs=1e-6)
