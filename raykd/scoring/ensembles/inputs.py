"""Hold what an ensemble report is made from: rows, the teachers' answers to them, the student's, curves and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.source import AnswerSlots
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.errors import RaykdError
from raykd.report.ensembles.report import SystemSize
from raykd.report.plots import History
from raykd.scoring.score import collect_unit_answers, make_student_spec
from raykd.tasks import SystemAnswers
from raykd.teachers.teacher import Teacher

MOST_ROWS = 4000
"""Validation rows that are looked at; of more, evenly spread ones."""
ENSEMBLE, STUDENT = "ensemble", "student"


@dataclass(frozen=True)
class EnsembleInputs:
    """What the report is made from.

    Attributes:
        config: The run of one task.
        rows: The validation rows that are looked at (`pick_rows`).
        answers: Each teacher's answers to them.
        languages: What each teacher was declared for.
        student: The student's answers to them; None where there is no student.
        history: Curves of the student.
        sizes: Sizes and speeds of all systems.
        missing: What is not known, in sentences.
    """

    config: RunConfig
    rows: Rows
    answers: Sequence[AnswerSlots]
    languages: Sequence[frozenset[str] | None]
    student: SystemAnswers | None = None
    history: History | None = None
    sizes: tuple[SystemSize, ...] = ()
    missing: tuple[str, ...] = ()


def pick_rows(rows: Rows) -> NDArray[np.int64]:
    """Return the positions of the validation rows that are looked at: the labelled ones, or all where none is."""
    (labelled,) = np.nonzero(rows.labelled)
    picked = labelled if len(labelled) else np.arange(len(rows))
    if len(picked) <= MOST_ROWS:
        return picked
    return picked[np.arange(MOST_ROWS) * len(picked) // MOST_ROWS]


def ask_student(config: RunConfig, folder: Path, rows: Rows, missing: list[str]) -> SystemAnswers | None:
    """Return a saved student's answers; None, and a sentence in `missing`, where it cannot be asked.

    Args:
        config: The run of one task.
        folder: Of the student.
        rows: What it is asked.
        missing: Takes the sentence.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(config.workers.threads)
    try:
        student = Teacher(make_student_spec(folder, config))
        return collect_unit_answers(config, student.answer(rows.without_labels()), rows)
    except RaykdError as error:
        missing.append(f"the student is not shown: {' '.join(str(error).split())}")
        return None
    finally:
        torch.set_num_threads(before)
