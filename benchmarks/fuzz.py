"""Coverage-guided fuzzing of what reads bytes from the wire and the store.

A mutator changes inputs that the decoders know (bodies of every form, values of the store, requests of a group,
journals, spools, curves, manifests) and keeps each that reaches a line, or a step from one line to another, that none
reached before. Every target may raise only what it says it raises, and has to answer within a CPU second. The same seed
makes the same inputs, as far as the time budget lets it.

    python -m benchmarks.fuzz [--seconds 120] [--seed 0] [--json FILE] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.fuzz_targets import Target, targets

SLOWEST_S = 1.0
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


class Traced:
    """Runs a function and tells which steps between lines of some files it took."""

    def __init__(self, files: tuple[str, ...]) -> None:
        self._files = files
        self._last = ("", 0)
        self.steps: set[tuple[Any, ...]] = set()

    def run(self, act: Callable[[], None]) -> None:
        """Raises what it raises."""
        self.steps, self._last = set(), ("", 0)
        sys.settrace(self._call)
        try:
            act()
        finally:
            sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.endswith(self._files) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        here = (frame.f_code.co_filename, frame.f_lineno)
        self.steps.add((*self._last, *here))
        self._last = here
        return self._line


def mutated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The input, changed in one to four places."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(7):
            case 0 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 1:
                out[at:at] = rng.randbytes(rng.randint(1, 8))
            case 2:
                del out[at : at + rng.randint(1, 1 + len(out) // 4)]
            case 3:
                value, wide = rng.choice(INTERESTING), rng.choice((1, 2, 4))
                out[at : at + wide] = (value & (256**wide - 1)).to_bytes(wide, "little")
            case 4 if others:
                other = rng.choice(others)
                begin = rng.randrange(len(other) + 1)
                out[at : at + 16] = other[begin : begin + 16]
            case 5:
                out[at:at] = out[at : at + rng.randint(1, 32)]
            case _:
                del out[at:]
    return bytes(out[:65536])


@dataclass
class Found:
    """What came of a target. lines: of the decoders that were reached. faults: inputs and what they raised."""

    executions: int = 0
    steps: set[tuple[Any, ...]] = field(default_factory=set)
    corpus: list[bytes] = field(default_factory=list)
    faults: dict[str, bytes] = field(default_factory=dict)
    slowest: float = 0.0

    @property
    def lines(self) -> int:
        """Different lines reached."""
        return len({step[2:] for step in self.steps})


def fuzz(target: Target, seconds: float, seed: int) -> Found:
    """Fuzzes one target for so long."""
    rng, found, traced = random.Random(f"{target.name} {seed}"), Found(), Traced(target.files)
    seeds = list(target.seeds)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        data = seeds.pop() if seeds else mutated(rng.choice(found.corpus), rng, found.corpus)
        found.executions += 1
        begun, what = time.process_time(), ""
        try:
            traced.run(lambda data=data: target.read(data))  # type: ignore[misc]
        except target.may_raise:
            pass
        except Exception as error:
            trace, last = error.__traceback__, None
            while trace is not None:
                trace, last = trace.tb_next, trace
            where = f"{Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}" if last else ""
            what = f"{type(error).__name__} at {where}: {str(error)[:80]}"
        took = time.process_time() - begun
        found.slowest = max(found.slowest, took)
        if what or took > SLOWEST_S:
            found.faults.setdefault(what.partition(": ")[0] or "slower than a second", data)
        if traced.steps - found.steps or not found.corpus:
            found.steps |= traced.steps
            found.corpus.append(data)
    return found


def main() -> int:
    """Prints the table; 1 if a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for inputs that made faults")
    options = parser.parse_args()
    every = targets()
    table = Table("target", "executions", "inputs kept", "lines", "steps between lines", "slowest", "faults")
    totals: dict[str, Any] = {"seed": options.seed}
    faults = 0
    for target in every:
        found = fuzz(target, options.seconds / len(every), options.seed)
        faults += len(found.faults)
        table.add_row(target.name, f"{found.executions:,}", str(len(found.corpus)), str(found.lines),
                      str(len(found.steps)), f"{1000 * found.slowest:.0f} ms", "; ".join(found.faults) or "0")  # fmt: skip
        totals[target.name] = {"executions": found.executions, "kept": len(found.corpus), "lines": found.lines,
                               "faults": {what: data.hex() for what, data in found.faults.items()}}  # fmt: skip
        for number, data in enumerate(found.faults.values()) if options.keep else ():
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{target.name}-{number}".replace(" ", "-")).write_bytes(data)
    console = Console(width=140)
    console.print(table)
    console.print(f"seed {options.seed}, {options.seconds:g} s in all")
    if options.json:
        options.json.write_text(json.dumps(totals, indent=2), encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
