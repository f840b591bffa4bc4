"""`--smoke`: what the short copy of a run or a sweep keeps, what it cuts, and what it never touches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raykd.config.loading import dump_run, load_any_run, load_run
from raykd.config.smoke import HELD_OUT, name_smoke_copy, shorten_run
from raykd.data.load import load_data
from raykd.driver.jobs import make_teacher_jobs
from raykd.driver.smoke import check_smoke_folder, make_smoke_run, refuse_smoke_resume
from raykd.errors import ConfigError
from raykd.presets import preset
from raykd.tuning.checks.smoke import shorten_sweep
from raykd.tuning.config import load_sweep

ROOT = Path(__file__).parents[2]
RUNS = [*sorted((ROOT / "raykd" / "presets").glob("*.yaml")), *sorted((ROOT / "examples").glob("*.yaml"))]
SPACES = sorted((ROOT / "tune_spaces").glob("*.yaml"))


def changes(a: Any, b: Any, path: str = "") -> set[str]:
    """Keys that differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return set().union(*(changes(a.get(k), b.get(k), f"{path}.{k}") for k in {*a, *b}))
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return set().union(*(changes(x, y, path) for x, y in zip(a, b, strict=True)), set())
    return set() if a == b else {path.lstrip(".")}


@pytest.mark.parametrize("path", RUNS, ids=[p.name for p in RUNS])
def test_only_what_costs_time_is_shortened(path: Path, tmp_path: Path) -> None:
    whole = load_any_run(path, [f"output={tmp_path}"])
    short = make_smoke_run(whole)
    assert short.name == f"{whole.name}-smoke" and short.smoke == whole.name and short.output == whole.output
    assert short.serving.store == f"{short.name}/store"
    differing = changes(whole.model_dump(mode="json"), short.model_dump(mode="json"))
    allowed = ("name", "smoke", "serving.store", "teacher_defaults", "teachers.on_poor")
    lengths = ("rows_per_language", "labelled_per_language", ".steps", ".epochs", ".evaluations")
    data = (".train", ".unlabeled", ".validation", ".test")  # of a teacher that says its own
    assert {k for k in differing if k.split(".")[0] not in ("name",) and not k.startswith(allowed)
            and not k.endswith((*lengths, *data))} - {"train.steps", "train.epochs", "train.evaluations"} == set()  # fmt: skip
    assert shorten_run(short) == short, "it is short already"
    (tmp_path / "run.yaml").write_text(dump_run(short), encoding="utf-8")
    assert load_any_run(tmp_path / "run.yaml") == short
    if path.parent.name == "presets":
        for job in make_teacher_jobs(short):
            assert job.output.parent == tmp_path / short.name / "teachers" and job.steps <= 4
            assert len(job.data[""].validation) <= 3 * HELD_OUT


@pytest.mark.parametrize("path", SPACES, ids=[p.name for p in SPACES])
def test_the_short_copy_of_a_sweep_keeps_its_search(path: Path, tmp_path: Path) -> None:
    whole = load_sweep(path, [f"set.output={tmp_path}"])
    short = shorten_sweep(whole)
    assert short.name == name_smoke_copy(whole.name) and 2 <= short.trials <= 4
    for kept in ("search", "scheduler", "space", "metric", "mode", "label"):
        assert getattr(short.config, kept) == getattr(whole.config, kept)
    trial = short.space.build_run(short.space.draw(0, 0))
    longest = max(4, short.base.train.evaluations)
    assert trial.train.evaluations == short.base.train.evaluations == whole.base.train.evaluations
    assert trial.train.steps == longest and trial.train.epochs is None
    short.config.scheduler.check(short.base, short.space, short.config.search.kind, short.trials, "it")


def test_a_space_over_epochs_and_batches_is_short_too(tmp_path: Path) -> None:
    space = {"train": {"epochs": {"choice": [2, 3]}, "batch_size": {"choice": [16, 96]}}}
    file = tmp_path / "space.yaml"
    file.write_text(
        yaml.safe_dump({"name": "s", "base": "demo", "space": space, "set": {"output": str(tmp_path)}})
    )
    short = shorten_sweep(load_sweep(file))
    batches = set()
    for sample in short.space.draw_covering(8):
        trial = short.space.build_run(sample)
        assert trial.train.epochs is None and trial.train.steps == 8
        batches.add(trial.train.batch_size)
    assert batches == {16, 96} and short.base.data.train.rows_per_language == 96


def test_a_grid_is_cut_off_by_time(tmp_path: Path) -> None:
    space = {"objective": {"alpha": {"grid": [i / 20 for i in range(20)]}}}
    file = tmp_path / "space.yaml"
    tree = {
        "name": "s",
        "base": "demo",
        "space": space,
        "set": {"output": str(tmp_path)},
        "search": {"kind": "grid"},
    }
    file.write_text(yaml.safe_dump(tree))
    short = shorten_sweep(load_sweep(file))
    assert short.trials == 20 and short.config.time_budget_s == 20.0


def test_a_folder_that_is_no_smoke_run_s_is_not_emptied(tmp_path: Path) -> None:
    check_smoke_folder(str(tmp_path), "a")
    folder = tmp_path / "a-smoke"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    config = load_run(preset("demo"), [f"output={tmp_path}", "name=a"])
    for files in ({}, {"run.json": "{}"}, {"run.yaml": dump_run(config)}, {"run.yaml": "x: ["}):
        for name, text in files.items():
            (folder / name).write_text(text)
        with pytest.raises(ConfigError, match="not the folder of a smoke run"):
            make_smoke_run(config)
    (folder / "run.yaml").write_text(dump_run(config.model_copy(update={"smoke": "a"})))
    assert make_smoke_run(config).name == "a-smoke"
    with pytest.raises(ConfigError, match="always begins anew"):
        refuse_smoke_resume(resume=True)


def test_rows_per_language_are_spread_over_a_sorted_file(tmp_path: Path) -> None:
    lines = [
        f'{{"text": "t{x}{i}", "label": "{"ab"[i >= 50]}", "lang": "{x}"}}'
        for x in ("en", "fr")
        for i in range(100)
    ]
    lines.append('{"text": "one", "label": "a", "lang": "zh"}')
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = {"kind": "files", "paths": ["rows.jsonl"], "rows_per_language": 10}
    run = {
        "name": "r", "data": {"train": source, "validation": dict(source, paths=["rows.jsonl"]), "labels": ["a", "b"], "languages": ["en", "fr", "zh"]},
        "student": {"kind": "linear"}, "objective": {"alpha": 1},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    data = load_data(load_run(tmp_path / "run.yaml").data, tmp_path)
    assert len(data.train) == len(data.validation) == 21
    assert np.bincount(data.train.labels_B).tolist() == [11, 10]
    assert data.left_out["train: beyond data.train.rows_per_language"] == 180
