"""What the systems answered on one set of rows, and how good that was.

Decision record: teachers, ensemble, baseline and student are measured by the same function on the same
rows, from raw logits at temperature 1, so that no setting of the distillation touches the comparison. A
mean over languages is unweighted, as in XNLI, and is taken over the languages that a system covers: the
mean of a monolingual teacher is its one language, and the tables say so instead of leaving it out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["teacher", "ensemble", "baseline", "student"]
ROLES: tuple[Role, ...] = ("teacher", "ensemble", "baseline", "student")
"""The order of rows in every table and of colours in every plot."""
Measure = Callable[[NDArray[np.int64]], dict[str, float]]
"""Metrics of the rows at these positions."""


@dataclass(frozen=True)
class Predictions:
    """One system's answers to N units. Written by `runs`, read by everything here.

    name: as in the config. role: teacher; ensemble of the teachers; baseline (the student without
    teachers); student.
    logits_NC: raw, float32; C is 0 where there are no labels to choose from. covered_N: False where it was not asked
    or cannot answer. labels_N: gold labels, or `UNLABELLED`. languages: a code a unit.
    parameters: of the model (an ensemble: the sum). ms_per_1000: milliseconds for 1,000 texts; None was not
    measured.
    plain: whether it is a student that no teacher taught. constant: what it answers to every row, in words, though the
    gold differs ("label negative"); None where its answers differ too.
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

    def __post_init__(self) -> None:
        units = {len(self.logits_NC), len(self.covered_N), len(self.labels_N), len(self.languages)}
        if len(units) != 1:
            raise ValueError(
                f"{self.name}: logits, covered, labels and languages have different lengths {sorted(units)}"
            )


@dataclass(frozen=True)
class Score:
    """How good one system is.

    by_language: language to metrics; a language without a covered, labelled row is not there.
    macro: unweighted mean over these languages; None where there is none.
    rows: covered, labelled rows of each language.
    """

    by_language: Mapping[str, Mapping[str, float]]
    macro: Mapping[str, float] | None
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Agreement:
    """How often two systems choose the same label.

    names: the order of both axes. share_SS: in [0, 1]; NaN where two systems share no covered unit.
    """

    names: tuple[str, ...]
    share_SS: NDArray[np.float64]


def score_by_language(languages: Sequence[str], counted_B: NDArray[np.bool_], measure: Measure) -> Score:
    """Metrics of each language that has a row that counts, and their mean.

    Args:
        languages: a code a row. counted_B: rows that the system covers and that have a gold label.
    """
    codes = np.asarray(languages, dtype=object)
    by_language: dict[str, dict[str, float]] = {}
    rows: dict[str, int] = {}
    for language in dict.fromkeys(languages):
        picked = np.flatnonzero(counted_B & (codes == language))
        if len(picked):
            by_language[language] = measure(picked)
            rows[language] = len(picked)
    return Score(by_language, _mean(list(by_language.values())), rows)


def _mean(metrics: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    if not metrics:
        return None
    return {name: float(np.mean([values[name] for values in metrics])) for name in metrics[0]}


def compute_agreement(systems: Sequence[Predictions]) -> Agreement:
    """Share of equal top-1 labels, over units that both systems cover; gold labels play no part."""
    systems = [system for system in systems if system.logits_NC.shape[1]]
    chosen = [system.logits_NC.argmax(axis=1) for system in systems]
    share_SS = np.full((len(systems), len(systems)), np.nan)
    for a, first in enumerate(systems):
        for b, second in enumerate(systems):
            both_N = first.covered_N & second.covered_N
            if both_N.any():
                share_SS[a, b] = float((chosen[a][both_N] == chosen[b][both_N]).mean())
    return Agreement(tuple(system.name for system in systems), share_SS)
