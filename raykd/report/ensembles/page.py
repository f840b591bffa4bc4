"""Write the ensemble report as `ensemble.json` and as a page of its own, `ensemble.html`."""

from __future__ import annotations

import json
from pathlib import Path

from raykd.report.ensembles.report import EnsembleReport
from raykd.report.ensembles.tables import build_sections, list_advice, summarize_ensemble
from raykd.report.html import write_html

FILE = "ensemble.json"
"""The report as data, in a run's folder."""
PAGE = "ensemble.html"
"""The page, beside it."""


def build_page_values(report: EnsembleReport, *, with_sizes: bool = True) -> dict[str, object]:
    """Return what the template `ensemble.html.j2` shows.

    Args:
        report: The report.
        with_sizes: Whether sizes and speeds are shown; a run's page has them in another table.
    """
    return {
        "sections": [s for s in build_sections(report) if with_sizes or s.name != "sizes"],
        "advice": list_advice(report),
        "comparisons": report.comparisons,
        "missing": report.missing,
        "summary": summarize_ensemble(report),
    }


def write_ensemble_page(report: EnsembleReport, folder: Path) -> Path:
    """Write page and data into a folder; return the page.

    Args:
        report: The report.
        folder: Of the run, or of one of its tasks.
    """
    text = json.dumps(report.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(text, encoding="utf-8")
    head = {"title": f"{report.run}: what each teacher adds", "summary": summarize_ensemble(report)}
    return write_html(
        folder / PAGE,
        "ensemble.html.j2",
        report={**head, "created": report.created},
        ensemble=build_page_values(report),
    )
