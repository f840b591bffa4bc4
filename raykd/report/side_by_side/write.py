"""Write the page of one run again, or a page about several, and perhaps a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raykd.errors import ConfigError
from raykd.report.runs.tasks_page import TASKS
from raykd.report.side_by_side.page import SideBySide, write_runs_page
from raykd.report.side_by_side.png import write_png
from raykd.report.side_by_side.rewrite import draw_figures, read_reports, rewrite_pages
from raykd.report.side_by_side.summaries import resolve_folder, summarize_folder

SEVERAL = "compared.html"
"""The page about several runs, in the folder that the first of them lies in."""


@dataclass(frozen=True)
class WrittenReport:
    """What was written.

    Attributes:
        runs: The runs side by side.
        page: The page.
        pictures: PNGs beside the pages.
    """

    runs: SideBySide
    page: Path
    pictures: tuple[Path, ...] = ()


def write_report_of(given: Sequence[Path], page: Path | None = None, *, png: bool = False) -> WrittenReport:
    """Write the page of one folder again, or a page that sets several side by side.

    Args:
        given: Folders of runs, sweeps and comparisons, or their names under ``runs``.
        page: The file of a page about several; None is `SEVERAL` beside the first folder.
        png: Whether to draw the charts of each page as PNGs beside it, too.

    Raises:
        ConfigError: A folder is none of raykd's, `page` is given for one folder, or a PNG cannot be drawn.
        DataError: A folder holds no report.
    """
    folders = [resolve_folder(one) for one in given]
    names = _name_folders(folders)
    summaries = tuple(
        one for folder, name in zip(folders, names, strict=True) for one in summarize_folder(folder, name)
    )
    if not summaries:
        raise ConfigError(
            f"nothing was scored in {', '.join(map(str, given))}",
            got="no student with a score",
            wanted="finished runs, sweeps or comparisons",
            next_step="continue what was cut off with --resume",
        )
    runs = SideBySide(summaries)
    if len(folders) == 1:
        if page is not None:
            raise ConfigError(
                "the page of one run stays in its folder",
                got=f"a place for it: {page}",
                wanted="several runs, or no place",
                next_step=f"leave it out: {folders[0] / 'report.html'} is written",
            )
        written = rewrite_pages(folders[0])
        return WrittenReport(runs, written, _draw_pictures(folders[0]) if png else ())
    written = write_runs_page(runs, page or folders[0].parent / SEVERAL)
    if not png:
        return WrittenReport(runs, written)
    chart, caption = runs.draw_figures()["languages"]
    return WrittenReport(
        runs, written, (write_png(chart, written.with_suffix(".png"), "Runs side by side", caption),)
    )


def _name_folders(folders: Sequence[Path]) -> list[str]:
    """Return the name of each folder, with as much of its path as sets it apart."""
    for depth in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            return names
    return [str(folder) for folder in folders]


def _draw_pictures(folder: Path) -> tuple[Path, ...]:
    """Draw the charts of each report in a folder: report.png is the first, the others have their names."""
    drawn = []
    for task, report in read_reports(folder).items():
        place = folder / TASKS / task if task else folder
        for at, (name, (chart, _)) in enumerate(draw_figures(report).items()):
            path = place / (f"report-{name}.png" if at else "report.png")
            drawn.append(write_png(chart, path, report.title, report.summary))
    return tuple(drawn)
