"""The table of cases: what is run in each folder, and which outcomes are accepted.

Decision record: a case is a list of commands as a person would type them, so that the table can be read beside the
case's own page. Each command names up to two accepted outcomes. `served`: raykd does what was wanted. `refused`: raykd
says before anything starts what is wrong and what to do. A command without either prepares the case and must succeed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from benchmarks.habit_parts.values import Value

REFUSED = (2, 3)
"""Exit codes of a refusal: configuration, data or model."""


def _pattern(text: str) -> str:
    """A text that is a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no pattern: {error}") from None
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


class _Entry(BaseModel):
    """A part of the table: frozen, and without keys that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(_Entry):
    """What a command's exit code and output must be.

    Attributes:
        exit: Accepted exit codes; None takes 0 for a served and 2 or 3 for a refused command.
        prints: Patterns that must each be found in what was printed (upper and lower case are one).
        lacks: Patterns that must not be found.
        values: What the printed numbers, or the files that were written, must agree with.
    """

    exit: tuple[int, ...] | None = None
    prints: tuple[Pattern, ...] = ()
    lacks: tuple[Pattern, ...] = ()
    values: tuple[Value, ...] = ()


class Step(_Entry):
    """One command of a case.

    Attributes:
        run: The command; `raykd` and `python` are this installation's. Unless `shell`, it is split as a shell would.
        shell: Whether a shell reads it.
        env: Variables to set; None removes one.
        timeout: Seconds until it is ended.
        fresh: Whether it needs a new interpreter (its environment or folder changes what is imported).
        slow: Whether only --slow runs it.
        alone: Whether it runs even where an earlier `raykd check` has refused the case.
    """

    run: str
    shell: bool = False
    env: Mapping[str, str | None] = Field(default_factory=dict)
    timeout: float = 120.0
    fresh: bool = False
    slow: bool = False
    alone: bool = False
    served: Outcome | None = None
    refused: Outcome | None = None

    @property
    def command(self) -> str:
        """The raykd command, for example "check"; empty for anything else."""
        words = self.run.split()
        return words[1] if len(words) > 1 and words[0] == "raykd" and not self.shell else ""

    @property
    def starts_processes(self) -> bool:
        """Whether the command takes actors or workers where nothing is wrong."""
        return re.search(r"\braykd (train|sweep|label|confirm)\b", self.run) is not None


class Case(_Entry):
    """One folder of the cases.

    Attributes:
        wanted: What its page wants, in a line.
        slow: Whether only --slow runs it: it needs whole runs, interrupts or long waits.
        steps: Commands, in order.
    """

    wanted: str
    slow: bool = False
    steps: tuple[Step, ...] = Field(min_length=1)

    @property
    def can_be_served(self) -> bool:
        """Whether serving the case is accepted by a command that refusing is also accepted by."""
        return any(step.served is not None and step.refused is not None for step in self.steps)


def load_table(path: Path) -> dict[str, Case]:
    """Read a table; a key that begins with a dot holds anchors for the entries below it.

    Raises:
        pydantic.ValidationError: a key is unknown, missing or of the wrong kind.
    """
    tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    entries = {name: entry for name, entry in tree.items() if not name.startswith(".")}
    return TypeAdapter(dict[str, Case]).validate_python(entries)


def choose(names: Sequence[str], only: str | None) -> list[str]:
    """Return the names whose number is in a list such as "01-28,40,06a"; None keeps all.

    A number stands for all its letters (06 for 06a and 06b), a number with a letter for itself.

    Raises:
        ValueError: a part is neither a number, a range of numbers, nor a number with a letter.
    """
    if only is None:
        return list(names)
    numbers: set[str] = set()
    for part in only.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)|([a-z]))?", part.strip())
        if match is None:
            raise ValueError(f"--only: {part!r} is neither a number nor a range, for example 01-28,40,06a")
        begin, end, letter = match.groups()
        numbers |= (
            {f"{int(begin)}{letter}"}
            if letter
            else {str(n) for n in range(int(begin), int(end or begin) + 1)}
        )
    return [name for name in names if _number(name) in numbers or _number(name).rstrip("abcdefgh") in numbers]


def _number(name: str) -> str:
    """ "06a" of 06a-mobilebert-reads-padding, without the leading zero."""
    return name.partition("-")[0].lstrip("0")
