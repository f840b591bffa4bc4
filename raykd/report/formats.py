"""Write numbers and tables as text, the same way in terminals, Markdown and pages.

Rates are shown in per cent and their differences in percentage points. NLL is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from raykd.tasks.scores.metrics import find_metric_title, is_out_of_hundred, is_rate

ABSENT = "–"
"""What stands where there is no number."""


def format_metric_name(metric: str) -> str:
    """Return the title of a metric without its unit."""
    return find_metric_title(metric).split()[0]


def format_metric(metric: str, value: float | None, *, compared: bool = False) -> str:
    """Return a metric as text: rates in per cent with one decimal, others with three; a dash if not measured.

    Args:
        metric: Name of the metric, which decides its unit.
        value: The value; None if it was not measured.
        compared: With one decimal more, as scores are compared (see `raykd.tasks.scores.ranking`).
    """
    if value is None:
        return ABSENT
    return f"{100 * value:.{1 + compared}f}" if is_rate(metric) else f"{value:.{3 + compared}f}"


def choose_unit(metric: str) -> str:
    """Return the unit in which differences of a metric are shown; empty for a plain number."""
    if is_rate(metric) or is_out_of_hundred(metric):
        return "points"
    return "nats" if metric == "nll" else ""


def format_ratio(ratio: float) -> str:
    """Return a ratio with two or three digits."""
    # 9.95 and 0.095 are where rounding would add a digit: 12, 9.9, 0.1, 0.094
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 0.095 else f"{ratio:.2g}"


def format_signed(value: float, digits: int) -> str:
    """Return a difference with its sign; a small one gets up to five digits, so that it does not read as zero.

    What five digits do not show is the rounding of a sum and does read as zero, with the digits that were asked for.
    """
    if float(f"{value:.5f}") == 0.0:
        value = 0.0
    while digits < 5 and value and float(f"{value:.{digits}f}") == 0.0:
        digits += 1
    return use_minus_sign(f"{value:+.{digits}f}")


def use_minus_sign(text: str) -> str:
    """Return the text with typographic minus signs for hyphens."""
    return text.replace("-", "−")


def format_count(number: int) -> str:
    """Return a number of parameters with three digits and a unit: 1.2 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:  # what would be rounded up to 1,000 of the smaller unit
            return f"{number / size:.3g} {unit}"
    return str(number)


def format_megabytes(megabytes: float | None) -> str:
    """Return a size with three digits at most; a dash if it is not known."""
    if megabytes is None:
        return ABSENT
    return (
        f"{megabytes:,.0f}"
        if megabytes >= 99.95
        else f"{megabytes:.1f}"
        if megabytes >= 0.095
        else f"{megabytes:.2g}"
    )


def format_speed(ms: float | None) -> str:
    """Return milliseconds for a text as texts a second, with three digits; a dash if the time is not known."""
    if not ms:
        return ABSENT
    speed = 1e3 / ms
    return f"{speed:,.0f}" if speed >= 99.95 else f"{speed:.3g}"


def format_value(value: object) -> str:
    """Return a sampled value as text: numbers with four significant digits, booleans and null as in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def render_markdown_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table as GitHub Markdown. The first two columns hold texts, the others numbers."""

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = "|" + "|".join(" --- " if at < 2 else " ---: " for at in range(len(heads))) + "|"
    return "\n".join([row(heads), rule, *map(row, lines)])
