"""Weightings that learn from held-out rows, against numbers, identities and unbroken runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raykd.config import RunConfig
from raykd.distill.signals import UNLABELLED, Signals
from raykd.distill.weighting import Anchored, Uniform
from raykd.distill.weightings.bandit import Bandit, scale_reward
from raykd.distill.weightings.base import LearnedWeighting
from raykd.distill.weightings.gate import Gate
from raykd.distill.weightings.reliability import HeldOutReliability
from raykd.driver.gold_labels import check_gold_labels
from raykd.errors import ConfigError
from raykd.point import Point
from raykd.scoring.teacher_results import average_weights
from raykd.student.matching.held_out import learn_from_held_out
from tests.worlds import build_loop, run_config, source
from tests.worlds import rows as world_rows


def signals_of(answers: list[list[int]], labels: list[int], languages: str = "", classes: int = 3) -> Signals:
    """Teachers that give these labels with probability 0.9; -1 where one does not answer."""
    told_MN = torch.tensor(answers)
    sure = torch.nn.functional.one_hot(told_MN.clamp_min(0), classes).float()
    return Signals(
        teachers=tuple("abcd"[: len(answers)]),
        teacher_languages=(None,) * len(answers),
        logits_MNC=torch.log(0.9 * sure + 0.1 / (classes - 1) * (1.0 - sure)),
        covered_MN=told_MN >= 0,
        labels_N=torch.tensor(labels),
        languages=tuple(languages or "e" * len(labels)),
    )


# reliability --------------------------------------------------------------------------------------------------


def test_reliability_by_class_by_hand() -> None:
    # In e, teacher a says 0 three times (right twice), 1 once (right), 2 never; one row has no gold label.
    held_out = signals_of([[0, 0, 0, 1, 2], [0, 1, 1, 1, -1]], [0, 0, 1, 1, UNLABELLED])
    weighting = HeldOutReliability(smoothing=2.0, tau=0.5)
    states = weighting.fit(held_out)
    assert states["e/a"] == states["/a"] == (2.0, 1.0, 0.0, 3.0, 1.0, 0.0)
    assert states["e/b"] == states["/b"] == (1.0, 2.0, 0.0, 1.0, 3.0, 0.0)
    learned = weighting.with_states(states)
    everywhere = (3 + 1) / (4 + 2)
    accuracy = (3 + 2 * everywhere) / (4 + 2)
    rates = [(2 + 2 * accuracy) / 5, (1 + 2 * accuracy) / 3, accuracy]
    assert learned.rates("e", "a", 3) == pytest.approx(rates)
    # Where b is alone it has the whole unit; elsewhere r ** 2 of the label that each gives.
    weights_MN = learned.weights(signals_of([[0, 1, -1], [1, 1, 2]], [UNLABELLED] * 3))
    b = learned.rates("e", "b", 3)
    wanted = [rates[0] ** 2 / (rates[0] ** 2 + b[1] ** 2), rates[1] ** 2 / (rates[1] ** 2 + b[1] ** 2), 0.0]
    assert weights_MN[0].tolist() == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(weights_MN.sum(0), torch.ones(3))


def test_reliability_of_a_language_alone_does_not_ask_what_a_teacher_says() -> None:
    held_out = signals_of([[0, 1, 2, 0], [0, 0, 0, 1]], [0, 1, 2, 1], "eeef")
    weighting = HeldOutReliability(by="language", smoothing=1e-9, tau=1.0)
    learned = weighting.with_states(weighting.fit(held_out))
    found = learned.weights(signals_of([[0, 1, 2], [2, 0, 1]], [UNLABELLED] * 3, "eef"))
    # In e teacher a is right in 3 of 3, b in 1 of 3; in f only b is right.
    assert found[0].tolist() == pytest.approx([0.75, 0.75, 0.0], abs=1e-6)
    # Of a language without held-out rows all languages count: 3 of 4 and 2 of 4.
    assert learned.weights(signals_of([[0], [1]], [0], "g"))[:, 0].tolist() == pytest.approx([0.6, 0.4])


def test_teachers_that_are_alike_weigh_alike() -> None:
    told = [0, 1, 2, 0, 1, 2]
    held_out = signals_of([told] * 3, [0, 1, 1, 0, 2, 2])
    learned = HeldOutReliability().with_states(HeldOutReliability().fit(held_out))
    torch.testing.assert_close(learned.weights(held_out), Uniform().weights(held_out))


def test_what_was_not_learned_is_uniform_and_an_anchor_passes_it_on() -> None:
    held_out = signals_of([[0] * 6, [1] * 6, [2] * 6], [0, 0, 0, 0, 1, 1])
    anchored = Anchored(teacher="c", share=0.25, among=HeldOutReliability())
    torch.testing.assert_close(HeldOutReliability().weights(held_out), Uniform().weights(held_out))
    states = anchored.fit(held_out)
    assert set(states) == {"e/a", "e/b", "/a", "/b"}
    weights_MN = anchored.with_states(states).weights(held_out)
    assert weights_MN[2].tolist() == [0.25] * 6
    alone = HeldOutReliability().with_states(states).weights(held_out.of_teachers([0, 1]))
    torch.testing.assert_close(weights_MN[:2], 0.75 * alone)


# gate ---------------------------------------------------------------------------------------------------------


def random_signals(units: int, seed: int = 0) -> Signals:
    """Teachers a, b and c of three labels: a is right in e and b in f, c is right where it is sure."""
    make = np.random.default_rng(seed)
    labels_N, languages = make.integers(0, 3, units), make.choice(["e", "f"], units)
    logits_MNC = make.normal(size=(3, units, 3))
    at = np.arange(units)
    logits_MNC[0, at, labels_N] += np.where(languages == "e", 3.0, 0.0)
    logits_MNC[1, at, labels_N] += np.where(languages == "f", 3.0, 0.0)
    sure_N = make.random(units) < 0.5
    logits_MNC[2, at, labels_N] += np.where(sure_N, 8.0, 0.0)
    signals = signals_of([[0] * units] * 3, labels_N.tolist(), "".join(languages))
    return replace(signals, logits_MNC=torch.from_numpy(logits_MNC).float())


def measure_nll(weights_MN: torch.Tensor, signals: Signals) -> float:
    p_MN = torch.exp(-signals.gold_ce().double())
    return float(-(weights_MN.double() * p_MN).sum(dim=0).log().mean())


def test_a_gate_of_biases_alone_is_where_expectation_maximisation_ends() -> None:
    signals = random_signals(400)
    gate = Gate(features=(), penalty=1e-9)
    weights_MN = gate.with_states(gate.fit(signals)).weights(signals).double()
    assert float(weights_MN.std(dim=1).max()) == 0.0
    p_MN = torch.exp(-signals.gold_ce().double())
    shares_MN = weights_MN * p_MN / (weights_MN * p_MN).sum(dim=0)
    torch.testing.assert_close(shares_MN.mean(dim=1), weights_MN[:, 0], atol=2e-4, rtol=0.0)


def test_a_gate_learns_who_knows_what_and_carries_over() -> None:
    gate, signals, other = Gate(), random_signals(400), random_signals(400, seed=1)
    learned = gate.with_states(gate.fit(signals))
    weights_MN, uniform_MN = learned.weights(signals), Uniform().weights(signals)
    in_e = torch.tensor([code == "e" for code in signals.languages])
    assert float(weights_MN[0, in_e].mean()) > 2 * float(weights_MN[1, in_e].mean())
    assert float(weights_MN[1, ~in_e].mean()) > 2 * float(weights_MN[0, ~in_e].mean())
    assert learned.states["entropy"][0] - learned.states["confidence"][0] < -0.5
    assert measure_nll(weights_MN, signals) < measure_nll(uniform_MN, signals) - 0.1
    assert measure_nll(learned.weights(other), other) < measure_nll(Uniform().weights(other), other) - 0.1


def test_a_gate_is_the_least_of_what_it_minimises() -> None:
    gate, signals = Gate(penalty=3.0), random_signals(60)
    states = gate.fit(signals)
    assert gate.fit(signals) == states

    def measure(found: dict[str, tuple[float, ...]]) -> float:
        squares = sum(value**2 for (value,) in found.values())
        return measure_nll(gate.with_states(found).weights(signals), signals) + 3.0 / 120 * squares

    least = measure(dict(states))
    for name in ("teacher//a", "language/e/b", "entropy", "agreement"):
        for step in (-0.2, 0.2):
            assert measure({**states, name: (states[name][0] + step,)}) > least


def test_a_gate_reads_groups_and_spares_what_is_not_covered() -> None:
    signals = random_signals(100)
    gate = Gate(features=("group",))
    assert gate.reads_groups
    assert not Gate().reads_groups
    groups = tuple("x" if code == "e" else "y" for code in signals.languages)
    signals.covered_MN[2, :50] = False
    as_group = gate.fit(replace(signals, groups=groups, languages=("e",) * 100))
    as_language = Gate(features=("language",)).fit(signals)
    assert as_group["group/x/a"][0] == pytest.approx(as_language["language/e/a"][0], abs=1e-6)
    weights_MN = Gate(features=("language",)).with_states(as_language).weights(signals)
    assert weights_MN[2, :50].tolist() == [0.0] * 50
    torch.testing.assert_close(weights_MN.sum(0), torch.ones(100))


# bandit -------------------------------------------------------------------------------------------------------


def test_rewards_lie_between_percentiles() -> None:
    assert scale_reward(np.asarray([0.3])) == 0.0
    falls_T = np.asarray([0.0, 0.1, 0.2, 0.3, 0.4, 0.26])  # percentiles 0.1 and 0.3
    assert scale_reward(falls_T) == pytest.approx(2 * (0.26 - 0.1) / 0.2 - 1)
    assert scale_reward(np.asarray([0.0, 0.1, 0.2, 0.3, 5.0])) == 1.0


def test_two_rounds_by_hand() -> None:
    bandit, arms = Bandit(rate=0.5, explore=0.4), {"e": ["a", "b"]}

    def play(*losses: float) -> tuple[int, float]:
        states = bandit.follow([{"e": loss} for loss in losses], arms, seed=3)
        drawn = [name for name in "ab" if states[f"e/{name}"][0] == 1.0]
        assert len(drawn) == 1
        assert states["e/a"][1] + states["e/b"][1] == pytest.approx(1.0)
        return "ab".index(drawn[0]), states["e/a"][1]

    assert bandit.follow([], arms, seed=3) == {}
    _, pi = play(2.0)
    assert pi == 0.5
    second, pi = play(2.0, 1.0)  # a single round has no percentiles yet
    assert pi == pytest.approx(0.5)
    # Falls of 1/2 and then 1/5: the second reward is -1.
    _, pi = play(2.0, 1.0, 0.8)
    v = math.exp(0.5 * -1.0 / 0.5)
    v_M = [v if m == second else 1.0 for m in range(2)]
    v_M = [(2 / 3) * own + (1 / 3) * sum(v_M) / 2 for own in v_M]
    assert pi == pytest.approx(0.6 * v_M[0] / sum(v_M) + 0.2)


def test_a_bandit_finds_the_teacher_that_helps() -> None:
    bandit, arms = Bandit(), {"e": ["a", "b", "c"], "f": ["a", "b", "c"]}
    share = []
    for seed in range(5):
        losses = [{"e": 1.0, "f": 1.0}]
        for _ in range(60):
            states = bandit.follow(losses, arms, seed)
            falls = {
                code: 0.02 if states[f"{code}/{best}"][0] else 0.0 for code, best in (("e", "b"), ("f", "c"))
            }
            losses.append({code: losses[-1][code] * (1.0 - falls[code]) for code in "ef"})
        states = bandit.follow(losses, arms, seed)
        share += [states["e/b"][1], states["f/c"][1]]
    assert float(np.mean(share)) > 0.6  # 1/3 if it learned nothing


def test_units_have_the_drawn_teacher_where_it_covers_them() -> None:
    signals = signals_of([[0, 0, 0], [0, 0, -1], [0, 0, 0]], [0, 0, 0], "efe")
    learned = Bandit().with_states({"e/b": (1.0, 0.5), "e/a": (0.0, 0.5)})
    assert learned.weights(signals).T.tolist() == [
        [0.0, 1.0, 0.0],
        pytest.approx([1 / 3] * 3),
        [0.5, 0.0, 0.5],
    ]


def test_a_bandit_that_was_cut_goes_on_and_too_few_rounds_are_refused(tmp_path: Path) -> None:
    points, whole = train({"kind": "bandit"})
    _, second = train({"kind": "bandit"}, tmp_path)
    assert second.state.history == whole.state.history
    weights = [p["teacher/multi/weight"] for p in points if "teacher/multi/weight" in p]
    assert set(weights[:4]) == {0.5}  # the first of three evaluations is after 4 of 12 steps
    assert set(weights[4:]) != {0.5}
    assert "teacher/multi/weight/zh" in points[5]
    config = run_config({"alpha": 0.1, "weighting": {"kind": "bandit"}}, evaluations=6)
    with pytest.raises(ConfigError, match=r"evaluations 6(.|\n)*7 or more for 3 teachers"):
        check_gold_labels(config, Held(60))  # type: ignore[arg-type]


# in a run -----------------------------------------------------------------------------------------------------

RELIABILITY = {"kind": "reliability", "tau": 0.1, "smoothing": 1.0}
GATE = {"kind": "gate", "penalty": 0.01}


def train(weighting: dict[str, Any], directory: Path | None = None) -> tuple[list[dict[str, float]], Any]:
    points: list[dict[str, float]] = []
    config = run_config({"alpha": 0.1, "weighting": weighting})
    loop = build_loop(config, publish=lambda point: points.append(dict(point.values)))
    if directory is not None:
        first = build_loop(config)
        first.advance()
        first.save(directory)
        loop.load(directory)
    loop.run()
    return points, loop


@pytest.mark.parametrize("weighting", [RELIABILITY, GATE])
def test_a_run_that_was_cut_goes_on_with_what_it_learned(weighting: dict[str, Any], tmp_path: Path) -> None:
    points, whole = train(weighting)
    _, second = train(weighting, tmp_path)
    assert second.state.history == whole.state.history
    # It learned from the checkpoint, and did not ask about the validation rows again.
    asked = sum(len(batch) for batch in second.trainer.source.submitted)
    assert sum(len(batch) for batch in whole.trainer.source.submitted) - asked >= 60
    weights = [p["teacher/multi/weight"] for p in points if "teacher/multi/weight" in p]
    assert max(abs(w - 0.5) for w in weights) > 1e-3  # uniform would be 0.5: each language has two teachers
    told = points[0]
    assert told["teacher/en/weight/en"] + told["teacher/multi/weight/en"] == pytest.approx(1.0)
    assert told["teacher/en/weight/zh"] == 0.0
    assert "teacher/en/weight/en" not in points[1]


def test_what_is_learned_is_told_by_language_and_label() -> None:
    config = run_config({"alpha": 0.1, "weighting": GATE, "temperature": {"kind": "target_entropy"}})
    told = learn_from_held_out({}, config, world_rows(60, 2, unlabelled=0.0), source(config))
    parts = ["en", "zh", *(f"label/{label}" for label in config.data.labels)]
    for part in parts:
        assert sum(told[f"teacher/{name}/weight/{part}"] for name in ("en", "zh", "multi")) == pytest.approx(
            1.0
        )
        assert 1.0 <= told[f"temperature/{part}"] <= 10.0
    assert {name for name in told if name.startswith("weighting/")} == {
        f"weighting/{feature}" for feature in ("entropy", "confidence", "agreement")
    }
    assert len(told) == 4 * len(parts) + 3


class Held:
    """Rows of a run, as far as gold labels go."""

    def __init__(self, labelled: int, judged: tuple[str, ...] = (), language: str | None = None) -> None:
        self.train, self.judged = world_rows(20, 1), judged
        validation = world_rows(labelled + 10, 2, unlabelled=0.0, uncovered=False)
        labels_B = np.where(np.arange(labelled + 10) < labelled, validation.labels_B, UNLABELLED)
        languages = validation.languages if language is None else (language,) * len(validation)
        self.validation = replace(validation, labels_B=labels_B, languages=languages)


@pytest.mark.parametrize("weighting", [RELIABILITY, GATE])
def test_too_few_gold_labels_are_refused(weighting: dict[str, Any]) -> None:
    config = run_config({"alpha": 0.1, "weighting": weighting})
    learner: LearnedWeighting = config.objective.weighting  # type: ignore[assignment]
    needed = learner.count_needed(3)
    check_gold_labels(config, Held(needed))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"got: +{needed - 1} labelled rows"):
        check_gold_labels(config, Held(needed - 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"got: +0 labelled rows"):
        check_gold_labels(config, Held(needed, judged=("validation",)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"got: +0 labelled rows of data.validation in a language of some"):
        check_gold_labels(config, Held(needed, language="fr"))  # type: ignore[arg-type]


@pytest.mark.parametrize("weighting", [RELIABILITY, GATE])
def test_a_task_without_labels_refuses_it(weighting: dict[str, Any]) -> None:
    tree = run_config({"alpha": 0.1, "weighting": weighting}).model_dump(mode="json")
    tree["task"], tree["data"]["labels"] = {"kind": "ranking"}, []
    tree["data"]["columns"] = {}
    with pytest.raises(ValidationError, match="judges teachers by labels"):
        RunConfig.model_validate(tree)


def test_the_report_says_the_weights_that_were_learned_and_not_those_of_nothing_learned() -> None:
    """Scored together, teachers are uniform where a weighting learns; that is not how they taught."""
    teachers = [{"name": name, "languages": "all", "path": name} for name in ("a", "b")]
    tree = run_config().model_dump(mode="json") | {"teachers": teachers}
    curve = [
        Point(1, {"teacher/a/weight/en": 0.5, "teacher/b/weight/en": 0.5}),
        Point(2, {"teacher/a/weight/en": 0.9, "teacher/b/weight/en": 0.1, "teacher/a/weight": 0.7}),
    ]
    signals = signals_of([[0, 1], [1, 1]], [0, 1])
    for kind in ("gate", "bandit", "policy", "reliability"):
        config = RunConfig.model_validate({**tree, "objective": {"weighting": {"kind": kind}}})
        assert average_weights(config, signals, ["a", "b"], curve) == [{"en": 0.9}, {"en": 0.1}]
        assert average_weights(config, signals, ["a", "b"], ()) == [{}, {}]
    agreement = RunConfig.model_validate({**tree, "objective": {"weighting": {"kind": "gradient_agreement"}}})
    only = [Point(2, {"teacher/a/weight": 0.7, "teacher/b/weight": 0.3})]
    assert average_weights(agreement, signals, ["a", "b"], only) == [{}, {}], (
        "the student decided step by step"
    )
