"""Random faults against `raykd train` and `raykd sweep`: what survives, what is lost, how long it takes to go on.

Usage: python -m benchmarks.soak [--minutes 10] [--seed N] [--only FAULT,FAULT] [--work DIR] [--json FILE]

An unbroken run and an unbroken sweep come first. Then the same ones again and again, each hit by one or two faults at
random moments: processes are killed, frozen or terminated, checkpoints cut and flipped, the answers' store damaged or
deleted, MLflow's database locked, a node lost. A command that ended of its fault is started again with --resume. It has
survived if it ends with exit code 0; data are lost if a point of its curve, in the file or in MLflow, a trial or an
evaluation is missing, double or differs from the unbroken one by more than 1e-6, or its weights do.

Time to recover is from the fault to the next training step (or evaluation of a trial) that the driver hears of, so it
includes noticing, starting processes and, for a command that ended, starting it again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.measure import show
from benchmarks.soak_parts.compare import lost
from benchmarks.soak_parts.faults import FAULTS, Fault, Scene
from benchmarks.soak_parts.world import World

LONGEST_S = 240.0
"""A command that makes no progress for so long hangs."""


@dataclass
class Hit:
    """One fault. recovered_s: None where nothing came after it (the command was at its end)."""

    fault: str
    kind: str
    at: int
    recovered_s: float | None = None


@dataclass
class Episode:
    """One command with its faults. wrong: why it did not survive, or what it lost."""

    kind: str
    name: str
    hits: list[Hit] = field(default_factory=list)
    survived: bool = False
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0


class StuckError(Exception):
    """No progress in time, or an end that nobody asked for."""


def wait(world: World, kind: str, name: str, process: subprocess.Popen[str], beyond: int) -> bool:
    """Until progress is beyond that, or the command ended; whether progress was made."""
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until:
        if world.progress(kind, name) > beyond:
            return True
        if process.poll() is not None:
            return world.progress(kind, name) > beyond
        time.sleep(0.05)
    raise StuckError(f"no progress beyond {beyond} in {LONGEST_S:.0f} s")


def episode(world: World, kind: str, name: str, faults: list[Fault], chance: random.Random) -> Episode:
    """One command, hit by these faults in turn."""
    found, begun = Episode(kind, name), time.monotonic()
    process = world.start(kind, name, resume=False)
    said = ""
    try:
        for index, fault in enumerate(faults):
            low, high = (index / len(faults), (index + 1) / len(faults))
            at = int(world.end(kind) * (low + 0.7 * chance.random() * (high - low)))
            if not wait(world, kind, name, process, max(at, 1)):
                break
            hit = Hit(fault.name, kind, world.progress(kind, name))
            struck = time.monotonic()
            if not fault.do(Scene(world, kind, name, process, chance)):
                continue
            found.hits.append(hit)
            if fault.ends:
                said += process.communicate(timeout=60)[0]
                process = world.start(kind, name, resume=True)
            before = world.progress(kind, name)
            if wait(world, kind, name, process, before):
                hit.recovered_s = time.monotonic() - struck
        said += process.communicate(timeout=LONGEST_S)[0]
        found.survived = process.returncode == 0
        found.lost = lost(world, kind, name) if found.survived else []
    except (StuckError, subprocess.TimeoutExpired) as error:
        process.kill()
        said += process.communicate()[0] + str(error)
    found.seconds = time.monotonic() - begun
    if not found.survived or found.lost:
        print(said[-3000:], file=sys.stderr)
    return found


def soak(world: World, minutes: float, seed: int, only: set[str]) -> list[Episode]:
    """Episodes until the time is over; every fault comes before one comes again."""
    chance = random.Random(seed)
    episodes: list[Episode] = []
    waiting: list[Fault] = []
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        if not waiting:
            waiting = [f for f in FAULTS if not only or f.name in only]
            chance.shuffle(waiting)
        first = waiting.pop(0)
        kind = chance.choice(first.kinds)
        second = next((f for f in waiting if kind in f.kinds), None) if chance.random() < 0.5 else None
        if second is not None:
            waiting.remove(second)
        name = f"{kind}-{len(episodes)}"
        one = episode(world, kind, name, [f for f in (first, second) if f is not None], chance)
        episodes.append(one)
        told = ", ".join(f"{h.fault} at {h.at}" for h in one.hits)
        wrong = "; ".join(one.lost) if one.survived else "did not survive"
        print(f"{name}: {told}: {wrong or 'nothing lost'} ({one.seconds:.0f} s)", flush=True)
    return episodes


def table(episodes: list[Episode]) -> None:
    """One line a fault, and all."""
    rows = []
    for name in [*(f.name for f in FAULTS), ""]:
        hit = [(e, h) for e in episodes for h in e.hits if name in ("", h.fault)]
        if not hit:
            continue
        times = [h.recovered_s for _, h in hit if h.recovered_s is not None]
        rows.append(
            (
                name or "all",
                str(len(hit)),
                str(sum(e.survived for e, _ in hit)),
                str(sum(bool(e.lost) or not e.survived for e, _ in hit)),
                f"{statistics.median(times):.1f}" if times else "",
                f"{max(times):.1f}" if times else "",
            )
        )
    heads = ("fault", "injected", "survived", "lost data", "recovered after s", "at most")
    show(f"Faults in {len(episodes)} runs and sweeps", heads, rows)


def main() -> None:
    """Soaks and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--seed", type=int, default=None, help="of the faults; drawn and printed if not given"
    )
    parser.add_argument("--only", default="", help=", ".join(f.name for f in FAULTS))
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="raykd-") as temporary:
        world = World((options.work or Path(temporary)).resolve())
        world.open()
        try:
            for kind, name in (("train", "unbroken"), ("sweep", "unbroken-sweep")):
                process = world.start(kind, name, resume=False)
                said = process.communicate()[0]
                assert process.returncode == 0, said
            only = {name for name in options.only.split(",") if name}
            episodes = soak(world, options.minutes, seed, only)
        finally:
            world.close()
    table(episodes)
    if options.json:
        found = {"seed": seed, "episodes": [asdict(e) for e in episodes]}
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    if any(e.lost or not e.survived for e in episodes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
