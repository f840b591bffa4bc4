"""Bad input: one clear error with the right exit code, before a worker is taken, and no folder left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.cli import main
from tests.fakes import LABELS, save_transformer, texts_and_labels

Tree = dict[str, Any]
Change = Callable[[Path, Tree], None]


def rows(count: int, seed: int) -> list[dict[str, str]]:
    texts, labels = texts_and_labels(count, seed)
    return [{"text": t, "label": LABELS[y], "lang": "en"} for t, y in zip(texts, labels, strict=True)]


def write_rows(path: Path, found: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def tree(folder: Path) -> Tree:
    """A good run with a teacher that is trained first."""
    for name, count in (("train", 48), ("validation", 24)):
        write_rows(folder / f"{name}.jsonl", rows(count, count))
    return {
        "name": "bad",
        "output": str(folder / "runs"),
        "task": {"kind": "classification", "max_length": 32},
        "data": {
            "train": {"kind": "files", "paths": ["train.jsonl"]},
            "validation": {"kind": "files", "paths": ["validation.jsonl"]},
            "labels": list(LABELS),
            "languages": ["en", "fr"],
        },
        "student": {"kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "max_positions": 64},
        "teachers": [{"name": "en", "languages": ["en"], "training": {"train": {"batch_size": 16}}}],
        "objective": {"alpha": 0.5},
        "train": {"steps": 2, "batch_size": 16},
        "workers": {"num_cpus": 1},
        "ray": {"num_cpus": 2},
    }


def with_row(index: int, **values: str) -> Change:
    """Changes one row of the training file."""

    def change(folder: Path, _: Tree) -> None:
        found = rows(48, 48)
        found[index] |= values
        write_rows(folder / "train.jsonl", found)

    return change


def without_column(folder: Path, _: Tree) -> None:
    write_rows(folder / "train.jsonl", [{"text": r["text"], "lang": "en"} for r in rows(48, 48)])


def in_latin_1(folder: Path, _: Tree) -> None:
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in [*rows(3, 1), {"text": "café"}])
    (folder / "train.jsonl").write_bytes(lines.encode("latin-1"))


def teacher_at(name: str, make: Callable[[Path], Any] | None = None) -> Change:
    """A teacher that exists at ``name``."""

    def change(folder: Path, run: Tree) -> None:
        if make is not None:
            make(folder / name)
        run["teachers"] = [{"name": "en", "languages": ["en"], "path": name}]

    return change


def pickled(directory: Path) -> None:
    save_transformer(directory)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def other_labels(directory: Path) -> None:
    save_transformer(directory, labels=("good", "bad"))


def setting(**changes: Any) -> Change:
    """Other top-level keys; a mapping is laid over what is there."""

    def change(_: Path, run: Tree) -> None:
        for key, value in changes.items():
            run[key] = {**run.get(key, {}), **value} if isinstance(value, dict) else value

    return change


CASES: dict[str, tuple[Change, int, list[str]]] = {
    "missing file": (
        setting(data={"train": {"kind": "files", "paths": ["nothing.jsonl"]}}),
        3,
        ["nothing.jsonl: there is no such file", "next:"],
    ),
    "missing column": (without_column, 3, ["train.jsonl: no column 'label'", "columns text, lang", "next:"]),
    "empty text": (with_row(4, text="  "), 3, ["train.jsonl:5", "an empty text", "on_bad_row"]),
    "unknown label": (
        with_row(6, label="Positive"),
        3,
        ["train.jsonl:7", "'Positive'", "['negative', 'positive']", "did you mean 'positive'"],
    ),
    "unknown language": (with_row(2, lang="xx"), 3, ["train.jsonl:3", "'xx'", "['en', 'fr']"]),
    "not UTF-8": (in_latin_1, 3, ["train.jsonl:4: not UTF-8", "0xe9", "iconv"]),
    "teacher with other labels": (
        teacher_at("other", other_labels),
        3,
        ["teacher en has other labels", "['good', 'bad']", "['negative', 'positive']", "label_map"],
    ),
    "teacher with pickled weights": (
        teacher_at("pickled", pickled),
        3,
        ["teacher en", "pytorch_model.bin", "safetensors"],
    ),
    "missing teacher": (teacher_at("./nowhere"), 3, ["teacher en: there is no model directory /", "/nowhere", "next:"]),
    "missing student": (
        lambda _, run: run.update(student={"kind": "pretrained", "path": "./nowhere"}),
        3,
        ["student: there is no model directory /", "/nowhere", "correct student.path"],
    ),
    "missing teacher that looks like a hub name": (teacher_at("models/nowhere"), 3, ["models/nowhere", "HF_HUB_OFFLINE"]),
    "batch larger than the data": (
        setting(train={"batch_size": 64}),
        3,
        ["student: a batch is larger than the training data", "batch_size 64, 48 rows", "48 at most"],
    ),
    "more than the machine has": (
        setting(workers={"num_workers": 3}),
        2,
        ["teachers 1 + student workers 3 = 4 CPU", "at most 2 CPU", "num_workers"],
    ),
    "unknown key": (setting(train={"bacth_size": 3}), 2, ["train", "'bacth_size'", "did you mean 'batch_size'"]),
    "DeepSpeed that disagrees": (
        setting(train={"deepspeed": {"train_batch_size": 99}}),
        2,
        ["train.deepspeed.train_batch_size disagrees with train.batch_size", "99", "16"],
    ),
    "DeepSpeed with fp16": (
        setting(train={"deepspeed": {"fp16": {"enabled": True}}}),
        2,
        ["fp16 is not supported", "bfloat16"],
    ),
    "text longer than positions": (
        setting(task={"max_length": 65}),
        2,
        ["task.max_length is larger than max_positions of the student", "65", "at most 64"],
    ),
    "nothing to distil": (setting(teachers=[]), 2, ["no teachers", "objective.alpha: 1"]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a run would go to Ray."""

    def connect(config: Any) -> None:
        raise AssertionError("a worker would have been taken")

    monkeypatch.setattr("raykd.driver.session.connect_ray", connect)
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """The command line in this process: exit code, and all that was printed."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["raykd", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    return run


@pytest.mark.parametrize("command", ["train", "check"])
@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, command: str, tmp_path: Path, call: Any) -> None:
    change, code, wanted = CASES[case]
    run = tree(tmp_path)
    change(tmp_path, run)
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(run), encoding="utf-8")
    got, shown = call(command, str(path))
    assert got == code, shown
    assert [part for part in wanted if part not in shown] == [], shown
    assert "Traceback" not in shown
    assert not (tmp_path / "runs" / "bad").exists()


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("train.steps", "wanted: key.path=value"),
        ("train.steps=many", "train.steps"),
        ("teachers.de.path=x", "one of ['en']"),
        ("train.stepz=3", "did you mean 'steps'"),
        ("name=../evil", "a name starts with"),
    ],
)
def test_wrong_override(override: str, part: str, tmp_path: Path, call: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(tree(tmp_path)), encoding="utf-8")
    code, shown = call("train", str(path), override)
    assert code == 2 and part in shown and "Traceback" not in shown, shown


def test_a_folder_that_exists_is_left_alone(tmp_path: Path, call: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(tree(tmp_path)), encoding="utf-8")
    folder = tmp_path / "runs" / "bad"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine", encoding="utf-8")
    for flags in ([], ["--resume"], ["--overwrite"]):
        code, shown = call("train", str(path), *flags)
        assert code == 2 and "not a run folder" in shown and "another name" in shown, shown
    (folder / "run.json").write_text(
        json.dumps({"status": "interrupted", "fingerprint": "x"}), encoding="utf-8"
    )
    code, shown = call("train", str(path))
    assert code == 2 and "interrupted" in shown and "--resume" in shown and "--overwrite" in shown
    code, shown = call("train", str(path), "--resume")
    assert code == 2 and "the settings that it was made with cannot be read" in shown
    assert (folder / "thesis.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("command", ["train", "check"])
def test_credentials_in_the_tracking_uri_are_never_printed(
    command: str, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "CANARY-5up3r"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://alice:{canary}@127.0.0.1:9")
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(tree(tmp_path)), encoding="utf-8")
    code, shown = call(command, str(path))
    assert code == 5 and "credentials" in shown and "MLFLOW_TRACKING_PASSWORD" in shown
    assert canary not in shown
    kept = [
        p for p in tmp_path.rglob("*") if p.is_file() and canary in p.read_text("utf-8", errors="replace")
    ]
    assert kept == []


def test_a_good_run_passes_the_check(tmp_path: Path, call: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(tree(tmp_path)), encoding="utf-8")
    code, shown = call("check", str(path))
    assert code == 0 and "All is well" in shown and "wrong" not in shown
    assert "student: 48 labelled and 0 unlabelled texts, 2 steps" in shown


def test_a_fault_is_told_without_secrets(tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*arguments: Any) -> None:
        raise RuntimeError("http://bob:CANARY@host is gone")

    monkeypatch.setattr("raykd.config.loading.read_yaml_mapping", fault)
    code, shown = call("check", "any.yaml")
    assert code == 1 and "fault of raykd" in shown and "RuntimeError" in shown and "CANARY" not in shown
