"""Quality on real text, with claims that were written down before they were measured.

Usage: python -m benchmarks.quality --data DIR [--only topic,ner,qa] [--seeds 5] [--work DIR] [--processes 2] [--json FILE]

DIR holds topic/{lang}, ner/{lang} and qa/{lang} with {train,validation,test}.jsonl. Everything runs in processes of one thread
each, without Ray: raykd's own training loop, fed by teachers that were trained first and answered every training text
once (`--work` keeps both, so that a second call begins with the students).

How it is measured. Teachers learn from all labelled training rows of their languages. The student has a few labelled
rows a language, drawn by the seed, and the texts of all training rows without labels. All arms have the student's
tokenizer, the same labelled rows, steps, batch size, checkpoints and evaluation; each arm chooses among four trials
(two learning rates; label smoothing 0 or 0.1 for the undistilled arm, alpha 0.1 or 0.3 for distilled ones) by its
validation score on a seed that is not reported; the two arms of claim d take what was chosen for the routed one. The best checkpoint on validation is kept; test rows are read once
a reported student. Scores are macro means over languages in points (accuracy; entity F1, seqeval strict). Differences
are paired by seed, with 95 % t-intervals. Teachers are trained once: a claim is about these teachers.

Claims, with their thresholds:
  gate   a teacher is at least 3 points better than the undistilled student in its own languages, mean over them;
         where one is not, the claims of its task are void. At least 98 % of the units are covered by every system
  a      topic: distilled (routed) beats undistilled; the whole interval is above 0
  b      NER: the same
  c      NER: routed beats uniform; the whole interval is above 0. Both arms have four monolingual teachers and one
         multilingual one. Routed: each monolingual teacher is declared for its language, so it alone answers for it.
         Uniform: the same five models are all declared for any language, all answer every sentence and count alike
  d      NER: a multilingual teacher of another tokenizer (byte pairs) keeps at least 95 % of the gain over the
         undistilled student that one with the student's own tokenizer gives, of the same architecture and rows, and of
         equal quality: of its checkpoints that one is taken whose validation score is nearest to the other's best.
         `met` if the mean of the seeds' ratios is, `shown` if the interval is; void where the two teachers' own test
         scores differ by more than 2 points
  e      QA, all rows labelled, one teacher of all languages: the undistilled and the distilled student beat the sentence
         that shares most words with the question; the whole interval is above 0. Two trials an arm, one learning rate
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import show
from benchmarks.quality_parts.setting import PLAIN, TUNING_SEED, Arm, Claim, Experiment
from benchmarks.sentiment import interval

GATE = 3.0
"""Points by which a teacher must be better than the undistilled student."""
ALIKE = 2.0
"""Points by which teachers of equal quality may differ."""
COVERED = 98.0
"""Per cent of the units that every system must say something about."""


def _quiet() -> None:
    """A process of the pool: one thread, no progress bars."""
    import torch

    torch.set_num_threads(1)


def _teacher(work: Path, experiment: Experiment, name: str) -> dict[str, Any]:
    from benchmarks.quality_parts.fitting import make_teacher

    return make_teacher(work, experiment, experiment.maker(name))


def _student(
    work: Path, experiment: Experiment, arm: str, trial: int, seed: int, test: bool
) -> dict[str, Any]:
    from benchmarks.quality_parts.fitting import run_student

    return run_student(work, experiment, experiment.arm(arm), trial, seed, test=test)


def _floor(work: Path, experiment: Experiment, name: str) -> dict[str, Any]:
    from benchmarks.quality_parts.fitting import floor

    return {"arm": name, "test": floor(experiment, name)}


def _tell(experiment: str, job: tuple[Any, ...], done: Future[dict[str, Any]]) -> None:
    """A line a job, so that a reader sees that something happens."""
    if done.exception() is None:
        found = done.result()
        figures = {
            name: value
            for name, value in found.items()
            if name in ("validation", "test", "seconds", "train_s")
        }
        print(experiment, *job, _rounded(figures), file=sys.stderr, flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return round(value, 2)


def chosen_trials(tuned: Sequence[Mapping[str, Any]], arms: Sequence[Arm]) -> dict[str, int]:
    """For each arm the trial with the best validation score."""
    best: dict[str, int] = {}
    for arm in arms:
        if arm.as_chosen_for is None:
            mine = [run for run in tuned if run["arm"] == arm.name]
            best[arm.name] = int(max(mine, key=lambda run: float(run["validation"]))["trial"])
    for arm in arms:
        if arm.as_chosen_for is not None:
            best[arm.name] = best[arm.as_chosen_for]
    return best


def measured(pool: ProcessPoolExecutor, work: Path, experiment: Experiment, seeds: int) -> dict[str, Any]:
    """Teachers, tuning, students of one experiment."""

    def over(call: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
        waiting = [pool.submit(call, work, experiment, *job) for job in jobs]
        for job, one in zip(jobs, waiting, strict=True):
            one.add_done_callback(functools.partial(_tell, experiment.name, job))
        return [one.result() for one in waiting]

    free = [m.name for m in experiment.teachers if m.like is None]
    bound = [
        m.name for m in experiment.teachers if m.like is not None
    ]  # after those that they are to be like
    teachers = over(_teacher, [(name,) for name in free]) + over(_teacher, [(name,) for name in bound])
    own = [arm for arm in experiment.arms if arm.as_chosen_for is None]
    jobs = [(arm.name, trial, TUNING_SEED, False) for arm in own for trial in range(len(arm.trials))]
    tuned = over(_student, jobs)
    best = chosen_trials(tuned, experiment.arms)
    runs = over(_student, [(a.name, best[a.name], s, True) for s in range(seeds) for a in experiment.arms])
    for floor in over(_floor, [(name,) for name in experiment.floors]):
        runs += [{**floor, "seed": seed} for seed in range(seeds)]
    return {"teachers": teachers, "tuned": tuned, "chosen": best, "runs": runs}


def verdicts(experiment: Experiment, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Gates and claims: figure, half-width of its interval, whether it is met."""
    plain = scores(found["runs"], PLAIN)
    teachers = {teacher["teacher"]: teacher for teacher in found["teachers"]}
    lines = []
    for name, teacher in teachers.items():
        gain = np.mean([teacher["test"][lang] - np.mean(plain[lang]) for lang in teacher["own"]])
        lines.append(
            gate(f"{experiment.name} teacher {name} - undistilled", gain, gain >= GATE, f">= {GATE}")
        )
    said = [*found["teachers"], *found["runs"]]
    covered = min(one["test"].get("covered", 100.0) for one in said)
    lines.append(gate("units covered, the least of all, %", covered, covered >= COVERED, f">= {COVERED}"))
    for claim in experiment.claims:
        if claim.alike is not None:
            one, two = (teachers[name]["test"]["macro"] for name in claim.alike)
            text = f"teacher {claim.alike[0]} - teacher {claim.alike[1]}"
            lines.append(gate(text, one - two, abs(one - two) <= ALIKE, f"within {ALIKE}"))
        lines.append(judged(claim, found["runs"]))
    return lines


def gate(text: str, value: float, met: bool, wanted: str) -> dict[str, Any]:
    """A condition without which claims say nothing."""
    verdict = "met" if met else "VOID"
    return {
        "claim": f"gate: {text}",
        "value": float(value),
        "half": 0.0,
        "wanted": wanted,
        "verdict": verdict,
    }


def judged(claim: Claim, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One claim on the macro score."""
    better, worse = (np.asarray(scores(runs, name)["macro"]) for name in (claim.better, claim.worse))
    if claim.base is None:
        mean, half = interval((better - worse).tolist())
        met = "met" if mean - half > claim.least else "NOT MET"
        wins = int((better > worse).sum())
        wanted = f"interval above {claim.least:g}"
    else:
        base = np.asarray(scores(runs, claim.base)["macro"])
        ratio = (better - base) / (worse - base)
        mean, half = interval(ratio.tolist())
        met = "shown" if mean - half >= claim.least else "met" if mean >= claim.least else "NOT MET"
        wins = int((ratio >= claim.least).sum())
        wanted = f"ratio of gains >= {claim.least:g}"
    return {"claim": claim.text, "value": mean, "half": half, "wanted": wanted, "verdict": met, "wins": wins}


def scores(runs: Sequence[Mapping[str, Any]], arm: str) -> dict[str, list[float]]:
    """Test scores of an arm, a list over seeds for each language and the macro mean."""
    own = sorted((run for run in runs if run["arm"] == arm), key=lambda run: int(run["seed"]))
    return {name: [run["test"][name] for run in own] for name in own[0]["test"]}


def report(experiment: Experiment, found: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
    """The tables of one experiment."""
    columns = list(found["runs"][0]["test"])
    rows = []
    for teacher in found["teachers"]:
        name = f"teacher {teacher['teacher']} ({teacher['parameters'] / 1e6:.1f} M)"
        rows.append([name, *(f"{teacher['test'][c]:.1f}" for c in columns), ""])
    for arm in experiment.arms:
        own = scores(found["runs"], arm.name)
        cells = [f"{np.mean(own[c]):.1f} ± {np.std(own[c], ddof=1):.1f}" for c in columns]
        trial = arm.trials[found["chosen"][arm.name]]
        chosen = ", ".join(f"{k} {v:g}" for part in trial.values() for k, v in part.items())
        rows.append([arm.name, *cells, chosen])
    for name in experiment.floors:
        rows.append(
            [name, *(f"{scores(found['runs'], name).get(c, [float('nan')])[0]:.1f}" for c in columns), ""]
        )
    first = found["runs"][0]
    seeds = len({run["seed"] for run in found["runs"]})
    title = (
        f"{experiment.name}: test {experiment.metric} in points, mean ± sd over {seeds} seeds; students of "
        f"{first['parameters'] / 1e6:.2f} M parameters, {first['steps']} steps"
    )
    show(title, ["", *columns, "chosen on validation"], rows)
    verdict_rows = [
        [x["claim"], f"{x['value']:+.2f}" + (f" ± {x['half']:.2f}" if x["half"] else ""), x["wanted"],
         f"{x['wins']}/{seeds}" if "wins" in x else "", x["verdict"]]
        for x in lines
    ]  # fmt: skip
    show(
        "claims (paired by seed, 95 % t-intervals)", ["claim", "measured", "wanted", "wins", ""], verdict_rows
    )


def main() -> None:
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default="topic,ner,qa", help="experiments, comma between")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-quality"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    # Before torch is imported here or in a process of the pool.
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    from benchmarks.quality_parts.experiments import EXPERIMENTS

    everything: dict[str, Any] = {}
    with ProcessPoolExecutor(options.processes, get_context("spawn"), initializer=_quiet) as pool:
        for name in options.only.split(","):
            experiment = EXPERIMENTS[name](options.data)
            found = measured(pool, options.work.resolve(), experiment, options.seeds)
            lines = verdicts(experiment, found)
            report(experiment, found, lines)
            everything[name] = {**found, "verdicts": lines}
            if options.json is not None:
                options.json.write_text(json.dumps(everything, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
