"""What a sweep begins with: points, the base, an earlier sweep; and that no setting is trained twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.errors import ConfigError
from raykd.spaces.points import read_point
from raykd.spaces.space import encode_sample
from raykd.tuning.config import Sweep, dump_sweep, load_sweep
from raykd.tuning.journal import Journal

SPACE = {
    "objective": {
        "alpha": {"uniform": [0.0, 0.9]},
        "temperature": {
            "choice": [1.0, 2.0, {"kind": "linear", "start": {"uniform": [2.0, 8.0]}, "end": 1.0}]
        },
        "terms": [
            {
                "lambda_schedule": {
                    "choice": [1.0, {"kind": "linear", "start": 1.0, "end": {"choice": [0.0, 0.3]}}]
                }
            }
        ],
    },
    "train": {"learning_rate": {"log_uniform": [0.001, 0.1]}},
    "student": {"hidden": {"randint": [8, 64]}},
    "select_teachers": {"choice": [None, ["zh", "multi"]]},
}
LINEAR = "objective.temperature[linear].start"


def read(folder: Path, name: str = "sweep", **keys: Any) -> Sweep:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "base": "demo", "space": SPACE, **keys}))
    return load_sweep(path)


def first(sweep: Sweep, count: int) -> list[dict[str, Any]]:
    sampler = sweep.build_sampler()
    return [sample for sample in map(sampler.ask, range(count)) if sample is not None]


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_points_come_first_and_what_they_leave_open_is_chosen(tmp_path: Path, kind: str) -> None:
    points = [
        {"train": {"learning_rate": 0.05}},
        {"objective.temperature": {"kind": "linear", "start": 4}, "objective.alpha": 0},
        {LINEAR: 3.5, "select_teachers": ["zh", "multi"]},
        {
            "objective": {
                "temperature": "linear",
                "terms": [{"lambda_schedule": {"kind": "linear", "end": 0.3}}],
            }
        },
        {"objective.terms.0.lambda_schedule": 1, "student.hidden": 64, "select_teachers": None},
    ]
    sweep = read(tmp_path, search={"kind": kind, "points_to_evaluate": points}, num_samples=8)
    samples = first(sweep, 9)
    assert len(samples) == 8 and all(sweep.space.build_run(sample) for sample in samples)
    assert samples[0]["train.learning_rate"] == 0.05 and samples[1][LINEAR] == 4.0
    assert (samples[1]["objective.temperature"], samples[1]["objective.alpha"]) == ("linear", 0.0)
    assert (samples[2][LINEAR], samples[2]["select_teachers"]) == (3.5, "zh, multi")
    assert samples[3]["objective.temperature"] == "linear" and 2 <= samples[3][LINEAR] <= 8
    assert samples[3]["objective.terms.0.lambda_schedule[linear].end"] == 0.3
    assert samples[4]["objective.terms.0.lambda_schedule"] == 1.0 and samples[4]["student.hidden"] == 64
    assert samples[4]["select_teachers"] is None


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_the_base_is_trial_0_and_is_the_base(tmp_path: Path, kind: str) -> None:
    sweep = read(tmp_path, search={"kind": kind, "base_first": True}, num_samples=4)
    samples = first(sweep, 4)
    assert sweep.space.build_run(samples[0]) == sweep.base
    assert samples[0]["objective.temperature"] == 2.0 and samples[0]["objective.alpha"] == 0.1
    assert len(set(map(encode_sample, samples))) == 4


def test_a_dumped_sweep_begins_as_it_did(tmp_path: Path) -> None:
    search = {"kind": "random", "base_first": True, "points_to_evaluate": [{"objective": {"alpha": 0.5}}]}
    sweep = read(tmp_path, search=search, num_samples=6)
    (tmp_path / "again.yaml").write_text(dump_sweep(sweep))
    again = load_sweep(tmp_path / "again.yaml")
    assert again.fingerprint() == sweep.fingerprint() and first(again, 6) == first(sweep, 6)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"points_to_evaluate": [{"train": {"learning_rate": 0.5}}]}, ["points_to_evaluate.0: train.learning_rate is outside", "0.001 to 0.1"]),
        ({"points_to_evaluate": [{}, {"student": {"hidden": 8.5}}]}, ["points_to_evaluate.1: student.hidden is outside", "8 to 64"]),
        ({"points_to_evaluate": [{"train": {"batch_size": 8}}]}, ["train.batch_size is not searched", "train.learning_rate"]),
        ({"points_to_evaluate": [{"nonsense": 8}]}, ["nonsense is not searched", "objective, select_teachers, student, train"]),
        ({"points_to_evaluate": [{"objective": {"temperature": 3.0}}]}, ["objective.temperature is outside", "1.0 | 2.0 | linear"]),
        ({"points_to_evaluate": [{"objective.temperature[cosine].start": 3.0}]}, ["is not searched", LINEAR]),
        ({"points_to_evaluate": [{"objective": {"alpha": 0.1}}, {"objective.alpha": 0.1}]}, ["points_to_evaluate.1 stands there twice"]),
        ({"points_to_evaluate": [{"objective": {"alpha": x / 10}} for x in range(9)]}, ["9 settings, num_samples 4", "9 at least"]),
        ({"points_to_evaluate": [{"objective.temperature": "linear", "objective.temperature.linear.start": 3}]},
         ["objective.temperature is given as a whole", "objective.temperature[OPTION].KEY"]),
        ({"points_to_evaluate": [{"objective.alpha": 0.1, "objective": {"alpha": 0.2}}]},
         ["objective.alpha is given twice", "0.2, 0.1"]),
        ({"points_to_evaluate": {"alpha": 1}}, ["points_to_evaluate", "a list"]),
    ],
)  # fmt: skip
def test_a_point_outside_the_space_is_refused_by_name(tmp_path: Path, search: Any, words: list[str]) -> None:
    for kind in ("random", "optuna"):
        with pytest.raises(ConfigError) as error:
            read(tmp_path, search={"kind": kind, **search}, num_samples=4)
        assert all(word in str(error.value) for word in words), str(error.value)


def test_reading_a_point_leaves_it_as_it_was_written(tmp_path: Path) -> None:
    point = {"objective.alpha": 0.3, "objective": {"temperature": 2.0}}
    space = read(tmp_path).space
    assert read_point(space, point, "a point") == {"objective.temperature": 2.0, "objective.alpha": 0.3}
    assert point == {"objective.alpha": 0.3, "objective": {"temperature": 2.0}}


def test_a_base_outside_the_space_is_refused_by_its_key(tmp_path: Path) -> None:
    for changes, words in (
        (
            {"train": {"learning_rate": 0.5}},
            ["train.learning_rate is outside", "the base's 0.5", "0.001 to 0.1"],
        ),
        ({"objective": {"temperature": 3.0}}, ["objective.temperature is outside", "widen the domain"]),
        (
            {"objective": {"temperature": {"kind": "linear", "start": 4.0, "end": 2.0}}},
            ["objective.temperature is outside"],
        ),
    ):
        with pytest.raises(ConfigError) as error:
            read(tmp_path, set=changes, search={"kind": "random", "base_first": True})
        assert all(word in str(error.value) for word in words), str(error.value)


def test_a_grid_tries_all_its_points_and_takes_no_others(tmp_path: Path) -> None:
    space = {"seed": {"grid": [0, 1]}}
    for search in ({"base_first": True}, {"points_to_evaluate": [{"seed": 1}]}, {"warm_start": "runs/a"}):
        with pytest.raises(ConfigError, match="does not go with a grid"):
            read(tmp_path, space=space, search={"kind": "grid", **search})


# an earlier sweep ----------------------------------------------------------------------------------------------------

RATES = {
    "train": {"learning_rate": {"log_uniform": [0.001, 0.1]}},
    "objective": {"alpha": {"uniform": [0.0, 0.9]}},
}


def earlier(folder: Path, scores: dict[str, tuple[float, float, float]], **keys: Any) -> Path:
    """A sweep's folder with a trial for each (rate, alpha, score)."""
    place = folder / "runs" / "first"
    place.mkdir(parents=True)
    sweep = read(folder, "first", space=RATES, **keys)
    (place / "space.yaml").write_text(dump_sweep(sweep))
    journal = Journal(place / "trials.jsonl")
    for index, (name, (rate, alpha, score)) in enumerate(scores.items()):
        journal.record_begin(name, index, {"train.learning_rate": rate, "objective.alpha": alpha}, name)
        result = {"evaluation": 1, "trained_steps": 5, "total_steps": 5, "score": score, "nll": 1.0,
                  "objective": score, "trained_s": 1.0}  # fmt: skip
        journal.record_result(name, result)
        journal.record_end(name, "diverged" if name == "broken" else "finished")
    return place


TRIALS = {"t0": (0.002, 0.1, 0.6), "t1": (0.02, 0.2, 0.8), "t2": (0.05, 0.8, 0.7), "broken": (0.03, 0.1, 0.9)}


def test_optuna_learns_from_an_earlier_sweep_and_trains_none_of_it(tmp_path: Path) -> None:
    earlier(tmp_path, TRIALS)
    space = {"train": RATES["train"], "objective": {"alpha": {"uniform": [0.0, 0.5]}}}
    sweep = read(tmp_path, space=space, search={"kind": "optuna", "warm_start": "runs/first"})
    assert [(o.sample["train.learning_rate"], o.score) for o in sweep.known.observed] == [
        (0.02, 0.8),
        (0.002, 0.6),
    ]
    assert sweep.known.first == ()
    assert (
        "that are known: 2, the best accuracy 0.8000" in sweep.notes[0]
        and "objective.alpha is outside" in sweep.notes[1]
        and "t2" in sweep.notes[1]
    )
    study = sweep.build_sampler()._study  # type: ignore[attr-defined]
    assert [t.value for t in study.trials] == [0.8, 0.6]
    assert [t.params["train.learning_rate"] for t in study.trials] == [0.02, 0.002]


def test_a_search_that_cannot_learn_tries_its_best_first(tmp_path: Path) -> None:
    earlier(tmp_path, TRIALS)
    for warm, rates in (
        ("runs/first", [0.02, 0.05, 0.002]),
        ({"sweep": "runs/first", "best_first": 1}, [0.02]),
    ):
        sweep = read(tmp_path, space=RATES, search={"kind": "random", "warm_start": warm})
        assert [s["train.learning_rate"] for s in first(sweep, len(rates))] == rates and sweep.trials == 20


def test_the_earlier_folder_may_be_gone_when_the_sweep_goes_on(tmp_path: Path) -> None:
    folder = earlier(tmp_path, TRIALS)
    sweep = read(tmp_path, space=RATES, search={"kind": "optuna", "warm_start": "runs/first"})
    (tmp_path / "again.yaml").write_text(dump_sweep(sweep))
    folder.rename(tmp_path / "elsewhere")
    again = load_sweep(tmp_path / "again.yaml")
    assert again.known == sweep.known and again.fingerprint() == sweep.fingerprint()
    assert str(tmp_path) not in dump_sweep(sweep).partition("search:")[2].partition("scheduler:")[0]


def test_runs_that_differ_only_guide_and_the_keys_are_named(tmp_path: Path) -> None:
    earlier(tmp_path, TRIALS, set={"train": {"epochs": 2}})
    sweep = read(tmp_path, space=RATES, search={"kind": "optuna", "warm_start": "runs/first"})
    assert any("train.epochs 2.0 and" in note for note in sweep.notes)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"search": {"warm_start": "runs/none"}}, ["runs/none holds no sweep", "no space.yaml"]),
        ({"metric": "nll"}, ["judged by another metric", "accuracy", "nll"]),
        ({"space": {"train": {"learning_rate": {"uniform": [0.5, 0.9]}}}}, ["nothing of", "train.learning_rate is outside"]),
    ],
)  # fmt: skip
def test_an_earlier_sweep_that_does_not_fit_is_refused(tmp_path: Path, keys: Any, words: list[str]) -> None:
    earlier(tmp_path, TRIALS)
    search = {"kind": "optuna", "warm_start": "runs/first", **keys.pop("search", {})}
    with pytest.raises(ConfigError) as error:
        read(tmp_path, **{"space": RATES, "search": search, **keys})
    assert all(word in str(error.value) for word in words), str(error.value)


# trials that are no runs, and trials that are equal ------------------------------------------------------------------

FEW = {"objective": {"alpha": {"choice": [0.1, 0.5]}, "temperature": {"choice": [1.0, 2.0, 4.0]}}}
PAIRS = {"train": {"batch_size": {"randint": [8, 60]}, "gradient_accumulation": {"choice": [1, 16]}}}


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_no_setting_is_tried_twice_while_there_is_another(tmp_path: Path, kind: str) -> None:
    sweep = read(tmp_path, space=FEW, search={"kind": kind, "seed": 3}, num_samples=6)
    sampler = sweep.build_sampler()
    seen = []
    for index in range(6):
        seen.append(encode_sample(sampler.ask(index) or {}))
        sampler.tell(index, 0.5)
    assert len(set(seen)) == 6 and sampler.ask(6) is None


def test_more_trials_than_settings_are_refused_and_fewer_are_the_default(tmp_path: Path) -> None:
    assert read(tmp_path, space=FEW).trials == 6 and read(tmp_path).trials == 20
    for kind in ("random", "optuna"):
        with pytest.raises(
            ConfigError, match=r"6 different runs[\s\S]*num_samples 7[\s\S]*search: {kind: grid}"
        ):
            read(tmp_path, space=FEW, search={"kind": kind}, num_samples=7)
    population = {"scheduler": {"kind": "pbt", "interval": 1}, "set": {"train": {"evaluations": 4}}}
    assert read(tmp_path, space=FEW, num_samples=8, **population).trials == 8, (
        "a population changes its members"
    )


def test_a_grid_with_few_draws_a_point_repeats_none(tmp_path: Path) -> None:
    space = {"seed": {"grid": [0, 1, 2]}, **FEW}
    sweep = read(tmp_path, space=space, search={"kind": "grid"}, num_samples=6)
    samples = first(sweep, 18)
    assert len(set(map(encode_sample, samples))) == 18 and [s["seed"] for s in samples] == [0, 1, 2] * 6
    with pytest.raises(ConfigError, match=r"18 different runs[\s\S]*num_samples: 6"):
        read(tmp_path, space=space, search={"kind": "grid"}, num_samples=7)


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_trials_that_can_be_no_runs_are_refused_with_their_values_and_why(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, space=PAIRS, search={"kind": kind, "seed": 13})
    text = str(error.value)
    assert "cannot be run" in text and "train.gradient_accumulation=16" in text
    assert "smaller than workers.num_workers x train.gradient_accumulation = 16" in text and "next:" in text


def test_a_reason_does_not_begin_in_the_middle_of_a_trials_values(tmp_path: Path) -> None:
    space = {"train": {"choice": [{"batch_size": 8, "gradient_accumulation": 16}, {"batch_size": 16}]}}
    with pytest.raises(ConfigError) as error:
        read(tmp_path, space=space, search={"kind": "random"}, num_samples=2)
    lines = str(error.value).splitlines()
    assert lines[1] == "  with train=batch_size: 8, gradient_accumulation: 16"
    assert lines[2].startswith("    train.batch_size 8 is smaller than")


def test_all_trials_are_looked_at_and_only_these(tmp_path: Path) -> None:
    """Seed 13's third trial is wrong; a sweep of two trials has none."""
    with pytest.raises(ConfigError, match=r"1 of 3 trials"):
        read(tmp_path, space=PAIRS, search={"kind": "random", "seed": 13}, num_samples=3)
    samples = first(read(tmp_path, space=PAIRS, search={"kind": "random", "seed": 13}, num_samples=1), 1)
    assert len(samples) == 1


def test_rates_at_which_training_diverges_are_doubted(tmp_path: Path) -> None:
    space = {"train": {"learning_rate": {"choice": [0.01, 1e30]}}}
    (note,) = read(tmp_path, space=space).notes
    assert "train.learning_rate is searched up to 1e+30" in note and "lower" in note
    assert read(tmp_path).notes == ()


def test_a_misspelt_option_is_refused_though_no_trial_has_it(tmp_path: Path) -> None:
    space = {"objective": {"temperature": {"choice": [1.0, 2.0, {"kind": "linaer"}]}}}
    with pytest.raises(ConfigError, match="linear"):
        read(tmp_path, space=space, num_samples=1)


def test_what_an_earlier_sweep_holds_is_json(tmp_path: Path) -> None:
    place = earlier(tmp_path, TRIALS)
    lines = (place / "trials.jsonl").read_text().splitlines()
    assert all(json.loads(line) for line in lines)
