"""Every shipped run and search space goes its whole way with `--smoke`; a few by `make test`, all by `make nightly`.

The examples read files that lie beside the project; where they are not there, rows of the same form take their place.
"""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raykd import models
from raykd.config import MultiRun
from raykd.config.loading import load_any_run, read_yaml_mapping
from raykd.driver.command import Start
from raykd.driver.smoke import TAG, make_smoke_run
from raykd.experiments.config import is_experiment, load_experiment
from raykd.experiments.run import run_comparison
from raykd.experiments.smoke import shorten_experiment
from raykd.runs.train import run_training
from raykd.tuning.checks.smoke import shorten_sweep
from raykd.tuning.config import load_sweep
from raykd.tuning.run import run_sweep
from tests.e2e.conftest import still_held
from tests.made_models import make_marian

ROOT = Path(__file__).parents[2]
RUNS = [*sorted((ROOT / "raykd" / "presets").glob("*.yaml")), *sorted((ROOT / "examples").glob("*.yaml"))]
OVERLAYS = sorted((ROOT / "examples" / "experiments").glob("*.yaml"))
EXPERIMENTS = [path for path in OVERLAYS if is_experiment(read_yaml_mapping(path))]
SPACES = sorted((ROOT / "tune_spaces").glob("*.yaml")) + [p for p in OVERLAYS if p not in EXPERIMENTS]
IN_CI = {"demo.yaml", "alpha_temperature.yaml", "mentions_en_de_zh.yaml"}
LIMIT_S = 240.0
"""Longest on a machine that does other things too; a quiet one of two cores needs less than a minute."""


def files(paths: list[Path]) -> list[Any]:
    """Parameters of a test: those that CI runs, and the rest at night."""
    return [
        pytest.param(path, id=path.name, marks=[] if path.name in IN_CI else [pytest.mark.nightly])
        for path in paths
    ]


def made_row(kind: str, language: str, split: str, i: int) -> dict[str, Any]:
    """A row of the form that files of this folder have."""
    domain = ("coursera", "food", "hotel", "laptop", "phone", "sight")[i // 2 % 6]
    common = {"lang": language, "id": f"{language}-{split}-{i}", "domain": domain}
    text = f"{('awful', 'lovely')[i % 2]} thing number {i} of {split} in {language}"
    if kind in ("sentiment", "sentiment_subtitles"):
        return {"text": text, "label": ("negative", "positive")[i % 2], **common}
    if kind == "topic":
        return {"text": text, "label": ("travel", "politics")[i % 2], **common}
    if kind == "unlabeled":
        return {"text": text, **common}
    if kind == "ner":
        tags = ["B-PER", "O", "O", "O", "B-LOC"]
        return {"tokens": ["Anna", "saw", f"{split}{i}", "in", "Rome"], "tags": tags, **common}
    if kind == "pairs":
        return {"text": text, "text_pair": f"a pair of {text}", "score": float(i % 6), **common}
    if kind == "qa":
        context, answer = f"The box {i} of {split} stands in room {i % 7}.", f"room {i % 7}"
        answers = {"text": [answer], "answer_start": [context.index(answer)]}
        return {"question": f"Where is box {i}?", "context": context, "answers": answers, **common}
    if kind == "pairs":
        return {"text": text, "text_pair": text[i % 2 :], "score": (0.6, 4.4, 3.0)[i % 3], **common}
    if kind == "intent_slots":
        tags = ["O", "B-datetime", "I-datetime", "I-datetime"]
        words = {"tokens": ["wake", "at", "seven", f"{split}{i}"], "text": f"wake at seven {split}{i}"}
        return {**words, "tags": tags, "intent": ("alarm/set_alarm", "PlayMusic")[i % 2], **common}
    if kind == "relation":
        label = ("Cause-Effect", "Other", "Located", "unknown")[i % 2 + 2 * (language == "zh")]
        entities = {
            "head": ("awful", "lovely")[i % 2],
            "tail": "thing",
            "direction": ("head-tail", "")[i % 2],
        }
        return {"text": text, "label": label, **entities, **common}
    assert kind == "translation", kind
    return {"src": text, "tgt": f"la chose {i} de {split}", "src_lang": "en", "tgt_lang": "fr", "id": f"{i}"}


def sources(node: Any) -> Iterator[dict[str, Any]]:
    """All sources of files in a run's tree."""
    if isinstance(node, dict):
        if node.get("kind") == "files":
            yield node
        for value in node.values():
            yield from sources(value)
    elif isinstance(node, list):
        for value in node:
            yield from sources(value)


def make_rows(there: Path) -> None:
    """A file of rows, whose form its folders name: kind/language/split.jsonl; more/NAME.jsonl are texts alone."""
    kind, language, split = *there.parts[-3:-1], there.stem
    if language == "more":
        kind, language = "unlabeled", "en"
    there.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(made_row(kind, language, split, i)) for i in range(400)]
    there.write_text("\n".join(lines), encoding="utf-8")


def place_copies(node: Any, beside: Path, folder: Path) -> None:
    """Name by their places what `data.augment` reads; a translator that is not there is made."""
    for change in node.get("augment", []):
        if "path" not in change:
            continue
        there = (beside / change["path"]).resolve()
        if not there.exists() and change["kind"] != "back_translation":
            pytest.skip(f"{change['path']} is written by a command that the file names")
        if not there.exists() and not (there := folder / "translator").is_dir():
            make_marian(there, ["a good film", "the room was bad"], ["un bon film", "la chambre"])
        change["path"] = str(there)
    for value in node.values():
        if isinstance(value, dict):
            place_copies(value, beside, folder)


def with_rows(path: Path, folder: Path) -> Path:
    """The run file, its rows made where they are not there."""
    tree = read_yaml_mapping(path)
    place_copies(tree, path.parent, folder)
    for source in sources(tree):
        for at, name in enumerate(source["paths"]):
            there = (path.parent / name).resolve()
            if not there.is_file():
                there = folder / "/".join(there.parts[-3:])
                make_rows(there)
            source["paths"][at] = str(there)
    for teacher in tree.get("teachers", []):
        if ".py:" in teacher.get(
            "function", ""
        ):  # a file beside the run file, which is fitted to the real rows
            if not (path.parents[2] / "shared" / "data").is_dir():
                pytest.skip(f"the rows that {teacher['function']} reads are not on this machine")
            teacher["function"] = str(path.parent / teacher["function"])
            skip_without_libraries(path.parent / teacher["function"].rpartition(":")[0])
    made = folder / path.name
    made.write_text(json.dumps(tree), encoding="utf-8")  # JSON is YAML
    return made


def skip_without_libraries(file: Path) -> None:
    """Skip, by name, a run whose teacher's file imports what is not installed."""
    imports = re.findall(r"^ *(?:import|from) (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    for name in imports:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{file.name} imports {name}, which is not installed")


def with_base_rows(path: Path, folder: Path) -> Path:
    """The experiment or space, the rows of its base made where they are not there.

    One that also reads what another command writes is skipped, by name.
    """
    tree = read_yaml_mapping(path)
    for source in sources({key: value for key, value in tree.items() if key != "base"}):
        pytest.skip(f"{source['paths']} is written by a command that the file names")
    made = folder / f"over-{path.name}"
    if isinstance(tree["base"], str):
        place_copies(tree, (path.parent / tree["base"]).parent, folder)
    if isinstance(tree["base"], dict):
        for source in sources(tree["base"]):
            for name in source["paths"]:
                make_rows(folder / "data" / name)
        changes: dict[str, Any] = {"base_dir": str(folder / "data")}
    else:
        named = path.parent / tree["base"]
        if not named.is_file():  # a preset
            return path
        changes = {"base": str(with_rows(named, folder))}
    made.write_text(json.dumps({**tree, **changes}), encoding="utf-8")
    return made


def skip_what_is_not_there(config: Any) -> None:
    """Skips, by name, a run of pretrained models or of a server that this machine does not have."""
    for teacher in config.active_teachers:
        if teacher.kind == "http":
            pytest.skip(f"teacher {teacher.name} is behind a server: {teacher.url}")
    named = [t.path for t in config.active_teachers if t.kind in ("model", "label_words")]
    named += [m.path for m in (config.student, *(t.training.model for t in config.trained_teachers))
              if m.kind == "pretrained"]  # fmt: skip
    for name in named:
        try:
            models.resolve_model(name)
        except Exception as error:
            pytest.skip(f"the pretrained model {name} is not on this machine: {type(error).__name__}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", files(RUNS))
def test_a_shipped_run_goes_its_whole_way(path: Path, ray_cluster: None, tmp_path: Path) -> None:
    whole = load_any_run(with_rows(path, tmp_path), [f"output={tmp_path / 'runs'}", "ray.wait_s=60"])
    skip_what_is_not_there(whole)
    config, begun = make_smoke_run(whole), time.monotonic()
    outcome = run_training(config, Start(overwrite=True))
    assert time.monotonic() - begun < LIMIT_S
    folder = tmp_path / "runs" / config.name
    assert {p.name for p in (tmp_path / "runs").iterdir() if p.is_dir()} <= {
        config.name,
        "mlruns",
        "mlartifacts",
    }
    assert (folder / "report.html").is_file() and outcome.student.is_dir()
    notes = [n for part in (outcome.parts.values() or [outcome]) for n in part.notes]
    assert any(n.startswith(f"a smoke run of {whole.name}") for n in notes)
    costs = [part.costs for part in (outcome.parts.values() or [outcome])]
    for task, table in zip(config.members, costs, strict=True):
        asked = [t.name for t in config.members[task].active_teachers]
        assert (table is None) == (not asked)
        if table is None:
            continue
        assert [t.teacher for t in table.teachers] == asked
        # A function has no weights, and no time where all its answers were stored.
        have_weights = {
            t.name for t in config.members[task].active_teachers if t.kind in ("model", "trained")
        }
        assert all(t.faster is not None for t in table.teachers if t.teacher in have_weights), table.notes
    from mlflow import MlflowClient

    run = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db").get_run(outcome.mlflow_run_id)
    assert run.data.tags[TAG] == whole.name and run.info.run_name == config.name
    timed = any(t.faster is not None for table in costs if table is not None for t in table.teachers)
    assert isinstance(config, MultiRun) or timed == any(k.endswith("/x_faster") for k in run.data.metrics)
    assert still_held() == []


def check_own_teachers(folder: Path) -> None:
    """Teachers and answers are a short copy's own, and nothing is held any more."""
    assert (folder / "teachers").is_dir() and (folder / "store").is_dir()
    assert not (folder.parent / "teachers").exists() and not (folder.parent / "store").exists()
    assert still_held() == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", files(SPACES))
def test_a_shipped_space_goes_its_whole_way(path: Path, ray_cluster: None, tmp_path: Path) -> None:
    whole = load_sweep(with_base_rows(path, tmp_path), [f"set.output={tmp_path / 'runs'}"])
    skip_what_is_not_there(whole.base)
    plan, begun = shorten_sweep(whole), time.monotonic()
    outcome = run_sweep(plan, Start(overwrite=True))
    assert time.monotonic() - begun < LIMIT_S
    assert not outcome.failed
    folder = tmp_path / "runs" / plan.name
    assert (folder / "best.yaml").is_file() and load_any_run(folder / "best.yaml").smoke == whole.name
    check_own_teachers(folder)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", files(EXPERIMENTS))
def test_a_shipped_experiment_goes_its_whole_way(path: Path, ray_cluster: None, tmp_path: Path) -> None:
    whole = load_experiment(with_base_rows(path, tmp_path), [f"set.output={tmp_path / 'runs'}"])
    skip_what_is_not_there(whole.base)
    plan, begun = shorten_experiment(whole), time.monotonic()
    found = run_comparison(plan, Start(overwrite=True))
    assert time.monotonic() - begun < LIMIT_S
    assert not found.failed
    folder = tmp_path / "runs" / plan.name
    assert (folder / "report.html").is_file() and (folder / "comparison.json").is_file()
    check_own_teachers(folder)
    assert [len(arm.students) for arm in found.report.arms] == [2] * len(whole.arms)
    assert any(note.startswith(f"a smoke run of {whole.name}") for note in found.report.notes)
