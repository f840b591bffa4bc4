"""Several teachers, each with some units: computed only where they have weight, equal to computed everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from raykd.answers.answer import Answer, DenseAnswer
from raykd.answers.compress import draw_uniforms
from raykd.answers.tensors import to_vocabulary_signal
from raykd.distill.losses import ForwardKL
from raykd.distill.objective import Objective
from raykd.distill.parts import make_parts, sum_over_parts
from raykd.distill.shares import ObjectiveResult
from raykd.distill.signals import Signals, VocabularySignal
from raykd.distill.vocabulary_signals import IdMap
from tests.kept_answers import draw_tokens, keep_hidden, keep_top_k

N, V, H = 12, 50, 8
SPOKEN = ("de", "fr", "zh")
LANGUAGES = tuple(SPOKEN[i % 3] for i in range(N))
HEAD = torch.randn(V, H, generator=torch.Generator().manual_seed(9))


def states(seed: int) -> torch.Tensor:
    return torch.randn(N, H, generator=torch.Generator().manual_seed(seed)).half().float()


def overlapping(z: torch.Tensor) -> VocabularySignal:
    student_of = np.where(np.arange(V) < 30, np.arange(V)[::-1], -1)
    payload = DenseAnswer(logits_NC=z.numpy(), covered_N=np.ones(N, bool))
    return to_vocabulary_signal(payload, ids=IdMap.of(student_of, V))


FORMS: dict[str, Callable[[int], VocabularySignal]] = {
    "top_k": lambda seed: to_vocabulary_signal(keep_top_k(states(seed) @ HEAD.T, 6, (1.0, 2.0))),
    "sampled": lambda seed: to_vocabulary_signal(
        draw_tokens(states(seed) @ HEAD.T, draw_uniforms(seed, N, 20), 2.0)
    ),
    "hidden": lambda seed: to_vocabulary_signal(_hidden(seed), weight_VD=HEAD),
    "overlap": lambda seed: overlapping(states(seed) @ HEAD.T),
}


def _hidden(seed: int) -> Answer:
    return keep_hidden(states(seed))


def signals_of(answers: list[VocabularySignal], covered_MN: torch.Tensor) -> Signals:
    return Signals(
        teachers=tuple(f"t{m}" for m in range(len(answers))),
        teacher_languages=tuple(frozenset({SPOKEN[m]}) for m in range(len(answers))),
        logits_MNC=torch.zeros(len(answers), N, 0),
        covered_MN=covered_MN,
        labels_N=torch.arange(N) % V,
        languages=LANGUAGES,
        vocabulary_M=tuple(answers),
    )


def evaluated(signals: Signals, objective: Objective) -> tuple[ObjectiveResult, torch.Tensor]:
    student = (3.0 * states(5) @ HEAD.T).requires_grad_()
    counts = objective.counts(signals.labels_N, signals)
    result = objective.evaluate(student, signals.labels_N, signals, 0.5, counts)
    return result, torch.autograd.grad(result.loss, student)[0]


def spoken_by(m: int) -> torch.Tensor:
    return torch.tensor([language == SPOKEN[m] for language in LANGUAGES])


@pytest.mark.parametrize("form", FORMS)
def test_routed_teachers_add_up_to_each_alone(form: str) -> None:
    """The soft sum over all units is that of each teacher asked alone for its own units."""
    objective = Objective.model_validate({"alpha": 0.0, "temperature": 2.0})
    answers = [FORMS[form](m) for m in range(3)]
    covered_MN = torch.stack([spoken_by(m) for m in range(3)])
    together, gradient = evaluated(signals_of(answers, covered_MN), objective)
    parts = make_parts(
        states(5) @ HEAD.T, signals_of(answers, covered_MN), covered_MN.float(), 2.0, "arithmetic"
    )
    assert sum(len(part.student_NK) for part in parts) == N  # nothing is computed where it has no weight

    student = (3.0 * states(5) @ HEAD.T).requires_grad_()
    total = torch.zeros(())
    for m, answer in enumerate(answers):
        alone = signals_of([answer], torch.ones(1, N, dtype=torch.bool))
        loss_N, _ = sum_over_parts(
            ForwardKL(), make_parts(student, alone, torch.ones(1, N), 2.0, "arithmetic"), 2.0, alone.labels_N
        )
        total = total + loss_N[spoken_by(m)].sum() / N
    assert float(together.loss) == pytest.approx(float(total.detach()), rel=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(total, student)[0], rtol=1e-5, atol=1e-8)


def test_teachers_that_share_some_units() -> None:
    """Weights of 1, of 1/2, and of none: what was computed for every unit before, by hand."""
    answers = [FORMS["top_k"](m) for m in range(2)]
    weights = torch.tensor([[1.0] * 3 + [0.5] * 3 + [0.0] * 6, [0.0] * 3 + [0.5] * 3 + [1.0] * 3 + [0.0] * 3])
    signals = signals_of(answers, weights > 0)
    student = (3.0 * states(5) @ HEAD.T).requires_grad_()
    loss_N, covered_N = sum_over_parts(
        ForwardKL(), make_parts(student, signals, weights, 2.0, "arithmetic"), 2.0, signals.labels_N
    )
    single = [
        sum_over_parts(
            ForwardKL(),
            make_parts(student, signals_of([a], torch.ones(1, N, dtype=torch.bool)), torch.ones(1, N), 2.0, "arithmetic"),
            2.0,
            signals.labels_N,
        )[0]
        for a in answers
    ]  # fmt: skip
    wanted_N = weights[0] * single[0] + weights[1] * single[1]
    torch.testing.assert_close(loss_N, wanted_N, rtol=1e-6, atol=1e-7)
    assert covered_N.tolist() == [True] * 9 + [False] * 3
    both = [torch.autograd.grad(x.sum(), student, retain_graph=True)[0] for x in (loss_N, wanted_N)]
    torch.testing.assert_close(*both, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mixture", ["arithmetic", "geometric"])
def test_hidden_states_of_routed_teachers_are_the_mixture(mixture: Any) -> None:
    """As the mixture of all teachers' logits, of which one has all the weight."""
    weights = torch.stack([spoken_by(m) for m in range(3)]).float()
    weights[:, 4] = 0.0
    student = states(5) @ HEAD.T
    answers = [FORMS["hidden"](m) for m in range(3)]
    (part,) = make_parts(student, signals_of(answers, weights > 0), weights, 2.0, mixture)
    logits = torch.stack([a.logits() for a in answers])  # type: ignore[misc]
    plain = Signals(
        ("a", "b", "c"), (None,) * 3, logits, weights > 0, torch.zeros(N, dtype=torch.int64), LANGUAGES
    )
    (wanted,) = make_parts(student, plain, weights, 2.0, mixture)
    assert torch.equal(part.target.covered_N, wanted.target.covered_N)
    for name in ("p_NK", "logits_NK"):
        torch.testing.assert_close(
            getattr(part.target, name), getattr(wanted.target, name), rtol=1e-6, atol=1e-6
        )


def test_nobody_has_weight() -> None:
    """All units fall back to their gold labels, and the loss has a graph."""
    objective = Objective.model_validate({"alpha": 0.0, "temperature": 2.0})
    answers = [FORMS["top_k"](m) for m in range(2)]
    result, gradient = evaluated(signals_of(answers, torch.zeros(2, N, dtype=torch.bool)), objective)
    student = (3.0 * states(5) @ HEAD.T).requires_grad_()
    wanted = torch.nn.functional.cross_entropy(student, torch.arange(N) % V)
    assert float(result.loss) == pytest.approx(float(wanted))
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, student)[0])
