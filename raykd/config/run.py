"""Define RunConfig, the configuration of a run, and check that its parts fit together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field, field_validator, model_validator

from raykd.config.data import Columns, DataConfig
from raykd.config.kinds.adapters import check_adapters
from raykd.config.kinds.assistants import add_their_teachers, check_assistants
from raykd.config.kinds.peer import Peer, check_peer
from raykd.config.kinds.pretraining import Pretraining, check_pretraining
from raykd.config.kinds.student_pretraining import StudentPretraining, check_student_pretraining
from raykd.config.kinds.teacher_defaults import apply_teacher_defaults
from raykd.config.later_keys import remove_unused_run_keys, remove_unused_teacher_keys, simplify_model
from raykd.config.objective import (
    asks_others,
    check_crf,
    check_features,
    check_objective,
    check_union,
    check_weighting,
)
from raykd.config.overlay import check_name, overlay
from raykd.config.teachers import ServingConfig, TeacherConfig, TrainedTeacher
from raykd.config.train import TrainConfig, WorkersConfig
from raykd.distill.objective import Objective
from raykd.models import Student
from raykd.parse import JsonObject
from raykd.spec import Spec
from raykd.tasks import Classification, Task, find_task_class, holds_task
from raykd.tasks.forms import RowForm
from raykd.tasks.scores.metrics import MetricName


class RayConfig(Spec):
    """The Ray cluster of a run."""

    address: str | None = None
    """Address of a cluster ("auto" finds a running one); None uses RAY_ADDRESS, else starts a local Ray."""
    num_cpus: int | None = Field(None, ge=1)
    """CPUs of the local Ray; None takes all of the machine."""
    wait_s: float = Field(600.0, gt=0.0)
    """Longest wait for resources that others hold. Every 30 s a line says what the run waits for."""


class TrackingConfig(Spec):
    """Where MLflow records the run."""

    uri: str | None = None
    """None takes MLFLOW_TRACKING_URI, else an SQLite database under `output`."""
    experiment: str | None = Field(None, min_length=1, max_length=500)
    """Name of the MLflow experiment; None takes MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID, else `raykd`."""
    required: bool = True
    """Whether the run is refused if MLflow does not answer at the start (for 5 s), when nothing is lost yet. False: the
    run warns once, and the records wait in its folder for `raykd mlflow sync`. A server that goes away later neither
    ends a run nor holds it up."""
    log_model: bool = True
    """Log the student as an MLflow model."""


class ReportConfig(Spec):
    """What the pages of a run show."""

    texts: bool = True
    """Whether they show texts of the data (the hardest rows). False keeps them out of pages, of JSON and of MLflow."""


class Phase(Spec):
    """Other values of a few keys from a progress on. Repeats a schedule that population based training found."""

    at: float = Field(gt=0.0, lt=1.0)
    """Progress (step / total steps) at which the phase begins; it lasts to the next one."""
    set: JsonObject
    """Overlay of the run: keys of `objective`, and `train.learning_rate` and `train.weight_decay`."""

    @field_validator("set")
    @classmethod
    def _only_what_may_change(cls, value: dict[str, object]) -> dict[str, object]:
        train = value.get("train", {})
        rest = set(value) - {"objective", "train"}
        wrong = rest | (
            set(train) - {"learning_rate", "weight_decay"} if isinstance(train, Mapping) else {"train"}
        )
        if wrong or not value:
            raise ValueError(
                f"a phase may set objective.*, train.learning_rate and train.weight_decay, not {sorted(wrong)}"
            )
        return value


class RunBase(Spec):
    """What runs of one task and of several have in common."""

    name: str = "run"
    """Name of the run: its folder under `output`, and its run in MLflow."""
    seed: int = Field(0, ge=0)
    """Seed of the student's weights, of dropout and of the order of rows."""
    output: str = "runs"
    """Folder of all runs; this run's is output/name."""

    if TYPE_CHECKING:
        # Fields of the subclasses, which stand there because run.yaml shows `task` and `data` before them.
        teachers: tuple[TeacherConfig, ...]
        select_teachers: tuple[str, ...] | None

    _name = field_validator("name")(check_name)

    @model_validator(mode="before")
    @classmethod
    def _apply_defaults(cls, data: object) -> object:
        return apply_teacher_defaults(data)

    @property
    def active_teachers(self) -> tuple[TeacherConfig, ...]:
        """The teachers that take part, in their order."""
        chosen = self.select_teachers
        return tuple(t for t in self.teachers if chosen is None or t.name in chosen)

    @property
    def trained_teachers(self) -> tuple[TrainedTeacher, ...]:
        """Those of `needed_teachers` that the run trains first."""
        return tuple(t for t in self.needed_teachers if isinstance(t, TrainedTeacher))

    @property
    def needed_teachers(self) -> tuple[TeacherConfig, ...]:
        """The active teachers and those that teach them, in their order."""
        return add_their_teachers(self.active_teachers, self.teachers)

    def _check_teacher_names(self) -> None:
        names = [t.name for t in self.teachers]
        if len(set(names)) != len(names):
            raise ValueError(f"two teachers have the same name: {names}")
        check_assistants(self.teachers)
        if self.select_teachers == ():
            raise ValueError(
                "select_teachers []: wanted at least one of the teachers; a run without any has teachers: [] and "
                "objective: {alpha: 1} and no select_teachers"
            )
        if set(self.select_teachers or ()) - set(names):
            raise ValueError(
                f"select_teachers {list(self.select_teachers or ())}: wanted some of the teachers {names}"
            )


@holds_task
class RunConfig(RunBase):
    """One run of one task."""

    task: Task = Classification()
    data: DataConfig
    student: Student
    from_run: str | None = None
    """Folder of an earlier run, whose student goes on with these rows and teachers (see docs/running.md)."""
    teachers: tuple[TeacherConfig, ...] = ()
    teacher_defaults: JsonObject = {}
    """Keys for every teacher that does not set them. A key that only one kind has (`training`) goes to teachers of
    that kind."""
    select_teachers: tuple[str, ...] | None = None
    """Names of the teachers that take part; None takes all."""
    baseline: bool = False
    """Also train the student without teachers, for the same number of steps."""
    objective: Objective = Objective()
    train: TrainConfig = TrainConfig()
    pretraining: StudentPretraining | None = None
    """Language modelling on texts of the domain, which the student learns first: `student` is what it begins with."""
    peer: Peer | None = None
    """A second network, a second student or a larger teacher, which learns beside the student in the same steps."""
    phases: tuple[Phase, ...] = ()
    """Changes of the objective, the learning rate and the weight decay during training, in order of their progress."""
    workers: WorkersConfig = WorkersConfig()
    serving: ServingConfig = ServingConfig()
    ray: RayConfig = RayConfig()
    tracking: TrackingConfig = TrackingConfig()
    report: ReportConfig = ReportConfig()
    smoke: str | None = None
    """Name of the original run, in the short copy that `--smoke` makes. Set by that option."""

    @model_validator(mode="before")
    @classmethod
    def _metric_of_the_task(cls, data: object) -> object:
        """Fill in the task's first metric where the run names none."""
        if not isinstance(data, Mapping):
            return data
        task, train = data.get("task", {}), data.get("train", {})
        kind = task.get("kind") if isinstance(task, Mapping) else getattr(task, "kind", None)
        chosen = find_task_class(kind or "classification")
        if chosen is None:
            return data
        names = chosen.metric_names
        if isinstance(train, TrainConfig) and train.metric is None:
            return {**data, "train": train.model_copy(update={"metric": names[0]})}
        if isinstance(train, Mapping) and train.get("metric") is None:
            return {**data, "train": {**train, "metric": names[0]}}
        return data

    @model_validator(mode="after")
    def _task_fits(self) -> RunConfig:
        self.data.check(self.form)
        # The model is frozen for its users; a validator may still complete it.
        object.__setattr__(self, "task", self.task.with_labels(self.data.labels))
        self.task.check(self.data.labels, self.objective)
        check_crf(self.student, self.task, self.objective)
        check_adapters(self.student, self.task, self.objective, self.train, self.teachers)
        check_objective(self.objective, self.data.labels, {t.name: t.missing for t in self.active_teachers})
        if self.train.metric not in self.task.metric_names:
            raise ValueError(
                f"train.metric {self.train.metric} is none of {self.task.kind}: "
                f"wanted one of {', '.join(self.task.metric_names)}"
            )
        if self.student.kind == "pretrained":
            object.__setattr__(self, "student", self.student.start_from(self.active_teachers))
        object.__setattr__(self, "peer", self.peer and self.peer.start_from(self.active_teachers))
        check_peer(self.peer, self.student, self.task, self.objective, self.train)
        made = [t for t in self.teachers if isinstance(t, TrainedTeacher)]
        for teacher in made:
            if (stage := teacher.training.pretraining) is not None:
                key = f"teacher {teacher.name}: training.pretraining"
                check_pretraining(key, stage, teacher.training.model, self.task, self.data)
        if self.pretraining is not None:
            check_student_pretraining(self)
        parts: list[tuple[str, Student, Pretraining | None]] = [("student", self.student, self.pretraining)]
        parts += [(f"teacher {t.name}", t.training.model, t.training.pretraining) for t in made]
        for name, student, stage in parts:
            # What was pretrained is a checkpoint, which can learn any task.
            if stage is None and self.task.head not in student.tasks:
                raise ValueError(
                    f"{name}: a model of kind {student.kind} cannot learn {self.task.kind}; "
                    f"it can learn {', '.join(sorted(student.tasks))}"
                )
            if getattr(student, "vocabulary", "own") == "union":
                check_union(name, self.task, self.data, self.active_teachers)
        return self

    @property
    def metric(self) -> MetricName:
        """The validation metric that chooses the best checkpoint."""
        assert self.train.metric is not None  # filled in before the validation
        return self.train.metric

    @property
    def form(self) -> RowForm:
        """The parts of a row of the task."""
        return self.task.form

    @model_validator(mode="after")
    def _teachers_fit(self) -> RunConfig:
        self._check_teacher_names()
        for teacher in self.teachers:
            if teacher.task is not None:
                raise ValueError(f"teacher {teacher.name}: task {teacher.task} is for a run of several tasks")
            if teacher.scale is not None and not self.task.has_scale:
                raise ValueError(
                    f"teacher {teacher.name}: scale plays no part in {self.task.kind}; leave it out"
                )
            unknown = set(teacher.language_set or ()) - set(self.data.languages)
            if unknown:
                raise ValueError(
                    f"teacher {teacher.name} has languages {sorted(unknown)}, not in data.languages "
                    f"{list(self.data.languages)}"
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
        if not self.teachers and not self.plain:
            raise ValueError(
                "no teachers, so there is nothing to distil: add teachers, or set objective.alpha: 1 for plain training"
            )
        check_weighting(self.objective.weighting, self.active_teachers, self.data)
        asks_elsewhere = any(change.targets == "of_the_text" for change in self.data.augment)
        check_features(self.objective, self.task.feature_positions, self.active_teachers, asks_elsewhere)
        pieces = self.workers.num_workers * self.train.gradient_accumulation
        if self.train.batch_size < pieces:
            raise ValueError(
                f"train.batch_size {self.train.batch_size} is smaller than workers.num_workers x "
                f"train.gradient_accumulation = {pieces}"
            )
        return self

    @model_validator(mode="after")
    def _phases_fit(self) -> RunConfig:
        begins = [phase.at for phase in self.phases]
        if begins != sorted(set(begins)):
            raise ValueError(f"phases must begin one after the other, got {begins}")
        for phase in self.phases:
            objective = self.at_progress(phase.at).objective
            self.task.check(self.data.labels, objective)
            check_crf(self.student, self.task, objective)
            check_peer(self.peer, self.student, self.task, objective, self.train)
            check_objective(objective, self.data.labels, {t.name: t.missing for t in self.active_teachers})
            if asks_others(objective, self.objective):
                raise ValueError(
                    "phases may not change which teachers are asked (objective.weighting, drop_surpassed)"
                )
        return self

    @property
    def members(self) -> dict[str, RunConfig]:
        """The runs of single tasks in this run, by task: only itself, under the empty name (see `MultiRun`)."""
        return {"": self}

    @property
    def task_power(self) -> float:
        """Tasks are drawn in proportion to their rows to this power (see `MultiTask`)."""
        return 1.0

    @property
    def plain(self) -> bool:
        """Whether no teacher is ever asked: alpha is 1 throughout."""
        return self.objective.plain and all(
            self.at_progress(phase.at).objective.plain for phase in self.phases
        )

    @property
    def reads_unlabelled(self) -> bool:
        """Whether texts without gold label are trained on: something is said of them."""
        return not self.plain or (self.peer is not None and self.peer.unlabelled)

    def without_teachers(self, steps: int) -> RunConfig:
        """Return the undistilled run: gold labels only, the same number of steps, all else equal."""
        return self.model_copy(
            update={
                "name": "baseline",
                "teachers": (),
                "select_teachers": None,
                "phases": (),
                "peer": None,
                "baseline": False,
                "objective": self.objective.gold_alone(),
                "train": self.train.model_copy(update={"steps": steps, "epochs": None}),
            }
        )

    def at_progress(self, progress: float) -> RunConfig:
        """Return the run at a progress in [0, 1]: without phases, those that have begun laid over it.

        Raises:
            ValueError: A phase sets a value that a run cannot have.
        """
        begun = [phase.set for phase in self.phases if phase.at <= progress]
        if not begun:
            return self
        tree: JsonObject = {"objective": self.objective.model_dump(), "train": self.train.model_dump()}
        for change in begun:
            tree = overlay(tree, change)
        objective, train = (
            Objective.model_validate(tree["objective"]),
            TrainConfig.model_validate(tree["train"]),
        )
        return self.model_copy(update={"objective": objective, "train": train, "phases": ()})

    def fingerprint(self) -> str:
        """Return the sha256 of everything that changes the result, so not of names, folders and resources.

        Paths of files are left out. Rows have their own fingerprint, and model folders are compared by content.
        """
        tree = self.model_dump(mode="json", exclude=_CHANGE_NOTHING)
        remove_unused_run_keys(tree, Columns().model_dump(mode="json"))
        tree["train"].pop("max_skipped_steps")  # decides when a failing run ends, not what it learns
        for source in tree["data"].values():
            if isinstance(source, dict):
                source.pop("paths", None)
        models = [tree["student"]]
        # The form from before teachers had kinds, so that teachers trained then are found again.
        tree["teachers"] = [{**_EMPTY_TEACHER_KEYS, **teacher} for teacher in tree["teachers"]]
        for teacher in tree["teachers"]:
            # on_poor decides whether a run goes on, and price is for reports: neither changes what it learns.
            for key in ("task", "actor", "on_poor", "price"):
                teacher.pop(key)
            if teacher["kind"] in ("model", "trained"):
                teacher.pop("kind")
            (teacher["training"] or {}).pop("workers", None)
            remove_unused_teacher_keys(teacher)
            (teacher["training"] or {"train": {}})["train"].pop("max_skipped_steps", None)
            models += [teacher, *([teacher["training"]["model"]] if teacher["training"] else [])]
        for model in models:
            simplify_model(model)
        tree["serving"] = {"dtype": self.serving.dtype}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


_CHANGE_NOTHING = {
    *("name", "output", "ray", "tracking", "report", "workers", "serving", "teacher_defaults", "smoke"),
    "from_run",
}
_EMPTY_TEACHER_KEYS = {"path": None, "revision": None, "trust_remote_code": False, "training": None}
