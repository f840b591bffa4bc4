"""Verdicts: what is said of a case after its commands have run.

Decision record: a case is as good as its worst command. A traceback is a traceback whatever else was printed, and a
refusal that comes after `raykd check` has called the case well is late, because workers have been taken by then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.habit_parts.running import Ran, ask_fork, run_step
from benchmarks.habit_parts.table import REFUSED, Case, Outcome, Step
from benchmarks.habit_parts.values import Row, read_json_lines

Word = Literal["right", "refused at check", "late", "wrong", "traceback"]
ORDER: tuple[Word, ...] = ("right", "refused at check", "late", "wrong", "traceback")
"""From best to worst."""
FAULTS = frozenset({"late", "wrong", "traceback"})
TRACES = re.compile(r"Traceback \(most recent call last\)|This is a fault of raykd")


@dataclass(frozen=True)
class Verdict:
    """What is said of one command or one case.

    Attributes:
        detail: Why, where it is neither right nor refused; which command and how it was refused otherwise.
    """

    word: Word
    detail: str = ""
    seconds: float = 0.0


def judge_step(step: Step, ran: Ran, folder: Path, *, was_well: bool, earlier: Sequence[Row] = ()) -> Verdict:
    """Judge one command.

    Args:
        was_well: Whether an earlier `raykd check` of the case found nothing wrong.
        earlier: JSON lines of the case's earlier commands.
    """
    told = f"{step.run}: exit code {ran.code}"
    if TRACES.search(ran.output) and "raykd" in step.run:
        return Verdict("traceback", f"{told}\n{_tail(ran)}")
    if ran.code is None:
        word: Word = "late" if was_well and step.starts_processes else "wrong"
        return Verdict(word, f"{step.run}: no end after {step.timeout:g} s\n{_tail(ran)}")
    if step.served is None and step.refused is None:
        return Verdict("right") if ran.code == 0 else Verdict("wrong", f"{told}\n{_tail(ran)}")
    faults = []
    if step.served is not None:
        fault = _find_fault(step.served, (0,), ran, folder, earlier)
        if fault is None:
            return Verdict("right")
        faults.append(f"not served: {fault}")
    if step.refused is not None:
        fault = _find_fault(step.refused, REFUSED, ran, folder, earlier)
        if fault is None and not (was_well or ran.started):
            return Verdict("refused at check", first_line(ran))
        faults.append(f"not refused: {fault}" if fault else "refused after all was well")
    late = ran.code != 0 and (ran.started or (was_well and step.starts_processes))
    return Verdict("late" if late else "wrong", f"{told}; {'; '.join(faults)}\n{_tail(ran)}")


def _find_fault(
    wanted: Outcome, codes: Sequence[int], ran: Ran, folder: Path, earlier: Sequence[Row]
) -> str | None:
    """Return the first thing that is not as the table has it, or None."""
    codes = wanted.exit or codes
    if ran.code not in codes:
        return f"exit code {ran.code}, wanted {' or '.join(str(code) for code in codes)}"
    for pattern in wanted.prints:
        if not re.search(pattern, ran.output, re.IGNORECASE):
            return f"nothing printed matches {pattern!r}"
    for pattern in wanted.lacks:
        match = re.search(pattern, ran.output, re.IGNORECASE)
        if match:
            return f"printed: {match.group()!r}"
    rows = read_json_lines(ran.stdout)
    for value in wanted.values:
        fault = ask_fork(partial(value.find_fault, folder, rows, earlier))
        if fault:
            return fault
    return None


def first_line(ran: Ran) -> str:
    """The sentence of a refusal: the line after what is wrong, or that of the error."""
    lines = [line.strip() for line in ran.output.splitlines()]
    for at, line in enumerate(lines[:-1]):
        if line.startswith(("wrong ", "error (")):
            return lines[at + 1]
    return next((line for line in lines if line), "")


def _tail(ran: Ran) -> str:
    """The last lines that were printed, indented."""
    return "\n".join(f"      {line}" for line in ran.output.rstrip().splitlines()[-30:])


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict of a case from those of its commands."""
    seen = list(verdicts)
    bad = max(seen, key=lambda verdict: ORDER.index(verdict.word))
    return Verdict(bad.word, bad.detail, sum(verdict.seconds for verdict in seen))


def judge_case(
    case: Case, folder: Path, *, overrides: Sequence[str] = (), slow: bool = False, train: bool = True,
    fresh: bool = False,
) -> Verdict:  # fmt: skip
    """Run the commands of a case in its copy and judge them.

    Args:
        overrides: Keys that every check and run of the case gets.
        slow: Whether slow commands are run too.
        train: Whether commands are run that start processes.
        fresh: Whether every command takes a new interpreter.
    """
    verdicts: list[Verdict] = []
    left_out = 0
    rows: list[Row] = []
    was_well = was_refused = False
    for step in case.steps:
        if step.slow and not slow:
            continue
        if step.starts_processes and not train:
            left_out += not (was_refused and not step.alone)
            continue
        if was_refused and step.command in {"train", "sweep"} and not step.alone:
            continue
        more = overrides if step.command in {"check", "train"} else ()
        ran = run_step(step, folder, more, fresh=fresh)
        # Another check of the case has another configuration: nothing has been said of it yet.
        verdict = judge_step(step, ran, folder, was_well=was_well and step.command != "check", earlier=rows)
        verdicts.append(Verdict(verdict.word, verdict.detail, ran.seconds))
        rows += read_json_lines(ran.stdout)
        if step.command == "check":
            was_well, was_refused = ran.code == 0, ran.code != 0
        if verdict.word == "traceback":
            break
    found = worst(verdicts) if verdicts else Verdict("right")
    if found.word == "right" and left_out:
        return Verdict(
            "right", f"as far as was run; {left_out} commands that start processes were not", found.seconds
        )
    return found


def count(verdicts: Mapping[str, Verdict]) -> dict[Word, int]:
    """How many cases have each verdict."""
    return {word: sum(verdict.word == word for verdict in verdicts.values()) for word in ORDER}
