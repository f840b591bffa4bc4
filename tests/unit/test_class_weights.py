"""Class weights and focal loss of the hard term: torch, scikit-learn, the formula by hand; where they act and where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from sklearn.utils.class_weight import compute_class_weight

from raykd.config import RunConfig
from raykd.distill.losses import compute_class_weights, compute_gold_loss
from raykd.distill.objective import Objective
from raykd.distill.schedules import Constant
from raykd.distill.shares import Counts
from raykd.distill.signals import UNLABELLED
from tests.unit.test_distill_objective import ALL, LABELS, SIGNALS, S
from tests.worlds import build_loop, run_config

NAMES = ("a", "b", "c", "d")
RAW = torch.tensor([0.5, 2.0, 1.0, 3.0])
GOLD = LABELS[LABELS != UNLABELLED]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weights_are_those_of_torch(smoothing: float) -> None:
    wanted = F.cross_entropy(S, LABELS, weight=RAW, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(compute_gold_loss(S, LABELS, smoothing, weights_C=RAW), wanted)


def test_scaled_weights_give_the_weighted_mean_of_torch_whatever_their_scale() -> None:
    """torch divides by the sum of the weights; over all units ours, scaled to the mean 1, divided by N is the same."""
    wanted = F.cross_entropy(S, LABELS, weight=RAW)
    for scale in (1.0, 7.0):
        named = {name: scale * float(w) for name, w in zip(NAMES, RAW, strict=True)}
        weights_C = torch.from_numpy(compute_class_weights(named, NAMES, LABELS.numpy()))
        assert float(weights_C[GOLD].mean()) == pytest.approx(1.0)
        torch.testing.assert_close(compute_gold_loss(S, LABELS, 0.0, weights_C=weights_C) / len(GOLD), wanted)


def test_balanced_is_that_of_scikit_learn() -> None:
    gold = np.asarray([0] * 70 + [1] * 25 + [3] * 5 + [UNLABELLED] * 40)
    weights_C = compute_class_weights("balanced", NAMES, gold)
    own = gold[gold >= 0]
    wanted = compute_class_weight("balanced", classes=np.asarray([0, 1, 3]), y=own)
    np.testing.assert_allclose(weights_C[[0, 1, 3]], wanted, rtol=1e-6)
    assert weights_C[2] == 1.0  # no unit has it
    sums = [float(weights_C[c] * (own == c).sum()) for c in (0, 1, 3)]
    assert sums == pytest.approx([100 / 3] * 3)  # each label has the same share of the gold term


def test_a_label_that_is_not_named_weighs_one_before_scaling() -> None:
    weights_C = compute_class_weights({"b": 5.0}, NAMES, np.asarray([0, 0, 1, 2]))
    np.testing.assert_allclose(weights_C, np.asarray([1.0, 5.0, 1.0, 1.0]) / 2.0)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_by_hand(gamma: float) -> None:
    p = torch.softmax(S, dim=1)
    units = [n for n in range(len(LABELS)) if LABELS[n] != UNLABELLED]
    by_hand = sum(-((1 - float(p[n, LABELS[n]])) ** gamma) * np.log(float(p[n, LABELS[n]])) for n in units)
    assert float(compute_gold_loss(S, LABELS, 0.0, focal_gamma=gamma)) == pytest.approx(by_hand, rel=1e-5)
    weighted = sum(
        -float(RAW[LABELS[n]]) * (1 - float(p[n, LABELS[n]])) ** gamma * np.log(float(p[n, LABELS[n]]))
        for n in units
    )
    both = compute_gold_loss(S, LABELS, 0.0, weights_C=RAW, focal_gamma=gamma)
    assert float(both) == pytest.approx(weighted, rel=1e-5)


def test_focal_loss_of_two_classes_has_the_gradient_of_its_formula() -> None:
    """d/dx of -(1 - p)^g log p with p = sigmoid(x) is (1 - p)^g (g p log p - (1 - p)) (Lin et al., appendix B)."""
    x, gamma = torch.linspace(-4.0, 4.0, 9), 2.0
    leaf = torch.stack([x, torch.zeros_like(x)], dim=1).requires_grad_()
    loss = compute_gold_loss(leaf, torch.zeros(9, dtype=torch.int64), 0.0, focal_gamma=gamma)
    (gradient,) = torch.autograd.grad(loss, leaf)
    p = torch.sigmoid(x)
    torch.testing.assert_close(gradient[:, 0], (1 - p) ** gamma * (gamma * p * p.log() - (1 - p)))


def test_focal_loss_and_its_gradient_are_finite_where_the_student_is_sure() -> None:
    leaf = torch.tensor([[60.0, -60.0], [-60.0, 60.0]]).requires_grad_()
    loss = compute_gold_loss(leaf, torch.tensor([0, 0]), 0.0, focal_gamma=0.5)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert loss.isfinite() and gradient.isfinite().all()


def test_they_act_on_the_hard_term_alone() -> None:
    """Soft terms, and units that fall back to their gold label in them, are as without."""
    plain = Objective(alpha=Constant(value=0.4))
    both = Objective(alpha=Constant(value=0.4), class_weights="balanced", focal_gamma=2.0)
    totals = plain.counts(LABELS, SIGNALS)
    before = plain.evaluate(S, LABELS, SIGNALS, 0.0, totals)
    after = both.evaluate(S, LABELS, SIGNALS, 0.0, totals, class_weights_C=RAW)
    assert before.counts.uncovered == 1
    assert torch.equal(after.sums["soft/forward_kl"], before.sums["soft/forward_kl"])
    hard = compute_gold_loss(S, LABELS, 0.0, weights_C=RAW, focal_gamma=2.0)
    torch.testing.assert_close(after.sums["hard"], hard)
    assert after.counts == before.counts and not torch.equal(after.sums["hard"], before.sums["hard"])
    whole = 0.4 * hard / totals.hard + 0.6 * before.sums["soft/forward_kl"] / totals.soft
    torch.testing.assert_close(after.loss, whole)


def test_a_split_changes_nothing() -> None:
    objective = Objective(alpha=Constant(value=0.5), class_weights={"a": 2.0}, focal_gamma=1.0)
    totals = objective.counts(LABELS, ALL)
    whole = objective.evaluate(S, LABELS, ALL, 0.0, totals, class_weights_C=RAW).loss
    from tests.unit.test_distill_objective import part

    pieces = [
        objective.evaluate(S[rows], LABELS[rows], part(ALL, rows), 0.0, totals, class_weights_C=RAW).loss
        for rows in ([0, 3, 5], [1, 2], [4, 6, 7, 8, 9])
    ]
    torch.testing.assert_close(sum(pieces), whole)


def test_weights_that_nobody_computed_are_an_error() -> None:
    objective = Objective(alpha=Constant(value=1.0), class_weights="balanced")
    with pytest.raises(ValueError, match="class_weights_C is None"):
        objective.evaluate(S, LABELS, None, 0.0, Counts(hard=7))


def configured(objective: dict[str, Any], **changes: Any) -> RunConfig:
    tree = run_config().model_dump()
    return RunConfig.model_validate({**tree, **changes, "objective": {**tree["objective"], **objective}})


def test_a_loop_weighs_by_its_own_training_rows_and_again_at_a_phase() -> None:
    labels = run_config().data.labels
    phases = [{"at": 0.5, "set": {"objective": {"class_weights": {labels[0]: 3.0}}}}]
    loop = build_loop(configured({"class_weights": "balanced"}, phases=phases))
    (trainer,) = loop.trainers.values()
    gold = trainer.tokens.labels_N
    found = trainer._class_weights_C
    assert found is not None
    np.testing.assert_allclose(found.numpy(), compute_class_weights("balanced", labels, gold))
    trainer.plan_phases(10)
    trainer.enter_phase(4)
    assert trainer._class_weights_C is found
    trainer.enter_phase(5)
    assert trainer._class_weights_C is not None
    np.testing.assert_allclose(
        trainer._class_weights_C.numpy(), compute_class_weights({labels[0]: 3.0}, labels, gold)
    )


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [
        ({"class_weights": {"nobody": 2.0}}, "class_weights names 'nobody', not in data.labels"),
        ({"class_weights": {"negative": 0.0}}, "greater than 0"),
        ({"class_weights": "even"}, "balanced"),
        ({"focal_gamma": -1.0}, "greater than or equal to 0"),
        ({"focal_gamma": 1.0, "label_smoothing": 0.1}, "cannot be set together"),
    ],
)
def test_what_cannot_be_is_refused(objective: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ValidationError, match=wanted):
        configured(objective)


def test_labels_that_are_numbers_are_named_as_they_are_written() -> None:
    assert Objective.model_validate({"class_weights": {0: 2, "1": 1.5}}).class_weights == {"0": 2.0, "1": 1.5}


def test_the_undistilled_student_has_the_same_hard_term() -> None:
    config = configured({"class_weights": "balanced", "focal_gamma": 1.5})
    plain = config.without_teachers(7).objective
    assert plain.class_weights == "balanced" and plain.focal_gamma == 1.5 and plain.plain


def test_keys_that_change_nothing_change_no_fingerprint() -> None:
    """Teachers that were trained before the keys came are found again."""
    assert (
        configured({}).fingerprint() == configured({"class_weights": None, "focal_gamma": 0.0}).fingerprint()
    )
    others = [configured({"class_weights": "balanced"}), configured({"focal_gamma": 1.0})]
    assert len({one.fingerprint() for one in (*others, configured({}))}) == 3
