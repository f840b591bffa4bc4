"""Paired differences between any arms of a comparison, and shares of a gain, seed by seed.

Usage: python -m benchmarks.arms runs/NAME/comparison.json [--metric f1] FIRST:SECOND [FIRST:SECOND:BASE ...]

FIRST:SECOND is a difference; FIRST:SECOND:BASE the share (FIRST - BASE) / (SECOND - BASE): how much of what SECOND gains
over BASE is gained by FIRST. A side is an arm, or several with commas between, whose mean it is:
`three:only_a,only_b,only_c` compares the students of three teachers with the mean student of one. It may also be what was
measured once, "teacher zh" or "teachers' ensemble", or a number (as tables show it) that was measured elsewhere; a
number is compared in the mean over languages alone.

`raykd compare` compares every arm with one baseline and corrects for the number of arms; here the pairs are the
reader's, and p is corrected (Holm) for the pairs of one call. Scores that are shares are shown in points. Intervals are
Student's t, 95 %, over the seeds that all sides have.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import show
from raykd.report.comparisons.differences import MACRO, find_scale
from raykd.report.comparisons.statistics import compute_t_interval, compute_t_test, correct_p_values
from raykd.tasks.scores.metrics import is_higher_better, is_rate

Scores = dict[int, float]
"""A score by seed."""


def read_side(comparison: dict[str, Any], side: str, name: str, factor: float = 1.0) -> Scores | None:
    """Return a score by seed: of one arm, the mean of several, of a reference, or a number.

    Args:
        comparison: Content of `comparison.json`.
        side: Names of arms, comma between; a reference; a number.
        name: ``split/language/metric``.
        factor: With which scores are shown; a number is divided by it.

    Returns:
        The scores; None where the side has none of this name (a teacher in a language that is not its own).

    Raises:
        SystemExit: There is no such arm.
    """
    seeds = [int(seed) for seed in comparison["seeds"]]
    references = {one["name"]: one["scores"] for one in comparison["references"]}
    if _is_number(side):
        return dict.fromkeys(seeds, float(side) / factor) if name.split("/")[1] == MACRO else None
    if side in references:
        return dict.fromkeys(seeds, references[side][name]) if name in references[side] else None
    arms = {arm["name"]: arm["students"] for arm in comparison["arms"]}
    unknown = [one for one in side.split(",") if one not in arms]
    if unknown:
        raise SystemExit(f"no arm {unknown[0]}; there are {', '.join([*arms, *references])}")
    scores = [
        {int(seed): one["scores"][name] for seed, one in arms[arm].items() if name in one["scores"]}
        for arm in side.split(",")
    ]
    common = set.intersection(*(set(one) for one in scores))
    return {seed: float(np.mean([one[seed] for one in scores])) for seed in sorted(common)}


def _is_number(side: str) -> bool:
    try:
        float(side)
    except ValueError:
        return False
    return True


def pair_sides(sides: Sequence[Scores], factor: float) -> NDArray[np.float64]:
    """Return the scores of all sides over the seeds that all have, [sides, seeds]."""
    seeds = sorted(set.intersection(*(set(side) for side in sides)))
    return factor * np.asarray([[side[seed] for seed in seeds] for side in sides])


def compare_sides(first: Scores, second: Scores, metric: str) -> tuple[list[str], float | None]:
    """Return the cells of a line (means, difference with its interval, wins), and the uncorrected p-value."""
    one, two = pair_sides([first, second], find_scale(metric))
    digits = 2 if is_rate(metric) else 3
    wins = int((one > two).sum() if is_higher_better(metric) else (one < two).sum())
    cells = [
        f"{one.mean():.{digits}f}",
        f"{two.mean():.{digits}f}",
        f"{(one - two).mean():+.{digits}f}",
        _format_ends(one - two, f"+.{digits}f"),
    ]
    return [*cells, f"{wins} of {len(one)}"], compute_t_test(one - two)


def share_gain(first: Scores, second: Scores, base: Scores) -> list[str]:
    """Return the cells of a line: the mean over seeds of the share of the gain, its interval, number of seeds."""
    one, two, none = pair_sides([first, second, base], 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (one - none) / (two - none)
    return [f"{share.mean():.2f}", _format_ends(share, ".2f"), str(len(share))]


def _format_ends(values: NDArray[np.float64], form: str) -> str:
    ends = compute_t_interval(values)
    return "" if ends is None else f"{ends[0]:{form}} to {ends[1]:{form}}"


def show_differences(comparison: dict[str, Any], pairs: Sequence[list[str]], metric: str) -> None:
    """Print one table for the mean over languages, and one for each language."""
    factor = find_scale(metric)
    for language in list_languages(comparison):
        name = f"{comparison['split']}/{language}/{metric}"
        found = []
        for pair in pairs:
            first, second = (read_side(comparison, side, name, factor) for side in pair)
            if first and second:
                found.append((pair, *compare_sides(first, second, metric)))
        corrected = correct_p_values([p for *_, p in found])
        lines = [
            [*pair, *cells, "" if p is None else f"{p:.4f}"]
            for (pair, cells, _), p in zip(found, corrected, strict=True)
        ]
        heads = ["first", "second", "mean", "mean", "first - second", "95 %", "wins", "p (Holm)"]
        show(f"{comparison['title']}: {comparison['split']} {metric}, {language}", heads, lines)


def show_shares(comparison: dict[str, Any], triples: Sequence[list[str]], metric: str) -> None:
    """Print the shares of gains in the mean over languages."""
    name, lines = f"{comparison['split']}/{MACRO}/{metric}", []
    for sides in triples:
        scores = [read_side(comparison, side, name, find_scale(metric)) for side in sides]
        known = [one for one in scores if one]
        lines.append([*sides, *(share_gain(*known) if len(known) == len(sides) else [])])
    heads = ["first", "second", "base", "share", "95 %", "seeds"]
    show(f"{comparison['title']}: (first - base) / (second - base), {name}", heads, lines)


def list_languages(comparison: dict[str, Any]) -> list[str]:
    """Return the mean and, where there are several, the languages of the rows that arms are compared on."""
    names = {name for arm in comparison["arms"] for one in arm["students"].values() for name in one["scores"]}
    languages = {name.split("/")[1] for name in names if name.startswith(f"{comparison['split']}/")} - {MACRO}
    return [MACRO, *(sorted(languages) if len(languages) > 1 else [])]


def main() -> None:
    """Read the comparison and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", type=Path)
    parser.add_argument("pairs", nargs="+", metavar="FIRST:SECOND[:BASE]")
    parser.add_argument("--metric", help="as in the file; without it the one that arms are compared by")
    options = parser.parse_args()
    comparison = json.loads(options.comparison.read_text(encoding="utf-8"))
    asked = [text.split(":") for text in options.pairs]
    wrong = [text for text, sides in zip(options.pairs, asked, strict=True) if len(sides) not in (2, 3)]
    if wrong:
        parser.error(f"got {wrong[0]}, wanted FIRST:SECOND or FIRST:SECOND:BASE")
    metric = options.metric or comparison["metric"]
    for count, show_table in ((2, show_differences), (3, show_shares)):
        chosen = [sides for sides in asked if len(sides) == count]
        if chosen:
            show_table(comparison, chosen, metric)


if __name__ == "__main__":
    main()
