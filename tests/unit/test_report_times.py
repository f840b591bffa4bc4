"""The bar of a run's time is as wide as its seconds, and its text says the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from raykd.report.runs.page import write_run_page
from raykd.report.runs.report import RunReport
from raykd.report.runs.tasks_page import TasksReport, write_tasks_page
from raykd.report.time_bar import MOST_STAGES, TIME_TITLE, format_times, make_time_bar
from raykd.timeline import OTHER, Span


def make_spans(*seconds: float) -> list[Span]:
    """Stages of the driver, one after the other."""
    begin = [sum(seconds[:at]) for at in range(len(seconds))]
    return [Span(f"stage {at}", "driver", "main", begin[at], s) for at, s in enumerate(seconds)]


def read_bar(page: str) -> dict[str, tuple[float, str, str]]:
    """Width in percent, colour and seconds of each piece, by name."""
    pieces = re.findall(
        r'<div style="width: ([\d.]+)%; background: (#\w+)" title="(.+?): ([\d.]+) s"></div>', page
    )
    return {name: (float(width), colour, seconds) for width, colour, name, seconds in pieces}


def test_widths_equal_seconds_and_the_legend_has_the_same(tmp_path: Path) -> None:
    bar = make_time_bar(make_spans(2.0, 1.0, 5.0))
    page = write_run_page(RunReport("run", "It ran.", (), times=bar), tmp_path / "report.html").read_text()
    pieces = read_bar(page)
    assert {name: (width, seconds) for name, (width, _, seconds) in pieces.items()} == {
        "stage 0": (25.0, "2.0"), "stage 1": (12.5, "1.0"), "stage 2": (62.5, "5.0"),
    }  # fmt: skip
    for name, (_, colour, seconds) in pieces.items():
        assert f'<i style="background: {colour}"></i>{name} <b>{seconds} s</b>' in page
    assert "8.0 s of wall time, up to the writing of this page" in page
    kept = json.loads((tmp_path / "report.json").read_text())["times"]
    assert kept == {
        "shares": [{"name": f"stage {i}", "seconds": s} for i, s in enumerate((2.0, 1.0, 5.0))],
        "starts": 1,
    }


def test_short_stages_share_a_piece_and_every_piece_has_its_colour() -> None:
    spans = make_spans(0.1, *[float(i + 1) for i in range(MOST_STAGES)], 0.2)
    bar = make_time_bar(spans)
    assert bar is not None
    names = [piece.name for piece in bar.pieces]
    assert names == [f"stage {i + 1}" for i in range(MOST_STAGES)] + [OTHER]
    assert len({piece.colour for piece in bar.pieces}) == MOST_STAGES + 1
    assert sum(piece.percent for piece in bar.pieces) == pytest.approx(100.0)
    assert bar.pieces[-1].seconds == pytest.approx(0.3)


def test_a_run_without_a_time_line_shows_none_and_one_of_two_starts_says_so(tmp_path: Path) -> None:
    assert make_time_bar([]) is None
    assert format_times([]) == []
    assert TIME_TITLE not in write_run_page(RunReport("run", "", ()), tmp_path / "a.html").read_text()
    spans = [*make_spans(1.0), *(s._replace(start=2, begin_s=50.0) for s in make_spans(3.0))]
    bar = make_time_bar(spans)
    page = write_tasks_page(TasksReport("run", "", (), "", bar), tmp_path / "b.html").read_text()
    assert "4.0 s of wall time over 2 starts of the run" in page
    assert read_bar(page)["stage 0"][0] == 100.0


def test_the_table_for_the_terminal_adds_up() -> None:
    lines = format_times(make_spans(2.0, 6.0))
    assert [line.split() for line in lines] == [
        ["2.00", "s", "25.0", "%", "stage", "0"],
        ["6.00", "s", "75.0", "%", "stage", "1"],
        ["8.00", "s", "together"],
    ]
