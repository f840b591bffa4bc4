"""Metrics against scikit-learn and by hand; encoding, padding and gathering of classification."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss

from raykd.models import TransformerStudent
from raykd.tasks import Classification
from raykd.tasks.scores.classification import (
    compute_calibration_bins,
    compute_calibration_error,
    compute_classification_metrics,
    compute_macro_f1,
)
from tests.fakes import text_batch


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_metrics_equal_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    logits_NC = rng.normal(size=(300, classes)).astype(np.float32) * 3
    labels_N = rng.integers(classes, size=300)
    found = compute_classification_metrics(logits_NC, labels_N)
    p_NC = np.exp(logits_NC.astype(np.float64))
    p_NC /= p_NC.sum(axis=1, keepdims=True)
    predicted = logits_NC.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels_N, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(labels_N, predicted, average="macro"))
    assert found["nll"] == pytest.approx(log_loss(labels_N, p_NC, labels=range(classes)))


def test_macro_f1_leaves_out_classes_that_occur_nowhere() -> None:
    labels, predicted = np.asarray([0, 0, 1, 1]), np.asarray([0, 1, 1, 1])
    assert compute_macro_f1(predicted, labels) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert compute_macro_f1(predicted, labels) == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_ece_by_hand() -> None:
    confidence = np.asarray([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    correct = np.asarray([True, True, True, False, True, False])
    # Two bins: |0.9 - 0.75| on four rows, |0.6 - 0.5| on two.
    assert compute_calibration_error(confidence, correct) == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    assert sum(count for count, _, _ in compute_calibration_bins(confidence, correct)) == 6


def test_bins_hold_their_upper_edge() -> None:
    rows = compute_calibration_bins(np.asarray([1.0, 1 / 15, 0.0]), np.asarray([True, True, False]))
    assert rows[-1][0] == 1 and rows[0][0] == 2


def test_unlabelled_rows_do_not_count_and_nothing_to_measure_is_an_error() -> None:
    logits = np.asarray([[2.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    assert compute_classification_metrics(logits, np.asarray([0, -100]))["accuracy"] == 1.0
    with pytest.raises(ValueError, match="no labelled unit"):
        compute_classification_metrics(logits, np.asarray([-100, -100]))


def test_collate_pads_to_the_longest_picked_row_only() -> None:
    task = Classification(max_length=16)
    tokenizer = TransformerStudent(vocab_size=200).fit_tokenizer(["a bb ccc"] * 3)
    batch = text_batch(["a", "a bb ccc a bb ccc", "a bb"], labels=[0, 1, -100])
    rows = task.encode(tokenizer, batch)
    encoded = task.collate(rows, [2, 0])
    widest = int(max(rows.lengths_B[[2, 0]]))
    assert encoded.inputs["input_ids"].shape == (2, widest) and encoded.labels_N.tolist() == [-100, 0]
    assert encoded.inputs["attention_mask"].sum(dim=1).tolist() == rows.lengths_B[[2, 0]].tolist()
    assert (encoded.real_tokens, encoded.computed_tokens) == (int(rows.lengths_B[[2, 0]].sum()), 2 * widest)
    assert int(rows.lengths_B.max()) <= 16


def test_gather_refuses_logits_that_are_not_one_a_row() -> None:
    task = Classification(max_length=16)
    tokenizer = TransformerStudent(vocab_size=200).fit_tokenizer(["a bb ccc"] * 3)
    batch = text_batch(["a", "bb"], labels=[0, 1])
    encoded = task.collate(task.encode(tokenizer, batch), [0, 1])
    logits = torch.randn(2, 3)
    assert task.gather(SimpleNamespace(logits=logits), encoded) is logits
    with pytest.raises(ValueError, match=r"\[B, C\]"):
        task.gather(SimpleNamespace(logits=torch.randn(2, 4, 3)), encoded)
