"""What comes before the work: `--help`, `raykd check`, and a run until its first step.

    python -m benchmarks.start                # three rounds, about five minutes
    python -m benchmarks.start --rounds 5 --only help --only check

Every figure is of fresh processes, one after another on the machine; arms alternate, medians over the rounds.

  help                 `raykd --help`
  check, unknown       `raykd check` of the demo's configuration, nothing cached
  check, known         the same again: what was found before is cached
  check models, ...    the same for a run of three teachers and a student that lie on the disk, with self-tests and with
                       an MLflow database that is there already
  train, first step    `raykd train` with stored answers, from the start of the process to the student's first step
  Ray, all processes   a Ray of one's own as `ray.init` starts it without a dashboard, and its polite end
  Ray                  the same with the processes that raykd lets it start
  imports              torch, transformers' class of the model, deepspeed, ray and mlflow in one process

CPU seconds are those of the command and everything that it started. Of `train` they are those of the whole command,
since Ray's processes go on after the first step. The models are tiny: times are those of starting.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.measure import show
from benchmarks.peer_parts.setting import Setting, make_files, run_tree
from benchmarks.sweep_parts.processes import Watch

GROUPS = ("help", "check", "ray", "train")
GOALS = {"help": 0.4, "check, known": 3.0, "check models, known": 3.0}
"""Wall seconds that an arm may take."""
RATIO, RATIO_GOAL = ("train, first step", "imports"), 2.0
TEXTS, HELD_OUT, LAYERS, HIDDEN = 96, 30, 2, 64
RAYKD = [sys.executable, "-m", "raykd.cli"]
IMPORTS = "import torch, deepspeed, ray, mlflow; from transformers import BertForSequenceClassification"

RAY = """
import contextlib, ray
from raykd.compat.ray_private import omit_helpers

with {surroundings}:
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
ray.shutdown()
"""


@dataclass(frozen=True)
class Cost:
    """What a command cost: seconds of wall time (`train`: to its first step) and of all its processes' CPU time."""

    wall: float
    cpu: float


class Bench:
    """The commands, their files and their cache, all in one work folder."""

    def __init__(self, work: Path) -> None:
        self.work = work.resolve()
        self.setting = Setting(
            str(self.work / "files"), texts=TEXTS, held_out=HELD_OUT, layers=LAYERS, hidden=HIDDEN
        )
        self.cache = self.work / "cache"
        self.output = self.work / "runs"
        self.run = self.work / "run.yaml"
        self.demo = self.work / "demo.yaml"

    def make(self) -> None:
        """Write the files of both configurations, and make MLflow's database."""
        from raykd.presets import preset
        from raykd.tracking import Tracker, build_sqlite_uri

        make_files(self.setting)
        self.run.write_text(yaml.safe_dump(run_tree(self.setting, self.output, "default"), sort_keys=False))
        shutil.copy(preset("demo"), self.demo)
        database = build_sqlite_uri(self.output / "mlflow.db")
        Tracker.start(database, "raykd", "first", params={}, tags={}).finish()

    def store_answers(self) -> None:
        """Train once, so that all answers are stored."""
        if not (self.output / "store").exists():
            self._measure([*RAYKD, "train", str(self.run)])

    def time_help(self) -> Cost:
        """Time `raykd --help`."""
        return self._measure([*RAYKD, "--help"])

    def time_check(self, file: Path, *, known: bool) -> Cost:
        """Time `raykd check`; unknown begins with an empty cache."""
        if not known:
            shutil.rmtree(self.cache, ignore_errors=True)
        return self._measure([*RAYKD, "check", str(file)])

    def time_first_step(self) -> Cost:
        """Time `raykd train` over stored answers, to its first step; another run's folder, the same store."""
        shutil.rmtree(self.output / "peer", ignore_errors=True)
        begun = time.time()
        cost = self._measure([*RAYKD, "train", str(self.run)])
        return Cost(read_first_step(self.output / "peer") - begun, cost.cpu)

    def time_ray(self, surroundings: str) -> Cost:
        """Time the start and the end of a Ray, in a process of its own, in the surroundings of `raykd.cluster`."""
        return self._measure([sys.executable, "-c", RAY.format(surroundings=surroundings)])

    def time_imports(self) -> Cost:
        """Time the imports in one process."""
        return self._measure([sys.executable, "-c", IMPORTS])

    def _measure(self, command: list[str]) -> Cost:
        """Run a command to its end.

        Raises:
            SystemExit: It failed; shows the end of what it said.
        """
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path.cwd()),
            "HF_HUB_OFFLINE": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "RAYKD_CACHE": str(self.cache),
        }
        before, begun = os.times(), time.perf_counter()
        with (self.work / "last.log").open("w+") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.work)
            with Watch(process.pid) as watch:
                process.wait()
                wall = time.perf_counter() - begun
        after = os.times()
        waited = after.children_user + after.children_system - before.children_user - before.children_system
        if process.returncode:
            said = (self.work / "last.log").read_text()[-2000:]
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}\n{said}")
        # Ray's daemons are nobody's children that are waited for; short commands are over before a look.
        return Cost(wall, max(waited, sum(watch.cpu.values())))


def read_first_step(folder: Path) -> float:
    """Return when the student of a run had taken its first step, seconds since 1970."""
    rows = map(json.loads, (folder / "curves.jsonl").read_text(encoding="utf-8").splitlines())
    return min(int(row["time_ms"]) for row in rows if "train/loss" in row["values"]) / 1e3


def list_arms(bench: Bench, groups: list[str]) -> dict[str, Callable[[], Cost]]:
    """Return the arms in the order of a round: the cache is filled by what is unknown and used by what follows."""
    arms: dict[str, dict[str, Callable[[], Cost]]] = {
        "help": {"help": bench.time_help},
        "check": {
            "check, unknown": lambda: bench.time_check(bench.demo, known=False),
            "check, known": lambda: bench.time_check(bench.demo, known=True),
            "check models, unknown": lambda: bench.time_check(bench.run, known=False),
            "check models, known": lambda: bench.time_check(bench.run, known=True),
        },
        "ray": {
            "Ray, all processes": lambda: bench.time_ray("contextlib.nullcontext()"),
            "Ray": lambda: bench.time_ray("omit_helpers()"),
        },
        "train": {"imports": bench.time_imports, "train, first step": bench.time_first_step},
    }
    return {name: arm for group in GROUPS if group in groups for name, arm in arms[group].items()}


def print_tables(rounds: Mapping[str, list[Cost]]) -> None:
    """Print what each arm cost beside its goal, and the ratio."""
    lines = []
    for name, costs in rounds.items():
        walls = [cost.wall for cost in costs]
        middle, goal = statistics.median(walls), GOALS.get(name)
        lines.append(
            [
                name,
                f"{middle:.2f}",
                f"{min(walls):.2f} to {max(walls):.2f}",
                f"{statistics.median(cost.cpu for cost in costs):.2f}",
                "" if goal is None else f"{goal:.1f}",
                "" if goal is None else "met" if middle <= goal else "missed",
            ]
        )
    count = len(next(iter(rounds.values())))
    show(f"medians of {count} fresh processes", ["", "wall s", "range", "CPU s", "at most", ""], lines)
    above, below = RATIO
    if above in rounds:
        found = [a.wall / b.wall for a, b in zip(rounds[above], rounds[below], strict=True)]
        middle = statistics.median(found)
        line = [
            f"{above} / {below}",
            f"{middle:.2f}",
            f"{min(found):.2f} to {max(found):.2f}",
            f"{RATIO_GOAL:.1f}",
            "met" if middle <= RATIO_GOAL else "missed",
        ]
        show("within one round", ["ratio of wall times", "median", "range", "at most", ""], [line])


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often every arm is run")
    parser.add_argument("--only", action="append", choices=GROUPS, help="a group of arms; may be repeated")
    parser.add_argument("--work", default="runs/benchmark-start", help="where everything is written")
    return parser.parse_args()


def main() -> None:
    """Run all arms in turn, print the tables."""
    options = parse_options()
    bench = Bench(Path(options.work))
    bench.work.mkdir(parents=True, exist_ok=True)
    bench.make()
    groups = options.only or list(GROUPS)
    if "train" in groups:
        bench.store_answers()
    arms = list_arms(bench, groups)
    rounds: dict[str, list[Cost]] = {name: [] for name in arms}
    for number in range(options.rounds):
        for name, arm in arms.items():
            cost = arm()
            rounds[name].append(cost)
            said = f"round {number + 1}: {name}: {cost.wall:.2f} s, {cost.cpu:.2f} CPU s"
            print(said, file=sys.stderr, flush=True)
    print_tables(rounds)


if __name__ == "__main__":
    main()
