"""Parts against the dense loss: subsets, top-k with tail, sampled tokens, hidden states, other vocabularies."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from raykd.answers.answer import Answer, DenseAnswer
from raykd.answers.compress import draw_uniforms
from raykd.answers.servable import check_servable
from raykd.answers.tensors import to_vocabulary_signal
from raykd.distill.losses import (
    CrossEntropy,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    TotalVariation,
    UniversalLogit,
)
from raykd.distill.objective import Objective
from raykd.distill.parts import make_parts, sum_over_parts
from raykd.distill.schedules import Constant, Linear, Step
from raykd.distill.signals import UNLABELLED, Signals, VocabularySignal
from raykd.distill.targets import combine_logits
from raykd.distill.vocabulary_signals import IdMap, TopKSignal
from raykd.distill.weighting import Fixed, Uniform
from raykd.distill.weightings.confidence import Confidence, Entropy, LossSoftmax
from raykd.errors import ConfigError
from tests.kept_answers import draw_tokens, keep_hidden, keep_top_k

N, V = 6, 40
TAILED = (ForwardKL(), ReverseKL(), JensenShannon(), TotalVariation(), CrossEntropy())
GRID = (0.5, 1.0, 2.0)


def draw(*shape: int, seed: int) -> torch.Tensor:
    """Multiples of 1/16 between -8 and 8, which float16 holds after any subtraction."""
    raw = 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (raw * 16).round().clamp(-128, 128) / 16


Z, S = draw(2, N, V, seed=0), draw(N, V, seed=1)


def signals_of(
    *answers: VocabularySignal | None,
    logits_MNC: torch.Tensor | None = None,
    columns: Any = (),
    labels: Any = None,
) -> Signals:
    m = len(answers) or len(logits_MNC)  # type: ignore[arg-type]
    return Signals(
        teachers=tuple(f"t{i}" for i in range(m)),
        teacher_languages=(None,) * m,
        logits_MNC=torch.zeros(m, N, 0) if logits_MNC is None else logits_MNC,
        covered_MN=torch.ones(m, N, dtype=torch.bool),
        labels_N=torch.zeros(N, dtype=torch.int64) if labels is None else labels,
        languages=("de",) * N,
        columns_M=columns,
        vocabulary_M=answers,
    )


def loss_and_gradient(
    divergence: Any, signals: Signals, temperature: float, student: torch.Tensor = S, weights: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    student = student.clone().requires_grad_()
    m = len(signals.teachers)
    weights = torch.full((m, N), 1.0 / m) if weights is None else weights
    parts = make_parts(student, signals, weights, temperature, "arithmetic")
    loss_N, covered_N = sum_over_parts(divergence, parts, temperature, signals.labels_N)
    assert covered_N.all()
    (gradient,) = torch.autograd.grad(loss_N.sum(), student)
    return loss_N.detach(), gradient


def dense(
    divergence: Any, temperature: float, logits: torch.Tensor = Z[0]
) -> tuple[torch.Tensor, torch.Tensor]:
    return loss_and_gradient(divergence, signals_of(logits_MNC=logits.unsqueeze(0)), temperature)


def kept(k: int, logits: torch.Tensor = Z[0]) -> VocabularySignal:
    return to_vocabulary_signal(keep_top_k(logits, k, GRID))


@pytest.mark.parametrize("temperature", GRID)
@pytest.mark.parametrize("divergence", TAILED, ids=lambda d: d.kind)
def test_top_k_of_all_is_dense(divergence: Any, temperature: float) -> None:
    loss, gradient = loss_and_gradient(divergence, signals_of(kept(V)), temperature)
    wanted, wanted_gradient = dense(divergence, temperature)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", GRID)
@pytest.mark.parametrize("divergence", [d for d in TAILED if d.kind != "cross_entropy"], ids=lambda d: d.kind)
def test_tail_bucket_is_the_sum_over_its_tokens(divergence: Any, temperature: float) -> None:
    """Against the (k + 1)-way distributions summed by hand; never above the dense loss (data processing)."""
    k = 5
    p, q = (x.div(temperature).softmax(-1).double() for x in (Z[0], S))
    top = p.topk(k, dim=-1).indices
    reduced = [torch.cat([x.gather(1, top), 1 - x.gather(1, top).sum(-1, keepdim=True)], 1) for x in (p, q)]
    by_hand, _ = loss_and_gradient_of(divergence, reduced[0].log(), reduced[1].log(), temperature)
    loss, gradient = loss_and_gradient(divergence, signals_of(kept(k)), temperature)
    torch.testing.assert_close(loss, by_hand, rtol=1e-4, atol=1e-5)
    assert (loss <= dense(divergence, temperature)[0] + 1e-5).all()
    assert gradient.sum(dim=-1).abs().max() < 1e-4  # a shift of all logits changes nothing


def loss_and_gradient_of(
    divergence: Any, logp: torch.Tensor, logq: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The divergence of two whole distributions, given as logits that their softmax at T turns back into them."""
    return loss_and_gradient(
        divergence,
        signals_of(logits_MNC=(logp * temperature).float().unsqueeze(0)),
        temperature,
        student=(logq * temperature).float(),
    )


def test_gradient_in_the_tail() -> None:
    """Of the forward KL: ``T (q - p)`` at the k tokens, and in the tail the tail's gap shared out by q."""
    temperature, answer = 2.0, kept(4)
    assert isinstance(answer, TopKSignal)
    _, gradient = loss_and_gradient(ForwardKL(), signals_of(answer), temperature)
    p, q = (x.div(temperature).softmax(-1) for x in (Z[0], S))
    inside = torch.zeros(N, V, dtype=torch.bool).scatter(1, answer.ids_NK, True)
    p_tail, q_tail = (x.masked_fill(inside, 0).sum(-1, keepdim=True) for x in (p, q))
    wanted = temperature * torch.where(inside, q - p, (q_tail - p_tail) * q / q_tail)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_support_by_finite_differences() -> None:
    from raykd.distill.support import gather_support

    ids = torch.tensor([[3, 1, -1], [-1, -1, -1], [0, 5, 2]])
    student = torch.randn(
        3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda x: gather_support(x, ids, 1.7)[:, [0, -1]][[0, 2]], student)
    assert torch.autograd.gradcheck(lambda x: gather_support(x, ids, 1.7)[1, -1], student)


def test_temperature_off_the_grid() -> None:
    with pytest.raises(ValueError, match=r"temperature 1.5 is not among.*0.5, 1.0, 2.0"):
        loss_and_gradient(ForwardKL(), signals_of(kept(4)), 1.5)
    drawn = to_vocabulary_signal(draw_tokens(Z[0], draw_uniforms(0, N, 20), 2.0))
    with pytest.raises(ValueError, match=r"temperature 1.0 is not among.*2.0"):
        loss_and_gradient(ForwardKL(), signals_of(drawn), 1.0)


def test_sampled_gradient_is_unbiased() -> None:
    """The mean of the gradients over 400 draws of 50 lies close to the dense one; few directions differ by much."""
    temperature = 2.0
    _, wanted = dense(ForwardKL(), temperature)
    answers = [
        to_vocabulary_signal(draw_tokens(Z[0], draw_uniforms(seed, N, 50), temperature))
        for seed in range(400)
    ]
    gradients = [loss_and_gradient(ForwardKL(), signals_of(a), temperature)[1] for a in answers]
    mean = torch.stack(gradients).mean(dim=0)
    cosine = torch.nn.functional.cosine_similarity(mean.flatten(), wanted.flatten(), dim=0)
    assert math.degrees(math.acos(min(float(cosine), 1.0))) < 2.0
    assert (mean - wanted).abs().max() < 0.02


def test_gradient_angle_of_k_64() -> None:
    """On a peaked head of 2,000 tokens at T = 1 the k = 64 gradient points where the dense one does, to 5 degrees."""
    generator = torch.Generator().manual_seed(3)
    zipf = -1.3 * torch.arange(1, 2001).float().log()
    teacher = torch.stack([zipf[torch.randperm(2000, generator=generator)] for _ in range(N)])
    student = teacher + 1.0 * torch.randn(N, 2000, generator=generator)
    _, wanted = loss_and_gradient(ForwardKL(), signals_of(logits_MNC=teacher.unsqueeze(0)), 1.0, student)
    _, got = loss_and_gradient(ForwardKL(), signals_of(kept(64, teacher)), 1.0, student)
    cosine = torch.nn.functional.cosine_similarity(got.flatten(), wanted.flatten(), dim=0)
    assert math.degrees(math.acos(min(float(cosine), 1.0))) < 5.0


def test_hidden_states_are_dense() -> None:
    """The head applied here gives the logits; two such teachers are mixed into one target."""
    weight, bias = draw(V, 8, seed=5) / 8, draw(V, seed=6)
    states = [draw(N, 8, seed=7), draw(N, 8, seed=8)]
    answers = [to_vocabulary_signal(keep_hidden(s), weight_VD=weight, bias_V=bias) for s in states]
    logits = torch.stack([s @ weight.T + bias for s in states])
    for divergence in (*TAILED, UniversalLogit()):
        got = loss_and_gradient(divergence, signals_of(*answers), 1.5)
        wanted = loss_and_gradient(divergence, signals_of(logits_MNC=logits), 1.5)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="weight_VD"):
        to_vocabulary_signal(keep_hidden(states[0]))


def test_subset_of_the_columns() -> None:
    """The student's softmax is renormalised over what the teacher knows; what it does not know has no gradient."""
    known = (0, 3, 4, 7)
    junk = Z[:1].clone()
    junk[:, :, [1, 2, 5, 6]] = 1e3
    signals = signals_of(logits_MNC=junk, columns=((7, 0, 3, 4),))
    loss, gradient = loss_and_gradient(ForwardKL(), signals, 2.0)
    inside = torch.tensor(known)
    wanted, inner = loss_and_gradient(
        ForwardKL(), signals_of(logits_MNC=Z[:1][:, :, inside]), 2.0, student=S[:, inside]
    )
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient, torch.zeros(N, V).index_copy(1, inside, inner))


def test_parts_are_summed_with_weights() -> None:
    """A teacher of all columns, two of one subset, one top-k: each part alone, weighted by its teachers."""
    logits = torch.stack([Z[0], Z[1], Z[1].flip(-1), torch.zeros(N, V)])
    columns = (None, (1, 2), (2, 1), None)
    signals = signals_of(None, None, None, kept(3, Z[0]), logits_MNC=logits, columns=columns)
    weights = torch.rand(4, N, generator=torch.Generator().manual_seed(0))
    weights[0, 0] = 0.0
    weights = weights / weights.sum(dim=0)
    loss, _ = loss_and_gradient(ForwardKL(), signals, 1.0, weights=weights)
    pair = weights[1:3] / weights[1:3].sum(dim=0)
    subset, _ = loss_and_gradient(
        ForwardKL(), signals_of(logits_MNC=logits[1:3][:, :, [1, 2]]), 1.0, student=S[:, [1, 2]], weights=pair
    )
    wanted = (
        weights[0] * dense(ForwardKL(), 1.0)[0]
        + weights[1:3].sum(dim=0) * subset
        + weights[3] * loss_and_gradient(ForwardKL(), signals_of(kept(3, Z[0])), 1.0)[0]
    )
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)


def test_one_whole_part_is_bit_identical() -> None:
    signals = signals_of(logits_MNC=Z)
    weights = torch.softmax(draw(2, N, seed=9), dim=0)
    (part,) = make_parts(S, signals, weights, 2.0, "geometric")
    assert part.share_N is None and part.student_NK is S
    wanted = combine_logits(signals.logits_MNC, weights, 2.0, "geometric")
    assert torch.equal(part.target.p_NK, wanted.p_NK) and torch.equal(part.target.logits_NK, wanted.logits_NK)


def test_uncovered_units_of_a_sparse_answer_fall_back() -> None:
    """The unit a teacher does not have counts as its gold label, and no gradient of the padding reaches the student."""
    index = np.arange(N)
    index[2] = -1
    for payload in (keep_top_k(Z[0], 4, (1.0,)), draw_tokens(Z[0], draw_uniforms(0, N, 9))):
        taken = payload.take(index)
        signals = replace(
            signals_of(to_vocabulary_signal(taken)), covered_MN=torch.from_numpy(taken.covered_N).unsqueeze(0)
        )
        labels = torch.tensor([1, UNLABELLED, 5, 1, 2, 3])
        objective = Objective(alpha=0.0, temperature=1.0, weighting=Uniform())  # type: ignore[arg-type]
        counts = objective.counts(labels, signals)
        assert (counts.soft, counts.uncovered) == (N, 1)
        student = S.clone().requires_grad_()
        result = objective.evaluate(student, labels, signals, 0.5, counts)
        result.loss.backward()
        assert student.grad is not None and torch.isfinite(student.grad).all()
        gold = (S[2].softmax(-1) - torch.nn.functional.one_hot(torch.tensor(5), V)) / N
        torch.testing.assert_close(student.grad[2], gold)


def shared_map(teacher_vocab: int, student_vocab: int) -> IdMap:
    """The teacher's even tokens are the student's, one half of the id, as far as the student has them."""
    ids = np.full(teacher_vocab, -1)
    ids[::2] = np.arange((teacher_vocab + 1) // 2)
    ids[ids >= student_vocab - 3] = -1
    return IdMap.of(ids, student_vocab)


@pytest.mark.parametrize("divergence", TAILED[:4], ids=lambda d: d.kind)
def test_other_vocabulary_with_overlap(divergence: Any) -> None:
    """The overlap and one tail on both sides; top-k of everything says the same as the logits."""
    teacher, ids = draw(N, 50, seed=11), shared_map(50, V)
    p, q = (x.div(2.0).softmax(-1).double() for x in (teacher, S))
    reduced = []
    for x, columns in ((p, ids.teacher_K), (q, ids.student_K)):
        reduced.append(torch.cat([x[:, columns], 1 - x[:, columns].sum(-1, keepdim=True)], 1).log())
    wanted, _ = loss_and_gradient_of(divergence, *reduced, 2.0)
    everything = DenseAnswer(logits_NC=teacher.numpy(), covered_N=np.ones(N, bool))
    payloads: list[Answer] = [everything, keep_top_k(teacher, 50, GRID)]
    for payload in payloads:
        loss, gradient = loss_and_gradient(
            divergence, signals_of(to_vocabulary_signal(payload, ids=ids)), 2.0
        )
        torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)
        assert gradient.sum(dim=-1).abs().max() < 1e-4


def test_the_same_vocabulary_in_another_order_is_the_same() -> None:
    order = torch.randperm(V, generator=torch.Generator().manual_seed(4))
    ids = IdMap.of(order.numpy(), V)
    for divergence in TAILED:
        wanted = dense(divergence, 2.0)
        whole = DenseAnswer(logits_NC=Z[0][:, order].numpy(), covered_N=np.ones(N, bool))
        for payload in (whole, keep_top_k(Z[0][:, order], V, GRID)):
            got = loss_and_gradient(divergence, signals_of(to_vocabulary_signal(payload, ids=ids)), 2.0)
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-5)
    with pytest.raises(ValueError, match="may stand once"):
        IdMap.of(np.asarray([0, 0, 1]), 5)
    with pytest.raises(ValueError, match="below"):
        IdMap.of(np.asarray([5]), 5)


def test_universal_logit() -> None:
    """Sorted and padded: .5 .3 .2 against .6 .4 is .1 + .1 + .2; renaming tokens changes nothing."""
    teacher = torch.tensor([[0.3, 0.5, 0.2]]).log().expand(N, 3)
    student = torch.tensor([[0.4, 0.6]]).log().expand(N, 2)
    payload = DenseAnswer(logits_NC=teacher.numpy(), covered_N=np.ones(N, bool))
    signals = signals_of(to_vocabulary_signal(payload, own_vocabulary=True))
    loss, _ = loss_and_gradient(UniversalLogit(), signals, 1.0, student)
    torch.testing.assert_close(loss, torch.full((N,), 0.4))
    wider, _ = loss_and_gradient(
        UniversalLogit(), signals_of(to_vocabulary_signal(payload, own_vocabulary=True)), 1.0, S
    )
    again, _ = loss_and_gradient(UniversalLogit(), signals, 1.0, S[:, torch.randperm(V)])
    torch.testing.assert_close(wider, again)
    doubled, _ = loss_and_gradient(
        UniversalLogit(), signals_of(to_vocabulary_signal(replace(payload, logits_NC=2 * payload.logits_NC), own_vocabulary=True)),
        2.0, 2 * student,
    )  # fmt: skip
    torch.testing.assert_close(doubled, 2.0 * loss)
    with pytest.raises(ValueError, match="forward_kl cannot"):
        loss_and_gradient(ForwardKL(), signals, 1.0, S)


def test_what_an_answer_cannot_serve() -> None:
    drawn = signals_of(to_vocabulary_signal(draw_tokens(Z[0], draw_uniforms(0, N, 20))))
    with pytest.raises(ValueError, match=r"reverse_kl cannot.*draws"):
        loss_and_gradient(ReverseKL(), drawn, 1.0)
    with pytest.raises(ValueError, match="geometric"):
        make_parts(S, drawn, torch.ones(1, N), 1.0, "geometric")
    with pytest.raises(ValueError, match="over 40 tokens, the student has 41"):
        make_parts(torch.zeros(N, 41), signals_of(kept(3)), torch.ones(1, N), 1.0, "arithmetic")
    with pytest.raises(ValueError, match="bias the target"):
        to_vocabulary_signal(draw_tokens(Z[0], draw_uniforms(0, N, 20)), ids=shared_map(V, V))


@pytest.mark.parametrize("weighting", [Entropy(), Confidence(), LossSoftmax()], ids=lambda w: w.kind)
def test_weightings_read_what_was_sent(weighting: Any) -> None:
    labels = torch.tensor([1, 0, 5, UNLABELLED, 2, 39])
    gold = labels.clamp_min(0)
    wanted = weighting.weights(signals_of(logits_MNC=Z, labels=labels))
    answers = [to_vocabulary_signal(keep_top_k(z, 3, GRID, gold_N=gold)) for z in Z]
    torch.testing.assert_close(weighting.weights(signals_of(*answers, labels=labels)), wanted)
    mixed = signals_of(answers[0], None, logits_MNC=Z, labels=labels)
    torch.testing.assert_close(weighting.weights(mixed), wanted)
    bare = replace(answers[0], entropy_N=None, gold_ce_N=None)
    with pytest.raises(ValueError, match="teacher t0 has no"):
        weighting.weights(signals_of(bare, answers[1], labels=labels))


def test_a_teacher_that_lacks_the_gold_label_is_not_trusted_with_it() -> None:
    signals = signals_of(logits_MNC=Z, columns=(None, (0, 1)), labels=torch.full((N,), 7))
    weights = LossSoftmax().weights(signals)
    torch.testing.assert_close(weights, torch.tensor([[1.0], [0.0]]).expand(2, N))


def objective(**settings: Any) -> Objective:
    return Objective.model_validate({"weighting": {"kind": "uniform"}, **settings})


def test_checks_before_a_run() -> None:
    """What would fail at the first step is a ConfigError that says what to do; what works passes."""
    fine = objective(temperature=2.0)
    check_servable(fine, "top_k", GRID)
    check_servable(fine, "top_k", GRID, vocabulary="overlap")
    check_servable(fine, "sampled", (2.0,))
    for vocabulary in ("same", "overlap"):
        check_servable(fine, "hidden", vocabulary=vocabulary)  # type: ignore[arg-type]
    check_servable(objective(terms=[{"divergence": {"kind": "universal_logit"}}]), "hidden", vocabulary="own")
    step = Step(values=(2.0, 1.0), at=(0.5,))  # type: ignore[arg-type]
    check_servable(Objective(temperature=step), "top_k", GRID)
    check_servable(Objective(alpha=Constant(value=1.0), temperature=Constant(value=9.0)), "top_k", GRID)


@pytest.mark.parametrize(
    ("settings", "kind", "grid", "vocabulary", "says"),
    [
        ({"temperature": 1.5}, "top_k", GRID, "same", "got:    1.5"),
        ({"temperature": Linear(start=1.0, end=2.0)}, "top_k", GRID, "same", "linear schedule"),
        ({"temperature": 1.0}, "sampled", (2.0,), "same", "drawn at one temperature"),
        ({"terms": [{"divergence": {"kind": "logit_mse"}}]}, "top_k", GRID, "same", "logit_mse"),
        ({"terms": [{"divergence": {"kind": "teacher_hard"}}]}, "hidden", (), "overlap", "overlap"),
        ({"terms": [{"divergence": {"kind": "reverse_kl"}}]}, "sampled", (2.0,), "same", "biased"),
        ({}, "hidden", (), "own", "universal_logit"),
        ({}, "top_k", GRID, "own", "payload to hidden"),
        ({}, "sampled", (2.0,), "overlap", "payload to hidden"),
        ({"mixture": "geometric"}, "top_k", GRID, "same", "mixture to arithmetic"),
    ],
)
def test_checks_refuse(settings: Any, kind: Any, grid: Any, vocabulary: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        check_servable(objective(**settings), kind, grid, vocabulary=vocabulary)
    assert caught.value.wanted and caught.value.next_step


def test_fixed_weights_reach_the_parts() -> None:
    """A teacher of weight 0 has no part in the loss, whatever it answered."""
    weighting = Fixed(by_teacher={"t0": 1.0, "t1": 0.0})
    signals = signals_of(kept(5), kept(5, Z[1]))
    loss, _ = loss_and_gradient(ForwardKL(), signals, 1.0, weights=weighting.weights(signals))
    torch.testing.assert_close(loss, loss_and_gradient(ForwardKL(), signals_of(kept(5)), 1.0)[0])
