"""Count the bad rows of a source, and say what a user can do about them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

from raykd.config import DataConfig
from raykd.data.cells import BadRowError, find_spelling
from raykd.data.labels import UnknownLabelError
from raykd.errors import DataError
from raykd.tasks.forms import RowForm

SHOWN_BAD_ROWS = 5
"""Bad rows that a message shows."""


@dataclass
class BadRows:
    """Bad rows of one file or data set.

    Attributes:
        count: How many.
        lines: The first of them, for people.
        unknown: Some of their labels that are not the run's.
    """

    count: int = 0
    lines: list[str] = field(default_factory=list)
    unknown: dict[str, None] = field(default_factory=dict)

    def add(self, place: str, error: BadRowError) -> None:
        """Take a bad row."""
        self.count += 1
        if len(self.lines) < SHOWN_BAD_ROWS:
            self.lines.append(f"{place}: {error}")
        if isinstance(error, UnknownLabelError) and len(self.unknown) <= SHOWN_BAD_ROWS:
            self.unknown[error.label] = None

    def report(self, rows: int, name: str, config: DataConfig, advice: str) -> str:
        """Return what to log where they may be skipped.

        Raises:
            DataError: They may not be skipped.
        """
        more = [f"and {self.count - len(self.lines)} more"] if self.count > len(self.lines) else []
        listed = "".join(f"\n    {line}" for line in self.lines + more)
        skipping = config.on_bad_row == "skip"
        if skipping and self.count <= config.max_bad_rows * rows:
            return f"{name}: skipped {self.count} bad rows of {rows}:{listed}"
        if any(": language: got" in line for line in self.lines):
            advice += "; data.languages may also name languages as the rows do (EN, en-US)"
        raise DataError(
            f"{name}: {self.count} of {rows} rows cannot be used:{listed}",
            got=f"bad rows: {self.count} ({self.count / rows:.1%})",
            wanted=f"at most data.max_bad_rows {config.max_bad_rows:.1%}" if skipping else "none",
            next_step=advice,
        )


def advise_on_bad_rows(
    share: float, bare: int, unknown: tuple[str, ...], config: DataConfig, form: RowForm
) -> str:
    """Return what to do about bad rows.

    Args:
        share: Bad rows of all rows.
        bare: How many of them have no label.
        unknown: Labels of the others that are not the run's.
        config: The run's data.
        form: What a row consists of.
    """
    if bare:
        return (
            "rows without a label are texts for data.unlabeled; data.empty_label: unlabeled reads them so here, and "
            "drop leaves them out"
        )
    advice = "correct the rows"
    if unknown:
        advice += f", or set {_propose_label_map(unknown, config, form)}"
    if share >= 1.0:
        return advice  # without its bad rows nothing would be left
    needed = f"data.max_bad_rows: {math.ceil(1000 * share) / 1000:g}"
    if config.on_bad_row == "skip":
        advice += f", or set {needed}"
    elif share <= config.max_bad_rows:
        advice += ", or set data.on_bad_row: skip to leave them out, counted and logged"
    else:
        advice += f", or set data.on_bad_row: skip and {needed} to leave them out, counted and logged"
    return advice


def _propose_label_map(unknown: tuple[str, ...], config: DataConfig, form: RowForm) -> str:
    """Return a label map for labels of a file that the run does not have, as one line of YAML."""
    others = "O" if form == "words" else None
    meant = {label: find_spelling(label, config.labels) or others for label in unknown[:SHOWN_BAD_ROWS]}
    pairs = ", ".join(f"{json.dumps(label)}: {json.dumps(to)}" for label, to in meant.items())
    more = ", ..." if len(unknown) > len(meant) else ""
    why = "O is for what the run does not tag" if form == "words" else "null leaves its rows out"
    return f"data.label_map: {{{pairs}{more}}}" + (f" ({why})" if others in meant.values() else "")
