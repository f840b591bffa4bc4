"""Show what a student that went on learning has forgotten, and what it has learnt.

Decision record: both students are asked the same rows of the earlier run, so differences are paired and their intervals
are of the bootstrap over rows. What a label lost is shown as F1, which also falls where a new label takes rows away.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from raykd.keys import make_key_part
from raykd.report.fitted_table import FittedTable, build_form
from raykd.report.formats import format_metric, format_metric_name, format_signed, render_markdown_table
from raykd.tasks.scores.metrics import is_rate

FORGETTING_TITLE = "What the old student knew, and the new one knows of it"
HEADS = ["rows of the earlier run", "rows", "metric", "before", "after", "change", "95 % interval"]


@dataclass(frozen=True)
class Forgotten:
    """One metric of some rows, before and after.

    Attributes:
        what: Language or label, in words.
        rows: Their number; of a label the units that have it.
        metric: Name of the metric.
        before: Of the old student.
        after: Of the new one.
        low: Lower end of the interval of the change; None where the metric is no mean over rows.
        high: Its upper end.
    """

    what: str
    rows: int
    metric: str
    before: float
    after: float
    low: float | None = None
    high: float | None = None

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after - self.before

    def to_cells(self) -> list[str]:
        """Return the cells of a row."""
        digits, scale = (1, 100.0) if is_rate(self.metric) else (3, 1.0)
        numbers = (self.change, self.low, self.high)
        signed = ["" if value is None else format_signed(scale * value, digits) for value in numbers]
        interval = f"{signed[1]} to {signed[2]}" if signed[1] else ""
        return [
            self.what, f"{self.rows:,}", format_metric_name(self.metric), format_metric(self.metric, self.before),
            format_metric(self.metric, self.after), signed[0], interval,
        ]  # fmt: skip


@dataclass(frozen=True)
class ForgettingTable:
    """All languages and labels of the earlier run.

    Attributes:
        lines: Languages first, then labels.
        earlier: Folder of the earlier run.
        part: Which of its rows: test or validation.
        replayed: Its training rows that were learnt again.
    """

    lines: tuple[Forgotten, ...]
    earlier: str
    part: str
    replayed: int

    @property
    def notes(self) -> tuple[str, ...]:
        """How to read the table, a sentence a line."""
        return (
            f"{self.part} rows of {self.earlier}; {self.replayed:,} of its training rows were learnt again "
            "(data.replay.share)",
        )

    def to_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows as texts."""
        return HEADS, [line.to_cells() for line in self.lines]

    def to_rich(self) -> FittedTable:
        """Return the table for the terminal."""
        heads, lines = self.to_cells()
        form = build_form(heads, lines, left=1, title=FORGETTING_TITLE, remarks=self.notes)
        form.caption_justify = "left"
        return FittedTable((form,), heads, lines, title=FORGETTING_TITLE, remarks=self.notes)

    def to_markdown(self) -> str:
        """Return the table and its notes as GitHub Markdown."""
        return (
            "\n\n".join([f"{FORGETTING_TITLE}:", render_markdown_table(*self.to_cells()), *self.notes]) + "\n"
        )

    def to_rows(self) -> list[dict[str, object]]:
        """Return a flat row for each line, ready for JSON."""
        return [{**asdict(line), "change": line.change} for line in self.lines]

    def to_metrics(self) -> dict[str, float]:
        """Return the change of each language and label by metric name of MLflow."""
        return {f"forgetting/{make_key_part(x.what)}/{x.metric}": x.change for x in self.lines}
