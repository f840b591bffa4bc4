"""What a process needs to become a teacher, and what a teacher says of itself.

Decision record: everything that changes an answer is in `TeacherInfo.answers`, the name under which answers are stored.
So a store never serves another teacher, nor the same one in another precision.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from raykd.tasks import Task


@dataclass(frozen=True)
class TeacherInfo:
    """What a teacher says of itself once opened. Read by tracking, the report and the pool.

    Attributes:
        name: The teacher's.
        fingerprint: Hash of weights, configuration and tokenizer.
        parameters: Number of weights.
        dtype: Precision in which it computes.
        dtype_reason: Why that one, for people.
        device: Where it computes.
        max_length: Tokens after which a text is cut.
        answers: Hash of all that changes an answer; names the store.
        columns: For each of the run's labels the teacher's columns. Several columns are merged into one label, none
            stand for a label that the teacher does not know. Empty where a task has no labels.
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

    Attributes:
        name: The teacher's.
        path: Local directory or hub name.
        labels: The run's.
        task: The run's.
        languages: Those it is asked for; None for any.
        revision: Of a hub name.
        trust_remote_code: Whether code of the model's directory may run.
        label_map: The teacher's label names to the run's.
        language_codes: The run's languages to the tokenizer's codes.
        max_length: Tokens after which a text is cut; None for what the model was trained with.
        dtype: auto, float32 or bfloat16.
        max_tokens: Padded tokens of one forward pass.
        device: Name of torch's.
        store: Folder of all stores; None keeps nothing.
        store_limit_gb: Bound on all of them together.
        parked: What the teacher said of itself before it was parked; None for one that is not parked.
        kind: The teacher's kind in the configuration; chooses the backend that serves it.
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
