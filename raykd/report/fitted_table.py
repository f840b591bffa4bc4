"""Show a table in a terminal of any width: in the widest form that fits, else as one record per row.

Decision record: a number that is cut is worse than a table that is long. No form is shown unless every cell of it fits;
the last resort prints each cell on a line of its own and fits any width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

UNLIMITED = 100_000
"""Characters of a terminal so wide that nothing is folded in it."""


@dataclass(frozen=True)
class FittedTable:
    """A table for the terminal.

    Attributes:
        forms: The table in several layouts, the widest first.
        heads: Headings of the records that are shown where no form fits.
        lines: Cells of these records.
        bold: Numbers of the lines that stand out.
        title: What is shown above the records. A form has its own title.
        remarks: What is shown below the records. A form has its own caption.
    """

    forms: tuple[Table, ...]
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]
    bold: frozenset[int] = frozenset()
    title: str = ""
    remarks: tuple[str, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for form in self.forms:
            # The minimum of a column is its whole width if it may not wrap (`add_row`), else its longest word.
            if Measurement.get(console, options.update_width(UNLIMITED), form).minimum <= options.max_width:
                yield form
                return
        if self.title:
            yield Text(self.title, style="italic")
        yield from self.records()
        for remark in self.remarks:
            yield Text(remark, style="dim italic", overflow="fold")

    def with_title(self, prefix: str) -> FittedTable:
        """Return the same table with a prefix before its titles."""
        for form in self.forms:
            form.title = f"{prefix}. {form.title}"
        return replace(self, title=f"{prefix}. {self.title}")

    def records(self) -> Iterator[Text]:
        """Yield a record for each row: its first cell, then a line for each other cell that is not empty."""
        heads = [_on_one_line(head) for head in self.heads[1:]]
        width = max(map(len, heads), default=0)
        for at, (first, *rest) in enumerate(self.lines):
            yield Text(first, style="bold" if at in self.bold else "")
            for head, cell in zip(heads, rest, strict=True):
                if cell:
                    yield Text(f"  {head.ljust(width)}  {cell}", overflow="fold")


def build_form(
    heads: Sequence[str],
    lines: Sequence[Sequence[str]],
    *,
    left: int = 2,
    bold: Collection[int] = (),
    title: str | None = None,
    remarks: Sequence[str] = (),
    folded: int | None = None,
    folded_width: int = 0,
) -> Table:
    """Return one layout of a table. Cells are shown as they are; rich reads no markup in them.

    Args:
        heads: Headings; a line break in one is kept.
        lines: Cells of each line.
        left: Number of columns with texts, which are aligned left; the others hold numbers.
        bold: Numbers of the lines that stand out.
        title: Line above the table.
        remarks: Lines below the table.
        folded: The one column whose cells may take several lines.
        folded_width: Least characters of that column.
    """
    table = Table(
        title=title,
        caption="\n".join(remarks) or None,
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for at, head in enumerate(heads):
        table.add_column(
            Text(head),
            justify="left" if at < left or at == folded else "right",
            no_wrap=at != folded,
            overflow="fold",
            min_width=folded_width if at == folded else None,
        )
        _keep_whole(table.columns[at], head)
    for at, line in enumerate(lines):
        add_row(table, line, bold=at in bold)
    return table


def add_row(table: Table, cells: Sequence[str], *, bold: bool = False, end: bool = False) -> None:
    """Add a row to a form.

    Args:
        table: What `build_form` returned.
        cells: Texts, one per column.
        bold: Whether the row stands out.
        end: Whether a rule is drawn below it.
    """
    table.add_row(*map(Text, cells), style="bold" if bold else "", end_section=end)
    for column, cell in zip(table.columns, cells, strict=True):
        _keep_whole(column, cell)


def _keep_whole(column: Column, cell: str) -> None:
    """Keep a column that may not wrap as wide as a cell: rich's own minimum is the longest word."""
    if column.no_wrap:
        column.min_width = max(column.min_width or 0, *(cell_len(line) for line in cell.split("\n")))


def build_plain_table(heads: Sequence[str], lines: Sequence[Sequence[str]], *, left: int = 1) -> FittedTable:
    """Return a table without rules, for short lists.

    Args:
        heads: Headings.
        lines: Cells of each line.
        left: Number of columns with texts; the others hold numbers.
    """
    form = build_form(heads, lines, left=left)
    form.box, form.header_style, form.collapse_padding = None, "bold", False
    return FittedTable((form,), heads, lines)


def _on_one_line(head: str) -> str:
    return head.replace("\n", " ")
