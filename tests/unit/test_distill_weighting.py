"""Weightings against hand-computed weights, and the rule that holds for all: they sum to 1 where anybody covers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from raykd.distill.signals import UNLABELLED, Signals
from raykd.distill.weighting import Anchored, Fixed, Uniform, Weighting
from raykd.distill.weightings.base import WeightingBase
from raykd.distill.weightings.confidence import Confidence, Entropy, InverseLoss, LossSoftmax
from raykd.distill.weightings.gradients import GradientAgreement
from raykd.distill.weightings.routing import ByColumn, ByLanguage, LanguageSimilarity
from raykd.errors import ConfigError

ADAPTER: TypeAdapter[Any] = TypeAdapter(Weighting)

TEACHERS = ("de", "multi", "world", "de2")
DECLARED = (frozenset({"de"}), frozenset({"de", "fr"}), None, frozenset({"de"}))

MEMBERS: list[WeightingBase] = [
    Uniform(),
    Fixed(by_teacher={"de": 1.0, "multi": 2.0, "world": 5.0, "de2": 0.5}),
    Fixed(by_teacher={"de": 1.0, "multi": 2.0, "world": 5.0, "de2": 0.0}),
    ByLanguage(),
    ByLanguage(chain=("monolingual",)),
    Entropy(),
    Entropy(tau=0.1),
    Confidence(),
    LossSoftmax(),
    LossSoftmax(tau=0.2),
    InverseLoss(),
    ByColumn(column="language", weights_of={"de": {"de": 2.0, "world": 1.0}}),
    ByColumn(weights_of={"film": {"de": 2.0, "multi": 1.0}}, otherwise={"world": 1.0, "de": 1e-60}),
    LanguageSimilarity(home={"world": ("nl",), "multi": ("de",)}),
    GradientAgreement(),
    Anchored(teacher="multi", share=0.3),
    Anchored(teacher="de", among=Entropy()),
]


def name(value: WeightingBase) -> str:
    return repr(value)


def signals_of(
    probabilities_MNC: list[list[list[float]]],
    labels: list[int],
    languages: str | list[str] = "de",
    covered: list[list[int]] | None = None,
    teachers: tuple[str, ...] | None = None,
    declared: tuple[frozenset[str] | None, ...] | None = None,
) -> Signals:
    """Signals whose softmax at T = 1 is what is written."""
    p_MNC = torch.tensor(probabilities_MNC)
    m, n = p_MNC.shape[:2]
    return Signals(
        teachers=teachers or tuple(f"t{i}" for i in range(m)),
        teacher_languages=declared or (None,) * m,
        logits_MNC=p_MNC.log() + 3.0,
        covered_MN=torch.ones(m, n, dtype=torch.bool) if covered is None else torch.tensor(covered).bool(),
        labels_N=torch.tensor(labels),
        languages=(languages,) * n if isinstance(languages, str) else tuple(languages),
    )


def random_signals(seed: int) -> Signals:
    make = torch.Generator().manual_seed(seed)
    return Signals(
        teachers=TEACHERS,
        teacher_languages=DECLARED,
        logits_MNC=5.0 * torch.randn(4, 12, 3, generator=make),
        covered_MN=torch.rand(4, 12, generator=make) < 0.5,
        labels_N=torch.randint(0, 3, (12,), generator=make).where(torch.arange(12) % 3 > 0, UNLABELLED),
        languages=tuple("de" if i % 2 else "fr" for i in range(12)),
        groups=tuple("film" if i % 4 else "" for i in range(12)),
    )


@pytest.mark.parametrize("weighting", MEMBERS, ids=name)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_weights_are_a_distribution_over_eligible_teachers(weighting: WeightingBase, seed: int) -> None:
    signals = random_signals(seed)
    weights, eligible = weighting.weights(signals), weighting.eligible(signals)
    assert weights.shape == (4, 12)
    assert weights.dtype == torch.float32
    assert (weights >= 0.0).all()
    assert not eligible[~signals.covered_MN].any()
    assert (weights[~eligible] == 0.0).all()
    torch.testing.assert_close(weights.sum(0), eligible.any(0).float())


@pytest.mark.parametrize("weighting", MEMBERS, ids=name)
def test_teachers_and_units_may_stand_in_any_order(weighting: WeightingBase) -> None:
    signals = random_signals(7)
    order_M, order_N = [2, 0, 3, 1], torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = Signals(
        teachers=tuple(signals.teachers[i] for i in order_M),
        teacher_languages=tuple(signals.teacher_languages[i] for i in order_M),
        logits_MNC=signals.logits_MNC[order_M][:, order_N],
        covered_MN=signals.covered_MN[order_M][:, order_N],
        labels_N=signals.labels_N[order_N],
        languages=tuple(signals.languages[i] for i in order_N),
        groups=tuple(signals.groups[i] for i in order_N),
    )
    torch.testing.assert_close(weighting.weights(shuffled), weighting.weights(signals)[order_M][:, order_N])


@pytest.mark.parametrize("weighting", MEMBERS, ids=name)
def test_what_uncovered_teachers_say_changes_nothing(weighting: WeightingBase) -> None:
    signals = random_signals(3)
    noise = torch.where(signals.covered_MN.unsqueeze(-1), signals.logits_MNC, torch.tensor([9.0, -9.0, 0.0]))
    other = replace(signals, logits_MNC=noise)
    assert torch.equal(weighting.weights(other), weighting.weights(signals))


def test_uniform() -> None:
    signals = signals_of([[[0.9, 0.1]] * 3] * 3, [0, 0, 0], covered=[[1, 1, 0], [1, 0, 0], [1, 1, 0]])
    expected = torch.tensor([[1 / 3, 0.5, 0.0], [1 / 3, 0.0, 0.0], [1 / 3, 0.5, 0.0]])
    torch.testing.assert_close(Uniform().weights(signals), expected)


def test_fixed_renormalises_over_those_who_cover() -> None:
    signals = signals_of(
        [[[0.9, 0.1]] * 4] * 3,
        [0] * 4,
        covered=[[1, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0]],
        teachers=("a", "b", "c"),
    )
    weights = Fixed(by_teacher={"c": 6.0, "a": 2.0, "b": 0.0}).weights(signals)
    expected = torch.tensor([[0.25, 0.25, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.75, 0.75, 0.0, 0.0]])
    torch.testing.assert_close(weights, expected)


def test_fixed_with_a_vanishing_weight_that_stands_alone() -> None:
    signals = signals_of([[[0.9, 0.1]]] * 2, [0], covered=[[1], [0]], teachers=("a", "b"))
    assert Fixed(by_teacher={"a": 1e-60, "b": 1.0}).weights(signals).tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize("teachers", [("a",), ("a", "b", "c"), ("a", "x")])
def test_fixed_must_name_the_teachers(teachers: tuple[str, ...]) -> None:
    weighting = Fixed(by_teacher={"a": 1.0, "b": 1.0})
    weighting.check(("b", "a"), (None, None), ("de",))
    with pytest.raises(ConfigError, match=r"(?s)name every teacher.*a, b"):
        weighting.check(teachers, (None,) * len(teachers), ("de",))
    if len(teachers) > 1:
        with pytest.raises(ConfigError):
            weighting.may_need("de", teachers, (None,) * len(teachers))


def test_other_weightings_serve_any_teachers() -> None:
    naming = (Fixed, ByColumn, LanguageSimilarity, Anchored)
    others = [weighting for weighting in MEMBERS if not isinstance(weighting, naming)]
    assert len(others) >= 5
    for weighting in others:
        weighting.check(("whoever",), (None,), ("de",))
    with pytest.raises(ConfigError):
        Fixed(by_teacher={"somebody": 1.0}).check(("whoever",), (None,), ("de",))


def test_by_language_takes_the_first_class_that_covers() -> None:
    """Units: all cover; no monolingual; de2 alone of its class; only fr's; foreign language; nobody."""
    signals = signals_of(
        [[[0.9, 0.1]] * 6] * 4,
        [0] * 6,
        languages=["de", "de", "de", "fr", "it", "de"],
        covered=[[1, 0, 0, 0, 1, 0], [1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 0], [1, 0, 1, 0, 0, 0]],
        teachers=TEACHERS,
        declared=DECLARED,
    )
    expected = torch.tensor(
        [
            [0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.5, 0.0, 0.5, 0.0, 0.0],
            [0.0, 0.5, 0.0, 0.5, 1.0, 0.0],
            [0.5, 0.0, 1.0, 0.0, 0.0, 0.0],
        ]
    )
    torch.testing.assert_close(ByLanguage().weights(signals), expected)
    any_first = ByLanguage(chain=("any",)).weights(signals)
    torch.testing.assert_close(any_first, Uniform().weights(signals))
    only = ByLanguage(chain=("monolingual",)).weights(signals)
    assert only.sum(0).tolist() == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    multi_first = ByLanguage(chain=("multilingual", "monolingual")).weights(signals)
    assert multi_first[:, 0].tolist() == [0.0, 0.5, 0.5, 0.0]


def test_asks() -> None:
    by_language = ByLanguage()
    assert by_language.may_need("de", TEACHERS, DECLARED) == (True, False, False, True)
    assert by_language.may_need("fr", TEACHERS, DECLARED) == (False, True, True, False)
    assert by_language.may_need("it", TEACHERS, DECLARED) == (False, False, True, False)
    assert by_language.may_need("it", TEACHERS[:2], DECLARED[:2]) == (False, False)
    assert ByLanguage(chain=("monolingual",)).may_need("fr", TEACHERS, DECLARED) == (False,) * 4
    assert ByLanguage(chain=("any",)).may_need("de", TEACHERS, DECLARED) == (True,) * 4
    assert ByLanguage(chain=("any",)).may_need("fr", TEACHERS, DECLARED) == (False, True, True, False)
    for weighting in (Uniform(), Entropy(), Confidence(), LossSoftmax()):
        assert weighting.may_need("de", TEACHERS, DECLARED) == (True, True, True, True)
        assert weighting.may_need("fr", TEACHERS, DECLARED) == (False, True, True, False)
    off = Fixed(by_teacher={"de": 1.0, "multi": 0.0, "world": 1.0, "de2": 1.0})
    assert off.may_need("fr", TEACHERS, DECLARED) == (False, False, True, False)


@pytest.mark.parametrize("weighting", MEMBERS, ids=name)
@pytest.mark.parametrize("language", ["de", "fr", "it"])
def test_not_asking_changes_no_weight_where_all_asked_answer(weighting: WeightingBase, language: str) -> None:
    declared_covers = torch.tensor([[d is None or language in d] for d in DECLARED])
    everybody = replace(
        random_signals(1), languages=(language,) * 12, covered_MN=declared_covers.expand(4, 12)
    )
    asked = torch.tensor(weighting.may_need(language, TEACHERS, DECLARED)).unsqueeze(-1)
    narrowed = replace(everybody, covered_MN=everybody.covered_MN & asked)
    assert torch.equal(weighting.weights(narrowed), weighting.weights(everybody))


def test_entropy_by_hand() -> None:
    signals = signals_of([[[0.5, 0.5]], [[0.8, 0.2]]], [UNLABELLED])
    h = [math.log(2.0), -0.8 * math.log(0.8) - 0.2 * math.log(0.2)]
    for tau in (1.0, 0.25):
        raw = [math.exp(-x / tau) for x in h]
        got = Entropy(tau=tau).weights(signals)[:, 0].tolist()
        assert got == pytest.approx([r / sum(raw) for r in raw], rel=1e-5)
    assert got[1] > got[0]


def test_entropy_of_a_certain_teacher_is_finite() -> None:
    signals = replace(random_signals(0), logits_MNC=1e4 * random_signals(0).logits_MNC)
    assert torch.isfinite(Entropy().weights(signals)).all()


def test_confidence_by_hand() -> None:
    """exp(CE) is 1 / p_y, so softmax over teachers of CE is (1/p_k) / sum (1/p_j): 2, 4, 10 of 16."""
    signals = signals_of([[[0.5, 0.5]], [[0.25, 0.75]], [[0.1, 0.9]]], [0])
    expected = [(1 - 2 / 16) / 2, (1 - 4 / 16) / 2, (1 - 10 / 16) / 2]
    assert Confidence().weights(signals)[:, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert sum(expected) == pytest.approx(1.0)
    two = replace(signals, covered_MN=torch.tensor([[True], [False], [True]]))
    assert Confidence().weights(two)[:, 0].tolist() == pytest.approx([1 - 2 / 12, 0.0, 1 - 10 / 12], rel=1e-5)
    one = replace(signals, covered_MN=torch.tensor([[False], [False], [True]]))
    assert Confidence().weights(one)[:, 0].tolist() == [0.0, 0.0, 1.0]


def test_loss_softmax_by_hand() -> None:
    """exp(-CE / tau) is p_y ** (1 / tau)."""
    signals = signals_of([[[0.5, 0.5]], [[0.25, 0.75]], [[0.1, 0.9]]], [0])
    for tau in (1.0, 0.5):
        raw = [p ** (1 / tau) for p in (0.5, 0.25, 0.1)]
        got = LossSoftmax(tau=tau).weights(signals)[:, 0].tolist()
        assert got == pytest.approx([r / sum(raw) for r in raw], rel=1e-5)


@pytest.mark.parametrize("weighting", [Confidence(), LossSoftmax(), LossSoftmax(tau=0.3)], ids=name)
def test_weight_falls_with_the_gold_loss(weighting: WeightingBase) -> None:
    right = [0.95, 0.7, 0.4, 0.05]
    signals = signals_of([[[p, 1 - p], [1 - p, p]] for p in right], [0, 1])
    weights = weighting.weights(signals)
    assert (weights[:-1] > weights[1:]).all()


@pytest.mark.parametrize("weighting", [Confidence(), LossSoftmax()], ids=name)
def test_unlabelled_units_are_shared_equally(weighting: WeightingBase) -> None:
    signals = signals_of(
        [[[0.9, 0.1]] * 2, [[0.2, 0.8]] * 2, [[0.6, 0.4]] * 2],
        [UNLABELLED, 0],
        covered=[[1, 1], [1, 1], [0, 0]],
    )
    weights = weighting.weights(signals)
    assert weights[:, 0].tolist() == [0.5, 0.5, 0.0]
    assert weights[0, 1] > 0.6


@pytest.mark.parametrize("weighting", MEMBERS, ids=name)
def test_round_trip(weighting: WeightingBase) -> None:
    assert ADAPTER.validate_python(weighting.model_dump()) == weighting
    assert ADAPTER.validate_json(ADAPTER.dump_json(weighting)) == weighting


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "mean"},
        {},
        {"kind": "fixed"},
        {"kind": "fixed", "by_teacher": {}},
        {"kind": "fixed", "by_teacher": {"a": 0.0}},
        {"kind": "fixed", "by_teacher": {"a": 1.0, "b": -0.5}},
        {"kind": "by_language", "chain": []},
        {"kind": "by_language", "chain": ["any", "any"]},
        {"kind": "by_language", "chain": ["bilingual"]},
        {"kind": "entropy", "tau": 0.0},
        {"kind": "loss_softmax", "tau": -1.0},
    ],
)
def test_what_is_no_weighting(value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(value)
