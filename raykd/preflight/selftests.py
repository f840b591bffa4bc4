"""Run the self-tests of `raykd check`, on models that are on this machine and small enough to load.

Decision record: the process that serves a teacher runs the test in any case before it stores an answer. A check only
brings bad news earlier, when it costs nothing. The finding is kept under the stamp of the model's files
(`raykd.pretrained.stamp`), so a second check neither reads the weights nor imports transformers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from raykd.config import FileTeacher, LabelWordsTeacher, RunConfig, SavedModelTeacher, TeacherBase
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.models import PretrainedStudent
from raykd.prediction.findings import compute_finding_key, load_or_test
from raykd.preflight.model_check import NOTE
from raykd.pretrained.stamp import stamp_model
from raykd.text.batch import TextBatch

if TYPE_CHECKING:
    from raykd.prediction.selftest import PaddingFinding
    from raykd.teachers.backends.model import ModelBackend

LARGEST = 2 * 10**9
"""Bytes of weights up to which a check loads a teacher."""
ROWS = 64
"""Most rows that a test chooses from."""
NO_ROW = "no training row in its languages"
"""What is said of a teacher that cannot be tested."""


def check_answers(teacher: SavedModelTeacher, config: RunConfig, rows: Rows) -> str:
    """Test whether a teacher's answer to a text depends on the texts beside it, and describe what was found.

    The teacher has a folder on this machine, and the rows are the run's training rows.

    Raises:
        ModelError: The model draws at random, fails at a row, or answers with NaN.
    """
    folder = Path(teacher.path)
    size = _count_weight_bytes(folder)
    if size > LARGEST:
        return f"left to its serving process: {size / 1e9:.1f} GB of weights"
    some = _choose_rows(teacher, rows)
    if not len(some):
        return NO_ROW

    def test() -> PaddingFinding:
        from raykd.driver.pool import make_teacher_spec
        from raykd.prediction.selftest import build_nonfinite_error
        from raykd.teachers.backends.backend import make_backend

        spec = replace(make_teacher_spec(config, teacher, {}), store=None)
        found = cast("ModelBackend", make_backend(spec)).test(some)
        if not math.isfinite(found.difference):
            raise build_nonfinite_error(f"teacher {teacher.name}")
        return found

    length = teacher.max_length or config.task.max_length
    read = f"{config.task.head}{teacher.words_key if isinstance(teacher, LabelWordsTeacher) else ''}"
    key = compute_finding_key(stamp_model(folder), read, length, config.serving.dtype, "cpu")
    return load_or_test(key, test).describe()


def try_out_teacher(teacher: TeacherBase, config: RunConfig, rows: Rows) -> str:
    """Let a teacher that has no weights answer some of the training rows, and describe what was found.

    Raises:
        RaykdError: It cannot answer, or its answer to a text depends on other texts.
    """
    from raykd.driver.pool import make_teacher_spec
    from raykd.teachers.backends.backend import make_backend

    some = _choose_rows(teacher, rows)
    if not len(some):
        return NO_ROW
    return make_backend(replace(make_teacher_spec(config, teacher, {}), store=None)).try_out(some)


def count_given_answers(teacher: FileTeacher, config: RunConfig, data: Dataset) -> str:
    """Count the rows to which the files of a teacher have an answer; where some have none it is a note.

    Raises:
        RaykdError: As `raykd.driver.given_answers.check_given_answers`.
    """
    from raykd.driver.given_answers import check_given_answers

    line, is_whole = check_given_answers(teacher, config, data)
    return line if is_whole else f"{NOTE}{line}"


def _choose_rows(teacher: TeacherBase, rows: Rows) -> TextBatch:
    """Return some rows in a teacher's languages, without their labels."""
    languages = teacher.language_set
    names, codes_B = rows.code_languages()
    codes = [at for at, name in enumerate(names) if languages is None or name in languages]
    spoken = np.flatnonzero(np.isin(codes_B, codes))
    return rows.take(spoken[:: max(1, len(spoken) // ROWS)][:ROWS]).without_labels()


def check_student_answers(student: PretrainedStudent, config: RunConfig, rows: Rows) -> str:
    """Run the test of `check_answers` on the checkpoint that a student starts from.

    Raises:
        ModelError: The model draws at random, or fails at a row.
    """
    folder = Path(student.path)
    size = _count_weight_bytes(folder)
    if size > LARGEST or not len(rows):
        return f"left to its workers: {size / 1e9:.1f} GB of weights"

    def test() -> PaddingFinding:
        from raykd.driver.loop import make_task_model
        from raykd.student.padding import run_padding_test
        from raykd.student.prepare import fit_tokenizer

        tokenizer = fit_tokenizer(student, [(config.task, rows)])
        return run_padding_test(config, rows, make_task_model(config, tokenizer))

    task = f"student {student.layers} {config.task.kind}"
    key = compute_finding_key(stamp_model(folder), task, config.task.max_length, "float32", "cpu")
    return load_or_test(key, test).describe()


def _count_weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
