"""Feature terms against their papers' formulas, written plainly, and how several teachers are weighed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from raykd.distill.features.layers import list_layer_pairs
from raykd.distill.features.plan import FeaturePlan, plan_features
from raykd.distill.features.states import EncoderShape, Source, State, TeacherStates
from raykd.distill.features.sums import FeatureBatch, sum_feature
from raykd.distill.features.terms import (
    AttentionMSE,
    ComparedStates,
    FeatureBase,
    HiddenCosine,
    HiddenMSE,
    RelationKL,
)
from raykd.distill.objective import Objective
from raykd.distill.shares import Counts
from raykd.distill.signals import Signals
from raykd.errors import ConfigError

STUDENT, TEACHER = EncoderShape("bert", 2, 8, 2), EncoderShape("bert", 4, 8, 2)
LENGTHS = (3, 5, 1)
MASK = torch.arange(5)[None, :] < torch.tensor(LENGTHS)[:, None]


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def plain_relations(query: np.ndarray, key: np.ndarray, heads: int) -> np.ndarray:
    """``[A, l, l]`` scores of one text, head by head."""
    d = query.shape[1] // heads
    pieces = [slice(a * d, (a + 1) * d) for a in range(heads)]
    return np.stack([query[:, at] @ key[:, at].T / math.sqrt(d) for at in pieces])


def test_hidden_states_are_compared_vector_by_vector() -> None:
    own, taught = draw(3, 8, seed=1), draw(3, 8, seed=2)
    mse = HiddenMSE(position="cls").measure(ComparedStates((own,), (taught,), MASK, 2))
    np.testing.assert_allclose(mse, ((own - taught) ** 2).numpy().mean(axis=1), rtol=1e-6)
    cosine = HiddenCosine(position="cls").measure(ComparedStates((own,), (taught,), MASK, 2))
    a, b = own.numpy(), taught.numpy()
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(cosine, 1 - (a * b).sum(axis=1) / norms, rtol=1e-5)
    # PKD's loss, the squared distance of normalised [CLS] states (arXiv:1908.09355), is twice it.
    unit = a / np.linalg.norm(a, axis=1, keepdims=True) - b / np.linalg.norm(b, axis=1, keepdims=True)
    np.testing.assert_allclose(2 * cosine, (unit**2).sum(axis=1), rtol=1e-5)


def test_padding_takes_no_part_in_what_is_compared_token_by_token() -> None:
    states = [draw(3, 5, 8, seed=seed) for seed in range(6)]
    for term, count in ((HiddenMSE(position="sequence"), 1), (AttentionMSE(), 2), (RelationKL(heads=4), 3)):
        own, taught = tuple(states[:count]), tuple(states[3 : 3 + count])
        found = term.measure(ComparedStates(own, taught, MASK, 2))
        for row, length in enumerate(LENGTHS):
            alone = term.measure(
                ComparedStates(
                    tuple(x[row : row + 1, :length] for x in own),
                    tuple(x[row : row + 1, :length] for x in taught),
                    MASK[row : row + 1, :length],
                    2,
                )
            )
            torch.testing.assert_close(found[row : row + 1], alone)
        torch.testing.assert_close(term.measure(ComparedStates(own, own, MASK, 2)), torch.zeros(3))


def test_attention_is_tinyberts_mean_squared_difference_of_scores() -> None:
    query, key, taught_query, taught_key = (draw(3, 5, 8, seed=seed) for seed in range(4))
    found = AttentionMSE().measure(ComparedStates((query, key), (taught_query, taught_key), MASK, 2))
    for row, length in enumerate(LENGTHS):
        own = plain_relations(query[row, :length].numpy(), key[row, :length].numpy(), 2)
        taught = plain_relations(taught_query[row, :length].numpy(), taught_key[row, :length].numpy(), 2)
        wanted = np.mean([((own[head] - taught[head]) ** 2).mean() for head in range(2)])
        assert float(found[row]) == pytest.approx(wanted, rel=1e-5)


def test_relations_are_minilms_divergences_for_any_number_of_heads() -> None:
    own, taught = ([draw(3, 5, width, seed=seed) for seed in range(3)] for width in (8, 24))
    for heads in (1, 4):
        found = RelationKL(heads=heads).measure(ComparedStates(tuple(own), tuple(taught), MASK, 2))
        for row, length in enumerate(LENGTHS):
            wanted = 0.0
            for x, z in zip(own, taught, strict=True):
                q, p = (
                    softmax(plain_relations(s[row, :length].numpy(), s[row, :length].numpy(), heads))
                    for s in (x, z)
                )
                wanted += (p * np.log(p / q)).sum() / (heads * length)
            assert float(found[row]) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "pairs"),
    [
        ("last", 2, 4, [(2, 4)]),
        ("uniform", 4, 12, [(1, 3), (2, 6), (3, 9), (4, 12)]),
        ("uniform", 3, 4, [(1, 1), (2, 3), (3, 4)]),
        ("uniform", 4, 2, [(1, 1), (2, 1), (3, 2), (4, 2)]),
        ([[0, 0], [2, 3]], 2, 4, [(0, 0), (2, 3)]),
    ],
)
def test_layers_are_paired(layers: Any, student: int, teacher: int, pairs: list[tuple[int, int]]) -> None:
    term = HiddenMSE.model_validate({"layers": layers})
    own, taught = EncoderShape("bert", student, 8, 2), EncoderShape("bert", teacher, 8, 2)
    assert list(list_layer_pairs(term.layers, own, taught, "t")) == pairs


@pytest.mark.parametrize(
    ("term", "shape", "said"),
    [
        (HiddenMSE(layers=((2, 5),)), TEACHER, "teacher t has no layer 5"),
        (HiddenMSE(layers=((3, 4),)), TEACHER, "the student has no layer 3"),
        (AttentionMSE(), EncoderShape("bert", 4, 8, 4), "4 heads, the student has 2"),
        (AttentionMSE(layers=((0, 0),)), TEACHER, "the embeddings have none"),
        (RelationKL(heads=3), TEACHER, "3 heads, and the student cannot be cut"),
    ],
)
def test_encoders_that_cannot_be_compared_are_refused(term: Any, shape: EncoderShape, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_features([term], STUDENT, {"t": shape})
    assert said in str(caught.value)


def test_the_embeddings_are_compared_beside_any_layers() -> None:
    for layers in ("uniform", [[0, 0], [1, 2], [2, 4]]):
        term = HiddenMSE.model_validate({"layers": layers, "embeddings": True})
        plan = plan_features([term], STUDENT, {"t": TEACHER})
        assert plan.pairs["hidden_mse", 0] == ((0, 0), (1, 2), (2, 4))


def make_batch(
    term: FeatureBase,
    own: torch.Tensor,
    taught: list[torch.Tensor],
    covered: list[list[bool]],
    row_N: list[int],
) -> FeatureBatch:
    source = Source(term.where, State("hidden", 2))
    plan = FeaturePlan({(term.kind, m): ((2, 2),) for m in range(len(taught))}, (source,), (), {}, 2)
    teachers = tuple(
        TeacherStates({source: states}, {term.where: torch.tensor(seen)})
        for states, seen in zip(taught, covered, strict=True)
    )
    return FeatureBatch(plan, {source: own}, teachers, MASK, torch.tensor(row_N), lambda name, x: x)


def test_several_teachers_are_weighed_by_unit_over_those_whose_states_are_there() -> None:
    term = HiddenMSE(position="mean")
    own, taught = draw(3, 8, seed=1), [draw(3, 8, seed=seed) for seed in (2, 3)]
    covered = [[True, True, False], [True, False, False]]
    units = [0, 0, 1, 2]  # the first text has two units, as one with two labels
    weights_MN = torch.tensor([[0.5, 0.2, 0.3, 0.5], [0.5, 0.8, 0.7, 0.5]])
    loss_MB = [((own - states) ** 2).mean(dim=1) for states in taught]
    wanted = 0.5 * loss_MB[0][0] + 0.5 * loss_MB[1][0] + 0.2 * loss_MB[0][0] + 0.8 * loss_MB[1][0]
    wanted = wanted + loss_MB[0][1]  # the second teacher's state is not there; nobody covers the last text
    found = sum_feature(term, make_batch(term, own, taught, covered, units), weights_MN)
    torch.testing.assert_close(found, wanted)


def test_a_unit_without_states_gives_no_nan_and_no_gradient() -> None:
    term = HiddenCosine(position="mean")
    own = draw(3, 8, seed=1).requires_grad_()
    batch = make_batch(term, own, [torch.zeros(3, 8)], [[True, False, False]], [0, 1, 2])
    sum_feature(term, batch, torch.tensor([[1.0, 1.0, 0.0]])).backward()
    assert own.grad is not None and own.grad.isfinite().all() and not own.grad[1:].any()


def test_the_objective_adds_features_with_their_factor_to_the_soft_part() -> None:
    features = [{"kind": "hidden_mse", "position": "mean", "lambda_schedule": 3.0}]
    plain = Objective.model_validate({"alpha": 0.25, "weighting": {"kind": "uniform"}})
    objective = Objective.model_validate({**plain.model_dump(), "features": features})
    logits, labels = draw(3, 2, seed=4), torch.tensor([0, 1, -100])
    signals = Signals(
        ("a", "b"),
        (None, None),
        draw(2, 3, 2, seed=5),
        torch.ones(2, 3, dtype=torch.bool),
        labels,
        ("en",) * 3,
    )
    own, taught = draw(3, 8, seed=1), [draw(3, 8, seed=seed) for seed in (2, 3)]
    batch = make_batch(objective.features[0], own, taught, [[True] * 3] * 2, [0, 1, 2])
    totals = Counts(hard=4, soft=6)
    without = plain.evaluate(logits, labels, signals, 0.0, totals)
    found = objective.evaluate(logits, labels, signals, 0.0, totals, features=batch)
    mean = sum(((own - states) ** 2).mean(dim=1).sum() for states in taught) / 2
    torch.testing.assert_close(found.loss - without.loss, 0.75 * 3.0 * mean / 6)
    torch.testing.assert_close(found.sums["soft/hidden_mse"], mean)


@pytest.mark.parametrize("apart", [False, True])
def test_teachers_that_are_unsure_of_a_text_without_gold_label_teach_no_states_of_it(apart: bool) -> None:
    objective = Objective.model_validate(
        {
            "alpha": 0.0,
            "weighting": {"kind": "uniform"},
            "features": [{"kind": "hidden_mse", "position": "mean"}],
            "least_confidence": 0.9,
        }
    )
    # Of text 2 the first teacher is sure and the second is not: mixed they are unsure. Text 0 has a gold label.
    logits_MNC = torch.zeros(2, 3, 3)
    logits_MNC[0, 1:, 0] = logits_MNC[1, 1, 0] = 20.0
    signals = Signals(
        ("a", "b"),
        (None, None),
        logits_MNC,
        torch.ones(2, 3, dtype=torch.bool),
        torch.tensor([0, -100, -100]),
        ("en",) * 3,
        columns_M=(None, (0, 1)) if apart else (),
    )
    own, taught = draw(3, 8, seed=1), [draw(3, 8, seed=seed) for seed in (2, 3)]
    batch = make_batch(objective.features[0], own, taught, [[True] * 3] * 2, [0, 1, 2])
    found = objective.evaluate(
        draw(3, 3, seed=4), signals.labels_N, signals, 0.0, Counts(hard=1, soft=3), features=batch
    )
    loss_MN = torch.stack([((own - states) ** 2).mean(dim=1) for states in taught]) / 2
    loss_MN[:, 2] *= torch.tensor([1.0, 0.0]) if apart else 0.0
    torch.testing.assert_close(found.sums["soft/hidden_mse"], loss_MN.sum())


def test_a_term_without_weight_asks_for_nothing() -> None:
    late = {"kind": "hidden_mse", "lambda_schedule": {"kind": "step", "at": [0.5], "values": [0.0, 1.0]}}
    objective = Objective.model_validate({"features": [late]})
    assert [objective.wants_features(progress) for progress in (0.0, 0.4, 0.6)] == [False, False, True]
    assert not Objective.model_validate({"features": [late], "alpha": 1.0}).wants_features(0.6)
    assert not Objective().wants_features(0.6)
