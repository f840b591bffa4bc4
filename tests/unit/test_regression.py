"""A number for a text or a pair: the loss in numpy, metrics against scipy, and models of plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats

import raykd
from raykd import models
from raykd.answers.codec import decode_answers
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.distill.shares import Counts
from raykd.distill.signals import UNLABELLED
from raykd.driver.loop import make_task_model
from raykd.errors import ConfigError, ModelError
from raykd.scoring.poor_teachers import find_wrong_scale
from raykd.scoring.score import collect_unit_answers, measure_system, score_ensemble, stack_signals
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from raykd.tasks import Regression, SystemAnswers
from raykd.tasks.kinds.regression import get_values
from raykd.tasks.scores.values import compute_value_metrics, fit_line
from raykd.teachers.teacher import Teacher
from tests.fakes import FixedSource, answer_slots, model_spec, text_batch, texts_and_labels
from tests.made_models import make_config, make_tokenizer

TEACHERS = [{"name": name, "languages": "all", "path": name} for name in ("a", "b")]
TAUGHT = {"alpha": 0.4, "terms": [{"divergence": {"kind": "logit_mse"}}], "weighting": {"kind": "uniform"}}


def rows_of(count: int, seed: int, unlabelled: float = 0.3) -> Rows:
    """Texts whose value grows with how good they are and how long."""
    texts, labels = texts_and_labels(count, seed)
    hidden = np.random.default_rng(seed).random(count) < unlabelled
    values = [
        () if h else (50.0 + 20.0 * y + len(t) / 10.0,) for t, y, h in zip(texts, labels, hidden, strict=True)
    ]
    labels_B = np.where(hidden, UNLABELLED, 0).astype(np.int64)
    return Rows(
        tuple(f"r{i}" for i in range(count)), tuple(texts), ("en",) * count, labels_B, values=tuple(values)
    )


def run_config(objective: dict[str, Any] | None = None, teachers: Any = (), **changes: Any) -> RunConfig:
    files = {"kind": "files", "paths": ["unused.jsonl"]}
    return RunConfig.model_validate({
        "task": {"kind": "regression", "max_length": 32},
        "data": {"train": files, "validation": files, "languages": ["en"]},
        "student": {"kind": "lstm", "embedding": 16, "hidden": 16, "vocab_size": 150, "dropout": 0.0},
        "objective": objective or {"alpha": 1.0},
        "teachers": list(teachers),
        "train": {"steps": 80, "batch_size": 16, "learning_rate": 0.02, "evaluations": 2},
        **changes,
    })  # fmt: skip


def loop_of(config: RunConfig, train: Rows) -> TrainingLoop:
    tokenizer = config.student.fit_tokenizer(train.texts)
    source = FixedSource(["a", "b"], [None, None], classes=1) if config.teachers else None
    prepared = prepare_rows(config, train, rows_of(60, 2, 0.0), tokenizer)
    return TrainingLoop(config, prepared, make_task_model(config, tokenizer), source)


# the mathematics ---------------------------------------------------------------------------------------------------


def test_the_loss_counts_in_standard_deviations_of_the_labelled_values() -> None:
    config, train = run_config(TAUGHT, TEACHERS), rows_of(120, 1)
    loop = loop_of(config, train)
    trainer, gold = loop.trainer, np.asarray([v[0] for v in train.values or () if v])
    assert trainer.task.measure_unit(train) == pytest.approx(gold.std())
    picked = np.arange(24)
    assert trainer.source is not None
    answers = trainer.source.submit(train.take(picked.tolist())).result()
    micro = trainer.make_micro_batch(picked, answers)
    with torch.no_grad():
        outputs = micro.encoded.run(loop.student.model)  # type: ignore[union-attr]
    found = trainer.evaluate(loop.engine, outputs, micro, 0.0, micro.counts)
    s_B = outputs.logits[:, 0].numpy().astype(np.float64)
    told = np.asarray([[3.0 * np.sin(len(t) + m) for t in train.texts[:24]] for m in (0, 1)]).mean(axis=0)
    own = [(i, v[0]) for i, v in enumerate((train.values or ())[:24]) if v]
    hard = np.mean([(s_B[i] - v) ** 2 for i, v in own])
    soft = np.mean((s_B - told) ** 2)
    assert 0 < len(own) < 24 and micro.counts == Counts(hard=len(own), soft=24)
    assert float(found.loss) == pytest.approx((0.4 * hard + 0.6 * soft) / gold.var(), rel=1e-4)
    loop.engine.close()


def test_a_new_head_begins_at_the_mean_and_the_student_learns_values_far_from_0(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    config, train = run_config(), rows_of(200, 1, 0.0)
    loop = loop_of(config, train)
    gold = np.asarray([v[0] for v in train.values or ()])
    assert float(loop.student.model.classifier.bias.detach()) == pytest.approx(gold.mean())  # type: ignore[union-attr]
    loop.run()
    last = loop.state.history[-1]
    assert last["eval/mean/pearson"] > 0.9 and last["eval/mean/mse"] < 0.3 * gold.var()
    assert config.metric == "mse" and "eval/mean/nll" not in last and loop.state.best is not None
    folder = models.save_model(loop.best_student(), tmp_path / "s")  # type: ignore[arg-type]
    loop.engine.close()
    models.register()
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    assert plain.config.problem_type == "regression" and plain.config.num_labels == 1
    texts = ["good it was", "bad room"]
    tokenizer = models.load_tokenizer(folder)
    wanted = [float(plain(**tokenizer([text], return_tensors="pt")).logits) for text in texts]  # type: ignore[operator]
    assert [row["value"] for row in raykd.load(folder).predict(texts)] == pytest.approx(wanted, abs=1e-4)


def test_metrics_are_those_of_scipy_and_a_constant_correlates_with_nothing() -> None:
    rng = np.random.default_rng(0)
    gold = np.round(rng.normal(size=50), 1)  # ties
    told = gold + rng.normal(size=50)
    found = compute_value_metrics(told, gold)
    assert found["pearson"] == pytest.approx(stats.pearsonr(told, gold)[0])
    assert found["spearman"] == pytest.approx(stats.spearmanr(told, gold)[0])
    assert found["mse"] == pytest.approx(np.square(told - gold).mean())
    assert found["mae"] == pytest.approx(np.abs(told - gold).mean())
    constant = compute_value_metrics(np.full(50, 0.1), gold)
    assert constant["pearson"] == constant["spearman"] == 0.0
    assert compute_value_metrics(gold[:1], gold[:1])["spearman"] == 0.0
    assert fit_line(told, gold) == pytest.approx(tuple(stats.linregress(told, gold)[:2]))
    assert fit_line(np.ones(3), np.arange(3.0)) is None


def test_scores_of_rows_without_a_value_are_left_out() -> None:
    rows = rows_of(30, 4)
    answers = SystemAnswers(np.full((30, 1), 60.0, np.float32), np.ones(30, np.int64), np.ones(30, bool))
    gold = np.asarray([v[0] for v in rows.values or () if v])
    assert 0 < len(gold) < 30
    found = Regression().compute_metrics(answers, rows, ())
    assert found["mse"] == pytest.approx(np.square(60.0 - gold).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"terms": [{"divergence": {"kind": "forward_kl"}}]}, "terms: [{divergence: {kind: logit_mse}}]"),
        ({"temperature": 4.0}, "objective.temperature plays no part"),
        ({"mixture": "geometric"}, "objective.mixture plays no part"),
        ({"label_smoothing": 0.1}, "objective.label_smoothing plays no part"),
        ({"focal_gamma": 2.0}, "focal_gamma plays no part"),
        ({"weighting": {"kind": "entropy"}}, "kind: by_language"),
        ({"weighting": {"kind": "confidence"}}, "kind: by_language"),
        ({"weighting": {"kind": "loss_softmax"}}, "kind: by_language"),
    ],
)
def test_what_compares_probabilities_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((ValidationError, ConfigError)) as caught:
        run_config({**TAUGHT, **changes}, TEACHERS)
    assert said in str(caught.value)


def test_fixed_and_routed_weights_are_fine() -> None:
    weights = {"kind": "fixed", "by_teacher": {"a": 1, "b": 3}}
    assert run_config({**TAUGHT, "weighting": weights}, TEACHERS).metric == "mse"
    assert run_config({**TAUGHT, "weighting": {"kind": "by_language"}}, TEACHERS).teachers


# models ------------------------------------------------------------------------------------------------------------

TEXTS = ["good text here", "bad", "it was so"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regression as plain transformers saves it: one output, no problem_type."""
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("plain")
    tokenizer = make_tokenizer("bert", TEXTS * 3)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(
        make_config("bert", tokenizer, num_labels=1)
    ).eval()
    model.classifier.weight.data.mul_(30.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain_values(folder: Path) -> np.ndarray:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForSequenceClassification.from_pretrained(folder),
    )
    with torch.no_grad():
        return np.asarray([float(model(**tokenizer([t], return_tensors="pt")).logits) for t in TEXTS])


def answer(spec: Any) -> np.ndarray:
    found, _ = decode_answers(Teacher(spec).answer(text_batch(TEXTS)).bodies)
    return np.asarray(found.logits_NC[:, 0])  # type: ignore[union-attr]


def test_a_model_of_plain_transformers_teaches_on_its_scale_or_the_runs(plain: Path) -> None:
    own, task = plain_values(plain), Regression()
    assert answer(model_spec("t", str(plain), (), task, dtype="float32")) == pytest.approx(own, abs=1e-4)
    scale = {"factor": 5.0, "offset": 1.0, "sigmoid": True}
    scaled = model_spec("t", str(plain), (), task, dtype="float32", scale=scale)
    assert answer(scaled) == pytest.approx(5.0 / (1.0 + np.exp(-own)) + 1.0, abs=1e-4)
    stored = {Teacher(model_spec("t", str(plain), (), task, scale=s)).open().answers for s in (None, scale)}
    assert len(stored) == 2  # answers of another scale have a store of their own
    assert [row["value"] for row in raykd.load(plain).predict(TEXTS)] == pytest.approx(own, abs=1e-4)
    with pytest.raises(ModelError, match="one output is a number"):
        models.inspect_model(plain, "classification")


def test_a_cross_encoder_that_ends_in_a_sigmoid_says_so(plain: Path, tmp_path: Path) -> None:
    for file in plain.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"scale: \{sigmoid: true"):
        Teacher(model_spec("t", str(tmp_path), (), Regression())).open()
    assert Teacher(model_spec("t", str(tmp_path), (), Regression(), scale={"sigmoid": True})).open()


def test_a_regression_of_several_numbers_is_refused(plain: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    tokenizer = models.load_tokenizer(plain)
    config = make_config("bert", tokenizer, num_labels=3, problem_type="regression")
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="several numbers"):
        models.inspect_model(tmp_path, "regression")


def test_a_function_teaches_numbers(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def predict(texts):\n    return [len(text) for text in texts]\n")
    teacher = {
        "name": "t",
        "languages": "all",
        "function": f"{tmp_path}/f.py:predict",
        "scale": {"factor": 0.1},
    }
    config = run_config(TAUGHT | {"weighting": {"kind": "by_language"}}, [teacher], serving={"store": None})
    from raykd.driver.pool import make_teacher_spec

    assert answer(make_teacher_spec(config, config.teachers[0], {})) == pytest.approx(
        [len(t) / 10 for t in TEXTS]
    )


def test_evaluate_scores_a_file_of_pairs(plain: Path, tmp_path: Path) -> None:
    values = plain_values(plain)
    lines = [{"text": t, "score": float(v) + 0.5} for t, v in zip(TEXTS, values, strict=True)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = raykd.evaluate(plain, tmp_path / "a.jsonl").overall.metrics
    assert scores["mse"] == pytest.approx(0.25, abs=1e-3) and scores["pearson"] == pytest.approx(
        1.0, abs=1e-4
    )


# teachers together, and on another scale ------------------------------------------------------------------------


def test_the_ensemble_is_the_weighted_mean_of_the_values() -> None:
    rows = rows_of(12, 3)
    weights = {"kind": "fixed", "by_teacher": {"a": 1, "b": 3}}
    config = run_config({**TAUGHT, "weighting": weights}, TEACHERS)
    told = [np.arange(12.0)[:, None], np.full((12, 1), 8.0)]
    slots = [answer_slots(name, values) for name, values in zip("ab", told, strict=True)]
    signals = stack_signals(config, slots, [None, None], rows)
    every = np.ones(12, dtype=bool)
    alone = [
        measure_system(s.teacher, "teacher", config, collect_unit_answers(config, s, rows), every, rows, 1)[0]
        for s in slots
    ]
    _, scores = score_ensemble(config, signals, every, alone, rows)
    there = rows.labelled
    wanted = compute_value_metrics((0.25 * told[0] + 0.75 * told[1])[there, 0], get_values(rows)[there])
    assert scores.macro == pytest.approx(wanted, rel=1e-5)


def test_a_teacher_on_another_scale_is_told_its_scale() -> None:
    rng = np.random.default_rng(0)
    gold = rng.uniform(0.0, 5.0, size=200)
    told = gold / 5.0 + rng.normal(scale=0.1, size=200)
    found = find_wrong_scale("t", told, gold, on_poor="stop")
    line = stats.linregress(told, gold)
    assert found is not None and found.stops
    assert f"teachers.t.scale: {{factor: {line.slope:.4g}, offset: {line.intercept:.4g}}}" in found.cause
    assert find_wrong_scale("t", line.slope * told + line.intercept, gold, on_poor="stop") is None
    assert (
        find_wrong_scale("t", np.full(200, gold.mean() + 0.01), gold, on_poor="stop") is None
    )  # no worse than luck
    lost = find_wrong_scale("t", rng.permutation(told), gold, on_poor="warn")
    assert lost is not None and not lost.stops and "is it a model of this task" in lost.cause
