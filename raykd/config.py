"""RunConfig: one YAML is one run. Load, overlay, dump, fingerprint.

Decision record: behaviour lives in the union members (losses, schedules, weightings, tasks, students), and the
config is the tree that holds them, so a key in YAML, an attribute in Python and a parameter in MLflow have one
name. Unknown keys are errors that name the path, what was got and what is allowed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raykd.distill.objective import Objective
from raykd.distill.schedules import Constant, Schedule, WarmupStableDecay
from raykd.models import Linear, Student
from raykd.spec import Spec
from raykd.tasks import Classification, Task
from raykd.tasks.metrics import HIGHER_IS_BETTER, MetricName

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


def checked_name(value: str) -> str:
    """A name that is safe as a folder and as an identity."""
    if not NAME.match(value):
        raise ValueError(
            "a name starts with a letter or digit and holds only letters, digits, '.', '_', '-' (100 at most)"
        )
    return value


def overlay(base: Any, top: Any) -> Any:
    """``top`` laid over ``base``: mappings merge key by key, anything else replaces.

    A mapping whose ``kind`` differs from the base's replaces it, since another kind has other keys.
    """
    if not (isinstance(base, Mapping) and isinstance(top, Mapping)):
        return top
    if "kind" in top and top["kind"] != base.get("kind", top["kind"]):
        return dict(top)
    merged = dict(base)
    for key, value in top.items():
        merged[key] = overlay(merged[key], value) if key in merged else value
    return merged


class Files(Spec):
    """Local JSON lines, CSV or Parquet files; the ending says which."""

    kind: Literal["files"] = "files"
    paths: tuple[str, ...] = Field(min_length=1)
    """Files, read in this order. Relative paths are relative to the YAML that holds them."""
    columns: dict[Literal["text", "text_pair", "label", "language", "id"], str] = {}
    """Overrides of `data.columns` for these files alone."""
    language: str | None = None
    """The language of all rows, for files that have no language column."""


class Hub(Spec):
    """A data set of the Hugging Face hub (or a local data set folder), by name."""

    kind: Literal["hub"] = "hub"
    name: str
    config_name: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: dict[Literal["text", "text_pair", "label", "language", "id"], str] = {}
    language: str | None = None


class Embedded(Spec):
    """The corpus that raykd generates itself: opinions in zh, en and fr with known Bayes accuracy."""

    kind: Literal["embedded"] = "embedded"
    split: Literal["train", "validation", "test", "unlabeled"] = "train"
    rows_per_language: int = Field(1000, ge=1)
    seed: int = 0
    """Seed of the world; splits of one seed never share a text."""
    label_noise: float = Field(0.05, ge=0.0, lt=0.5)
    """Share of rows whose label is flipped; Bayes accuracy is one minus it."""


Source = Annotated[Files | Hub | Embedded, Field(discriminator="kind")]


class Columns(Spec):
    """Names of the columns in the files. A name of None says that there is no such column."""

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    language: str | None = "lang"
    id: str | None = None


class DataConfig(Spec):
    """What is read, and how it is sampled."""

    train: Source
    validation: Source
    test: Source | None = None
    unlabeled: Source | None = None
    """Texts without labels, added to the training rows; the hard term never sees them."""
    columns: Columns = Columns()
    labels: tuple[str, ...] = Field(min_length=2)
    """The run's label list; its order is the order of all logits."""
    languages: tuple[str, ...] = Field(min_length=1)
    """Every language that may occur; a row of another one is an error."""
    select_languages: tuple[str, ...] | None = None
    """Keep only rows of these languages (of `languages`)."""
    labelled_per_language: int | None = Field(None, ge=1)
    """Use only so many labelled training rows a language, balanced over labels as the data are."""
    labelled_seed: int = Field(0, ge=0)
    """Which rows those are."""
    labelled_share: float | None = Field(None, gt=0.0, lt=1.0)
    """Expected share of labelled rows in a batch where unlabelled rows are mixed in; None leaves the data's own."""
    language_temperature: float = Field(1.0, ge=1.0)
    """Languages are drawn in proportion to rows ** (1 / temperature); 1 is the data's own, large is equal."""
    length_grouping: bool = True
    """Batches hold rows of similar length."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """What a row with an empty text or an unknown label or language does; skipped rows are counted and logged."""
    max_bad_rows: float = Field(0.01, ge=0.0, le=1.0)
    """Share of rows that `skip` may skip before the run fails after all."""

    @field_validator("labels", "languages")
    @classmethod
    def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"holds a name twice: {list(value)}")
        return value

    @model_validator(mode="after")
    def _selected_known(self) -> DataConfig:
        unknown = set(self.select_languages or ()) - set(self.languages)
        if unknown:
            raise ValueError(
                f"select_languages names {sorted(unknown)}, not in languages {list(self.languages)}"
            )
        return self


class ActorConfig(Spec):
    """What one replica of a teacher asks of the cluster."""

    replicas: int = Field(1, ge=1)
    num_cpus: float = Field(1.0, ge=0.0)
    """CPUs of one replica; it runs as many threads as whole CPUs, at least one."""
    num_gpus: float = Field(0.0, ge=0.0)
    resources: dict[str, float] = {}
    """Custom resources, for example {teacher: 1}."""
    group: str | None = None
    """Teachers of one group share a process: one call a batch asks them all, and their resources add up."""


class TrainConfig(Spec):
    """How a student (or a teacher, or the baseline) is trained."""

    epochs: float | None = Field(None, gt=0.0)
    steps: int | None = Field(None, ge=1)
    """Optimizer steps; give either epochs or steps (3 epochs if neither is given)."""
    batch_size: int = Field(32, ge=1)
    """Rows an optimizer step, over all workers and micro-batches."""
    gradient_accumulation: int = Field(1, ge=1)
    """Micro-batches a worker runs for one optimizer step."""
    learning_rate: float = Field(1e-3, gt=0.0)
    lr_schedule: Schedule = WarmupStableDecay(warmup=0.1, decay=0.9)
    """Factor on the learning rate, a function of progress."""
    weight_decay: float = Field(0.01, ge=0.0)
    gradient_clipping: float = Field(1.0, ge=0.0)
    """Largest gradient norm; 0 is off."""
    precision: Literal["float32", "bfloat16"] = "float32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    deepspeed: str | dict[str, Any] | None = None
    """A DeepSpeed configuration, a JSON file or a mapping; its keys are honoured, those that raykd owns are refused."""
    evaluations: int = Field(10, ge=1)
    """How often the validation set is scored, spread evenly over the run; each is a checkpoint."""
    metric: MetricName = "accuracy"
    """The validation metric (mean over languages) that chooses the best checkpoint and stops early."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many evaluations without a better metric; None trains to the end."""
    max_failures: int = Field(1, ge=0)
    """How often Ray Train restarts lost workers from the last checkpoint."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give either epochs or steps, not both")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the run."""
        if self.steps is not None:
            return self.steps
        return max(1, round((3.0 if self.epochs is None else self.epochs) * steps_per_epoch))

    @property
    def higher_is_better(self) -> bool:
        """Direction of `metric`."""
        return HIGHER_IS_BETTER[self.metric]


class WorkersConfig(Spec):
    """The Ray Train workers that hold the student."""

    num_workers: int = Field(1, ge=1)
    num_cpus: float = Field(1.0, gt=0.0)
    """CPUs of one worker; it runs as many threads as whole CPUs, at least one."""
    num_gpus: float = Field(0.0, ge=0.0)
    resources: dict[str, float] = {}


class TeacherTraining(Spec):
    """How a teacher is made where there is none yet: a plain supervised run on the teacher's languages."""

    model: Student = Linear()
    train: TrainConfig = TrainConfig()
    workers: WorkersConfig = WorkersConfig()
    data: dict[str, Any] = {}
    """Overlay of the run's `data`; by default all labelled rows of the teacher's languages and no unlabelled ones."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    seed: int = Field(0, ge=0)


class TeacherConfig(Spec):
    """One teacher: a model that exists (`path`) or one that is trained first (`training`)."""

    name: str
    languages: tuple[str, ...] | Literal["all"]
    """Languages it may be asked for; one language makes it monolingual."""
    path: str | None = None
    """A local directory or a hub name; weights must be safetensors."""
    revision: str | None = None
    trust_remote_code: bool = False
    training: TeacherTraining | None = None
    label_map: dict[str, str] = {}
    """The teacher's own label names to the run's, where they differ."""
    max_length: int | None = Field(None, ge=1)
    """Longest text in tokens for this teacher; None takes what it was trained with, else the task's."""
    actor: ActorConfig = ActorConfig()

    _name = field_validator("name")(checked_name)

    @model_validator(mode="after")
    def _one_origin(self) -> TeacherConfig:
        if (self.path is None) == (self.training is None):
            raise ValueError("a teacher needs either path (a model that exists) or training (how to make it)")
        return self

    @property
    def language_set(self) -> frozenset[str] | None:
        """The languages as a set; None is any."""
        return None if self.languages == "all" else frozenset(self.languages)


class ServingConfig(Spec):
    """How teachers answer."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto is bfloat16 where the hardware computes it natively (avx512_bf16, AMX, CUDA), else float32."""
    max_tokens: int = Field(16384, ge=1)
    """Largest padded size (rows x length) of one forward pass."""
    prefetch: int = Field(2, ge=1)
    """Optimizer steps whose answers are asked for ahead of the student."""
    timeout_s: float = Field(300.0, gt=0.0)
    """Longest wait for one answer before the run fails."""
    max_restarts: int = Field(2, ge=0)
    """How often a dead teacher process is started again."""
    store: str | None = "store"
    """Folder (under `output`, or absolute) where answers are kept by content; null keeps none."""


class RayConfig(Spec):
    """Which Ray cluster."""

    address: str | None = None
    """Address of a cluster ("auto" finds a running one); None uses RAY_ADDRESS, else starts a local one."""
    num_cpus: int | None = Field(None, ge=1)
    """CPUs of the local one; None takes the machine's."""


class TrackingConfig(Spec):
    """Where MLflow records the run."""

    uri: str | None = None
    """None takes MLFLOW_TRACKING_URI, else an SQLite database under `output`."""
    experiment: str = "raykd"
    log_model: bool = True
    """Log the student as an MLflow model."""


class RunConfig(Spec):
    """One run."""

    name: str = "run"
    seed: int = Field(0, ge=0)
    """Seed of the student's weights, of dropout and of the order of rows."""
    output: str = "runs"
    """Folder of all runs; this run's is output/name."""
    task: Task = Classification()
    data: DataConfig
    student: Student
    teachers: tuple[TeacherConfig, ...] = ()
    teacher_defaults: dict[str, Any] = {}
    """Keys that every teacher has unless it says otherwise (`training` only where a teacher has no path)."""
    baseline: bool = False
    """Also train the student without teachers, for the same number of steps."""
    objective: Objective = Objective()
    train: TrainConfig = TrainConfig()
    workers: WorkersConfig = WorkersConfig()
    serving: ServingConfig = ServingConfig()
    ray: RayConfig = RayConfig()
    tracking: TrackingConfig = TrackingConfig()

    _name = field_validator("name")(checked_name)

    @model_validator(mode="before")
    @classmethod
    def _lay_over_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("teacher_defaults"), Mapping):
            return data
        defaults = data["teacher_defaults"]
        bare = {key: value for key, value in defaults.items() if key != "training"}
        teachers = data.get("teachers")
        if not isinstance(teachers, (list, tuple)) or not all(isinstance(t, Mapping) for t in teachers):
            return data
        laid = [overlay(defaults if t.get("path") is None else bare, t) for t in teachers]
        return {**data, "teachers": laid}

    @model_validator(mode="after")
    def _teachers_fit(self) -> RunConfig:
        names = [t.name for t in self.teachers]
        if len(set(names)) != len(names):
            raise ValueError(f"two teachers have the same name: {names}")
        for teacher in self.teachers:
            unknown = set(teacher.language_set or ()) - set(self.data.languages)
            if unknown:
                raise ValueError(
                    f"teacher {teacher.name} has languages {sorted(unknown)}, not in data.languages "
                    f"{list(self.data.languages)}"
                )
            bad = set(teacher.label_map.values()) - set(self.data.labels)
            if bad:
                raise ValueError(
                    f"teacher {teacher.name}: label_map leads to {sorted(bad)}, not in data.labels "
                    f"{list(self.data.labels)}"
                )
        groups: dict[str, set[int]] = {}
        for teacher in self.teachers:
            if teacher.actor.group is not None:
                groups.setdefault(teacher.actor.group, set()).add(teacher.actor.replicas)
        uneven = sorted(name for name, replicas in groups.items() if len(replicas) > 1)
        if uneven:
            raise ValueError(
                f"teachers of one group need equal replicas; group {uneven[0]} has {sorted(groups[uneven[0]])}"
            )
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> RunConfig:
        if not self.teachers and not self.objective.plain:
            raise ValueError(
                "no teachers, so there is nothing to distil: add teachers, or set objective.alpha: 1 for plain training"
            )
        weighting = self.objective.weighting
        check = getattr(weighting, "check", None)
        if self.teachers and check is not None:
            check(tuple(t.name for t in self.teachers))
        pieces = self.workers.num_workers * self.train.gradient_accumulation
        if self.train.batch_size < pieces:
            raise ValueError(
                f"train.batch_size {self.train.batch_size} is smaller than workers.num_workers x "
                f"train.gradient_accumulation = {pieces}"
            )
        return self

    def fingerprint(self) -> str:
        """sha256 over everything that changes the result; names, folders and resources do not."""
        tree = self.model_dump(
            mode="json",
            exclude={"name", "output", "ray", "tracking", "workers", "serving", "teacher_defaults"},
        )
        for teacher in tree["teachers"]:
            teacher.pop("actor")
            (teacher["training"] or {}).pop("workers", None)
        tree["serving"] = {"dtype": self.serving.dtype}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def plain_objective(label_smoothing: float = 0.0) -> Objective:
    """The objective of supervised training: alpha is 1, no teacher is asked."""
    return Objective(alpha=Constant(value=1.0), label_smoothing=label_smoothing)
