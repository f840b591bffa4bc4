"""What a process needs to become a teacher, and what a teacher says of itself.

Decision record: everything that changes an answer is in `TeacherInfo.answers`, the name under which answers are stored.
So a store never serves another teacher, nor the same one in another precision.
"""

from __future__ import annotations

from dataclasses import dataclass

from raykd.config import ServingConfig, TeacherBase
from raykd.tasks import Task

_SERVING = ServingConfig()


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
        labels: The teacher's own, in the order of its columns.
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
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class TeacherSpec:
    """What a process needs to become a teacher. Written by `runs`, read by `Teacher`.

    Attributes:
        teacher: Its configuration. One that the run trains stands here as the model that it became.
        labels: The run's.
        task: The run's.
        dtype: auto, float32 or bfloat16.
        max_tokens: Padded tokens of one forward pass.
        device: Name of torch's.
        store: Folder of all stores; None keeps nothing.
        store_limit_gb: Bound on all of them together.
        store_features: Whether states that are asked for beside answers are stored.
        parked: What the teacher said of itself before it was parked; None for one that is not parked.
        source: Content of the file that its function stands in, since the node that serves it may lack the file; None
            where it has none.
    """

    teacher: TeacherBase
    labels: tuple[str, ...]
    task: Task
    dtype: str = _SERVING.dtype
    max_tokens: int = _SERVING.max_tokens
    device: str = "cpu"
    store: str | None = None
    store_limit_gb: float = _SERVING.store_limit_gb
    store_features: bool = False
    parked: TeacherInfo | None = None
    source: bytes | None = None

    @property
    def name(self) -> str:
        """The teacher's name."""
        return self.teacher.name

    @property
    def languages(self) -> frozenset[str] | None:
        """The languages that it is asked for; None for any."""
        return self.teacher.language_set
