"""What a run costs beside what a user would take instead: a Trainer over cached logits.

    python -m benchmarks.peers --texts 300          # under 5 minutes
    python -m benchmarks.peers --rounds 3           # the full size, 2,000 texts

Three teachers answer every text, the student trains for three epochs and is scored after each. Every arm is a command
in a process of its own, timed from start to end, alone on the machine, with the same rows, the same start of the
student, the same number of steps and the same threads in all.

  cached first, second    transformers' Trainer over a data set mapped to the teachers' logits (float32)
  raykd float32 first     `raykd train` in an empty folder, teachers in float32
  raykd first             the same at raykd's default precision of teachers
  raykd second            another run over the answers that are stored now
  online                  a Trainer that asks its teachers at every step (only with --online)

Ratios are made within one round; their median over the rounds is printed beside the goal. CPU seconds and memory are
those of the command and everything it started: memory is the largest sum of the processes' proportional set sizes
(PSS: what several share counts once), looked at every half second.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.measure import show
from benchmarks.peer_parts.setting import Setting, make_files, run_tree
from benchmarks.sweep_parts.processes import Watch

RUN = "peer"
"""Name of the run, a folder in its output."""
GOALS = (
    ("first run, float32 / cached first", "raykd float32 first", "cached first", "wall", 1.3),
    ("first run, default / cached first", "raykd first", "cached first", "wall", 1.0),
    ("second run / cached second", "raykd second", "cached second", "wall", 1.3),
    ("epochs 2 and 3 / its epochs", "raykd second", "cached second", "later", 1.05),
    ("peak memory, first / cached first", "raykd first", "cached first", "memory", 1.5),
    ("peak memory, second / cached second", "raykd second", "cached second", "memory", 1.5),
)
"""What is divided by what, and the most that the ratio should be."""


class Memory(threading.Thread):
    """The largest sum of PSS of the processes that a watch knows."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(daemon=True)
        self.watch, self.peak, self.over = watch, 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.5):
            self.peak = max(self.peak, sum(read_pss(pid) for pid in list(self.watch.cpu)))


def read_pss(pid: int) -> int:
    """Return the proportional set size of a process in bytes; 0 if it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0


@dataclass
class Outcome:
    """What one command cost. Seconds and bytes.

    Attributes:
        processes: How many the command started, itself included.
        loaded: Whether other work ran beside.
        evaluated: When each epoch's evaluation had ended, from the start of the command.
    """

    wall: float
    cpu: float
    memory: float
    processes: int
    loaded: bool
    evaluated: list[float]

    @property
    def first(self) -> float:
        """From the start of the command to the end of the first epoch."""
        return self.evaluated[0]

    @property
    def later(self) -> float:
        """One of the epochs after the first, evaluation and checkpoint included."""
        return (self.evaluated[-1] - self.evaluated[0]) / (len(self.evaluated) - 1)


def run_command(command: list[str], log: Path, evaluated: Callable[[str], list[float]]) -> Outcome:
    """Run a command to its end and return what it cost.

    Args:
        command: Program and arguments.
        log: Where its errors go.
        evaluated: Gives the clock at each evaluation, from what the command printed.

    Raises:
        SystemExit: It failed; names the log.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "HF_HUB_OFFLINE": "1"}
    begun = time.time()
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True)
        with Watch(process.pid) as watch:
            memory = Memory(watch)
            memory.start()
            output = process.communicate()[0]
            memory.over.set()
            memory.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}; see {log}\n{output[-2000:]}")
    times = [moment - begun for moment in evaluated(output)]
    loud = bool(watch.noise()["noisy"])
    return Outcome(watch.wall, sum(watch.cpu.values()), memory.peak, len(watch.cpu), loud, times)


def run_trainer(setting: Setting, mode: str, name: str) -> Outcome:
    """Run the Trainer; ``cached`` finds what an earlier run has mapped."""
    command = [sys.executable, "-m", "benchmarks.peer_parts.cached", setting.work, mode]
    return run_command(
        command,
        setting.folder / f"{name}.log",
        lambda text: json.loads(text.strip().splitlines()[-1])["evaluated"],
    )


def run_raykd(setting: Setting, folder: Path, precision: str, name: str) -> Outcome:
    """Run `raykd train`; answers that an earlier run in the folder has stored are found."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / RUN, ignore_errors=True)
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run_tree(setting, folder, precision), sort_keys=False))
    command = [sys.executable, "-m", "raykd.cli", "train", str(file)]
    return run_command(command, setting.folder / f"{name}.log", lambda text: read_evaluations(folder / RUN))


def read_evaluations(folder: Path) -> list[float]:
    """Return when the student of a run was scored, seconds since 1970."""
    rows = map(json.loads, (folder / "curves.jsonl").read_text(encoding="utf-8").splitlines())
    return [row["time_ms"] / 1e3 for row in rows if "eval/mean/nll" in row["values"]]


def run_round(setting: Setting, online: bool) -> Iterator[tuple[str, Outcome]]:
    """Run every arm once; nothing is cached or stored when a round begins."""
    raykd, exact = setting.folder / "raykd", setting.folder / "raykd-float32"
    for folder in (raykd, exact, setting.folder / "cache", setting.folder / "trainer"):
        shutil.rmtree(folder, ignore_errors=True)
    yield "cached first", run_trainer(setting, "cached", "cached-first")
    yield "raykd float32 first", run_raykd(setting, exact, "float32", "raykd-float32-first")
    yield "raykd first", run_raykd(setting, raykd, "default", "raykd-first")
    yield "cached second", run_trainer(setting, "cached", "cached-second")
    yield "raykd second", run_raykd(setting, raykd, "default", "raykd-second")
    if online:
        yield "online", run_trainer(setting, "online", "online")


def print_tables(setting: Setting, rounds: list[dict[str, Outcome]]) -> None:
    """Print what each arm cost, and the ratios beside their goals."""

    def median(arm: str, figure: str) -> float:
        return statistics.median(getattr(found[arm], figure) for found in rounds)

    lines = [
        [
            arm,
            *(f"{median(arm, figure):.1f}" for figure in ("wall", "cpu", "first", "later")),
            f"{median(arm, 'memory') / 1e9:.2f}",
            f"{median(arm, 'processes'):.0f}",
            "yes" if any(found[arm].loaded for found in rounds) else "",
        ]
        for arm in rounds[0]
    ]
    heads = ["arm", "wall s", "CPU s", "to epoch 2 s", "epochs 2, 3 s", "memory GB", "processes", "noisy"]
    show(f"{setting.texts:,} texts, {len(rounds)} rounds", heads, lines)
    ratios = []
    for title, above, below, figure, goal in GOALS:
        found = [getattr(r[above], figure) / getattr(r[below], figure) for r in rounds]
        middle = statistics.median(found)
        met = "met" if middle <= goal else "missed"
        ratios.append([title, f"{middle:.2f}", f"{min(found):.2f} to {max(found):.2f}", f"{goal:.2f}", met])
    show("within one round", ["ratio", "median", "range", "at most", ""], ratios)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=2_000, help="training texts")
    parser.add_argument("--rounds", type=int, default=1, help="how often every arm is run")
    parser.add_argument(
        "--data", default="", help="folder with sentiment/{zh,en,fr}/train.jsonl; else raykd's own corpus"
    )
    parser.add_argument("--work", default="runs/benchmark-peers", help="where everything is written")
    parser.add_argument("--online", action="store_true", help="also a Trainer that asks at every step")
    return parser.parse_args()


def main() -> None:
    """Run all arms, print the tables."""
    options = parse_options()
    setting = Setting(options.work, texts=options.texts, data=options.data, cores=os.cpu_count() or 1)
    make_files(setting)
    rounds = []
    for number in range(options.rounds):
        found = {}
        for arm, outcome in run_round(setting, options.online):
            found[arm] = outcome
            print(f"round {number + 1}: {arm}: {outcome.wall:.1f} s", file=sys.stderr, flush=True)
        rounds.append(found)
    print_tables(setting, rounds)


if __name__ == "__main__":
    main()
