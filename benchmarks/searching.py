"""Does a search pay, and does ASHA find the same for less? Over several seeds of the searcher, on fresh seeds of the winner.

Usage: python -m benchmarks.searching [--file FILE] [--searchers 3] [--seeds 10] [--grace 2] [--output runs] [key=value ...]

FILE is a search space (examples/experiments/search.yaml). For each seed of the searcher it is searched twice over the
same trials: in full, and with ASHA whose first rung lies at the evaluation `--grace`. Then the winner of each search and
the default are trained with the same fresh seeds (`raykd.compare`), and the test rows are read once a student. Searches
and trainings that are finished in the output folder are not run again. key=value changes keys of the space, for example
`set.data.test.paths=[...]`.

Printed: epochs (evaluations) that each ASHA spent and what it lost; the winners; importance of the searched keys over
the trials of all full searches; and ASHA replayed over their curves, in 2,000 random draws and orders of trials. A replay
asks one trial after the other, so it judges by the rungs that Tune would have seen in that order.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import raykd
from benchmarks.measure import show
from raykd.config import RunConfig
from raykd.config.home import read_folder_state
from raykd.config.loading import load_any_run
from raykd.report.sweeps.importance import compute_importance
from raykd.report.sweeps.trials import SweepReport, TrialRow
from raykd.tuning.config import Sweep, load_sweep
from raykd.tuning.journal import JOURNAL, Journal
from raykd.tuning.outcome import BEST

REPLAYS = 2000
DEFAULT = "default"


@dataclass(frozen=True)
class Searched:
    """A finished search.

    Attributes:
        folder: Its folder.
        plan: What was searched.
        trials: What was tried, in the order of their start.
    """

    folder: Path
    plan: Sweep
    trials: tuple[TrialRow, ...]

    @property
    def epochs(self) -> int:
        """Evaluations of all trials: a trial of a full search has `train.evaluations`."""
        return sum(len({e.evaluation for e in trial.evaluations}) for trial in self.trials)

    @property
    def best(self) -> TrialRow:
        """The winner."""
        return min(self.trials, key=lambda trial: trial.order)


def run_search(file: Path, output: Path, name: str, overrides: Sequence[str]) -> Searched:
    """Return the finished search of this name; run it where there is none, and go on with one that was cut off."""
    folder = output / name
    if (read_folder_state(folder) or {}).get("status") != "finished":
        raykd.sweep(file, [f"name={name}", f"set.output={output}", *overrides], resume=True)
    plan = load_sweep(folder / "space.yaml", check=False)
    known = sorted(Journal(folder / JOURNAL).trials.values(), key=lambda trial: trial.index)
    return Searched(folder, plan, tuple(trial.row(plan.mode == "max") for trial in known))


def find_winners(searches: Mapping[str, Searched]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return each different winner as an arm, and the arm of each search."""
    arms: dict[str, dict[str, Any]] = {DEFAULT: {}}
    of: dict[str, str] = {}
    for name, search in searches.items():
        run = load_any_run(search.folder / BEST)
        assert isinstance(run, RunConfig)
        changes = {
            "objective": run.objective.model_dump(mode="json"),
            "train": {"learning_rate": run.train.learning_rate},
        }
        of[name] = next((arm for arm, known in arms.items() if known == changes), name)
        arms.setdefault(of[name], changes)
    return arms, of


def replay_asha(best_NE: NDArray[np.float64], rungs: Sequence[int], reduction: float) -> tuple[int, float]:
    """Return the evaluations that ASHA spends on trials one after the other, and the best score that it saw.

    Args:
        best_NE: Best score so far of each trial at each evaluation, in the order of the trials.
        rungs: Evaluations at which trials are judged.
        reduction: One trial in so many passes a rung.
    """
    seen: dict[int, list[float]] = {rung: [] for rung in rungs}
    spent, best = 0, -np.inf
    for score_E in best_NE:
        length = len(score_E)
        for rung in rungs:
            known, now = seen[rung], float(score_E[rung - 1])
            cut = np.percentile(known, 100 * (1 - 1 / reduction)) if known else -np.inf
            known.append(now)
            if now < cut:
                length = rung
                break
        spent += length
        best = max(best, float(score_E[length - 1]))
    return spent, best


def replay(full: Sequence[Searched], grace: int, reduction: float = 3.0) -> list[str]:
    """Return a line of the replay: share of the epochs and loss of validation score, with 95 % ranges over draws."""
    trials = [trial for search in full for trial in search.trials]
    length = max(trial.last_evaluation for trial in trials)
    score_NE = np.asarray([[trial.score_at(e + 1) for e in range(length)] for trial in trials], dtype=float)
    best_NE = np.maximum.accumulate(score_NE, axis=1)
    rungs = []
    while grace < length:
        rungs.append(int(np.ceil(grace)))
        grace *= reduction  # type: ignore[assignment]
    rng, count = np.random.default_rng(0), len(full[0].trials)
    share, lost = [], []
    for _ in range(REPLAYS):
        drawn = rng.permutation(len(trials))[:count]
        spent, best = replay_asha(best_NE[drawn], rungs, reduction)
        share.append(100 * spent / (count * length))
        lost.append(100 * (float(best_NE[drawn, -1].max()) - best))
    ends = np.percentile(share, [2.5, 97.5]), np.percentile(lost, [2.5, 97.5])
    within = 100 * float(np.mean(np.asarray(lost) <= 0.3))
    return [
        ", ".join(map(str, rungs)),
        f"{np.mean(share):.1f} ({ends[0][0]:.1f} to {ends[0][1]:.1f})",
        f"{np.mean(lost):.2f} ({ends[1][0]:.2f} to {ends[1][1]:.2f})",
        f"{within:.0f}",
    ]


def merge_reports(full: Sequence[Searched]) -> SweepReport:
    """Return the trials of several searches of one space as one sweep."""
    trials = [
        replace(trial, name=f"{at}-{trial.name}") for at, one in enumerate(full) for trial in one.trials
    ]
    return SweepReport(
        "all searches", "", full[0].plan.metric, full[0].plan.mode == "max", tuple(trials), (), "", "", {}, {}, {}, (), ""
    )  # fmt: skip


def show_searches(searches: Mapping[str, Searched], of: Mapping[str, str], found: Any) -> None:
    """Print a line for each search: epochs, validation, test of its winner against the default."""
    differences = {d.arm: d for d in found.differences}
    lines = []
    for name, search in searches.items():
        whole = len(search.trials) * search.plan.base.train.evaluations
        settings = ", ".join(
            f"{key.rpartition('.')[2]} {value:.3g}" if isinstance(value, float) else str(value)
            for key, value in search.best.sample.items()
        )
        d = differences.get(of[name])
        test, apart = found.arms[of[name]], ""
        if d is not None and d.interval is not None:
            apart = f"{100 * d.mean:+.2f} ({100 * d.interval[0]:+.2f} to {100 * d.interval[1]:+.2f}), p {d.corrected_p:.3f}"
        lines.append(
            [name, settings, f"{search.epochs} ({100 * search.epochs / whole:.0f} %)",
             f"{100 * (search.best.score or 0):.2f}", f"{100 * test.mean:.2f}", apart]
        )  # fmt: skip
    lines.append([DEFAULT, "", "", "", f"{100 * found.arms[DEFAULT].mean:.2f}", ""])
    heads = ["search", "winner", "epochs", "validation", "test", "test: winner - default (95 %, p by Holm)"]
    show("searches and their winners", heads, lines)


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, default=Path("examples/experiments/search.yaml"))
    parser.add_argument("--searchers", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--grace", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("runs"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    overrides = options.overrides
    output, searches = options.output.resolve(), {}
    for kind in ("full", "asha"):
        scheduler = "{kind: fifo}" if kind == "full" else f"{{kind: asha, grace: {options.grace}}}"
        for seed in range(options.searchers):
            keys = [f"search.seed={seed}", f"scheduler={scheduler}", *overrides]
            searches[f"{kind}-{seed}"] = run_search(options.file, output, f"search-{kind}-{seed}", keys)
    arms, of = find_winners(searches)
    base = searches["full-0"].plan.base.model_dump(mode="json")
    seeds = list(range(1001, 1001 + options.seeds))
    found = raykd.compare(
        {"name": "search-winners", "base": base, "arms": arms, "baseline": DEFAULT, "seeds": seeds},
        resume=True,
    )
    show_searches(searches, of, found)
    full = [search for name, search in searches.items() if name.startswith("full")]
    heads = ["rungs", "% of the epochs (95 % of draws)", "points of validation lost", "% of draws within 0.3"]
    quarter = -(-full[0].plan.base.train.evaluations // 4)
    show(
        f"ASHA replayed, {REPLAYS} draws", heads, [replay(full, g) for g in sorted({options.grace, quarter})]
    )
    importance = compute_importance(merge_reports(full))
    if importance is not None:
        lines = [[k.label, f"{k.share:.2f}", f"{k.low:.2f} to {k.high:.2f}"] for k in importance.keys]
        show(f"importance. {importance.describe()}", ["key", "share", "95 %"], lines)


if __name__ == "__main__":
    main()
