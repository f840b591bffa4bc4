"""RunConfig: one YAML is one run.

Decision record: behaviour lives in the union members (losses, schedules, weightings, tasks, students), and the
config is the tree that holds them, so a key in YAML, an attribute in Python and a parameter in MLflow have one
name. Unknown keys are errors that name the path, what was got and what is allowed.
"""

from raykd.config.data import Columns, DataConfig, Embedded, Files, Hub, Source
from raykd.config.multi import MultiRun, Run
from raykd.config.overlay import check_name, overlay
from raykd.config.run import Phase, RayConfig, RunConfig, TrackingConfig, build_plain_objective
from raykd.config.teachers import (
    ActorConfig,
    ModelTeacher,
    ServingConfig,
    TeacherConfig,
    TeacherTraining,
    TrainedTeacher,
)
from raykd.config.train import TrainConfig, WorkersConfig

__all__ = [
    "ActorConfig",
    "Columns",
    "DataConfig",
    "Embedded",
    "Files",
    "Hub",
    "ModelTeacher",
    "MultiRun",
    "Phase",
    "RayConfig",
    "Run",
    "RunConfig",
    "ServingConfig",
    "Source",
    "TeacherConfig",
    "TeacherTraining",
    "TrackingConfig",
    "TrainConfig",
    "TrainedTeacher",
    "WorkersConfig",
    "build_plain_objective",
    "check_name",
    "overlay",
]
