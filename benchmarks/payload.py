"""What a teacher of a language model sends: bytes a token, what distillation by it is worth, what reading it costs.

Usage: python -m benchmarks.payload [--data DIR] [--only sizes,gap,cost] [--seeds 5] [--quick] [--work DIR]
       [--processes 2] [--json FILE]

DIR holds {train,validation,test}.jsonl with tgt (and src, which is not read), and is called like en-fr; without it
the generated corpus is used. Without Ray: raykd's own loop, fed by a teacher that was trained first and whose answers
are kept (`--work`, so that a second call begins with the students).

sizes  Bytes a token of the bodies that the teacher sends, and of the file in which its store keeps them, for 256 rows;
       with what every body carries beside the answer: offset, entropy and gold log-probability (5 bytes a token).
gap    Negative log-likelihood a token of the test rows at T = 1. A form closes
       (undistilled - form) / (undistilled - dense) of the gap, seed by seed, with a 95 % t-interval; dense is every
       logit (hidden states and the teacher's head) at the same temperature. Students see a part of the teacher's rows
       and, but for the undistilled, no gold label; each keeps its best checkpoint on validation rows. Sampling is for
       T = 1, the others are shown at T = 2 too. Angles are between gradients of all weights of the undistilled student.
cost   Reading the answers as a share of a training step (batch of 32, raykd's default students, one thread); and head
       and loss of four monolingual teachers against one.

Goals: top-64 with tail, and sampling at no more than 40 bytes a token, close at least 95 % of the gap; reading costs
no more than 2 % of a step.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import Rounds, show
from raykd.report.comparisons.statistics import compute_t_interval

if TYPE_CHECKING:
    from benchmarks.payload_parts.cost import Cost
    from benchmarks.payload_parts.setting import Form, Setting
    from benchmarks.payload_parts.sizes import Size

GOAL_GAP, GOAL_SHARE = 0.95, 2.0


def _teacher(setting: Setting) -> dict[str, Any]:
    from benchmarks.payload_parts.gap import make_teacher

    return make_teacher(setting)


def _student(setting: Setting, form: Form | None, seed: int) -> dict[str, Any]:
    from benchmarks.payload_parts.gap import run_student

    found = run_student(setting, form, seed)
    print(f"{found['form']}, seed {seed}: {found['nll']:.4f} in {found['seconds']:.0f} s", flush=True)
    return found


def _angles(setting: Setting, forms: list[Form]) -> dict[str, float]:
    from benchmarks.payload_parts.gap import angles

    return angles(setting, forms)


def _sizes(setting: Setting) -> tuple[list[Size], int]:
    from benchmarks.payload_parts.sizes import sizes

    return sizes(setting)


def _costs(setting: Setting, steps: int) -> list[Cost]:
    from benchmarks.payload_parts.cost import costs

    return costs(setting, steps)


def _routing(form: str, rounds: int) -> Rounds:
    from benchmarks.payload_parts.cost import routing

    return routing(form, rounds)


def gap(pool: ProcessPoolExecutor, setting: Setting, draws: int, seeds: int) -> dict[str, Any]:
    """All students, and the angles; the undistilled ones first, since the angles are of one of them."""
    from benchmarks.payload_parts.setting import forms

    trained = forms(draws)
    # One seed of every form first: it is the one that computes the teacher's answers, which the others read.
    jobs = [(form, seed) for seed in range(seeds) for form in (None, *trained)]
    waiting = [pool.submit(_student, setting, form, seed) for form, seed in jobs]
    runs = [each.result() for each in waiting]
    return {"runs": runs, "angles": pool.submit(_angles, setting, trained).result()}


def closed(runs: Sequence[Mapping[str, Any]], form: Form, plain: str, dense: str) -> tuple[float, float]:
    """Mean and half-width over seeds of the share of the gap that a form closes."""
    told = {(run["form"], run["seed"]): float(run["nll"]) for run in runs}
    seeds = sorted({seed for _, seed in told})
    shares = [(told[plain, s] - told[form.name, s]) / (told[plain, s] - told[dense, s]) for s in seeds]
    mean, ends = float(np.mean(shares)), compute_t_interval(shares)
    return mean, float("nan") if ends is None else ends[1] - mean


def report_sizes(found: Sequence[Size]) -> None:
    """The table of bytes."""
    rows = [
        [size.name, f"{size.wire:.1f}", "" if size.stored is None else f"{size.stored:.1f}"] for size in found
    ]
    show("bytes a token", ["form", "on the wire", "in the store's file"], rows)


def report_gap(
    found: Mapping[str, Any], setting: Setting, sizes: Sequence[Size], draws: int
) -> list[dict[str, Any]]:
    """The table of students; gives the shares."""
    from benchmarks.payload_parts.setting import PLAIN, forms, sampled_name

    rows, lines = [], []
    wire = {size.name: size.wire for size in sizes}
    nll = {
        run["form"]: [r["nll"] for r in found["runs"] if r["form"] == run["form"]] for run in found["runs"]
    }
    rows.append([PLAIN, _mean(nll[PLAIN]), "", "", "", ""])
    for form in forms(draws):
        dense = f"dense, T = {form.temperature:g}"
        share, half = closed(found["runs"], form, PLAIN, dense)
        judged = form.name in ("top-64, T = 1", "top-64, T = 2", sampled_name(draws))
        verdict = ("met" if share >= GOAL_GAP else "NOT MET") if judged else ""
        name = form.name.rpartition(", T")[0]
        size = wire.get(name, wire.get(f"{name}, 5 temperatures", wire["hidden state"]))
        rows.append(
            [form.name, _mean(nll[form.name]), f"{100 * share:.1f} ± {100 * half:.1f} %",
             f"{found['angles'][form.name]:.2f}°", f"{size:.0f}", verdict]
        )  # fmt: skip
        lines.append({"form": form.name, "share": share, "half": half, "verdict": verdict})
    seeds = len({run["seed"] for run in found["runs"]})
    show(
        f"test NLL a token, mean ± sd over {seeds} seeds; teacher {found['teacher']['nll']:.4f}; "
        f"{setting.scale.rows} rows, {setting.scale.steps} steps",
        ["form", "NLL", "of the gap to dense", "angle", "bytes", ">= 95 %"],
        rows,
    )
    return lines


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def report_cost(found: Sequence[Cost], routed: Mapping[str, Rounds]) -> None:
    """The tables of times."""
    rows = [
        [c.name, f"{c.step:.1f}", f"{c.decoded:.2f}", f"{c.laid_out:.2f}", f"{c.collated:.2f}",
         f"{c.share:.2f} %", "met" if c.share <= GOAL_SHARE else "NOT MET"]
        for c in found
    ]  # fmt: skip
    heads = ["answers", "step", "decoded", "laid out, decoded", "collated", "of the step", "<= 2 %"]
    show("reading the answers, median ms", heads, rows)
    lines = []
    for form, rounds in routed.items():
        for arm in rounds.seconds:
            middle, low, high = rounds.ratio(arm, "one teacher")
            lines.append(
                [f"{form}: {arm}", f"{rounds.median_ms(arm):.0f}", f"{middle:.2f}", f"{low:.2f}-{high:.2f}"]
            )
    show("head and loss, 512 units x 30522 tokens", ["", "ms", "x one teacher", "quartiles"], lines)


def main() -> None:
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--only", default="sizes,gap,cost", help="parts, comma between; gap needs sizes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30, help="timed steps of a case of cost")
    parser.add_argument("--rounds", type=int, default=9, help="of several teachers against one")
    parser.add_argument(
        "--quick", action="store_true", help="small models and few steps: a check, no measurement"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-payload"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    # Before torch is imported here or in a process of the pool.
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        found = measured(pool, options)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


def measured(pool: ProcessPoolExecutor, options: argparse.Namespace) -> dict[str, Any]:
    """The parts that were asked for; prints each as it is done."""
    from benchmarks.payload_parts.setting import QUICK, Scale, Setting

    data = None if options.data is None else options.data.resolve()
    name = ("generated" if data is None else data.name) + ("-quick" if options.quick else "")
    setting = Setting(data, QUICK if options.quick else Scale(), options.work.resolve() / name)
    wanted, found = set(options.only.split(",")), dict[str, Any]()
    if wanted & {"sizes", "gap"}:
        found["teacher"] = pool.submit(_teacher, setting).result()
        sizes, draws = pool.submit(_sizes, setting).result()
        report_sizes(sizes)
        found["sizes"] = [asdict(size) for size in sizes]
    if "gap" in wanted:
        students = {**gap(pool, setting, draws, options.seeds), "teacher": found["teacher"]}
        found["gap"] = {**students, "closed": report_gap(students, setting, sizes, draws)}
    if "cost" in wanted:
        costs = pool.submit(_costs, setting, options.steps).result()
        kinds: tuple[str, ...] = ("top-64", "sampled", "hidden state")
        routed = {form: pool.submit(_routing, form, options.rounds).result() for form in kinds}
        report_cost(costs, routed)
        found["cost"] = [{**asdict(cost), "share": cost.share} for cost in costs]
        found["routing"] = {form: dict(rounds.seconds) for form, rounds in routed.items()}
    return found


if __name__ == "__main__":
    main()
