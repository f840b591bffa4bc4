"""A teacher's labels become the run's: merged, dropped or missing, and taught over what the teacher knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from raykd.answers.layout import StudentUnits, lay_out_answers
from raykd.config import RunConfig
from raykd.config.loading import validate_run
from raykd.data.rows import Rows
from raykd.distill.losses import Divergence
from raykd.distill.objective import Objective
from raykd.distill.signals import MASKED
from raykd.distill.weighting import Fixed, Uniform
from raykd.distill.weightings.confidence import Confidence, Entropy, LossSoftmax
from raykd.distill.weightings.routing import ByLanguage
from raykd.ensemble.mixing import mix_coalition
from raykd.ensemble.units import WORST_NLL, LabelledUnits
from raykd.errors import LabelMismatchError
from raykd.parse import parse_yaml
from raykd.preflight.model_check import describe_columns
from raykd.preflight.teacher_check import check_teacher
from raykd.scoring.teacher_scores import compare_with_one_label
from raykd.tasks import Classification
from raykd.tasks.label_columns import ColumnMap, map_label_columns
from raykd.tasks.schemes import map_tag_columns
from raykd.tasks.scores.classification import compute_classification_metrics
from raykd.teachers.teacher import Teacher
from tests.fakes import answer_slots, logits_of, model_spec, save_transformer, text_batch, texts_and_labels

STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")
TWO = {"1 star": "negative", "2 stars": "negative", "4 stars": "positive", "5 stars": "positive"}
RUN = ("negative", "neutral", "positive")


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
def test_merged_labels_have_the_sum_of_probabilities_and_dropped_ones_are_conditioned_away(seed: int) -> None:
    logits = np.random.default_rng(seed).normal(scale=4.0, size=(20, 5)).astype(np.float32)
    p = softmax(logits.astype(np.float64))
    merged = map_label_columns(STARS, RUN, {**TWO, "3 stars": "neutral"}, "t")
    wanted = np.stack([p[:, 0] + p[:, 1], p[:, 2], p[:, 3] + p[:, 4]], axis=1)
    np.testing.assert_allclose(softmax(merged.apply(logits)), wanted, rtol=1e-4, atol=1e-7)
    dropped = map_label_columns(STARS, ("positive", "negative"), {**TWO, "3 stars": None}, "t")
    rest = 1.0 - p[:, 2]
    np.testing.assert_allclose(softmax(dropped.apply(logits))[:, 0], (p[:, 3] + p[:, 4]) / rest, rtol=1e-4)
    assert (merged.unknown, dropped.unknown) == ((), ())


def test_names_that_agree_need_no_map_and_their_order_plays_no_part() -> None:
    found = map_label_columns(["positive", "negative"], ("negative", "positive"), {}, "t")
    assert found.columns == ((1,), (0,))
    missing = map_label_columns(["positive", "negative"], RUN, {}, "t", ["neutral"])
    assert (missing.columns, missing.unknown) == (((1,), (), (0,)), (1,))


@pytest.mark.parametrize(
    ("label_map", "missing", "said"),
    [
        ({**TWO, "3 star": None}, (), "3 star"),
        ({**TWO, "3 stars": "neutal"}, (), "neutal"),
        (TWO, ("neutral",), r"label_map: \{3 stars: \.\.\.\}"),
        ({**TWO, "3 stars": None}, (), r"missing: \[neutral\]"),
        ({**TWO, "3 stars": "neutral"}, ("neutral",), r"label_map: \{3 stars: null\}"),
        ({**TWO, "3 stars": None}, ("neutral", "nuetral"), "nuetral"),
        (dict.fromkeys(STARS, "negative"), ("neutral", "positive"), "fewer than two"),
    ],
    ids=str,
)
def test_any_other_gap_is_refused_with_both_lists(
    label_map: dict[str, str | None], missing: tuple[str, ...], said: str
) -> None:
    with pytest.raises(LabelMismatchError, match=said) as caught:
        map_label_columns(STARS, RUN, label_map, "t", missing)
    assert str(list(STARS)) in str(caught.value) and str(list(RUN)) in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_map_that_is_advised_is_one_that_yaml_reads_as_it_is_meant() -> None:
    own = ["sad ", "a: b", "no", "0", "été", "-"]
    with pytest.raises(LabelMismatchError) as caught:
        map_label_columns(own, ("sad", "glad"), {}, "t")
    written = str(caught.value.next_step).partition(".label_map: ")[2]
    read = parse_yaml(written, "advice")
    assert isinstance(read, dict) and list(map(str, read)) == own
    assert [read[label] for label in own[:2]] == ["sad", "..."]


def test_tags_and_types_are_dropped_by_null() -> None:
    own, wanted = ["O", "B-PER", "I-PER", "B-MISC", "I-MISC"], ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    found = map_tag_columns(own, wanted, {"MISC": None}, "t", ["LOC"])
    assert found.columns == ((0,), (1,), (2,), (), ())
    single = map_tag_columns(own, wanted, {"MISC": "O", "B-MISC": None}, "t")
    assert single.columns == ((0, 4), (1,), (2,), (), ())
    for label_map, missing, said in (
        ({"MSIC": None, "MISC": None}, (), "MSIC in label_map"),
        ({"MISC": None}, ("PER",), "PER in missing"),
        ({"MISC": None}, ("LOK",), "LOK in missing"),
        ({"MISC": None, "O": None}, (), "outside tag"),
    ):
        with pytest.raises(LabelMismatchError, match=said) as caught:
            map_tag_columns(own, wanted, label_map, "t", missing)
        assert str(own) in str(caught.value) and str(wanted) in str(caught.value)


def test_a_saved_model_answers_with_the_sums_of_its_own_probabilities(tmp_path: Path) -> None:
    folder = save_transformer(tmp_path / "stars", labels=STARS)
    texts, _ = texts_and_labels(9, 3)
    spec = model_spec(
        "t", str(folder), RUN, Classification(max_length=32), label_map={**TWO, "3 stars": None},
        missing=("neutral",), dtype="float32",
    )  # fmt: skip
    teacher = Teacher(spec)
    assert teacher.open().columns == ((0, 1), (), (3, 4))
    answers = logits_of(teacher.answer(text_batch(texts)))
    assert np.isneginf(answers[:, 1]).all()
    tokenizer, model = (
        load.from_pretrained(folder) for load in (AutoTokenizer, AutoModelForSequenceClassification)
    )
    with torch.no_grad():
        p = np.concatenate(
            [model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1).numpy() for text in texts]
        )
    kept = np.stack([p[:, 0] + p[:, 1], p[:, 3] + p[:, 4]], axis=1)
    np.testing.assert_allclose(softmax(answers[:, [0, 2]]), kept / kept.sum(1, keepdims=True), rtol=1e-4)


WEIGHTINGS = (
    *(Uniform(), ByLanguage(), Entropy(), Confidence(), LossSoftmax()),
    Fixed(by_teacher={"a": 0.3, "b": 0.7}),
)


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=lambda w: w.kind)
@pytest.mark.parametrize(
    "divergence",
    [one for one in get_args(get_args(Divergence)[0]) if one.least_choices == 2 or not one.equal_choices],
    ids=lambda d: d.__name__,
)
def test_a_missing_label_is_not_taught_under_any_divergence_and_weighting(
    divergence: Any, weighting: Any
) -> None:
    """The loss is that of the run without the label: the student's distribution is conditioned on the others."""
    generator = np.random.default_rng(7)
    whole = generator.normal(scale=2.0, size=(2, 6, 3)).astype(np.float32)
    student = torch.from_numpy(generator.normal(scale=2.0, size=(6, 3)).astype(np.float32))
    gold = torch.tensor([0, 2, 0, 2, 2, 0])
    cut = whole.copy()
    cut[:, :, 1] = -np.inf
    term = {"divergence": divergence()}
    objective = Objective(alpha=0.0, temperature=2.0, terms=(term,), weighting=weighting)  # type: ignore[arg-type]
    losses, gradients = [], []
    for logits, columns in ((cut, [0, 1, 2]), (whole[:, :, [0, 2]], [0, 2])):
        labels = torch.tensor([columns.index(int(label)) for label in gold])
        slots = [
            answer_slots(name, own.tolist(), np.ones(6, bool)) for name, own in zip("ab", logits, strict=True)
        ]
        units = StudentUnits(labels, np.ones(6, np.int64), ("en",) * 6, len(columns))
        signals = lay_out_answers(slots, [None, None], units)
        own = student[:, columns].clone().requires_grad_()
        result = objective.evaluate(own, labels, signals, 0.5, objective.counts(labels, signals))
        losses.append(result.loss.detach())
        gradients.append(torch.autograd.grad(result.loss, own)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[0][:, [0, 2]], gradients[1], rtol=1e-5, atol=1e-6)
    assert gradients[0][:, 1].abs().max() == 0.0


def test_a_missing_gold_label_counts_as_wrong_and_not_as_an_infinite_loss() -> None:
    logits = np.asarray([[2.0, MASKED, 0.0], [0.0, MASKED, 2.0], [1.0, MASKED, 0.0]], dtype=np.float32)
    found = compute_classification_metrics(logits, np.asarray([0, 2, 1]))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["nll"] == pytest.approx(np.log1p(np.exp(-2.0)))


def config_of(**teacher: Any) -> RunConfig:
    rows = {"kind": "files", "paths": ["x.jsonl"]}
    config = validate_run(
        {
            "data": {"train": rows, "validation": rows, "labels": list(RUN), "languages": ["en"]},
            "task": {"kind": "classification"},
            "student": {"kind": "linear"},
            "teachers": [{"name": "t", "languages": "all", "path": "x", **teacher}],
        },
        "test",
    )
    assert isinstance(config, RunConfig)
    return config


def test_a_teacher_is_judged_on_the_labels_that_it_knows() -> None:
    """Most rows are neutral, which it lacks: it is right on the others, so it is not poor."""
    gold = np.asarray([1] * 70 + [0] * 20 + [2] * 10)
    rows = Rows(**vars(text_batch([f"t{i}" for i in range(100)], labels=gold.tolist())))
    logits = np.asarray([[3.0 * (g == 0), -np.inf, 2.0 * (g == 2)] for g in gold], dtype=np.float32)
    found = compare_with_one_label(config_of(), answer_slots("t", logits.tolist(), np.ones(100, bool)), rows)
    assert found is not None and not found.is_poor
    assert (found.units, found.accuracy, found.share) == (30, 1.0, 20 / 30)


def test_a_coalition_that_lacks_a_label_has_the_worst_nll_there_and_its_temperature_is_fitted_on_the_others() -> (
    None
):
    gold = np.asarray([0, 2, 1, 0])
    logits = np.asarray([[2.0, -np.inf, 0.0], [0.0, -np.inf, 2.0], [1.0, -np.inf, 0.0], [0.0, -np.inf, 1.0]])
    slots = [answer_slots("a", logits.tolist(), np.ones(4, bool))]
    units = StudentUnits(torch.full((4,), -100), np.ones(4, np.int64), ("en",) * 4, 3)
    signals = lay_out_answers(slots, [None], units)
    combined = mix_coalition(signals, Uniform(), "arithmetic", np.asarray([True]))
    labelled = LabelledUnits(gold, np.ones(4, np.int64), ("en",) * 4, RUN)
    nll = -labelled.score_nll([combined]).top_SI[0]
    assert nll[2] == WORST_NLL and nll[[0, 1, 3]].max() < 2.0


def test_a_check_says_what_becomes_of_the_labels(tmp_path: Path) -> None:
    folder = save_transformer(tmp_path / "stars", labels=STARS)
    config = config_of(path=str(folder), label_map={**TWO, "3 stars": None}, missing=["neutral"])
    said = check_teacher(config.teachers[0], config)
    assert "negative is 1 star + 2 stars, positive is 4 stars + 5 stars; dropped 3 stars" in said
    assert "does not teach neutral" in said
    assert describe_columns(RUN, RUN, ((0,), (1,), (2,))) == "labels negative, neutral, positive"
    own = ["O", *(f"{letter}-{kind}" for letter in "BILU" for kind in ("PERSON", "DATE", "TIME"))]
    columns = [[0, 2, 3, 5, 6, 8, 9, 11, 12], [1, 10], [4]]  # L-PERSON leads to nothing
    assert describe_columns(own, ["O", "B-PER", "I-PER"], columns) == (
        "labels O, BILU of PERSON, DATE, TIME; O is O + BILU of DATE, TIME, B-PER is B-PERSON + U-PERSON, "
        "I-PER is I-PERSON; dropped L-PERSON"
    )
    trained = config_of(path=None, training={}, label_map={"bad": "negative"})
    with pytest.raises(LabelMismatchError, match="bad"):
        check_teacher(trained.teachers[0], trained)


def test_a_run_from_before_the_key_has_the_fingerprint_that_it_had() -> None:
    assert config_of().fingerprint() == config_of(missing=[]).fingerprint()
    assert config_of().fingerprint() != config_of(missing=["neutral"]).fingerprint()
    assert ColumnMap(((0,), ())).unknown == (1,)


def test_the_next_step_names_labels_that_differ_in_case_alone() -> None:
    with pytest.raises(LabelMismatchError) as error:
        map_label_columns(("Negative", "POSITIVE ", "mixed"), ("positive", "negative", "odd"), {}, "t", ())
    assert 'label_map: {Negative: negative, "POSITIVE ": positive, mixed: ...}' in str(error.value)
