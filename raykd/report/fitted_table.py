"""A table that fits the terminal: in one of its forms, else a record for each row.

Decision record: a number that is cut is worse than a table that is long, so no form is shown that has not room for
all it holds; the last resort has a line for each cell and fits any width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

WIDE = 100_000


@dataclass(frozen=True)
class FittedTable:
    """Forms of a table, of which a terminal shows the first one that it has room for.

    forms: the widest first. heads, lines: its cells, for a terminal that has room for none of them. bold: of the lines
    those that count. remarks: what stands below.
    """

    forms: tuple[Table, ...]
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]
    bold: frozenset[int] = frozenset()
    title: str = ""
    remarks: tuple[str, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for form in self.forms:
            # A column that may not wrap is measured at its whole width, one that may at its longest word.
            if Measurement.get(console, options.update_width(WIDE), form).minimum <= options.max_width:
                yield form
                return
        if self.title:
            yield Text(self.title, style="italic")
        yield from self.records()
        for remark in self.remarks:
            yield Text(remark, style="dim italic", overflow="fold")

    def with_title(self, what: str) -> FittedTable:
        """The same table with words before its title."""
        for form in self.forms:
            form.title = f"{what}. {form.title}"
        return replace(self, title=f"{what}. {self.title}")

    def records(self) -> Iterator[Text]:
        """A record for each row: its first cell, then a line for each other cell."""
        wide = max((len(_flat(head)) for head in self.heads[1:]), default=0)
        for at, line in enumerate(self.lines):
            yield Text(line[0], style="bold" if at in self.bold else "")
            for head, cell in zip(self.heads[1:], line[1:], strict=True):
                if cell:
                    yield Text(f"  {_flat(head).ljust(wide)}  {cell}", overflow="fold")


def build_plain_table(heads: Sequence[str], lines: Sequence[Sequence[str]], *, left: int = 1) -> FittedTable:
    """A plain table without a frame.

    Args:
        left: columns of texts; the others hold numbers.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for at, head in enumerate(heads):
        table.add_column(Text(head), justify="left" if at < left else "right", no_wrap=True)
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    return FittedTable((table,), heads, lines)


def _flat(head: str) -> str:
    return head.replace("\n", " ")
