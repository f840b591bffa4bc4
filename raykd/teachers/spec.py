"""What a process needs to become a teacher, and what a teacher says of itself.

Decision record: everything that changes an answer is in `TeacherInfo.answers`, under which answers are stored: a store
of one teacher never serves another, nor the same one in another precision.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from raykd.tasks import Task


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
    kind: of the teacher in the configuration; says which backend serves it.
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
    kind: str = "model"
