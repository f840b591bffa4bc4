"""A teacher that learns beside its student: alike a teacher alone, what it says by hand, resume, rates, refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.driver.loop import make_student_model
from raykd.errors import ConfigError
from raykd.point import Point
from raykd.preflight.combinations import check_combinations
from raykd.preflight.disk import compute_disk
from raykd.preflight.sizes import count_student_parameters
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from tests.fakes import FixedSource, texts_and_labels
from tests.unit.test_peer import SECOND, STUDENT, TEACHERS, run_config

LARGE = {"kind": "lstm", "embedding": 24, "hidden": 32, "dropout": 0.0}
TRAIN: dict[str, Any] = {
    **{"steps": 6, "batch_size": 16, "learning_rate": 0.02, "evaluations": 2},
    **{"gradient_clipping": 0.05, "weight_decay": 0.1},
}


def make_loop(
    config: RunConfig,
    points: list[Point] | None = None,
    unlabelled: int = 0,
    begin: dict[str, torch.Tensor] | None = None,
) -> TrainingLoop:
    """A run over 120 texts, the first of them without label, from its seeded start or from these weights."""
    texts, labels = texts_and_labels(120, 1)
    labels_B = np.asarray(labels)
    labels_B[:unlabelled] = UNLABELLED
    train = Rows(tuple(f"r{i}" for i in range(120)), tuple(texts), ("en",) * 120, labels_B)
    tokenizer = config.student.fit_tokenizer(train.texts)
    student = make_student_model(config, tokenizer)
    if begin is not None:
        student.model.load_state_dict(begin)
    source = FixedSource(["a", "b"], [None, None], classes=2) if config.teachers else None
    prepared = prepare_rows(config, train, train.select(np.arange(80, 120)), tokenizer)
    publish = (lambda point: None) if points is None else points.append
    return TrainingLoop(config, prepared, student, source, publish=publish)


def finish(loop: TrainingLoop, part: str = "") -> dict[str, torch.Tensor]:
    """Train to the end, and return the weights of a part."""
    loop.run()
    weights = weights_of(loop, part)
    loop.engine.close()
    return weights


def weights_of(loop: TrainingLoop, part: str) -> dict[str, torch.Tensor]:
    weights = loop.engine.weights() or {}
    return {key.removeprefix(part): value for key, value in weights.items() if key.startswith(part)}


def train_alone(
    pair: TrainingLoop, part: str, student: dict[str, Any], train: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Train one network of a pair alone from where it begins, with the same batches, and return its weights."""
    config = run_config(student={**STUDENT, **student}, train=train).model_copy(update={"peer": None})
    return finish(make_loop(config, begin=weights_of(pair, part)))


@pytest.mark.parametrize("stage", [0, 1])
def test_a_teacher_that_does_not_heed_its_student_learns_as_if_alone(stage: int) -> None:
    # One norm clips both under ZeRO, so there nothing is clipped.
    train = {**TRAIN, "zero_stage": stage, **({"gradient_clipping": 0.0} if stage else {})}
    beside = {"student": LARGE, "weight_back": 0.0, "temperature": 2.0, "learning_rate_factor": 0.5}
    pair = make_loop(run_config(beside, train=train))
    alone = train_alone(pair, "peer.", LARGE, {**train, "learning_rate": 0.01})
    found = finish(pair, "peer.")
    assert found.keys() == alone.keys()
    # ZeRO lays all weights in one row, where the ends of a vector instruction fall on other weights.
    most = 0.0 if stage == 0 else 1e-6
    assert max(float((found[key] - alone[key]).abs().max()) for key in alone) <= most


def test_a_student_that_learns_nothing_of_its_peer_learns_as_if_alone() -> None:
    pair = make_loop(run_config({"student": LARGE, "weight": 0.0, "weight_back": 1.0}, train=TRAIN))
    alone = train_alone(pair, "student.", STUDENT, TRAIN)
    begun = weights_of(pair, "student.")
    found = finish(pair, "student.")
    assert all(torch.equal(found[key], alone[key]) for key in alone)
    assert not torch.equal(found["classifier.weight"], begun["classifier.weight"])


def test_what_the_student_says_changes_a_teacher_that_heeds_it() -> None:
    both = [
        finish(make_loop(run_config({"student": LARGE, "weight_back": back}, train=TRAIN)), "peer.")
        for back in (0.0, 1.0)
    ]
    assert not torch.equal(both[0]["classifier.weight"], both[1]["classifier.weight"])


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("taught", ["both", "student", "peer"])
def test_the_gradients_are_those_of_a_step_by_hand(taught: str) -> None:
    weight, back, t, alpha, size = 0.5, 0.25, 2.0, 0.25, 24
    peer = {"student": SECOND, "weight": weight, "weight_back": back, "temperature": t, "taught": taught}
    objective = {"alpha": alpha, "temperature": 1.0, "weighting": {"kind": "uniform"}}
    loop = make_loop(run_config(peer, objective=objective, teachers=TEACHERS), unlabelled=40)
    trainer, picked = loop.trainer, np.arange(30, 30 + size)
    assert trainer.source is not None
    answers = trainer.source.submit(trainer.rows.take(picked.tolist())).result()
    micro = trainer.make_micro_batch(picked, answers)
    made, _ = trainer.forward(loop.engine, micro)
    outputs = tuple(SimpleNamespace(logits=(10.0 * each.logits).detach().requires_grad_()) for each in made)
    result = trainer.evaluate(loop.engine, outputs, micro, 0.0, micro.counts)
    gradients = torch.autograd.grad(result.loss, [each.logits for each in outputs])

    assert micro.signals is not None
    said = micro.signals.logits_MNC.double().numpy()
    target = np.mean([softmax(logits) for logits in said], axis=0)
    labels = micro.encoded.labels_N.numpy()
    has_label = labels >= 0
    gold = np.where(has_label[:, None], np.eye(2)[np.where(has_label, labels, 0)], 0.0)
    logits = [each.logits.detach().double().numpy() for each in outputs]
    for own, name, factor, gradient in (
        (0, "student", weight, gradients[0]),
        (1, "peer", back, gradients[1]),
    ):
        p, softened, others = softmax(logits[own]), softmax(logits[own] / t), softmax(logits[1 - own] / t)
        hard = np.where(has_label[:, None], p - gold, 0.0) / has_label.sum()
        is_taught = taught in ("both", name)
        wanted = alpha * hard + (1 - alpha) * (p - target) / size if is_taught else hard
        wanted = (
            wanted + factor * t * (softened - others) / size
        )  # T^2 of the factor, 1 / T of the derivative
        np.testing.assert_allclose(gradient.double().numpy(), wanted, rtol=1e-4, atol=1e-7)
    softened, others = softmax(logits[0] / t), softmax(logits[1] / t)
    kl = t**2 * (others * np.log(others / softened)).sum() / size
    assert float(result.sums["peer/kl"]) == pytest.approx(kl, rel=1e-4)
    assert {"hard", "soft/forward_kl"} <= result.sums.keys() and result.weights_M is not None
    loop.engine.close()


def test_a_pair_goes_on_from_a_checkpoint_exactly_and_both_have_curves(tmp_path: Path) -> None:
    config = run_config(
        {"student": {**LARGE, "dropout": 0.3}, "weight_back": 0.0, "learning_rate_factor": 0.5}, train=TRAIN
    )
    points: list[Point] = []
    whole, first = make_loop(config, points), make_loop(config)
    first.advance()
    first.save(tmp_path)
    first.engine.close()
    again = make_loop(config)
    again.load(tmp_path)
    assert again.state.step == 3
    expected, found = finish(whole), finish(again)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    values = points[0].values
    assert values["train/peer/kl"] >= 0.0 and 0.0 < values["train/peer/loss"] < values["train/loss"]
    assert "peer/eval/mean/accuracy" in {key for point in points for key in point.values}


def test_each_network_has_its_rate_also_after_a_phase() -> None:
    phases = [{"at": 0.5, "set": {"train": {"learning_rate": 0.004}}}]
    loop = make_loop(
        run_config(
            {"student": LARGE, "learning_rate_factor": 0.25},
            train={**TRAIN, "lr_schedule": 1.0},
            phases=phases,
        )
    )
    rates = lambda: [group["lr"] for group in loop.engine.optimizer.param_groups]  # noqa: E731
    assert rates() == pytest.approx([0.02, 0.02, 0.005, 0.005])
    loop.run()
    assert rates() == pytest.approx([0.004, 0.004, 0.001, 0.001])
    loop.engine.close()


@pytest.mark.parametrize(("reads", "rows"), [(False, 80), (True, 120)])
def test_texts_without_label_are_read_where_the_peer_says_something_of_them(reads: bool, rows: int) -> None:
    config = run_config({"student": LARGE, "unlabelled": reads}, train=TRAIN)
    loop = make_loop(config, unlabelled=40)
    assert len(loop.trainer.rows) == rows and config.reads_unlabelled is reads
    loop.engine.close()


def test_the_plan_counts_both() -> None:
    config = run_config({"student": {**LARGE, "vocab_size": 150}})
    alone = [
        count_student_parameters(one, config.task, config.data.labels) or 0
        for one in (config.student, config.peer.student)
    ]  # type: ignore[union-attr]
    disk = compute_disk(config)
    assert (disk.parameters, disk.peer) == (sum(alone), alone[1]) and alone[1] > 3 * alone[0]


def test_what_has_no_effect_is_refused_and_what_is_shared_is_told() -> None:
    with pytest.raises(ConfigError, match="taught: student says whom the teachers teach"):
        run_config({"student": LARGE, "taught": "student"})
    scheduler = {"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 0.01}}}
    with pytest.raises(ConfigError, match="no effect beside a scheduler"):
        check_combinations(
            run_config(
                {"student": LARGE, "learning_rate_factor": 2.0}, train={**TRAIN, "deepspeed": scheduler}
            )
        )
    assert "clipped by their common norm" in check_combinations(
        run_config({"student": LARGE}, train={**TRAIN, "zero_stage": 2})
    )
    assert "clipped" not in check_combinations(run_config({"student": LARGE}, train=TRAIN))


def test_keys_that_change_nothing_leave_the_fingerprint_of_runs_before_them() -> None:
    before = "1e1628fdf97e0935628d46353439957d0cf1342ad71085ff7b959e2b7c291c1a"
    assert run_config({"student": SECOND, "weight": 2.0}).fingerprint() == before
    for key, value in {
        "weight_back": 2.0,
        "temperature": 2.0,
        "learning_rate_factor": 2.0,
        "unlabelled": True,
    }.items():
        assert run_config({"student": SECOND, "weight": 2.0, key: value}).fingerprint() != before
