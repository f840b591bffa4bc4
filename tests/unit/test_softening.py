"""A temperature for each unit, against one for all, by hand, and in a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from raykd.answers.layout import MASKED
from raykd.distill.adapting.softening import TargetEntropy, find_unsuited
from raykd.distill.losses import Divergence
from raykd.distill.objective import Objective
from raykd.distill.signals import UNLABELLED, Signals
from raykd.distill.weighting import Fixed, Uniform
from tests.worlds import build_loop, run_config

DIVERGENCES = [member() for member in get_args(get_args(Divergence)[0])]
SUITED = [each.kind for each in DIVERGENCES if find_unsuited([each]) is None]


def world(seed: int = 0, units: int = 12, classes: int = 4) -> tuple[Signals, torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    sharpness_N1 = torch.logspace(-1, 1.3, units).unsqueeze(-1)
    signals = Signals(
        teachers=("a", "b"),
        teacher_languages=(None, None),
        logits_MNC=sharpness_N1 * torch.randn(2, units, classes, generator=make),
        covered_MN=torch.ones(2, units, dtype=torch.bool),
        labels_N=torch.full((units,), UNLABELLED),
        languages=("en",) * units,
    )
    return signals, torch.randn(units, classes, generator=make)


def evaluate(signals: Signals, student_NC: torch.Tensor, **changes: Any) -> tuple[Any, torch.Tensor]:
    objective = Objective.model_validate({"alpha": 0.0, "weighting": {"kind": "uniform"}} | changes)
    student_NC = student_NC.clone().requires_grad_()
    counts = objective.counts(signals.labels_N, signals)
    found = objective.evaluate(student_NC, signals.labels_N, signals, 0.5, counts)
    found.loss.backward()
    assert student_NC.grad is not None
    return found, student_NC.grad


@pytest.mark.parametrize("kind", SUITED)
def test_the_same_temperature_for_each_unit_is_one_for_all(kind: str) -> None:
    signals, student_NC = world()
    terms = [{"divergence": {"kind": kind}}]
    signals = replace(signals, labels_N=torch.arange(12) % 4)
    one, gradient_NC = evaluate(signals, student_NC, temperature=3.0, terms=terms)
    each = {"kind": "target_entropy", "low": 3.0, "high": 3.0}
    found, own_NC = evaluate(signals, student_NC, temperature=each, terms=terms)
    torch.testing.assert_close(found.loss, one.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own_NC, gradient_NC, rtol=1e-4, atol=1e-6)
    assert float(found.sums["temperature"]) == pytest.approx(36.0, rel=1e-5)


def test_units_are_each_as_if_alone_at_their_temperature() -> None:
    signals, student_NC = world(1)
    schedule = TargetEntropy(share=0.6)
    found, own_NC = evaluate(signals, student_NC, temperature=schedule.model_dump())
    temperatures = schedule.find(signals, Uniform().weights(signals)).tolist()
    assert max(temperatures) / min(temperatures) > 3.0
    total = 0.0
    for n, t in enumerate(temperatures):
        alone, gradient_1C = evaluate(signals.units(n, n + 1), student_NC[n : n + 1], temperature=t)
        total += float(alone.loss.detach()) / 12
        torch.testing.assert_close(own_NC[n : n + 1], gradient_1C / 12, rtol=1e-4, atol=1e-6)
    assert float(found.loss.detach()) == pytest.approx(total, rel=1e-5)


def test_the_temperature_by_hand_and_its_bounds() -> None:
    # H(p) of two labels is half of log 2 at p = 0.110028, so T = z / log(p / (1 - p)).
    signals, _ = world(units=3, classes=2)
    gap = math.log((1 - 0.1100278644) / 0.1100278644)
    logits_MNC = torch.tensor([[[4.0, 0.0], [0.1, 0.0], [900.0, 0.0]]] * 2)
    signals = replace(signals, logits_MNC=logits_MNC)
    found = TargetEntropy(share=0.5, high=20.0).find(signals, Uniform().weights(signals)).tolist()
    assert found == pytest.approx([4.0 / gap, 1.0, 20.0], rel=1e-4)


def test_teachers_without_weight_and_labels_that_are_masked_do_not_count() -> None:
    signals, _ = world(2)
    alone = Fixed(by_teacher={"a": 1.0, "b": 0.0}).weights(signals)
    first = TargetEntropy().find(signals, alone)
    other = replace(signals, logits_MNC=torch.stack([signals.logits_MNC[0], torch.zeros(12, 4)]))
    torch.testing.assert_close(TargetEntropy().find(other, alone), first)
    wider = torch.cat([signals.logits_MNC, torch.full((2, 12, 3), MASKED)], dim=-1)
    masked = replace(signals, logits_MNC=wider)
    torch.testing.assert_close(TargetEntropy().find(masked, alone), first)


def test_what_reads_one_temperature_is_refused() -> None:
    by_unit = {"kind": "target_entropy"}
    assert set(SUITED) >= {"forward_kl", "reverse_kl", "total_variation", "decoupled_kl", "skewed_kl"}
    refused = ("logit_mse", "teacher_hard", "standardised_kl", "dist", "relational_distance")
    for kind in refused:
        with pytest.raises(ValidationError, match=f"does not suit {kind}"):
            run_config({"temperature": by_unit, "terms": [{"divergence": {"kind": kind}}]})
    with pytest.raises(ValidationError, match="gradient_agreement reads the temperature"):
        run_config({"temperature": by_unit, "weighting": {"kind": "gradient_agreement"}})
    with pytest.raises(ValidationError, match="must not lie above"):
        Objective.model_validate({"temperature": {**by_unit, "low": 3.0, "high": 2.0}})


def test_a_run_tells_its_mean_and_goes_on_as_if_it_had_not_been_cut(tmp_path: Path) -> None:
    points: list[dict[str, float]] = []
    config = run_config({"alpha": 0.1, "temperature": {"kind": "target_entropy", "share": 0.8}})
    whole = build_loop(config, publish=lambda point: points.append(dict(point.values)))
    whole.run()
    means = [point["train/temperature"] for point in points if "train/temperature" in point]
    assert len(means) == 12
    assert len(set(means)) > 6
    assert all(1.0 < mean < 10.0 for mean in means)
    first, second = build_loop(config), build_loop(config)
    first.advance()
    first.save(tmp_path)
    second.load(tmp_path)
    second.run()
    assert second.state.history == whole.state.history
