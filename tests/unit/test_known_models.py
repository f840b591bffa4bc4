"""A model that was inspected before is checked without heavy imports; a changed byte or version inspects it again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd import cache, models
from raykd.config.loading import load_run
from raykd.errors import ModelError
from raykd.models import TransformerStudent, inspection
from raykd.models.bases import inspect_base
from raykd.models.textmodel import TextModel
from raykd.preflight.check import collect_findings
from raykd.preflight.sizes import count_student_parameters
from raykd.pretrained.stamp import stamp_model
from raykd.tasks import Classification
from raykd.tracking import Tracker, find_database_path

LABELS = ("negative", "positive")
TEXTS = ["a good film", "the worst meal", "a very long and very bad film about a good meal"]
HEAVY = ("transformers", "deepspeed", "mlflow", "alembic", "sqlalchemy")
CHECK = f"""
import json, sys
import raykd
found = [(f.what, f.detail, str(f.error)) for f in raykd.check(sys.argv[1])]
print(json.dumps([found, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that no other test wrote to, also for processes that are started."""
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A classifier as `raykd train` leaves it."""
    student = TransformerStudent(layers=1, hidden=16, heads=2, vocab_size=120, max_positions=24)
    tokenizer = student.fit_tokenizer(TEXTS)
    built = student.build(tokenizer, LABELS, 0).eval()
    return models.save_model(TextModel(built, tokenizer, LABELS, max_length=20), tmp_path / "model")


def write_run(folder: Path, model: Path, **changes: Any) -> Path:
    rows = [{"text": f"{TEXTS[i % 3]} {i}", "label": LABELS[i % 2]} for i in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"kind": "files", "paths": [str(folder / "rows.jsonl")]}
    run = {
        "name": "r",
        "output": str(folder / "runs"),
        "task": {"kind": "classification", "max_length": 20},
        "data": {"labels": list(LABELS), "languages": ["en"], "train": files, "validation": files},
        "student": {"kind": "pretrained", "path": str(model)},
        "teachers": [
            {"name": "t", "languages": "all", "path": str(model)},
            {
                "name": "fresh",
                "languages": "all",
                "training": {
                    "model": {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 120},
                    "train": {"epochs": 1, "batch_size": 4},
                },
            },
        ],
        "train": {"epochs": 1, "batch_size": 4, "deepspeed": {"zero_optimization": {"stage": 1}}},
        "ray": {"num_cpus": 8},
        **changes,
    }
    (folder / "run.yaml").write_text(json.dumps(run))
    return folder / "run.yaml"


def check_elsewhere(run: Path) -> tuple[list[list[str]], list[str]]:
    """Check a run in a process of its own; return findings, without what the disk has free, and heavy modules."""
    command = [sys.executable, "-c", CHECK, run]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    found, heavy = json.loads(done.stdout.splitlines()[-1])
    return [[what, detail.partition(" of ")[0], error] for what, detail, error in found], heavy


def inspect_anew(folder: Path) -> models.Inspection:
    """Inspect a model as another process would: what this one remembers does not count."""
    inspection._inspect_once.cache_clear()
    return models.inspect_model(folder, "classification")


def count_inspections(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose weights are compared with a class, from now on."""
    seen: list[Path] = []
    real = inspection.check_weights

    def check(folder: Path, *rest: Any, **more: Any) -> Any:
        seen.append(folder)
        return real(folder, *rest, **more)

    monkeypatch.setattr(inspection, "check_weights", check)
    return seen


def change_byte(path: Path, old: bytes | None = None, new: bytes = b"") -> None:
    """Change a byte (the last one, or what is given) and put size and modification time back."""
    state, data = path.stat(), path.read_bytes()
    changed = data[:-1] + bytes([data[-1] ^ 1]) if old is None else data.replace(old, new, 1)
    assert changed != data and len(changed) == len(data)
    path.write_bytes(changed)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_known_run_is_checked_without_heavy_imports_and_with_the_same_findings(
    model: Path, tmp_path: Path, mlflow_uri: str
) -> None:
    Tracker.start(mlflow_uri, "raykd", "first", params={}, tags={}).finish()
    made = find_database_path(mlflow_uri)
    assert made is not None
    (tmp_path / "runs").mkdir()
    shutil.copy(made, tmp_path / "runs" / "mlflow.db")
    run = write_run(tmp_path, model)
    unknown, heavy = check_elsewhere(run)
    assert [error for _, _, error in unknown if error != "None"] == []
    assert {"transformers", "deepspeed", "mlflow"} <= set(heavy)
    known, heavy = check_elsewhere(run)
    assert known == unknown and heavy == []
    described = dict((what, detail) for what, detail, _ in known)
    assert "answers do not depend" in described["self-test t"] and "raykd" in described["tracking"]


def test_what_was_found_is_found_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, base = inspect_anew(model), inspect_base(model, LABELS, "classification")
    seen = count_inspections(monkeypatch)
    assert inspect_anew(model) == first and seen == []
    assert inspect_base(model, LABELS, "classification") == base
    spec = TransformerStudent(layers=1, hidden=16, heads=2, vocab_size=120)
    counts = [count_student_parameters(spec, Classification(), LABELS) for _ in range(2)]
    wider = count_student_parameters(spec.model_copy(update={"hidden": 32}), Classification(), LABELS)
    assert counts[0] == counts[1] and wider is not None and counts[0] is not None and wider > counts[0]


CHANGES: dict[str, Callable[[Path], object]] = {
    "a setting": lambda folder: change_byte(folder / "config.json", b"0.1", b"0.2"),
    "a weight": lambda folder: change_byte(folder / "model.safetensors"),
    "the tokenizer": lambda folder: change_byte(folder / "tokenizer.json", b"##", b"#?"),
    "a file more": lambda folder: (folder / "notes.txt").write_text("x"),
    "a file less": lambda folder: (folder / "tokenizer_config.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_byte_inspects_again(change: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect_anew(model)
    stamp, seen = stamp_model(model), count_inspections(monkeypatch)
    CHANGES[change](model)
    inspect_anew(model)
    assert seen == [model] and stamp_model(model) != stamp


@pytest.mark.parametrize("part", ["library", "raykd", "python"])
def test_another_version_inspects_again(part: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect_anew(model)
    seen = count_inspections(monkeypatch)
    if part == "library":
        before = cache.find_version
        monkeypatch.setattr(cache, "find_version", lambda name: before(name) + "x" * (name == "transformers"))
    elif part == "raykd":
        monkeypatch.setattr(cache, "stamp_code", lambda: "another")
    else:
        monkeypatch.setattr(cache.platform, "python_version", lambda: "9.9")
    inspect_anew(model)
    assert seen == [model]


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def add_label(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "a", "1": "b", "2": "c"}, {"a": 0, "b": 1, "c": 2}
    (folder / "config.json").write_text(json.dumps(config))


BREAKS: dict[str, Callable[[Path], object]] = {
    "weights cut short": cut_weights,
    "a label more": add_label,
    "no tokenizer": lambda folder: [p.unlink() for p in folder.glob("*token*")],
    "pickled weights": lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
    "another width": lambda folder: change_byte(
        folder / "config.json", b'"hidden_size": 16', b'"hidden_size": 32'
    ),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_refusal_is_the_same_for_a_known_and_an_unknown_model(
    how: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(model, whole)
    inspect_anew(model)
    inspect_base(model, LABELS, "classification")
    BREAKS[how](model)

    def refuse() -> list[str]:
        with pytest.raises(ModelError) as own:
            inspect_anew(model)
        with pytest.raises(ModelError) as again:
            inspect_anew(model)
        return [str(own.value), str(again.value)]

    known = refuse()
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "other"))
    assert refuse() == known and known[0] == known[1]
    shutil.rmtree(model)
    shutil.copytree(whole, model)
    assert inspect_anew(model).labels == LABELS


def test_an_unreadable_cache_costs_time_and_nothing_else(
    model: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = inspect_anew(model)
    seen = count_inspections(monkeypatch)
    for entry in empty_cache.glob("inspections/*.json"):
        entry.write_text('{"kind": ')
    assert inspect_anew(model) == first and seen == [model]
    monkeypatch.setenv("RAYKD_CACHE", "/proc/none")
    assert inspect_anew(model) == first and len(seen) == 2


def test_a_model_that_may_run_code_is_inspected_each_time(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_inspections(monkeypatch)
    for _ in range(2):
        inspection._inspect_once.cache_clear()
        models.inspect_model(model, "classification", trust_remote_code=True)
    assert seen == [model, model]


def test_what_changes_while_it_is_computed_is_not_cached(empty_cache: Path) -> None:
    states = iter(["before", "after", "after", "after"])
    assert cache.load_or_compute("kind", lambda: next(states), int, lambda: 1) == 1
    assert not list(empty_cache.glob("kind/*"))
    assert cache.load_or_compute("kind", lambda: next(states), int, lambda: 2) == 2
    assert len(list(empty_cache.glob("kind/*"))) == 1


@pytest.mark.parametrize("place", ["student", "teachers"])
def test_a_refused_model_is_said_once(place: str, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    cut_weights(broken)
    start = {"kind": "pretrained", "path": str(broken)}
    changes = {
        "student": {"student": start},
        "teachers": {
            "teachers": [
                {"name": "t", "languages": "all", "training": {"model": start, "train": {"batch_size": 4}}}
            ]
        },
    }[place]
    findings = collect_findings(load_run(write_run(tmp_path, model, **changes)))
    errors = {finding.what: str(finding.error) for finding in findings if finding.error is not None}
    assert list(errors) == [{"student": "student", "teachers": "teacher t"}[place]]
    assert "is cut short" in next(iter(errors.values()))
    assert findings[-1].detail.startswith("not checked")
