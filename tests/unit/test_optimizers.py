"""Optimizers by name: each steps as its library's class does, over ZeRO too; what cannot go together is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from raykd.config import TrainConfig
from raykd.config.kinds import optimizers as optimizers_module
from raykd.errors import ConfigError
from raykd.student.engine import Engine
from raykd.student.settings import plan_optimizer
from tests.worlds import build_loop, run_config

DECAY = 0.1


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def library_optimizer(kind: str, matrices: Any, vectors: Any) -> Any:
    """Return the library's own, with the defaults that papers and libraries name."""
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=0.01)
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    if kind == "adafactor":
        return torch.optim.Adafactor(groups, lr=0.01)
    return pytest.importorskip("lion_pytorch").Lion(groups, lr=0.01)


@pytest.mark.parametrize(
    ("kind", "stage"), [("adamw", 0), ("sgd", 0), ("sgd", 1), ("adafactor", 0), ("lion", 0), ("lion", 2)]
)
def test_steps_are_those_of_the_librarys_own(kind: str, stage: int) -> None:
    if kind == "lion":
        pytest.importorskip("lion_pytorch")
    train = TrainConfig(
        optimizer={"kind": kind}, learning_rate=0.01, lr_schedule=1.0, weight_decay=DECAY, gradient_clipping=0.0,
        zero_stage=stage,
    )  # fmt: skip
    engine = Engine(make_model(), train, total_steps=4, world=1, device=torch.device("cpu"))
    plain = make_model()
    optimizer = library_optimizer(
        kind, [p for p in plain.parameters() if p.ndim > 1], [p for p in plain.parameters() if p.ndim < 2]
    )
    inputs = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
    for batch in inputs:
        engine.backward(engine.forward(input=batch).square().mean())
        engine.step()
        optimizer.zero_grad()
        plain(batch).square().mean().backward()
        optimizer.step()
    ours = engine.weights()
    assert ours is not None
    for name, weight in plain.state_dict().items():
        assert torch.allclose(ours[name], weight, atol=1e-7), name
    engine.close()


def test_an_optimizer_of_rows_and_columns_is_refused_where_zero_splits_them() -> None:
    for other in ({"zero_stage": 1}, {"deepspeed": {"zero_optimization": {"stage": 2}}}):
        with pytest.raises(ValidationError, match="adafactor computes from rows and columns"):
            TrainConfig(optimizer={"kind": "adafactor"}, **other)


def test_two_optimizers_are_refused_and_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    train = TrainConfig(optimizer={"kind": "sgd"}, deepspeed={"optimizer": {"type": "Adam"}})
    with pytest.raises(ConfigError, match=r"disagrees with train\.optimizer"):
        plan_optimizer(train)
    monkeypatch.setattr(optimizers_module.Lion, "library", "no_such_package")
    with pytest.raises(ConfigError, match=r"raykd\[lion\]"):
        plan_optimizer(TrainConfig(optimizer={"kind": "lion"}))


def test_the_default_leaves_fingerprints_and_another_changes_them() -> None:
    plain, sgd = run_config(), run_config(optimizer={"kind": "sgd"})
    assert run_config(optimizer={"kind": "adamw"}).fingerprint() == plain.fingerprint() != sgd.fingerprint()


def test_a_run_with_momentum_resumes_exactly(tmp_path: Any) -> None:
    config = run_config(teachers=False, objective={"alpha": 1}, optimizer={"kind": "sgd"}, learning_rate=0.1)
    whole, first, second = build_loop(config), build_loop(config), build_loop(config)
    whole.run()
    first.advance()
    first.save(tmp_path)
    second.load(tmp_path)
    second.run()
    expected, found = whole.engine.weights(), second.engine.weights()
    assert expected is not None and found is not None
    assert all(torch.equal(found[name], expected[name]) for name in expected)
