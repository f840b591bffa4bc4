"""`Peer`: a second network that learns beside the student: one like it (mutual learning), or a larger teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from raykd.config.objective import check_crf
from raykd.config.train import TrainConfig
from raykd.distill.adapting.learned import LearnedBase
from raykd.distill.objective import Objective
from raykd.distill.schedules import Constant, Schedule, check_range
from raykd.errors import ConfigError
from raykd.models import Student
from raykd.models.starts.peer_tokens import has_equal_keys
from raykd.spec import Spec
from raykd.tasks import TaskBase


class Peer(Spec):
    """A second network that learns in the same steps (arXiv:1706.00384).

    The student has the whole objective and ``weight T^2 KL(p_peer || p_student)`` beside it, averaged over all units
    that both see; the peer has the objective and ``weight_back T^2 KL(p_student || p_peer)``. Nothing flows back into
    the other. They read the same tokens, in the same batches, and begin at other weights.
    """

    student: Student
    """The second network. It reads the student's tokens: what would learn its own (transformer, lstm) takes them, and a
    checkpoint has the same tokenizer, or is trimmed from the same one alike."""
    weight: Schedule = Constant(value=1.0)
    """>= 0. Of what the student learns from its peer."""
    weight_back: Schedule | None = None
    """>= 0. Of what the peer learns from the student; null takes `weight`. 0 makes it a teacher that learns beside its
    student and does not heed it, so that the student follows it along all its way."""
    temperature: Schedule = Constant(value=1.0)
    """> 0. Softens both where one learns from the other."""
    learning_rate_factor: float = Field(1.0, gt=0.0)
    """The peer's learning rate as a multiple of the student's, whatever schedule or phase sets that."""
    taught: Literal["both", "student", "peer"] = "both"
    """Whom the run's teachers teach. The other has the gold labels with weight 1, and what it learns of the first."""
    unlabelled: bool = False
    """Whether a run without teachers reads texts without gold label, too, of which each learns what the other says.
    With teachers all are read."""

    @field_validator("weight", "weight_back")
    @classmethod
    def _not_negative(cls, value: Schedule | None) -> Schedule | None:
        return None if value is None else check_range(value, "weight", low=0.0)

    @field_validator("temperature")
    @classmethod
    def _positive(cls, value: Schedule) -> Schedule:
        if value.bounds()[0] <= 0.0:
            raise ValueError(f"temperature must stay above 0, the schedule goes down to {value.bounds()[0]}")
        return value

    def start_from(self, teachers: Sequence[Any]) -> Peer:
        """Return the peer with the checkpoint of the teacher that it starts from, if it names one of these."""
        if self.student.kind != "pretrained":
            return self
        return self.model_copy(update={"student": self.student.start_from(teachers)})

    def weights_at(self, progress: float) -> tuple[float, float]:
        """Return the weights of what the student learns from its peer, and the peer from the student."""
        weight = self.weight.value_at(progress)
        return weight, weight if self.weight_back is None else self.weight_back.value_at(progress)


def check_peer(
    peer: Peer | None, student: Student, task: TaskBase, objective: Objective, train: TrainConfig
) -> None:
    """Refuse a peer that cannot learn beside a student.

    Raises:
        ConfigError: Says what to change.
    """
    if peer is None:
        return
    second = peer.student
    check_crf(second, task, objective)
    own = all(one.kind == "pretrained" and one.vocabulary == "own" for one in (student, second))
    same = own or has_equal_keys(student, second)  # contents of files are compared when they are loaded
    brings = getattr(second, "embedding_from", None) is not None
    reads = second.kind in ("transformer", "lstm") and student.kind != "linear" and not brings
    refused = {
        f"two networks of {task.kind} have no choices to compare": task.language
        or task.has_scale
        or task.vectors,
        f"a model of kind {second.kind} cannot learn {task.kind}": task.head not in second.tasks,
        f"a {second.kind} network cannot read the tokens of this {student.kind} student": not (same or reads),
        "peer.student.max_positions is below task.max_length": getattr(
            second, "max_positions", task.max_length
        )
        < task.max_length,
        "tuning trains a part of one checkpoint": any(
            getattr(one, "tuning", None) for one in (student, second)
        ),
        "objective.features compares states of one encoder": bool(objective.features),
        "objective.drop_surpassed judges teachers by one student": objective.drop_surpassed is not None,
        f"taught: {peer.taught} says whom the teachers teach, and under objective.alpha 1 they teach nobody": (
            peer.taught != "both" and objective.plain
        ),
        "temperature and factors are learnt from one student": any(
            isinstance(one, LearnedBase)
            for one in (objective.temperature, *(term.lambda_schedule for term in objective.terms))
        ),
        "train.adversarial moves the tokens of one network": train.adversarial is not None,
        "train.alignment aligns the states of one network": train.alignment is not None,
    }
    for why, is_so in refused.items():
        if is_so:
            raise ConfigError(
                f"peer: {why}",
                got=f"student {student.kind}, peer {second.kind}",
                wanted="a transformer or LSTM of any size beside any student but a linear one, a checkpoint with the "
                "student's tokenizer, a linear model with the student's n-grams, or no peer",
            )
