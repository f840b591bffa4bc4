"""Search spaces: what a domain draws, what is active, what a grid is, and that a sample makes a run."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from raykd.config.loading import read_yaml_mapping
from raykd.errors import ConfigError
from raykd.presets import preset
from raykd.spaces.domains import ChoiceDomain, IntegerDomain, LogUniformDomain, UniformDomain, parse_domain
from raykd.spaces.space import Space

N = 4000
TREE: dict[str, Any] = {
    "objective": {
        "alpha": {"uniform": [0.0, 0.9]},
        "temperature": {
            "choice": [
                1.0,
                {"kind": "linear", "start": {"uniform": [2, 8]}, "end": 1.0},
                {"kind": "linear", "start": 3.0, "end": {"log_uniform": [0.1, 1.0]}},
                {"uniform": [1, 2]},
            ]
        },
        "terms": [{"lambda_schedule": {"choice": [1.0, {"kind": "cosine", "end": {"choice": [0.0, 0.3]}}]}}],
    },
    "train": {"batch_size": {"randint": [8, 11]}},
}


def space(tree: dict[str, Any] = TREE) -> Space:
    return Space(tree, read_yaml_mapping(preset("demo")), preset("demo").parent, "TREE")


def test_paths_are_those_of_the_tree_and_options_stand_in_brackets() -> None:
    assert [one.path for one in space().domains] == [
        "objective.alpha",
        "objective.temperature",
        "objective.temperature[linear].start",
        "objective.temperature[linear#2].end",
        "objective.temperature[uniform]",
        "objective.terms.0.lambda_schedule",
        "objective.terms.0.lambda_schedule[cosine].end",
        "train.batch_size",
    ]
    assert space().short_names()["objective.temperature[linear#2].end"] == "temperature[linear#2].end"
    assert (
        space().short_names()["objective.alpha"] == "alpha" and len(set(space().short_names().values())) == 7
    )
    assert space().short_names()["objective.temperature[uniform]"] == "temperature"


def test_a_sample_is_a_function_of_seed_and_index() -> None:
    first = [space().draw(3, index) for index in range(50)]
    assert [space().draw(3, index) for index in reversed(range(50))] == first[::-1]
    assert space().draw(4, 0) != first[0] and first[0] != first[1]


def test_an_active_domain_draws_the_same_whatever_else_is_in_the_choice() -> None:
    without = {**TREE["objective"], "temperature": {"choice": [1.0, 2.0]}}
    plain = Space({"objective": {"alpha": TREE["objective"]["alpha"]}})
    both = Space({"objective": {"alpha": without["alpha"], "temperature": without["temperature"]}})
    assert [plain.draw(0, i)["objective.alpha"] for i in range(9)] == [
        both.draw(0, i)["objective.alpha"] for i in range(9)
    ]


def test_exactly_the_active_domains_are_in_a_sample() -> None:
    seen = set()
    for index in range(200):
        sample = space().draw(0, index)
        option = sample["objective.temperature"]
        seen.add(option)
        inside = {path for path in sample if path.startswith("objective.temperature[")}
        wanted = {
            "linear": {"objective.temperature[linear].start"},
            "linear#2": {"objective.temperature[linear#2].end"},
            "uniform": {"objective.temperature[uniform]"},
            1.0: set(),
        }[option]
        assert inside == wanted
        assert ("objective.terms.0.lambda_schedule[cosine].end" in sample) == (
            sample["objective.terms.0.lambda_schedule"] == "cosine"
        )
    assert seen == {1.0, "linear", "linear#2", "uniform"}


def test_assembled_samples_are_overlays_and_runs() -> None:
    sample = {
        "objective.alpha": 0.25,
        "objective.temperature": "linear",
        "objective.temperature[linear].start": 5.0,
        "objective.terms.0.lambda_schedule": 1.0,
        "train.batch_size": 9,
    }
    assert space().build_overlay(sample) == {
        "objective": {
            "alpha": 0.25,
            "temperature": {"kind": "linear", "start": 5.0, "end": 1.0},
            "terms": [{"lambda_schedule": 1.0}],
        },
        "train": {"batch_size": 9},
    }
    config = space().build_run(sample)
    assert config.objective.temperature.value_at(0.5) == 3.0 and config.train.batch_size == 9
    assert config.train.learning_rate == 0.004, "the base's own"
    for change in ({"train.batch_size": None}, {"objective.temperature": 1.0}, {"other": 1}):
        wrong = {key: value for key, value in {**sample, **change}.items() if value is not None}
        with pytest.raises(ConfigError, match="a sample of another space"):
            space().build_overlay(wrong)
    with pytest.raises(ConfigError, match="no such option"):
        space().build_overlay({**sample, "objective.terms.0.lambda_schedule": 2.0})


def test_labels_that_python_calls_equal_stay_apart() -> None:
    tree = {"a": {"choice": [1, True, 1.0, None, "1"]}}
    values = [Space(tree).build_overlay(Space(tree).draw(0, i))["a"] for i in range(60)]
    assert {repr(value) for value in values} == {"1", "True", "1.0", "None", "'1'"}


@pytest.mark.parametrize(
    ("domain", "quantile"),
    [
        (UniformDomain(-1.0, 3.0), lambda u: -1 + 4 * u),
        (
            LogUniformDomain(1e-4, 1e-2),
            lambda u: math.exp(math.log(1e-4) + u * (math.log(1e-2) - math.log(1e-4))),
        ),
    ],
    ids=["uniform", "log_uniform"],
)
def test_continuous_domains_have_their_closed_form_quantiles(domain: UniformDomain, quantile: Any) -> None:
    kind = domain.kind
    drawn = [Space({"a": {kind: [domain.low, domain.high]}}).draw(1, i)["a"] for i in range(N)]
    assert domain.low <= min(drawn) and max(drawn) <= domain.high
    # The Kolmogorov-Smirnov distance between draws and closed form, at its 0.1 % point.
    ranks = np.array([(sum(d <= quantile(u) for d in drawn) / N) - u for u in np.linspace(0.01, 0.99, 99)])
    assert np.abs(ranks).max() < 1.95 / math.sqrt(N)
    assert [domain.value_at(u) for u in (0.0, 0.25, 0.9)] == pytest.approx(
        [quantile(u) for u in (0.0, 0.25, 0.9)]
    )


@pytest.mark.parametrize(
    ("node", "values"),
    [({"randint": [3, 6]}, [3, 4, 5, 6]), ({"choice": ["a", "b", None]}, ["a", "b", None])],
)
def test_discrete_domains_draw_every_value_equally_often(node: dict[str, Any], values: list[Any]) -> None:
    counts = Counter(Space({"a": node}).draw(1, i)["a"] for i in range(N))
    share = 1 / len(values)
    assert set(counts) == set(values), "both ends of randint are included"
    assert all(abs(n / N - share) < 4 * math.sqrt(share * (1 - share) / N) for n in counts.values())
    assert IntegerDomain(3, 6).value_at(0.0) == 3 and IntegerDomain(3, 6).value_at(1 - 1e-16) == 6
    assert ChoiceDomain(("a", "b"), ("a", "b")).value_at(0.5) == "b"


def test_grids_are_crossed_and_the_last_changes_fastest() -> None:
    nested = {"kind": "l", "s": {"grid": [2, 3]}}
    grid = Space({"a": {"grid": [1, nested]}, "b": {"grid": ["x", "y"]}, "c": {"uniform": [0, 1]}})
    assert grid.grid_size == 6
    assert [grid.grid_point(i) for i in range(6)] == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": "l", "a[l].s": 2, "b": "x"},
        {"a": "l", "a[l].s": 2, "b": "y"},
        {"a": "l", "a[l].s": 3, "b": "x"},
        {"a": "l", "a[l].s": 3, "b": "y"},
    ]
    samples = [grid.draw(0, i) for i in range(12)]
    assert [{k: v for k, v in s.items() if k != "c"} for s in samples] == [
        grid.grid_point(i % 6) for i in range(12)
    ]
    assert len({s["c"] for s in samples}) == 12, "what is no grid is drawn anew"
    with pytest.raises(IndexError):
        grid.grid_point(6)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"unifrom": [0, 1]}, r"write {uniform: \[0, 1\]}"),
        ({"loguniform": [1, 2]}, r"write {log_uniform: \[1, 2\]}"),
        ({"grid_search": [1, 2]}, r"write {grid: \[1, 2\]}"),
        ({"uniform": [0, 1], "q": 0.1}, "exactly one key"),
        ({"uniform": [1, 1]}, "low below high"),
        ({"uniform": [0, 1, 2]}, "two numbers"),
        ({"uniform": [False, True]}, "two numbers"),
        ({"uniform": [0, float("inf")]}, "two numbers"),
        ({"uniform": ["0", "1"]}, "two numbers"),
        ({"log_uniform": [0, 1]}, "both above 0"),
        ({"randint": [1, 2.5]}, "whole numbers"),
        ({"choice": []}, "not empty"),
        ({"choice": "ab"}, "a list"),
        ({"choice": [1, {"a": 2}, {"a": 2}]}, "stands twice"),
        ({"choice": [1, {"a": {"grid": [1, 2]}}]}, "cannot stand inside a choice"),
    ],
)
def test_wrong_domains_are_one_clear_error(node: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        Space({"objective": {"alpha": node}})
    assert "space.objective.alpha" in str(error.value)


def test_a_mapping_of_one_key_that_is_no_domain_stays_a_mapping() -> None:
    assert (
        parse_domain({"chain": ["monolingual"]}, "x") is None and parse_domain({"paths": ["a"]}, "x") is None
    )


def test_errors_of_a_trial_name_its_sample() -> None:
    wrong = space({"objective": {"alpha": {"uniform": [1.5, 2.0]}}})
    with pytest.raises(ConfigError, match=r"the trial with objective\.alpha=1\.[5-9]"):
        wrong.build_run(wrong.draw(0, 0))


@pytest.mark.parametrize(("alpha", "refused"), [({"uniform": [0.0, 0.9]}, True), (0.1, False)])
def test_alpha_is_the_size_so_lambda_beside_it_has_peak_one(alpha: Any, refused: bool) -> None:
    tree = {"objective": {"alpha": alpha, "terms": [{"lambda_schedule": {"uniform": [2.0, 3.0]}}]}}
    both = space(tree)
    if not refused:
        assert both.build_run(both.draw(0, 0)).objective.terms[0].lambda_schedule.bounds()[1] > 2
        return
    with pytest.raises(ConfigError, match="peak 1"):
        both.build_run(both.draw(0, 0))
    two = [{"lambda_schedule": {"uniform": [2.0, 3.0]}}, {"divergence": {"kind": "logit_mse"}}]
    weights = space({"objective": {"alpha": alpha, "terms": two}})
    assert len(weights.build_run(weights.draw(0, 0)).objective.terms) == 2, (
        "weights between terms may be searched"
    )


def test_a_check_looks_at_every_option() -> None:
    covered = space().draw_covering(0)
    for one in space().domains:
        if isinstance(one.domain, ChoiceDomain):
            assert {s[one.path] for s in covered if one.path in s} == set(one.domain.labels)
