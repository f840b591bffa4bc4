"""Adversarial training: what is added, the gradient that follows, and what it leaves as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from raykd import models
from raykd.config import RunConfig
from raykd.distill.adversarial.perturbations import FGM, FreeLB
from raykd.distill.signals import UNLABELLED
from raykd.errors import ConfigError, ModelError
from raykd.preflight.combinations import check_combinations
from raykd.student.adversarial.passes import Perturbation, find_embeddings
from raykd.student.loop import TrainingLoop
from raykd.student.prefetch import StepWork
from tests.families import tiny
from tests.worlds import build_loop, rows, run_config

Weights = dict[str, torch.Tensor]
DESCENT = {
    "optimizer": {"kind": "sgd", "momentum": 0.0}, "learning_rate": 1.0, "weight_decay": 0.0, "gradient_clipping": 0.0,
}  # fmt: skip
"""A step that takes the gradient off the weights."""


def weights(loop: TrainingLoop) -> Weights:
    found = loop.engine.weights()
    assert found is not None
    return found


def norms(values_SLD: torch.Tensor) -> torch.Tensor:
    return values_SLD.flatten(1).norm(dim=1)


def make_loop(adversarial: dict[str, Any] | None, dropout: float = 0.0, **train: Any) -> TrainingLoop:
    config = run_config(adversarial=adversarial, **train)
    student = {**config.student.model_dump(), "dropout": dropout}
    return build_loop(RunConfig.model_validate({**config.model_dump(), "student": student}))


def run_one_step(loop: TrainingLoop) -> tuple[Weights, Weights, Any]:
    """Weights before and after a step, and its micro-batch."""
    before = weights(loop)
    pending = loop.ask(0)
    micro = loop.trainer.make_micro_batch(pending.rows[0], None)
    loop.step(StepWork(0, pending.rows, None, 0.0))
    return before, weights(loop), micro


# what is added ---------------------------------------------------------------------------------------------------


def test_fgm_adds_epsilon_along_the_gradient_of_each_sequence() -> None:
    gradient = torch.randn(4, 5, 3) * torch.tensor([1e-30, 1e-3, 1e3, 0.0])[:, None, None]
    added = FGM(epsilon=0.7).move(torch.zeros(4, 5, 3), gradient)
    assert torch.allclose(norms(added), torch.tensor([0.7, 0.7, 0.7, 0.0]))
    assert torch.allclose(added[1] / 0.7, gradient[1] / gradient[1].norm())


def test_freelb_begins_in_the_ball_without_padding_and_stays_there() -> None:
    kind = FreeLB(epsilon=0.5, step_size=0.3)
    mask = torch.ones(6, 50)
    mask[:3, 20:] = 0
    generator = torch.Generator().manual_seed(0)
    begin = kind.begin(torch.zeros(6, 50, 64), mask, generator)
    assert begin[:3, 20:].abs().max() == 0.0 and (norms(begin) <= 0.5).all()
    # The mean square of draws between -1 and 1 is 1/3.
    assert torch.allclose(norms(begin), torch.full((6,), 0.5 / 3**0.5), rtol=0.05)
    gradient = torch.randn(6, 50, 64, generator=generator)
    step = kind.move(torch.zeros(6, 50, 64), gradient)
    assert torch.allclose(norms(step), torch.full((6,), 0.3))
    assert torch.allclose(norms(kind.move(step, gradient)), torch.full((6,), 0.5))


# the step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fgm", "freelb"])
def test_a_step_has_the_gradient_of_the_formula(kind: str) -> None:
    """The reference embeds by hand, moves the vectors by autograd, and adds up the passes."""
    adversarial = {"kind": kind, "epsilon": 0.6} | (
        {"weight": 0.3} if kind == "fgm" else {"steps": 3, "step_size": 0.4}
    )
    loop = make_loop(adversarial, objective={"alpha": 1.0}, teachers=False, steps=1, evaluations=1, **DESCENT)
    model: Any = copy.deepcopy(loop.student.model)
    before, after, micro = run_one_step(loop)
    ids, mask = micro.encoded.inputs["input_ids"], micro.encoded.inputs["attention_mask"]
    embedded = model.bert.embeddings.word_embeddings(ids)

    def loss(added: torch.Tensor) -> torch.Tensor:
        logits = model(inputs_embeds=embedded + added, attention_mask=mask).logits
        return functional.cross_entropy(logits, micro.encoded.labels_N, ignore_index=UNLABELLED)

    added = torch.zeros_like(embedded)
    if kind == "freelb":
        seeded = torch.Generator().manual_seed(torch.initial_seed() ^ 1)
        added = FreeLB(epsilon=0.6).begin(embedded.detach(), mask, seeded)
    losses = []
    for _ in range(2 if kind == "fgm" else 3):
        added = added.detach().requires_grad_()
        losses.append(loss(added))
        (gradient,) = torch.autograd.grad(losses[-1], added, retain_graph=True)
        direction = gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-30)[:, None, None]
        if kind == "fgm":
            added = 0.6 * direction
        else:
            added = added + 0.4 * direction
            added = added * (0.6 / norms(added).clamp(min=0.6))[:, None, None]
    shares = (0.7, 0.3) if kind == "fgm" else (1 / 3,) * 3
    sum(share * one for share, one in zip(shares, losses, strict=True)).backward()  # type: ignore[union-attr]
    assert losses[-1].item() > losses[0].item()
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(before[name] - after[name], gradient, atol=2e-6), name


@pytest.mark.parametrize(
    "adversarial", [{"kind": "fgm", "epsilon": 0.0}, {"kind": "freelb", "epsilon": 0.0, "steps": 4}]
)
def test_with_epsilon_0_a_run_is_the_plain_one(adversarial: dict[str, Any]) -> None:
    points: dict[bool, list[Any]] = {False: [], True: []}
    found = {}
    for moved in (False, True):
        loop = make_loop(
            adversarial if moved else None, dropout=0.2, gradient_accumulation=2, steps=4, evaluations=2
        )
        loop.publish = points[moved].append
        loop.run()
        found[moved] = weights(loop)
    for name, plain in found[False].items():
        assert torch.allclose(found[True][name], plain, atol=1e-6), name
    for plain, moved in zip(points[False], points[True], strict=True):
        same = {k for k in plain.values if k.startswith("train/") and not k.endswith("wait_s")}
        assert {k: moved.values[k] for k in same} == pytest.approx(
            {k: plain.values[k] for k in same}, rel=1e-4
        )


@pytest.mark.parametrize("kind", ["fgm", "freelb"])
@pytest.mark.parametrize("stage", [2, *(pytest.param(stage, marks=pytest.mark.nightly) for stage in (1, 3))])
def test_zero_changes_nothing(kind: str, stage: int) -> None:
    found = []
    for zero in (0, stage):
        loop = make_loop({"kind": kind, "epsilon": 0.5}, zero_stage=zero, steps=2, gradient_accumulation=2)
        loop.run()
        found.append(weights(loop))
    assert all(torch.allclose(found[1][name], value, atol=2e-6) for name, value in found[0].items())


def test_the_result_does_not_depend_on_the_split_and_teachers_hear_the_texts_as_they_are() -> None:
    found, asked = [], []
    for adversarial, pieces in (
        (None, 1),
        ({"kind": "fgm", "epsilon": 0.5}, 1),
        ({"kind": "fgm", "epsilon": 0.5}, 4),
    ):
        loop = make_loop(adversarial, gradient_accumulation=pieces, steps=4, evaluations=1)
        loop.run()
        found.append(weights(loop))
        source: Any = loop.trainer.source
        asked.append([text for batch in source.submitted for text in batch.texts])
    assert sorted(asked[0]) == sorted(asked[1]) == sorted(asked[2])
    assert all(torch.allclose(found[1][name], value, atol=5e-6) for name, value in found[2].items())
    assert max(float((found[0][name] - value).abs().max()) for name, value in found[1].items()) > 1e-3


def test_each_micro_batch_of_each_step_has_draws_of_its_own_which_a_repeated_step_draws_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[float] = []

    def begin(
        self: FreeLB, embedded_SLD: torch.Tensor, mask_SL: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        drawn.append(torch.rand((), generator=generator).item())
        return torch.zeros_like(embedded_SLD)

    monkeypatch.setattr(FreeLB, "begin", begin)
    runs = []
    for first in (0, 1):
        loop = make_loop(
            {"kind": "freelb"}, objective={"alpha": 1.0}, teachers=False, gradient_accumulation=4, steps=3
        )
        for step in range(first, 3):
            loop.step(StepWork(step, loop.ask(step).rows, None, 0.0))
        runs.append(drawn[:])
        drawn.clear()
    assert len(set(runs[0])) == 3 * 4, "no two micro-batches draw alike"
    assert runs[1] == runs[0][4:], "a run that is resumed at step 1 draws as before"


def test_hooks_are_gone_after_a_step_and_scores_are_of_the_texts_as_they_are() -> None:
    loop = make_loop({"kind": "fgm", "epsilon": 5.0})
    loop.advance()
    (layer,) = find_embeddings(loop.student.model)
    assert not [hook for hook in layer._forward_hooks.values() if "Perturbation" in repr(hook)]
    scores = loop.evaluate()
    plain = make_loop(None)
    plain.engine.module.load_state_dict(weights(loop))
    assert plain.evaluate() == pytest.approx(scores)


# what it needs -------------------------------------------------------------------------------------------------------


def test_a_student_without_vectors_of_tokens_is_refused_by_name() -> None:
    config = run_config(adversarial={"kind": "fgm"})
    linear = RunConfig.model_validate({**config.model_dump(), "student": {"kind": "linear", "buckets": 64}})
    with pytest.raises(ConfigError, match="the student has none"):
        check_combinations(linear)
    network = linear.student.build(linear.student.fit_tokenizer(()), ("a", "b"), 0)
    with pytest.raises(ModelError, match="LinearForSequenceClassification"):
        find_embeddings(network)
    check_combinations(config)


def test_language_models_are_refused_by_name() -> None:
    run = run_config({"alpha": 1.0}, teachers=False).model_dump()
    run["data"] = {
        "train": run["data"]["train"],
        "validation": run["data"]["validation"],
        "languages": ["en"],
    }
    run |= {"task": {"kind": "masked_lm", "max_length": 64}, "train": {"adversarial": {"kind": "fgm"}}}
    with pytest.raises(ConfigError, match="the student does not serve language models"):
        check_combinations(RunConfig.model_validate(run))


def test_a_layer_that_is_never_run_is_not_passed_over_in_silence() -> None:
    model = models.LSTMStudent(embedding=4, hidden=4, vocab_size=100)
    built = model.build(model.fit_tokenizer(rows(20, 1).texts), ("a", "b"), 0)
    passes = Perturbation(FGM(), built).list_passes(None, torch.device("cpu"))
    assert next(passes) == 0.5
    with pytest.raises(ModelError, match="was not called"):
        next(passes)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_encoder_and_decoder_are_moved_where_they_share_a_table(family: str) -> None:
    """Such a classifier embeds by its encoder's and its decoder's layer, and never by the one that it names."""
    model: Any = tiny(family, AutoModelForSequenceClassification, num_labels=2, decoder_start_token_id=0)
    end, pad = model.config.eos_token_id, model.config.pad_token_id
    ids = torch.tensor([[5, 6, 7, end], [8, 9, end, pad]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    losses = []
    passes = Perturbation(FGM(epsilon=2.0), model).list_passes(mask, torch.device("cpu"))
    for _ in passes:
        loss = functional.cross_entropy(
            model(input_ids=ids, attention_mask=mask).logits, torch.tensor([0, 1])
        )
        loss.backward()
        losses.append(loss.item())
    plain = functional.cross_entropy(model(input_ids=ids, attention_mask=mask).logits, torch.tensor([0, 1]))
    assert len(find_embeddings(model)) > 1
    assert losses[1] > losses[0] == pytest.approx(plain.item()), "moved uphill, and the hooks are gone"


def test_an_lstm_is_moved_too() -> None:
    found = []
    for adversarial in (None, {"kind": "fgm", "epsilon": 0.5}):
        config = run_config(adversarial=adversarial, steps=3, evaluations=1)
        student = {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 150, "dropout": 0.0}
        loop = build_loop(RunConfig.model_validate({**config.model_dump(), "student": student}))
        loop.run()
        found.append(weights(loop))
    assert max(float((found[0][name] - value).abs().max()) for name, value in found[1].items()) > 1e-3


def test_runs_without_it_keep_their_fingerprint() -> None:
    plain, moved = run_config(), run_config(adversarial={"kind": "fgm"})
    assert run_config(adversarial=None).fingerprint() == plain.fingerprint() != moved.fingerprint()
