"""Does distillation help on real text? Undistilled, routed and uniformly averaged students over several seeds, paired.

Usage: python -m benchmarks.sentiment [--seeds 5] [--run examples/sentiment_zh_en_fr.yaml] [--output DIR] [key=value ...]

A seed draws the student's weights, the order of rows and the 300 labelled rows of each language; teachers are
trained once. All arms have the same steps, the same labelled rows and the best checkpoint on validation; the test
rows are read once a run. Differences are paired by seed, with 95 % t-intervals.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.stats import t as student_t

from benchmarks.measure import show
from raykd.config.loading import load_run
from raykd.runs.train import run_training
from raykd.scoring.outcome import Outcome

ROUTED, UNIFORM, PLAIN, ENSEMBLE = "distilled, routed", "distilled, uniform", "undistilled", "routed ensemble"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of the 95 % t-interval."""
    array = np.asarray(values)
    half = float(student_t.ppf(0.975, len(array) - 1)) * float(array.std(ddof=1)) / len(array) ** 0.5
    return float(array.mean()), half


def scores_of(outcome: Outcome, role: str) -> dict[str, float]:
    """Accuracy in per cent by language and as macro mean, and macro NLL and ECE, of one role's system."""
    score = next(s for p, s in outcome.table.systems if p.role == role)
    assert score.macro is not None
    by_language = {lang: 100 * m["accuracy"] for lang, m in score.by_language.items()}
    return {
        "macro": 100 * score.macro["accuracy"],
        **by_language,
        "nll": score.macro["nll"],
        "ece": 100 * score.macro["ece"],
    }


def run_seed(
    run: Path, output: Path, seed: int, overrides: Sequence[str], console: Console
) -> dict[str, dict[str, float]]:
    """All arms of one seed."""
    common = [f"seed={seed}", f"data.labelled_seed={seed}", f"output={json.dumps(str(output))}", *overrides]
    routed = run_training(
        load_run(run, [*common, f"name=routed-{seed}"]),
        console=console,
        overwrite=_exists(output, f"routed-{seed}"),
    )
    changes = ["objective.weighting={kind: uniform}", "baseline=false", f"name=uniform-{seed}"]
    uniform = run_training(
        load_run(run, [*common, *changes]), console=console, overwrite=_exists(output, f"uniform-{seed}")
    )
    teachers = {
        f"teacher {p.name}": {"macro": 100 * s.macro["accuracy"]}
        for p, s in routed.table.systems
        if p.role == "teacher" and s.macro is not None
    }
    return {
        PLAIN: scores_of(routed, "baseline"),
        ROUTED: scores_of(routed, "student"),
        UNIFORM: scores_of(uniform, "student"),
        ENSEMBLE: scores_of(routed, "ensemble"),
        **teachers,
    }


def _exists(output: Path, name: str) -> bool:
    return (output / name / "run.json").exists()


def report(seeds: list[dict[str, dict[str, float]]]) -> None:
    """Means of the arms and paired differences."""
    columns = list(seeds[0][ROUTED])
    lines = []
    for arm in (PLAIN, ROUTED, UNIFORM, ENSEMBLE):
        cells = [[s[arm].get(c, float("nan")) for s in seeds] for c in columns]
        lines.append([arm, *(f"{np.mean(v):.2f} ± {np.std(v, ddof=1):.2f}" for v in cells)])
    show(f"test, mean ± sd over {len(seeds)} seeds (accuracy and ECE in %)", ["arm", *columns], lines)
    lines = []
    for a, b in ((ROUTED, PLAIN), (UNIFORM, PLAIN), (ROUTED, UNIFORM), (ENSEMBLE, ROUTED)):
        row = [f"{a} - {b}"]
        for c in columns:
            mean, half = interval([s[a][c] - s[b][c] for s in seeds])
            row.append(f"{mean:+.2f} ± {half:.2f}")
        wins = sum(s[a]["macro"] > s[b]["macro"] for s in seeds)
        lines.append([*row, f"{wins}/{len(seeds)}"])
    show("paired differences with 95 % intervals (points)", ["difference", *columns, "wins"], lines)
    named = [arm for arm in seeds[0] if arm.startswith("teacher ")]
    show("teachers, test accuracy %", named, [[f"{seeds[0][n]['macro']:.1f}" for n in named]])


def main() -> None:
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--run", type=Path, default=Path("examples/sentiment_zh_en_fr.yaml"))
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    output = options.output or Path(tempfile.mkdtemp(prefix="raykd-sentiment-"))
    console = Console(width=118)
    seeds = [run_seed(options.run, output, seed, options.overrides, console) for seed in range(options.seeds)]
    (output / "seeds.json").write_text(json.dumps(seeds, indent=2), encoding="utf-8")
    report(seeds)


if __name__ == "__main__":
    main()
