"""The loss of a row is the same alone, beside longer rows, and padded to any number of choices."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_answer
from raykd.answers.layout import StudentUnits, lay_out_answers
from raykd.answers.source import AnswerSlots
from raykd.distill.divergences.base import DivergenceBase
from raykd.distill.losses import Divergence, compute_gold_loss
from raykd.distill.objective import Objective
from raykd.distill.shares import Counts
from raykd.distill.signals import MASKED, UNLABELLED, Signals

CHOICES = (3, 9, 1, 6)
"""Choices of each row; a row has two units, as a question has a begin and an end."""
CLASSES: tuple[type[DivergenceBase], ...] = get_args(get_args(Divergence)[0])
DIVERGENCES = [one.model_fields["kind"].default for one in CLASSES if not one.equal_choices]
"""All but those that average over choices, which question answering refuses."""
WEIGHTINGS: tuple[dict[str, Any], ...] = (
    {"kind": "uniform"},
    {"kind": "fixed", "by_teacher": {"a": 1.0, "b": 3.0}},
    {"kind": "by_language"},
    {"kind": "entropy"},
    {"kind": "confidence"},
    {"kind": "loss_softmax"},
)


def rows(seed: int) -> tuple[list[torch.Tensor], list[list[np.ndarray]], list[list[int]]]:
    """A student's logits, two teachers' and the gold labels of rows with different numbers of choices."""
    rng = np.random.default_rng(seed)
    student = [torch.tensor(rng.normal(size=(2, c)) * 3, dtype=torch.float32) for c in CHOICES]
    teachers = [[(rng.normal(size=(2, c)) * 3).astype(np.float32) for c in CHOICES] for _ in range(2)]
    gold = [[int(rng.integers(c)), int(rng.integers(c)) if c != 9 else UNLABELLED] for c in CHOICES]
    return student, teachers, gold


def signals_of(
    teachers: list[list[np.ndarray]], picked: list[int], wide: int, labels_N: torch.Tensor
) -> Signals:
    found = []
    for name, own in zip("ab", teachers, strict=True):
        # Teacher b was not asked for the last row.
        said = [
            None
            if name == "b" and i == 3
            else encode_answer(DenseAnswer(logits_NC=own[i], covered_N=np.ones(2, bool)))
            for i in picked
        ]
        found.append(AnswerSlots(name, said))
    visible = torch.tensor([[c < CHOICES[i] for c in range(wide)] for i in picked for _ in range(2)])
    counts = np.full(len(picked), 2)
    return lay_out_answers(
        found, [None, None], StudentUnits(labels_N, counts, ("en",) * len(picked), wide, visible_NC=visible)
    )


def loss(objective: Objective, data: Any, picked: list[int], wide: int) -> tuple[float, torch.Tensor]:
    """The summed loss of the picked rows, and its gradient for the first of them."""
    student, teachers, gold = data
    leaves = [student[i].clone().requires_grad_() for i in picked]
    padded = [torch.nn.functional.pad(leaf, (0, wide - leaf.shape[1]), value=MASKED) for leaf in leaves]
    labels_N = torch.tensor([label for i in picked for label in gold[i]])
    signals = signals_of(teachers, picked, wide, labels_N)
    result = objective.evaluate(torch.cat(padded), labels_N, signals, 0.5, Counts(hard=100, soft=100))
    result.loss.backward()
    return float(result.loss.detach()), leaves[0].grad


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=lambda value: value["kind"])
@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("mixture", ["arithmetic", "geometric"])
def test_a_rows_loss_does_not_depend_on_the_rows_beside_it(
    kind: str, weighting: dict[str, Any], mixture: str
) -> None:
    objective = Objective.model_validate(
        {
            "alpha": 0.3,
            "temperature": 3.0,
            "label_smoothing": 0.2,
            "mixture": mixture,
            "terms": [{"divergence": {"kind": kind}}],
            "weighting": weighting,
        }
    )
    data = rows(1)
    # A width of 1 is that of values, which are not centred; no task with choices has it.
    alone = [loss(objective, data, [i], max(2, CHOICES[i])) for i in range(len(CHOICES))]
    for i, (own, gradient) in enumerate(alone):
        for wide in (max(CHOICES), 40):
            padded, moved = loss(objective, data, [i], wide)
            assert padded == pytest.approx(own, abs=1e-6)
            torch.testing.assert_close(moved, gradient, atol=1e-6, rtol=1e-4)
    together, _ = loss(objective, data, [3, 1, 0, 2], max(CHOICES))
    assert together == pytest.approx(sum(own for own, _ in alone), abs=4e-6)


def test_labels_are_smoothed_over_the_choices_that_a_unit_has() -> None:
    logits = torch.tensor([[1.0, 2.0, MASKED, MASKED], [0.5, -1.0, 2.0, 0.0]])
    labels, smoothing = torch.tensor([1, 2]), 0.1
    wanted = sum(
        torch.nn.functional.cross_entropy(row[:n], label, label_smoothing=smoothing)
        for row, n, label in zip(logits, (2, 4), labels, strict=True)
    )
    assert float(compute_gold_loss(logits, labels, smoothing)) == pytest.approx(float(wanted), abs=1e-6)
    low = compute_gold_loss(logits.bfloat16().float(), labels, smoothing)  # which rounds MASKED to -9984
    assert float(low) == pytest.approx(float(wanted), abs=0.02)
    chosen = torch.tensor([[True, True, False, False], [True, True, True, False]])
    one = -torch.log_softmax(logits[1], -1)
    by_hand = 0.9 * one[2] + 0.1 * one[:3].mean() + compute_gold_loss(logits[:1], labels[:1], smoothing)
    assert float(compute_gold_loss(logits, labels, smoothing, chosen)) == pytest.approx(
        float(by_hand), abs=1e-6
    )


def test_what_a_student_cannot_say_is_not_taught_and_what_a_teacher_cannot_say_is_faint() -> None:
    logits = np.asarray([[2.0, 1.0], [0.0, 1.0]], np.float32)
    body = encode_answer(DenseAnswer(logits_NC=logits, covered_N=np.ones(2, bool)))
    signal = AnswerSlots("t", [body])
    visible = torch.tensor([[False, True, True], [True, True, False]])
    found = lay_out_answers(
        [signal], [None], StudentUnits(torch.zeros(2).long(), np.asarray([2]), ("en",), 3, visible_NC=visible)
    )
    p = found.logits_MNC[0].softmax(-1)
    assert p[0, 0] == 0.0 and p[0, 1] == pytest.approx(1.0, abs=1e-6) and 0.0 < p[0, 2] < 1e-7
    assert p[1, 2] == 0.0
