"""Bad inputs, tried and answered: is every one told what is wrong, at once, before anything is started?

A generator spoils a good run in all the ways that its kinds know (YAML, keys, values, names, combinations, overrides,
search spaces, rows, files, model folders, command lines). Each is tried once, in this process, in an order drawn from
the seed. Answered clearly is one that ends in an error of raykd (or of its command line) that says what was wanted or
what to do next, with exit code 2 or 3, within two CPU seconds (what else the machine does is not its fault), and with no trace of Python's.

    python -m benchmarks.bad_inputs [--json FILE] [--seed 0] [--show]
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.bad_parts import configs, contents
from benchmarks.bad_parts.setting import Case
from raykd.errors import RaykdError

SLOWEST_S = 2.0
TOLD = ("wanted:", "next:", "allowed:", "key is wrong", "keys are wrong", "Usage:", "Try ")
"""What an answer holds at least one of: raykd's parts of an error (of keys that are wrong together a sentence), and those
of its command line."""


@dataclass(frozen=True)
class Verdict:
    """What became of a case. fault: why it was not answered clearly, None if it was."""

    kind: str
    name: str
    seconds: float
    fault: str | None


def tried(case: Case) -> Verdict:
    """Tries one case."""
    begun = time.process_time()
    fault: str | None = "it was accepted"
    try:
        case.act()
    except RaykdError as error:
        text = str(error)
        clear = error.exit_code in (2, 3) and any(part in text for part in TOLD) and "Traceback" not in text
        fault = None if clear else f"code {error.exit_code}: {text[:300]}"
    except (Exception, SystemExit) as error:
        fault = f"{type(error).__name__}: {str(error)[:300]}"
    seconds = time.process_time() - begun
    if fault is None and seconds > SLOWEST_S:
        fault = f"answered after {seconds:.1f} s"
    return Verdict(case.kind, case.name, seconds, fault)


def all_cases(folder: Path) -> list[Case]:
    """Every case that the generator knows; the folder takes their files."""
    (folder / "c").mkdir()
    (folder / "d").mkdir()
    return [*configs.cases(folder / "c"), *contents.cases(folder / "d")]


def quiet() -> None:
    """No hub, no warnings between the lines of the table; libraries are loaded before the clock runs."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.disable(logging.WARNING)
    for name in ("raykd.preflight.check", "raykd.tuning.run", "transformers.models.bert.modeling_bert"):
        importlib.import_module(name)


def main() -> int:
    """Prints the table; 1 if a case was not answered clearly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="every case that was not answered clearly")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cases = all_cases(Path(temporary))
        random.Random(options.seed).shuffle(cases)
        configs_alone = [
            tried(c) for c in cases if c.kind in ("YAML syntax", "unknown key", "value", "combination")
        ]
        ray_free = "ray" not in sys.modules
        quiet()
        verdicts = [tried(case) for case in cases]
    started = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    kinds, clear = Counter(v.kind for v in verdicts), Counter(v.kind for v in verdicts if v.fault is None)
    table = Table("kind", "tried", "answered clearly", "slowest")
    for kind, count in kinds.items():
        slowest = max(v.seconds for v in verdicts if v.kind == kind)
        table.add_row(kind, str(count), str(clear[kind]), f"{slowest:.2f} s")
    table.add_row("all", str(len(verdicts)), str(sum(clear.values())), "")
    console = Console(width=100)
    console.print(table)
    console.print(f"seed {options.seed}; Ray imported for run files: {not ray_free}; Ray started: {started}")
    faults = [v for v in verdicts if v.fault is not None]
    for verdict in faults if options.show else ():
        console.print(f"{verdict.kind} | {verdict.name} | {verdict.fault}", markup=False, highlight=False)
    if options.json:
        found = {"seed": options.seed, "tried": dict(kinds), "clear": dict(clear), "ray_imported": not ray_free,
                 "ray_started": started, "configs_again": len(configs_alone)}  # fmt: skip
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return 1 if faults or started or not ray_free else 0


if __name__ == "__main__":
    raise SystemExit(main())
