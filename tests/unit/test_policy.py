"""The policy that draws teachers (RL-KD), against numbers worked out by hand, identities and unbroken runs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raykd.config import RunConfig
from raykd.distill.adapting.adaptation import Adaptation
from raykd.distill.signals import UNLABELLED, Signals
from raykd.distill.weighting import Anchored
from raykd.distill.weightings.policy import Policy
from raykd.driver.gold_labels import check_gold_labels
from raykd.errors import ConfigError
from tests.unit.test_learned_weightings import Held, signals_of
from tests.worlds import TEACHERS, build_loop, rows, run_config


def numbered(signals: Signals, first: int = 0) -> Signals:
    return replace(signals, numbers_N=torch.arange(first, first + len(signals.languages)))


def begun(policy: Policy, signals: Signals, seed: int = 0, **states: tuple[float, ...]) -> Policy:
    found = policy.begin(seed, signals.teachers, sorted(set(signals.languages)))
    return policy.with_states({**found, **states})


def draw(policy: Policy, signals: Signals) -> torch.Tensor:
    """Who was drawn, by the weights: bool ``[M, N]``; all where nobody was."""
    return policy.weights(signals) > 0.0


# drawing ------------------------------------------------------------------------------------------------------


def test_a_draw_belongs_to_the_unit_and_not_to_its_batch() -> None:
    signals = numbered(signals_of([[0] * 400] * 3, [0] * 400))
    drawn_MN = draw(begun(Policy(), signals), signals)
    part = signals.units(100, 130)
    assert torch.equal(draw(begun(Policy(), signals), part), drawn_MN[:, 100:130])
    for other in (
        begun(Policy(), signals, seed=1),
        begun(Policy(), signals, episode=(1.0, 0.0)),
        begun(Policy(), signals, **{"teacher//a": (2.0, 0.0, 0.0)}),
    ):
        assert not torch.equal(draw(other, signals), drawn_MN)
    # Three fair coins: each subset of teachers as often, and all three also where nobody was drawn.
    subsets = [tuple(column) for column in drawn_MN.T.tolist()]
    for subset in itertools.product([True, False], repeat=3):
        expected = {3: 100, 0: 0}.get(sum(subset), 50)
        assert abs(subsets.count(subset) - expected) <= 30, subset


def test_outside_of_training_weights_are_those_expected_over_draws() -> None:
    signals = signals_of([[0, 0], [0, 0], [0, -1], [0, 0]], [0, 0])
    biases = {"a": 1.5, "b": -0.5, "c": 0.3, "d": -2.0}
    states = {f"teacher//{name}": (bias, 0.0, 0.0) for name, bias in biases.items()}
    policy = begun(Policy(features=()), signals, **states)
    pi = {name: 1.0 / (1.0 + np.exp(-bias)) for name, bias in biases.items()}
    for unit, names in enumerate(["abcd", "abd"]):
        expected = dict.fromkeys("abcd", 0.0)
        for subset in itertools.product([True, False], repeat=len(names)):
            chance = np.prod([pi[n] if one else 1.0 - pi[n] for n, one in zip(names, subset, strict=True)])
            drawn = [n for n, one in zip(names, subset, strict=True) if one] or list(names)
            for name in drawn:
                expected[name] += chance / len(drawn)
        assert policy.weights(signals)[:, unit].tolist() == pytest.approx(list(expected.values()), abs=1e-6)
    many = numbered(signals_of([[0] * 20_000] * 4, [0] * 20_000))
    found_M = policy.weights(many).mean(dim=1)
    torch.testing.assert_close(found_M, policy.weights(signals)[:, 0], atol=0.01, rtol=0.0)


# learning -----------------------------------------------------------------------------------------------------


def test_an_episode_by_hand() -> None:
    # Unit 0 and 1 are of e, 2 has no gold label, 3 has one teacher: two of them teach the policy something.
    signals = numbered(signals_of([[0, 1, 0, 0], [0, 0, 0, -1]], [0, 1, UNLABELLED, 0], "eeee"), first=5)
    before = {"teacher//a": (0.7, 0.4, 0.25), "gold": (-0.3, 0.5, 0.0), "entropy": (0.1, 0.2, -0.5)}
    kept = {"episode": (1.0, 3.0), "baseline/e": (50.0, 100.0, 400.0)}  # mean 2, deviation 2
    policy = begun(Policy(features=("language", "entropy", "gold"), rate=2.0), signals, **before, **kept)
    loss_N = torch.tensor([1.0, 5.0, 9.0, 9.0])
    sums = {name: float(value) for name, value in policy.measure(signals, loss_N).items()}

    p = {True: 0.9, False: 0.05}
    entropy = -(0.9 * np.log(0.9) + 2 * 0.05 * np.log(0.05)) / np.log(3)
    gold = np.asarray([[p[True], p[True]], [p[True], p[False]]])  # of a and b, in units 0 and 1
    gold -= gold.mean(axis=1, keepdims=True)
    pi = 1.0 / (1.0 + np.exp(-(np.asarray([0.4, 0.0]) + 0.2 * entropy + 0.5 * gold)))
    first = begun(Policy(features=("language", "entropy", "gold")), signals)  # the same draws, of episode 0
    uniform = np.asarray([_find_threshold(first, signals, name) for name in "ab"]).T[:2]
    slope = np.asarray([[0.5], [-1.5]]) * ((uniform < pi) - pi)
    assert sums["teacher//a"] == sums["language/e/a"] == pytest.approx(slope[:, 0].sum(), abs=1e-6)
    assert sums["teacher//b"] == sums["language/e/b"] == pytest.approx(slope[:, 1].sum(), abs=1e-6)
    assert sums["entropy"] == pytest.approx(slope.sum() * entropy, abs=1e-6)
    assert sums["gold"] == pytest.approx((slope * gold).sum(), abs=1e-6)
    assert [sums[f"baseline/e/{k}"] for k in range(3)] == [2.0, 6.0, 26.0]

    going_on, is_other = policy.learn(sums, progress=0.2)
    assert not is_other
    assert going_on["teacher//a"] == pytest.approx((0.7, 0.4, 0.25 + sums["teacher//a"]))
    assert going_on["episode"] == (1.0, 5.0)
    left = np.exp(-2.0 / 100.0)
    assert going_on["baseline/e"] == pytest.approx((50 * left + 2, 100 * left + 6, 400 * left + 26))
    ended, is_other = policy.learn(sums, progress=0.25)
    assert is_other
    assert ended["teacher//a"] == pytest.approx((0.7 + 2.0 * (0.25 + sums["teacher//a"]) / 5.0, 0.7, 0.0))
    assert ended["entropy"] == pytest.approx((0.1 + 2.0 * (-0.5 + sums["entropy"]) / 5.0, 0.1, 0.0))
    assert ended["episode"] == (2.0, 0.0)


def _find_threshold(policy: Policy, signals: Signals, name: str) -> list[float]:
    """The probability from which on a teacher is drawn for each unit, by bisection of its bias."""
    others = {
        f"teacher//{other}": (50.0, 0.0, 0.0) for other in "ab" if other != name
    }  # so that one is drawn
    found = []
    for unit in range(len(signals.languages)):
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2.0
            bias = float(np.log(middle / (1.0 - middle)))
            tried = policy.with_states({**policy.states, **others, f"teacher//{name}": (bias, 0.0, 0.0)})
            is_drawn = bool(tried.weights(signals)["ab".index(name), unit] > 0.0)
            low, high = (low, middle) if is_drawn else (middle, high)
        found.append(high)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_it_learns_to_draw_the_teacher_that_helps(seed: int) -> None:
    """A student of one number a unit, which the good teacher raises, the adversary lowers and the third leaves alone."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 120)
    told = [labels.tolist(), ((labels + 1) % 3).tolist(), rng.integers(0, 3, 120).tolist()]
    signals = numbered(signals_of(told, labels.tolist()))
    policy = begun(Policy(features=("entropy", "confidence"), rate=8.0), signals, seed=seed)
    known_N = torch.zeros(120)
    helps_M = torch.tensor([1.0, -1.0, 0.0])
    for step in range(8 * 3):
        noise_N = torch.from_numpy(rng.normal(0.0, 0.5, 120)).float()
        sums = policy.measure(signals, torch.nn.functional.softplus(-known_N + noise_N))
        known_N = 0.7 * known_N + policy.weights(signals).T @ helps_M
        learned, _ = policy.learn({name: float(value) for name, value in sums.items()}, step / 24)
        policy = policy.with_states(learned)
    weights_M = policy.weights(replace(signals, numbers_N=None)).mean(dim=1)
    assert weights_M[0] > 0.6, weights_M
    assert weights_M[1] < 0.2, weights_M
    assert weights_M[1] < weights_M[2]


def test_an_anchor_passes_everything_on() -> None:
    signals = numbered(signals_of([[0] * 6, [1] * 6, [2] * 6], [0] * 6))
    anchored = Anchored(teacher="c", share=0.25, among=Policy())
    states = anchored.begin(0, signals.teachers, ["e"])
    assert states == Policy().begin(0, ["a", "b"], ["e"])
    learned, alone = anchored.with_states(states), Policy().with_states(states)
    inner = signals.of_teachers([0, 1])
    torch.testing.assert_close(learned.weights(signals)[:2], 0.75 * alone.weights(inner))
    sums, own = learned.measure(signals, torch.ones(6)), alone.measure(inner, torch.ones(6))
    assert sums == own
    floats = {name: float(value) for name, value in own.items()}
    assert learned.learn(floats, 0.3) == alone.learn(floats, 0.3)


# in a run -----------------------------------------------------------------------------------------------------

POLICY: dict[str, Any] = {"kind": "policy", "episodes": 4, "rate": 1.0}


def train(directory: Path | None = None, **more: Any) -> tuple[list[dict[str, float]], Any]:
    points: list[dict[str, float]] = []
    config = run_config({"alpha": 0.1, "weighting": POLICY}, **more)
    loop = build_loop(config, publish=lambda point: points.append(dict(point.values)))
    if directory is not None:
        first = build_loop(config)
        first.advance()
        first.advance()  # step 8, inside the third episode
        first.save(directory)
        loop.load(directory)
    loop.run()
    return points, loop


def test_a_run_that_was_cut_or_split_learns_the_same(tmp_path: Path) -> None:
    points, whole = train()
    _, second = train(tmp_path)
    assert second.state.history == whole.state.history
    states = whole.trainer.adaptation.states
    assert second.trainer.adaptation.states == states
    assert states["weighting/episode"][0] == 3.0
    assert abs(states["weighting/teacher//multi"][0]) > 1e-3
    _, parts = train(gradient_accumulation=4)
    for name, state in states.items():
        assert parts.trainer.adaptation.states[name] == pytest.approx(state, rel=1e-3, abs=1e-4), name
    told = [p for p in points if "teacher/multi/weight/en" in p]
    assert len(told) == 3, "when an episode ends"
    assert told[0]["teacher/multi/weight/en"] == pytest.approx(0.5), "nothing was rewarded yet"
    assert told[2]["teacher/multi/weight/en"] != pytest.approx(0.5, abs=1e-4)
    assert told[2]["teacher/multi/weight/en"] + told[2]["teacher/en/weight/en"] == pytest.approx(1.0)
    assert told[2]["weighting/gold"] == pytest.approx(states["weighting/gold"][1], abs=10.0)


def test_a_checkpoint_of_another_weighting_begins_anew() -> None:
    adaptation = Adaptation(Policy().begin(0, ["a"], ["e"]))
    begun = dict(adaptation.states)
    adaptation.load({"temperature": [0.5], "weighting/teacher//a": [1.0], "weighting/entropy": [2.0]})
    assert adaptation.states == {"temperature": (0.5,), **begun}
    learned = begun | {"weighting/teacher//a": (1.0, 0.5, 0.25)}
    adaptation.load({name: list(state) for name, state in learned.items()})
    assert adaptation.states == learned


def test_refusals() -> None:
    tree = run_config({"alpha": 0.1, "weighting": POLICY}).model_dump(mode="json")
    with pytest.raises(ConfigError, match="no language with two of the teachers en"):
        RunConfig.model_validate({**tree, "teachers": TEACHERS[:1]})
    with pytest.raises(ConfigError, match="no language with two of the teachers en, zh"):
        RunConfig.model_validate({**tree, "teachers": TEACHERS[:2]})
    without = {**tree, "task": {"kind": "ranking"}, "data": {**tree["data"], "labels": [], "columns": {}}}
    with pytest.raises(ValidationError, match="judges teachers by labels"):
        RunConfig.model_validate(without)
    held = Held(60)
    few = run_config({"alpha": 0.1, "weighting": {**POLICY, "episodes": 3}})
    with pytest.raises(ConfigError, match=r"got: +12 of them(.|\n)*60 or more for 3 teachers"):
        check_gold_labels(few, held)  # type: ignore[arg-type]
    held.train = rows(80, 1, unlabelled=0.15)
    often = 12 * 24 / len(held.train)  # how often the run reads each row
    enough = run_config({"alpha": 0.1, "weighting": {**POLICY, "episodes": int(often)}})
    check_gold_labels(enough, held)  # type: ignore[arg-type]
    more = run_config({"alpha": 0.1, "weighting": {**POLICY, "episodes": int(often) + 1}})
    with pytest.raises(ConfigError, match=rf"(.|\n)*set objective.weighting.episodes={int(often)}"):
        check_gold_labels(more, held)  # type: ignore[arg-type]
    held.train = rows(20, 1, unlabelled=1.1)
    with pytest.raises(ConfigError, match="policy, which reads gold labels"):
        check_gold_labels(more, held)  # type: ignore[arg-type]
