"""Define MultiRun, a run of several tasks on one encoder.

Decision record: a run has one *member* per task, an ordinary RunConfig with the task's own data, teachers and objective
and everything else from the run. So all code below (data, teachers, objective, scores, reports) knows one task only,
and one set of rules refuses what does not fit. What tasks share (student, length, workers) is written once. Language
models are left out, because they have no head on a shared encoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from raykd.config.data import DataConfig
from raykd.config.overlay import check_name, overlay
from raykd.config.run import RayConfig, ReportConfig, RunBase, RunConfig, TrackingConfig
from raykd.config.teachers import ServingConfig, TeacherConfig
from raykd.config.train import TrainConfig, WorkersConfig
from raykd.distill.objective import Objective
from raykd.models import Student
from raykd.parse import JsonObject
from raykd.spec import Spec
from raykd.tasks import Task, find_task_class, holds_task
from raykd.tasks.scores.metrics import MetricName, is_higher_better, is_rate

SCORE = "score"
"""Name of the metric of a run of several tasks: the unweighted mean of the tasks' own metrics, each a rate."""
RESERVED = ("eval", "train", "teacher")
"""First parts of a run's curve names. A task's curves begin with its name, so a task cannot have these."""
ENCODED = ("classification", "relation", "multi_label", "token_classification", "question_answering")
"""Kinds of task with a head on an encoder."""


@holds_task
class MemberTask(Spec):
    """One task in a run of several."""

    task: Task
    data: DataConfig
    metric: MetricName | None = None
    """What the task adds to the run's score, a rate (accuracy, macro_f1, f1, ...); None takes the task's first."""
    objective: JsonObject = {}
    """Overlay of the run's `objective` for this task (alpha, temperature, terms, weighting, ...)."""


@holds_task
class MultiTask(Spec):
    """Several tasks in one student. Each optimizer step trains one of them."""

    kind: Literal["multi"] = "multi"
    power: float = Field(1.0, ge=0.0, le=1.0)
    """Tasks are drawn in proportion to (training rows) ** power: 1 is by size, 0 all equally often. Rows are those that
    the student learns from: without teachers the labelled ones."""
    tasks: dict[str, MemberTask] = Field(min_length=1)
    """By name: in teachers' `task`, as folders of the student, in curves and tables."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _encoder_tasks(cls, value: object) -> object:
        """Refuse a task without an encoder before its data are validated, which would fail in many ways."""
        for name, member in value.items() if isinstance(value, Mapping) else ():
            check_name(str(name))
            if name in RESERVED:
                raise ValueError(f"a task cannot be named {name}: curves of the whole run are")
            task = member.get("task") if isinstance(member, Mapping) else getattr(member, "task", None)
            kind = task.get("kind") if isinstance(task, Mapping) else getattr(task, "kind", None)
            known = find_task_class(str(kind))
            if kind == "multi" or (known is not None and known.language):
                raise ValueError(
                    f"task {name} is {kind}, which is no head on a shared encoder: wanted {', '.join(ENCODED)}; "
                    "train it in a run of its own"
                )
        return value


@holds_task
class MultiRun(RunBase):
    """One run of several tasks. Keys mean the same as in `RunConfig`."""

    task: MultiTask
    student: Student
    """One with an encoder: transformer, lstm or pretrained."""
    teachers: tuple[TeacherConfig, ...] = ()
    teacher_defaults: JsonObject = {}
    select_teachers: tuple[str, ...] | None = None
    baseline: bool = False
    objective: Objective = Objective()
    """Objective of every task that does not change it."""
    train: TrainConfig = TrainConfig()
    """`metric` stays empty: the run is judged by `score`, the unweighted mean over tasks of each one's `metric`."""
    workers: WorkersConfig = WorkersConfig()
    serving: ServingConfig = ServingConfig()
    ray: RayConfig = RayConfig()
    tracking: TrackingConfig = TrackingConfig()
    report: ReportConfig = ReportConfig()
    smoke: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> MultiRun:
        if self.student.kind == "linear":
            raise ValueError(
                "a linear student has no encoder to share: wanted transformer, lstm or pretrained"
            )
        if self.student.kind == "pretrained":
            object.__setattr__(self, "student", self.student.start_from(self.active_teachers))
        if single := [key for key in ("tuning", "crf") if getattr(self.student, key, None)]:
            raise ValueError(
                f"student.{single[0]} serves runs of one task: leave it out, or train each task in its own run"
            )
        if self.serving.pool is not None:
            raise ValueError(
                "serving.pool: teachers of several tasks are started by the run itself; leave it out"
            )
        if self.train.metric is not None:
            raise ValueError(
                "train.metric: a run of several tasks is judged by the mean of task.tasks.*.metric"
            )
        own = self.train.deepspeed if isinstance(self.train.deepspeed, dict) else {}
        zero = own.get("zero_optimization")
        stage = zero.get("stage") if isinstance(zero, dict) else None
        if 3 in (self.train.zero_stage, stage):
            raise ValueError(
                "train.zero_stage 3: an encoder that tasks share did not train there as it does on one worker; "
                "wanted 0, 1 or 2"
            )
        self._check_teacher_names()
        for teacher in self.teachers:
            if teacher.task not in self.task.tasks:
                raise ValueError(
                    f"teacher {teacher.name} is of task {teacher.task}: wanted one of {list(self.task.tasks)}"
                )
        for name, member in self.members.items():
            if member.objective.features:
                raise ValueError(f"task {name}: objective.features serves runs of one task; leave it out")
            if member.train.alignment is not None:
                raise ValueError("train.alignment serves runs of one task; leave it out")
            rates = [m for m in member.task.metric_names if is_rate(m) and is_higher_better(m)]
            if member.metric not in rates:
                raise ValueError(
                    f"task {name}: {member.metric} cannot be averaged over tasks; wanted one of {', '.join(rates)}"
                )
        return self

    @cached_property
    def members(self) -> dict[str, RunConfig]:
        """The run of each task alone, by task.

        Raises:
            ValueError: A task is no valid run. Names the task and the reason.
        """
        return {name: self._member(name, spec) for name, spec in self.task.tasks.items()}

    def _member(self, name: str, spec: MemberTask) -> RunConfig:
        own = (
            "student",
            "output",
            "seed",
            "baseline",
            "workers",
            "serving",
            "ray",
            "tracking",
            "report",
            "smoke",
        )
        tree: dict[str, object] = self.model_dump(mode="json", include=set(own))
        teachers = [
            t.model_dump(mode="json", exclude={"task"}) for t in self.active_teachers if t.task == name
        ]
        tree |= {
            "name": f"{self.name}-{name}"[-100:].lstrip("._-"),
            "task": spec.task.model_dump(mode="json"),
            "data": spec.data.model_dump(mode="json"),
            "teachers": teachers,
            "objective": overlay(self.objective.model_dump(mode="json"), spec.objective),
            "train": self.train.model_dump(mode="json") | {"metric": spec.metric},
        }
        try:
            return RunConfig.model_validate(tree)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"task {name}: {where}{': ' if where else ''}{message}") from None

    def model_copy(self, *, update: Mapping[str, object] | None = None, deep: bool = False) -> MultiRun:
        """Copy as any model does, and drop the cached members."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("members", None)
        return copied

    @property
    def pretraining(self) -> None:
        """None, because an encoder that tasks share is not pretrained by its run."""
        return None

    @property
    def metric(self) -> str:
        """The validation metric that chooses the best checkpoint."""
        return SCORE

    @property
    def task_power(self) -> float:
        """Tasks are drawn in proportion to their rows to this power."""
        return self.task.power

    @property
    def plain(self) -> bool:
        """Whether no teacher of any task is ever asked."""
        return all(member.plain for member in self.members.values())

    def without_teachers(self, steps: int) -> MultiRun:
        """Return the undistilled run: gold labels only, the same number of steps, all else equal."""
        tree = self.model_dump(mode="json")
        for name, member in self.members.items():
            alone = member.objective.gold_alone().model_dump(mode="json", exclude_defaults=True)
            tree["task"]["tasks"][name]["objective"] = alone
        tree |= {"name": "baseline", "teachers": [], "teacher_defaults": {}, "select_teachers": None}
        tree |= {"objective": {"alpha": 1.0}, "baseline": False}
        tree["train"] |= {"steps": steps, "epochs": None}
        return MultiRun.model_validate(tree)

    def fingerprint(self) -> str:
        """Return the sha256 of everything that changes the result, so not of names, folders and resources."""
        parts = {name: member.fingerprint() for name, member in self.members.items()}
        text = json.dumps([self.task.power, list(parts.items())])
        return hashlib.sha256(text.encode()).hexdigest()


Run = RunConfig | MultiRun
"""A run of one task or of several. `members` are its runs of single tasks."""
