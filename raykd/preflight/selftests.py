"""The self-tests that `raykd check` makes: of models that lie on this machine and are small enough to load.

Decision record: the serving process tests its teacher in any case before it stores an answer, so a check only moves bad
news to where it costs nothing. What it finds is kept twice: by content, where the serving process looks it up, and by
the files' names, sizes and times, so that the second check neither reads the weights nor imports torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

from raykd.config import ModelTeacher, RunConfig
from raykd.data.rows import Rows
from raykd.prediction.findings import compute_finding_key, read_finding, write_finding

LARGEST = 2 * 10**9
"""Bytes of weights up to which a check loads a teacher."""
ROWS = 64
"""Rows that a test chooses from."""


def check_answers(teacher: ModelTeacher, config: RunConfig, rows: Rows) -> str:
    """Test whether a teacher's answer to a text depends on the texts beside it; return what was found.

    Args:
        teacher: One with a folder on this machine.
        rows: Training rows of the run.

    Raises:
        ModelError: The model draws at random, fails at a row, or answers with NaN.
    """
    folder = Path(teacher.path)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if size > LARGEST:
        return f"left to its serving process: {size / 1e9:.1f} GB of weights"
    spoken = [
        i
        for i, lang in enumerate(rows.languages)
        if teacher.language_set is None or lang in teacher.language_set
    ]
    if not spoken:
        return "no training row in its languages"
    key = compute_finding_key(
        _stamp(folder),
        config.task.head,
        teacher.max_length or config.task.max_length,
        config.serving.dtype,
        "cpu",
    )
    found = read_finding(key)
    if found is None:
        from raykd.driver.pool import make_teacher_spec
        from raykd.prediction.selftest import build_nonfinite_error
        from raykd.teachers.backends.model import ModelBackend

        spec = replace(make_teacher_spec(config, teacher, {}), store=None)
        found = ModelBackend(spec).test(rows.take(spoken[:: max(1, len(spoken) // ROWS)][:ROWS]))
        if not math.isfinite(found.difference):
            raise build_nonfinite_error(f"teacher {teacher.name}")
        write_finding(key, found)
    return found.describe()


def check_student_answers(config: RunConfig, rows: Rows) -> str:
    """Test the same of the checkpoint that a student starts from; return what was found.

    Args:
        config: A run whose student has a folder on this machine.
        rows: Training rows of the run.

    Raises:
        ModelError: The model draws at random, or fails at a row.
    """
    assert config.student.kind == "pretrained"
    folder = Path(config.student.path)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if size > LARGEST or not len(rows):
        return f"left to its workers: {size / 1e9:.1f} GB of weights"
    key = compute_finding_key(
        _stamp(folder),
        f"student {config.student.layers} {config.task.kind}",
        config.task.max_length,
        "float32",
        "cpu",
    )
    found = read_finding(key)
    if found is None:
        from raykd.driver.loop import make_task_model
        from raykd.student.task_trainer import run_padding_test
        from raykd.text.tokens import add_markers

        tokenizer = config.student.fit_tokenizer([])
        student = make_task_model(config, add_markers(tokenizer, getattr(config.task, "markers", ())))
        found = run_padding_test(config, rows, student)
        write_finding(key, found)
    return found.describe()


def _stamp(folder: Path) -> str:
    """Return a hash of the folder's place and of its files' names, sizes and times."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    parts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return "files " + hashlib.sha256(json.dumps([str(folder.resolve()), parts]).encode()).hexdigest()
