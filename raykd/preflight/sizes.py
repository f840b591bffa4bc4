"""How large things become, by arithmetic: a student's weights, its checkpoints, the teachers' stored answers.

Decision record: sizes come from what makes the things, not from a table beside it. A student is built on torch's
"meta" device, which has shapes and no memory, so the count of parameters is exact for its largest vocabulary. A
stored answer's bytes follow from the layouts of `raykd.answers.codec` and the pages of the store; where the number of
units is known only to a tokenizer (language models) it is taken from the bytes of the text, and said to be about so.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from raykd.config import RunConfig, TrainConfig
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.errors import RaykdError
from raykd.models import Student, count_stored_parameters
from raykd.pretrained import files
from raykd.student.loop import LOGGED_WINDOWS
from raykd.tasks import Task
from raykd.teachers.source import TeacherRouter
from raykd.teachers.store.sqlite import estimate_stored_bytes
from raykd.teachers.store.values import make_text_keys

HEADER, TEMPERATURE, OFFSET, HALF = 14, 4, 1, 2
"""Bytes of a body's header, of each temperature in it, and of a unit's offset, entropy and gold (`answers.codec`)."""
ID_BYTES = 2.375
"""Of a token's id in a vocabulary of up to 2^19."""
STATE_BYTES = {"float32": 16, "bfloat16": 18}
"""Bytes a parameter in a checkpoint: weights, two moments of AdamW and the best weights so far, all float32; in
bfloat16 the weights twice (2 + 4), two moments (8) and the best (at most 4)."""
BYTES_A_TOKEN = 3.0
"""Of a text, as tokenizers of a few thousand parts cut it: words of Latin letters are cut into 3 to 4 bytes, Chinese
into signs of 3."""
SMALLEST = 5
"""Tokens of a vocabulary at least: the special ones."""
COPIES = 3
"""Checkpoints that are on the disk at once: the newest two that are kept and the one that is being written."""

DATABASE, PAGES, WINDOW = 1_050_000, 1_100_000, 5_000
"""Bytes of an empty database of MLflow; of a run's page, its plots and their copies in MLflow; of all that is kept of a
step that is logged, in the database, the curves and the checkpoints. Measured with runs of three tasks."""
TOKEN = 60
"""Bytes of a word or part of one in the file of a tokenizer."""


@dataclass(frozen=True)
class StoreSize:
    """What a teacher's answers take. pairs: texts that it is asked for, equal ones once. bytes: None where nothing can
    be said. about: whether they are an estimate, since only a tokenizer would tell."""

    teacher: str
    pairs: int
    bytes: int | None
    about: bool


def count_student_parameters(
    student: Student, task: Task, labels: Sequence[str], *, least: bool = False
) -> int | None:
    """Weights of a student; None where only a tokenizer that is not there would tell.

    Args:
        least: with the smallest vocabulary that the texts may give it, instead of the largest.
    """
    if student.kind == "pretrained":
        folder = Path(student.path)
        return count_stored_parameters(folder) if folder.is_dir() and student.layers is None else None
    if getattr(student, "vocabulary", "own") == "union":
        return None
    import torch

    with torch.device("meta"):
        model = student.build(_tokenizer(student, least), labels, 0, task.head)
    return sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())


class _Vocabulary(SimpleNamespace):
    """What `build` asks of a tokenizer: its size and the ids of its special tokens."""

    def __len__(self) -> int:
        return int(self.size)


def _tokenizer(student: Student, least: bool) -> Any:
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id"), 0)
    return _Vocabulary(size=SMALLEST if least else getattr(student, "vocab_size", 0), **ids)


def estimate_checkpoint_bytes(count: int, precision: str) -> int:
    """A checkpoint of so many parameters, all ranks together."""
    return STATE_BYTES[precision] * count


def estimate_model_bytes(student: Student, count: int | None) -> int:
    """A saved model: float32 weights and its tokenizer."""
    return 4 * (count or 0) + TOKEN * int(getattr(student, "vocab_size", 0))


def count_windows(train: TrainConfig, rows: int | None) -> int:
    """Steps of a job that are logged, and its evaluations.

    Args:
        rows: training rows; None where they are not read yet.
    """
    steps = LOGGED_WINDOWS if rows is None else train.total_steps(max(1, rows // train.batch_size))
    return min(steps, LOGGED_WINDOWS) + min(steps, train.evaluations)


def estimate_body_bytes(
    task: Task, classes: int, rows: Rows, hidden: int | None
) -> tuple[float | None, bool]:
    """Mean bytes of a stored answer to these rows, and whether that is an estimate.

    Args:
        hidden: width of the teacher, for answers that are hidden states; None where it is not known.
    """
    batch = rows.take(range(len(rows)))
    if not len(rows):
        return 0.0, False
    if not task.language:
        return HEADER + 4.0 * task.compute_mean_logits(batch, classes), False
    answers: Any = getattr(task, "answers")  # noqa: B009  (of language tasks alone)
    a_unit: float = OFFSET + 2 * HALF
    if answers.kind == "hidden":
        if hidden is None:
            return None, False
        a_unit += 2.0 * hidden
    elif answers.kind == "sampled":
        a_unit += 2 + (ID_BYTES + 1) * answers.draws
    else:
        a_unit += answers.k * (ID_BYTES + 2) + 4 * len(answers.temperatures)
    header = HEADER + TEMPERATURE * len(answers.temperatures)
    return header + a_unit * float(np.mean(_units(task, rows))), True


def _units(task: Task, rows: Rows) -> list[float]:
    """About the tokens of each row, and an end; none goes beyond the task's limit."""
    written = rows.texts if task.form == "plain" or rows.pairs is None else rows.pairs
    limit = getattr(task, "max_target_length", task.max_length)
    share = getattr(task, "share", 1.0) * getattr(task, "views", 1)
    sizes = (len(text.encode("utf-8", "surrogatepass")) for text in written)
    return [1 + share * min(limit, size / BYTES_A_TOKEN + 1) for size in sizes]


def estimate_store_sizes(config: RunConfig, data: Dataset) -> list[StoreSize]:
    """What each teacher's answers of a run take in the store; nothing where no store is kept.

    Training texts are asked as the weighting says, held-out texts of every teacher that speaks their language.
    """
    if not config.active_teachers or config.serving.store is None or config.plain:
        return []
    names = tuple(t.name for t in config.active_teachers)
    spoken = tuple(t.language_set for t in config.active_teachers)
    parts = [(data.train, TeacherRouter(names, spoken, config.objective.weighting))]
    parts += [
        (rows, TeacherRouter(names, spoken)) for rows in (data.validation, data.test) if rows is not None
    ]
    asked = [(rows, router.route(rows.take(range(len(rows))))) for rows, router in parts]
    found = []
    for m, teacher in enumerate(config.active_teachers):
        total, pairs, about, known = 0, 0, False, True
        seen: set[bytes] = set()
        for rows, asked_MN in asked:
            chosen = _unseen(rows.select(asked_MN[m]), seen)
            width = _width(getattr(teacher, "path", None))
            mean, about = estimate_body_bytes(config.task, len(config.data.labels), chosen, width)
            known = known and mean is not None
            pairs += len(chosen)
            total += len(chosen) * estimate_stored_bytes(int(np.ceil(mean or 0.0)))
        found.append(StoreSize(teacher.name, pairs, total if known else None, about))
    return found


def _unseen(rows: Rows, seen: set[bytes]) -> Rows:
    """The rows whose key was not there yet; equal texts are answered once."""
    fresh = []
    for at, key in enumerate(make_text_keys(rows.take(range(len(rows))))):
        if key not in seen:
            seen.add(key)
            fresh.append(at)
    return rows.select(fresh)


def _width(path: str | None) -> int | None:
    """The hidden size that a teacher's config.json names; None where there is none."""
    if path is None or not Path(path).is_dir():
        return None
    try:
        config = files.read_config(Path(path))
    except RaykdError:
        return None
    widths = (config.get(key) for key in ("hidden_size", "d_model", "n_embd", "dim"))
    return next((w for w in widths if isinstance(w, int) and w > 0), None)


def read_free_bytes(folder: Path) -> int | None:
    """Free on the disk that holds a folder, or will; None where that cannot be told."""
    near = folder
    while not near.exists() and near != near.parent:
        near = near.parent
    try:
        return shutil.disk_usage(near).free
    except OSError:
        return None
