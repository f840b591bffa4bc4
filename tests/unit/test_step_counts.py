"""What a step asks of the device: operators beside plain torch, numbers read back, masks built; counted on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks.gpu_parts.counting import Operators
from raykd.distill.weightings.routing import ByLanguage
from raykd.errors import TrainingError
from raykd.student import torch_step
from raykd.student.loop import TrainingLoop
from raykd.student.prefetch import Prefetcher, StepWork
from tests.worlds import build_loop, run_config


def count(loop: TrainingLoop, works: list[StepWork]) -> Operators:
    with Operators() as counted:
        for work in works:
            loop.step(work)
    return counted


def plain_step(loop: TrainingLoop, precision: str) -> Any:
    """A step of plain torch over the same student: autocast, clipping, fused AdamW."""
    model = type(loop.student.model)(loop.student.model.config).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(work: StepWork) -> None:
        encoded = loop.trainer.task.collate(loop.trainer.tokens, work.rows[0].tolist(), loop.trainer.padding)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(**encoded.inputs).logits
        F.cross_entropy(logits.float(), encoded.labels_N.clamp_min(0)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_calls_the_operators_of_plain_torch_and_few_more(precision: str) -> None:
    loop = build_loop(run_config({"alpha": 1.0}, teachers=False, precision=precision))
    works = list(Prefetcher(loop.ask, 1).steps(0, 5))
    step = plain_step(loop, precision)
    count(loop, works[:2]), step(works[0])
    with Operators() as plain:
        step(works[2])
    assert count(loop, works[2:3]).kernels <= 1.1 * plain.kernels


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("micro", [1, 3])
def test_a_step_reads_from_the_device_once_and_after_the_backward_pass(
    precision: str, micro: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = build_loop(run_config(precision=precision, gradient_accumulation=micro))
    works = list(Prefetcher(loop.ask, 1).steps(0, 5))
    count(loop, works[:2])
    met: list[str] = []
    backward, read = loop.engine.backward, torch_step.read_numbers
    monkeypatch.setattr(loop.engine, "backward", lambda loss: (met.append("backward"), backward(loss)))
    monkeypatch.setattr(torch_step, "read_numbers", lambda tensors: (met.append("read"), read(tensors))[1])
    counted = count(loop, works[2:])
    assert met == (["backward"] * micro + ["read"]) * 3
    assert counted.reads == 0, counted.counts  # `tolist` of the one reading is not an operator


def test_masks_of_languages_are_built_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = build_loop(run_config({"alpha": 0.5, "weighting": {"kind": "by_language"}}))
    works = list(Prefetcher(loop.ask, 1).steps(0, 3))
    calls: list[int] = []
    eligible = ByLanguage.eligible
    monkeypatch.setattr(
        ByLanguage, "eligible", lambda self, signals: (calls.append(1), eligible(self, signals))[1]
    )
    for work in works:
        loop.step(work)
    assert len(calls) == 3


def test_bfloat16_without_zero_has_float32_weights_and_torchs_optimizer() -> None:
    loop = build_loop(run_config(precision="bfloat16"))
    assert {p.dtype for p in loop.engine.module.parameters()} == {torch.float32}
    assert type(loop.engine.optimizer) is torch.optim.AdamW
    encoded = loop.trainer.task.collate(loop.trainer.tokens, [0, 1])
    assert loop.engine.forward(**encoded.inputs).logits.dtype == torch.bfloat16


def test_bfloat16_resumes_exactly(tmp_path: Path) -> None:
    config = run_config(precision="bfloat16", evaluations=3)
    whole, first, second = (build_loop(config) for _ in range(3))
    whole.run()
    assert first.advance()
    first.save(tmp_path)
    second.load(tmp_path)
    second.run()
    a, b = whole.engine.weights() or {}, second.engine.weights() or {}
    assert a and all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_with_bfloat16_weights_is_refused_by_name() -> None:
    loop = build_loop(run_config(precision="bfloat16"))
    with pytest.raises(TrainingError, match="older version") as error:
        loop.engine.optimizer.load_state_dict({"optimizer_state_dict": {}, "fp32_groups": []})
    assert error.value.next_step and "another name" in error.value.next_step
