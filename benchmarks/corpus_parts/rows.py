"""Made rows in shards, the same for the same number, and a run over them with a teacher of one fixed answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

SHARD = 250_000
"""Rows of a file."""
_WORDS, _SHORTEST, _LONGEST = 30_000, 8, 40
_TEACHER = '''"""Answers every text alike."""


def predict(texts):
    """Return the same probabilities for each text."""
    return [[0.7, 0.3]] * len(texts)


predict.labels = ("negative", "positive")
'''


def make_words() -> list[str]:
    """Return words of two to four syllables, the frequent ones first."""
    generator = np.random.default_rng(0)
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "ai", "or", "en")]
    words: dict[str, None] = {}
    while len(words) < _WORDS:
        words["".join(generator.choice(syllables, size=generator.integers(2, 5)))] = None
    return list(words)


def write_rows(folder: Path, rows: int, *, name: str = "train", seed: int = 1) -> list[Path]:
    """Write JSON lines in shards; files that are there are kept.

    Args:
        folder: Where to.
        rows: How many.
        name: How the files' names begin.
        seed: Of the first shard.
    """
    words = np.asarray(make_words(), dtype=object)
    shares = np.cumsum(1.0 / np.arange(1, _WORDS + 1))
    paths = []
    for at, begin in enumerate(range(0, rows, SHARD)):
        count = min(SHARD, rows - begin)
        path = folder / f"{name}-{at:03d}-{count}.jsonl"
        paths.append(path)
        if path.exists():
            continue
        generator = np.random.default_rng([seed, at])
        lengths = generator.integers(_SHORTEST, _LONGEST + 1, size=count)
        drawn = np.searchsorted(shares, generator.random(int(lengths.sum())) * shares[-1])
        fresh = path.with_suffix(".part")
        with fresh.open("w", encoding="utf-8") as file:
            for part in np.split(drawn, np.cumsum(lengths)[:-1]):
                label = "positive" if part.sum() % 2 else "negative"
                file.write(json.dumps({"text": " ".join(words[part]), "label": label, "lang": "en"}) + "\n")
        fresh.rename(path)
    return paths


def write_run(folder: Path, rows: int, steps: int, *, seed: int = 0) -> Path:
    """Write rows, teacher and run file of a corpus; return the run file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fixed.py").write_text(_TEACHER)
    data = {
        "labels": ["negative", "positive"],
        "languages": ["en"],
        "train": {"kind": "files", "paths": [str(p) for p in write_rows(folder, rows)]},
        "validation": {
            "kind": "files",
            "paths": [str(p) for p in write_rows(folder, 500, name="validation", seed=2)],
        },
    }
    run = {
        "name": f"corpus-{rows}-{seed}",
        "output": str(folder / "runs"),
        "seed": seed,
        "task": {"kind": "classification", "max_length": 64},
        "data": data,
        "student": {"kind": "transformer", "layers": 2, "hidden": 64, "heads": 2, "vocab_size": 8000},
        "teachers": [
            {"kind": "callable", "name": "fixed", "languages": "all", "function": "fixed.py:predict"}
        ],
        "objective": {"alpha": 0.5},
        "train": {"steps": steps, "batch_size": 32, "evaluations": 1},
    }
    path = folder / f"run-{rows}-{seed}.yaml"
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    return path
