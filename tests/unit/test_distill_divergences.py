"""Divergences that take distributions or batches apart: against numpy, identities, and what each refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raykd.config.loading import load_run
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
from raykd.distill.losses import ForwardKL, LogitMSE, ReverseKL
from raykd.distill.objective import Objective, Term
from raykd.distill.signals import UNLABELLED, Signals, Target
from raykd.distill.targets import combine_logits
from raykd.errors import ConfigError
from raykd.presets import preset
from tests.unit.test_distill_losses import S, Z, gradient, single
from tests.worlds import run_config

GOLD = torch.tensor([0, 3, 1, 2, UNLABELLED, UNLABELLED])


def softmax(logits: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    scaled = logits.numpy().astype(np.float64) / temperature
    raised = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def labelled(target: Target) -> Target:
    return replace(target, labels_N=GOLD)


def compute_parts_by_hand(temperature: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two parts of the forward KL and the teachers' probability of the class, from their definition."""
    p, q = softmax(Z, temperature), softmax(S, temperature)
    classes = [int(g) if g != UNLABELLED else int(p[i].argmax()) for i, g in enumerate(GOLD)]
    binary, others, of_class = [], [], []
    for i, y in enumerate(classes):
        rest = [c for c in range(4) if c != y]
        b, bq = np.array([p[i, y], 1 - p[i, y]]), np.array([q[i, y], 1 - q[i, y]])
        o, oq = p[i, rest] / (1 - p[i, y]), q[i, rest] / (1 - q[i, y])
        binary.append((b * np.log(b / bq)).sum())
        others.append((o * np.log(o / oq)).sum())
        of_class.append(p[i, y])
    return np.asarray(binary), np.asarray(others), np.asarray(of_class)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_decoupled_kl_by_hand(t: float) -> None:
    binary, others, of_class = compute_parts_by_hand(t)
    got = DecoupledKL(target_weight=0.5, other_weight=8.0).per_unit(S, labelled(single(Z, t)), t)
    np.testing.assert_allclose(got.numpy(), t**2 * (0.5 * binary + 8.0 * others), rtol=1e-4)
    # The paper's identity: the forward KL weighs what is said of the others with 1 - p_y.
    whole = ForwardKL().per_unit(S, single(Z, t), t)
    np.testing.assert_allclose(whole.numpy(), t**2 * (binary + (1 - of_class) * others), rtol=1e-4)


def test_standardised_kl_by_hand_and_blind_to_scale() -> None:
    def standardise(logits: torch.Tensor) -> torch.Tensor:
        return (logits - logits.mean(-1, keepdim=True)) / logits.std(-1, keepdim=True)

    p, q = softmax(standardise(Z), 2.0), softmax(standardise(S), 2.0)
    got = StandardisedKL().per_unit(S, single(Z, 2.0), 2.0)
    np.testing.assert_allclose(got.numpy(), 4.0 * (p * np.log(p / q)).sum(-1), rtol=1e-4)
    torch.testing.assert_close(StandardisedKL().per_unit(7 * S + 3, single(0.1 * Z, 2.0), 2.0), got)


def test_equal_logits_have_a_finite_gradient() -> None:
    for loss in (StandardisedKL(), Dist(), RelationalDistance()):
        assert torch.isfinite(gradient(loss, torch.zeros(6, 4), single(Z, 2.0), 2.0)).all(), loss.kind


def test_skewed_divergences_by_hand_and_at_skew_0() -> None:
    p, q = softmax(Z, 2.0), softmax(S, 2.0)
    forward = SkewedKL(skew=0.1).per_unit(S, single(Z, 2.0), 2.0)
    np.testing.assert_allclose(forward, 4 * (p * np.log(p / (0.1 * p + 0.9 * q))).sum(-1), rtol=1e-4)
    reverse = SkewedReverseKL(skew=0.1).per_unit(S, single(Z, 2.0), 2.0)
    np.testing.assert_allclose(reverse, 4 * (q * np.log(q / (0.9 * p + 0.1 * q))).sum(-1), rtol=1e-4)
    pairs: list[tuple[DivergenceBase, DivergenceBase]] = [
        (SkewedKL(skew=0.0), ForwardKL()),
        (SkewedReverseKL(skew=0.0), ReverseKL()),
    ]
    for skewed, plain in pairs:
        assert torch.equal(skewed.per_unit(S, single(Z, 2.0), 2.0), plain.per_unit(S, single(Z, 2.0), 2.0))


def test_probability_mse_by_hand() -> None:
    got = ProbabilityMSE().per_unit(S, single(Z, 3.0), 3.0)
    np.testing.assert_allclose(got, 9 * ((softmax(Z, 3.0) - softmax(S, 3.0)) ** 2).sum(-1), rtol=1e-4)


def test_dist_by_hand() -> None:
    p, q = softmax(Z, 2.0), softmax(S, 2.0)
    rows = np.asarray([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(6)])
    columns = np.mean([1 - np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(4)])
    got = Dist(inter_weight=2.0, intra_weight=0.5).per_unit(S, single(Z, 2.0), 2.0)
    np.testing.assert_allclose(got, 4 * (2 * rows + 0.5 * columns), rtol=1e-4)


def test_relational_distance_by_hand() -> None:
    def distances(logits: torch.Tensor) -> np.ndarray:
        x = logits.numpy() - logits.numpy().mean(-1, keepdims=True)
        d = np.linalg.norm(x[:, None] - x[None], axis=-1)
        return d / d[~np.eye(6, dtype=bool)].mean()

    gap = np.abs(distances(S) - distances(Z))
    huber = np.where(gap < 1, 0.5 * gap**2, gap - 0.5)
    got = RelationalDistance().per_unit(S, single(Z, 2.0), 2.0)
    np.testing.assert_allclose(got, huber.sum(-1) / 5, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", [Dist(), RelationalDistance()], ids=lambda loss: loss.kind)
def test_units_that_nobody_covers_change_nothing_for_the_others(loss: DivergenceBase) -> None:
    known = torch.tensor([True, True, False, True, True, False])
    both = loss.per_unit(S, replace(single(Z, 2.0), covered_N=known), 2.0)
    torch.testing.assert_close(both[known], loss.per_unit(S[known], single(Z[known], 2.0), 2.0))


@pytest.mark.parametrize("loss", [Dist(), RelationalDistance()], ids=lambda loss: loss.kind)
def test_a_batch_of_one_unit_teaches_nothing_across_units(loss: DivergenceBase) -> None:
    got = loss.per_unit(S[:1], single(Z[:1], 2.0), 2.0)
    alone = Dist(intra_weight=0.0).per_unit(S[:1], single(Z[:1], 2.0), 2.0)
    torch.testing.assert_close(got, alone if isinstance(loss, Dist) else torch.zeros(1))


def test_the_gold_label_is_found_among_the_labels_that_a_teacher_knows() -> None:
    """A teacher of three of four labels: its part is the same as that of three labels alone."""
    columns = (0, 1, 3)
    gold = torch.tensor([0, 3, 1, 2, UNLABELLED, 3])
    weights = torch.ones(1, 6)
    signals = Signals(
        teachers=("a",),
        teacher_languages=(None,),
        logits_MNC=Z.unsqueeze(0),
        covered_MN=torch.ones(1, 6, dtype=torch.bool),
        labels_N=gold,
        languages=("en",) * 6,
        columns_M=(columns,),
    )
    objective = Objective(alpha={"kind": "constant", "value": 0.0}, terms=(Term(divergence=DecoupledKL()),))
    counts = objective.counts(gold, signals)
    got = objective.evaluate(S, gold, signals, 0.0, counts).sums["soft/decoupled_kl"]
    places = torch.tensor([0, 2, 1, UNLABELLED, UNLABELLED, 2])  # label 2 is none of the teacher's
    few = combine_logits(Z[None, :, columns], weights, 2.0, "arithmetic")
    expected = DecoupledKL().per_unit(S[:, columns], replace(few, labels_N=places), 2.0).sum()
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", ["decoupled_kl", "standardised_kl", "dist"])
def test_two_labels_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"{kind} needs 3 labels"):
        load_run(preset("demo"), [("objective.terms", [{"divergence": {"kind": kind}}])])


@pytest.mark.parametrize("loss", [StandardisedKL(), Dist()], ids=lambda loss: loss.kind)
def test_a_teacher_of_two_labels_is_refused_where_two_say_nothing(loss: DivergenceBase) -> None:
    with pytest.raises(ValueError, match="needs 3 choices"):
        loss.per_unit(S[:, :2], single(Z[:, :2], 1.0), 1.0)
    teacher = {"name": "few", "languages": "all", "path": "x", "missing": ["sports", "health"]}
    tree = [("teachers", [teacher]), ("data.labels", ["travel", "politics", "sports", "health"])]
    term = ("objective.terms", [{"divergence": {"kind": loss.kind}}])
    with pytest.raises(ConfigError, match=r"teacher few knows 2 of data.labels"):
        load_run(preset("demo"), [*tree, term])


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("file", "kind", "message"),
    [
        ("qa_en_de_zh.yaml", "dist", "different numbers of words"),
        ("qa_en_de_zh.yaml", "standardised_kl", "different numbers of words"),
        ("language_model_en_fr.yaml", "dist", "compares units with one another"),
        ("language_model_en_fr.yaml", "relational_distance", "compares units with one another"),
    ],
)
def test_tasks_refuse_what_they_cannot_compute(file: str, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run(EXAMPLES / file, [("objective.terms", [{"divergence": {"kind": kind}}])])


@pytest.mark.parametrize(("temperature", "phi"), [(7.0, 1 / 7), (4.0, 4 / 7), (1.0, 1.0)])
def test_annealed_logits_by_hand(temperature: float, phi: float) -> None:
    target = single(Z, temperature)
    s, z = S - S.mean(-1, keepdim=True), Z - Z.mean(-1, keepdim=True)
    loss = AnnealedLogitMSE(most=7.0)
    torch.testing.assert_close(loss.per_unit(S, target, temperature), (s - phi * z).square().mean(-1))
    assert float(loss.per_unit(phi * Z, target, temperature).max()) < 1e-9
    if temperature == 1.0:
        torch.testing.assert_close(loss.per_unit(S, target, 1.0), LogitMSE().per_unit(S, target, 1.0))
    with pytest.raises(ValueError, match="between 1 and most"):
        loss.per_unit(S, single(Z, 9.0), 9.0)
    with pytest.raises(ValidationError, match=r"start: 7, end: 1"):
        run_config({"temperature": 9.0, "terms": [{"divergence": {"kind": "annealed_logit_mse"}}]})
