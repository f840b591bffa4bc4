"""A run as jobs: the teachers that must be trained first, the undistilled baseline, the distilled student.

Decision record: training a teacher, the baseline and a distilled student is one thing with other settings, so
each is a `Job` that holds a RunConfig of its own, and one worker group runs several jobs one after the other:
starting a worker group costs more than training a small model. Trained teachers are kept by content (their
configuration and their data), so that changing a student's seed never trains a teacher again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raykd.config import RunConfig, TeacherConfig, overlay, plain_objective
from raykd.data.load import Dataset, load_data
from raykd.errors import ConfigError, DataError, ModelError
from raykd.load import validate


@dataclass(frozen=True)
class Job:
    """One model to train.

    role: teacher, baseline or student. name: for people and folders. output: where the saved model goes.
    """

    role: Literal["teacher", "baseline", "student"]
    name: str
    config: RunConfig
    data: Dataset
    output: Path

    @property
    def done(self) -> bool:
        """Whether the model is there already (models are written whole or not at all)."""
        return (self.output / "config.json").exists()

    @property
    def rows(self) -> int:
        """Training rows that the job sees: without teachers only the labelled ones."""
        labelled = self.data.train.labelled
        return int(labelled.sum()) if self.config.plain else len(labelled)

    @property
    def steps(self) -> int:
        """Optimizer steps of the job."""
        return self.config.train.total_steps(max(1, self.rows // self.config.train.batch_size))

    def check_batch(self) -> None:
        """Says now what the stream of batches would say on a worker.

        Raises:
            DataError: the batch is larger than the data.
        """
        if self.rows < self.config.train.batch_size:
            raise DataError(
                f"{self.name}: a batch is larger than the training data",
                got=f"train.batch_size {self.config.train.batch_size}, {self.rows} rows",
                wanted=f"train.batch_size of {self.rows} at most",
                next_step="lower train.batch_size (of a teacher: training.train.batch_size), or add rows",
            )


def teacher_run(config: RunConfig, teacher: TeacherConfig) -> RunConfig:
    """The plain supervised run that makes a teacher: all labelled rows of its languages, no unlabelled ones."""
    training = teacher.training
    assert training is not None
    tree = config.data.model_dump(mode="json")
    own = {
        "select_languages": None if teacher.languages == "all" else list(teacher.languages),
        "labelled_per_language": None,
        "labelled_seed": 0,
        "labelled_share": None,
        "unlabeled": None,
        "test": None,
    }
    data = overlay({**tree, **own}, training.data)
    return validate(
        {
            "name": f"teacher-{teacher.name}",
            "seed": training.seed,
            "output": config.output,
            "task": config.task.model_dump(mode="json"),
            "data": data,
            "student": training.model.model_dump(mode="json"),
            "objective": plain_objective(training.label_smoothing).model_dump(mode="json"),
            "train": training.train.model_dump(mode="json"),
            "workers": training.workers.model_dump(mode="json"),
            "ray": config.ray.model_dump(mode="json"),
            "tracking": config.tracking.model_dump(mode="json"),
        },
        f"the training of teacher {teacher.name}",
    )


def baseline_run(config: RunConfig, steps: int) -> RunConfig:
    """The student without teachers: gold labels only, the same number of steps, everything else equal."""
    update = {
        "name": "baseline",
        "teachers": (),
        "select_teachers": None,
        "phases": (),
        "baseline": False,
        "objective": plain_objective(config.objective.label_smoothing),
        "train": config.train.model_copy(update={"steps": steps, "epochs": None}),
    }
    return config.model_copy(update=update)


def teacher_job(config: RunConfig, teacher: TeacherConfig) -> Job:
    """The job of a teacher that is trained first; its folder is named by its content."""
    run = teacher_run(config, teacher)
    data = load_data(run.data, Path.cwd(), run.form)
    content = hashlib.sha256((run.fingerprint() + data.fingerprint()).encode()).hexdigest()[:12]
    output = Path(config.output).resolve() / "teachers" / f"{teacher.name}-{content}"
    return Job("teacher", f"teacher-{teacher.name}", run, data, output)


def existing_teachers(config: RunConfig, next_step: str) -> dict[str, Path]:
    """Folders of the teachers that were trained before, by the names of their jobs.

    Args:
        next_step: for a teacher that is not there.
    Raises:
        ModelError: a teacher is not trained yet.
    """
    jobs = [teacher_job(config, t) for t in config.active_teachers if t.training is not None]
    check_trained(jobs, next_step)
    return {job.name: job.output for job in jobs}


def check_trained(jobs: Sequence[Job], next_step: str) -> None:
    """Raises ModelError where one of these teachers is not trained yet."""
    missing = [job for job in jobs if not job.done]
    if missing:
        raise ModelError(
            f"not trained yet: {', '.join(job.name for job in missing)}",
            got=f"no model in {missing[0].output}",
            wanted="teachers that exist",
            next_step=next_step,
        )


def jobs_of(config: RunConfig, run_dir: Path) -> tuple[list[Job], list[Job]]:
    """Jobs in two stages: teachers to train; then baseline and student.

    Raises:
        DataError, ConfigError: what can be known of files, columns, labels and sizes.
    """
    teachers = [teacher_job(config, t) for t in config.active_teachers if t.training is not None]
    data = load_data(config.data, Path.cwd(), config.form)
    student = Job("student", "student", config, data, run_dir / "student")
    students = [student]
    if config.baseline:
        if config.plain:
            raise ConfigError(
                "baseline: true without distillation",
                got="objective.alpha 1",
                wanted="a run with teachers",
                next_step="leave baseline out: this run is the baseline",
            )
        students.insert(
            0, Job("baseline", "baseline", baseline_run(config, student.steps), data, run_dir / "baseline")
        )
    for job in [*teachers, *students]:
        job.check_batch()
    return teachers, students


def teacher_path(teacher: TeacherConfig, trained: dict[str, Path]) -> str:
    """Where a teacher's model lies: where it was trained to, or where the config says."""
    return str(trained[teacher.name]) if teacher.training is not None else str(teacher.path)
