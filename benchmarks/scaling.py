"""How cost grows with replicas, students, teachers and trials.

Usage: python -m benchmarks.scaling [--only replicas,students,teachers,trials] [--trials 1,16,64,256] [--seconds 4]
[--json FILE]

replicas  One student, and a teacher of 100 ms a batch in 1 to 8 replicas. The teacher sleeps, the path to it is a run's
          (queue, wire, choice of a replica, prefetch). A replica answers one batch at a time, so at most prefetch + 1
          of them work for one worker: prefetch is set to the number of replicas, and shown once at its default of 2.
students  1 to 8 students of 50 ms a step, each in its own process, and 8 replicas of the same teacher (80 batches/s).
teachers  What a batch costs the student's worker: asking teachers that are each in a process of its own (CPU time), and
          reading the stored answers of 1 to 100 teachers.
trials    Sweeps of 1 to 256 small real trials without teachers, two at once: what one more costs (least squares).

Goal: within 10 % of linear until the student (or, for students, the teachers) is the bound.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import show

COUNTS = (1, 2, 4, 8)
LATENCY_S, STEP_S, STUDENT_S = 0.1, 0.005, 0.05
GOAL = 0.9


def replicas(seconds: float) -> list[dict[str, Any]]:
    """Steps a second of one student by number of replicas."""
    from benchmarks.scaling_parts.teachers import SlowPool, steps_per_second

    lines = []
    for count, prefetch in [*((n, n) for n in COUNTS), (COUNTS[-1], 2)]:
        pool = SlowPool(count, LATENCY_S)
        rate = steps_per_second(pool.ready(), rank=0, prefetch=prefetch, step_s=STEP_S, seconds=seconds)
        pool.stop()
        at_once = min(count, prefetch + 1)
        lines.append({"count": count, "prefetch": prefetch, "rate": rate,
                      "bound": min(at_once / LATENCY_S, 1 / STEP_S)})  # fmt: skip
    return lines


def students(seconds: float) -> list[dict[str, Any]]:
    """Steps a second of all students together, by their number."""
    import ray

    from benchmarks.scaling_parts.teachers import SlowPool, Student

    lines = []
    pool = SlowPool(COUNTS[-1], LATENCY_S)
    handle = pool.ready()
    actors = [Student.remote() for _ in range(COUNTS[-1])]  # type: ignore[attr-defined]
    ray.get([actor.ready.remote() for actor in actors])
    for count in COUNTS:
        rates = ray.get([actors[i].run.remote(handle, i, 4, STUDENT_S, seconds) for i in range(count)])
        bound = min(count / STUDENT_S, COUNTS[-1] / LATENCY_S)
        lines.append({"count": count, "prefetch": 4, "rate": sum(rates), "bound": bound})
    pool.stop()
    for actor in actors:
        ray.kill(actor)
    return lines


def teachers() -> list[dict[str, Any]]:
    """Milliseconds of the worker a batch."""
    from benchmarks.scaling_parts.teachers import SlowPool, asking, reading

    lines = []
    for count in COUNTS:
        pool = SlowPool(1, 0.0, teachers=count)
        lines.append(
            {"way": "asked, a process each", "teachers": count, "ms": 1e3 * asking(pool.ready(), 300)}
        )
        pool.stop()
    for count in (1, 10, 100):
        with tempfile.TemporaryDirectory(prefix="raykd-") as folder:
            ms = 1e3 * reading(Path(folder), count, 50)
        lines.append({"way": "stored answers read", "teachers": count, "ms": ms})
    return lines


def _show_teachers(lines: Sequence[dict[str, Any]]) -> None:
    show(
        "Teachers: what a batch of 32 costs the student's worker",
        ("way", "teachers", "ms", "ms a teacher"),
        [(x["way"], str(x["teachers"]), f"{x['ms']:.2f}", f"{x['ms'] / x['teachers']:.3f}") for x in lines],
    )


def _show_rates(title: str, what: str, lines: Sequence[dict[str, Any]]) -> None:
    show(
        title,
        (what, "prefetch", "steps/s", "bound", "of the bound", f"goal {GOAL:.2f}"),
        [
            (str(line["count"]), str(line["prefetch"]), f"{line['rate']:.1f}", f"{line['bound']:.1f}",
             f"{line['rate'] / line['bound']:.2f}", "met" if line["rate"] / line["bound"] >= GOAL else "not met")
            for line in lines
        ],
    )  # fmt: skip


def _show_trials(costs: list[Any]) -> None:
    from benchmarks.scaling_parts.trials import slope

    lines = [
        (f"{c.trials}", f"{c.wall_s:.1f}", f"{c.cpu_s:.1f}", f"{c.resident / 1e6:.1f}", f"{c.journal / 1e3:.1f}",
         f"{c.database / 1e3:.0f}", f"{c.files}")
        for c in costs
    ]  # fmt: skip
    if len(costs) > 1:
        one = {of: slope(costs, of) for of in ("wall_s", "cpu_s", "resident", "journal", "database", "files")}
        lines.append(
            ("one more", f"{one['wall_s']:.2f}", f"{one['cpu_s']:.3f}", f"{one['resident'] / 1e6:.3f}",
             f"{one['journal'] / 1e3:.2f}", f"{one['database'] / 1e3:.1f}", f"{one['files']:.2f}")
        )  # fmt: skip
    show(
        "Trials: what a sweep needs, and its driver",
        ("trials", "wall s", "driver CPU s", "driver grew MB", "journal kB", "MLflow kB", "files"),
        lines,
    )


def main() -> None:
    """Runs what is asked for and prints a table each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="replicas,students,teachers,trials")
    parser.add_argument("--trials", default="1,16,64,256")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    from raykd.cluster.connection import connect_ray
    from raykd.config import RayConfig

    asked = set(options.only.split(","))
    found: dict[str, Any] = {}
    # The slow teachers sleep: their CPUs are places, not cores.
    connect_ray(RayConfig(num_cpus=2 if asked == {"trials"} else 16))
    if "replicas" in asked:
        found["replicas"] = replicas(options.seconds)
        _show_rates(f"One student, replicas of {LATENCY_S * 1e3:.0f} ms", "replicas", found["replicas"])
    if "students" in asked:
        found["students"] = students(options.seconds)
        title = (
            f"Students of {STUDENT_S * 1e3:.0f} ms a step, {COUNTS[-1]} replicas of {LATENCY_S * 1e3:.0f} ms"
        )
        _show_rates(title, "students", found["students"])
    if "teachers" in asked:
        found["teachers"] = teachers()
        _show_teachers(found["teachers"])
    if "trials" in asked:
        from benchmarks.scaling_parts.trials import run

        with tempfile.TemporaryDirectory(prefix="raykd-") as folder:
            counts = [int(count) for count in options.trials.split(",")]
            run(Path(folder) / "warm", 1, 2)  # what the first sweep of a process imports is no trial's cost
            costs = [run(Path(folder), count, 2) for count in counts]
        found["trials"] = [asdict(cost) for cost in costs]
        _show_trials(costs)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
