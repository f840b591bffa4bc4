"""A kind of teacher in a file of its own: it has no weights, and gives every text the same probabilities.

Asked by hand, without Ray::

    teacher = ConstantTeacher(name="flat", probabilities={"negative": 0.3, "positive": 0.7})
    spec = make_teacher_spec(config, teacher, {})  # raykd.driver.pool; config: a RunConfig
    bodies = make_backend(spec).compute(batch)  # raykd.teachers.backends.backend; batch: a TextBatch
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from raykd.config import TeacherBase, register_teacher
from raykd.teachers.backends.backend import BACKENDS
from raykd.teachers.backends.base import BackendBase
from raykd.teachers.spec import TeacherInfo
from raykd.text.batch import TextBatch


@register_teacher
class ConstantTeacher(TeacherBase):
    """The same answer to every text."""

    kind: Literal["constant"] = "constant"
    probabilities: dict[str, Annotated[float, Field(gt=0.0)]]
    """The probability of each of its labels."""


class ConstantBackend(BackendBase[ConstantTeacher]):
    """Answers with the logarithms of the configured probabilities."""

    def describe(self) -> TeacherInfo:
        """Return what the teacher is."""
        content = json.dumps(self.teacher.probabilities).encode()
        return self.build_info(hashlib.sha256(content).hexdigest(), tuple(self.teacher.probabilities))

    def compute(self, batch: TextBatch) -> list[bytes]:
        """Answer each row."""
        logits_C = np.log(np.asarray(list(self.teacher.probabilities.values()), dtype=np.float32))
        units = int(self.spec.task.count_units(batch).sum())
        return self.finish(batch, self.encode_logits(batch, np.tile(logits_C, (units, 1))))


BACKENDS["constant"] = ConstantBackend
