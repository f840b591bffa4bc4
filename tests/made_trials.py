"""A sweep as it might have been: conditionals, early stopping, trials that broke. Only numbers from a seed."""

import math

import numpy as np

from raykd.report.sweeps.trials import Evaluation, SweepReport, TrialRow


def row(
    name="t0000",
    scores=(0.5,),
    status="finished",
    sample=None,
    nlls=None,
    error=None,
    seconds=10.0,
    total=None,
):
    """A trial with one evaluation every 10 steps."""
    nlls = nlls if nlls is not None else [1.0] * len(scores)
    evaluations = tuple(
        Evaluation(at, 10 * at, s, n) for at, (s, n) in enumerate(zip(scores, nlls, strict=True), 1)
    )
    return TrialRow(
        name, status, sample or {}, evaluations, total or 10 * max(1, len(scores)), seconds, error
    )


def report_of(trials, rungs=(), **fields):
    known = {
        "title": "a sweep", "summary": "A search.", "metric": "accuracy", "higher_is_better": True, "best_yaml": "name: best\n",
        "space_yaml": "space: {}\n", "teachers": {}, "environment": {}, "facts": {}, "notes": (), "created": "2025-01-01",
    }  # fmt: skip
    return SweepReport(**{**known, **fields}, trials=tuple(trials), rungs=tuple(rungs))


def sample_of(rng):
    sample = {
        "objective.alpha": float(rng.uniform()),
        "train.learning_rate": float(10 ** rng.uniform(-4.3, -1.7)),
        "objective.temperature.kind": str(rng.choice(["constant", "linear", "cosine"])),
        "objective.temperature.start": float(rng.uniform(1, 8)),
        "train.batch_size": int(rng.choice([16, 32, 64])),
        "baseline": bool(rng.random() < 0.5),
    }
    if sample["objective.temperature.kind"] != "constant":
        sample["objective.temperature.end"] = float(rng.uniform(0.5, 3))
    return sample


def made_sweep(count=30, seed=0, rungs=(1, 3), end=9, mark="", **fields):
    """ASHA-like; trials 4 and 17 fail, 11 diverges. mark: goes into every text that comes from outside."""
    rng = np.random.default_rng(seed)
    boards = {rung: [] for rung in rungs}
    trials = []
    for at in range(count):
        sample = sample_of(rng)
        top = 0.86 - 0.06 * abs(math.log10(sample["train.learning_rate"]) + 2.9) ** 1.5 + rng.normal(0, 0.005)
        scores, status, error = [], "finished", None
        for e in range(1, end + 1):
            score = 0.5 + (top - 0.5) * (1 - math.exp(-0.7 * e)) + rng.normal(0, 0.004)
            if at == 11 and e == 2:
                scores, status, error = [*scores, math.nan], "diverged", f"the loss is not a number{mark}"
                break
            if at in (4, 17) and e == (3 if at == 4 else 1):
                status, error = "failed", f"a worker was lost{mark}"
                break
            scores.append(score)
            if e in boards and at not in (4, 11):
                boards[e].append(score)
                if len(boards[e]) > 3 and score < np.quantile(boards[e], 2 / 3):
                    status = "stopped"
                    break
        sample["student.name"] = f"small{mark}"
        nlls = [1.2 - s for s in scores]
        trials.append(
            row(f"t{at:04}{mark}", scores, status, sample, nlls, error, 3.0 * len(scores), 10 * end)
        )
    return report_of(trials, rungs, **fields)
