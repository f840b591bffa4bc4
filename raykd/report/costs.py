"""Who taught which language, and what the student is beside each teacher in size and speed.

Decision record: a ratio of times is shown only where both were taken on the same texts, threads and device (see
`raykd.teachers.timing`); both times stand beside it, so that a reader can divide. What is not known is a dash and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from raykd.report.fitted_table import FittedTable
from raykd.report.table import ABSENT, format_count, render_markdown_table

COST_TITLE = "Who taught what, and the student beside its teachers"
EARLIER_MARK = "*"
"""Mark of a time that an earlier run took."""


@dataclass(frozen=True)
class TeacherCost:
    """A teacher and what the student is beside it. Written by `runs`.

    taught: languages whose training texts it was asked about. texts: how many these are. parameters: its own.
    smaller: its parameters over the student's. ms, student_ms: milliseconds for one text, the teacher's and the
    student's on the same texts; None is not known. kept: whether an earlier run took `ms`.
    """

    teacher: str
    taught: tuple[str, ...]
    texts: int
    parameters: int
    smaller: float
    ms: float | None = None
    student_ms: float | None = None
    kept: bool = False

    @property
    def faster(self) -> float | None:
        """The teacher's time over the student's; None unless both are known."""
        return None if self.ms is None or not self.student_ms else self.ms / self.student_ms

    def row(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "taught": ",".join(self.taught), "texts_taught": self.texts, "ms_a_text": self.ms,
            "student_ms_a_text": self.student_ms, "x_smaller": self.smaller, "x_faster": self.faster,
        }  # fmt: skip


@dataclass(frozen=True)
class CostTable:
    """All teachers of a run and its student.

    parameters: the student's. languages: of the training texts. conditions: how times were taken, for people.
    """

    teachers: tuple[TeacherCost, ...]
    parameters: int
    languages: tuple[str, ...]
    conditions: str

    @property
    def by_language(self) -> str:
        """Of each language who taught it, in words."""
        by = {x: [t.teacher for t in self.teachers if x in t.taught] for x in self.languages}
        return "; ".join(f"{x} is taught by {', '.join(who) or 'gold labels alone'}" for x, who in by.items())

    @property
    def summary(self) -> str:
        """What the student is beside all its teachers, in words."""
        told = [_between([t.smaller for t in self.teachers], "smaller", "larger")]
        known = [t.faster for t in self.teachers if t.faster is not None]
        told += [_between(known, "faster", "slower")] if known else []
        return (
            f"the student ({format_count(self.parameters)} parameters) is {', '.join(told)} than its teachers"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """How to read the table, a sentence a line."""
        lines = [self.by_language, *([self.summary] if self.teachers else []), self.conditions]
        if any(t.kept for t in self.teachers):
            lines.append(
                f"{EARLIER_MARK} taken by an earlier run in the same way, as all answers were stored and no weights "
                "were loaded"
            )
        unknown = [t.teacher for t in self.teachers if t.ms is None]
        if unknown:
            who = ", ".join(unknown)
            lines.append(f"the time of {who} is not known: all answers were stored, or it did not answer")
        return tuple(lines)

    def to_cells(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows as texts."""
        heads = ["teacher", "taught", "texts", "parameters", "ms a text", "student's ms", "smaller", "faster"]
        return heads, [self._line(t) for t in self.teachers]

    def _line(self, t: TeacherCost) -> list[str]:
        ms, own = (ABSENT if value is None else f"{value:#.3g}".rstrip(".") for value in (t.ms, t.student_ms))
        return [
            t.teacher, " ".join(t.taught) or "nothing", f"{t.texts:,}", format_count(t.parameters),
            ms + (EARLIER_MARK if t.kept else ""), own, _times(t.smaller),
            ABSENT if t.faster is None else _times(t.faster),
        ]  # fmt: skip

    def to_rich(self) -> FittedTable:
        """For the terminal."""
        heads, lines = self.to_cells()
        table = Table(
            title=COST_TITLE, caption="\n".join(self.notes), caption_justify="left", box=SIMPLE_HEAD,
            pad_edge=False, collapse_padding=True,
        )  # fmt: skip
        narrow = {"parameters": "params", "ms a text": "ms a\ntext", "student's ms": "student's\nms"}
        for at, head in enumerate(heads):
            justify: Literal["left", "right"] = "left" if at < 2 else "right"
            table.add_column(Text(narrow.get(head, head)), justify=justify, no_wrap=True)
        for line in lines:
            table.add_row(*(Text(cell) for cell in line))
        return FittedTable((table,), heads, lines, title=COST_TITLE, remarks=self.notes)

    def to_markdown(self) -> str:
        """As GitHub Markdown."""
        return "\n\n".join([f"{COST_TITLE}:", render_markdown_table(*self.to_cells()), *self.notes]) + "\n"

    def to_rows(self) -> list[dict[str, Any]]:
        """One JSON-able row a teacher."""
        return [{"teacher": t.teacher, "parameters": t.parameters, **t.row()} for t in self.teachers]

    def merge_into(self, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of results, of which a teacher's mean says also what stands here."""
        known = {t.teacher: t.row() for t in self.teachers}
        return [
            {**row, **known.get(row["system"], {})}
            if row["role"] == "teacher" and row["language"] == "macro"
            else row
            for row in results
        ]


def _times(ratio: float) -> str:
    return f"{_number(ratio)} x"


def _number(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 0.095 else f"{ratio:.2g}"


def _between(ratios: Sequence[float], more: str, less: str) -> str:
    """The range of ratios, or of their inverses where all are below 1: ``13 to 18 x smaller``."""
    if max(ratios) < 1.0:
        ratios, more = [1.0 / r for r in ratios], less
    low, high = _number(min(ratios)), _number(max(ratios))
    return f"{low} x {more}" if low == high else f"{low} to {high} x {more}"
