"""Does an arm's effect depend on the setting? The same arms in two comparisons: effect in each, and their difference.

Usage: python -m benchmarks.interaction runs/ONE runs/OTHER [--metric accuracy]

Both folders are of `raykd compare`, with the same arms, baseline and seeds, and differ in one setting (for example
`set.data.labelled_per_language`). For each arm: its difference to the baseline in each folder, and the difference of
the two, seed by seed, with Student's t 95 % intervals and p corrected (Holm) for the number of arms.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import show
from raykd.report.comparisons.differences import MACRO
from raykd.report.comparisons.statistics import compute_t_interval, compute_t_test, correct_p_values


def read_effects(comparison: dict[str, Any], metric: str) -> dict[str, dict[int, float]]:
    """Return each arm's difference to the baseline in points, by seed."""
    name = f"{comparison['split']}/{MACRO}/{metric}"
    scores = {
        arm["name"]: {int(seed): 100 * one["scores"][name] for seed, one in arm["students"].items()}
        for arm in comparison["arms"]
    }
    base = scores.pop(comparison["baseline"])
    return {
        arm: {seed: value - base[seed] for seed, value in own.items() if seed in base}
        for arm, own in scores.items()
    }


def describe_interval(values: NDArray[np.float64]) -> str:
    """Return mean and interval as text."""
    ends = compute_t_interval(values)
    return f"{values.mean():+.2f}" + ("" if ends is None else f" ({ends[0]:+.2f} to {ends[1]:+.2f})")


def main() -> None:
    """Read both comparisons and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--metric", default="accuracy")
    options = parser.parse_args()
    both = [
        json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
        for folder in (options.one, options.other)
    ]
    one, other = (read_effects(comparison, options.metric) for comparison in both)
    lines, apart = [], []
    for arm in one:
        seeds = sorted(set(one[arm]) & set(other.get(arm, {})))
        first, second = (np.asarray([effects[arm][seed] for seed in seeds]) for effects in (one, other))
        apart.append(compute_t_test(second - first))
        lines.append([arm, *map(describe_interval, (first, second, second - first))])
    for line, p in zip(lines, correct_p_values(apart), strict=True):
        line.append("" if p is None else f"{p:.4f}")
    heads = [f"minus {both[0]['baseline']}", options.one.name, options.other.name, "difference", "p (Holm)"]
    show(f"{options.metric}, points (95 %)", heads, lines)


if __name__ == "__main__":
    main()
