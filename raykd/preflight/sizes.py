"""Estimate sizes: a student's weights, its checkpoints, and the teachers' stored answers.

Decision record: a student is built on torch's meta device, which has shapes and no memory, so the count of parameters
is exact for its largest vocabulary. The count is cached, because transformers' classes take seconds to import. The
bytes of a stored answer follow from the layouts of `raykd.answers.codec` and the pages of the store. Only a tokenizer
knows the number of units of a language model; it is estimated from the bytes of the text, and the result is marked as
an estimate.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from raykd.cache import load_or_compute
from raykd.config import RunConfig, TrainConfig
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.errors import ModelError, RaykdError
from raykd.head import Head
from raykd.models import PretrainedStudent, Student, count_parameters, preview_model
from raykd.models.bases import BaseInspection, build_student, inspect_base
from raykd.pretrained import files
from raykd.student.meter import LOGGED_WINDOWS
from raykd.student.tokens.cache import IN_MEMORY
from raykd.tasks import Task
from raykd.teachers.source import TeacherRouter
from raykd.teachers.store.sqlite import estimate_stored_bytes

if TYPE_CHECKING:
    from raykd.text.tokens import Tokenizer

HEADER, TEMPERATURE, OFFSET, HALF = 14, 4, 1, 2
"""Bytes of an answer's header, of each temperature in it, of a unit's offset, and of its entropy or gold probability
(`answers.codec`)."""
ID_BYTES = 2.375
"""Bytes of a token's id in a vocabulary of up to 2^19: 19 bits."""
STATE_BYTES = {"float32": 8, "bfloat16": 10}
"""Bytes per parameter in a checkpoint, without the numbers that the optimizer keeps. float32: the weights and the best
weights so far, 4 each. bfloat16: the weights twice (2 + 4) and the best weights (at most 4)."""
BYTES_A_TOKEN = 3.0
"""Bytes of text per token, with vocabularies of a few thousand pieces: 3 to 4 in Latin script, 3 for a Chinese
character."""
SMALLEST = 5
"""Fewest tokens of a vocabulary: the special ones."""
COPIES = 3
"""Checkpoints that exist at once: the newest two, and the one that is being written."""

DATABASE, PAGES, WINDOW = 1_050_000, 1_100_000, 5_000
"""Measured bytes (runs of three tasks): of MLflow's empty database, of a run's page with its plots and their copies in
MLflow, and of one logged step in the database, the curves and the checkpoints."""
CACHED_TOKEN, CACHED_ROW = 4, 60
"""Bytes of a token in the cache (id, mask and type), and of a row beside its tokens."""
TOKEN = 60
"""Bytes of a piece in a tokenizer's file."""


@dataclass(frozen=True)
class StoreSize:
    """The size of a teacher's stored answers. Made by `estimate_store_sizes`.

    Attributes:
        teacher: Its name.
        pairs: Texts that it is asked for; equal ones count once.
        bytes: None if unknown.
        about: Whether the bytes are an estimate, because only a tokenizer would know.
    """

    teacher: str
    pairs: int
    bytes: int | None
    about: bool


def inspect_pretrained(student: PretrainedStudent, labels: Sequence[str], head: Head) -> BaseInspection:
    """Inspect the directory that a student starts from.

    Args:
        student: Its configuration, with a directory on this machine.
        labels: The run's; () for a head without labels.
        head: What it learns.

    Raises:
        ModelError: As building the student would raise.
    """
    return inspect_base(
        preview_model(student.path, revision=student.revision, trust_remote_code=student.trust_remote_code),
        tuple(labels),
        head,
        trust_remote_code=student.trust_remote_code,
        student=student,
    )


def count_student_parameters(
    student: Student, task: Task, labels: Sequence[str], *, least: bool = False, tokens: int | None = None
) -> int | None:
    """Count the parameters of a student; None if that needs a checkpoint or tokenizer that is not there.

    Args:
        student: Its configuration.
        task: What it learns.
        labels: The run's.
        least: Count with the smallest vocabulary that texts may give it, instead of the largest.
        tokens: Of its trimmed vocabulary; None if the texts are not known.
    """
    if student.kind == "pretrained":
        try:
            looked = inspect_pretrained(student, labels, task.head)
        except ModelError:
            if Path(student.path).is_dir():
                raise
            return None  # of the hub, which cannot be asked now
        if tokens is None and looked.table is not None:
            tokens = SMALLEST if least else min(looked.table[0], student.vocab_size or looked.table[0])
        return looked.count_parameters(tokens)
    if getattr(student, "vocabulary", "own") == "union":
        return None
    return load_or_compute(
        "parameters",
        lambda: (
            student.model_dump(mode="json"),
            task.head,
            dict(task.head_settings),
            list(labels),
            least,
            tokens,
        ),
        int,
        lambda: _count_fresh_parameters(student, task, labels, least, tokens),
        "torch",
        "transformers",
    )


def count_trained_parameters(
    student: Student, task: Task, labels: Sequence[str], languages: Sequence[str]
) -> int | None:
    """Count the parameters that are trained; None if all are, or if the checkpoint is not here.

    Args:
        student: Its configuration.
        task: What it learns.
        labels: The run's.
        languages: The run's, which may have adapters of their own.
    """
    if student.kind != "pretrained" or student.tuning is None:
        return None
    try:
        trained = inspect_pretrained(student, labels, task.head).trained
        return trained if trained is None or student.tuning.by is None else trained * len(languages)
    except ModelError:
        return None


def _count_fresh_parameters(
    student: Student, task: Task, labels: Sequence[str], least: bool, tokens: int | None
) -> int:
    import torch

    if student.kind == "lstm":  # word vectors are values, not shapes
        student = student.model_copy(update={"embedding_from": None})
    with torch.device("meta"):
        size = SMALLEST if least else tokens or int(getattr(student, "vocab_size", None) or 0)
        return count_parameters(build_student(student, cast("Tokenizer", _Vocabulary(size)), labels, 0, task))


@dataclass(frozen=True)
class _Vocabulary:
    """What `build` asks of a tokenizer: its size and the ids of its special tokens."""

    size: int
    pad_token_id: int = 0
    bos_token_id: int = 0
    eos_token_id: int = 0
    sep_token_id: int = 0

    def __len__(self) -> int:
        return self.size


def estimate_checkpoint_bytes(count: int, train: TrainConfig) -> int:
    """Estimate the bytes of a checkpoint with this many trained parameters, all ranks together."""
    return (STATE_BYTES[train.precision] + 4 * train.optimizer.count_values()) * count


def estimate_model_bytes(student: Student, count: int | None) -> int:
    """Estimate the bytes of a saved model: float32 weights and its tokenizer."""
    return 4 * (count or 0) + TOKEN * int(getattr(student, "vocab_size", 0) or 0)


def count_windows(train: TrainConfig, rows: int | None) -> int:
    """Count a job's logged steps and its evaluations.

    Args:
        train: How it trains.
        rows: Training rows; None if they are not read yet.
    """
    steps = LOGGED_WINDOWS if rows is None else train.total_steps(max(1, rows // train.batch_size))
    return min(steps, LOGGED_WINDOWS) + min(steps, train.evaluations)


def estimate_body_bytes(
    task: Task, classes: int, rows: Rows, hidden: int | None
) -> tuple[float | None, bool]:
    """Estimate the mean bytes of a stored answer.

    Args:
        task: The run's.
        classes: Number of labels.
        rows: The rows that are answered.
        hidden: Width of the teacher, for answers that are hidden states; None if unknown.

    Returns:
        The bytes (None if unknown), and whether they are an estimate.
    """
    if not len(rows):
        return 0.0, False
    if task.vectors:
        units = float(np.mean(task.count_units(rows)))
        return (None if hidden is None else HEADER + 4.0 * units * hidden), False
    if not task.language:
        return HEADER + 4.0 * task.compute_mean_logits(rows, classes), False
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
    return header + a_unit * float(np.fromiter(_units(task, rows), np.float64).mean()), True


def _units(task: Task, rows: Rows) -> Iterator[float]:
    """Estimate the units of each row: its tokens up to the task's limit, and the end."""
    written = rows.texts if task.form == "plain" or rows.pairs is None else rows.pairs
    limit = getattr(task, "max_target_length", task.max_length)
    share = getattr(task, "share", 1.0) * getattr(task, "views", 1)
    sizes = (len(text.encode("utf-8", "surrogatepass")) for text in written)
    return (1 + share * min(limit, size / BYTES_A_TOKEN + 1) for size in sizes)


def estimate_store_sizes(config: RunConfig, data: Dataset) -> list[StoreSize]:
    """Estimate the stored answers of each teacher of a run; [] without a store.

    Training texts go to the teachers that the weighting may use, held-out texts to every teacher that speaks their
    language.
    """
    if not config.active_teachers or config.serving.store is None or config.plain:
        return []
    names = tuple(t.name for t in config.active_teachers)
    spoken = tuple(t.language_set for t in config.active_teachers)
    parts = [(data.asked, TeacherRouter(names, spoken, config.objective.weighting))]
    parts += [
        (rows, TeacherRouter(names, spoken)) for rows in (data.validation, data.test) if rows is not None
    ]
    asked = [(rows, router.route(rows)) for rows, router in parts]
    found = []
    for m, teacher in enumerate(config.active_teachers):
        total, pairs, about, known = 0, 0, False, True
        seen = np.zeros(0, dtype=np.int64)
        for rows, asked_MN in asked:
            chosen, seen = _select_unseen(rows.select(asked_MN[m]), seen)
            trained = getattr(getattr(teacher, "training", None), "model", None)
            width = getattr(trained, "hidden", None) or _width(getattr(teacher, "path", None))
            mean, about = estimate_body_bytes(config.task, len(config.data.labels), chosen, width)
            known = known and mean is not None
            pairs += len(chosen)
            total += len(chosen) * estimate_stored_bytes(int(np.ceil(mean or 0.0)))
        found.append(StoreSize(teacher.name, pairs, total if known else None, about))
    return found


def estimate_token_bytes(max_length: int, rows: Rows) -> int:
    """Estimate the bytes of a student's tokens in raykd's cache; 0 for rows that are tokenised at each start.

    Args:
        max_length: Tokens after which a text is cut.
        rows: The rows; a thousand of them are looked at.
    """
    if len(rows) <= IN_MEMORY:
        return 0
    some = rows.select(np.linspace(0, len(rows) - 1, 1000).astype(np.int64))
    texts = zip(some.texts, some.pairs or ("",) * len(some), strict=True)
    lengths = [min(max_length, len((text + other).encode()) / BYTES_A_TOKEN) for text, other in texts]
    return int(len(rows) * (CACHED_TOKEN * np.mean(lengths) + CACHED_ROW))


def _select_unseen(rows: Rows, seen: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
    """Return the rows whose text was not seen before, because equal texts are answered once, and all that was seen."""
    spoken = None if rows.source_languages is None else rows.languages
    columns = (rows.texts, rows.pairs, rows.words, rows.modes, rows.source_languages, spoken, rows.candidates)
    own = [column for column in columns if column is not None]
    keys = np.fromiter(map(hash, zip(*own, strict=True)), dtype=np.int64, count=len(rows))
    different, first = np.unique(keys, return_index=True)
    fresh = np.sort(first[~np.isin(different, seen)])
    return rows.select(fresh), np.union1d(seen, different)


def _width(path: str | None) -> int | None:
    """Read the hidden size from a teacher's config.json; None if it names none."""
    if path is None or not Path(path).is_dir():
        return None
    try:
        config = files.read_config(Path(path))
    except RaykdError:
        return None
    widths = (config.get(key) for key in ("hidden_size", "d_model", "n_embd", "dim"))
    return next((w for w in widths if isinstance(w, int) and w > 0), None)


def read_free_bytes(folder: Path) -> int | None:
    """Return the free bytes on the disk of a folder, which need not exist yet; None if the disk does not say."""
    try:
        return shutil.disk_usage(find_existing(folder)).free
    except OSError:
        return None


def find_existing(path: Path) -> Path:
    """Return the path itself, or its nearest parent that exists."""
    return next((each for each in (path, *path.parents) if each.exists()), path)
