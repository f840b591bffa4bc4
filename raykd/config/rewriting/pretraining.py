"""Make the run of a pretraining: of a teacher before its task, or of the student before the teachers' lessons."""

from __future__ import annotations

from raykd.config.kinds.pretraining import Pretraining, strip_for_pretraining
from raykd.config.kinds.student_pretraining import StudentPretraining
from raykd.config.loading import validate_run
from raykd.config.overlay import overlay
from raykd.config.run import RunConfig
from raykd.config.teachers import TrainedTeacher
from raykd.distill.objective import Objective
from raykd.parse import JsonObject

STUDENT = "student-pretraining"
"""Name of the job that pretrains the student."""


def make_pretraining_run(config: RunConfig, teacher: TrainedTeacher | None = None) -> RunConfig:
    """Return the run that trains a model as a language model on texts of its languages and domains.

    Args:
        config: The run.
        teacher: Whose stage it is; None is the student's.
    """
    own = config.data.model_dump(mode="json")
    if teacher is None:
        assert config.pretraining is not None
        stage: Pretraining = config.pretraining
        name, seed, model, workers = STUDENT, config.pretraining.seed, config.student, config.workers
        tree = own
    else:
        training = teacher.training
        assert training.pretraining is not None
        stage, name = training.pretraining, f"teacher-{teacher.name}-pretraining"
        seed, model, workers = training.seed, training.model, training.workers
        tree, own = build_teacher_data(config, teacher), {**own, **training.data}
    return validate_run(
        {
            "name": name,
            "seed": seed,
            "output": config.output,
            "task": stage.build_task(),
            "data": stage.choose_data({**tree, **_choose_texts(stage, own)}),
            "student": strip_for_pretraining(model).model_dump(mode="json"),
            **_choose_loss(stage, config),
            "train": stage.train.model_dump(mode="json"),
            "workers": workers.model_dump(mode="json"),
            "ray": config.ray.model_dump(mode="json"),
            "tracking": config.tracking.model_dump(mode="json"),
            "smoke": config.smoke,
        },
        "the pretraining of " + ("the student" if teacher is None else f"teacher {teacher.name}"),
    )


def _choose_texts(stage: Pretraining, own: JsonObject) -> JsonObject:
    """Return the sources of a stage: its texts, what chooses its best step, and what is left out of both."""
    texts = own[stage.texts] if isinstance(stage.texts, str) else stage.texts.model_dump(mode="json")
    validation = own["validation"] if stage.validation is None else stage.validation.model_dump(mode="json")
    return {"train": texts, "validation": validation, "test": own["test"]}


def _choose_loss(stage: Pretraining, config: RunConfig) -> JsonObject:
    """Return the objective of a stage, and its teachers if it has some."""
    if not isinstance(stage, StudentPretraining) or not stage.teachers:
        return {"objective": Objective().gold_alone().model_dump(mode="json")}
    return {
        "objective": stage.distillation.model_dump(mode="json"),
        "teachers": [teacher.model_dump(mode="json") for teacher in stage.teachers],
        "serving": {**config.serving.model_dump(mode="json"), "pool": None},  # that of the task's teachers
    }


def build_teacher_data(config: RunConfig, teacher: TrainedTeacher) -> JsonObject:
    """Return the `data` of the run that trains a teacher."""
    training = teacher.training
    taught = bool(training.teachers)
    tree = config.data.model_dump(mode="json")
    # The student may be kept to a few labelled rows, or to a domain; its teachers are not, but in self-training.
    everything = {"labelled_per_language": None, "labelled_seed": 0, "select_groups": None}
    own = {
        **({"undrawn": "drop"} if training.labelled == "student" else everything),
        "select_languages": None if teacher.languages == "all" else list(teacher.languages),
        "labelled_share": None,
        "empty_label": "drop" if config.data.empty_label == "unlabeled" else config.data.empty_label,
        **({} if taught else {"unlabeled": None, "augment": []}),
        "replay": None,
        "test": None,
    }
    data: JsonObject = overlay({**tree, **own}, training.data)
    return data
