"""Score what each system answered to one set of rows, and how often two systems agree.

Decision record: teachers, ensemble, baseline and student are measured by the same function on the same rows, from raw
logits at temperature 1, so no setting of the distillation touches the comparison. The mean over languages is
unweighted, as in XNLI, and taken over the languages that a system covers. The mean of a monolingual teacher is
therefore its one language, and the tables say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED
from raykd.report.evaluations.result import CalibrationBin
from raykd.report.sizes import Size
from raykd.tasks.scores.classes import ClassScores
from raykd.tasks.scores.classification import ECE_BINS, compute_calibration_bins, log_softmax

Role = Literal["teacher", "ensemble", "baseline", "peer", "student"]
ROLES: tuple[Role, ...] = get_args(Role)
"""The order of rows in every table and of colours in every plot."""
Measure = Callable[[NDArray[np.int64]], dict[str, float]]
"""Return the metrics of the rows at these positions."""


@dataclass(frozen=True)
class Predictions:
    """One system's answers to N units. Written by `scoring`, read by every table and plot of a run.

    Attributes:
        name: As in the configuration.
        role: What it is; the baseline is the student trained without teachers.
        logits_NC: Raw logits, float32. C is 0 in tasks that have no labels to choose from.
        covered_N: False where the system was not asked or cannot answer.
        labels_N: Gold labels, or `UNLABELLED`.
        languages: Language code of each unit.
        parameters: Of the model; the sum over an ensemble.
        ms_per_1000: Milliseconds for 1,000 texts; None was not measured.
        megabytes: Of the weights on disk; the sum over an ensemble; None is not known.
        timed_on: Threads and device of `ms_per_1000`, in words; None is not known.
        classes: Scores by class and the confusion table, over all languages; None for a task without classes.
        plain: Whether it is a student that no teacher taught.
        constant: The one answer it gives to every row although the gold labels differ, in words ("label negative");
            None where its answers differ.
    """

    name: str
    role: Role
    logits_NC: NDArray[np.float32]
    covered_N: NDArray[np.bool_]
    labels_N: NDArray[np.int64]
    languages: tuple[str, ...]
    parameters: int
    ms_per_1000: float | None = None
    plain: bool = False
    constant: str | None = None
    megabytes: float | None = None
    timed_on: str | None = None
    classes: ClassScores | None = None

    def __post_init__(self) -> None:
        units = {len(self.logits_NC), len(self.covered_N), len(self.labels_N), len(self.languages)}
        if len(units) != 1:
            raise ValueError(
                f"{self.name}: logits, covered, labels and languages have different lengths {sorted(units)}"
            )

    @property
    def size(self) -> Size:
        """How large and fast it is."""
        ms = None if self.ms_per_1000 is None else self.ms_per_1000 / 1e3
        return Size(self.parameters, self.megabytes, ms, self.timed_on)


@dataclass(frozen=True)
class Score:
    """How good one system is.

    Attributes:
        by_language: Metrics of each language that has a covered, labelled row.
        macro: Unweighted mean over these languages; None without any.
        rows: Number of covered, labelled rows of each language.
        by_group: Mean over languages on the rows of each value of `data.columns.group`, as of a domain; empty where no
            such column is named.
    """

    by_language: Mapping[str, Mapping[str, float]]
    macro: Mapping[str, float] | None
    rows: Mapping[str, int]
    by_group: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Agreement:
    """How often two systems choose the same label.

    Attributes:
        names: The order of both axes.
        share_SS: In [0, 1]; NaN where two systems share no covered unit.
    """

    names: tuple[str, ...]
    share_SS: NDArray[np.float64]

    def to_json(self) -> dict[str, object]:
        """Return plain data. NaN becomes None."""
        known = [[None if np.isnan(share) else share for share in line] for line in self.share_SS.tolist()]
        return {"names": list(self.names), "share": known}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Agreement:
        """Return what `to_json` gave."""
        return cls(tuple(tree["names"]), np.asarray(tree["share"], dtype=np.float64))


@dataclass(frozen=True)
class CalibrationCurve:
    """How often a system is right, over how sure it is.

    Attributes:
        system: How tables call it.
        units: Labelled units that it answered.
        bins: 15 equal ranges of probability.
    """

    system: str
    role: Role
    units: int
    bins: tuple[CalibrationBin, ...]


def build_calibration_curve(system: Predictions, title: str) -> CalibrationCurve | None:
    """Return a system's calibration over all languages; None where nothing it answered has a label to choose.

    Args:
        system: What it answered.
        title: How tables call it.
    """
    counted_N = system.covered_N & (system.labels_N != UNLABELLED)
    if not counted_N.any() or not system.logits_NC.shape[1]:
        return None
    logp_NC = log_softmax(system.logits_NC[counted_N])
    right_N = logp_NC.argmax(axis=1) == system.labels_N[counted_N]
    bins = compute_calibration_bins(np.exp(logp_NC.max(axis=1)), right_N)
    return CalibrationCurve(
        title, system.role, int(counted_N.sum()),
        tuple(CalibrationBin(at / ECE_BINS, (at + 1) / ECE_BINS, *values) for at, values in enumerate(bins)),
    )  # fmt: skip


def score_rows(
    languages: Sequence[str], groups: Sequence[str] | None, counted_B: NDArray[np.bool_], measure: Measure
) -> Score:
    """Score each language that has a row that counts, their mean, and the mean on the rows of each group.

    Args:
        languages: Language code of each row.
        groups: Value of `data.columns.group` of each row, "" of one without; None where no such column is named.
        counted_B: Rows that the system covers and that have a gold label.
        measure: Computes the metrics of some rows.
    """
    whole = score_by_language(languages, counted_B, measure)
    if groups is None:
        return whole
    own = np.asarray(groups, dtype=object)
    found = {
        g: score_by_language(languages, counted_B & (own == g), measure).macro for g in sorted(set(groups))
    }
    return replace(whole, by_group={g: macro for g, macro in found.items() if g and macro is not None})


def score_by_language(languages: Sequence[str], counted_B: NDArray[np.bool_], measure: Measure) -> Score:
    """Score each language that has a row that counts, and take their mean; arguments as of `score_rows`."""
    codes = np.asarray(languages, dtype=object)
    picked = {x: np.flatnonzero(counted_B & (codes == x)) for x in dict.fromkeys(languages)}
    by_language = {x: measure(rows) for x, rows in picked.items() if len(rows)}
    first = next(iter(by_language.values()), None)
    macro = None
    if first is not None:
        found = {m: [values[m] for values in by_language.values() if m in values] for m in first}
        macro = {m: float(np.mean(own)) for m, own in found.items()}
    return Score(by_language, macro, {x: len(picked[x]) for x in by_language})


def compute_agreement(systems: Sequence[Predictions]) -> Agreement:
    """Compute the share of equal top-1 labels over the units that both systems cover. Gold labels play no part."""
    systems = [system for system in systems if system.logits_NC.shape[1]]
    chosen = [system.logits_NC.argmax(axis=1) for system in systems]
    share_SS = np.full((len(systems), len(systems)), np.nan)
    for a, first in enumerate(systems):
        for b, second in enumerate(systems):
            both_N = first.covered_N & second.covered_N
            if both_N.any():
                share_SS[a, b] = float((chosen[a][both_N] == chosen[b][both_N]).mean())
    return Agreement(tuple(system.name for system in systems), share_SS)
