"""Define the teachers of a run: their kinds, resources, training and serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, field_validator, model_validator

from raykd.config.kinds.label_words import LabelWords
from raykd.config.kinds.pretraining import Pretraining
from raykd.config.overlay import check_name
from raykd.config.train import TrainConfig, WorkersConfig
from raykd.models import LinearStudent, Student
from raykd.parse import JsonObject
from raykd.spec import KindUnion, Spec
from raykd.tasks.registry import rebuild_holders


class ActorConfig(Spec):
    """Resources of one replica of a teacher."""

    replicas: int = Field(1, ge=1)
    """Processes that serve this teacher, each with the whole model."""
    num_cpus: float = Field(1.0, ge=0.0)
    """CPUs of one replica; it runs as many threads as whole CPUs, at least one. A worker on its node that waits for it
    lends its CPUs: the replica then answers further requests at once."""
    num_gpus: float = Field(0.0, ge=0.0)
    """GPUs of one replica; a share of one is allowed."""
    resources: dict[str, float] = {}
    """Custom resources, for example {teacher: 1}."""
    group: str | None = None
    """Name of a group. Teachers of a group share a process: one call per batch asks all, and resources add up."""


class TeacherTraining(Spec):
    """How a teacher is trained: a plain supervised run on the teacher's languages."""

    model: Student = LinearStudent()
    train: TrainConfig = TrainConfig()
    workers: WorkersConfig = WorkersConfig()
    data: JsonObject = {}
    """Overlay of the run's `data`; by default the rows that `labelled` names and no unlabelled ones."""
    labelled: Literal["all", "student"] = "all"
    """all: it learns from all labelled rows of its languages. student: from the rows that the run's student has labels
    for (`data.labelled_per_language`, `data.labelled_seed`); with the student's own `model` that is self-training."""
    teachers: tuple[str, ...] = ()
    """Teachers of the run, standing before this one, that teach it: it is a teacher assistant (arXiv:1902.03393) or a
    generation (arXiv:1805.04770). It then learns from the run's unlabelled texts, too. () learns from labels alone."""
    objective: JsonObject = {}
    """Overlay of the run's `objective`, for a teacher that is taught by others."""
    pretraining: Pretraining | None = None
    """Language modelling on texts of the domain, which comes first; `model` is then what it begins with."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of a gold label's weight that is spread over all labels."""
    seed: int = Field(0, ge=0)
    """Seed of the teacher's weights, of dropout and of the order of rows."""


class Price(Spec):
    """What a teacher's answers cost, in any one currency; one of the keys."""

    per_hour: float | None = Field(None, ge=0.0)
    """Of the machine that computes them."""
    per_1000_answers: float | None = Field(None, ge=0.0)
    """Of a provider."""
    per_million_tokens: float | None = Field(None, ge=0.0)
    """Of a provider, for tokens read and written alike; of two prices write the higher. Only `kind: http` counts."""

    @model_validator(mode="after")
    def _one(self) -> Price:
        if (
            sum(
                value is not None for value in (self.per_hour, self.per_1000_answers, self.per_million_tokens)
            )
            != 1
        ):
            raise ValueError("wanted one of per_hour, per_1000_answers and per_million_tokens")
        return self

    def charge(self, answers: int, seconds: float | None, tokens: float | None = None) -> float | None:
        """Return what answers cost; None where what decides is not known.

        Args:
            answers: Their number.
            seconds: That they take to compute.
            tokens: Read and written for them.
        """
        if self.per_1000_answers is not None:
            return self.per_1000_answers * answers / 1000.0
        if self.per_million_tokens is not None:
            return None if tokens is None else self.per_million_tokens * tokens / 1e6
        return None if seconds is None or self.per_hour is None else self.per_hour * seconds / 3600.0


class Scale(Spec):
    """How a teacher's numbers become values on the run's scale: ``factor * value + offset``."""

    sigmoid: bool = False
    """Pass each number through a sigmoid first, as sentence-transformers does with most cross-encoders."""
    factor: float = 1.0
    """Multiplies each number; not 0."""
    offset: float = 0.0
    """Is added afterwards."""

    @field_validator("factor")
    @classmethod
    def _not_zero(cls, value: float) -> float:
        if not value:
            raise ValueError("a factor of 0 leaves nothing of the values")
        return value

    def apply(self, values_N1: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return values on the run's scale."""
        numbers_N1 = values_N1.astype(np.float64)
        if self.sigmoid:
            numbers_N1 = 1.0 / (1.0 + np.exp(-numbers_N1))
        return (self.factor * numbers_N1 + self.offset).astype(np.float32)


class TeacherBase(Spec):
    """Keys that every kind of teacher has.

    Decision record: a kind is plain config, registered with `register_teacher`; the class that serves it is named in
    `BACKENDS` of `raykd.teachers.backends`, which lies above. Everything else treats all kinds alike. A key `path` is
    relative to the YAML, as everywhere.
    """

    has_states: ClassVar[bool] = False
    """Whether it is a model with the task's head, whose encoder's states can be read."""
    kind: str
    name: str
    """Name of the teacher in overrides, curves, tables and MLflow."""
    languages: tuple[str, ...] | Literal["all"]
    """Languages it may be asked for; one language makes it monolingual."""
    task: str | None = None
    """In a run of several tasks the name of its task (of `task.tasks`): it is asked for rows of that task only."""
    label_map: dict[str, str | None] = {}
    """The teacher's own label names to the run's, where they differ, many to one (`{1 star: negative, 2 stars:
    negative}`: probabilities are added); null drops a label, and the rest is renormalised. Of tags it names tags or
    types."""
    missing: tuple[str, ...] = ()
    """Labels of the run that the teacher does not know. It does not teach them: teacher and student are then compared
    on the labels that it knows. Of tags this need not be written."""
    scale: Scale | None = None
    """Of a regression, how the teacher's values become the run's, where it learnt another scale: `{factor: 5}` for one
    that answers from 0 to 1 where the run's values go from 0 to 5. None leaves them as they are."""
    language_codes: dict[str, str] = {}
    """The run's names of languages to the codes of a multilingual tokenizer (mBART, NLLB, M2M-100), where they do not
    follow from the name: {zh: zho_Hant}."""
    max_length: int | None = Field(None, ge=1)
    """Longest text in tokens for this teacher; None takes what it was trained with, else the task's."""
    on_poor: Literal["stop", "warn"] = "stop"
    """What a run does with a teacher that scores worse on the validation rows than the most frequent label, or is right
    only with labels exchanged: stop before the student starts, or warn and go on."""
    price: Price | None = None
    """What its answers cost (`{per_hour: 2.5}`, `{per_1000_answers: 0.4}`): the ensemble report then shows money
    beside seconds, in all and per point gained. It changes nothing else."""
    actor: ActorConfig = ActorConfig()

    _name = field_validator("name")(check_name)

    @property
    def language_set(self) -> frozenset[str] | None:
        """The languages as a set; None means all."""
        return None if self.languages == "all" else frozenset(self.languages)

    @property
    def model_path(self) -> str | None:
        """Folder or hub name of the saved model that answers; None for a teacher that has none."""
        return None

    def build_served(self, folder: str) -> TeacherBase:
        """Return the teacher that answers: this one, or for a kind that is trained the model in the folder."""
        return self


K = TypeVar("K", bound=TeacherBase)
_KINDS: dict[str, type[TeacherBase]] = {}


def register_teacher(teacher: type[K]) -> type[K]:
    """Add a class to the kinds of teacher. Use it as a decorator.

    Args:
        teacher: A `TeacherBase` whose field ``kind`` is a literal with that default.

    Raises:
        ValueError: Another class has this kind.
    """
    kind = str(teacher.model_fields["kind"].default)
    known = _KINDS.get(kind)
    if known is not None and known.__qualname__ != teacher.__qualname__:
        raise ValueError(f"two teachers are of kind {kind}: {known.__qualname__} and {teacher.__qualname__}")
    _KINDS[kind] = teacher
    rebuild_holders()
    return teacher


class SavedModelTeacher(TeacherBase):
    """The keys of a teacher that is loaded from a folder or the hub."""

    path: str
    """A local directory or a hub name; weights must be safetensors."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the model; the log says so."""

    @property
    def model_path(self) -> str | None:
        """The key `path`."""
        return self.path


@register_teacher
class ModelTeacher(SavedModelTeacher):
    """A saved model with the task's head."""

    has_states: ClassVar[bool] = True
    kind: Literal["model"] = "model"


@register_teacher
class LabelWordsTeacher(LabelWords, SavedModelTeacher):
    """A causal or masked language model that is read as a classifier, at words that stand for the labels."""

    kind: Literal["label_words"] = "label_words"


@register_teacher
class TrainedTeacher(TeacherBase):
    """A model that the run trains first. Later runs with the same settings reuse it."""

    has_states: ClassVar[bool] = True
    kind: Literal["trained"] = "trained"
    training: TeacherTraining = TeacherTraining()
    """How it is trained."""

    def build_served(self, folder: str) -> ModelTeacher:
        """Return the model that the training left in the folder."""
        shared = {key: getattr(self, key) for key in TeacherBase.model_fields if key != "kind"}
        return ModelTeacher(path=folder, **shared)


@register_teacher
class CallableTeacher(TeacherBase):
    """A Python function: texts in, a number for each label out. For ONNX, spaCy, scikit-learn, rules."""

    kind: Literal["callable"] = "callable"
    function: str = Field(pattern=r"^[^:]+(?::[^:]+)?:[A-Za-z_]\w*$")
    """`FILE.py:NAME` (relative to the run file) or `MODULE:NAME`. It is called with a list of texts (of pairs: two
    lists; of taggers: a list of lists of words) and returns an array of shape texts x labels (of taggers: one of words
    x labels for each text). Of ranking it is called with two lists, queries and candidates, and returns a score for
    each two, which are logits. Its code runs in the teacher's process, on every node that serves it."""
    labels: tuple[str, ...] = ()
    """The labels of its numbers, in their order; () reads them from the attribute `labels` of the function."""
    output: Literal["probabilities", "logits"] = "probabilities"
    """What its numbers are; log-probabilities are logits."""
    version: str | None = None
    """Names its stored answers: another version answers anew. None takes the content of the file that the function
    stands in. Neither sees what else the function reads (a saved model, a library): write another version when that
    changes."""

    @property
    def source_file(self) -> str | None:
        """The file that the function stands in; None for an installed module."""
        place = self.function.rpartition(":")[0]
        return place if place.endswith(".py") else None

    @property
    def function_file(self) -> str | None:
        """The file whose content its answers depend on; None for an installed module, and where a version stands."""
        return self.source_file if self.version is None else None


@register_teacher
class FileTeacher(TeacherBase):
    """Answers that were made elsewhere: `raykd label --to` writes them, and so can any script. docs/teachers.md shows
    the form."""

    kind: Literal["file"] = "file"
    path: str
    """A Parquet or JSON lines file, a folder or a pattern of such files, relative to the run file or on any file system
    of fsspec (s3://...). A row holds `text` (and `text_pair`; of taggers `text` or `tokens`) or `id`, and a number for
    each label: in a column per label, or in one column `probabilities` or `logits`."""
    by: Literal["text", "id"] = "text"
    """What finds the answer to a row of the run: its text, or its id (`data.columns.id`, else `FILE:LINE`)."""
    labels: tuple[str, ...] = ()
    """The labels of the numbers in their order, where these are plain lists; else the labels that are read. () takes
    those that the file names."""
    output: Literal["probabilities", "logits"] | None = None
    """What the numbers are; log-probabilities are logits. None takes the name of their column, and probabilities where
    each label has one."""
    rest: Literal["refuse", "even"] = "refuse"
    """What it means that a row names some of the labels alone (top k). even: the others share what the probabilities
    lack to 1."""
    on_unanswered: Literal["warn", "stop"] = "warn"
    """What a run does if some of its rows have no answer: leave them to other teachers and gold labels, or stop before
    it starts. A run without any answer always stops."""
    version: str | None = None
    """Names the content of the files. None takes their names, sizes and bytes, of more than 64 MiB samples: write
    another version where an edit of large files keeps their sizes."""


_KIND_BY_KEY = {
    "words": "label_words",
    "function": "callable",
    "path": "model",
    "training": "trained",
    "url": "http",
}
"""The kind of a teacher without `kind`, by a key that only that kind has. A `path` with `words` is `label_words`, a
`url` with `words` is `http`."""


def add_teacher_kind(tree: object) -> object:
    """Add the kind to the tree of a teacher that has only `path`, `training`, `function` or `url`.

    Raises:
        ValueError: It has none or several, or a key of another kind than its own.
    """
    if not isinstance(tree, Mapping):
        return tree
    kind = find_teacher_kind(tree)
    if kind is None:
        raise ValueError(
            "a teacher needs one of path (a model that exists), training (how to make it), function (Python), "
            "url (a server)"
        )
    for key, other in _KIND_BY_KEY.items():
        if kind in _KINDS and key not in _KINDS[kind].model_fields and tree.get(key) is not None:
            raise ValueError(f"a teacher of kind {kind} has no {key}; leave it out, or write kind: {other}")
    # Files of earlier versions hold the keys of all kinds, and no kind.
    foreign = list_foreign_keys(kind)
    unused = foreign if "kind" not in tree else {key for key in foreign if tree.get(key) in (None, False)}
    return {"kind": kind, **{key: value for key, value in tree.items() if key not in unused}}


def find_teacher_kind(tree: Mapping[str, Any]) -> str | None:
    """Return the kind in a teacher's tree, else the one that its keys imply; None if they imply none or two."""
    implied = [kind for key, kind in _KIND_BY_KEY.items() if tree.get(key) is not None]
    if "label_words" in implied and len(implied) > 1:
        implied.remove("model" if "model" in implied else "label_words")
    return tree.get("kind") or (implied[0] if len(implied) == 1 else None)


def list_foreign_keys(kind: str | None) -> set[str]:
    """Return the keys that only other kinds have; empty for an unknown kind."""
    if kind not in _KINDS:
        return set()
    return {key for member in _KINDS.values() for key in member.model_fields} - _KINDS[
        kind
    ].model_fields.keys()


TeacherConfig = Annotated[TeacherBase, KindUnion(_KINDS), BeforeValidator(add_teacher_kind)]
"""One teacher of any registered kind."""


class ServingConfig(Spec):
    """How teachers are served."""

    pool: str | None = None
    """Name of a pool that `raykd teachers up` started, if it serves the same teachers. None starts the run's own."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto is bfloat16 on hardware that computes it natively (avx512_bf16, AMX, CUDA), else float32."""
    max_tokens: int = Field(16384, ge=1)
    """Largest padded size (rows x length) of one forward pass."""
    prefetch: int = Field(2, ge=1)
    """Optimizer steps for which answers are requested ahead of the student."""
    timeout_s: float = Field(300.0, gt=0.0)
    """Longest wait for one answer (loading weights included): a teacher process of the run's own that takes longer
    hangs; it is killed, started again and asked again."""
    max_restarts: int = Field(2, ge=0)
    """How often a dead or hung teacher process is started again; then its replica is lost."""
    on_teacher_loss: Literal["fail", "drop_and_renormalise"] = "fail"
    """What a run does when a teacher has no replica left: fail, or go on without it. Then the weights of the others sum
    to 1, as for a text in a language that it lacks, and curves, notes and tags say since when."""
    store: str | None = "store"
    """Folder for the answers, below `output` or absolute; null stores none."""
    store_features: bool = False
    """Keep also the states that `objective.features` asks teachers for, which take many times the place of an answer.
    What is not kept is computed again in every epoch."""
    store_limit_gb: float = Field(20.0, gt=0.0)
    """Bound on all stores of that folder together, in 10^9 bytes. Answers that were removed are computed again."""

    _pool = field_validator("pool")(lambda value: value if value is None else check_name(value))
