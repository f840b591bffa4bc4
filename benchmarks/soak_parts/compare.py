"""Whether what a run or a sweep left is what the unbroken one left, to the last point."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from benchmarks.soak_parts.world import World

CLOSE = 1e-6


def lost(world: World, kind: str, name: str) -> list[str]:
    """What is missing, double or different; empty where nothing is."""
    return _of_train(world, name) if kind == "train" else _of_sweep(world, name)


def _close(one: float | None, two: float | None) -> bool:
    if one is None or two is None:
        return one is two
    return math.isclose(float(one), float(two), rel_tol=CLOSE, abs_tol=CLOSE)


def _losses(world: World, name: str) -> list[tuple[int, float]]:
    rows = [r for r in world.lines("train", name) if r["job"] == "student" and "train/loss" in r["values"]]
    return [(int(r["step"]), float(r["values"]["train/loss"])) for r in rows]


def _of_train(world: World, name: str) -> list[str]:
    from safetensors.numpy import load_file

    wanted, found = _losses(world, "unbroken"), _losses(world, name)
    wrong = []
    if [step for step, _ in wanted] != [step for step, _ in found]:
        wrong.append(f"curve has {len(found)} points of {len(wanted)}")
    other = dict(found)
    apart = [step for step, loss in wanted if step in other and not _close(loss, other[step])]
    if apart:
        wrong.append(f"loss differs from step {apart[0]}, at {len(apart)} steps")
    ours, theirs = (load_file(world.runs / n / "student" / "model.safetensors") for n in (name, "unbroken"))
    far = max(float(abs(ours[k] - theirs[k]).max()) for k in theirs)
    if far > CLOSE:
        wrong.append(f"weights differ by {far:.2g}")
    return wrong + _points_twice(world, name, len(wanted))


def _points_twice(world: World, name: str, wanted: int) -> list[str]:
    """MLflow has each step of the loss once."""
    import json

    from mlflow import MlflowClient

    state = json.loads((world.runs / name / "run.json").read_text(encoding="utf-8"))
    client = MlflowClient(f"sqlite:///{world.database}")
    run = client.get_run(state["mlflow_run_id"])
    steps = Counter(m.step for m in client.get_metric_history(run.info.run_id, "train/loss"))
    wrong = [] if run.info.status == "FINISHED" else [f"MLflow run is {run.info.status}"]
    if len(steps) != wanted or max(steps.values(), default=0) > 1:
        wrong.append(f"MLflow has {len(steps)} of {wanted} steps, {sum(n > 1 for n in steps.values())} twice")
    return wrong


def _scores(world: World, name: str) -> dict[str, Any]:
    from raykd.tuning.journal import JOURNAL, Journal

    journal = Journal(world.runs / name / JOURNAL)
    return {
        t.name: (t.status, [v for e in t.row().evaluations for v in (e.score, e.nll)])
        for t in journal.trials.values()
    }


def _of_sweep(world: World, name: str) -> list[str]:
    wanted, found = _scores(world, "unbroken-sweep"), _scores(world, name)
    wrong = []
    for trial, (status, values) in wanted.items():
        if trial not in found:
            wrong.append(f"trial {trial} is missing")
            continue
        its, scores = found[trial]
        if its != status or len(scores) != len(values):
            wrong.append(
                f"trial {trial} is {its} with {len(scores) // 2} evaluations, not {status} with {len(values) // 2}"
            )
        elif not all(map(_close, values, scores)):
            wrong.append(f"trial {trial} has other scores")
    return wrong
