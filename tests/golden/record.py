"""Golden files: what a run of each task and one sweep leave behind at a fixed seed.

Each file holds the loss curve, the table, the names in the output folder and the keys in MLflow. A refactoring keeps
curves and numbers to a relative 1e-4, and every name; new names may come. Files are never edited: where a key or a
file gets another name, ``renamed.yaml`` says so.

``python -m tests.golden.record NAME ...`` writes files that are missing.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
TAGS = ["O", *(f"{letter}-{kind}" for kind in ("PER", "LOC", "ORG") for letter in "BI")]
LSTM = {"kind": "lstm", "embedding": 16, "hidden": 16, "vocab_size": 500, "dropout": 0.0}
SMALL = {"layers": 1, "hidden": 32, "heads": 2, "dropout": 0.0}
TOP_K = {"kind": "top_k", "k": 16, "temperatures": [1.0, 2.0]}
SWEEP = "sweep"
"""The one golden file that is a sweep's."""
PASSING = (".validate_storage_marker", "checkpoint_manager_snapshot", ".lock", "lock.mdb", "mlflow.db-")
"""Beginnings of names of files that belong to Ray or a database, and come and go."""


def _source(split: str, rows: int) -> dict[str, Any]:
    return {"kind": "embedded", "split": split, "rows_per_language": rows, "label_noise": 0.0}


def _run(name: str, task: dict[str, Any], student: dict[str, Any], **changes: Any) -> dict[str, Any]:
    data = {
        "train": _source("train", 96), "validation": _source("validation", 12), "test": _source("test", 16),
        "languages": ["en", "fr"], "labelled_per_language": 48,
    }  # fmt: skip
    short = {"steps": 8, "batch_size": 16, "learning_rate": 0.02, "evaluations": 2}
    larger = {} if "vocabulary" in student else {"vocab_size": 640}
    model = {k: v for k, v in {**student, **larger}.items() if k != "vocabulary"}
    learnt = {"model": model, "train": {**short, "steps": 12}, "workers": {"num_cpus": 1}}
    return {
        "name": name,
        "output": "runs",
        "seed": 3,
        "task": task,
        "data": {**data, **changes.pop("data", {})},
        "student": student,
        "teacher_defaults": {
            "actor": {"num_cpus": 0.3, "group": "teachers"},
            "on_poor": "warn",
            "training": learnt,
        },
        "teachers": [{"name": "fr", "languages": ["fr"]}, {"name": "multi", "languages": "all"}],
        "serving": {"dtype": "float32"},
        "objective": {
            "alpha": {"kind": "linear", "start": 0.2, "end": 0.6},
            "temperature": 2.0,
            "weighting": {"kind": "uniform"},
        },
        "train": short,
        "tracking": {"uri": "sqlite:///mlflow.db", "log_model": False},
        **changes,
    }


def trees() -> dict[str, dict[str, Any]]:
    """The configuration of each golden run by its name; that of `SWEEP` is a space's."""
    decoder = {"kind": "decoder", **SMALL, "vocab_size": 560, "max_positions": 64}
    sentiment = {"labels": ["negative", "positive"]}
    runs = {
        "classification": _run(
            "classification", {"kind": "classification", "max_length": 32}, LSTM, data=sentiment, baseline=True
        ),
        "token_classification": _run(
            "token_classification", {"kind": "token_classification", "max_length": 48}, LSTM, data={"labels": TAGS}
        ),
        "question_answering": _run(
            "question_answering", {"kind": "question_answering", "max_length": 128, "stride": 16}, LSTM
        ),
        "causal_lm": _run("causal_lm", {"kind": "causal_lm", "max_length": 48, "max_target_length": 47, "answers": TOP_K}, decoder),
        "masked_lm": _run(
            "masked_lm",
            {"kind": "masked_lm", "max_length": 32, "answers": TOP_K},
            {"kind": "transformer", "vocabulary": "union", **SMALL, "max_positions": 64},
            # The student's vocabulary is the union of these two, so nobody may speak both languages.
            teachers=[{"name": "fr", "languages": ["fr"]}, {"name": "en", "languages": ["en"]}],
        ),
        "seq2seq": _run(
            "seq2seq",
            {
                "kind": "seq2seq", "max_length": 32, "max_target_length": 32, "max_new_tokens": 8,
                "written": ["chrf"], "answers": TOP_K,
            },
            {"kind": "encoder_decoder", **SMALL, "vocab_size": 560},
        ),
    }  # fmt: skip
    base = {k: v for k, v in runs["classification"].items() if k not in ("name", "baseline")}
    space = {
        "name": SWEEP,
        "base": base,
        "space": {
            "objective": {"alpha": {"grid": [0.1, 0.9]}, "temperature": {"grid": [1.0, 4.0]}},
        },
        "search": {"kind": "grid"},
        "scheduler": {"kind": "fifo"},
        "max_concurrent_trials": 1,
    }
    return {**runs, SWEEP: space}


def perform(name: str, folder: Path) -> None:
    """Runs the golden run or sweep in an empty folder, through the functions behind the commands."""
    from rich.console import Console

    path, quiet = folder / f"{name}.yaml", Console(quiet=True)
    path.write_text(json.dumps(trees()[name]), encoding="utf-8")  # JSON is YAML
    before = Path.cwd()
    os.chdir(folder)
    try:
        if name == SWEEP:
            from raykd.driver.command import Start
            from raykd.tuning.config import load_sweep
            from raykd.tuning.run import run_sweep

            run_sweep(load_sweep(path), Start(console=quiet))
        else:
            from raykd.config.loading import load_run
            from raykd.driver.command import Start
            from raykd.runs.train import run_training

            run_training(load_run(path), Start(console=quiet))
    finally:
        os.chdir(before)


def read(name: str, folder: Path) -> dict[str, Any]:
    """What a golden run or sweep left in the folder, in the form of the golden files."""
    run = folder / "runs" / name
    if name == SWEEP:
        with (run / "trials.csv").open(encoding="utf-8", newline="") as file:
            table = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    else:
        table = json.loads((run / "report.json").read_text(encoding="utf-8"))["results"]
    files = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    return {
        "files": sorted({_nameless(p) for p in files if not p.name.startswith(PASSING)}),
        "curves": _curves(run / "curves.jsonl"),
        "table": [{k: v for k, v in row.items() if not re.search(r"ms_|_ms|faster|ece", k)} for row in table],
        "mlflow": _records(f"sqlite:///{folder}/mlflow.db"),
    }


def _nameless(path: Path) -> str:
    """The path without what differs from run to run: hashes, times, ids."""
    parts = []
    for part in path.parts:
        parts.append(re.sub(r"\d{2,}", "#", re.sub(r"[0-9a-f]{8,}", "#", part)))
    return "/".join(parts)


def _curves(path: Path) -> dict[str, dict[str, list[list[float]]]]:
    """For each job and each of its losses and scores: [step, value] pairs. Times and rates are left out.

    So is the calibration error: a probability at the edge of a bin moves it by its whole weight.
    """
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        point = json.loads(line)
        for key, value in point.get("values", {}).items():
            if not key.endswith("/ece") and key.startswith(
                ("train/loss", "train/hard", "train/soft", "train/alpha", "train/temperature", "eval/")
            ):
                curves.setdefault(point["job"], {}).setdefault(key, []).append([point["step"], value])
    return curves


def _records(uri: str) -> dict[str, dict[str, list[str]]]:
    """For each MLflow run by its role: names of its parameters, metrics, tags and artifacts."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    records: dict[str, dict[str, set[str]]] = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            role = run.data.tags.get("raykd.role", "-")
            known = records.setdefault(
                role, {"params": set(), "metrics": set(), "tags": set(), "artifacts": set()}
            )
            known["params"] |= set(run.data.params)
            known["metrics"] |= set(run.data.metrics)
            known["tags"] |= {t for t in run.data.tags if not t.startswith("mlflow.")}
            known["artifacts"] |= {_nameless(Path(a)) for a in _artifacts(client, run.info.run_id)}
    return {role: {what: sorted(names) for what, names in found.items()} for role, found in records.items()}


def _artifacts(client: Any, run_id: str, path: str | None = None) -> list[str]:
    found = []
    for item in client.list_artifacts(run_id, path):
        found += _artifacts(client, run_id, item.path) if item.is_dir else [item.path]
    return found


def main(names: list[str]) -> None:
    """Writes the golden files that are missing."""
    for name in names or list(trees()):
        path = FOLDER / f"{name}.json"
        if path.exists():
            print(f"{path} is there and stays")
            continue
        with tempfile.TemporaryDirectory() as folder:
            perform(name, Path(folder))
            found = read(name, Path(folder))
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(sys.argv[1:])
