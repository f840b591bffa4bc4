"""Sweep files: every shipped one makes runs, and what cannot work is refused when it is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.errors import ConfigError
from raykd.tuning.config import dump_sweep, load_sweep

FOLDER = Path(__file__).parents[2] / "tune_spaces"
SPACES = sorted(FOLDER.glob("*.yaml"))
ALPHA = {"objective": {"alpha": {"uniform": [0.0, 0.9]}}}


def write(folder: Path, **keys: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"base": "demo", "space": ALPHA, **keys}))
    return path


@pytest.mark.parametrize("path", SPACES, ids=[p.stem for p in SPACES])
def test_fifty_samples_of_every_shipped_space_are_runs(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.config.name == path.stem
    runs = {sweep.space.build_run(sweep.space.draw(7, index)).fingerprint() for index in range(50)}
    assert len(runs) == 50
    assert sweep.base.train.metric == sweep.metric and sweep.trials >= 2


def test_the_folder_holds_what_is_promised() -> None:
    names = {"smoke", "alpha_temperature", "lambda_schedules", "teacher_weighting", "pbt", "full"}
    assert {p.stem for p in SPACES} >= names


def test_base_set_metric_and_space_lie_over_one_another(tmp_path: Path) -> None:
    path = write(tmp_path, set={"train": {"epochs": 4}}, metric="nll", num_samples=5)
    sweep = load_sweep(path, ["set.train.batch_size=16", "num_samples=8"])
    assert (sweep.metric, sweep.mode, sweep.trials) == ("nll", "min", 8)
    run = sweep.space.build_run({"objective.alpha": 0.25})
    assert (run.train.epochs, run.train.batch_size, run.train.metric) == (4, 16, "nll")
    assert run.objective.alpha.value_at(0.0) == 0.25 and run.student == sweep.base.student
    assert run.train.learning_rate == 0.004, "the preset's own"


def test_an_override_below_space_takes_a_domains_place(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path), ["space.objective.alpha={choice: [0.1, 0.2]}"])
    assert str(sweep.space.domains[0].domain) == "0.1 | 0.2"


def test_an_override_below_base_is_laid_over_a_base_that_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, set={"train": {"epochs": 4}})
    for override in ("base.train.batch_size=16", ("base.train.batch_size", 16)):
        train = load_sweep(path, [override]).base.train
        assert (train.epochs, train.batch_size) == (4, 16)
    inline = write(tmp_path, base=load_sweep(path).base.model_dump(mode="json"))
    assert load_sweep(inline, ["base.train.batch_size=16"]).base.train.batch_size == 16


def test_base_may_be_a_file_beside_it_and_its_paths_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    run = {
        "data": {
            "train": {"kind": "files", "paths": ["a.jsonl"]}, "validation": {"kind": "files", "paths": ["b.jsonl"]},
            "labels": ["n", "p"], "languages": ["en"],
        },
        "student": {"kind": "linear"}, "teachers": [{"name": "t", "languages": "all", "path": "./t"}],
    }  # fmt: skip
    (tmp_path / "runs" / "run.yaml").write_text(yaml.safe_dump(run))
    sweep = load_sweep(write(tmp_path, base="runs/run.yaml"))
    assert sweep.base.data.train.paths == (str(tmp_path / "runs" / "a.jsonl"),)  # type: ignore[union-attr]
    assert sweep.base.teachers[0].path == str(tmp_path / "runs" / "t")


def test_relative_paths_of_a_space_survive_the_dump_into_another_folder(tmp_path: Path) -> None:
    for folder in ("runs", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "runs" / "run.yaml").write_text(
        yaml.safe_dump(load_sweep(write(tmp_path)).base.model_dump(mode="json"))
    )
    (tmp_path / "runs" / "ds.json").write_text('{"gradient_clipping": 0.5}')
    space = {"train": {"deepspeed": {"choice": ["ds.json", {}]}}}
    sweep = load_sweep(
        write(tmp_path, base="runs/run.yaml", space=space, set={"train": {"gradient_clipping": 0.5}})
    )
    (tmp_path / "out" / "space.yaml").write_text(dump_sweep(sweep))
    again = load_sweep(tmp_path / "out" / "space.yaml")
    found = again.space.build_run({"train.deepspeed": "ds.json"})
    assert found.train.deepspeed == {"gradient_clipping": 0.5}
    assert found == sweep.space.build_run({"train.deepspeed": "ds.json"})
    assert again.fingerprint() == sweep.fingerprint()


def test_a_dumped_sweep_stands_alone_and_is_the_same(tmp_path: Path) -> None:
    sweep = load_sweep(FOLDER / "lambda_schedules.yaml")
    (tmp_path / "again.yaml").write_text(dump_sweep(sweep))
    again = load_sweep(tmp_path / "again.yaml")
    assert again.base == sweep.base and again.trials == sweep.trials
    for index in range(10):
        sample = sweep.space.draw(0, index)
        assert again.space.draw(0, index) == sample
        assert again.space.build_run(sample) == sweep.space.build_run(sample)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"space": {}}, "no domain"),
        ({"space": {"objective": {"alpha": 0.1}}}, "no domain"),
        ({"space": {"objective": {"alhpa": {"uniform": [0, 1]}}}}, "did you mean 'alpha'"),
        ({"space": {"objective": {"alpha": {"choice": [0.1, {"kind": "linaer"}]}}}}, "linear"),
        ({"space": {**ALPHA, "name": {"choice": ["a", "b"]}}}, "name cannot be searched"),
        ({"space": {**ALPHA, "teachers": {"choice": [[], None]}}}, "search select_teachers"),
        ({"space": {**ALPHA, "workers": {"num_workers": {"randint": [1, 2]}}}}, "workers cannot be searched"),
        ({"space": {"train": {"choice": [{"metric": "nll"}, {"metric": "ece"}]}}}, "train.metric cannot"),
        ({"space": {"train": {"evaluations": {"randint": [2, 4]}}}}, "train.evaluations cannot"),
        ({"space": {"data": {"labelled_per_language": {"choice": [50, 100]}}}}, "label: on_demand"),
        ({"space": {"task": {"max_length": {"choice": [32, 64]}}}}, "label: on_demand"),
        ({"space": {"select_teachers": {"choice": [["zh"], ["de"]]}}}, "select_teachers"),
        ({"metric": "nll", "mode": "max"}, "min for nll"),
        ({"metric": "bleu"}, "macro_f1"),
        ({"metric": "nll", "set": {"train": {"metric": "ece"}}}, "set.train.metric"),
        ({"search": {"kind": "grid"}}, "needs a grid"),
        ({"space": {"seed": {"grid": [0, 1]}}}, "the search is random"),
        ({"space": {"seed": {"grid": [0, 1]}}, "search": {"kind": "grid"}, "num_samples": 2}, "equal results"),
        ({"scheduler": {"kind": "asha", "grace": 9}}, "grace is longer"),
        ({"scheduler": {"kind": "pbt"}, "search": {"kind": "optuna"}}, "search random"),
        ({"scheduler": {"kind": "pbt"}, "num_samples": 1}, "population"),
        ({"scheduler": {"kind": "pbt"}, "set": {"train": {"patience": 2}}}, "train.patience"),
        ({"scheduler": {"kind": "pbt"}, "set": {"train": {"evaluations": 1}}}, "nothing would mutate"),
        ({"scheduler": {"kind": "pbt"}, "space": {"student": {"hidden": {"randint": [8, 16]}}}}, "student.hidden"),
        (
            {"scheduler": {"kind": "pbt"}, "space": {"objective": {"alpha": {"choice": [{"uniform": [0, 1]}, 0.1]}}}},
            "inside a choice",
        ),
        (
            {"scheduler": {"kind": "pbt"}, "space": {"objective": {"weighting": {"kind": {"choice": ["uniform", "entropy"]}}}}},
            "weighting.kind",
        ),
        ({"scheduler": {"kind": "pbt"}, "space": {"objective": {"alpha": {"uniform": [0, 1]}}}}, "alpha below 1"),
        ({"scheduler": {"kind": "pbt"}, "space": {"objective": {"alpha": {"choice": [0.5, 1]}}}}, "alpha below 1"),
        ({"scheduler": {"kind": "pb2"}, "space": {"objective": {"alpha": {"choice": [0.1, 0.2]}}}}, "between bounds"),
        ({"nmae": "x"}, "an unknown key 'nmae'"),
        ({"base": "dmeo"}, "no preset 'dmeo'"),
        ({"base": "none/such.yaml"}, "no run file"),
        ({"set": {"train": {"epohcs": 1}}}, "did you mean 'epochs'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_once(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_sweep(write(tmp_path, **keys))
    assert words in str(error.value)


def test_unknown_keys_of_a_space_are_explained_as_keys_and_not_as_trials(tmp_path: Path) -> None:
    option = {"kind": "entropy", "tua": {"uniform": [0.1, 1]}}
    space = {
        "objective": {"alhpa": {"uniform": [0, 1]}, "weighting": {"choice": [option, {"kind": "uniform"}]}}
    }
    with pytest.raises(ConfigError) as error:
        load_sweep(write(tmp_path, space=space))
    said = str(error.value)
    assert "2 keys are wrong" in said and "trials" not in said
    assert (
        "space.objective.alhpa" in said
        and "one of alpha, anneal_on" in said
        and "did you mean 'alpha'" in said
    )
    assert "space.objective.weighting.tua" in said and "did you mean 'tau'" in said


def test_what_is_refused_ahead_is_allowed_on_demand(tmp_path: Path) -> None:
    space = {"data": {"labelled_per_language": {"choice": [50, 100]}}}
    sweep = load_sweep(write(tmp_path, space=space, label="on_demand"))
    assert sweep.space.build_run({"data.labelled_per_language": 50}).data.labelled_per_language == 50


def test_teachers_are_chosen_by_a_short_text(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, space={"select_teachers": {"choice": [None, ["zh", "multi"]]}}))
    chosen = sweep.space.build_run({"select_teachers": "zh, multi"})
    assert [t.name for t in chosen.active_teachers] == ["zh", "multi"]
    assert len(sweep.space.build_run({"select_teachers": None}).active_teachers) == 3


def test_a_grid_over_seeds_is_its_product(tmp_path: Path) -> None:
    space = {"seed": {"grid": [0, 1, 2]}, "objective": {"alpha": {"grid": [0.1, 0.5]}}}
    sweep = load_sweep(write(tmp_path, space=space, search={"kind": "grid"}))
    sampler = sweep.config.search.build_sampler(sweep.space, sweep.mode, sweep.trials)
    drawn = [sampler.ask(index) for index in range(7)]
    assert sweep.trials == 6 and drawn[6] is None
    assert sorted((s["seed"], s["objective.alpha"]) for s in drawn[:6] if s) == [
        (seed, alpha) for seed in (0, 1, 2) for alpha in (0.1, 0.5)
    ]  # fmt: skip


def test_reading_a_sweep_imports_neither_ray_nor_optuna() -> None:
    code = (
        "import sys, pathlib; from raykd.tuning.config import load_sweep;"
        f"load_sweep(pathlib.Path({str(FOLDER / 'full.yaml')!r}));"
        "print([m for m in ('ray', 'optuna', 'mlflow', 'deepspeed', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
