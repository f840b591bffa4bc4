"""Split a run into jobs: what must be trained first (teachers, pretraining), the undistilled baseline, the student.

Decision record: a teacher, the baseline and a distilled student are trained alike with other settings, so each is a
`Job` with a run of its own. One worker group runs several jobs one after the other, since starting a worker group costs
more than training a small model. A job is a set of tasks; the only task of a run has an empty name, and no code above
asks how many there are. Trained teachers are kept under a digest of their configuration and data, so that another
seed of the student never trains a teacher again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar, cast

from raykd.config import Run, RunConfig, TrainedTeacher, overlay
from raykd.config.kinds.pretraining import FOLDER, start_from_pretraining
from raykd.config.loading import validate_run
from raykd.config.rewriting.pretraining import STUDENT, build_teacher_data, make_pretraining_run
from raykd.config.smoke import name_smoke_copy
from raykd.data.load import ALL, Dataset, load_data
from raykd.data.rows import Rows
from raykd.data.selection.values import check_row_values
from raykd.distill.objective import Objective
from raykd.driver.gold_labels import check_gold_labels, name_metric, name_point
from raykd.driver.language_models import check_prompts, check_source_languages
from raykd.errors import ConfigError, DataError, ModelError, prefix_errors
from raykd.folders.contents import digest_models
from raykd.models import Student
from raykd.parse import JsonObject
from raykd.point import Point
from raykd.student.prepare import check_long_rows

Role = Literal["teacher", "pretraining", "baseline", "student"]
R = TypeVar("R", bound=Run)


@dataclass(frozen=True)
class TaskJob:
    """One task of a job, as if it were a job of its own.

    Attributes:
        role: The job's role.
        name: Name for people: the job's, and the task's in a job of several tasks.
        config: The run of this task alone.
        data: Its rows.
        output: Folder of its saved model.
    """

    role: Role
    name: str
    config: RunConfig
    data: Dataset
    output: Path

    @property
    def rows(self) -> int:
        """Training rows that are used: where nobody says anything of the others only the labelled ones."""
        labelled = self.data.train.labelled
        return len(labelled) if self.config.reads_unlabelled else int(labelled.sum())

    @property
    def held_out(self) -> Rows:
        """The rows that the final table is measured on: the test rows, or without a test set the validation rows."""
        return self.data.validation if self.data.test is None else self.data.test

    @property
    def batches(self) -> int:
        """Whole batches per epoch."""
        return max(1, self.rows // self.config.train.batch_size)

    def check_batch(self) -> None:
        """Check the batch size here, before a worker finds it too large.

        Raises:
            DataError: A batch is larger than the training data.
        """
        if self.rows < self.config.train.batch_size:
            raise DataError(
                f"{self.name}: a batch is larger than the training data",
                got=f"train.batch_size {self.config.train.batch_size}, {self.rows} rows",
                wanted=f"train.batch_size of {self.rows} at most",
                next_step="lower train.batch_size (of a teacher: training.train.batch_size), or add rows",
            )


@dataclass(frozen=True)
class Job:
    """One model to train, for one task or for several.

    Attributes:
        role: What is trained.
        name: Name for people and folders.
        config: The run that trains it.
        data: Rows by task, as in `config.members`.
        output: Folder of the saved model. Each of several tasks has a folder in it.
    """

    role: Role
    name: str
    config: Run
    data: Mapping[str, Dataset]
    output: Path

    @cached_property
    def tasks(self) -> dict[str, TaskJob]:
        """The tasks by name; the only task has an empty name."""
        return {
            task: TaskJob(
                self.role, f"{self.name} {task}".rstrip(), member, self.data[task], self.output / task
            )
            for task, member in self.config.members.items()
        }

    @property
    def is_done(self) -> bool:
        """Whether the model exists already. Models are written whole or not at all."""
        return (self.output / "config.json").exists()

    @property
    def steps(self) -> int:
        """Optimizer steps. An epoch has all whole batches of all tasks."""
        return self.config.train.total_steps(sum(task.batches for task in self.tasks.values()))

    @property
    def metric(self) -> str:
        """The validation metric that chooses the best checkpoint, as curves and messages name it."""
        return name_metric(self.config.metric, self.data)

    def name_point(self, point: Point) -> Point:
        """Return a point of its worker under the names of curves, MLflow and pages (`gold_labels.name_point`)."""
        return name_point(point, self.data)

    def check_batch(self) -> None:
        """Check the batch size of each task (`TaskJob.check_batch`)."""
        for task in self.tasks.values():
            task.check_batch()

    def check_gold_labels(self) -> None:
        """Check that each task has the gold labels that it needs (`raykd.driver.gold_labels`)."""
        for task in self.tasks.values():
            check_gold_labels(task.config, task.data)

    def fingerprints(self) -> dict[str, str]:
        """Return the sha256 (hex) of each part of the rows by its key, and of all rows under `ALL`."""
        prints = {task: data.fingerprints() for task, data in self.data.items()}
        if list(prints) == [""]:
            return prints[""]
        whole = repr([(task, each[ALL]) for task, each in prints.items()])
        named = {
            f"task.tasks.{task}.{key}": value
            for task, each in prints.items()
            for key, value in each.items()
            if key != ALL
        }
        return {ALL: hashlib.sha256(whole.encode()).hexdigest(), **named}


def load_rows(config: Run) -> dict[str, Dataset]:
    """Read the rows of every task of a run.

    Raises:
        DataError: Files, columns or labels are wrong.
    """
    return {task: load_data(member.data, Path.cwd(), member.form) for task, member in config.members.items()}


def make_teacher_run(config: RunConfig, teacher: TrainedTeacher) -> RunConfig:
    """Return the run that trains a teacher on all labelled rows of its languages: supervised, or by its teachers."""
    training = teacher.training
    taught = bool(training.teachers)
    data = build_teacher_data(config, teacher)
    model: Student = training.model
    if training.pretraining is not None:
        folder = make_pretraining_job(config, teacher).output  # its name says what it will hold
        model = start_from_pretraining(model, folder)
    return validate_run(
        {
            "name": f"teacher-{teacher.name}",
            "seed": training.seed,
            "output": config.output,
            "task": config.task.model_dump(mode="json"),
            "data": data,
            "student": model.model_dump(mode="json"),
            "objective": overlay(config.objective.model_dump(mode="json"), training.objective)
            if taught
            else Objective(label_smoothing=training.label_smoothing).gold_alone().model_dump(mode="json"),
            "teachers": [_build_teacher_of(config, name) for name in training.teachers],
            **({"serving": config.serving.model_dump(mode="json")} if taught else {}),
            "train": training.train.model_dump(mode="json"),
            "workers": training.workers.model_dump(mode="json"),
            "ray": config.ray.model_dump(mode="json"),
            "tracking": config.tracking.model_dump(mode="json"),
        },
        f"the training of teacher {teacher.name}",
    )


def _build_teacher_of(config: RunConfig, name: str) -> JsonObject:
    """Return a teacher of an assistant; one that is trained first as the model that it will be."""
    teacher = next(t for t in config.teachers if t.name == name)
    if not isinstance(teacher, TrainedTeacher):
        return teacher.model_dump(mode="json")
    folder = make_teacher_job(config, teacher).output  # its name says what it will hold
    return teacher.build_served(str(folder)).model_dump(mode="json")


def make_teacher_job(config: RunConfig, teacher: TrainedTeacher) -> Job:
    """Return the job that trains a teacher. Its folder carries a digest of configuration and data."""
    run = make_teacher_run(config, teacher)
    data = load_data(run.data, Path.cwd(), run.form)
    # What was pretrained is named by its content, and may not be there yet.
    start = "" if teacher.training.pretraining else digest_models(run).get("student.path", "")
    content = hashlib.sha256((run.fingerprint() + data.fingerprint() + start).encode()).hexdigest()[:12]
    output = _find_teachers_folder(config) / f"{teacher.name}-{content}"
    return Job("teacher", f"teacher-{teacher.name}", run, {"": data}, output)


def _find_teachers_folder(config: RunConfig) -> Path:
    place = Path(config.output).resolve()
    return (place if config.smoke is None else place / name_smoke_copy(config.smoke)) / "teachers"


def make_pretraining_job(config: RunConfig, teacher: TrainedTeacher | None = None) -> Job:
    """Return the job that pretrains a teacher, or the student (None). All that want the same share its folder."""
    run = make_pretraining_run(config, teacher)
    data = load_data(run.data, Path.cwd(), run.form, keep_overlap=False)
    start = "".join(digest_models(run).values())
    content = hashlib.sha256((run.fingerprint() + data.fingerprint() + start).encode()).hexdigest()[:12]
    output = _find_teachers_folder(config) / f"{FOLDER}{content}"
    return Job("pretraining" if teacher is None else "teacher", run.name, run, {"": data}, output)


def make_student_stages(config: Run) -> list[Job]:
    """Return the job that pretrains the student, behind those of its teachers that are trained first; [] without."""
    if not isinstance(config, RunConfig) or config.pretraining is None:
        return []
    job = make_pretraining_job(config)
    if job.is_done:
        return [job]
    run = job.tasks[""].config
    teachers = make_teacher_jobs(run)
    folders = {one.name: str(one.output) for one in teachers}
    served = [one.build_served(folders.get(f"teacher-{one.name}", "")) for one in run.teachers]
    return [*teachers, replace(job, config=run.model_copy(update={"teachers": tuple(served)}))]


def make_teacher_jobs(config: Run) -> list[Job]:
    """Return the jobs of all teachers that are trained first, over all tasks; those that pretrain some before them.

    A teacher that exists needs no pretraining, and teachers with the same one share it.
    """
    jobs = [
        (member, teacher, make_teacher_job(member, teacher))
        for member in config.members.values()
        for teacher in member.trained_teachers
    ]
    stages: dict[Path, Job] = {}
    for member, teacher, job in jobs:
        if teacher.training.pretraining is not None and not job.is_done:
            stage = make_pretraining_job(member, teacher)
            stages.setdefault(stage.output, stage)
    return [*stages.values(), *(job for *_, job in jobs)]


def make_first_jobs(config: Run) -> list[Job]:
    """Return the jobs that come before baseline and student: the student's pretraining, and `make_teacher_jobs`."""
    stages, teachers = make_student_stages(config), make_teacher_jobs(config)
    there = {job.output for job in stages}
    return [*stages, *(job for job in teachers if job.output not in there)]


def find_student_stage(jobs: Sequence[Job]) -> Job | None:
    """Return the job that pretrains the student of a run; None where none does."""
    return next((job for job in jobs if job.name == STUDENT), None)


def start_from_jobs(config: R, jobs: Sequence[Job]) -> R:
    """Return a run whose student and peer start from the folders of teachers or pretraining, which come first."""
    if config.pretraining is not None and (stage := find_student_stage(jobs)) is not None:
        config = start_student(config, stage.output)
    folders = {job.name: str(job.output) for job in jobs}

    def start(student: Student) -> Student:
        if student.kind != "pretrained" or student.teacher is None:
            return student
        return student.model_copy(update={"path": folders[f"teacher-{student.teacher}"]})

    changed: dict[str, object] = {"student": start(config.student)}
    peer = next(iter(config.members.values())).peer
    if peer is not None:
        changed["peer"] = peer.model_copy(update={"student": start(peer.student)})
    return cast(R, config.model_copy(update=changed))


def start_student(config: R, folder: Path) -> R:
    """Return a run whose student starts from the folder of its pretraining."""
    started = {"student": start_from_pretraining(config.student, folder), "pretraining": None}
    return cast(R, config.model_copy(update=started))


def find_trained_teachers(config: Run, next_step: str) -> dict[str, Path]:
    """Return the folders of the teachers that were trained before, by the names of their jobs.

    Args:
        config: The run.
        next_step: What the error suggests for a teacher that does not exist.

    Raises:
        ModelError: A teacher is not trained yet.
    """
    jobs = make_teacher_jobs(config)
    check_trained(jobs, next_step)
    return {job.name: job.output for job in jobs}


def check_trained(jobs: Sequence[Job], next_step: str) -> None:
    """Check that these teachers exist.

    Raises:
        ModelError: One of them is not trained yet.
    """
    missing = [job for job in jobs if not job.is_done]
    if missing:
        raise ModelError(
            f"not trained yet: {', '.join(job.name for job in missing)}",
            got=f"no model in {missing[0].output}",
            wanted="teachers that exist",
            next_step=next_step,
        )


def make_jobs(config: Run, run_dir: Path) -> tuple[list[Job], list[Job]]:
    """Return the jobs of a run in two stages: teachers to train and pretraining; then baseline and student.

    Raises:
        DataError, ConfigError: Files, columns, labels or sizes are wrong.
    """
    teachers, data = make_first_jobs(config), load_rows(config)
    config = start_from_jobs(config, teachers)
    students = [Job("student", "student", config, data, run_dir / "student")]
    for job in [*teachers, *students]:
        job.check_gold_labels()
        all_labelled = all(bool(data.train.labelled.all()) for data in job.data.values())
        for task in job.tasks.values():
            with prefix_errors(task.name, ConfigError):
                check_row_values(task.config, task.data, all_labelled=all_labelled)
    if config.baseline:
        if all(run.plain and run.peer is None for run in config.members.values()):
            raise ConfigError(
                "baseline: true without distillation",
                got="objective.alpha 1",
                wanted="a run with teachers or a peer",
                next_step="leave baseline out: this run is the baseline",
            )
        plain = config.without_teachers(students[0].steps)
        students.insert(0, Job("baseline", "baseline", plain, data, run_dir / "baseline"))
    for job in [*teachers, *students]:
        job.check_batch()
        for task in job.tasks.values():
            for rows in (task.data.train, task.data.validation, task.data.test):
                if rows is not None:
                    check_source_languages(task.config, rows)
                    check_prompts(task.config, rows)
        if not job.is_done:
            check_long_rows([(task.config, task.data.train) for task in job.tasks.values()])
    return teachers, students


def name_peer_folder(output: Path) -> Path:
    """Return the folder of a student's peer."""
    return output.with_name(f"{output.name}_peer")
