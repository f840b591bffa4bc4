"""RunConfig: the whole tree of a run, and what of it must fit together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from raykd.config.data import DataConfig
from raykd.config.overlay import checked_name, overlay
from raykd.config.teachers import ServingConfig, TeacherConfig
from raykd.config.train import TrainConfig, WorkersConfig
from raykd.distill.objective import Objective
from raykd.distill.schedules import Constant
from raykd.models import Student
from raykd.spec import Spec
from raykd.tasks import Classification, Task


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
