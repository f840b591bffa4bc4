"""Choose the task of each optimizer step, and its batch, as a function of (seed, step) alone.

Decision record: every step has one task (as in MT-DNN, arXiv:1901.11504), so a batch has one head, one set of
teachers and one objective. An epoch has as many steps as the tasks have whole batches together; a task has its share
of them, in proportion to rows ** power (1 by size, 0 all equal), as whole numbers, and only their order is drawn. So
shares are exact in every epoch instead of on average, and a resumed run or one on other workers sees the same tasks.
Which batch of its task a step sees is the number of that task's steps before it: each task goes through its own rows
as it would alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from raykd.data.stream import SEED_MASK, BatchStream, round_to_total
from raykd.errors import DataError

_ORDER = 2 << 32
"""Where the seeds of this order begin, out of the way of those of a task's rows."""


class TaskOrder:
    """The steps of several tasks in one order.

    Args:
        streams: The batches of each task.
        rows: The rows of each task.
        power: Tasks are drawn in proportion to rows ** power.
        seed: Seed of the order.

    Raises:
        DataError: An epoch would have no step of a task.
    """

    def __init__(
        self, streams: Mapping[str, BatchStream], rows: Mapping[str, int], *, power: float, seed: int
    ) -> None:
        self.names = tuple(streams)
        self.steps_per_epoch = sum(stream.steps_per_epoch for stream in streams.values())
        self._seed = seed & SEED_MASK
        self.quotas = compute_quotas([rows[name] for name in self.names], power, self.steps_per_epoch)
        """Steps of each task in an epoch."""
        if not self.quotas.all():
            missed = self.names[int(np.argmin(self.quotas))]
            raise DataError(
                f"task {missed} would never be trained: it has too small a share of the steps",
                got=f"rows {dict(rows)}, power {power:g}, {self.steps_per_epoch} steps an epoch",
                wanted="one step of each task an epoch at least",
                next_step="lower task.power (0 draws all tasks equally often) or train.batch_size, or add rows",
            )
        self._plan: tuple[int, NDArray[np.int64]] | None = None

    def at(self, step: int) -> tuple[str, int]:
        """Return the task of a step (0-based over the whole run), and how many steps of that task came before it.

        Raises:
            ValueError: The step is negative.
        """
        if step < 0:
            raise ValueError(f"step {step}")
        epoch, inside = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        task = int(order[inside])
        before = int((order[:inside] == task).sum())
        return self.names[task], epoch * int(self.quotas[task]) + before

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the tasks of an epoch's steps, as indices."""
        if self._plan is None or self._plan[0] != epoch:
            generator = np.random.default_rng(np.random.SeedSequence([self._seed, _ORDER, epoch]))
            self._plan = (epoch, generator.permutation(np.repeat(np.arange(len(self.names)), self.quotas)))
        return self._plan[1]


def compute_quotas(rows: Sequence[int], power: float, steps: int) -> NDArray[np.int64]:
    """Return the steps of each task out of ``steps``, in proportion to rows ** power."""
    sizes = np.asarray(rows, dtype=np.float64)
    share = (sizes / sizes.max()) ** power
    return round_to_total(share / share.sum() * steps, steps)
