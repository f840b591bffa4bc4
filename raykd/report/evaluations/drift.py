"""Show whether new texts have drifted away from what a student learnt."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from raykd.report.fitted_table import FittedTable, build_form

TITLE = "How far the student is from its teachers"
HEADS = ["texts", "number", "divergence", "usually", "threshold", "agreement %", "usually", ""]


@dataclass(frozen=True)
class DriftLine:
    """New texts of one language, or all.

    Attributes:
        what: The language, or all.
        texts: Number of new texts that a teacher answers.
        divergence: Their mean KL(teachers || student), nats.
        usual: That of validation rows in the same languages.
        threshold: Above it the texts have drifted.
        agreement: How often student and teachers choose the same, in [0, 1].
        usual_agreement: The same on validation rows.
    """

    what: str
    texts: int
    divergence: float
    usual: float
    threshold: float
    agreement: float
    usual_agreement: float

    @property
    def drifted(self) -> bool:
        """Whether the divergence is above the threshold."""
        return self.divergence > self.threshold

    def to_cells(self) -> list[str]:
        """Return the cells of a row."""
        numbers = [f"{x:.3f}" for x in (self.divergence, self.usual, self.threshold)]
        shares = [f"{100 * x:.1f}" for x in (self.agreement, self.usual_agreement)]
        return [self.what, f"{self.texts:,}", *numbers, *shares, "drifted" if self.drifted else ""]


@dataclass(frozen=True)
class DriftReport:
    """All languages of a window of texts.

    Attributes:
        lines: All texts first, then each language of several.
        level: Share of undrifted windows below the threshold.
        run: Folder of the run.
    """

    lines: tuple[DriftLine, ...]
    level: float
    run: str

    @property
    def drifted(self) -> bool:
        """Whether all texts together, or those of a language, have drifted."""
        return any(line.drifted for line in self.lines)

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        lines = [{**asdict(line), "drifted": line.drifted} for line in self.lines]
        return {"drifted": self.drifted, "level": self.level, "run": self.run, "lines": lines}

    def to_rich(self) -> FittedTable:
        """Return the table for the terminal."""
        lines = [line.to_cells() for line in self.lines]
        remarks = (
            f"usually: on the validation rows of {self.run}; of undrifted windows {1 - self.level:.1%} are above the "
            "threshold, which is learnt from them",
        )
        form = build_form(HEADS, lines, left=1, title=TITLE, remarks=remarks)
        form.caption_justify = "left"
        return FittedTable((form,), HEADS, lines, title=TITLE, remarks=remarks)
