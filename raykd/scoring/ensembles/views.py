"""Compare systems row by row: where the student departs from its teachers, and the rows that are hard for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from raykd.data.rows import Rows
from raykd.distill.signals import Signals
from raykd.ensemble.mixing import Combined
from raykd.ensemble.units import LabelledUnits
from raykd.report.ensembles.report import Departure, HardRow, View
from raykd.scoring.ensembles.inputs import ENSEMBLE, STUDENT, EnsembleInputs

HARDEST = 12
"""Rows that are shown with each teacher's view."""


def find_departures(
    inputs: EnsembleInputs, units: LabelledUnits, everyone: Combined
) -> tuple[Departure, ...]:
    """Compare student and teachers in all languages and in each.

    Args:
        inputs: What the report is made from; without a student nothing is compared.
        units: The labelled units.
        everyone: All teachers together.
    """
    if inputs.student is None:
        return ()
    student = inputs.student
    own_N = units.choose(Combined(student.logits_NC, student.covered_N))
    theirs_N = units.choose(everyone)
    codes = [units.languages_B[row] for row in units.row_N.tolist()]
    found = []
    for language in ("", *dict.fromkeys(units.languages_B)):
        inside = np.asarray([not language or code == language for code in codes], dtype=bool)
        inside &= everyone.covered_N & student.covered_N
        differs = inside & (own_N != theirs_N)
        found.append(
            Departure(
                language,
                int(inside.sum()),
                int(differs.sum()),
                int((differs & (own_N == units.gold_N)).sum()),
                int((differs & (theirs_N == units.gold_N)).sum()),
            )
        )
    return tuple(found)


def find_hardest(
    inputs: EnsembleInputs,
    units: LabelledUnits,
    signals: Signals,
    everyone: Combined,
    chosen: Mapping[str, NDArray[np.int64]],
) -> tuple[HardRow, ...]:
    """Return the rows to whose gold labels all teachers together give the lowest probability, with all views.

    Args:
        inputs: What the report is made from.
        units: The labelled units.
        signals: Each teacher's answers to them.
        everyone: All teachers together.
        chosen: The label that each teacher chooses for each unit.
    """
    at = np.arange(len(units.gold_N))
    rows = inputs.rows
    nll_N = np.where(everyone.covered_N, -everyone.logp_NC[at, units.gold_N], 0.0)
    mean_B = np.bincount(units.row_N, nll_N, minlength=len(rows)) / np.maximum(1, units.counts_B)
    picked = [int(row) for row in np.argsort(-mean_B, kind="stable")[:HARDEST] if mean_B[row] > np.log(2.0)]
    systems = {
        name: (chosen[name], logits_NC, covered_N)
        for name, logits_NC, covered_N in zip(
            signals.teachers, signals.logits_MNC.numpy(), signals.covered_MN.numpy(), strict=True
        )
    }
    systems[ENSEMBLE] = (units.choose(everyone), everyone.logp_NC, everyone.covered_N)
    if (student := inputs.student) is not None:
        own_N = units.choose(Combined(student.logits_NC, student.covered_N))
        systems[STUDENT] = (own_N, student.logits_NC, student.covered_N)
    shown = inputs.config.report.texts
    return tuple(
        HardRow(
            rows.ids[row],
            rows.languages[row],
            _name_gold(units, np.flatnonzero(units.row_N == row)),
            tuple(
                _make_view(units, name, *answers, np.flatnonzero(units.row_N == row))
                for name, answers in systems.items()
                if answers[2][units.row_N == row].any()
            ),
            _join_texts(rows, row) if shown else None,
        )
        for row in picked
    )


def _join_texts(rows: Rows, row: int) -> str:
    return rows.texts[row] if rows.pairs is None else f"{rows.texts[row]} | {rows.pairs[row]}"


def _name_gold(units: LabelledUnits, picked: NDArray[np.int64]) -> str:
    return f"{len(picked)} words" if units.tagging else units.labels[int(units.gold_N[picked[0]])]


def _make_view(
    units: LabelledUnits,
    name: str,
    chosen_N: NDArray[np.int64],
    logits_NC: NDArray[np.float32],
    covered_N: NDArray[np.bool_],
    picked: NDArray[np.int64],
) -> View:
    """Return what a system says of a row: its label, or of a tagged row how many words are wrong."""
    gold = units.gold_N[picked]
    seen = picked[covered_N[picked]]
    logits = logits_NC[seen].astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    own = float(p[np.arange(len(seen)), units.gold_N[seen]].mean())
    if units.tagging:
        return View(name, f"{int((chosen_N[picked] != gold).sum())} wrong", own)
    return View(name, units.labels[int(chosen_N[picked[0]])], own)
