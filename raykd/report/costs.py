"""Show which teacher taught which language, how large and fast each is, and the student beside them.

Decision record: the student's texts a second stand beside each teacher's, taken in the same process on the same texts,
threads and device (see `raykd.teachers.timing`), so that a reader can divide. What is not known is a dash, and a note
says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raykd.report.fitted_table import FittedTable, build_form
from raykd.report.formats import format_count, format_ratio, format_speed, render_markdown_table
from raykd.report.sizes import NARROW_HEADS, RATIO_HEADS, SIZE_HEADS, Size, format_ratios, format_size
from raykd.report.table import Row

COST_TITLE = "Who taught what, and the student beside its teachers"
EARLIER_MARK = "*"
"""Mark of a time that an earlier run took."""
_NARROW_HEADS = {**NARROW_HEADS, "student's texts/s": "student's\ntexts/s"}
"""Headings that are too wide for a terminal."""


@dataclass(frozen=True)
class TeacherCost:
    """One teacher, and the student beside it. Written by `scoring`.

    Attributes:
        taught: Languages of the training texts that this teacher was asked about.
        texts: Number of these texts.
        parameters: The teacher's.
        smaller: The teacher's parameters over the student's; None for one without weights.
        ms: The teacher's milliseconds per text; None is not known.
        student_ms: The student's milliseconds per text, on the same texts; None is not known.
        kept: Whether an earlier run took `ms`.
        megabytes: Of the teacher's weights on disk; None is not known.
        timed_on: Threads and device of `ms`, in words; None is not known.
        earlier: When and on what that run took it, in words; empty for a time of this run.
        tokens: Mean tokens of a text that this run sent to it or had from it; None where it sent none.
    """

    teacher: str
    taught: tuple[str, ...]
    texts: int
    parameters: int
    smaller: float | None
    ms: float | None = None
    student_ms: float | None = None
    kept: bool = False
    megabytes: float | None = None
    timed_on: str | None = None
    earlier: str = ""
    tokens: float | None = None

    @property
    def size(self) -> Size:
        """How large and fast the teacher is."""
        return Size(self.parameters, self.megabytes, self.ms, self.timed_on)

    @property
    def faster(self) -> float | None:
        """The teacher's time over the student's; None unless both are known."""
        return None if self.ms is None or not self.student_ms else self.ms / self.student_ms

    def to_row(self) -> Row:
        """Return the figures as plain data."""
        return {
            "taught": ",".join(self.taught), "texts_taught": self.texts, "ms_a_text": self.ms,
            "student_ms_a_text": self.student_ms, "x_smaller": self.smaller, "x_faster": self.faster,
            "megabytes": self.megabytes,
        }  # fmt: skip


@dataclass(frozen=True)
class CostTable:
    """All teachers of a run beside its student.

    Attributes:
        parameters: The student's.
        languages: Languages of the training texts.
        conditions: How the times were taken, in words.
        megabytes: Of the student's weights on disk; None is not known.
        ms: The student's milliseconds per text, as the table of results has it; None is not known.
        timed_on: Threads and device of `ms`, in words; None is not known.
        together: All teachers as one system; None is not known.
    """

    teachers: tuple[TeacherCost, ...]
    parameters: int
    languages: tuple[str, ...]
    conditions: str
    megabytes: float | None = None
    ms: float | None = None
    timed_on: str | None = None
    together: Size | None = None

    @property
    def student(self) -> Size:
        """How large and fast the student is."""
        return Size(self.parameters, self.megabytes, self.ms, self.timed_on)

    @property
    def by_language(self) -> str:
        """Who taught each language, in words."""
        by = {x: [t.teacher for t in self.teachers if x in t.taught] for x in self.languages}
        return "; ".join(f"{x} is taught by {', '.join(who) or 'gold labels alone'}" for x, who in by.items())

    @property
    def summary(self) -> str:
        """How much smaller and faster than each of its teachers the student is, in words."""
        sizes = [t.smaller for t in self.teachers if t.smaller is not None]
        ratios = [_format_range(sizes, "smaller", "larger")] if sizes else []
        known = [t.faster for t in self.teachers if t.faster is not None]
        ratios += [_format_range(known, "faster", "slower")] if known else []
        who = f"the student ({format_count(self.parameters)} parameters)"
        return (
            f"{who} is {', '.join(ratios)} than a teacher alone"
            if ratios
            else f"{who}: its teachers have no weights"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """How to read the table, a sentence a line."""
        lines = [self.by_language, *([self.summary] if self.teachers else []), self.conditions]
        if kept := [t for t in self.teachers if t.kept]:
            when = "; ".join(f"{t.teacher} {t.earlier}" for t in kept if t.earlier)
            lines.append(
                f"{EARLIER_MARK} taken by an earlier run in the same way, as all answers were stored and no weights "
                f"were loaded{': ' * bool(when)}{when}"
            )
        if unknown := ", ".join(t.teacher for t in self.teachers if t.ms is None):
            lines.append(
                f"no time is known for {unknown}: only models that answer in this run, or did earlier on this machine "
                "with as many threads, are timed; functions, files and servers are not"
            )
        return tuple(lines)

    def to_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows as texts."""
        heads = ["system", "taught", "texts", *SIZE_HEADS, "student's texts/s", *RATIO_HEADS]
        lines = [self._line(t) for t in self.teachers]
        others = [] if self.together is None else [("teachers together", self.together)]
        for name, size in [*others, ("student", self.student)]:
            lines.append([name, "", "", *format_size(size), "", *format_ratios(self.together, size)])
        return heads, lines

    def _line(self, t: TeacherCost) -> list[str]:
        *size, speed = format_size(t.size)
        return [
            t.teacher, " ".join(t.taught) or "nothing", f"{t.texts:,}", *size, speed + (EARLIER_MARK if t.kept else ""),
            format_speed(t.student_ms), *format_ratios(self.together, t.size),
        ]  # fmt: skip

    def to_rich(self) -> FittedTable:
        """Return the table for the terminal."""
        heads, lines = self.to_cells()
        form = build_form(
            [_NARROW_HEADS.get(h, h) for h in heads], lines, title=COST_TITLE, remarks=self.notes
        )
        form.caption_justify = "left"
        return FittedTable((form,), heads, lines, title=COST_TITLE, remarks=self.notes)

    def to_markdown(self) -> str:
        """Return the table and its notes as GitHub Markdown."""
        return "\n\n".join([f"{COST_TITLE}:", render_markdown_table(*self.to_cells()), *self.notes]) + "\n"

    def to_rows(self) -> list[Row]:
        """Return a flat row for each teacher, ready for JSON."""
        return [{"teacher": t.teacher, "parameters": t.parameters, **t.to_row()} for t in self.teachers]

    def merge_into(self, results: Sequence[Row]) -> list[Row]:
        """Return rows of results in which a teacher's mean carries the teacher's figures, too."""
        known = {t.teacher: t.to_row() for t in self.teachers}
        means = [row["role"] == "teacher" and row["language"] == "macro" for row in results]
        return [
            {**row, **known.get(str(row["system"]), {})} if is_mean else row
            for row, is_mean in zip(results, means, strict=True)
        ]


def _format_range(ratios: Sequence[float], more: str, less: str) -> str:
    """Return the range of ratios in words, or of their inverses where all are below 1: ``13 to 18 x smaller``."""
    if max(ratios) < 1.0:
        ratios, more = [1.0 / r for r in ratios], less
    low, high = format_ratio(min(ratios)), format_ratio(max(ratios))
    return f"{low} x {more}" if low == high else f"{low} to {high} x {more}"
