"""Samplers: what they find, that nothing comes back unsampled, and that a cut-off sweep goes on as if unbroken."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

import pytest

from raykd.errors import ConfigError
from raykd.spaces.search import GridSearch, OptunaSearch, RandomSearch, Sampler, TuneSearch
from raykd.spaces.space import Sample, Space

TOY = Space(
    {
        "x": {"uniform": [0.0, 1.0]},
        "shape": {"choice": ["flat", {"kind": "steep", "rate": {"log_uniform": [0.01, 1.0]}}, True, 1]},
        "n": {"randint": [1, 4]},
    }
)
TRIALS = 60


def score(sample: Sample) -> float:
    """0 at x = 0.3, shape steep with rate 0.1, n = 3; lower anywhere else."""
    steep = sample["shape"] == "steep"
    inner = abs(float(sample["shape[steep].rate"]) - 0.1) if steep else 1.0  # type: ignore[arg-type]
    return -((float(sample["x"]) - 0.3) ** 2) - inner - 0.1 * abs(int(sample["n"]) - 3)  # type: ignore[arg-type]


def played(sampler: Sampler, indices: range, sign: float = 1.0) -> list[Sample]:
    samples = []
    for index in indices:
        sample = sampler.ask(index)
        assert sample is not None
        sampler.report(index, 1, sign * score(sample))
        sampler.tell(index, sign * score(sample))
        samples.append(sample)
    return samples


@pytest.mark.parametrize(("mode", "sign"), [("max", 1.0), ("min", -1.0)])
def test_optuna_beats_chance_on_a_conditional_space(mode: Any, sign: float) -> None:
    late = {"optuna": [], "random": []}  # type: dict[str, list[float]]
    for seed in range(4):
        for search in (OptunaSearch(seed=seed), RandomSearch(seed=seed)):
            samples = played(search.build_sampler(TOY, mode, TRIALS), range(TRIALS), sign)
            late[search.kind].append(mean(map(score, samples[-20:])))
    # Chance is near -1.0 (a choice of four with one good option); TPE's last third has found that option.
    assert mean(late["optuna"]) > -0.5 > mean(late["random"])


def test_optuna_suggests_exactly_the_active_domains() -> None:
    kinds = set()
    for sample in played(OptunaSearch(seed=1).build_sampler(TOY, "max", TRIALS), range(TRIALS)):
        kinds.add(repr(sample["shape"]))
        assert list(sample) == [one.path for one in TOY.domains if one.is_active(sample)]
        assert all(isinstance(value, (int, float, str, bool)) for value in sample.values())
        assert 0.0 <= float(sample["x"]) <= 1.0 and sample["n"] in (1, 2, 3, 4)  # type: ignore[arg-type]
        if sample["shape"] == "steep":
            assert 0.01 <= float(sample["shape[steep].rate"]) <= 1.0  # type: ignore[arg-type]
    assert kinds == {"'flat'", "'steep'", "True", "1"}


@pytest.mark.parametrize(
    ("search", "space"),
    [
        (RandomSearch(seed=5), TOY),
        (GridSearch(seed=5), Space({"a": {"grid": [1, 2, 3]}, "x": {"uniform": [0, 1]}})),
        (OptunaSearch(seed=5), TOY),
    ],
    ids=["random", "grid", "optuna"],
)
def test_a_restored_sampler_goes_on_as_if_unbroken(search: Any, space: Space) -> None:
    def value(sample: Sample) -> float:
        return float(sample["x"])  # type: ignore[arg-type]

    whole, first, second = (search.build_sampler(space, "max", 30) for _ in range(3))
    known: list[tuple[Sample, float | None]] = []
    for index in range(17):
        sample = first.ask(index)
        assert sample == whole.ask(index)
        result = None if index == 4 else value(sample)
        for one in (first, whole):
            one.tell(index, result)
        known.append((sample, result))
    for index, (sample, result) in enumerate(known):
        second.restore(index, sample, result, True)
    for index in range(17, 30):
        after, unbroken = second.ask(index), whole.ask(index)
        assert after == unbroken
        second.tell(index, value(after))
        whole.tell(index, value(unbroken))
    assert second.ask(90) is None


def test_an_unfinished_trial_keeps_its_sample_and_is_told_later() -> None:
    sampler = OptunaSearch(seed=0).build_sampler(TOY, "max", 10)
    sample = TOY.draw(3, 0)
    sampler.restore(0, sample, None, False)
    following = sampler.ask(1)
    sampler.tell(0, 1.0)
    sampler.tell(1, float("nan"))
    assert following != sample
    study = sampler._study  # type: ignore[attr-defined]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]
    assert study.trials[0].params["x"] == sample["x"] and study.best_value == 1.0


class Recorder:
    """A searcher of Tune that draws nothing: it answers with its first points."""

    def __init__(self, metric: str, mode: str, points_to_evaluate: Sequence[dict[str, Any]] = ()) -> None:
        self.points, self.heard = list(points_to_evaluate), list[tuple[str, str]]()

    def set_max_concurrency(self, limit: int) -> None:
        pass

    def set_search_properties(self, metric: str, mode: str, domains: dict[str, Any]) -> None:
        pass

    def suggest(self, name: str) -> dict[str, Any]:
        self.heard.append(("suggest", name))
        return self.points.pop(0)

    def on_trial_result(self, name: str, result: dict[str, Any]) -> None:
        self.heard.append(("result", name))

    def on_trial_complete(self, name: str, result: dict[str, Any] | None, error: bool = False) -> None:
        self.heard.append(("failed" if error else "complete", name))


def test_a_searcher_of_tune_hears_of_trials_that_go_on_before_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.tune.search import SEARCH_ALG_IMPORT

    monkeypatch.setitem(SEARCH_ALG_IMPORT, "hyperopt", lambda: Recorder)
    sampler = TuneSearch(name="hyperopt").build_sampler(TOY, "max", 3)
    for index in (0, 1):
        sampler.restore(index, TOY.draw(0, index), None, False)
    sampler.report(0, 1, 0.5)
    sampler.tell(0, 0.5)
    sampler.tell(1, None)
    heard = sampler._searcher.heard  # type: ignore[attr-defined]
    assert heard == [("suggest", "0"), ("suggest", "1"), ("result", "0"), ("complete", "0"), ("failed", "1")]


def test_an_unknown_searcher_of_tune_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"bohb.*hyperopt"):
        TuneSearch(name="magic").build_sampler(TOY, "max", 4)


def test_a_searcher_of_tune_over_the_flat_space() -> None:
    pytest.importorskip("hyperopt")
    search = TuneSearch(name="hyperopt", options={"random_state_seed": 0})
    samples = played(search.build_sampler(TOY, "max", 12), range(12))
    again = search.build_sampler(TOY, "max", 20)
    for index, sample in enumerate(samples):
        again.restore(index, sample, score(sample), True)
    for sample in [*samples, *played(again, range(12, 20))]:
        assert list(sample) == [one.path for one in TOY.domains if one.is_active(sample)]
