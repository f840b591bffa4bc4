"""Two tasks and three teachers of three tokenizers in one student, through everything that is real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from raykd import models
from raykd.checkpoint.curves import FILE, Curves
from raykd.cli import app
from raykd.config import ModelTeacher, MultiRun
from raykd.config.loading import load_any_run
from raykd.data.embedded.rows import NAME_TAGS, read_corpus
from raykd.errors import ModelError
from raykd.experiments.confirmation import read_confirmation
from raykd.experiments.run import run_comparison
from raykd.models.multi import load_tasks
from raykd.preflight.check import collect_findings
from raykd.preflight.teacher_check import check_teacher
from raykd.report.comparisons.plain_data import list_differences
from raykd.runs.train import run_training
from raykd.scoring.outcome import Outcome
from raykd.tuning.config import load_sweep
from raykd.tuning.run import run_sweep
from tests.e2e.conftest import World
from tests.fakes import LABELS

pytestmark = pytest.mark.nightly


def tree(folder: Path, sources: Path) -> dict[str, Any]:
    """Opinions in two languages and names in a third, each with its own rows and teachers."""
    small = {"kind": "lstm", "embedding": 24, "hidden": 24, "dropout": 0.0}
    short = {"steps": 90, "batch_size": 16, "learning_rate": 0.03, "evaluations": 1}
    spoken = {"opinion": ["en", "fr"], "names": ["zh"]}
    files = {
        split: {
            "kind": "files",
            "paths": [str(sources / f"{lang}-{split}.jsonl") for lang in spoken["opinion"]],
        }
        for split in ("train", "validation", "test")
    }
    generated = {
        split: {"kind": "embedded", "split": split, "rows_per_language": count, "label_noise": 0.0}
        for split, count in (("train", 160), ("validation", 30), ("test", 30))
    }

    def made(name: str, task: str, languages: Any, pieces: int) -> dict[str, Any]:
        training = {"model": {**small, "vocab_size": pieces}, "train": short}
        return {"name": name, "task": task, "languages": languages, "training": training}

    return {
        "name": "mix",
        "output": str(folder / "runs"),
        "task": {
            "kind": "multi",
            "power": 0.5,
            "tasks": {
                "opinion": {
                    "task": {"kind": "classification", "max_length": 32},
                    "data": {**files, "labels": list(LABELS), "languages": spoken["opinion"]},
                },
                "names": {
                    "task": {"kind": "token_classification", "max_length": 48},
                    "data": {**generated, "labels": list(NAME_TAGS), "languages": spoken["names"]},
                    "objective": {"alpha": 0.5, "temperature": 1.0},
                },
            },
        },
        "student": {**small, "vocab_size": 1000},
        "teacher_defaults": {"actor": {"num_cpus": 0.2, "group": "teachers"}},
        "teachers": [
            made("en", "opinion", ["en"], 120),
            made("all", "opinion", "all", 150),
            made("tagger", "names", ["zh"], 700),
        ],
        "objective": {"alpha": 0.2, "temperature": 2.0},
        "train": {"steps": 150, "batch_size": 16, "learning_rate": 0.02, "evaluations": 2},
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db", "log_model": False},
    }


@pytest.fixture(scope="module")
def mix(
    tmp_path_factory: pytest.TempPathFactory, world: World, ray_cluster: None
) -> tuple[MultiRun, Outcome]:
    folder = tmp_path_factory.mktemp("mix")
    path = folder / "mix.yaml"
    path.write_text(json.dumps(tree(folder, world.folder)), encoding="utf-8")
    config = load_any_run(path)
    assert isinstance(config, MultiRun)
    assert [f.error for f in collect_findings(config) if f.error is not None] == []
    return config, run_training(config)


def test_each_task_has_its_table_its_page_and_its_curves(mix: tuple[MultiRun, Outcome]) -> None:
    config, outcome = mix
    folder = Path(config.output) / "mix"
    assert list(outcome.parts) == ["opinion", "names"]
    assert len(outcome.tables) == 4, "for each task the scores, then the student's size and speed"
    systems = {task: [p.name for p, _ in part.table.systems] for task, part in outcome.parts.items()}
    assert systems["opinion"] == ["en", "all", "teacher ensemble", "student"]
    assert systems["names"] == ["tagger", "teacher ensemble", "student"]
    page, text = (
        outcome.report.read_text(encoding="utf-8"),
        (folder / "results.md").read_text(encoding="utf-8"),
    )
    for task, part in outcome.parts.items():
        assert f"tasks/{task}/report.html" in page and part.report.is_file() and f"## {task}" in text
        assert set(part.macro("student")) >= {config.members[task].metric, "nll"}
    points = Curves(folder / FILE).by_job["student"]
    last = [p for p in points if "eval/mean/score" in p.values][-1].values
    both = [last["opinion/eval/mean/accuracy"], last["names/eval/mean/f1"]]
    assert last["eval/mean/score"] == pytest.approx(np.mean(both))
    asked = {name.split("/")[0] for p in points for name in p.values if "/teacher/tagger/" in name}
    assert asked == {"names"}


def test_the_student_has_learnt_both_tasks_with_one_encoder(mix: tuple[MultiRun, Outcome]) -> None:
    _, outcome = mix
    assert outcome.parts["opinion"].macro("student")["accuracy"] > 0.8  # of two classes
    assert outcome.parts["names"].macro("student")["f1"] > 0.4  # of names, begin and end and kind
    student = load_tasks(outcome.student)
    whole = sum(p.numel() for p in student.model.parameters())
    alone = [models.count_parameters(part.model) for part in student.parts.values()]
    assert max(alone) < whole < 1.1 * max(alone)


def test_a_task_of_the_student_answers_and_can_teach(mix: tuple[MultiRun, Outcome]) -> None:
    config, outcome = mix
    runner = CliRunner()
    text = read_corpus(config.members["names"].data.test, ["zh"], "words").texts[0]  # type: ignore[arg-type]
    told = runner.invoke(app, ["predict", str(outcome.student), text, "--task", "names", "--json"])
    assert told.exit_code == 0 and "entities" in json.loads(told.stdout)
    said = runner.invoke(app, ["predict", str(outcome.student), "a good day", "--task", "opinion", "--json"])
    assert set(json.loads(said.stdout)["probabilities"]) == set(LABELS)
    with pytest.raises(ModelError, match="several tasks"):
        models.load_model(outcome.student)
    names = config.members["names"]
    teacher = ModelTeacher(name="again", languages="all", path=str(outcome.student / "names"))
    assert "lstm" in check_teacher(teacher, names)


def test_a_sweep_over_both_tasks_and_its_confirmation(mix: tuple[MultiRun, Outcome], tmp_path: Path) -> None:
    """Each task's teachers answer their own rows once; winner and default are compared on both tasks."""
    config, _ = mix
    folder = Path(config.output).parent
    path = tmp_path / "space.yaml"
    own = {"names": {"objective": {"temperature": {"choice": [1.0, 4.0]}}}}
    space = {"objective": {"alpha": {"uniform": [0.0, 0.9]}}, "task": {"tasks": own}}
    base = {**json.loads((folder / "mix.yaml").read_text(encoding="utf-8")), "ray": {"num_cpus": 4}}
    base["train"] = {**base["train"], "steps": 24}
    keys = {"name": "both", "num_samples": 3, "scheduler": {"kind": "fifo"}, "max_concurrent_trials": 2}
    path.write_text(json.dumps({"base": base, "space": space, **keys}), encoding="utf-8")
    found = run_sweep(load_sweep(path))
    assert found.failed == 0 and found.report.metric == "score" and len(found.report.trials) == 3
    assert found.report.facts["teacher passes"].startswith("0 over"), "the run before has asked for all of it"
    assert found.best is not None and isinstance(load_any_run(found.best), MultiRun)
    confirmed = run_comparison(read_confirmation(found.page.parent, 2))
    assert confirmed.failed == 0 and len(confirmed.report.main_differences) == 1
    table = list_differences(confirmed.report)
    rows = {(row["split"], row["language"], row["metric"]) for row in table}
    assert {
        ("test", "macro", "score"),
        ("test", "opinion mean", "accuracy"),
        ("test", "names zh", "f1"),
    } <= rows
