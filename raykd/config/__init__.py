"""The configuration of a run: one YAML is one run.

Decision record: behaviour lives in the members of unions (losses, schedules, weightings, tasks, students). The
configuration is the tree that holds them, so a YAML key, a Python attribute and an MLflow parameter have one name. An
unknown key is an error that names its path, the value and what is allowed.
"""

from raykd.config.data import Columns, DataConfig, Embedded, Files, Hub, Replay, Source
from raykd.config.kinds.http import HttpTeacher
from raykd.config.kinds.label_words import LabelWords
from raykd.config.multi import MultiRun, Run
from raykd.config.overlay import check_name, overlay
from raykd.config.run import Phase, RayConfig, RunConfig, TrackingConfig
from raykd.config.teachers import (
    ActorConfig,
    CallableTeacher,
    FileTeacher,
    LabelWordsTeacher,
    ModelTeacher,
    SavedModelTeacher,
    ServingConfig,
    TeacherBase,
    TeacherConfig,
    TeacherTraining,
    TrainedTeacher,
    register_teacher,
)
from raykd.config.train import TrainConfig, WorkersConfig

__all__ = [
    "ActorConfig",
    "CallableTeacher",
    "Columns",
    "DataConfig",
    "Embedded",
    "FileTeacher",
    "Files",
    "HttpTeacher",
    "Hub",
    "LabelWords",
    "LabelWordsTeacher",
    "ModelTeacher",
    "MultiRun",
    "Phase",
    "RayConfig",
    "Replay",
    "Run",
    "RunConfig",
    "SavedModelTeacher",
    "ServingConfig",
    "Source",
    "TeacherBase",
    "TeacherConfig",
    "TeacherTraining",
    "TrackingConfig",
    "TrainConfig",
    "TrainedTeacher",
    "WorkersConfig",
    "check_name",
    "overlay",
    "register_teacher",
]
