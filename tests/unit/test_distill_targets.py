"""Softening and mixing against closed forms, and the two barycentre identities as equal gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from raykd.config import RunConfig
from raykd.distill.losses import CrossEntropy, DivergenceBase, ForwardKL, LogitMSE, ReverseKL
from raykd.distill.objective import Objective
from raykd.distill.signals import UNLABELLED, Signals, Target
from raykd.distill.targets import (
    LOG_FLOOR,
    Mixture,
    check_alignment,
    combine_logits,
    correct_contradictions,
    soften,
)
from raykd.distill.weighting import Uniform

MIXTURES: tuple[Mixture, ...] = ("arithmetic", "geometric")


def draw(*shape: int, seed: int) -> torch.Tensor:
    return 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Z, S = draw(3, 5, 4, seed=0), draw(5, 4, seed=1)
W = torch.softmax(draw(3, 5, seed=2), dim=0)


def one(logits_NC: torch.Tensor, temperature: float) -> Target:
    n = logits_NC.shape[0]
    return combine_logits(logits_NC.unsqueeze(0), torch.ones(1, n), temperature, "arithmetic")


def gradient(loss_of_student: torch.Tensor, student_NC: torch.Tensor) -> torch.Tensor:
    (got,) = torch.autograd.grad(loss_of_student.sum(), student_NC)
    return got


def test_soften() -> None:
    logits = torch.tensor([[2.0 * math.log(3.0), 0.0]])
    assert soften(logits, 2.0).exp()[0].tolist() == pytest.approx([0.75, 0.25])
    assert soften(logits, 1.0).exp()[0].tolist() == pytest.approx([0.9, 0.1])
    assert soften(logits.half(), 1.0).dtype == torch.float32
    with pytest.raises(ValueError, match="temperature"):
        soften(logits, 0.0)


def test_mixtures_by_hand() -> None:
    """p1 = (.8, .2), p2 = (.4, .6), weights 1/4 and 3/4."""
    p = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]])
    weights = torch.tensor([[0.25], [0.75]])
    arithmetic = combine_logits(p.log(), weights, 1.0, "arithmetic")
    assert arithmetic.p_NK[0].tolist() == pytest.approx([0.5, 0.5])
    geometric = combine_logits(p.log(), weights, 1.0, "geometric")
    raw = [0.8**0.25 * 0.4**0.75, 0.2**0.25 * 0.6**0.75]
    assert geometric.p_NK[0].tolist() == pytest.approx([r / sum(raw) for r in raw])


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
def test_softened_first_and_mixed_then(t: float) -> None:
    arithmetic = combine_logits(Z, W, t, "arithmetic")
    torch.testing.assert_close(arithmetic.p_NK, (W.unsqueeze(-1) * torch.softmax(Z / t, -1)).sum(0))
    geometric = combine_logits(Z, W, t, "geometric")
    torch.testing.assert_close(geometric.p_NK, torch.softmax((W.unsqueeze(-1) * Z).sum(0) / t, -1))
    for target in (arithmetic, geometric):
        assert target.temperature == t
        torch.testing.assert_close(target.logp_NK.exp(), target.p_NK)
        torch.testing.assert_close(target.p_NK.sum(-1), torch.ones(5))
        assert torch.equal(target.weights_MN, W)


@pytest.mark.parametrize("t", [1.0, 3.0])
@pytest.mark.parametrize(
    ("loss", "mixture"),
    [(ForwardKL(), "arithmetic"), (CrossEntropy(), "arithmetic"), (ReverseKL(), "geometric")],
)
def test_one_mixture_has_the_gradient_of_the_weighted_sum(
    loss: DivergenceBase, mixture: Mixture, t: float
) -> None:
    student = S.clone().requires_grad_()
    mixed = gradient(loss.per_unit(student, combine_logits(Z, W, t, mixture), t), student)
    each = sum(W[k] * loss.per_unit(student, one(Z[k], t), t) for k in range(3))
    assert isinstance(each, torch.Tensor)
    torch.testing.assert_close(mixed, gradient(each, student), rtol=1e-4, atol=1e-5)


def test_the_other_pairing_does_not_have_it() -> None:
    student = S.clone().requires_grad_()
    pairs: list[tuple[DivergenceBase, Mixture]] = [(ForwardKL(), "geometric"), (ReverseKL(), "arithmetic")]
    for loss, mixture in pairs:
        mixed = gradient(loss.per_unit(student, combine_logits(Z, W, 1.0, mixture), 1.0), student)
        each = sum(W[k] * loss.per_unit(student, one(Z[k], 1.0), 1.0) for k in range(3))
        assert isinstance(each, torch.Tensor)
        assert (mixed - gradient(each, student)).abs().max() > 1e-2


@pytest.mark.parametrize(("loss", "mixture"), [(ForwardKL(), "arithmetic"), (ReverseKL(), "geometric")])
def test_the_mixture_is_the_barycentre(loss: DivergenceBase, mixture: Mixture) -> None:
    """No student has a smaller weighted sum of divergences than the mixture itself."""
    best = combine_logits(Z, W, 1.0, mixture).logp_NK

    def total(student_NC: torch.Tensor) -> torch.Tensor:
        parts = [W[k] * loss.per_unit(student_NC, one(Z[k], 1.0), 1.0) for k in range(3)]
        return torch.stack(parts).sum(0)

    at_best = best.clone().requires_grad_()
    assert gradient(total(at_best), at_best).abs().max() < 1e-5
    for seed in range(5):
        assert (total(best + 0.3 * draw(5, 4, seed=seed)) > total(best)).all()


@pytest.mark.parametrize("mixture", MIXTURES)
def test_one_hot_weights_are_routing(mixture: Mixture) -> None:
    route = torch.tensor([0, 2, 1, 1, 0])
    target = combine_logits(Z, F.one_hot(route, 3).T.float(), 2.0, mixture)
    alone = one(Z[route, torch.arange(5)], 2.0)
    torch.testing.assert_close(target.p_NK, alone.p_NK)
    torch.testing.assert_close(target.logits_NK, alone.logits_NK)


@pytest.mark.parametrize("mixture", MIXTURES)
def test_one_teacher_is_itself(mixture: Mixture) -> None:
    target = combine_logits(Z[:1], torch.ones(1, 5), 2.0, mixture)
    torch.testing.assert_close(target.logp_NK, torch.log_softmax(Z[0] / 2.0, -1))


def test_target_logits_are_centred_before_they_are_mixed() -> None:
    offsets = torch.tensor([100.0, -50.0, 7.0]).view(3, 1, 1)
    expected = (W.unsqueeze(-1) * (Z - Z.mean(-1, keepdim=True))).sum(0)
    for logits in (Z, Z + offsets):
        target = combine_logits(logits, W, 3.0, "arithmetic")
        torch.testing.assert_close(target.logits_NK, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mixture", MIXTURES)
def test_uncovered_units(mixture: Mixture) -> None:
    weights = W.clone()
    weights[:, 3] = 0.0
    target = combine_logits(Z, weights, 2.0, mixture)
    assert target.covered_N.tolist() == [True, True, True, False, True]
    assert target.p_NK[3].tolist() == pytest.approx([0.25] * 4)
    assert target.logp_NK[3].tolist() == pytest.approx([math.log(0.25)] * 4)
    assert target.logits_NK[3].tolist() == [0.0] * 4
    assert target.weights_MN[:, 3].tolist() == [0.0] * 3
    full = combine_logits(Z, W, 2.0, mixture)
    keep = [0, 1, 2, 4]
    assert torch.equal(target.p_NK[keep], full.p_NK[keep])


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_teacher_without_weight_does_not_reach_the_target(mixture: Mixture, bad: float) -> None:
    logits, weights = Z.clone(), torch.full((3, 5), 0.5)
    logits[1], weights[1] = bad, 0.0
    target = combine_logits(logits, weights, 2.0, mixture)
    clean = combine_logits(Z[[0, 2]], torch.full((2, 5), 0.5), 2.0, mixture)
    torch.testing.assert_close(target.logp_NK, clean.logp_NK)
    torch.testing.assert_close(target.logits_NK, clean.logits_NK)


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("size", [1e3, 1e6, 1e30])
def test_huge_logits_stay_finite(mixture: Mixture, size: float) -> None:
    logits = size * torch.tensor([[[1.0, 0.0, -1.0]], [[1.0, -1.0, 0.0]]])
    target = combine_logits(logits, torch.full((2, 1), 0.5), 1.0, mixture)
    assert torch.isfinite(target.logp_NK).all()
    assert target.p_NK[0].tolist() == [1.0, 0.0, 0.0]
    student = torch.zeros(1, 3, requires_grad=True)
    for loss in (ForwardKL(), ReverseKL(), CrossEntropy()):
        assert torch.isfinite(gradient(loss.per_unit(student, target, 1.0), student)).all()


@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_class_that_a_teacher_rules_out(mixture: Mixture) -> None:
    logits = torch.tensor([[[1.0, 0.0, -math.inf]]]).expand(2, 1, 3)
    target = combine_logits(logits, torch.full((2, 1), 0.5), 1.0, mixture)
    assert target.logp_NK[0, 2].item() == LOG_FLOOR
    assert target.p_NK[0].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0.0])
    assert torch.isfinite(ReverseKL().per_unit(torch.zeros(1, 3), target, 1.0)).all()


@pytest.mark.parametrize("mixture", MIXTURES)
def test_relabelling_classes_and_teachers(mixture: Mixture) -> None:
    classes, teachers = [3, 1, 0, 2], [1, 2, 0]
    target = combine_logits(Z, W, 2.0, mixture)
    moved = combine_logits(Z[teachers][..., classes], W[teachers], 2.0, mixture)
    torch.testing.assert_close(moved.p_NK, target.p_NK[:, classes])
    torch.testing.assert_close(moved.logits_NK, target.logits_NK[:, classes])


def test_no_gradient_reaches_a_teacher() -> None:
    logits = Z.clone().requires_grad_()
    target = combine_logits(logits, W, 2.0, "arithmetic")
    assert not any(
        t.requires_grad for t in (target.p_NK, target.logp_NK, target.logits_NK, target.weights_MN)
    )


def test_student_and_target_of_other_shapes_are_refused_and_do_not_broadcast() -> None:
    target = one(Z[0], 1.0)
    check_alignment(S, target)
    for shape in [(5, 1), (5, 3), (1, 4), (4,)]:
        with pytest.raises(ValueError, match="same labels"):
            check_alignment(torch.zeros(shape), target)
    with pytest.raises(ValueError, match="same labels"):
        check_alignment(S, one(Z[0][:, :1], 1.0))


def test_weights_of_another_shape() -> None:
    for shape in [(3, 1), (1, 5), (2, 5), (5, 3)]:
        with pytest.raises(ValueError, match="weights are"):
            combine_logits(Z, torch.ones(shape), 1.0, "arithmetic")


def test_mse_against_the_mean_of_teachers() -> None:
    """Z's offsets are no one's opinion: equal teachers up to an offset leave a loss of 0."""
    logits = torch.stack([S + 4.0, S - 1.0, S])
    target = combine_logits(logits, W, 1.0, "arithmetic")
    assert LogitMSE().per_unit(S, target, 1.0).max().item() == pytest.approx(0.0, abs=1e-10)


def test_contradictions_are_swapped_or_dropped() -> None:
    logits_MNC = torch.tensor(
        [
            [[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [1.0, 3.0, 2.0]],
            [[4.0, 0.0, 1.0], [0.0, 5.0, 1.0], [9.0, 0.0, 0.0]],
        ]
    )
    signals = Signals(
        teachers=("a", "b"),
        teacher_languages=(None, None),
        logits_MNC=logits_MNC,
        covered_MN=torch.ones(2, 3, dtype=torch.bool),
        labels_N=torch.tensor([0, 1, UNLABELLED]),
        languages=("en",) * 3,
    )
    swapped = correct_contradictions(signals, "swap")
    assert swapped.logits_MNC[0].tolist() == [[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [1.0, 3.0, 2.0]]
    assert torch.equal(swapped.logits_MNC[1], logits_MNC[1])
    assert torch.equal(swapped.logits_MNC.sort(dim=-1).values, logits_MNC.sort(dim=-1).values)
    dropped = correct_contradictions(signals, "drop")
    assert dropped.covered_MN.tolist() == [[False, True, True], [True, True, True]]
    prepared = Objective(contradictions="drop", weighting=Uniform()).prepare(signals)
    assert prepared.eligible_MN is not None
    assert torch.equal(prepared.eligible_MN, dropped.covered_MN)
    # A teacher that knows the labels 1 and 2 alone says nothing of label 0.
    partial = replace(signals, columns_M=((1, 2), None))
    assert torch.equal(correct_contradictions(partial, "swap").logits_MNC, logits_MNC)


def test_contradictions_need_labels() -> None:
    files = {"kind": "files", "paths": ["x"]}
    run = {
        "task": {"kind": "regression"},
        "student": {"kind": "linear"},
        "data": {"train": files, "validation": files, "languages": ["en"]},
        "teachers": [{"name": "t", "languages": "all", "path": "t"}],
        "objective": {
            "contradictions": "swap",
            "weighting": {"kind": "uniform"},
            "terms": [{"divergence": {"kind": "logit_mse"}}],
        },
    }
    with pytest.raises(ValidationError, match=r"objective\.contradictions compares"):
        RunConfig.model_validate(run)
