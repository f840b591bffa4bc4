"""The counters of `benchmarks.gpu_parts.counting`, on sums that are done by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.gpu_parts.counting import Operators, Syncs, recording_shapes
from raykd.devices import copy_to_device

DEVICE = torch.device("cpu")


def test_operators_count_both_passes_and_no_views() -> None:
    weight = torch.ones(7, 3, requires_grad=True)
    with Operators() as operators:
        F.linear(torch.ones(4, 3), weight).sum().backward()
    # Forward: ones, t, mm, sum. Backward: ones_like, expand, t (three times), mm.
    assert operators.counts["mm"] == 2
    assert operators.kernels == 5
    assert operators.count_chunks(7) == 1


@pytest.mark.parametrize(
    ("wait", "reason"),
    [
        (lambda x: x.sum().item(), "item"),
        (lambda x: bool(x[0] > 0), "item"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu().numpy(), "cpu"),
        (lambda x: x.to("cpu"), "to cpu"),
        (lambda x: x[x > 0], "mask as index"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[[0, 1]], "index from host"),
        (lambda x: torch.tensor([1.0], device=DEVICE) + x, "tensor to device"),
        (lambda x: torch.ones(3).to(DEVICE) + x, "to device"),
        (lambda x: torch.empty(3).copy_(x), "copy to host"),
    ],
)
def test_a_wait_is_found(wait: Callable[[torch.Tensor], object], reason: str) -> None:
    with Syncs() as syncs:
        x = torch.ones(3).to(DEVICE, non_blocking=True)
        wait(x)
    assert dict(syncs.counts) == {reason: 1}


@pytest.mark.parametrize(
    "work",
    [
        lambda x: torch.ones(3).tolist(),
        lambda x: torch.ones(3).to(DEVICE, non_blocking=True) + x,
        lambda x: torch.zeros(3, device=DEVICE) + torch.arange(3, device=DEVICE) + x,
        lambda x: x[torch.zeros(1, dtype=torch.int64, device=DEVICE)] + x[:2],
        lambda x: torch.where(x > 0, x, 0.0).masked_fill(x > 1, 2.0),
        lambda x: copy_to_device(torch.ones(3), x.device) + x,
        lambda x: copy_to_device(torch.ones(3), torch.ones(1).device).tolist(),
    ],
)
def test_what_does_not_wait_is_not_counted(work: Callable[[torch.Tensor], object]) -> None:
    with Syncs() as syncs:
        work(torch.ones(3).to(DEVICE, non_blocking=True))
    assert syncs.total == 0


def test_what_is_copied_to_the_device_leaves_the_original_on_the_host() -> None:
    original = torch.ones(3)
    with Syncs() as syncs:
        copy = copy_to_device(original, DEVICE)
        original.tolist()
        assert syncs.total == 0
        copy.tolist()
    assert dict(syncs.counts) == {"tolist": 1}


def test_a_gradient_lies_where_its_parameter_does() -> None:
    model = nn.Linear(3, 2)
    with Syncs(model.parameters()) as syncs:
        model(torch.ones(4, 3).to(DEVICE, non_blocking=True)).sum().backward()
        float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    assert syncs.describe() == "1: item 1"


def test_a_read_back_value_lies_on_the_host() -> None:
    with Syncs() as syncs:
        read = torch.ones(3).to(DEVICE, non_blocking=True).cpu()
        assert read.tolist() == [1.0, 1.0, 1.0]
    assert dict(syncs.counts) == {"cpu": 1}


def test_shapes_are_those_of_the_embedding_with_this_vocabulary() -> None:
    tokens, positions = nn.Embedding(11, 2), nn.Embedding(5, 2)
    with recording_shapes(11) as shapes:
        tokens(torch.zeros(2, 4, dtype=torch.int64))
        tokens(torch.zeros(2, 4, dtype=torch.int64))
        tokens(torch.zeros(3, 4, dtype=torch.int64))
        positions(torch.zeros(1, 5, dtype=torch.int64))
    tokens(torch.zeros(9, 9, dtype=torch.int64))
    assert shapes == {(2, 4): 2, (3, 4): 1}
