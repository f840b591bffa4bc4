"""Hold one table of the ensemble report, and write its numbers."""

from __future__ import annotations

from dataclasses import dataclass

from raykd.report.fitted_table import FittedTable, build_form
from raykd.report.formats import use_minus_sign
from raykd.tasks.scores.metrics import is_rate


@dataclass(frozen=True)
class Section:
    """One table of the report.

    Attributes:
        name: A short name, for links.
        title: What it shows.
        heads: Headings.
        lines: Cells.
        texts: How many columns, from the left, hold texts.
        remarks: How to read it, a sentence each.
        brief: Whether the terminal shows it, too.
        wraps: Whether the last column holds texts that take several lines.
    """

    name: str
    title: str
    heads: list[str]
    lines: list[list[str]]
    texts: int = 1
    remarks: tuple[str, ...] = ()
    brief: bool = True
    wraps: bool = False

    def to_rich(self) -> FittedTable:
        """Return the table for the terminal."""
        form = build_form(self.heads, self.lines, left=self.texts, title=self.title, remarks=self.remarks)
        form.title_justify = form.caption_justify = "left"
        return FittedTable((form,), self.heads, self.lines, title=self.title, remarks=self.remarks)


def format_points(value: float, metric: str) -> str:
    """Return a change: of a rate in percentage points, of NLL in nats."""
    digits, scaled = (1, 100 * value) if is_rate(metric) else (3, value)
    # Adding 0 turns a negative zero into a positive one.
    return use_minus_sign(f"{round(scaled, digits) + 0.0:+.{digits}f}")


def format_interval(value: float, low: float, high: float, metric: str) -> str:
    """Return a change and its interval, as `format_points` does."""
    interval = f"[{format_points(low, metric)}, {format_points(high, metric)}]"
    return f"{format_points(value, metric)} {interval}"
