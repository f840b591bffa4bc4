"""Few shapes of a student's batches: at most 16 over all epochs, little padding, and the same loss and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu_parts.counting import recording_shapes
from raykd.data.stream import BatchStream
from raykd.models.lm import Headless
from raykd.prediction.predictor import build_unlabelled_rows
from raykd.student.evaluate import answer_rows
from raykd.student.loop import TrainingLoop
from raykd.tasks import CausalLM, Classification, MaskedLM, QuestionAnswering, Seq2Seq, TokenClassification
from raykd.text.batch import TextBatch
from raykd.text.buckets import MOST_SHAPES, Shape
from raykd.text.encoding import EncodedRows
from raykd.text.padding import RIGHT
from raykd.text.shapes import fit_shapes
from tests.unit.test_data_stream import make_rows
from tests.unit.test_models_heads import COMBINATIONS, PAIRS, TEXTS, made
from tests.unit.test_text_buckets import rows_of
from tests.worlds import build_loop, run_config

TRAINED = 12
TASKS: dict[str, Any] = {
    "classification": Classification(max_length=32),
    "token_classification": TokenClassification(max_length=32),
    "question_answering": QuestionAnswering(max_length=24, stride=4),
    "masked_lm": MaskedLM(max_length=32, share=0.4),
    "causal_lm": CausalLM(max_length=32, max_target_length=16),
    "seq2seq": Seq2Seq(max_length=32, max_target_length=16),
}


def draw_lengths(count: int, mean: float, longest: int, seed: int = 0) -> np.ndarray:
    """Lengths that spread as those of reviews do."""
    lengths = np.random.default_rng(seed).lognormal(np.log(mean), 0.6, count).astype(np.int64)
    return np.clip(lengths, 3, longest)


def stream_of(rows: EncodedRows, batch: int = 32) -> BatchStream:
    return BatchStream(make_rows(en=(len(rows), 0)), rows.lengths_B, global_batch=batch, seed=1)


def pad_epochs(rows: EncodedRows, pieces: int = 1, epochs: int = 4) -> tuple[set[Shape], float]:
    """Return the shapes that some epochs meet, and padded tokens beside those of padding to the longest."""
    stream = stream_of(rows)
    fitted = fit_shapes(rows, stream.list_pieces(0, pieces), TRAINED)
    met: set[Shape] = set()
    padded = longest = 0
    for epoch in range(epochs):
        for piece in stream.list_pieces(epoch * stream.steps_per_epoch, pieces):
            shape, sizes = fitted.find(piece), fitted.sizes_B3[piece]
            sequences, length, target = int(sizes[:, 0].sum()), int(sizes[:, 1].max()), int(sizes[:, 2].max())
            assert shape.sequences >= sequences and shape.length >= length and shape.target >= target
            met.add(shape)
            padded += shape.sequences * (shape.length + shape.target)
            longest += sequences * (length + target)
    return met, padded / longest


@pytest.mark.parametrize(
    ("mean", "longest", "pieces"), [(22, 64, 1), (22, 128, 4), (22, 64, 3), (230, 512, 1)]
)
def test_reviews_meet_few_shapes_and_are_padded_little_more(mean: int, longest: int, pieces: int) -> None:
    met, growth = pad_epochs(rows_of(draw_lengths(3200, mean, longest)), pieces)
    assert len(met) <= TRAINED
    assert growth < 1.15


def test_rows_of_windows_and_of_targets_meet_few_shapes() -> None:
    windows = np.maximum(1, np.random.default_rng(0).poisson(1.5, 3200))
    lengths = np.where(windows > 1, 384, draw_lengths(3200, 150, 384))
    met, growth = pad_epochs(rows_of(lengths, windows))
    assert len(met) <= MOST_SHAPES - 4 + 1 and growth < 1.15
    met, _ = pad_epochs(rows_of(draw_lengths(3200, 60, 128), targets=draw_lengths(3200, 20, 64, seed=1)))
    assert len(met) <= TRAINED


def test_batches_of_one_shape_are_not_padded() -> None:
    rows = rows_of([512] * 96)
    fitted = fit_shapes(rows, stream_of(rows).list_pieces(0, 2), TRAINED)
    assert fitted.shapes == (Shape(16, 512),)


def test_the_two_shapes_whose_merging_adds_fewest_tokens_are_merged() -> None:
    rows = rows_of([8, 16, 64, 72, 128])
    batches = [[0], [0], [1], [2], [3], [4]]
    # 64 with 72 adds 8 tokens, 8 with 16 twice 8; all others add more.
    assert [s.length for s in fit_shapes(rows, batches, 4).shapes] == [8, 16, 72, 128]
    assert [s.length for s in fit_shapes(rows, batches, 3).shapes] == [16, 72, 128]
    assert [s.length for s in fit_shapes(rows, batches, 1).shapes] == [128]


def test_a_batch_beyond_all_shapes_keeps_its_sequences() -> None:
    rows = rows_of([30, 30, 30], windows=[2, 3, 40])
    fitted = fit_shapes(rows, [[0], [1]], 2)
    assert fitted.find([2]) == Shape(40, 30) and fitted.find([0, 1]).sequences == 8


def batch_of(head: str) -> TextBatch:
    form = TASKS[head].form
    if form in ("target", "source_target"):
        return TextBatch(tuple("abcd"), tuple(TEXTS), ("en",) * 4, np.zeros(4, np.int64), tuple(PAIRS))
    return build_unlabelled_rows(form, TEXTS, PAIRS if form == "answers" else None)


@pytest.mark.parametrize(("name", "head"), [pair for pair in COMBINATIONS if pair[1] in TASKS])
def test_loss_and_gradients_are_equal_in_any_shape(name: str, head: str) -> None:
    model, task = made(name, head), TASKS[head]
    rows = task.encode(model.tokenizer, batch_of(head))
    module = Headless(model.model) if task.language else model.model
    picked = [2, 0, 3]
    plain = task.collate(rows, picked, RIGHT)
    ids, labels = plain.inputs["input_ids"], plain.inputs.get("labels")
    shape = Shape(len(ids) + 3, ids.shape[1] + 5, 0 if labels is None else labels.shape[1] + 3)
    filled = task.collate(rows, picked, shape.apply(RIGHT))
    assert filled.inputs["input_ids"].shape == (shape.sequences, shape.length)

    def learn(batch: Any) -> tuple[float, list[torch.Tensor]]:
        model.model.zero_grad()
        units = task.gather(batch.run(module), batch)
        loss = (units if task.language else units.softmax(-1)).square().sum()
        loss.backward()
        return float(loss.detach()), [p.grad for p in model.model.parameters() if p.grad is not None]

    (one, gradients), (other, others) = learn(plain), learn(filled)
    assert one == pytest.approx(other, rel=1e-5) and len(gradients) == len(others) > 0
    scale = max(float(gradient.abs().max()) for gradient in gradients)
    for mine, theirs in zip(gradients, others, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * scale)


def run_loop(**train: Any) -> tuple[TrainingLoop, list[float], set[tuple[int, ...]]]:
    few = train.pop("few")
    loop = build_loop(run_config(**train))
    loop.trainer.has_few_shapes = few
    with recording_shapes(len(loop.student.tokenizer)) as shapes:
        loop.run()
    return loop, [values["eval/mean/nll"] for values in loop.state.history], set(shapes)


@pytest.mark.parametrize("micro", [1, 5])
def test_a_run_in_few_shapes_learns_the_same(micro: int) -> None:
    few, scores, shapes = run_loop(few=True, gradient_accumulation=micro)
    plain, wanted, others = run_loop(few=False, gradient_accumulation=micro)
    assert scores == pytest.approx(wanted, rel=1e-4) and len(scores) == 3
    assert len(shapes) <= MOST_SHAPES
    assert (
        not plain.trainer.has_few_shapes and plain.trainer._shapes is None and few.trainer._shapes is not None
    )
    for mine, theirs in zip(few.engine.module.parameters(), plain.engine.module.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    assert {shape[0] for shape in others} != {shape[0] for shape in shapes} or micro == 1


def test_a_student_whose_rows_share_no_padding_keeps_its_shapes() -> None:
    loop = build_loop(run_config())
    loop.trainer.has_few_shapes = True
    loop.trainer.padding = replace(loop.trainer.padding, shapes="equal")
    loop.ask(0)
    assert loop.trainer._shapes is None


def test_scoring_in_few_shapes_says_the_same() -> None:
    model, task = made("bert", "classification"), TASKS["classification"]
    texts = [" ".join(["Anna lives in Paris"] * (1 + i % 7))[: 5 + i] for i in range(40)]
    rows = task.encode(model.tokenizer, build_unlabelled_rows("text", texts))
    picked = list(range(39, -1, -1))

    def said(most: int | None) -> tuple[np.ndarray, int]:
        with recording_shapes(len(model.tokenizer)) as shapes:
            found = answer_rows(model.model, task, rows, picked, torch.device("cpu"), RIGHT, most)
        return found.logits_NC, len(shapes)

    (plain, many), (few, count) = said(None), said(1)
    assert count == 1 < many
    np.testing.assert_allclose(few, plain, atol=1e-6)
