"""`PairTrainer`: a task that two networks learn in the same steps, each also from the other (arXiv:1706.00384).

Decision record: both are one module in one engine, so a step, a checkpoint and the schedule of the learning rate are
the loop's as ever; moments, rates and norms are each network's own. The published algorithm updates one network after
the other; here both see each other as they were before the step, which costs one forward pass each. What each says of a
unit is a constant to the other. The student alone decides which evaluation is the best, and its peer is kept as it was
then.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.source import AnswerSlots, SignalSource
from raykd.config import RunConfig
from raykd.distill.features.sums import FeatureBatch
from raykd.distill.shares import Counts, ObjectiveResult
from raykd.models.multi import PEER, PairModel
from raykd.models.starts.heads import set_start
from raykd.student.adversarial.passes import MicroBatch
from raykd.student.engine import Engine
from raykd.student.padding import find_student_padding
from raykd.student.prepare import PreparedRows
from raykd.student.task_trainer import TaskTrainer


class PairTrainer(TaskTrainer):
    """The trainer of a student and its peer; arguments as for `TaskTrainer`, with the pair as the student."""

    measured = ("peer/loss", "peer/kl")

    def __init__(
        self,
        name: str,
        config: RunConfig,
        prepared: PreparedRows,
        student: PairModel,
        source: SignalSource | None,
        device: torch.device,
        most_shapes: int,
    ) -> None:
        super().__init__(name, config, prepared, student.student, source, device, most_shapes)
        assert config.peer is not None
        self._peer = config.peer
        alone = config.model_copy(update={"student": config.peer.student, "peer": None})
        self.padding = self.padding.join(find_student_padding(alone, prepared.train, student.peer))
        start = self.task.find_start(self.rows, config.data.labels)
        if start is not None:
            set_start(student.peer.model, start)

    def make_micro_batch(
        self, rows: NDArray[np.int64], answers: list[AnswerSlots] | None, progress: float = 0.0
    ) -> MicroBatch:
        """See `TaskTrainer`; counts also the units that both see."""
        micro = super().make_micro_batch(rows, answers, progress)
        return replace(micro, counts=replace(micro.counts, seen=int(micro.encoded.find_seen().sum())))

    def forward(self, engine: Engine, micro: MicroBatch) -> tuple[Any, FeatureBatch | None]:
        """Return the outputs of both networks."""
        outputs, _ = super().forward(engine, micro)
        return (outputs, micro.encoded.run(partial(engine.forward, PEER))), None

    def evaluate(
        self,
        engine: Engine,
        outputs: Any,
        micro: MicroBatch,
        progress: float,
        totals: Counts,
        features: FeatureBatch | None = None,
    ) -> ObjectiveResult:
        """Return the loss of both; sums and weights are the student's, those of the teachers the taught one's."""
        untaught = replace(micro, signals=None)
        own, others = (
            super(PairTrainer, self).evaluate(
                engine, each, micro if self._peer.taught in ("both", name) else untaught, progress, totals
            )
            for name, each in zip(("student", PEER), outputs, strict=True)
        )
        temperature = self._peer.temperature.value_at(progress)
        logp, other_logp = (
            (self.task.gather_taught(each, micro.encoded)[0].float() / temperature).log_softmax(dim=-1)
            for each in outputs
        )
        seen_N = micro.encoded.seen_N

        def compare(logp_NC: torch.Tensor, target_logp_NC: torch.Tensor) -> torch.Tensor:
            lost_N = diverge(logp_NC, target_logp_NC.detach())
            lost_N = lost_N if seen_N is None else torch.where(seen_N, lost_N, 0.0)
            return temperature**2 / max(totals.seen, 1) * lost_N.sum()

        forth, back = compare(logp, other_logp), compare(other_logp, logp)
        weight, weight_back = self._peer.weights_at(progress)
        # What has no weight is not differentiated: a teacher that does not heed its student learns as if alone.
        loss = own.loss + weight * forth if weight else own.loss
        others_loss = others.loss + weight_back * back if weight_back else others.loss
        return replace(
            own,
            loss=loss + others_loss,
            sums=others.sums | own.sums | {"peer/loss": others_loss.detach(), "peer/kl": forth.detach()},
            weights_M=others.weights_M if own.weights_M is None else own.weights_M,
        )

    def scores(self, module: Any, begin: int, every: int, *, shared: bool) -> dict[str, float]:
        """See `TaskTrainer`; those of the peer are ``peer/eval/<language>/<metric>``."""
        others = super().scores(partial(module, PEER), begin, every, shared=shared)
        return super().scores(module, begin, every, shared=shared) | {
            f"{PEER}/{key}": value for key, value in others.items()
        }


def diverge(logp_NC: torch.Tensor, target_logp_NC: torch.Tensor) -> torch.Tensor:
    """Return ``KL(target || own)`` of each unit, nats."""
    return (target_logp_NC.exp() * (target_logp_NC - logp_NC)).sum(dim=-1)
