"""Corpora that do not fit in memory: what rows cost a driver and a worker, and how soon the first step comes.

    python -m benchmarks.corpus --rows 100000,1000000        # about ten minutes and 2 GB of disk
    python -m benchmarks.corpus --rows 10000000 --work PATH  # once; about an hour and 15 GB

Made rows (JSON lines in shards of 250,000), a student of 2 layers x 64 with a vocabulary of its own, a teacher that
gives every text one fixed answer, and a bounded number of steps. A corpus of 10,000 rows is always measured beside the
others: "the student" of a worker is what it holds there. Each size trains twice, the second time with another seed:
then rows, vocabulary and tokens are known. Peaks are of anonymous and shared memory; pages of mapped files are not
counted, because the kernel can drop them. Exit code 1 where a limit is not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpus_parts.memory import MemoryWatch
from benchmarks.corpus_parts.rows import write_run
from benchmarks.measure import show

SMALL = 10_000
RAYKD = [sys.executable, "-m", "raykd.cli"]
MB = 1e6


@dataclass(frozen=True)
class Command:
    """What a command took.

    Attributes:
        seconds: Of wall time.
        cpu_s: Of CPU time, of the command itself and what it waited for.
        peaks: Bytes of memory, by role.
    """

    seconds: float
    cpu_s: float
    peaks: Mapping[str, float]


@dataclass(frozen=True)
class Corpus:
    """The figures of one size.

    Attributes:
        rows: Training rows.
        check: `raykd check`, the second one.
        first: The first run.
        second: The second run.
        first_step_s: Seconds from the command to the first step that is logged, of each run.
        run: The run file of the second run.
        inside: Texts a second that raykd tokenises, those that the tokenizer alone encodes, and steps while a run over
            `SMALL` rows takes one (`benchmarks.corpus_parts.inside`); None of the small corpus itself.
    """

    rows: int
    check: Command
    first: Command
    second: Command
    first_step_s: tuple[float, float]
    run: Path
    inside: tuple[float, float, float] | None


class Bench:
    """The commands, their files and their cache, all in one work folder."""

    def __init__(self, work: Path, steps: int) -> None:
        self.work, self.steps = work.resolve(), steps

    def measure(self, rows: int, small: Corpus | None) -> Corpus:
        """Measure one size, beside the small one."""
        folder = self.work / str(rows)
        stamp = int(time.time())  # another seed is another run, over the same rows
        runs = [write_run(folder, rows, self.steps, seed=stamp + at) for at in (0, 1)]
        trained, first_steps = [], []
        for run in runs:
            begun = time.time()
            trained.append(self._run("train", run))
            first_steps.append(self._read_first_step(folder, run) - begun)
        self._run("check", runs[1])
        check = self._run("check", runs[1])
        inside = None if small is None else self._look_inside(small.run, runs[1])
        return Corpus(rows, check, trained[0], trained[1], (first_steps[0], first_steps[1]), runs[1], inside)

    def _read_first_step(self, folder: Path, run: Path) -> float:
        """Return when the student had taken its first step, seconds since 1970."""
        file = folder / "runs" / run.stem.replace("run-", "corpus-") / "curves.jsonl"
        rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        return min(int(r["time_ms"]) for r in rows if "train/loss" in r["values"]) / 1e3

    def _look_inside(self, small: Path, run: Path) -> tuple[float, float, float]:
        command = [sys.executable, "-m", "benchmarks.corpus_parts.inside", str(small), str(run)]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-2000:]}")
        ours, alone, steps = map(float, json.loads(done.stdout.splitlines()[-1]))
        return ours, alone, steps

    def _run(self, command: str, run: Path) -> Command:
        """Run a command to its end.

        Raises:
            SystemExit: It failed; shows the end of what it said.
        """
        log, begun, before = self.work / "last.log", time.perf_counter(), os.times()
        with log.open("w") as file:
            process = subprocess.Popen(
                [*RAYKD, command, str(run)], stdout=file, stderr=file, env=self._environment(), cwd=run.parent
            )
            with MemoryWatch(process.pid) as watch:
                process.wait()
            seconds, after = time.perf_counter() - begun, os.times()
        cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
        said = " ".join(f"{role} {peak / MB:.0f} MB" for role, peak in watch.peaks.items())
        print(
            f"{run.stem}: {command}: {seconds:.1f} s, {cpu_s:.1f} s of CPU, {said}",
            file=sys.stderr,
            flush=True,
        )
        if process.returncode:
            end = log.read_text()[-2000:]
            raise SystemExit(f"raykd {command} {run} ended with {process.returncode}\n{end}")
        return Command(seconds, cpu_s, watch.peaks)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(Path.cwd()),
            "HF_HUB_OFFLINE": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "RAYKD_CACHE": str(self.work / "cache"),
        }


def print_figures(found: Sequence[Corpus]) -> None:
    """Print one line for each size."""
    heads = [
        "rows", "check s", "CPU s", "MB", "driver MB", "worker MB", "first step s", "again", "steps", "texts/s",
        "tokenizer's",
    ]  # fmt: skip
    lines = [
        [
            f"{c.rows:,}", f"{c.check.seconds:.1f}", f"{c.check.cpu_s:.1f}", _mb(c.check, "driver"),
            f"{_mb(c.first, 'driver')}, {_mb(c.second, 'driver')}",
            f"{_mb(c.first, 'worker')}, {_mb(c.second, 'worker')}",
            f"{c.first_step_s[0]:.1f}", f"{c.first_step_s[1]:.1f}",
            *(["", "", ""] if c.inside is None else
              [f"{c.inside[2]:.2f}", f"{c.inside[0]:,.0f}", f"{c.inside[1]:,.0f}"]),
        ]
        for c in found
    ]  # fmt: skip
    show("peaks of the first and of the second run", heads, lines)


def _mb(command: Command, role: str) -> str:
    return f"{command.peaks.get(role, 0) / MB:.0f}"


def judge(found: Sequence[Corpus]) -> list[tuple[str, str, str, bool]]:
    """Return for each limit what it is of, the figure, the limit, and whether it is kept."""
    small, largest = found[0], found[-1]
    lines: list[tuple[str, str, str, bool]] = []

    def add(what: str, value: float, limit: float, unit: str, *, least: bool = False) -> None:
        kept = value >= limit if least else value <= limit
        bound = "at least" if least else "at most"
        lines.append((what, f"{value:,.2f} {unit}", f"{bound} {limit:,.2f} {unit}", kept))

    for c in found[1:]:
        driver = max(c.first.peaks["driver"], c.second.peaks["driver"])
        worker = max(c.first.peaks["worker"], c.second.peaks["worker"])
        own = min(small.first.peaks["worker"], small.second.peaks["worker"])
        add(f"{c.rows:,}: driver", driver / MB, 2000, "MB")
        add(f"{c.rows:,}: worker above its student", (worker - own) / MB, 1000, "MB")
        add(f"{c.rows:,}: first step again", c.first_step_s[1], 1.5 * small.first_step_s[1], "s")
        assert c.inside is not None
        ours, alone, steps = c.inside
        add(f"{c.rows:,}: steps a second", steps, 0.97, "of 10,000 rows", least=True)
        add(f"{c.rows:,}: tokenising", ours / alone, 0.8, "of the tokenizer", least=True)
        if c.rows <= 1_000_000:
            add(f"{c.rows:,}: check", c.check.seconds, 10, "s")
            add(f"{c.rows:,}: check's memory", c.check.peaks["driver"] / MB, 500, "MB")
    if len(found) > 2:
        for role in ("driver", "worker"):
            low, high = (max(c.first.peaks[role], c.second.peaks[role]) / MB for c in (found[1], largest))
            add(f"{found[1].rows:,} to {largest.rows:,}: {role} grows by", high - low, 100, "MB")
    return lines


def main() -> None:
    """Measure all sizes, print the figures and what is kept of the limits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="100000,1000000", help="training rows of each corpus")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of a run")
    parser.add_argument("--work", default="runs/benchmark-corpus", help="where everything is written")
    options = parser.parse_args()
    bench = Bench(Path(options.work), options.steps)
    bench.work.mkdir(parents=True, exist_ok=True)
    sizes = [SMALL, *(int(size) for size in options.rows.split(",") if int(size) != SMALL)]
    found: list[Corpus] = []
    for rows in sizes:
        found.append(bench.measure(rows, found[0] if found else None))
    print_figures(found)
    limits = judge(found)
    show(
        "limits",
        ["rows: what", "found", "limit", ""],
        [[*line[:3], "kept" if line[3] else "missed"] for line in limits],
    )
    sys.exit(0 if all(line[3] for line in limits) else 1)


if __name__ == "__main__":
    main()
