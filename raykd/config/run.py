"""RunConfig: the whole tree of a run, and what of it must fit together."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from raykd.config.data import DataConfig
from raykd.config.overlay import check_name, overlay
from raykd.config.teachers import (
    ServingConfig,
    TeacherConfig,
    TrainedTeacher,
    find_teacher_kind,
    list_foreign_keys,
)
from raykd.config.train import TrainConfig, WorkersConfig
from raykd.distill.objective import Objective
from raykd.distill.schedules import Constant
from raykd.models import Student
from raykd.spec import Spec
from raykd.tasks import Classification, Task, find_task_class, holds_task
from raykd.tasks.forms import RowForm
from raykd.tasks.scores.metrics import MetricName


class RayConfig(Spec):
    """Which Ray cluster."""

    address: str | None = None
    """Address of a cluster ("auto" finds a running one); None uses RAY_ADDRESS, else starts a local one."""
    num_cpus: int | None = Field(None, ge=1)
    """CPUs of the local one; None takes the machine's."""
    wait_s: float = Field(600.0, gt=0.0)
    """Longest wait for resources that others hold; every 30 s a line says what is waited for."""


class TrackingConfig(Spec):
    """Where MLflow records the run."""

    uri: str | None = None
    """None takes MLFLOW_TRACKING_URI, else an SQLite database under `output`."""
    experiment: str | None = Field(None, min_length=1, max_length=500)
    """Name of the MLflow experiment; None takes MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID, else `raykd`."""
    required: bool = True
    """Whether a run may not begin while MLflow does not answer (for 5 s). It is so unless you say otherwise: at the
    start nothing is lost yet, and who wants records wants to know now. False: one warning, and everything waits in the
    run's folder for `raykd mlflow sync`. A server that goes away later never ends a run and never holds it up."""
    log_model: bool = True
    """Log the student as an MLflow model."""


class Phase(Spec):
    """From a progress on, other values of a few keys: how a schedule that a population found is trained again."""

    at: float = Field(gt=0.0, lt=1.0)
    """Progress (step / total steps) at which the phase begins; it lasts to the next one."""
    set: dict[str, Any]
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


@holds_task
class RunConfig(Spec):
    """One run."""

    name: str = "run"
    """Of the run: its folder under `output`, and its name in MLflow."""
    seed: int = Field(0, ge=0)
    """Seed of the student's weights, of dropout and of the order of rows."""
    output: str = "runs"
    """Folder of all runs; this run's is output/name."""
    task: Task = Classification()
    data: DataConfig
    student: Student
    teachers: tuple[TeacherConfig, ...] = ()
    teacher_defaults: dict[str, Any] = {}
    """Keys that every teacher has unless it says otherwise. What one kind alone has (`training`) is for teachers
    of that kind."""
    select_teachers: tuple[str, ...] | None = None
    """Names of the teachers that take part (of `teachers`); None takes all."""
    baseline: bool = False
    """Also train the student without teachers, for the same number of steps."""
    objective: Objective = Objective()
    train: TrainConfig = TrainConfig()
    phases: tuple[Phase, ...] = ()
    """Changes of the objective and the rates on the way, in order of their progress."""
    workers: WorkersConfig = WorkersConfig()
    serving: ServingConfig = ServingConfig()
    ray: RayConfig = RayConfig()
    tracking: TrackingConfig = TrackingConfig()
    smoke: str | None = None
    """Of the short copy that `--smoke` makes: the name of the run that it is of. Set by that option."""

    _name = field_validator("name")(check_name)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: object) -> object:
        return apply_teacher_defaults(data)

    @model_validator(mode="before")
    @classmethod
    def _metric_of_the_task(cls, data: object) -> object:
        """Writes down the metric that a run is judged by, where it is left to the task."""
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
        self.task.check(self.data.labels, self.objective)
        if self.train.metric not in self.task.metric_names:
            raise ValueError(
                f"train.metric {self.train.metric} is none of {self.task.kind}: "
                f"wanted one of {', '.join(self.task.metric_names)}"
            )
        students = [("student", self.student)]
        students += [
            (f"teacher {t.name}", t.training.model) for t in self.teachers if isinstance(t, TrainedTeacher)
        ]
        for name, student in students:
            if self.task.head not in student.tasks:
                raise ValueError(
                    f"{name}: a model of kind {student.kind} cannot learn {self.task.kind}; "
                    f"it can learn {', '.join(sorted(student.tasks))}"
                )
            if getattr(student, "vocabulary", "own") == "union":
                self._check_union(name)
        return self

    def _check_union(self, name: str) -> None:
        """Whether a model can have the union of its teachers' vocabularies."""
        if name != "student":
            raise ValueError(
                f"{name}: vocabulary union is that of a model's teachers, and a teacher has none"
            )
        if not self.task.union_vocabulary:
            raise ValueError(f"student.vocabulary union serves masked_lm, not {self.task.kind}")
        spoken = [t.language_set for t in self.active_teachers]
        silent = [
            lang
            for lang in self.data.select_languages or self.data.languages
            if not any(own is None or lang in own for own in spoken)
        ]
        if silent:
            raise ValueError(
                f"student.vocabulary union: no teacher speaks {silent[0]}, so there is no tokenizer for its texts"
            )

    @property
    def metric(self) -> MetricName:
        """The validation metric that the run is judged by."""
        assert self.train.metric is not None  # written down before anything was validated
        return self.train.metric

    @property
    def form(self) -> RowForm:
        """What a row of the task consists of."""
        return self.task.form

    @model_validator(mode="after")
    def _teachers_fit(self) -> RunConfig:
        names = [t.name for t in self.teachers]
        if len(set(names)) != len(names):
            raise ValueError(f"two teachers have the same name: {names}")
        for teacher in self.teachers:
            if teacher.task is not None:
                raise ValueError(f"teacher {teacher.name}: task {teacher.task} is for a run of several tasks")
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
        if not self.teachers and not self.plain:
            raise ValueError(
                "no teachers, so there is nothing to distil: add teachers, or set objective.alpha: 1 for plain training"
            )
        unknown = set(self.select_teachers or ()) - {t.name for t in self.teachers}
        if unknown or self.select_teachers == ():
            raise ValueError(
                f"select_teachers {list(self.select_teachers or ())}: "
                f"wanted at least one of the teachers {[t.name for t in self.teachers]}"
            )
        weighting = self.objective.weighting
        check = getattr(weighting, "check", None)
        if self.teachers and check is not None:
            check(tuple(t.name for t in self.active_teachers))
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
            weighting = self.at_progress(phase.at).objective.weighting
            if weighting.kind != self.objective.weighting.kind or (
                weighting.kind == "fixed" and weighting != self.objective.weighting
            ):
                raise ValueError("phases may not change which teachers are asked (objective.weighting)")
        return self

    @property
    def members(self) -> dict[str, RunConfig]:
        """The runs of single tasks that this one consists of: itself, under no name (see `MultiRun`)."""
        return {"": self}

    @property
    def task_power(self) -> float:
        """Tasks are drawn in proportion to their rows to this power (see `MultiTask`)."""
        return 1.0

    @property
    def active_teachers(self) -> tuple[TeacherConfig, ...]:
        """The teachers that take part, in their order."""
        chosen = self.select_teachers
        return tuple(t for t in self.teachers if chosen is None or t.name in chosen)

    @property
    def trained_teachers(self) -> tuple[TrainedTeacher, ...]:
        """Those that the run trains first."""
        return tuple(t for t in self.active_teachers if isinstance(t, TrainedTeacher))

    @property
    def plain(self) -> bool:
        """Whether no teacher is ever asked: alpha is 1 from the beginning to the end."""
        return self.objective.plain and all(
            self.at_progress(phase.at).objective.plain for phase in self.phases
        )

    def without_teachers(self, steps: int) -> RunConfig:
        """The undistilled run: gold labels alone, as many steps, everything else equal."""
        return self.model_copy(
            update={
                "name": "baseline",
                "teachers": (),
                "select_teachers": None,
                "phases": (),
                "baseline": False,
                "objective": build_plain_objective(self.objective.label_smoothing),
                "train": self.train.model_copy(update={"steps": steps, "epochs": None}),
            }
        )

    def at_progress(self, progress: float) -> RunConfig:
        """The run as it is at this progress: the phases that have begun laid over it, without phases of its own.

        Raises:
            ValueError: a phase sets what a run cannot have.
        """
        begun = [phase.set for phase in self.phases if phase.at <= progress]
        if not begun:
            return self
        tree: Any = {"objective": self.objective.model_dump(), "train": self.train.model_dump()}
        for change in begun:
            tree = overlay(tree, change)
        objective, train = (
            Objective.model_validate(tree["objective"]),
            TrainConfig.model_validate(tree["train"]),
        )
        return self.model_copy(update={"objective": objective, "train": train, "phases": ()})

    def fingerprint(self) -> str:
        """sha256 over everything that changes the result; names, folders and resources do not.

        Where files lie is left out: rows have a fingerprint of their own, model folders are compared by what they hold.
        """
        tree = self.model_dump(
            mode="json",
            exclude={"name", "output", "ray", "tracking", "workers", "serving", "teacher_defaults", "smoke"},
        )
        tree["train"].pop("max_skipped_steps")  # only how long a run that goes wrong is borne with
        for source in tree["data"].values():
            if isinstance(source, dict):
                source.pop("paths", None)
        models = [tree["student"]]
        # As before teachers had kinds, so that what was made then is found again.
        tree["teachers"] = [{**_EMPTY_TEACHER_KEYS, **teacher} for teacher in tree["teachers"]]
        for teacher in tree["teachers"]:
            for key in (
                "kind",
                "task",
                "actor",
                "on_poor",
            ):  # the last: whether a run goes on, not what it learns
                teacher.pop(key)
            (teacher["training"] or {}).pop("workers", None)
            (teacher["training"] or {"train": {}})["train"].pop("max_skipped_steps", None)
            models += [teacher, *([teacher["training"]["model"]] if teacher["training"] else [])]
        for model in models:
            if os.path.isabs(model.get("path") or ""):
                model["path"] = os.path.basename(model["path"])
        tree["serving"] = {"dtype": self.serving.dtype}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


_EMPTY_TEACHER_KEYS = {"path": None, "revision": None, "trust_remote_code": False, "training": None}


def build_plain_objective(label_smoothing: float = 0.0) -> Objective:
    """The objective of supervised training: alpha is 1, no teacher is asked."""
    return Objective(alpha=Constant(value=1.0), label_smoothing=label_smoothing)


def apply_teacher_defaults(data: object) -> object:
    """A run's tree with `teacher_defaults` laid under every teacher; anything but a tree is left as it is."""
    if not isinstance(data, Mapping) or not isinstance(data.get("teacher_defaults"), Mapping):
        return data
    defaults = data["teacher_defaults"]
    teachers = data.get("teachers")
    if not isinstance(teachers, (list, tuple)) or not all(isinstance(t, Mapping) for t in teachers):
        return data
    return {**data, "teachers": [overlay(_of_kind(defaults, t), t) for t in teachers]}


def _of_kind(defaults: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that a teacher's kind has."""
    kind = find_teacher_kind(teacher) or find_teacher_kind(defaults)
    other = list_foreign_keys(kind) | ({"kind"} if defaults.get("kind") != kind else set())
    return {key: value for key, value in defaults.items() if key not in other}
