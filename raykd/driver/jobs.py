"""A run as jobs: the teachers that must be trained first, the undistilled baseline, the distilled student.

Decision record: training a teacher, the baseline and a distilled student is one thing with other settings, so
each is a `Job` that holds a RunConfig of its own, and one worker group runs several jobs one after the other:
starting a worker group costs more than training a small model. A student of several tasks is a `MixedJob`: its parts
are the jobs that its tasks would be alone, each with a folder of its own. Trained teachers are kept by content (their
configuration and their data), so that changing a student's seed never trains a teacher again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raykd.config import MultiRun, Run, RunConfig, TeacherConfig, overlay, plain_objective
from raykd.config.loading import validate
from raykd.config.smoke import smoke_name
from raykd.data.load import ALL, Dataset, load_data
from raykd.driver.language_models import check_prompts, check_source_languages
from raykd.errors import ConfigError, DataError, ModelError
from raykd.folders.contents import models_of
from raykd.student.prepare import check_long_rows


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
    def parts(self) -> dict[str, Job]:
        """The jobs of single tasks that it consists of, by task: itself."""
        return {"": self}

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


@dataclass(frozen=True)
class MixedJob:
    """One model to train for several tasks.

    parts: of each task the job that it would be alone, with its folder of the saved model.
    """

    role: Literal["baseline", "student"]
    name: str
    config: MultiRun
    parts: dict[str, Job]
    output: Path

    @property
    def done(self) -> bool:
        """Whether the model is there already."""
        return (self.output / "config.json").exists()

    @property
    def steps(self) -> int:
        """Optimizer steps of the job: an epoch has all whole batches of all tasks."""
        batch = self.config.train.batch_size
        return self.config.train.total_steps(sum(max(1, part.rows // batch) for part in self.parts.values()))

    def check_batch(self) -> None:
        """As `Job.check_batch`, for each task."""
        for part in self.parts.values():
            part.check_batch()


AnyJob = Job | MixedJob


def data_fingerprints(job: AnyJob) -> dict[str, str]:
    """sha256 (hex) over the rows of a job: of each part by its key, and of all as `ALL`."""
    if isinstance(job, Job):
        return job.data.fingerprints()
    parts = {name: part.data.fingerprints() for name, part in job.parts.items()}
    whole = repr([(name, each[ALL]) for name, each in parts.items()])
    named = {
        f"task.tasks.{name}.{key}": value
        for name, each in parts.items()
        for key, value in each.items()
        if key != ALL
    }
    return {ALL: hashlib.sha256(whole.encode()).hexdigest(), **named}


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
        "empty_label": "drop" if config.data.empty_label == "unlabeled" else config.data.empty_label,
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


def baseline_run(config: Run, steps: int) -> Run:
    """The student without teachers: gold labels only, the same number of steps, everything else equal."""
    if isinstance(config, MultiRun):
        return config.without_teachers(steps)
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
    start = models_of(run).get("student.path", "")
    content = hashlib.sha256((run.fingerprint() + data.fingerprint() + start).encode()).hexdigest()[:12]
    place = Path(config.output).resolve()
    if config.smoke is not None:
        place /= smoke_name(config.smoke)
    output = place / "teachers" / f"{teacher.name}-{content}"
    return Job("teacher", f"teacher-{teacher.name}", run, data, output)


def teacher_jobs(config: Run) -> list[Job]:
    """Jobs of the teachers of all tasks that are trained first."""
    return [
        teacher_job(member, teacher)
        for member in config.members.values()
        for teacher in member.active_teachers
        if teacher.training is not None
    ]


def existing_teachers(config: RunConfig, next_step: str) -> dict[str, Path]:
    """Folders of the teachers that were trained before, by the names of their jobs.

    Args:
        next_step: for a teacher that is not there.
    Raises:
        ModelError: a teacher is not trained yet.
    """
    jobs = teacher_jobs(config)
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


def jobs_of(config: Run, run_dir: Path) -> tuple[list[Job], list[AnyJob]]:
    """Jobs in two stages: teachers to train; then baseline and student.

    Raises:
        DataError, ConfigError: what can be known of files, columns, labels and sizes.
    """
    teachers = teacher_jobs(config)
    data = {name: load_data(m.data, Path.cwd(), m.form) for name, m in config.members.items()}
    student = job_of("student", "student", config, data, run_dir / "student")
    students: list[AnyJob] = [student]
    if config.baseline:
        if config.plain:
            raise ConfigError(
                "baseline: true without distillation",
                got="objective.alpha 1",
                wanted="a run with teachers",
                next_step="leave baseline out: this run is the baseline",
            )
        plain = baseline_run(config, student.steps)
        students.insert(0, job_of("baseline", "baseline", plain, data, run_dir / "baseline"))
    for job in [*teachers, *students]:
        job.check_batch()
        for part in job.parts.values():
            for rows in (part.data.train, part.data.validation, part.data.test):
                if rows is not None:
                    check_source_languages(part.config, rows)
                    check_prompts(part.config, rows)
        if not job.done:
            check_long_rows([(part.config, part.data.train) for part in job.parts.values()])
    return teachers, students


def job_of(
    role: Literal["baseline", "student"],
    name: str,
    config: Run,
    data: Mapping[str, Dataset],
    output: Path,
) -> AnyJob:
    """The job of a run, whether it is of one task or of several.

    Args:
        data: by task, as `config.members`.
    """
    if isinstance(config, RunConfig):
        return Job(role, name, config, data[""], output)
    parts = {
        task: Job(role, f"{name} {task}", member, data[task], output / task)
        for task, member in config.members.items()
    }
    return MixedJob(role, name, config, parts, output)


def teacher_path(teacher: TeacherConfig, trained: dict[str, Path]) -> str:
    """Where a teacher's model lies: where it was trained to, or where the config says."""
    return str(trained[teacher.name]) if teacher.training is not None else str(teacher.path)
