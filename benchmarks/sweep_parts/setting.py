"""What both arms of the sweep benchmark have in common: rows, teachers, student, steps; made once in a work folder.

Decision record: both arms read the same files, so that nothing but the way of working differs: the same rows, the
same three teachers with random weights (times are real, scores mean nothing), the same student, the same steps. The
plain arm must not import raykd, so raykd is imported only where the files are made.
"""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABELS = ("negative", "positive")
LANGUAGES = ("zh", "en", "fr")
MAX_LENGTH = 128
TEACHERS = ("t0", "t1", "t2")
EPOCHS = 2
ALPHA, TEMPERATURE = (0.1, 0.9), (1.0, 8.0)
FILE = "setting.json"


@dataclass(frozen=True)
class Setting:
    """One setting of the benchmark.

    data: folder with sentiment/{zh,en,fr}/{train,validation}.jsonl. work: where everything is written.
    steps: optimizer steps of a trial, over two epochs of the texts. cores: CPUs of the cluster, a trial holds one.
    layers, hidden: of a teacher.
    """

    data: Path
    work: Path
    steps: int = 48
    batch: int = 32
    validation: int = 60
    evaluations: int = 2
    cores: int = 2
    layers: int = 6
    hidden: int = 384

    @property
    def texts(self) -> int:
        """Training texts, all different."""
        return self.steps * self.batch // EPOCHS

    @property
    def teachers(self) -> list[Path]:
        """Folders of the teachers."""
        return [self.work / "models" / f"{name}-{self.layers}x{self.hidden}" for name in TEACHERS]

    @property
    def student(self) -> Path:
        """Folder of the student at its seeded start, for the plain arm."""
        return self.work / "models" / "student"

    def tree(self) -> dict[str, Any]:
        """As JSON."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}

    @staticmethod
    def read(work: Path) -> Setting:
        """The setting that `make` wrote."""
        tree = json.loads((work / FILE).read_text(encoding="utf-8"))
        return Setting(**{**tree, "data": Path(tree["data"]), "work": Path(tree["work"])})


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def make(setting: Setting) -> None:
    """Writes rows and models into the work folder; what is there for the same setting stays."""
    setting.work.mkdir(parents=True, exist_ok=True)
    file = setting.work / FILE
    if not file.exists() or Setting.read(setting.work) != setting:
        train, rest = _pick(setting, "train", setting.texts)
        _write(setting.work / "train.jsonl", train)
        _write(setting.work / "rest.jsonl", rest)
        _write(setting.work / "validation.jsonl", _pick(setting, "validation", setting.validation)[0])
    _make_models(setting)
    file.write_text(json.dumps(setting.tree()), encoding="utf-8")


def _pick(setting: Setting, split: str, count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """So many different texts, equally of all languages, and the rest."""
    picked: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    seen: set[str] = set()
    for at, language in enumerate(LANGUAGES):
        rows = []
        for row in read_lines(setting.data / "sentiment" / language / f"{split}.jsonl"):
            if row["text"] not in seen:
                seen.add(row["text"])
                rows.append({key: row[key] for key in ("text", "label", "lang")})
        random.Random(at).shuffle(rows)
        share = (count + len(LANGUAGES) - 1 - at) // len(LANGUAGES)
        if len(rows) < share:
            raise SystemExit(f"{language} {split} has {len(rows)} texts, {share} are wanted: lower --steps")
        picked += rows[:share]
        rest += rows[share:]
    return picked, rest


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


def _make_models(setting: Setting) -> None:
    from raykd import models

    rows = [r for name in ("train", "rest") for r in read_lines(setting.work / f"{name}.jsonl")]
    for seed, folder in enumerate(setting.teachers):
        if not folder.exists():
            heads = max(1, setting.hidden // 64)
            teacher = models.TransformerStudent(
                layers=setting.layers, hidden=setting.hidden, heads=heads, vocab_size=20000
            )
            _save(models, teacher, [r["text"] for r in rows], seed, folder)
    student = models.TransformerStudent(**STUDENT)
    _save(models, student, [r["text"] for r in read_lines(setting.work / "train.jsonl")], 0, setting.student)


STUDENT: dict[str, Any] = {"layers": 2, "hidden": 128, "heads": 2, "vocab_size": 8000}


def _save(models: Any, spec: Any, texts: list[str], seed: int, folder: Path) -> None:
    tokenizer = spec.fit_tokenizer(texts)
    model = models.TextModel(spec.build(tokenizer, LABELS, seed), tokenizer, LABELS, max_length=MAX_LENGTH)
    models.save_model(model, folder)


def run_tree(setting: Setting, output: Path) -> dict[str, Any]:
    """The run that every trial of the raykd arm begins with; two teacher processes of one CPU each answer ahead."""
    work, replicas = setting.work.resolve(), setting.cores
    share = round(1 / len(TEACHERS), 4)
    return {
        "output": str(output.resolve()),
        "data": {
            "train": {"kind": "files", "paths": [str(work / "train.jsonl")]},
            "validation": {"kind": "files", "paths": [str(work / "validation.jsonl")]},
            "labels": list(LABELS),
            "languages": list(LANGUAGES),
        },
        "task": {"kind": "classification", "max_length": MAX_LENGTH},
        "student": {"kind": "transformer", **STUDENT},
        "teachers": [
            {
                "name": name,
                "languages": "all",
                "path": str(path.resolve()),
                "on_poor": "warn",
                "actor": {"num_cpus": share, "group": "teachers", "replicas": replicas},
            }
            for name, path in zip(TEACHERS, setting.teachers, strict=True)
        ],
        "objective": {"alpha": 0.5, "temperature": 2.0, "weighting": {"kind": "uniform"}},
        "train": {"steps": setting.steps, "batch_size": setting.batch, "evaluations": setting.evaluations},
        "workers": {"num_workers": 1, "num_cpus": 1},
        "ray": {"num_cpus": setting.cores},
    }


def sweep_tree(setting: Setting, name: str, trials: int, output: Path) -> dict[str, Any]:
    """A sweep as `raykd sweep` takes it."""
    return {
        "name": name,
        "base": run_tree(setting, output),
        "space": {
            "objective": {"alpha": {"uniform": list(ALPHA)}, "temperature": {"uniform": list(TEMPERATURE)}}
        },
        "search": {"kind": "random", "seed": 0},
        "scheduler": {"kind": "fifo"},
        "num_samples": trials,
    }
