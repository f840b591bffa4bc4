"""Losses and answers over a wide vocabulary by kernels: the same numbers and gradients as torch's own operators.

The two kernels run on a GPU. Here they are a few lines of torch, so what is tested is all that is around them; the
kernels themselves are compared with torch by `python -m benchmarks.gpu --only wide`, and by the last test where Triton
is installed (with TRITON_INTERPRET=1 it needs no GPU).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from raykd.answers import compress
from raykd.distill import chunk_size, losses, support
from raykd.distill.signals import UNLABELLED
from raykd.distill.wide import functions, fused

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def sum_exponentials(logits_NV: torch.Tensor, temperatures: Sequence[float]) -> Triple:
    logits_NV = logits_NV.detach().float()
    top_N = logits_NV.amax(dim=1)
    top_N = torch.where(top_N == float("-inf"), 0.0, top_N)
    x_NV = logits_NV - top_N.unsqueeze(1)
    e = [(x_NV / t).exp() for t in temperatures]
    return (
        top_N,
        torch.stack([each.sum(dim=1) for each in e], dim=1),
        torch.stack([(each * x_NV).sum(dim=1) for each in e], dim=1),
    )


def write_exponentials(
    logits_NV: torch.Tensor, top_N: torch.Tensor, share_N: torch.Tensor, temperature: float
) -> torch.Tensor:
    x_NV = (logits_NV.detach().float() - top_N.unsqueeze(1)) / temperature
    return (x_NV.exp() * share_N.unsqueeze(1)).to(logits_NV.dtype)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels everywhere, made of torch's operators."""
    own = SimpleNamespace(sum_exponentials=sum_exponentials, write_exponentials=write_exponentials)
    for module in (functions, compress):
        monkeypatch.setattr(module, "load_kernels", lambda: own)
    for module in (losses, support, compress):
        monkeypatch.setattr(module, "is_fused", lambda logits_NV: True)


def make_logits(dtype: torch.dtype = torch.float32, n: int = 8, v: int = 301) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(n, v, generator=generator)).to(dtype)


def make_ids(n: int = 8, v: int = 301, k: int = 6) -> torch.Tensor:
    """Ids with gaps: at the beginning, in the middle, all but one, all."""
    generator = torch.Generator().manual_seed(1)
    ids_NK = torch.stack([torch.randperm(v, generator=generator)[:k] for _ in range(n)])
    ids_NK[1, 0], ids_NK[2, 3], ids_NK[3, 1:], ids_NK[4] = -1, -1, -1, -1
    ids_NK[5, 2] = 0
    return ids_NK


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gold_loss_is_that_of_torch(kernels: None, dtype: torch.dtype) -> None:
    labels_N = torch.tensor([0, 5, UNLABELLED, 300, 7, 7, UNLABELLED, 1])
    own, plain = (make_logits(dtype).requires_grad_() for _ in range(2))
    wanted = F.cross_entropy(plain.float(), labels_N, ignore_index=UNLABELLED, reduction="sum")
    found = losses.compute_gold_loss(own, labels_N, 0.0)
    (2.5 * wanted).backward()
    (2.5 * found).backward()
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0.0)
    assert own.grad is not None and plain.grad is not None and own.grad.dtype == dtype
    torch.testing.assert_close(own.grad, plain.grad, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)


def test_a_sure_student_keeps_its_small_gradient_in_half_precision(kernels: None) -> None:
    logits_NV = torch.zeros(1, 301, dtype=torch.bfloat16)
    logits_NV[0, 3] = 13.0  # p = 0.99933, which bfloat16 rounds to 1
    logits_NV.requires_grad_()
    losses.compute_gold_loss(logits_NV, torch.tensor([3]), 0.0).backward()
    assert logits_NV.grad is not None
    missing = 1.0 - float(logits_NV.detach().double().softmax(dim=1)[0, 3])
    assert float(logits_NV.grad[0, 3]) == pytest.approx(-missing, rel=1e-2)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_support_is_that_of_torch_with_and_without_gaps(
    kernels: None, dtype: torch.dtype, temperature: float
) -> None:
    ids_NK = make_ids()
    own, plain = (make_logits(dtype).requires_grad_() for _ in range(2))
    before = own.detach().clone()
    found = support.gather_support(own, ids_NK, temperature)
    absent = support._zero_logit(temperature)
    wanted = support._OnSupport.apply(plain.float(), ids_NK, temperature)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-5)
    assert float(found.min()) == absent and torch.equal(own.detach(), before)
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    found.backward(slope)
    wanted.backward(slope)
    assert own.grad is not None and plain.grad is not None
    torch.testing.assert_close(own.grad, plain.grad, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_are_those_of_torch(
    kernels: None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits_NV, gold_N = make_logits(dtype), torch.arange(8)
    grid = (1.0, 1.5, 4.0)
    found = compress.compute_top_k(logits_NV, 16, grid, gold_N=gold_N).tensors
    hidden = compress.compute_hidden(logits_NV[:, :9], logits_NV=logits_NV, gold_N=gold_N).tensors
    monkeypatch.setattr(compress, "is_fused", lambda logits_NV: False)
    wanted = compress.compute_top_k(logits_NV, 16, grid, gold_N=gold_N).tensors
    plain = compress.compute_hidden(logits_NV[:, :9], logits_NV=logits_NV, gold_N=gold_N).tensors
    assert torch.equal(found["ids_NK"], wanted["ids_NK"])
    for name in ("logits_NK", "lse_NG", "entropy_N", "gold_logp_N"):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=2e-6)
    assert hidden.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(hidden[name], value, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_unit_with_a_logit_that_is_not_finite_is_found(kernels: None, bad: float) -> None:
    logits_NV = make_logits()
    logits_NV[3, 7] = bad
    for answer in (
        compress.compute_top_k(logits_NV, 4, (1.0,)),
        compress.compute_hidden(logits_NV[:, :9], logits_NV=logits_NV),
    ):
        assert compress.find_finite_units(logits_NV, answer).tolist() == [True] * 3 + [False] + [True] * 4


def test_only_a_gpu_with_triton_has_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(fused, "_has_triton", lambda: True)
    assert fused.has_kernels(gpu, 50_000)
    assert not fused.has_kernels(gpu, 100) and not fused.has_kernels(torch.device("cpu"), 50_000)
    assert not fused.has_kernels(None, 50_000) and not fused.is_fused(make_logits())
    monkeypatch.setattr(fused, "_has_triton", lambda: False)
    assert not fused.has_kernels(gpu, 50_000)


def test_a_chunk_that_kernels_read_is_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(chunk_size, "has_kernels", lambda device, vocab: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    assert chunk_size.choose_chunk_units(50_000, gpu, torch.bfloat16) == 2**30 // 100_000
    assert chunk_size.choose_chunk_units(50_000, gpu) == 2**28 // 200_000


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_compute_these_sums() -> None:
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no GPU, and TRITON_INTERPRET is not 1")
    from raykd.distill.wide import kernels as own

    device = "cuda" if torch.cuda.is_available() else "cpu"
    logits_NV = make_logits(torch.bfloat16, v=9001).to(device)
    for one, other in zip(
        own.sum_exponentials(logits_NV, (1.0, 2.5)), sum_exponentials(logits_NV, (1.0, 2.5)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    share_N = torch.rand(8, device=device)
    top_N = logits_NV.float().amax(dim=1)
    torch.testing.assert_close(
        own.write_exponentials(logits_NV, top_N, share_N, 2.0),
        write_exponentials(logits_NV, top_N, share_N, 2.0),
        rtol=1e-2,
        atol=1e-6,
    )
