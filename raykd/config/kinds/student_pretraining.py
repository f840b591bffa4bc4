"""Pretraining of the run's student, by gold tokens alone or also taught by language models (general distillation).

Decision record: the keys are those of a teacher's pretraining, and so are folder and stages. It has a seed of its own,
so that seeds of a comparison, and arms with and without teachers, start from the same pretrained weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pydantic import Field

from raykd.config.kinds.pretraining import Pretraining, check_pretraining
from raykd.config.teachers import TeacherConfig
from raykd.distill.objective import Objective
from raykd.parse import JsonObject
from raykd.tasks.registry import holds_task

if TYPE_CHECKING:
    from raykd.config.run import RunConfig


@holds_task
class StudentPretraining(Pretraining):
    """A language model of the domain, which student and undistilled student start from (arXiv:2004.10964)."""

    seed: int = Field(0, ge=0)
    """Seed of the pretrained weights, of dropout and of the order of texts, whatever the run's `seed`."""
    teachers: tuple[TeacherConfig, ...] = ()
    """Language models with the student's tokenizer that teach it here, as in general distillation (DistilBERT,
    arXiv:1910.01108; TinyBERT, arXiv:1909.10351). Hidden tokens are then all shown as the mask token. () learns from
    the texts alone."""
    distillation: Objective = Objective()
    """The loss where there are `teachers`, as `objective` of a run; its gold labels are the hidden or next tokens."""

    def build_task(self) -> JsonObject:
        """Return the task of this stage, as a run file has it."""
        task = super().build_task()
        if self.teachers:  # they are asked about what they cannot see
            task.pop("replacement", None)
        return task


def check_student_pretraining(run: RunConfig) -> None:
    """Check that a run's student can be pretrained, as far as that is known from the run file.

    Raises:
        ValueError: Names the key.
    """
    stage, student = cast(StudentPretraining, run.pretraining), run.student
    names = [teacher.name for teacher in run.teachers]
    refused = {
        "from_run goes on with a student that knows its task; leave one of them out": run.from_run
        is not None,
        "peer begins at other weights than the student; leave one of them out": run.peer is not None,
        f"student.path {getattr(student, 'path', '')} is a teacher, which knows its task; leave one of them out": bool(
            getattr(student, "teacher", None)
        ),
        "pretraining.distillation plays no part without pretraining.teachers": not stage.teachers
        and stage.distillation != Objective(),
    }
    for reason, holds in refused.items():
        if holds:
            raise ValueError(f"pretraining: {reason}")
    if twice := [teacher.name for teacher in stage.teachers if teacher.name in names]:
        raise ValueError(
            f"pretraining.teachers: {twice[0]} is a teacher of the run, too; give it another name"
        )
    check_pretraining("pretraining", stage, student, run.task, run.data)
