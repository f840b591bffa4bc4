"""The objective against plain cross-entropy, closed forms and its own parts; splits change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from raykd.distill.losses import CrossEntropy, ForwardKL, JensenShannon, LogitMSE, ReverseKL, TeacherHard
from raykd.distill.objective import Objective, Term
from raykd.distill.schedules import Constant, Linear, Step, TeacherAnnealing, Warmup
from raykd.distill.shares import Counts, ObjectiveResult
from raykd.distill.signals import UNLABELLED, Signals
from raykd.distill.targets import combine_logits
from raykd.distill.weighting import Fixed, Uniform
from raykd.distill.weightings.confidence import Confidence, Entropy
from raykd.distill.weightings.routing import ByLanguage

N, C = 10, 4
LABELS = torch.tensor([0, 1, UNLABELLED, 3, 2, UNLABELLED, 1, 0, UNLABELLED, 2])
COVERED = torch.tensor([[1, 1, 1, 0, 0, 0, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0, 1, 1, 0, 0]]).bool()
"""Units 3 (labelled) and 5 (unlabelled) are covered by nobody."""


def draw(*shape: int, seed: int) -> torch.Tensor:
    return 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


S = draw(N, C, seed=0)
SIGNALS = Signals(
    teachers=("a", "b"),
    teacher_languages=(None, None),
    logits_MNC=draw(2, N, C, seed=1) * COVERED.unsqueeze(-1),
    covered_MN=COVERED,
    labels_N=LABELS,
    languages=("de",) * N,
)
ALL = replace(SIGNALS, logits_MNC=draw(2, N, C, seed=2), covered_MN=torch.ones(2, N, dtype=torch.bool))


def part(signals: Signals, rows: list[int]) -> Signals:
    return replace(
        signals,
        logits_MNC=signals.logits_MNC[:, rows],
        covered_MN=signals.covered_MN[:, rows],
        labels_N=signals.labels_N[rows],
        languages=tuple(signals.languages[i] for i in rows),
    )


def run(
    objective: Objective,
    signals: Signals | None,
    progress: float = 0.0,
    student: torch.Tensor = S,
    labels: torch.Tensor = LABELS,
    totals: Counts | None = None,
) -> tuple[ObjectiveResult, torch.Tensor]:
    """The result, and the gradient of its loss."""
    leaf = student.clone().requires_grad_()
    totals = totals or objective.counts(labels, signals)
    result = objective.evaluate(leaf, labels, signals, progress, totals)
    (gradient,) = torch.autograd.grad(result.loss, leaf)
    return result, gradient


def test_the_formula_with_every_part() -> None:
    """alpha .3, two terms with their own lambdas, a fallback: each number is rebuilt from torch's own losses."""
    objective = Objective(
        alpha=Constant(value=0.3),
        temperature=Constant(value=3.0),
        terms=(
            Term(lambda_schedule=Linear(start=1.0, end=0.0)),
            Term(divergence=LogitMSE(), lambda_schedule=Constant(value=0.5)),
        ),
        weighting=Uniform(),
        label_smoothing=0.1,
    )
    result, _ = run(objective, SIGNALS, progress=0.25)
    cover = COVERED.any(0)
    weights = COVERED / COVERED.sum(0).clamp_min(1)
    p = (weights.unsqueeze(-1) * torch.softmax(SIGNALS.logits_MNC / 3.0, -1)).sum(0)
    z = SIGNALS.logits_MNC - SIGNALS.logits_MNC.mean(-1, keepdim=True)
    mean_z = (weights.unsqueeze(-1) * z).sum(0)
    logq = torch.log_softmax(S / 3.0, -1)
    kl = 9.0 * F.kl_div(logq[cover], p[cover], reduction="sum").item()
    mse = F.mse_loss((S - S.mean(-1, keepdim=True))[cover], mean_z[cover], reduction="sum").item() / C
    gold_3 = F.cross_entropy(S[3:4], LABELS[3:4]).item()
    hard = F.cross_entropy(S, LABELS, reduction="sum", label_smoothing=0.1).item()
    assert result.counts == Counts(hard=7, soft=9, uncovered=1)
    assert {k: v.item() for k, v in result.sums.items()} == pytest.approx(
        {"hard": hard, "soft/forward_kl": kl + gold_3, "soft/logit_mse": mse + gold_3}, rel=1e-5
    )
    expected = 0.3 * hard / 7 + 0.7 * (0.75 * (kl + gold_3) + 0.5 * (mse + gold_3)) / 9
    assert result.loss.item() == pytest.approx(expected, rel=1e-5)
    assert result.weights_M is not None
    torch.testing.assert_close(result.weights_M, weights.sum(1))
    assert not any(v.requires_grad for v in (*result.sums.values(), result.weights_M))


def test_totals_are_the_divisors() -> None:
    objective = Objective(alpha=Constant(value=0.5), weighting=Uniform())
    result, _ = run(objective, SIGNALS, totals=Counts(hard=70, soft=900, uncovered=1))
    hard, soft = result.sums["hard"].item(), result.sums["soft/forward_kl"].item()
    assert result.loss.item() == pytest.approx(0.5 * hard / 70 + 0.5 * soft / 900, rel=1e-5)


@pytest.mark.parametrize("signals", [None, SIGNALS])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_alpha_1_is_plain_training_bit_for_bit(signals: Signals | None, label_smoothing: float) -> None:
    objective = Objective(alpha=Constant(value=1.0), label_smoothing=label_smoothing)
    assert objective.plain
    result, gradient = run(objective, signals)
    leaf = S.clone().requires_grad_()
    plain = F.cross_entropy(leaf, LABELS, reduction="sum", label_smoothing=label_smoothing) / 7
    if label_smoothing == 0.0:
        assert torch.equal(plain, F.cross_entropy(leaf, LABELS))
    (expected,) = torch.autograd.grad(plain, leaf)
    exact = {"rtol": 0.0, "atol": 0.0} if label_smoothing == 0.0 else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(result.loss, plain, **exact)
    torch.testing.assert_close(gradient, expected, **exact)
    assert set(result.sums) == {"hard"}
    assert result.weights_M is None


def test_alpha_that_arrives_at_1_skips_even_broken_teachers() -> None:
    objective = Objective(alpha=TeacherAnnealing())
    assert not objective.plain
    broken = replace(ALL, logits_MNC=torch.full_like(ALL.logits_MNC, torch.nan))
    result, _ = run(objective, broken, progress=1.0)
    assert torch.equal(result.loss, F.cross_entropy(S, LABELS))


def test_alpha_0_skips_the_gold_label() -> None:
    objective = Objective(alpha=Constant(value=0.0), weighting=Uniform())
    result, gradient = run(objective, ALL)
    assert set(result.sums) == {"soft/forward_kl"}
    other, same_gradient = run(objective, ALL, labels=torch.full_like(LABELS, UNLABELLED))
    assert torch.equal(other.loss, result.loss)
    assert torch.equal(same_gradient, gradient)


def test_plain_is_the_constant_only() -> None:
    assert Objective.model_validate({"alpha": 1}).plain
    assert not Objective(alpha=Linear(start=1.0, end=1.0)).plain
    assert not Objective().plain
    with pytest.raises(ValueError, match="needs teachers"):
        Objective().counts(LABELS, None)
    with pytest.raises(ValueError, match="needs teachers"):
        Objective(alpha=TeacherAnnealing()).evaluate(S, LABELS, None, 1.0, Counts(7, 9, 0))


SPLITS = [[list(range(10))], [[0, 1, 2, 3, 4, 5, 6], [7, 8, 9]], [[2, 5], [8], [], [0, 1, 3, 4, 6, 7, 9]]]


@pytest.mark.parametrize("split", SPLITS, ids=lambda s: str([len(x) for x in s]))
@pytest.mark.parametrize(
    "objective",
    [
        Objective(weighting=Uniform()),
        Objective(
            alpha=Constant(value=0.6), weighting=Confidence(), anneal_on="labelled", label_smoothing=0.1
        ),
        Objective(
            alpha=Linear(start=0.2, end=0.9),
            terms=(
                Term(divergence=ReverseKL(), lambda_schedule=Linear()),
                Term(divergence=TeacherHard(threshold=0.4)),
                Term(divergence=JensenShannon(beta=0.3)),
            ),
            weighting=Entropy(),
            mixture="geometric",
        ),
    ],
    ids=lambda o: o.weighting.kind,
)
def test_how_a_step_is_split_changes_nothing(objective: Objective, split: list[list[int]]) -> None:
    whole, gradient = run(objective, SIGNALS, progress=0.4)
    micro = [(rows, part(SIGNALS, rows)) for rows in split]
    totals = sum((objective.counts(LABELS[rows], signals) for rows, signals in micro), Counts())
    assert totals == whole.counts
    loss, sums, together = 0.0, dict.fromkeys(whole.sums, 0.0), torch.zeros(N, C)
    for rows, signals in micro:
        result, local = run(objective, signals, 0.4, S[rows], LABELS[rows], totals)
        loss += result.loss.item()
        sums = {kind: value + result.sums[kind].item() for kind, value in sums.items()}
        together[rows] = local
    assert loss == pytest.approx(whole.loss.item(), rel=1e-5)
    assert sums == pytest.approx({k: v.item() for k, v in whole.sums.items()}, rel=1e-5)
    torch.testing.assert_close(together, gradient)


def test_nothing_to_learn_from_is_0_and_not_nan() -> None:
    """Unlabelled units that nobody covers, and a micro-batch without units at all."""
    nobody = replace(SIGNALS, covered_MN=torch.zeros_like(COVERED))
    unlabelled = torch.full_like(LABELS, UNLABELLED)
    for objective in (
        Objective(),
        Objective(alpha=Constant(value=1.0)),
        Objective(alpha=Constant(value=0.0)),
    ):
        for signals, labels, student in (
            (replace(nobody, labels_N=unlabelled), unlabelled, S),
            (part(SIGNALS, []), LABELS[:0], S[:0]),
        ):
            for totals in (Counts(), Counts(hard=5, soft=5)):
                result, gradient = run(objective, signals, student=student, labels=labels, totals=totals)
                assert result.loss.item() == 0.0
                assert torch.equal(gradient, torch.zeros_like(student))
                assert result.counts == Counts()


def test_uncovered_units_fall_back_to_the_gold_label() -> None:
    """With no teacher at all, the soft part is the cross-entropy of the labelled units, times lambda."""
    nobody = replace(SIGNALS, covered_MN=torch.zeros_like(COVERED))
    objective = Objective(
        alpha=Constant(value=0.0), terms=(Term(lambda_schedule=Constant(value=0.5)),), label_smoothing=0.3
    )
    result, gradient = run(objective, nobody)
    assert result.counts == Counts(hard=7, soft=7, uncovered=7)
    leaf = S.clone().requires_grad_()
    expected = 0.5 * F.cross_entropy(leaf, LABELS)
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0])
    assert result.weights_M is not None
    assert result.weights_M.tolist() == [0.0, 0.0]


def test_a_teacher_that_may_have_no_weight_does_not_cover() -> None:
    only_a = Objective(weighting=Fixed(by_teacher={"a": 1.0, "b": 0.0}))
    assert only_a.counts(LABELS, SIGNALS) == Counts(hard=7, soft=9, uncovered=2)
    result, _ = run(only_a, SIGNALS)
    assert result.counts.uncovered == 2
    no_b = replace(SIGNALS, covered_MN=COVERED & torch.tensor([[True], [False]]))
    assert torch.equal(result.loss, run(Objective(weighting=Uniform()), no_b)[0].loss)
    monolingual = Objective(weighting=ByLanguage(chain=("monolingual",)))
    assert monolingual.counts(LABELS, ALL) == Counts(hard=7, soft=7, uncovered=7)


def test_one_hot_teacher_at_temperature_1_is_the_gold_label() -> None:
    labels = LABELS.where(LABELS != UNLABELLED, 0)
    sure = replace(ALL, logits_MNC=(200.0 * F.one_hot(labels, C).float()).expand(2, N, C), labels_N=labels)
    objective = Objective(alpha=Constant(value=0.4), temperature=Constant(value=1.0), weighting=Uniform())
    result, gradient = run(objective, sure, labels=labels)
    leaf = S.clone().requires_grad_()
    expected = F.cross_entropy(leaf, labels)
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0])


@pytest.mark.parametrize("mixture", ["arithmetic", "geometric"])
def test_all_weight_on_one_teacher_is_that_teacher_alone(mixture: Any) -> None:
    both = Objective(weighting=Fixed(by_teacher={"a": 0.0, "b": 3.0}), mixture=mixture)
    alone = Objective(weighting=Uniform(), mixture=mixture)
    only_b = replace(
        ALL,
        teachers=("b",),
        teacher_languages=(None,),
        logits_MNC=ALL.logits_MNC[1:],
        covered_MN=ALL.covered_MN[1:],
    )
    torch.testing.assert_close(run(both, ALL)[1], run(alone, only_b)[1])
    torch.testing.assert_close(run(both, ALL)[0].loss, run(alone, only_b)[0].loss)


def test_routing_by_language_is_each_teacher_on_its_own_units() -> None:
    languages = tuple("de" if i < 6 else "fr" for i in range(N))
    routed = replace(ALL, teacher_languages=(frozenset({"de"}), frozenset({"fr"})), languages=languages)
    result, gradient = run(Objective(), routed)
    chosen = torch.cat([ALL.logits_MNC[0, :6], ALL.logits_MNC[1, 6:]]).unsqueeze(0)
    one = replace(
        ALL, teachers=("x",), teacher_languages=(None,), logits_MNC=chosen, covered_MN=ALL.covered_MN[:1]
    )
    expected, expected_gradient = run(Objective(), one)
    torch.testing.assert_close(result.loss, expected.loss)
    torch.testing.assert_close(gradient, expected_gradient)
    assert result.weights_M is not None
    assert result.weights_M.tolist() == [6.0, 4.0]


@pytest.mark.parametrize("u", [0.0, 0.3, 0.8])
def test_teacher_annealing_is_one_cross_entropy_with_an_annealed_target(u: float) -> None:
    labels = LABELS.where(LABELS != UNLABELLED, 1)
    objective = Objective(alpha=TeacherAnnealing(), temperature=Constant(value=1.0), weighting=Uniform())
    _, gradient = run(objective, replace(ALL, labels_N=labels), progress=u, labels=labels)
    p = torch.softmax(ALL.logits_MNC, -1).mean(0)
    target = u * F.one_hot(labels, C).float() + (1 - u) * p
    leaf = S.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(leaf, target), leaf)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_annealing_on_labelled_units_spares_the_others() -> None:
    decayed = (Term(lambda_schedule=Linear(start=1.0, end=0.0)),)
    everywhere = Objective(alpha=Constant(value=0.0), terms=decayed, weighting=Uniform())
    labelled = everywhere.model_copy(update={"anneal_on": "labelled"})
    full = run(everywhere, ALL, 0.0)[1]
    torch.testing.assert_close(run(everywhere, ALL, 0.75)[1], 0.25 * full)
    factor = torch.where(LABELS == UNLABELLED, 1.0, 0.25).unsqueeze(-1)
    torch.testing.assert_close(run(labelled, ALL, 0.75)[1], factor * full)
    raw = run(everywhere, ALL, 0.75)[0].sums["soft/forward_kl"]
    assert raw.item() == pytest.approx(run(labelled, ALL, 0.75)[0].sums["soft/forward_kl"].item())


def test_a_ramp_brings_in_units_without_gold_labels_and_spares_the_others() -> None:
    ramp = (Term(lambda_schedule=Linear(start=0.0, end=1.0)),)
    objective = Objective(alpha=Constant(value=0.0), terms=ramp, weighting=Uniform(), anneal_on="unlabelled")
    full = run(objective, ALL, 1.0)[1]
    factor = torch.where(LABELS == UNLABELLED, 0.25, 1.0).unsqueeze(-1)
    torch.testing.assert_close(run(objective, ALL, 0.25)[1], factor * full)


def test_units_without_gold_label_that_teachers_are_unsure_of_teach_nothing_and_still_count() -> None:
    every = Objective(alpha=Constant(value=0.0), weighting=Uniform())
    sure_N = combine_logits(ALL.logits_MNC, torch.full((2, N), 0.5), 2.0, "arithmetic").p_NK.max(-1).values
    free_N = LABELS == UNLABELLED
    least = float(sure_N[free_N].median())  # the middle one of three is just sure enough
    gated = every.model_copy(update={"least_confidence": Constant(value=least)})
    kept_N = ~free_N | (sure_N >= least)
    assert int((~kept_N).sum()) == 1 and (sure_N[~free_N] < least).any(), "gold labels are no matter of this"
    torch.testing.assert_close(run(gated, ALL)[1], kept_N.unsqueeze(-1) * run(every, ALL)[1])
    falling = every.model_copy(update={"least_confidence": Linear(start=1.0, end=0.0)})
    torch.testing.assert_close(run(falling, ALL, 1.0)[1], run(every, ALL, 1.0)[1])
    assert not run(falling, ALL, 0.0)[1][free_N].any(), "no teacher is sure of anything"
    with pytest.raises(ValueError, match="least_confidence must stay in"):
        Objective.model_validate({"least_confidence": 2.0})


def test_forward_kl_and_soft_cross_entropy_differ_by_the_entropy_only() -> None:
    kl, ce = (
        Objective(alpha=Constant(value=0.0), terms=(Term(divergence=d),), weighting=Uniform())
        for d in (ForwardKL(), CrossEntropy())
    )
    torch.testing.assert_close(run(kl, ALL)[1], run(ce, ALL)[1])
    target = combine_logits(ALL.logits_MNC, torch.full((2, N), 0.5), 2.0, "arithmetic")
    entropy = -(target.p_NK * target.logp_NK).sum(-1).mean()
    torch.testing.assert_close(run(ce, ALL)[0].loss - run(kl, ALL)[0].loss, 4.0 * entropy)


def test_temperature_follows_its_schedule() -> None:
    moving = Objective(temperature=Linear(start=4.0, end=2.0), weighting=Uniform())
    fixed = Objective(temperature=Constant(value=3.0), weighting=Uniform())
    assert torch.equal(run(moving, ALL, 0.5)[0].loss, run(fixed, ALL, 0.5)[0].loss)


def test_relabelling_classes_moves_the_gradient_along() -> None:
    order = torch.tensor([2, 0, 3, 1])  # new column j was order[j]
    place = torch.argsort(order)
    labels = torch.where(LABELS == UNLABELLED, LABELS, place[LABELS.clamp_min(0)])
    objective = Objective(alpha=Constant(value=0.5), weighting=Confidence())
    moved_signals = replace(ALL, logits_MNC=ALL.logits_MNC[..., order], labels_N=labels)
    moved, moved_gradient = run(objective, moved_signals, student=S[:, order], labels=labels)
    result, gradient = run(objective, ALL)
    torch.testing.assert_close(moved.loss, result.loss)
    torch.testing.assert_close(moved_gradient, gradient[:, order])


def test_half_precision_student() -> None:
    result, gradient = run(Objective(weighting=Uniform()), ALL, student=S.bfloat16())
    assert result.loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert torch.equal(
        result.loss, run(Objective(weighting=Uniform()), ALL, student=S.bfloat16().float())[0].loss
    )


def test_knobs() -> None:
    objective = Objective(
        alpha=Linear(start=0.1, end=0.5),
        temperature=Step(values=(4.0, 2.0), at=(0.5,)),
        terms=(Term(lambda_schedule=Warmup(fraction=0.5)), Term(divergence=LogitMSE())),
    )
    values = objective.values_at(0.25)
    assert values.alpha == pytest.approx(0.2)
    assert values.temperature == 4.0
    assert values.lambdas == {"forward_kl": 0.5, "logit_mse": 1.0}
    assert objective.values_at(0.5).temperature == 2.0


def test_defaults() -> None:
    values = Objective().values_at(0.7)
    assert (values.alpha, values.temperature, dict(values.lambdas)) == (0.1, 2.0, {"forward_kl": 1.0})
    assert Objective().weighting == ByLanguage()


def test_shapes_and_totals_that_cannot_be() -> None:
    objective = Objective()
    enough = Counts(100, 100, 100)
    with pytest.raises(ValueError, match="student logits"):
        objective.evaluate(S[:5], LABELS, SIGNALS, 0.0, enough)
    with pytest.raises(ValueError, match="signals hold"):
        objective.evaluate(S[:5], LABELS[:5], SIGNALS, 0.0, enough)
    for width in (1, 3):
        with pytest.raises(ValueError, match="same labels"):
            objective.evaluate(S[:, :width], LABELS.clamp_max(0), SIGNALS, 0.0, enough)
    for totals in (Counts(6, 100, 0), Counts(100, 8, 0)):
        with pytest.raises(ValueError, match="smaller"):
            objective.evaluate(S, LABELS, SIGNALS, 0.0, totals)
    with pytest.raises(ValueError, match="progress"):
        objective.evaluate(S, LABELS, SIGNALS, float("nan"), enough)


def test_counts_add_up() -> None:
    assert Counts(1, 2, 3) + Counts(10, 20, 30) == Counts(11, 22, 33)


def test_round_trip_and_shorthand() -> None:
    objective = Objective.model_validate(
        {
            "alpha": {"kind": "teacher_annealing"},
            "temperature": 4,
            "terms": [
                {"divergence": {"kind": "jensen_shannon", "beta": 0.2}, "lambda_schedule": 0.5},
                {"divergence": {"kind": "logit_mse"}, "lambda_schedule": {"kind": "cosine"}},
            ],
            "weighting": {"kind": "fixed", "by_teacher": {"a": 1.0}},
            "mixture": "geometric",
            "anneal_on": "labelled",
            "label_smoothing": 0.1,
        }
    )
    assert objective.temperature == Constant(value=4.0)
    assert objective.terms[0].divergence == JensenShannon(beta=0.2)
    for each in (objective, Objective()):
        assert Objective.model_validate(each.model_dump()) == each
        assert Objective.model_validate(each.model_dump(mode="json")) == each
        assert Objective.model_validate_json(each.model_dump_json()) == each


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"alpha": 1.5}, "alpha must stay"),
        ({"alpha": {"kind": "linear", "start": 0.5, "end": -0.5}}, "alpha must stay"),
        ({"alpha": {"kind": "step", "values": [0.1, 2.0, 0.1], "at": [0.61, 0.62]}}, "alpha must stay"),
        ({"temperature": 0}, "above 0"),
        ({"temperature": {"kind": "linear", "start": 4.0, "end": 0.0}}, "above 0"),
        ({"temperature": {"kind": "warmup", "value": 2.0}}, "above 0"),
        ({"terms": []}, "at least 1"),
        ({"terms": [{}, {"lambda_schedule": 0.5}]}, "one term only"),
        ({"terms": [{"lambda_schedule": -1.0}]}, "lambda must stay"),
        ({"label_smoothing": 1.1}, "label_smoothing"),
        ({"mixture": "harmonic"}, "mixture"),
        ({"anneal_on": "gold"}, "anneal_on"),
        ({"beta": 1.0}, "beta"),
        ({"weighting": {"kind": "best"}}, "by_language"),
    ],
)
def test_what_is_no_objective(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Objective.model_validate(value)
