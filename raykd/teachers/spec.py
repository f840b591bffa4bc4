"""What a teacher is, and all that can be known of one before its weights are in memory.

Decision record: a teacher is opened from its directory alone: JSON files, the header of its safetensors and their
bytes for the fingerprint. So a run whose answers are all stored never loads weights, and a directory that is cut
short or has other labels is refused at the start. Everything that changes an answer is in `answers`, under which
answers are stored: a store of one teacher never serves another, nor the same one in another precision.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from raykd import models
from raykd.answers.codec import VERSION
from raykd.pretrained.lengths import teacher_length
from raykd.tasks import Task
from raykd.teachers.backends.precision import choose

_FORMAT = f"answers of layout {VERSION}, rows that do not depend on their neighbours"
"""How answers are made and written; another way is another store."""


@dataclass(frozen=True)
class TeacherInfo:
    """What a teacher says of itself once opened. Read by tracking, the report and the pool.

    fingerprint: of weights, configuration and tokenizer. answers: of all that changes an answer; names the store.
    device: where it computes. columns: for each of the run's labels the teacher's columns (several are one label of
        the run's scheme, none is a label that the teacher does not know); empty where a task has no labels.
    """

    name: str
    fingerprint: str
    parameters: int
    dtype: str
    dtype_reason: str
    device: str
    max_length: int
    answers: str = ""
    columns: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class TeacherSpec:
    """What a process needs to become a teacher. Written by `runs`, read by `Teacher`.

    path: local directory or hub name. labels: the run's. label_map: the teacher's label names to the run's.
    language_codes: the run's languages to the tokenizer's codes. languages: None is any.
    dtype: auto, float32 or bfloat16. store: folder of stores, None keeps nothing.
    parked: what the teacher said of itself before it was parked; None of a teacher that is not.
    """

    name: str
    path: str
    labels: tuple[str, ...]
    task: Task
    languages: frozenset[str] | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    label_map: dict[str, str] = field(default_factory=dict)
    language_codes: dict[str, str] = field(default_factory=dict)
    max_length: int | None = None
    dtype: str = "auto"
    max_tokens: int = 8192
    device: str = "cpu"
    store: str | None = None
    store_limit_gb: float = 20.0
    parked: TeacherInfo | None = None


def open_teacher(spec: TeacherSpec) -> TeacherInfo:
    """What there is to know of a teacher, from its directory (a hub name is downloaded to one first).

    Raises:
        ModelError: the directory cannot be loaded, must not be, or is cut short. LabelMismatchError: other labels.
    """
    if spec.parked is not None:
        return spec.parked
    folder = models.resolve_model(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    looked = models.inspect_model(folder, spec.task.head, trust_remote_code=spec.trust_remote_code)
    columns = spec.task.columns(looked.labels, spec.labels, spec.label_map, spec.name)
    fingerprint = models.fingerprint(folder, trust_remote_code=spec.trust_remote_code)
    precision = choose(spec.dtype, looked.model_type, spec.device)
    length, _ = teacher_length(spec.name, spec.max_length, looked.trained_length, looked, spec.task)
    parts: list[Any] = [
        fingerprint,
        spec.labels,
        sorted(spec.label_map.items()),
        length,
        precision.name,
        spec.task.answer_key(),
        spec.device.partition(":")[0],
        _FORMAT,
    ]
    if spec.language_codes:
        parts.append(sorted(spec.language_codes.items()))
    return TeacherInfo(
        name=spec.name,
        fingerprint=fingerprint,
        parameters=models.stored_parameters(folder),
        dtype=precision.name,
        dtype_reason=precision.reason,
        device=spec.device,
        max_length=length,
        answers=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
        columns=columns,
    )
