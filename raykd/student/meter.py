"""What is measured while training: sums over a window of steps, reduced over ranks when the window is logged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from raykd.answers.source import AnswerSlots
from raykd.distill.objective import Counts, ObjectiveResult
from raykd.distill.signals import Signals
from raykd.tasks import EncodedBatch


def reduce_sum(values: Sequence[float]) -> list[float]:
    """The sums over all ranks; the values themselves where there is one rank."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return list(values)
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor)
    return tensor.tolist()


class Meter:
    """Accumulates the parts of the objective and the teachers' answers over a window of steps.

    A teacher's coverage is its share of the units that it was asked for and that the student sees.

    Args:
        kinds: kinds of the objective's terms. teachers: names, the order of M.
    """

    def __init__(self, kinds: Sequence[str], teachers: Sequence[str]) -> None:
        self._kinds, self._teachers = tuple(kinds), tuple(teachers)
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts = Counts(0, 0, 0)
        self._weights_M: torch.Tensor | None = None
        self._latency = [0.0] * len(self._teachers)
        self._answered = [0] * len(self._teachers)
        self._forwarded = [0] * len(self._teachers)
        self._asked_units = [0] * len(self._teachers)
        self._covered_units = [0] * len(self._teachers)
        self._lost = [0] * len(self._teachers)
        self._batches = 0
        self._steps = 0
        self._waited = 0.0
        self._tokens = [0, 0]

    @property
    def steps(self) -> int:
        """Optimizer steps in the window."""
        return self._steps

    def add(self, result: ObjectiveResult, real_tokens: int, computed_tokens: int) -> None:
        """One micro-batch."""
        for name, value in {**result.sums, "loss": result.loss.detach()}.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts = self._counts + result.counts
        if result.weights_M is not None:
            self._weights_M = (
                result.weights_M if self._weights_M is None else self._weights_M + result.weights_M
            )
        self._tokens[0] += real_tokens
        self._tokens[1] += computed_tokens

    def add_signals(self, answers: Sequence[AnswerSlots], signals: Signals, encoded: EncodedBatch) -> None:
        """The answers to one micro-batch, as they came and as they lie over the student's units."""
        self._batches += 1
        seen_N = True if encoded.seen_N is None else encoded.seen_N.cpu().numpy()
        for m, slots in enumerate(answers):
            answered_B = slots.answered_B
            asked_N = np.repeat(answered_B, encoded.counts_B)
            self._asked_units[m] += int((asked_N & seen_N).sum())
            self._covered_units[m] += int(signals.covered_MN[m].sum())
            self._latency[m] += slots.latency_s
            self._answered[m] += int(answered_B.sum())
            self._forwarded[m] += slots.forwarded
            self._lost[m] += int(slots.lost)

    def end_step(self, waited_s: float) -> None:
        """Closes an optimizer step."""
        self._steps += 1
        self._waited += waited_s

    def flush(self) -> dict[str, float]:
        """The window's values over all ranks; all ranks must call. Empties the window."""
        names = ["loss", "hard", *(f"soft/{kind}" for kind in self._kinds)]
        weights = (
            [0.0] * len(self._teachers) if self._weights_M is None else self._weights_M.double().tolist()
        )
        local = [float(self._sums[n]) if n in self._sums else 0.0 for n in names]
        local += [self._counts.hard, self._counts.soft, self._counts.uncovered, self._waited, *self._tokens]
        local += [*weights, *self._latency, *self._answered, *self._forwarded]
        local += [*self._asked_units, *self._covered_units, *self._lost, self._batches]
        total = reduce_sum(local)
        steps, m = max(1, self._steps), len(self._teachers)
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        self._reset()
        head, rest = total[: len(names)], total[len(names) :]
        hard, soft, uncovered, waited, real, computed, *rest = rest
        values = {"train/loss": head[0] / steps}
        if hard:
            values["train/hard"] = head[1] / hard
        if m and soft:
            values |= {f"train/{n}": v / soft for n, v in zip(names[2:], head[2:], strict=True)}
            values["train/uncovered"] = uncovered / soft
        values["train/padding_efficiency"] = real / max(1.0, computed)
        if m:
            values["train/wait_s"] = waited / steps / ranks
            values |= self._teacher_values(rest, max(1.0, soft - uncovered))
        return values

    def _teacher_values(self, rest: Sequence[float], covered: float) -> dict[str, float]:
        m = len(self._teachers)
        batches = max(1.0, rest[7 * m])
        values = {}
        for at, name in enumerate(self._teachers):
            answered, forwarded = rest[2 * m + at], rest[3 * m + at]
            values[f"teacher/{name}/weight"] = rest[at] / covered
            values[f"teacher/{name}/latency_s"] = rest[m + at] / batches
            if answered:
                values[f"teacher/{name}/store_hit_rate"] = 1.0 - forwarded / answered
            if asked := rest[4 * m + at]:
                values[f"teacher/{name}/coverage"] = rest[5 * m + at] / asked
            if lost := rest[6 * m + at]:  # share of the window's batches, over all ranks
                values[f"teacher/{name}/lost"] = lost / batches
        return values
