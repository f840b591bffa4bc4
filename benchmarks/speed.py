"""Texts a second of saved models at equal threads and in equal number formats: students beside their teachers.

Usage: python -m benchmarks.speed FILE --teachers FOLDER [FOLDER ...] --students FOLDER [FOLDER ...]
       [--texts 256] [--threads 1] [--rounds 5]

FILE holds JSON lines with the key `text`. A folder is one that `raykd predict` reads: `student` of a run, a folder of
`students/` of a comparison, or `model` of a trained teacher. Every system predicts the same texts through
`raykd.load(...).predict`, tokenisation included, once a round in turn; the first round is not counted. bfloat16 is
autocast over the same weights, which is how a CPU with AMX runs an encoder best. The teachers' ensemble takes as long
as all teachers together. A ratio is the median over rounds, with its quartiles.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import raykd
from benchmarks.measure import Rounds, alternate, show, timed

FORMATS = {"float32": None, "bfloat16": torch.bfloat16}
ENSEMBLE = "teachers together"


def name_systems(folders: Sequence[Path]) -> dict[str, Path]:
    """Return folders by the shortest ends of their paths that differ."""
    for parts in range(1, 8):
        names = ["/".join(folder.resolve().parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return dict(zip(names, folders, strict=True))
    raise SystemExit(f"the same folder twice: {', '.join(map(str, folders))}")


def time_systems(
    systems: dict[str, Path], texts: Sequence[str], rounds: int, dtype: torch.dtype | None
) -> Rounds:
    """Return seconds that each system takes for all texts, in each round."""
    models = {name: raykd.load(folder) for name, folder in systems.items()}
    for model in models.values():
        model.predict(
            list(texts[:2])
        )  # tests the model on itself, outside autocast, whose rounding it would find

    def run(name: str) -> float:
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            return timed(lambda: models[name].predict(list(texts)), 1)

    return alternate({name: lambda name=name: run(name) for name in models}, rounds)  # type: ignore[misc]


def add_ensemble(rounds: Rounds, teachers: Sequence[str]) -> Rounds:
    """Return the rounds with the time of all teachers together."""
    together = np.sum([rounds.seconds[name] for name in teachers], axis=0)
    return Rounds({**rounds.seconds, ENSEMBLE: [float(value) for value in together]})


def main() -> None:
    """Measure and print a table for each number format."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--teachers", type=Path, nargs="+", required=True)
    parser.add_argument("--students", type=Path, nargs="+", required=True)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with options.file.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file][: options.texts]
    systems = name_systems([*options.teachers, *options.students])
    teachers = list(systems)[: len(options.teachers)]
    for name, dtype in FORMATS.items():
        rounds = add_ensemble(time_systems(systems, texts, options.rounds, dtype), teachers)
        lines = []
        for system in (*teachers, ENSEMBLE, *list(systems)[len(teachers) :]):
            middle, low, high = rounds.ratio(ENSEMBLE, system)
            rate = 1e3 * len(texts) / rounds.median_ms(system)
            lines.append([system, f"{rate:,.0f}", f"{middle:.1f} ({low:.1f} to {high:.1f})"])
        title = f"{name}: {len(texts)} texts, {options.threads} thread(s), {options.rounds} rounds"
        show(title, ["system", "texts/s", "x faster (quartiles)"], lines)


if __name__ == "__main__":
    main()
