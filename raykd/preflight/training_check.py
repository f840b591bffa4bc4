"""Check a teacher that the run trains first: the model that it starts from, and its pretraining."""

from __future__ import annotations

from raykd.config import RunConfig, TrainedTeacher
from raykd.driver.jobs import make_pretraining_run
from raykd.preflight.model_check import check_made


def check_training(teacher: TrainedTeacher, config: RunConfig) -> str:
    """Check a teacher that the run trains, and describe it.

    Raises:
        ModelError, LabelMismatchError, ConfigError: Its model, or what it is pretrained from, cannot learn.
    """
    key, stage = f"teachers.{teacher.name}.training.model", teacher.training.pretraining
    if stage is None or teacher.training.model.kind == "pretrained":
        check_made(teacher.training.model, config, key)
    if stage is not None:
        check_made(teacher.training.model, make_pretraining_run(config, teacher), key)
    own = [str(label) for label in teacher.training.data.get("labels", config.data.labels)]
    config.task.map_columns(own, config.data.labels, teacher.label_map, teacher.name, teacher.missing)
    declared = None if teacher.languages == "all" else teacher.languages
    read = teacher.training.data.get("select_languages", declared)
    languages = "all languages" if read is None else ", ".join(map(str, read))
    by = f", taught by {', '.join(teacher.training.teachers)}" * bool(teacher.training.teachers)
    first = "" if stage is None else f", pretrained first ({stage.objective})"
    return f"will be trained: {teacher.training.model.kind} on {languages}{by}{first}"
