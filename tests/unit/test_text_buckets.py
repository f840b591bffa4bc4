"""Few shapes: at most 16 over an epoch of any lengths, every row once, and answers that do not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raykd.answers.codec import decode_answers
from raykd.config import Embedded
from raykd.data.embedded.rows import read_corpus
from raykd.models.lm import Headless
from raykd.tasks import CausalLM, Classification
from raykd.teachers.teacher import Teacher
from raykd.text.buckets import MOST_SHAPES, Buckets, Shape, make_buckets, plan_passes
from raykd.text.encoding import EncodedRows
from raykd.text.padding import RIGHT
from tests.fakes import LABELS, logits_of, model_spec, save_transformer, text_batch
from tests.kept_answers import answer_rows
from tests.unit.test_tasks_language import batch, made


def rows_of(lengths: Any, windows: Any = None, targets: Any = None) -> EncodedRows:
    """Return rows of these many tokens; each has so many windows of that length, and a target."""
    lengths = np.asarray(lengths, dtype=np.int64)
    counts = np.ones_like(lengths) if windows is None else np.asarray(windows)
    fields = {"input_ids": [np.ones(n, np.int64) for n in np.repeat(lengths, counts)]}
    if targets is not None:
        fields["labels"] = [np.ones(n, np.int64) for n in targets]
    starts = np.arange(len(lengths) + 1)
    return EncodedRows(
        fields, dict.fromkeys(fields, 0), lengths * counts, np.zeros(len(lengths), np.int64), starts,
        sequences_B1=None if windows is None else np.concatenate([[0], np.cumsum(counts)]),
    )  # fmt: skip


@pytest.mark.parametrize("max_length", [1, 7, 16, 64, 128, 384, 512, 8192])
@pytest.mark.parametrize("max_target", [0, 1, 64, 512])
@pytest.mark.parametrize("max_tokens", [1, 512, 16384])
def test_a_model_has_at_most_16_shapes_that_fit_its_passes(
    max_length: int, max_target: int, max_tokens: int
) -> None:
    shapes = make_buckets(max_length, max_target, max_tokens).list_shapes()
    assert 1 <= len(set(shapes)) == len(shapes) <= MOST_SHAPES
    for shape in shapes:
        assert shape.sequences == 1 or shape.sequences * (shape.length + shape.target) <= max_tokens


@pytest.mark.parametrize("rows", [1, 7, 32, 300])
def test_an_epoch_of_any_lengths_meets_the_listed_shapes_alone_and_every_row_once(rows: int) -> None:
    random, buckets = np.random.default_rng(rows), make_buckets(128, 0, 16384)
    for _ in range(50):
        lengths = np.minimum(128, 1 + random.lognormal(3, 0.8, size=rows).astype(int))
        plan = plan_passes(rows_of(lengths), buckets)
        assert sorted(i for picked, _ in plan for i in picked) == list(range(rows))
        for picked, shape in plan:
            assert shape in buckets.list_shapes()
            assert lengths[picked].max() <= shape.length and len(picked) <= shape.sequences


def test_rows_of_several_windows_and_rows_beyond_every_bucket_have_a_place() -> None:
    buckets = Buckets((16, 64), (), 512)
    plan = plan_passes(rows_of([60, 10, 64, 70], [3, 1, 40, 1]), buckets)
    assert sorted(i for picked, _ in plan for i in picked) == [0, 1, 2, 3]
    assert Shape(40, 64) in [shape for _, shape in plan]  # a row of more windows than any pass holds
    assert any(shape.length == 70 for _, shape in plan)  # a sequence longer than every bucket
    assert plan_passes(rows_of([]), buckets) == []


def test_targets_have_lengths_of_their_own() -> None:
    random, buckets = np.random.default_rng(0), make_buckets(128, 64, 4096)
    lengths, targets = random.integers(1, 129, 200), random.integers(1, 65, 200)
    plan = plan_passes(rows_of(lengths, targets=targets), buckets)
    assert sorted(i for picked, _ in plan for i in picked) == list(range(200))
    for picked, shape in plan:
        assert shape in buckets.list_shapes()
        assert lengths[picked].max() <= shape.length and targets[picked].max() <= shape.target


@pytest.mark.parametrize(
    ("wanted", "sequences"), [(1, 8), (8, 8), (9, 8), (17, 32), (33, 32), (65, 128), (129, 128)]
)
def test_a_pass_is_larger_than_its_rows_where_at_most_half_is_left_free(wanted: int, sequences: int) -> None:
    plan = plan_passes(rows_of([128] * wanted), make_buckets(128, 0, 16384))
    assert plan[0][1].sequences == sequences


def test_a_teacher_with_few_shapes_answers_as_one_that_pads_to_the_longest(tmp_path: Path) -> None:
    rows = read_corpus(Embedded(split="train", rows_per_language=200), ["zh", "en", "fr"], "text")
    spec = model_spec(
        "t",
        str(save_transformer(tmp_path / "teacher")),
        LABELS,
        Classification(max_length=64),
        dtype="float32",
    )
    plain, few = Teacher(spec), Teacher(spec)
    few.backend.has_few_shapes = True
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    for at in range(0, len(order), 32):
        part = text_batch([rows.texts[i] for i in order[at : at + 32]])
        np.testing.assert_allclose(logits_of(few.answer(part)), logits_of(plain.answer(part)), atol=1e-6)
    whole = text_batch([rows.texts[i] for i in order])
    np.testing.assert_allclose(logits_of(few.answer(whole)), logits_of(plain.answer(whole)), atol=1e-6)
    assert len(few.backend.shapes) <= MOST_SHAPES < len(plain.backend.shapes)
    assert few.counters()["forwarded"] == plain.counters()["forwarded"]


def test_copies_that_fill_a_batch_of_a_language_model_are_dropped() -> None:
    _, tokenizer, model = made("causal_lm")
    task = CausalLM()
    rows = task.encode(tokenizer, batch())
    filled = task.collate(rows, [0, 1, 2], Shape(8, 64).apply(RIGHT))
    assert filled.inputs["input_ids"].shape == (8, 64) and filled.sequences == 3
    assert filled.computed_tokens == 512 and filled.real_tokens == int(rows.lengths_B.sum())
    wanted = decode_answers(answer_rows(task, Headless(model), task.collate(rows, [0, 1, 2]), ()))[0]
    found = decode_answers(answer_rows(task, Headless(model), filled, ()))[0]
    assert found is not None and wanted is not None
    for name, column in wanted.columns().items():
        np.testing.assert_allclose(found.columns()[name], column, atol=2e-3, err_msg=name)
    left = replace(Shape(8, 64).apply(RIGHT), side="left")
    assert task.collate(rows, [0, 1, 2], left).inputs["input_ids"].shape == (8, 64)
