"""Measure how alike two systems answer: equal labels, Cohen's kappa, and shared errors.

Decision record: two good systems agree because both are right, so neither the share of equal labels nor kappa tells
whether one is a copy of the other. Errors do: copies are wrong on the same rows, with the same wrong label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PairAgreement:
    """Two systems on the units that both cover.

    Attributes:
        first: Name of one system.
        second: Name of the other.
        units: Units that both cover.
        share: Units with the same label, in [0, 1].
        kappa: Cohen's kappa; None where both give one and the same label to all units.
        wrong: Labelled units on which at least one is wrong.
        same_wrong: Units among these on which both give the same wrong label.
    """

    first: str
    second: str
    units: int
    share: float
    kappa: float | None
    wrong: int = 0
    same_wrong: int = 0

    @property
    def shared_errors(self) -> float | None:
        """Share of `wrong` on which both give the same wrong label; None where neither is ever wrong."""
        return self.same_wrong / self.wrong if self.wrong else None


def compute_kappa(first_N: NDArray[np.integer], second_N: NDArray[np.integer], classes: int) -> float | None:
    """Return Cohen's kappa of two raters; None where both give one and the same label to all units, or no unit.

    Args:
        first_N: Labels by one rater.
        second_N: Labels by the other.
        classes: C.
    """
    if not len(first_N):
        return None
    joint_CC = np.zeros((classes, classes))
    np.add.at(joint_CC, (first_N, second_N), 1.0 / len(first_N))
    observed, expected = float(np.trace(joint_CC)), float(joint_CC.sum(axis=1) @ joint_CC.sum(axis=0))
    return None if expected >= 1.0 - 1e-12 else (observed - expected) / (1.0 - expected)


def compare_pairs(
    names: Sequence[str],
    chosen_MN: NDArray[np.integer],
    covered_MN: NDArray[np.bool_],
    gold_N: NDArray[np.integer],
    classes: int,
    silent: int | None = None,
) -> tuple[PairAgreement, ...]:
    """Compare each two systems that cover a common unit.

    Args:
        names: Of the M systems.
        chosen_MN: The label that each gives to each unit.
        covered_MN: Which units each covers.
        gold_N: Gold labels, all of them known.
        classes: C.
        silent: The label that says that there is nothing (a tagger's O). Two weak taggers miss the same entities, so
            units on which both say it are no shared errors; None where every label says something.
    """
    pairs = []
    for a in range(len(names)):
        for b in range(a + 1, len(names)):
            both_N = covered_MN[a] & covered_MN[b]
            if not both_N.any():
                continue
            one, other, gold = chosen_MN[a][both_N], chosen_MN[b][both_N], gold_N[both_N]
            wrong_N = (one != gold) | (other != gold)
            if silent is not None:
                wrong_N &= (one != silent) | (other != silent)
            pairs.append(
                PairAgreement(
                    names[a],
                    names[b],
                    int(both_N.sum()),
                    float((one == other).mean()),
                    compute_kappa(one, other, classes),
                    int(wrong_N.sum()),
                    int((wrong_N & (one == other)).sum()),
                )
            )
    return tuple(pairs)
