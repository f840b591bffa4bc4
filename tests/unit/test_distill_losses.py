"""Divergences against torch's own losses, closed forms, limits and gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from raykd.distill.divergences.base import DivergenceBase
from raykd.distill.divergences.batch import Dist, RelationalDistance
from raykd.distill.divergences.transformed import (
    AnnealedLogitMSE,
    DecoupledKL,
    ProbabilityMSE,
    SkewedKL,
    SkewedReverseKL,
    StandardisedKL,
)
from raykd.distill.losses import (
    CrossEntropy,
    Divergence,
    ForwardKL,
    JensenShannon,
    LogitMSE,
    ReverseKL,
    TeacherHard,
    TotalVariation,
    UniversalLogit,
)
from raykd.distill.signals import Target
from raykd.distill.targets import centre_logits

ADAPTER: TypeAdapter[Any] = TypeAdapter(Divergence)

MEMBERS: list[DivergenceBase] = [
    ForwardKL(),
    ReverseKL(),
    JensenShannon(),
    JensenShannon(beta=0.1),
    JensenShannon(beta=0.0),
    JensenShannon(beta=1.0),
    TotalVariation(),
    LogitMSE(),
    LogitMSE(centre=False),
    TeacherHard(threshold=0.3),
    CrossEntropy(),
    UniversalLogit(),
    DecoupledKL(),
    DecoupledKL(target_weight=0.5, other_weight=8.0),
    StandardisedKL(),
    SkewedKL(),
    SkewedReverseKL(skew=0.3),
    ProbabilityMSE(),
]
BATCH: list[DivergenceBase] = [Dist(), RelationalDistance()]
"""Of which a unit depends on the others."""
METRICS = [
    m for m in MEMBERS if not isinstance(m, TeacherHard | CrossEntropy) and m != LogitMSE(centre=False)
]


def name(value: DivergenceBase) -> str:
    return repr(value)


def logits(n: int, c: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def single(teacher_logits_NC: torch.Tensor, temperature: float) -> Target:
    """The target that one teacher alone gives."""
    logp_NK = F.log_softmax(teacher_logits_NC / temperature, dim=-1)
    n = teacher_logits_NC.shape[0]
    return Target(
        p_NK=logp_NK.exp(),
        logp_NK=logp_NK,
        make_logits=lambda: centre_logits(teacher_logits_NC),
        weights_MN=torch.ones(1, n),
        covered_N=torch.ones(n, dtype=torch.bool),
        temperature=temperature,
    )


def gradient(
    loss: DivergenceBase, student_NC: torch.Tensor, target: Target, temperature: float
) -> torch.Tensor:
    student_NC = student_NC.clone().requires_grad_()
    (got,) = torch.autograd.grad(loss.per_unit(student_NC, target, temperature).sum(), student_NC)
    return got


S, Z = logits(6, 4, seed=1, scale=2.0), logits(6, 4, seed=2, scale=2.0)


@pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
def test_against_torch(t: float) -> None:
    target, logq = single(Z, t), F.log_softmax(S / t, dim=-1)
    logp = target.logp_NK
    references = {
        ForwardKL(): t**2 * F.kl_div(logq, logp, reduction="sum", log_target=True),
        ReverseKL(): t**2 * F.kl_div(logp, logq, reduction="sum", log_target=True),
        CrossEntropy(): t**2 * F.cross_entropy(S / t, logp.exp(), reduction="sum"),
        TotalVariation(): t * 0.5 * F.l1_loss(logq.exp(), logp.exp(), reduction="sum"),
        TeacherHard(): F.cross_entropy(S, Z.argmax(dim=-1), reduction="sum"),
        LogitMSE(): (
            F.mse_loss(S - S.mean(-1, keepdim=True), Z - Z.mean(-1, keepdim=True), reduction="sum") / 4
        ),
        LogitMSE(centre=False): F.mse_loss(S, Z - Z.mean(-1, keepdim=True), reduction="sum") / 4,
    }
    for loss, expected in references.items():
        assert loss.per_unit(S, target, t).shape == (6,)
        assert loss.per_unit(S, target, t).sum().item() == pytest.approx(expected.item(), rel=1e-5), loss


def test_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2) at T = 1."""
    target, student = single(torch.tensor([[math.log(3.0), 0.0]]), 1.0), torch.zeros(1, 2)
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    # m = (5/8, 3/8)
    from_p = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)
    from_q = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    expected: dict[DivergenceBase, float] = {
        ForwardKL(): forward,
        ReverseKL(): reverse,
        JensenShannon(): (0.5 * from_p + 0.5 * from_q) / 0.25,
        TotalVariation(): 0.25,
        LogitMSE(): (math.log(3.0) / 2) ** 2,
        TeacherHard(): math.log(2.0),
        CrossEntropy(): math.log(2.0),
        UniversalLogit(): 0.5,
    }
    for loss, value in expected.items():
        assert loss.per_unit(student, target, 1.0).item() == pytest.approx(value, rel=1e-5), loss


def test_jensen_shannon_weighs_p_by_beta() -> None:
    p, q, beta = torch.softmax(Z, -1), torch.softmax(S, -1), 0.2
    m = beta * p + (1 - beta) * q
    sides = beta * (p * (p / m).log()).sum(-1) + (1 - beta) * (q * (q / m).log()).sum(-1)
    got = JensenShannon(beta=beta).per_unit(S, single(Z, 1.0), 1.0)
    torch.testing.assert_close(got, sides / (beta * (1 - beta)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_jensen_shannon_goes_to_the_two_kl(t: float) -> None:
    target = single(Z, t)
    forward, reverse = ForwardKL().per_unit(S, target, t), ReverseKL().per_unit(S, target, t)
    assert torch.equal(JensenShannon(beta=0.0).per_unit(S, target, t), forward)
    assert torch.equal(JensenShannon(beta=1.0).per_unit(S, target, t), reverse)
    torch.testing.assert_close(JensenShannon(beta=1e-3).per_unit(S, target, t), forward, rtol=0.02, atol=1e-3)
    torch.testing.assert_close(
        JensenShannon(beta=0.999).per_unit(S, target, t), reverse, rtol=0.02, atol=1e-3
    )


@pytest.mark.parametrize("t", [0.7, 1.0, 2.0, 8.0])
def test_gradient_of_forward_kl_is_t_times_q_minus_p(t: float) -> None:
    expected = t * (torch.softmax(S / t, -1) - torch.softmax(Z / t, -1))
    torch.testing.assert_close(gradient(ForwardKL(), S, single(Z, t), t), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient(CrossEntropy(), S, single(Z, t), t), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        *(ForwardKL(), ReverseKL(), JensenShannon(), CrossEntropy(), TotalVariation()),
        *(DecoupledKL(), SkewedKL(), SkewedReverseKL(), ProbabilityMSE(), StandardisedKL()),
    ],
    ids=name,
)
def test_gradient_does_not_grow_or_fade_with_temperature(loss: DivergenceBase) -> None:
    """One power of T more or less would give a ratio of 4 here."""
    s, z = logits(64, 5, seed=3), logits(64, 5, seed=4)
    norms = [gradient(loss, s, single(z, t), t).norm().item() for t in (4.0, 16.0)]
    assert norms[1] / norms[0] == pytest.approx(1.0, abs=0.15)


def test_gradient_norm_of_forward_kl_from_t_1_to_16() -> None:
    s, z = logits(64, 5, seed=3), logits(64, 5, seed=4)
    norms = [gradient(ForwardKL(), s, single(z, t), t).norm().item() for t in (1.0, 2.0, 4.0, 8.0, 16.0)]
    assert max(norms) / min(norms) < 1.3


def test_large_temperature_limit_is_half_the_centred_mse() -> None:
    t = 100.0
    target = single(Z + 5.0, t)  # an offset, which the limit must not see
    half_mse = 0.5 * LogitMSE().per_unit(S, target, t)
    torch.testing.assert_close(ForwardKL().per_unit(S, target, t), half_mse, rtol=0.05, atol=5e-3)


def test_logit_mse_knows_no_temperature_and_no_offset() -> None:
    loss = LogitMSE().per_unit(S, single(Z, 1.0), 1.0)
    torch.testing.assert_close(
        LogitMSE().per_unit(S + 3.0, single(Z - 9.0, 4.0), 4.0), loss, rtol=1e-4, atol=1e-5
    )
    shifted = LogitMSE(centre=False).per_unit(S - S.mean(-1, keepdim=True) + 3.0, single(Z, 1.0), 1.0)
    torch.testing.assert_close(shifted, loss + 9.0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", METRICS, ids=name)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000), t=st.sampled_from([0.5, 1.0, 4.0]), scale=st.sampled_from([0.1, 3.0, 30.0])
)
def test_zero_at_the_teacher_and_positive_elsewhere(
    loss: DivergenceBase, seed: int, t: float, scale: float
) -> None:
    s, z = logits(5, 4, seed, scale), logits(5, 4, seed + 1, scale)
    tolerance = 2e-6 * t**2 * max(1.0, scale)
    assert loss.per_unit(z, single(z, t), t).abs().max().item() <= tolerance
    assert loss.per_unit(s, single(z, t), t).min().item() >= -tolerance
    if not isinstance(loss, TotalVariation):  # which has a corner at 0
        assert gradient(loss, z, single(z, t), t).abs().max().item() <= 1e-4


@pytest.mark.parametrize("loss", MEMBERS + BATCH, ids=name)
def test_relabelling_classes_changes_nothing(loss: DivergenceBase) -> None:
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        loss.per_unit(S[:, order], single(Z[:, order], 2.0), 2.0), loss.per_unit(S, single(Z, 2.0), 2.0)
    )
    torch.testing.assert_close(
        gradient(loss, S[:, order], single(Z[:, order], 2.0), 2.0),
        gradient(loss, S, single(Z, 2.0), 2.0)[:, order],
    )


@pytest.mark.parametrize("loss", MEMBERS, ids=name)
def test_a_unit_depends_on_itself_only(loss: DivergenceBase) -> None:
    alone = torch.cat([loss.per_unit(S[i : i + 1], single(Z[i : i + 1], 2.0), 2.0) for i in range(6)])
    torch.testing.assert_close(loss.per_unit(S, single(Z, 2.0), 2.0), alone)


AVERAGES = ("logit_mse", *(m.kind for m in MEMBERS if m.equal_choices))
"""Means over the choices of a unit, of which one that is not masked is one more."""


@pytest.mark.parametrize("loss", [m for m in MEMBERS if m.kind not in AVERAGES], ids=name)
def test_more_dead_classes_do_not_weaken_a_loss(loss: DivergenceBase) -> None:
    """A division by C would halve the value. The MSE is a mean over classes by its definition."""
    dead = torch.full((6, 4), -60.0)
    wide = loss.per_unit(torch.cat([S, dead], 1), single(torch.cat([Z, dead], 1), 1.0), 1.0)
    torch.testing.assert_close(wide, loss.per_unit(S, single(Z, 1.0), 1.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", MEMBERS + BATCH, ids=name)
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_finite_for_probabilities_of_zero(loss: DivergenceBase, size: float) -> None:
    z, s = torch.tensor([[size, 0.0, -size]]), torch.tensor([[-size, 0.0, size]])
    target = single(z, 1.0)
    assert target.p_NK.min() == 0.0
    assert torch.isfinite(loss.per_unit(s, target, 1.0)).all()
    assert torch.isfinite(gradient(loss, s, target, 1.0)).all()


@pytest.mark.parametrize(
    "loss", [m for m in MEMBERS if m.kind not in AVERAGES and m.least_choices == 2], ids=name
)
def test_a_class_that_both_sides_rule_out(loss: DivergenceBase) -> None:
    target, student = single(torch.tensor([[0.0, 1.0, -300.0]]), 1.0), torch.tensor([[1.0, 0.0, -math.inf]])
    two = loss.per_unit(student[:, :2], single(torch.tensor([[0.0, 1.0]]), 1.0), 1.0)
    torch.testing.assert_close(loss.per_unit(student, target, 1.0), two)
    assert torch.isfinite(gradient(loss, student, target, 1.0)).all()


def test_one_hot_teacher_at_temperature_1_is_the_gold_label() -> None:
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    target = single(200.0 * F.one_hot(labels, 4).float(), 1.0)
    expected = F.cross_entropy(S, labels, reduction="none")
    losses: list[DivergenceBase] = [
        ForwardKL(),
        CrossEntropy(),
        TeacherHard(threshold=1.0),
        JensenShannon(beta=0.0),
    ]
    for loss in losses:
        torch.testing.assert_close(loss.per_unit(S, target, 1.0), expected)


def test_teacher_hard_threshold_and_temperature() -> None:
    z = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]]))
    s = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    got = TeacherHard(threshold=0.6).per_unit(s, single(z, 1.0), 1.0)
    expected = -torch.log_softmax(s, -1)[1, 1].item()
    assert got.tolist() == pytest.approx([0.0, expected])
    # The student's side stays at T = 1 and without a factor.
    assert TeacherHard().per_unit(s, single(z, 3.0), 3.0)[1].item() == pytest.approx(expected)
    edge = Target(z.exp(), z, lambda: z, torch.ones(1, 2), torch.ones(2, dtype=torch.bool), 1.0)
    assert TeacherHard(threshold=float(z[0].exp()[0])).per_unit(s, edge, 1.0)[0].item() > 0.0


@pytest.mark.parametrize("loss", MEMBERS + BATCH, ids=name)
def test_half_precision_in_float32_out(loss: DivergenceBase) -> None:
    s = S.bfloat16()
    got = loss.per_unit(s, single(Z, 2.0), 2.0)
    assert got.dtype == torch.float32
    assert torch.equal(got, loss.per_unit(s.float(), single(Z, 2.0), 2.0))


def test_shapes_do_not_broadcast() -> None:
    for shape in [(6, 1), (1, 4), (4,)]:
        with pytest.raises(ValueError, match="target is"):
            ForwardKL().per_unit(torch.zeros(shape), single(Z, 1.0), 1.0)
    with pytest.raises(ValueError, match="temperature"):
        ForwardKL().per_unit(S, single(Z, 1.0), 0.0)


def test_declared_properties() -> None:
    powers = {m.kind: m.temperature_power for m in [*MEMBERS, *BATCH, AnnealedLogitMSE()]}
    assert powers == {
        "forward_kl": 2,
        "reverse_kl": 2,
        "jensen_shannon": 2,
        "cross_entropy": 2,
        "total_variation": 1,
        "logit_mse": 0,
        "teacher_hard": 0,
        "universal_logit": 1,
        "decoupled_kl": 2,
        "standardised_kl": 2,
        "skewed_kl": 2,
        "skewed_reverse_kl": 2,
        "probability_mse": 2,
        "annealed_logit_mse": 0,
        "dist": 2,
        "relational_distance": 0,
    }
    kinds = ADAPTER.json_schema()["discriminator"]["mapping"]
    assert powers.keys() == kinds.keys(), "every member of the union is tested"
    dense = {"logit_mse", "teacher_hard", "universal_logit", "decoupled_kl", "standardised_kl"}
    assert {m.kind for m in MEMBERS if m.needs_dense} == dense and all(m.needs_dense for m in BATCH)
    assert {m.kind for m in MEMBERS + BATCH if m.across_units} == {m.kind for m in BATCH}
    assert {m.kind for m in MEMBERS if m.linear_in_p} == {"forward_kl", "cross_entropy"}


@pytest.mark.parametrize("loss", MEMBERS + BATCH, ids=name)
def test_round_trip(loss: DivergenceBase) -> None:
    assert ADAPTER.validate_python(loss.model_dump()) == loss
    assert ADAPTER.validate_json(ADAPTER.dump_json(loss)) == loss


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "kl"},
        {},
        {"kind": "forward_kl", "t2": False},
        {"kind": "jensen_shannon", "beta": 1.5},
        {"kind": "jensen_shannon", "beta": -0.1},
        {"kind": "teacher_hard", "threshold": 2.0},
    ],
)
def test_what_is_no_divergence(value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(value)
