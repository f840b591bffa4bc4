"""`PairTrainer`: a task that two networks learn in the same steps, each also from the other (arXiv:1706.00384).

Decision record: both are one module in one engine, so a step, a checkpoint and the learning rate are the loop's as
ever. The published algorithm updates one network after the other; here both see each other as they were before the
step, which costs one forward pass each. What each says of a unit is compared at temperature 1, and is a constant to the
other. The student alone decides which evaluation is the best; its peer is kept as it was then.
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
from raykd.student.prepare import PreparedRows
from raykd.student.task_trainer import TaskTrainer


class PairTrainer(TaskTrainer):
    """The trainer of a student and its peer; arguments as for `TaskTrainer`, with the pair as the student."""

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
        self._weight = config.peer.weight
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
        """Return the loss of both; sums and weights are the student's."""
        own, others = (
            super(PairTrainer, self).evaluate(engine, each, micro, progress, totals) for each in outputs
        )
        logp, other_logp = (
            self.task.gather_taught(each, micro.encoded)[0].float().log_softmax(dim=-1) for each in outputs
        )
        mutual_N = diverge(logp, other_logp.detach()) + diverge(other_logp, logp.detach())
        if micro.encoded.seen_N is not None:
            mutual_N = torch.where(micro.encoded.seen_N, mutual_N, 0.0)
        mutual = self._weight.value_at(progress) / max(totals.seen, 1) * mutual_N.sum()
        return replace(own, loss=own.loss + others.loss + mutual)

    def scores(self, module: Any, begin: int, every: int, *, shared: bool) -> dict[str, float]:
        """See `TaskTrainer`; those of the peer are ``peer/eval/<language>/<metric>``."""
        others = super().scores(partial(module, PEER), begin, every, shared=shared)
        return super().scores(module, begin, every, shared=shared) | {
            f"{PEER}/{key}": value for key, value in others.items()
        }


def diverge(logp_NC: torch.Tensor, target_logp_NC: torch.Tensor) -> torch.Tensor:
    """Return ``KL(target || own)`` of each unit, nats."""
    return (target_logp_NC.exp() * (target_logp_NC - logp_NC)).sum(dim=-1)
