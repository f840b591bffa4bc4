"""Which passes of a teacher on a GPU are replayed as CUDA graphs; the graph itself is a stand-in that calls the model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raykd.compat.transformers_private import knowing_padding
from raykd.teachers.backends import graphs
from raykd.teachers.backends.graphs import MEETINGS, GraphedModule


class Model(torch.nn.Module):
    """Answers with a product, and counts its plain passes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(4, 2)
        self.passes = 0

    def forward(self, input_ids: torch.Tensor) -> Any:
        self.passes += 1
        return SimpleNamespace(logits=self.head(input_ids.float()), other=None)


class FakeGraph:
    """Holds the weights of the moment as a graph does."""

    made: int = 0
    wrong: float = 0.0

    def __init__(self, module: Model, inputs: Any, pool: Any) -> None:
        type(self).made += 1
        self.pool = "pool"
        self._weight, self._bias = module.head.weight, module.head.bias

    def replay(self, inputs: Any) -> SimpleNamespace:
        found = torch.nn.functional.linear(inputs["input_ids"].float(), self._weight, self._bias)
        return SimpleNamespace(logits=found + self.wrong)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeGraph]:
    class Own(FakeGraph):
        pass

    monkeypatch.setattr(graphs, "_Graph", Own)
    return Own


def ask(run: GraphedModule, rows: int = 2, padded: bool | None = True) -> torch.Tensor:
    with torch.inference_mode(), knowing_padding(padded):
        found: torch.Tensor = run(input_ids=torch.arange(4 * rows).view(rows, 4)).logits
    return found


def test_a_shape_is_replayed_after_its_third_meeting(fake: type[FakeGraph]) -> None:
    model = Model()
    run = GraphedModule(model)
    answers = [ask(run) for _ in range(MEETINGS + 3)]
    assert (model.passes, fake.made) == (MEETINGS, 1)
    assert all(torch.equal(each, answers[0]) for each in answers)
    ask(run, rows=3)  # another shape is met for the first time
    assert (model.passes, fake.made) == (MEETINGS + 1, 1)
    assert run.head is model.head


def test_what_a_graph_fixes_is_in_its_key(fake: type[FakeGraph]) -> None:
    model = Model()
    run = GraphedModule(model)
    for _ in range(MEETINGS):
        ask(run)
    ask(run, padded=False)  # transformers leaves the mask out there
    ask(run, padded=None)  # nobody looked
    assert model.passes == MEETINGS + 2
    # A self-test holds the weights in float32 for a while and puts other tensors in their place.
    for weight in model.parameters():
        weight.data = 2 * weight.data
    assert torch.equal(ask(run), model(torch.arange(8).view(2, 4)).logits)
    assert model.passes == MEETINGS + 4


def test_a_graph_that_differs_or_fails_is_never_used(fake: type[FakeGraph]) -> None:
    fake.wrong = 10.0
    model = Model()
    run = GraphedModule(model)
    answers = [ask(run) for _ in range(2 * MEETINGS)]
    assert (model.passes, fake.made) == (2 * MEETINGS, 1)
    assert all(torch.equal(each, answers[0]) for each in answers)
    fake.wrong = float("nan")
    other = GraphedModule(Model())
    assert all(ask(other).isfinite().all() for _ in range(2 * MEETINGS))


def test_a_pass_that_a_gpu_computes_for_long_is_not_captured(
    fake: type[FakeGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "MOST_OPERATIONS", 2 * 10 * 8)  # 10 weights, 8 tokens
    model = Model()
    run = GraphedModule(model)
    for _ in range(2 * MEETINGS):
        ask(run, rows=3)
    assert fake.made == 0
    for _ in range(2 * MEETINGS):
        ask(run, rows=2)
    assert fake.made == 1
