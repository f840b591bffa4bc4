"""Faults and load in one table: injected, survived, data lost, time to recover, bad inputs, many clients, fuzzing.

Usage: python -m benchmarks.faults [--minutes 10] [--seconds 300] [--seed N] [--keep DIR]

Runs benchmarks.soak, .bad_inputs, .load (with and without kills) and .fuzz one after the other, each as a user would,
and prints what they found as one table. With --keep their JSON files stay in DIR, and what is there already is not run
again. About 25 minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import show


def commands(minutes: float, seconds: float, seed: int) -> dict[str, list[str]]:
    """What is run, by the name of its JSON file."""
    load = ["benchmarks.load", "--seconds", f"{seconds:g}"]
    return {
        "soak": ["benchmarks.soak", "--minutes", f"{minutes:g}", "--seed", str(seed)],
        "bad_inputs": ["benchmarks.bad_inputs", "--seed", str(seed)],
        "load": load,
        "load_kill": [*load, "--kill"],
        "fuzz": ["benchmarks.fuzz", "--seconds", "120", "--seed", str(seed)],
    }


def soaked(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lines of the soak: all faults, then the time to recover of each kind."""
    hits = [(episode, hit) for episode in found["episodes"] for hit in episode["hits"]]
    lost = [e for e in found["episodes"] if e["lost"] or not e["survived"]]
    lines = [
        ("faults injected", f"{len(hits)} in {len(found['episodes'])} runs and sweeps, seed {found['seed']}"),
        ("faults survived", str(sum(e["survived"] for e, _ in hits))),
        ("runs and sweeps with lost data", str(len(lost))),
    ]
    for kind in dict.fromkeys(hit["fault"] for _, hit in hits):
        times = [h["recovered_s"] for _, h in hits if h["fault"] == kind and h["recovered_s"] is not None]
        if times:
            lines.append(
                (
                    f"going on after: {kind}",
                    f"{statistics.median(times):.1f} s, at most {max(times):.1f} s ({len(times)})",
                )
            )
    return lines


def loaded(found: Mapping[str, Any], what: str) -> list[tuple[str, str]]:
    """Lines of a load."""
    return [
        (
            f"{what}: clients, requests",
            f"{found['clients']}, {found['requests']:,} in {found['seconds']:.0f} s",
        ),
        (f"{what}: p50, p99", f"{found['p50_ms']:,.0f} ms, {found['p99_ms']:,.0f} ms"),
        (f"{what}: rows lost, wrong", f"{found['lost']}, {found['wrong']} of {found['rows']:,}"),
    ]


def lines_of(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The table, from what each program found."""
    bad = found["bad_inputs"]
    lines = soaked(found["soak"])
    tried, clear = sum(bad["tried"].values()), sum(bad["clear"].values())
    lines.append(("bad inputs tried, answered clearly", f"{tried}, {clear}"))
    lines += loaded(found["load"], "load")
    kills = found["load_kill"]["kills"]
    lines += loaded(found["load_kill"], f"load with {kills} kills")
    fuzzed = [target for target in found["fuzz"].values() if isinstance(target, dict)]
    executions, faults = sum(t["executions"] for t in fuzzed), sum(len(t["faults"]) for t in fuzzed)
    lines.append(("fuzzed inputs, faults", f"{executions:,}, {faults}"))
    return lines


def run(what: Mapping[str, Sequence[str]], folder: Path) -> dict[str, Any]:
    """Runs what has left no file yet; a program that found a fault has exit code 1 and a file all the same."""
    found = {}
    for name, arguments in what.items():
        path = folder / f"{name}.json"
        if not path.exists():
            print(f"python -m {' '.join(arguments)}", flush=True)
            subprocess.run([sys.executable, "-m", *arguments, "--json", str(path)], check=False)
        found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of the soak")
    parser.add_argument("--seconds", type=float, default=300.0, help="of each load")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raykd-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = run(commands(options.minutes, options.seconds, options.seed), folder)
    show("Faults, bad inputs and load", ("figure", "value"), lines_of(found))


if __name__ == "__main__":
    main()
