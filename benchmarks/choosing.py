"""Measure what `raykd label --choose` is worth: gold labels of the rows that teachers dispute, against rows by chance.

    python -m benchmarks.choosing                 # 60 labels a language, 5 seeds; review sentences of ../shared/data
    python -m benchmarks.choosing --labels 200 --seeds 10 --output FOLDER

Three linear teachers know English, French and German, each two domains of half of the reviews, so they disagree. Of the
other half a student of another draw gets gold labels of some rows, and the rest as texts without labels. `chosen` are
the rows of `raykd label --choose`, the same for all seeds; `chance` draws others for each seed, with the label shares of
the data. `..._alone` learns from the labelled rows and no teacher.
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path
from typing import Any

import raykd

DATA = Path(__file__).parents[2] / "shared" / "data" / "sentiment"
LANGUAGES = ("en", "fr", "de")
DOMAINS = {"a": ("coursera", "food"), "b": ("hotel", "laptop"), "c": ("phone", "sight")}
COLUMNS = {"text": "text", "label": "label", "language": "lang", "id": "id"}
Row = dict[str, Any]


def main() -> None:
    """Choose rows, fill in their labels, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=int, default=60, help="labelled rows of each language (default 60)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each arm (default 5)")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of runs (default runs)")
    given = parser.parse_args()
    folder = (given.output / f"choosing-{given.labels}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for lang in LANGUAGES for row in map(json.loads, (DATA / lang / "train.jsonl").open())]
    # Rows of one id say the same in all languages, so they go to one side together.
    known = [row for row in rows if zlib.crc32(row["id"].encode()) % 2]
    pool = [row for row in rows if not zlib.crc32(row["id"].encode()) % 2]
    base = build_run(folder, known, pool)
    raykd.train(base, resume=True)
    chosen = folder / "chosen.jsonl"
    chosen.unlink(missing_ok=True)
    raykd.label(base, to=chosen, choose=given.labels * len(LANGUAGES))
    picked = {(row["lang"], row["id"]) for row in map(json.loads, chosen.open())}
    taken = [row for row in pool if (row["lang"], row["id"]) in picked]
    left = [row for row in pool if (row["lang"], row["id"]) not in picked]
    for name, part in (("taken", taken), ("pool", pool)):
        shares = {
            label: sum(row["label"] == label for row in part) / len(part) for label in base["data"]["labels"]
        }
        print(name, len(part), {label: f"{100 * share:.1f} %" for label, share in shares.items()})
    disputed = {
        "train": write(folder / "taken.jsonl", taken),
        "unlabeled": write(folder / "left.jsonl", left),
        "labelled_per_language": None,
    }
    by_chance = {"labelled_per_language": given.labels}
    alone = {"teachers": [], "objective": {"alpha": 1.0}}
    result = raykd.compare(
        {
            "name": "compared",
            "base": str(folder / "run.json"),
            "arms": {
                "chosen": {"data": disputed},
                "chance": {"data": by_chance},
                "chosen_alone": {"data": disputed, **alone},
                "chance_alone": {"data": by_chance, **alone},
            },
            "baseline": "chance",
            "resample_labelled": True,
            "seeds": given.seeds,
        },
        resume=True,
    )
    print((result.folder / "results.md").read_text(encoding="utf-8"))


def build_run(folder: Path, known: list[Row], pool: list[Row]) -> dict[str, Any]:
    """Write the run that has the teachers, all rows of the pool without labels."""
    held_out = {
        part: {"kind": "files", "paths": [str(DATA / lang / f"{part}.jsonl") for lang in LANGUAGES]}
        for part in ("validation", "test")
    }
    trainings = {
        name: write(folder / f"known_{name}.jsonl", [row for row in known if row["domain"] in domains])
        for name, domains in DOMAINS.items()
    }
    config = {
        "name": "teachers",
        "output": str(folder),
        "task": {"kind": "classification", "max_length": 64},
        "data": {
            "labels": ["negative", "positive"],
            "languages": list(LANGUAGES),
            "columns": COLUMNS,
            "train": write(folder / "pool.jsonl", pool),
            **held_out,
            "labelled_per_language": 1,
            "undrawn": "unlabeled",
            "labelled_share": 0.25,
        },
        "student": {"kind": "linear", "buckets": 32768},
        "teacher_defaults": {
            "actor": {"num_cpus": 0.25, "group": "teachers"},
            "training": {
                "data": {"labelled_per_language": None},
                "model": {"kind": "linear", "buckets": 32768},
                "train": {
                    "epochs": 6,
                    "batch_size": 32,
                    "learning_rate": 0.02,
                    "evaluations": 3,
                    "metric": "nll",
                },
                "workers": {"num_cpus": 1},
            },
        },
        "teachers": [
            {"name": name, "languages": "all", "on_poor": "warn", "training": {"data": {"train": source}}}
            for name, source in trainings.items()
        ],
        "objective": {"alpha": 0.5, "temperature": 2.0},
        "train": {"steps": 250, "batch_size": 64, "learning_rate": 0.02, "evaluations": 5},
    }
    (folder / "run.json").write_text(json.dumps(config), encoding="utf-8")
    return config


def write(path: Path, rows: list[Row]) -> dict[str, Any]:
    """Write rows, and return the source that reads them."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"kind": "files", "paths": [str(path)]}


if __name__ == "__main__":
    main()
