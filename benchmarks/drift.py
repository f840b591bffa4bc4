"""Measure how often `raykd drift` raises an alarm on texts like those of training, and on others.

    raykd train examples/sentiment_small_en_fr_de.yaml name=en_fr data.select_languages=[en,fr] select_teachers=[en,fr]
    python -m benchmarks.drift runs/en_fr

Windows of several sizes are drawn from the test rows of the same reviews (an alarm is a false one), from subtitles
(other sentences with the same labels), and from encyclopedia sentences of the topic data; of ../shared/data, English
and French. Each figure is of 200 windows at the level 0.99.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from raykd.config import Files
from raykd.config.loading import load_run
from raykd.driver.jobs import load_rows
from raykd.scoring.evaluation.drift import (
    Distances,
    compare_distances,
    measure_distances,
    open_run_teachers,
    read_new_texts,
)

DATA = Path(__file__).parents[2] / "shared" / "data"
SETS = {"test": "sentiment", "subtitles": "sentiment_subtitles", "topic": "topic"}
SIZES = (50, 100, 200, 400)
WINDOWS = 200
LEVEL = 0.99


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run on English and French reviews")
    folder = parser.parse_args().run.resolve()
    config = load_run(folder)
    teachers = open_run_teachers(config, folder)
    known = measure_distances(config, folder, teachers, load_rows(config)[""].validation.without_labels())
    print("| texts | number | mean divergence | " + " | ".join(f"windows of {n}" for n in SIZES) + " |")
    print("|---" * (3 + len(SIZES)) + "|")
    print(f"| validation | {len(known.kl_B)} | {np.nanmean(known.kl_B):.3f} |" + " |" * len(SIZES))
    for name, place in SETS.items():
        source = Files(paths=tuple(str(DATA / place / lang / "test.jsonl") for lang in ("en", "fr")))
        found = measure_distances(config, folder, teachers, read_new_texts(config, source).without_labels())
        cells = [f"{100 * count_alarms(known, found, size):.1f} %" for size in SIZES]
        print(f"| {name} | {len(found.kl_B)} | {np.nanmean(found.kl_B):.3f} | " + " | ".join(cells) + " |")


def count_alarms(known: Distances, found: Distances, size: int) -> float:
    """Return the share of windows of this size, drawn without replacement, that are said to have drifted."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(WINDOWS):
        at = rng.choice(len(found.kl_B), size=size, replace=False)
        window = Distances(found.kl_B[at], found.same_B[at], found.languages[at])
        alarms += compare_distances(known, window, level=LEVEL).drifted
    return alarms / WINDOWS


if __name__ == "__main__":
    main()
