"""Paired differences between any arms of a comparison, or means of arms, seed by seed.

Usage: python -m benchmarks.arms runs/NAME/comparison.json [--metric f1] FIRST:SECOND [FIRST:SECOND ...]

A side is an arm, or several with commas between, whose mean it is: `three:only_a,only_b,only_c` compares the students of
three teachers with the mean student of one. `raykd compare` compares every arm with one baseline and corrects for the
number of arms; here the pairs are the reader's, and p is corrected (Holm) for the pairs of one call.

Scores that are shares are shown in points. Intervals are Student's t, 95 %, over the seeds that both sides have.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import show
from raykd.report.comparisons.differences import MACRO
from raykd.report.comparisons.statistics import compute_t_interval, compute_t_test, correct_p_values
from raykd.tasks.scores.metrics import is_out_of_hundred, is_rate


def read_side(comparison: dict[str, Any], side: str, name: str) -> dict[int, float]:
    """Return a score by seed: of one arm, or the mean of several.

    Args:
        comparison: Content of `comparison.json`.
        side: Names of arms, comma between.
        name: ``split/language/metric``.

    Raises:
        SystemExit: There is no such arm.
    """
    arms = {arm["name"]: arm["students"] for arm in comparison["arms"]}
    unknown = [one for one in side.split(",") if one not in arms]
    if unknown:
        raise SystemExit(f"no arm {unknown[0]}; there are {', '.join(arms)}")
    scores = [
        {
            int(seed): student["scores"][name]
            for seed, student in arms[one].items()
            if name in student["scores"]
        }
        for one in side.split(",")
    ]
    seeds = set.intersection(*(set(one) for one in scores))
    return {seed: float(np.mean([one[seed] for one in scores])) for seed in sorted(seeds)}


def compare_sides(
    first: dict[int, float], second: dict[int, float], factor: float
) -> tuple[list[str], float | None]:
    """Return the cells of a line (means, difference with its interval, wins), and the uncorrected p-value."""
    seeds = sorted(set(first) & set(second))
    one, two = (factor * np.asarray([side[seed] for seed in seeds]) for side in (first, second))
    interval = compute_t_interval(one - two)
    ends = "" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
    cells = [f"{one.mean():.2f}", f"{two.mean():.2f}", f"{(one - two).mean():+.2f}", ends]
    return [*cells, f"{int((one > two).sum())} of {len(seeds)}"], compute_t_test(one - two)


def show_pairs(comparison: dict[str, Any], pairs: Sequence[tuple[str, str]], metric: str) -> None:
    """Print one table for the mean over languages, and one for each language."""
    split = comparison["split"]
    names = {name for arm in comparison["arms"] for one in arm["students"].values() for name in one["scores"]}
    languages = sorted({name.split("/")[1] for name in names if name.startswith(f"{split}/")} - {MACRO})
    factor = 100.0 if is_rate(metric) and not is_out_of_hundred(metric) else 1.0
    for language in [MACRO, *(languages if len(languages) > 1 else [])]:
        found = [
            compare_sides(
                *(read_side(comparison, side, f"{split}/{language}/{metric}") for side in pair), factor
            )
            for pair in pairs
        ]
        corrected = correct_p_values([p for _, p in found])
        lines = [
            [*pair, *cells, "" if p is None else f"{p:.4f}"]
            for pair, (cells, _), p in zip(pairs, found, corrected, strict=True)
        ]
        heads = ["first", "second", "mean", "mean", "first - second", "95 %", "wins", "p (Holm)"]
        show(f"{comparison['title']}: {split} {metric}, {language}", heads, lines)


def main() -> None:
    """Read the comparison and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", type=Path)
    parser.add_argument("pairs", nargs="+", metavar="FIRST:SECOND")
    parser.add_argument("--metric", help="as in the file; without it the one that arms are compared by")
    options = parser.parse_args()
    comparison = json.loads(options.comparison.read_text(encoding="utf-8"))
    pairs = [(first, second) for first, _, second in (pair.partition(":") for pair in options.pairs)]
    show_pairs(comparison, pairs, options.metric or comparison["metric"])


if __name__ == "__main__":
    main()
