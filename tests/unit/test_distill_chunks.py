"""The loss in chunks against the whole one: equal value, gradients and sums, and nothing as large as the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_parts.counting import Operators
from raykd.answers.answer import DenseAnswer
from raykd.answers.compress import draw_uniforms
from raykd.answers.tensors import to_vocabulary_signal
from raykd.distill.chunk_size import choose_chunk_units
from raykd.distill.chunks import _differentiate, evaluate_hidden
from raykd.distill.objective import Objective
from raykd.distill.shares import Counts, ObjectiveResult
from raykd.distill.signals import UNLABELLED, Signals, VocabularySignal
from raykd.distill.wide import head_gradients
from tests.kept_answers import draw_tokens, keep_hidden, keep_top_k

N, D, V = 37, 6, 90
LABELS = torch.where(torch.arange(N) % 5 == 2, UNLABELLED, torch.arange(N))


def draw(*shape: int, seed: int) -> torch.Tensor:
    raw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (raw * 16).round().clamp(-64, 64) / 16


# Whole numbers times sixteenths, so that float16 holds the teacher exactly.
HEAD, BIAS = draw(V, 4, seed=1).round(), draw(V, seed=2)
STATES = draw(N, 4, seed=3)
TEACHER = STATES @ HEAD.T + BIAS


def objective(**settings: Any) -> Objective:
    return Objective.model_validate(
        {
            "alpha": 0.3,
            "temperature": 2.0,
            "weighting": {"kind": "uniform"},
            "label_smoothing": 0.1,
            **settings,
        }
    )


def signals_of(answer: VocabularySignal | None) -> Signals:
    logits = torch.zeros(1, N, 0) if answer is not None else TEACHER.unsqueeze(0)
    covered = (torch.arange(N) % 7 != 4).unsqueeze(0)
    return Signals(("t",), (None,), logits, covered, LABELS, ("de",) * N, vocabulary_M=(answer,))


def leaves() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    states, weight, bias = draw(N, D, seed=4), draw(V, D, seed=5), draw(V, seed=6)
    return states.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def gradients(loss: torch.Tensor, *inputs: torch.Tensor, factor: float = 1.0) -> list[torch.Tensor]:
    return list(torch.autograd.grad(factor * loss, inputs))


def unchunked(
    made: Objective, signals: Signals | None, totals: Counts
) -> tuple[ObjectiveResult, list[torch.Tensor]]:
    states, weight, bias = leaves()
    result = made.evaluate(states @ weight.T + bias, LABELS, signals, 0.5, totals)
    return result, gradients(result.loss, states, weight, bias)


def same(got: ObjectiveResult, wanted: ObjectiveResult) -> None:
    torch.testing.assert_close(got.loss, wanted.loss, rtol=1e-5, atol=1e-5)
    assert got.counts == wanted.counts
    assert got.sums.keys() == wanted.sums.keys()
    for name, value in wanted.sums.items():
        torch.testing.assert_close(got.sums[name], value, rtol=1e-5, atol=1e-4)
    assert (got.weights_M is None) == (wanted.weights_M is None)
    if got.weights_M is not None:
        torch.testing.assert_close(got.weights_M, wanted.weights_M)


ANSWERS: dict[str, VocabularySignal | None] = {
    "dense": to_vocabulary_signal(DenseAnswer(logits_NC=TEACHER.numpy(), covered_N=np.ones(N, bool))),
    "top_k of all": to_vocabulary_signal(keep_top_k(TEACHER, V, (2.0,))),
    "hidden": to_vocabulary_signal(keep_hidden(STATES), weight_VD=HEAD, bias_V=BIAS),
}


@pytest.mark.parametrize("chunk", [1, 8, 37, 100])
@pytest.mark.parametrize("answer", ANSWERS)
def test_chunks_equal_the_dense_loss(answer: str, chunk: int) -> None:
    made, dense = (
        objective(terms=[{}, {"divergence": {"kind": "reverse_kl"}, "lambda_schedule": 0.5}]),
        signals_of(None),
    )
    totals = made.counts(LABELS, dense) + Counts(3, 4, 0)
    wanted, wanted_gradients = unchunked(made, dense, totals)
    states, weight, bias = leaves()
    got = evaluate_hidden(
        made, states, weight, bias, LABELS, signals_of(ANSWERS[answer]), 0.5, totals, chunk=chunk
    )
    same(got, wanted)
    for gradient, right in zip(gradients(got.loss, states, weight, bias), wanted_gradients, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["top_k", "sampled"])
def test_chunks_of_short_answers_equal_the_whole(kind: str) -> None:
    made = objective()
    answer = to_vocabulary_signal(
        keep_top_k(TEACHER, 5, (2.0,))
        if kind == "top_k"
        else draw_tokens(TEACHER, draw_uniforms(0, N, 20), 2.0)
    )
    totals = made.counts(LABELS, signals_of(answer))
    wanted, wanted_gradients = unchunked(made, signals_of(answer), totals)
    states, weight, bias = leaves()
    got = evaluate_hidden(made, states, weight, bias, LABELS, signals_of(answer), 0.5, totals, chunk=5)
    same(got, wanted)
    for gradient, right in zip(gradients(got.loss, states, weight, bias), wanted_gradients, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_hard_labels_alone(smoothing: float) -> None:
    made = objective(alpha=1.0, label_smoothing=smoothing)
    totals = made.counts(LABELS, None)
    wanted, wanted_gradients = unchunked(made, None, totals)
    states, weight, bias = leaves()
    got = evaluate_hidden(made, states, weight, bias, LABELS, None, 0.5, totals, chunk=10)
    same(got, wanted)
    for gradient, right in zip(gradients(got.loss, states, weight, bias), wanted_gradients, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-6)


def test_no_bias_frozen_head_scaled_loss() -> None:
    """Only what asks for a gradient gets one, and a factor on the loss (loss scaling) is a factor on it."""
    made = objective(alpha=1.0)
    totals = made.counts(LABELS, None)
    states, weight, _ = leaves()
    right = gradients(made.evaluate(states @ weight.T, LABELS, None, 0.5, totals).loss, states)
    got = evaluate_hidden(made, states, weight.detach(), None, LABELS, None, 0.5, totals, chunk=9)
    (gradient,) = gradients(got.loss, states, factor=1024.0)
    torch.testing.assert_close(gradient, 1024.0 * right[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="once"):
        gradients(evaluated := got.loss, states)
        gradients(evaluated, states)
    with torch.no_grad():
        assert not evaluate_hidden(made, states, weight, None, LABELS, None, 0.5, totals).loss.requires_grad


def test_half_precision_is_summed_in_float32() -> None:
    """bfloat16 states and head: the head's gradient over 37 chunks is the float32 one to bfloat16's rounding."""
    made = objective(alpha=1.0)
    totals = made.counts(LABELS, None)
    states, weight, _ = (x.detach().bfloat16().requires_grad_() for x in leaves())
    got = evaluate_hidden(made, states, weight, None, LABELS, None, 0.5, totals, chunk=1)
    gradient = gradients(got.loss, states, weight)
    assert [g.dtype for g in gradient] == [torch.bfloat16, torch.bfloat16]
    single = [x.detach().float().requires_grad_() for x in (states, weight)]
    right = gradients(made.evaluate(single[0] @ single[1].T, LABELS, None, 0.5, totals).loss, *single)
    for half, whole in zip(gradient, right, strict=True):
        assert (half.float() - whole).abs().max() < 0.02 * whole.abs().max()


def test_a_device_that_adds_products_to_a_float32_total_gives_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not head_gradients.adds_products(torch.device("cpu"), torch.bfloat16)
    made = objective(alpha=1.0)
    totals = made.counts(LABELS, None)

    def learn() -> torch.Tensor:
        states, weight, _ = (x.detach().bfloat16().requires_grad_() for x in leaves())
        got = evaluate_hidden(made, states, weight, None, LABELS, None, 0.5, totals, chunk=10)
        return gradients(got.loss, weight)[0]

    def mm(left: Any, right: Any, dtype: Any = None, *, out: Any = None) -> torch.Tensor:
        if dtype is not None:
            return left.float() @ right.float()
        return out.copy_(left @ right)

    def addmm(total: Any, left: Any, right: Any, dtype: Any, *, out: Any) -> torch.Tensor:
        assert out is total and total.dtype == dtype == torch.float32 != left.dtype
        return out.add_(left.float() @ right.float())

    wanted = learn()
    monkeypatch.setattr(head_gradients, "adds_products", lambda device, dtype: True)
    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(torch, "addmm", addmm)
    torch.testing.assert_close(learn(), wanted, rtol=0.02, atol=1e-3)


def test_each_further_chunk_of_gold_labels_costs_ten_operators() -> None:
    made = objective(alpha=1.0, label_smoothing=0.0)
    totals = made.counts(LABELS, None)

    def count(units: int) -> int:
        states, weight, _ = leaves()
        with Operators() as operators:
            half = states[:units].bfloat16()
            labels = LABELS[:units]
            got = evaluate_hidden(
                made, half, weight, None, labels, None, 0.5, totals, chunk=6, dtype=torch.bfloat16, own=totals
            )
            got.loss.backward()
        return operators.kernels

    # Product, float32, log-softmax, loss; three gradients of them; two products, one added to those before.
    assert count(36) - count(12) == 4 * 10


def test_a_chunk_whose_loss_depends_on_no_logit_has_no_gradient() -> None:
    logits, other = torch.ones(2, 3, requires_grad=True), torch.ones(())
    assert torch.equal(_differentiate([other], [other], logits), torch.zeros(2, 3))
    assert torch.equal(
        _differentiate([other, logits.sum()], [other, 2 * other], logits), 2 * torch.ones(2, 3)
    )


def test_no_units() -> None:
    made = objective()
    states, weight, bias = leaves()
    signals = signals_of(ANSWERS["hidden"]).units(0, 0)
    got = evaluate_hidden(made, states[:0], weight, bias, LABELS[:0], signals, 0.5, Counts(4, 4, 0))
    assert got.loss.item() == 0.0
    assert all((g == 0.0).all() for g in gradients(got.loss, weight, bias))


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return out


@pytest.mark.parametrize("kind", ["top_k", "sampled", "hidden"])
def test_nothing_of_the_size_of_the_logits_is_made(kind: str) -> None:
    n, v, chunk = 400, 300, 20
    states, weight = draw(n, D, seed=8).requires_grad_(), draw(v, D, seed=9).requires_grad_()
    logits, labels = draw(n, v, seed=10), torch.zeros(n, dtype=torch.int64)
    answer = {
        "top_k": lambda: to_vocabulary_signal(keep_top_k(logits, 8, (2.0,))),
        "sampled": lambda: to_vocabulary_signal(draw_tokens(logits, draw_uniforms(0, n, 20), 2.0)),
        "hidden": lambda: to_vocabulary_signal(
            keep_hidden(draw(n, 4, seed=3)), weight_VD=draw(v, 4, seed=11)
        ),
    }[kind]()
    signals = Signals(
        ("t",), (None,), torch.zeros(1, n, 0), torch.ones(1, n, dtype=torch.bool), labels, ("de",) * n, vocabulary_M=(answer,)
    )  # fmt: skip
    made = objective()
    totals = made.counts(labels, signals)
    with Largest() as mode:
        result = evaluate_hidden(made, states, weight, None, labels, signals, 0.5, totals, chunk=chunk)
        result.loss.backward()
    assert chunk * v <= mode.elements <= chunk * (v + 1)
    assert (choose_chunk_units(30_522), choose_chunk_units(119_547)) == (137, 64)


@pytest.mark.parametrize(
    ("free", "kept", "chunks"), [(60 << 30, 0, 7), (0, 60 << 30, 7), (4 << 30, 0, 13), (1 << 20, 0, 99)]
)
def test_a_gpu_takes_chunks_by_its_free_memory(
    free: int, kept: int, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 16 rows of 512 tokens over 50,000 choices; what torch has reserved and does not use counts as free.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 + kept)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5)
    assert -(-16 * 512 // choose_chunk_units(50_000, torch.device("cuda"))) == chunks
    assert -(-16 * 512 // choose_chunk_units(50_000, torch.device("cpu"))) == 99


def test_shapes_that_disagree() -> None:
    states, weight, bias = leaves()
    with pytest.raises(ValueError, match=r"wanted \[N, D\], \[V, D\], \[N\]"):
        evaluate_hidden(
            objective(alpha=1.0), states[:, :2], weight, bias, LABELS, None, 0.5, Counts(99, 0, 0)
        )
