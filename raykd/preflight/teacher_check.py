"""Check the teachers of a run, those that it trains first, and what it pretrains."""

from __future__ import annotations

from raykd.config import (
    HttpTeacher,
    LabelWordsTeacher,
    ModelTeacher,
    RunConfig,
    SavedModelTeacher,
    TeacherConfig,
    TrainedTeacher,
)
from raykd.config.rewriting.pretraining import make_pretraining_run
from raykd.driver.pool import make_teacher_spec
from raykd.errors import RaykdError, prefix_errors
from raykd.preflight.combinations import check_combinations
from raykd.preflight.label_words_check import check_phrases, look_at_label_words
from raykd.preflight.model_check import (
    append_notes,
    check_made,
    describe_columns,
    describe_source,
    look_at_teacher,
    preview_source,
)
from raykd.teachers.backends.backend import make_backend


def check_pretrained_student(config: RunConfig) -> str:
    """Check the pretraining of a run's student, and describe it.

    Raises:
        ModelError, ConfigError: The student cannot learn it, or a teacher of it cannot teach it.
    """
    assert config.pretraining is not None
    run = make_pretraining_run(config)
    with prefix_errors("pretraining", RaykdError):
        check_combinations(run)
        check_made(run.student, run, "student")
        told = [f"; teacher {teacher.name}: {check_teacher(teacher, run)}" for teacher in run.needed_teachers]
    read = run.data.select_languages or run.data.languages
    return f"the student first learns {run.task.kind} in {', '.join(read)}{''.join(told)}"


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


def check_teacher(teacher: TeacherConfig, config: RunConfig) -> str:
    """Check one teacher, and describe it.

    Raises:
        ModelError, LabelMismatchError, ConfigError: The errors that loading it would raise.
    """
    if isinstance(teacher, TrainedTeacher):
        return check_training(teacher, config)
    if isinstance(teacher, HttpTeacher) and teacher.words:
        check_phrases(teacher, config)
    if not isinstance(teacher, SavedModelTeacher):
        return describe_served(teacher, config)
    with prefix_errors(f"teacher {teacher.name}", RaykdError):
        folder = preview_source(teacher, f"teachers.{teacher.name}")
    if isinstance(teacher, LabelWordsTeacher):
        what, notes = look_at_label_words(teacher, config, folder)
    else:
        assert isinstance(teacher, ModelTeacher)
        what, notes = look_at_teacher(teacher, config, folder)
    return append_notes("; ".join(filter(None, [describe_source(teacher), what])), notes)


def describe_served(teacher: TeacherConfig, config: RunConfig) -> str:
    """Describe a teacher as the process that will serve it does; loads no weights.

    Raises:
        ModelError, LabelMismatchError: It cannot be used.
    """
    backend = make_backend(make_teacher_spec(config, teacher, {}))
    info = backend.describe()
    labels = describe_columns(info.labels, config.data.labels, info.columns)
    return ", ".join(filter(None, [teacher.kind, labels, backend.describe_place()]))
