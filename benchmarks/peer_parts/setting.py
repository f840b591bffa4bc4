"""What raykd and its peers have in common: rows, teachers, student, steps; made once in a work folder.

Decision record: all arms read the same files and start from the same saved student, so that nothing but the way of
working differs. Weights are random: times are real, scores mean nothing. The peers must not import raykd, so raykd is
imported only where the files are made.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.sweep_parts.setting import LABELS, LANGUAGES, MAX_LENGTH, STUDENT, TEACHERS, read_lines

EPOCHS, BATCH = 3, 32
ALPHA, TEMPERATURE, LEARNING_RATE = 0.5, 2.0, 1e-3
FILE = "setting.json"


@dataclass(frozen=True)
class Setting:
    """One setting of the benchmark.

    Attributes:
        work: Folder that holds rows, models and what the arms write.
        texts: Training texts, all different.
        held_out: Validation texts, scored after each epoch.
        layers: Of a teacher.
        hidden: Width of a teacher.
        cores: Threads that an arm may use in all.
        data: Folder with sentiment/{zh,en,fr}/train.jsonl; empty takes the corpus that raykd ships.
    """

    work: str
    texts: int = 2_000
    held_out: int = 60
    layers: int = 6
    hidden: int = 384
    cores: int = 2
    data: str = ""

    @property
    def folder(self) -> Path:
        """The work folder."""
        return Path(self.work)

    @property
    def teachers(self) -> list[Path]:
        """Folders of the teachers."""
        return [self.folder / "models" / f"{name}-{self.layers}x{self.hidden}" for name in TEACHERS]

    @property
    def student(self) -> Path:
        """Folder of the student at its seeded start."""
        return self.folder / "models" / "student"


def read_setting(work: Path) -> Setting:
    """Return the setting that `make_files` wrote."""
    return Setting(**json.loads((work / FILE).read_text(encoding="utf-8")))


def make_files(setting: Setting) -> None:
    """Write rows and models into the work folder; what is there for the same setting stays."""
    setting.folder.mkdir(parents=True, exist_ok=True)
    file = setting.folder / FILE
    if file.exists() and read_setting(setting.folder) == setting:
        return
    for split, count in (("train", setting.texts), ("validation", setting.held_out)):
        lines = [json.dumps(row, ensure_ascii=False) for row in _pick_rows(setting, split, count)]
        (setting.folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _make_models(setting)
    file.write_text(json.dumps(asdict(setting)), encoding="utf-8")


def _pick_rows(setting: Setting, split: str, count: int) -> list[dict[str, Any]]:
    """Return so many different texts, equally of all languages."""
    picked = []
    for at, language in enumerate(LANGUAGES):
        share = (count + len(LANGUAGES) - 1 - at) // len(LANGUAGES)
        rows = list({row["text"]: row for row in _rows_of(setting, language, split, share)}.values())
        if len(rows) < share:
            raise SystemExit(f"{language} {split} has {len(rows)} texts, {share} are wanted")
        picked += rows[:share]
    return picked


def _rows_of(setting: Setting, language: str, split: str, count: int) -> list[dict[str, Any]]:
    if setting.data:
        rows = read_lines(Path(setting.data) / "sentiment" / language / f"{split}.jsonl")
        return [{key: row[key] for key in ("text", "label", "lang")} for row in rows]
    from raykd.config import Embedded
    from raykd.data.embedded.rows import read_corpus

    rows = read_corpus(Embedded(split=split, rows_per_language=count), [language], "text")  # type: ignore[arg-type]
    labels = [LABELS[int(label)] for label in rows.labels_B]
    return [
        {"text": text, "label": label, "lang": language}
        for text, label in zip(rows.texts, labels, strict=True)
    ]


def _make_models(setting: Setting) -> None:
    from raykd import models

    texts = [row["text"] for row in read_lines(setting.folder / "train.jsonl")]
    teacher = {"layers": setting.layers, "hidden": setting.hidden, "heads": max(1, setting.hidden // 64)}
    specs = [(folder, {**teacher, "vocab_size": 20_000}) for folder in setting.teachers]
    for seed, (folder, sizes) in enumerate([*specs, (setting.student, STUDENT)]):
        spec = models.TransformerStudent(**sizes)
        tokenizer = spec.fit_tokenizer(texts)
        model = spec.build(tokenizer, LABELS, seed)
        models.save_model(models.TextModel(model, tokenizer, LABELS, max_length=MAX_LENGTH), folder)


def run_tree(setting: Setting, output: Path, precision: str) -> dict[str, Any]:
    """Return the run file of the raykd arm.

    Args:
        setting: What is run.
        output: Folder of the run and of the store of answers.
        precision: ``float32``, or ``default`` for what raykd takes by itself.
    """
    work = setting.folder.resolve()
    files = {s: {"kind": "files", "paths": [str(work / f"{s}.jsonl")]} for s in ("train", "validation")}
    return {
        "name": "peer",
        "output": str(output.resolve()),
        "data": {**files, "labels": list(LABELS), "languages": list(LANGUAGES)},
        "task": {"kind": "classification", "max_length": MAX_LENGTH},
        "student": {"kind": "pretrained", "path": str(setting.student.resolve())},
        "teachers": [
            {
                "name": name,
                "languages": "all",
                "path": str(folder.resolve()),
                "on_poor": "warn",
                # All share one process of one thread beside the student's.
                "actor": {"num_cpus": round(1 / len(TEACHERS), 4), "group": "teachers"},
            }
            for name, folder in zip(TEACHERS, setting.teachers, strict=True)
        ],
        "objective": {"alpha": ALPHA, "temperature": TEMPERATURE, "weighting": {"kind": "uniform"}},
        "train": {
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "evaluations": EPOCHS,
            "learning_rate": LEARNING_RATE,
        },
        "ray": {"num_cpus": setting.cores},
        **({"serving": {"dtype": "float32"}} if precision == "float32" else {}),
    }
