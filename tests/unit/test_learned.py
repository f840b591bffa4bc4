"""Values that a run learns, against autograd, closed forms and unbroken runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raykd.answers.servable import check_servable
from raykd.distill.adapting.adaptation import fix_learned, list_learned, measure_gaps, measure_step
from raykd.distill.adapting.learned import AdversarialTemperature, Constraint, StepMeans, Uncertainty
from raykd.distill.objective import Objective
from raykd.distill.signals import Signals
from raykd.errors import ConfigError
from raykd.scoring.ensembles.feasibility import measure_constraints
from tests.worlds import build_loop, run_config

ADVERSARIAL = {"kind": "adversarial", "low": 1.0, "high": 10.0, "start": 3.0, "rate": 2.0, "ramp": 0.0}


def world(seed: int = 0) -> tuple[Signals, torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    signals = Signals(
        teachers=("a", "b"),
        teacher_languages=(None, None),
        logits_MNC=3.0 * torch.randn(2, 10, 4, generator=make),
        covered_MN=torch.ones(2, 10, dtype=torch.bool),
        labels_N=torch.randint(0, 4, (10,), generator=make),
        languages=("en",) * 10,
    )
    return signals, 2.0 * torch.randn(10, 4, generator=make)


@pytest.mark.parametrize("seed", range(4))
def test_slope_is_the_derivative_by_the_temperature(seed: int) -> None:
    signals, student_NC = world(seed)
    objective = Objective.model_validate({"temperature": ADVERSARIAL, "weighting": {"kind": "uniform"}})
    fixed, learned = fix_learned(objective, {}), list_learned(objective)
    sums = measure_step(fixed, learned, student_NC, signals.labels_N, signals, 0.0)
    t = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    p_NC = torch.softmax(signals.logits_MNC.double() / t, dim=-1).mean(dim=0)
    logq_NC = torch.log_softmax(student_NC.double() / t, dim=-1)
    loss = t**2 * (p_NC * (p_NC.log() - logq_NC)).sum()
    loss.backward()
    assert float(sums["gap/forward_kl"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert float(sums["slope"]) == pytest.approx(float(t.grad), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("slope", [-0.7, 0.4])
def test_the_temperature_moves_against_the_student(slope: float) -> None:
    value = AdversarialTemperature(start=4.0, rate=0.1, ramp=0.5)
    means = StepMeans(gaps={}, slope=slope, hard=None)
    theta = value.begin()
    assert value.read(theta) == pytest.approx(4.0)
    assert value.update(theta, means, "", 0.0) == theta  # the strength begins at 0
    half, whole = (value.update(theta, means, "", u) for u in (0.25, 0.9))
    assert half[0] - theta[0] == pytest.approx((whole[0] - theta[0]) / 2)
    share = 3.0 / 9.0
    assert whole[0] - theta[0] == pytest.approx(0.1 * slope * 9.0 * share * (1 - share))
    assert math.copysign(1.0, value.read(whole) - 4.0) == math.copysign(1.0, slope)


def test_lambda_of_a_constraint_rises_until_it_holds() -> None:
    value = Constraint(epsilon=0.5, rate=0.2, start=1.0, most=1.3)
    above, below = (StepMeans(gaps={"forward_kl": g}, slope=0.0, hard=0.0) for g in (1.5, 0.0))
    assert value.update((1.0,), above, "forward_kl", 0.0) == pytest.approx((1.2,))
    assert value.update((1.2,), above, "forward_kl", 0.0) == (1.3,)
    assert value.update((1.3,), below, "forward_kl", 0.0) == pytest.approx((1.2,))
    assert value.update((0.05,), below, "forward_kl", 0.0) == (0.0,)


def test_uncertainties_settle_where_the_terms_weigh_alike() -> None:
    value, state = Uncertainty(rate=0.1), Uncertainty().begin()
    means = StepMeans(gaps={"forward_kl": 0.05}, slope=0.0, hard=0.8)
    for _ in range(400):
        state = value.update(state, means, "forward_kl", 0.0)
    assert value.read(state) == pytest.approx(0.8 / 0.05, rel=1e-3)
    unlabelled = value.update(state, replace(means, hard=None), "forward_kl", 0.0)
    assert unlabelled[0] == state[0]


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "logit_mse"])
def test_gaps_are_what_the_objective_adds_up(kind: str) -> None:
    signals, student_NC = world(5)
    objective = Objective.model_validate({"terms": [{"divergence": {"kind": kind}}], "alpha": 0.0})
    counts = objective.counts(signals.labels_N, signals)
    result = objective.evaluate(student_NC, signals.labels_N, signals, 0.0, counts)
    gap = measure_gaps(objective, student_NC, signals.labels_N, signals, 0.0)[kind]
    torch.testing.assert_close(gap.gap_N.sum(), result.sums[f"soft/{kind}"])


def train(objective: dict[str, Any], **settings: Any) -> tuple[list[dict[str, float]], Any]:
    points: list[dict[str, float]] = []
    loop = build_loop(
        run_config(objective, **settings), publish=lambda point: points.append(dict(point.values))
    )
    loop.run()
    return [point for point in points if "train/alpha" in point], loop


def learned(term: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"alpha": 0.5, "terms": [{"lambda_schedule": term}], **more}


def test_curves_show_what_was_learned() -> None:
    points, _ = train(learned({"kind": "constraint", "epsilon": 1e6, "rate": 1e-7}))
    lambdas = [point["train/lambda/forward_kl"] for point in points]
    assert lambdas == pytest.approx([max(0.0, 1.0 - 0.1 * step) for step in range(1, 13)], abs=1e-4)
    points, _ = train(learned({"kind": "constraint", "epsilon": 0.0, "rate": 10.0, "most": 7.0}))
    assert points[-1]["train/lambda/forward_kl"] == 7.0
    points, _ = train({"alpha": 0.1, "temperature": ADVERSARIAL})
    temperatures = [point["train/temperature"] for point in points]
    assert len(set(temperatures)) == len(temperatures)
    assert all(1.0 < t < 10.0 for t in temperatures)


@pytest.mark.parametrize(
    "objective",
    [
        learned({"kind": "uncertainty", "rate": 0.3}, temperature=ADVERSARIAL),
        learned({"kind": "constraint", "epsilon": 0.1, "rate": 0.5}),
    ],
)
def test_a_resumed_run_learns_what_an_unbroken_one_does(objective: dict[str, Any], tmp_path: Path) -> None:
    whole, unbroken = train(objective)
    first = build_loop(run_config(objective))
    first.advance()
    first.save(tmp_path)
    second = build_loop(run_config(objective))
    second.load(tmp_path)
    assert second.trainer.adaptation.states
    second.run()
    assert second.trainer.adaptation.states == unbroken.trainer.adaptation.states
    assert second.state.history[-1]["eval/mean/nll"] == unbroken.state.history[-1]["eval/mean/nll"]
    assert whole


def test_what_is_learned_does_not_depend_on_the_split() -> None:
    objective = learned({"kind": "uncertainty", "rate": 0.3}, temperature=ADVERSARIAL)
    _, one = train(objective)
    _, four = train(objective, gradient_accumulation=4)
    for name, state in one.trainer.adaptation.states.items():
        assert four.trainer.adaptation.states[name] == pytest.approx(state, rel=1e-3, abs=1e-4)


def test_refusals() -> None:
    with pytest.raises(ValidationError, match="anneal_on"):
        Objective.model_validate({"temperature": ADVERSARIAL, "anneal_on": "labelled"})
    for kind in ({"kind": "uncertainty"}, {"kind": "constraint", "epsilon": 0.1}):
        with pytest.raises(ValidationError, match="keep alpha above 0"):
            Objective.model_validate({"alpha": 0.0, "terms": [{"lambda_schedule": kind}]})
    with pytest.raises(ValidationError, match="between low"):
        AdversarialTemperature(start=12.0)
    with pytest.raises(ConfigError, match="measured over all units at once"):
        check_servable(Objective.model_validate({"temperature": ADVERSARIAL}), "hidden")
    with pytest.raises(ValidationError, match="adversarial"):
        Objective.model_validate({"alpha": ADVERSARIAL})


def test_feasibility_of_held_out_units() -> None:
    signals, student_NC = world(3)
    signals.covered_MN[:, 7:] = False
    objective = learned({"kind": "constraint", "epsilon": 0.4}, weighting={"kind": "uniform"})
    config = run_config(objective)
    notes, values = measure_constraints(config, student_NC.numpy(), signals)
    p_NC = torch.softmax(signals.logits_MNC / 2.0, dim=-1).mean(dim=0)
    gap_N = 4.0 * (p_NC * (p_NC.log() - torch.log_softmax(student_NC / 2.0, dim=-1))).sum(-1).numpy()[:7]
    assert values["constraint/forward_kl/mean"] == pytest.approx(gap_N.mean(), rel=1e-5)
    assert values["constraint/forward_kl/p95"] == pytest.approx(np.quantile(gap_N, 0.95), rel=1e-5)
    assert values["constraint/forward_kl/max"] == pytest.approx(gap_N.max(), rel=1e-5)
    assert "does not hold on 7 held-out units" in notes[0]
    assert measure_constraints(run_config({"alpha": 0.5}), student_NC.numpy(), signals) == ((), {})
