"""`Peer`: a second student that learns beside the first, each also from the other (deep mutual learning)."""

from __future__ import annotations

from pydantic import field_validator

from raykd.config.train import TrainConfig
from raykd.distill.adapting.learned import LearnedBase
from raykd.distill.objective import Objective
from raykd.distill.schedules import Constant, Schedule, check_range
from raykd.errors import ConfigError
from raykd.models import Student
from raykd.spec import Spec
from raykd.tasks import TaskBase


class Peer(Spec):
    """A second network that learns in the same steps (arXiv:1706.00384).

    Both have the whole objective, teachers included, and ``weight KL(p_other || p_own)`` at temperature 1 beside it,
    averaged over all units that they see. Nothing flows back into the other. They read the same tokens, in the same
    batches, and begin at other weights.
    """

    student: Student
    """The second network. It reads the student's tokens, so `vocab_size` and `lowercase` play no part."""
    weight: Schedule = Constant(value=1.0)
    """>= 0. Of what each learns from the other."""

    @field_validator("weight")
    @classmethod
    def _not_negative(cls, value: Schedule) -> Schedule:
        return check_range(value, "weight", low=0.0)


def check_peer(
    peer: Peer, student: Student, task: TaskBase, objective: Objective, train: TrainConfig
) -> None:
    """Refuse a peer that cannot learn beside a student.

    Raises:
        ConfigError: Says what to change.
    """
    second = peer.student
    same = second.kind == student.kind and second.tokenizer_key() == student.tokenizer_key()
    reads = second.kind in ("transformer", "lstm") and student.kind != "linear"
    refused = {
        f"two networks of {task.kind} have no choices to compare": task.language
        or task.has_scale
        or task.vectors,
        f"a model of kind {second.kind} cannot learn {task.kind}": task.head not in second.tasks,
        f"a {second.kind} network cannot read the tokens of this {student.kind} student": not (same or reads),
        "peer.student.embedding_from brings tokens of its own": getattr(second, "embedding_from", None)
        is not None,
        "peer.student.max_positions is below task.max_length": getattr(
            second, "max_positions", task.max_length
        )
        < task.max_length,
        "tuning trains a part of one checkpoint": any(
            getattr(one, "tuning", None) for one in (student, second)
        ),
        "objective.features compares states of one encoder": bool(objective.features),
        "objective.drop_surpassed judges teachers by one student": objective.drop_surpassed is not None,
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
                wanted="two transformers or LSTMs of any sizes, two linear students with the same n-grams, or no peer",
            )
