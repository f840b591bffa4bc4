"""Strangers' models, texts and files: is each one read as it says, or refused by name before anything starts?

Usage: python -m benchmarks.habits PATH [--only 01-28,40] [--slow] [--quick] [--fresh] [--jobs N] [--json FILE]

PATH is a folder of cases, NN-name each, with a run file, rows and where needed a tiny teacher with random weights.
`benchmarks/habits.yaml` says for every case which commands are run and which outcomes are accepted. Cases run in copies,
each apart, with time limits; nothing of PATH is changed. Random teachers that are worse than the most frequent label
only warn (`teacher_defaults.on_poor=warn`). Verdicts:

  right             served: exit code, what is printed and all numbers are as wanted
  refused at check  what is wrong and what to do was said before an actor or worker was started. "(wanted)" where
                    refusing is all that the case asks for, "(second best)" where it could have been served
  late              refused or failed after an actor or worker was started, or after `raykd check` had called it well
  wrong             anything else: other numbers, other words, no end
  traceback         Python's trace

Cases that need whole runs, interrupts or long waits are marked `slow` and run with --slow alone. --quick leaves out
commands that start processes, so that it says nothing of what is late. Exit status 1 if a case is late, wrong or a traceback.
On two cores about 8 minutes for the cases that are not slow, half a minute with --quick.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from benchmarks.habit_parts.judging import FAULTS, Verdict, count, judge_case
from benchmarks.habit_parts.running import copied, load_libraries
from benchmarks.habit_parts.table import Case, choose, load_table

TABLE = Path(__file__).with_name("habits.yaml")


def overrides() -> list[str]:
    """Keys that every run of a case gets: its teachers have random weights, and that is not what is asked about."""
    from raykd.config import ModelTeacher

    return ["teacher_defaults.on_poor=warn"] if "on_poor" in ModelTeacher.model_fields else []


def judge(name: str, path: Path, case: Case, slow: bool, train: bool, fresh: bool) -> tuple[str, Verdict]:
    """The verdict of one case, run in a copy of its folder."""
    with copied(path / name) as folder:
        return name, judge_case(case, folder, overrides=overrides(), slow=slow, train=train, fresh=fresh)


def judge_all(
    path: Path, table: dict[str, Case], names: Sequence[str], options: argparse.Namespace
) -> Iterator[tuple[str, Verdict]]:
    """Verdicts, in the order of the names."""
    one = partial(judge, path=path, slow=options.slow, train=not options.quick, fresh=options.fresh)
    if options.jobs == 1:
        yield from (one(name, case=table[name]) for name in names)
        return
    with ProcessPoolExecutor(options.jobs, get_context("fork")) as pool:
        waiting = [pool.submit(one, name, case=table[name]) for name in names]
        yield from (done.result() for done in waiting)


def line(name: str, verdict: Verdict, case: Case) -> str:
    """What is printed of a case: right and refused in a line, a fault with what was printed."""
    how = ""
    if verdict.word == "refused at check":
        how = " (second best)" if case.can_be_served else " (wanted)"
    detail = f": {verdict.detail}" if verdict.detail else ""
    return f"{name:42} {verdict.word}{how}{detail}  [{verdict.seconds:.1f} s]"


def main() -> int:
    """Print a line for each case and a count; 1 if one is late, wrong or a traceback."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder of cases")
    parser.add_argument("--only", help="numbers of cases and ranges of them, comma between")
    parser.add_argument("--slow", action="store_true", help="also what takes minutes")
    parser.add_argument("--quick", action="store_true", help="without commands that start processes")
    parser.add_argument("--fresh", action="store_true", help="a new interpreter for every command")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table = load_table(TABLE)
    there = sorted(path.name for path in options.path.iterdir() if path.is_dir())
    unknown = [name for name in choose(there, options.only) if name not in table]
    names = [
        name
        for name in choose(there, options.only)
        if name in table and (options.slow or not table[name].slow)
    ]
    load_libraries()
    verdicts: dict[str, Verdict] = {}
    for name, verdict in judge_all(options.path.resolve(), table, names, options):
        verdicts[name] = verdict
        print(line(name, verdict, table[name]), flush=True)
    for name in unknown:
        print(f"{name:42} is not in {TABLE.name}", file=sys.stderr)
    print(f"{len(verdicts)} cases: " + ", ".join(f"{n} {word}" for word, n in count(verdicts).items()))
    if options.json:
        found = {
            name: {"verdict": v.word, "detail": v.detail, "seconds": v.seconds}
            for name, v in verdicts.items()
        }
        options.json.write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
    return 1 if unknown or any(v.word in FAULTS for v in verdicts.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
