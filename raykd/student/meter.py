"""`Meter`: sums what is measured over a window of steps; ranks are reduced when the window is logged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raykd.answers.source import AnswerSlots
from raykd.distill.shares import Counts, ObjectiveResult
from raykd.distill.signals import Signals
from raykd.tasks import EncodedBatch

LOGGED_WINDOWS = 200
"""Windows in which a run logs its training curves; a run of fewer steps logs each."""
_TEACHER_ROWS = ("latency_s", "answered", "forwarded", "asked_units", "covered_units", "lost")
"""Quantities that are summed per teacher."""


def reduce_sum(values: Sequence[float]) -> list[float]:
    """Sum values over all ranks; one rank gets its own back."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return list(values)
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor)
    return tensor.tolist()


@dataclass(frozen=True)
class StepNumbers:
    """What one micro-batch contributed, on the host. See `ObjectiveResult`, of which this is what was read back."""

    loss: float
    sums: dict[str, float]
    weights_M: tuple[float, ...]
    counts: Counts

    @property
    def finite(self) -> bool:
        """Whether loss and teacher weights are finite."""
        return all(math.isfinite(number) for number in (self.loss, *self.weights_M))


def list_numbers(results: Sequence[ObjectiveResult]) -> list[torch.Tensor]:
    """List what is read back from the device of the micro-batches of a step; `split_numbers` takes it apart."""
    return [
        each
        for result in results
        for each in (result.loss, *result.sums.values(), result.weights_M)
        if each is not None
    ]


def split_numbers(results: Sequence[ObjectiveResult], read: Sequence[float]) -> list[StepNumbers]:
    """Take apart the numbers that were read for `list_numbers`, micro-batch by micro-batch."""
    found, at = [], 0
    for result in results:
        end = at + 1 + len(result.sums)
        loss, *sums = read[at:end]
        at = end + (0 if result.weights_M is None else len(result.weights_M))
        found.append(
            StepNumbers(loss, dict(zip(result.sums, sums, strict=True)), tuple(read[end:at]), result.counts)
        )
    return found


class Meter:
    """Accumulates the parts of the objective and the teachers' answers over a window of steps.

    A teacher's coverage is the share it covers of the units that it was asked for and that the student sees.

    Args:
        kinds: Kinds of the objective's terms.
        teachers: Names, in the order of M.
        extra: Names of further sums, each this micro-batch's share of a mean over the step.
    """

    def __init__(self, kinds: Sequence[str], teachers: Sequence[str], extra: Sequence[str] = ()) -> None:
        self._kinds, self._teachers, self._extra = tuple(kinds), tuple(teachers), tuple(extra)
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts = Counts(0, 0, 0)
        self._weights_M = np.zeros(len(self._teachers))
        # One row per quantity, one column per teacher, see _TEACHER_ROWS.
        self._of_teachers = np.zeros((len(_TEACHER_ROWS), len(self._teachers)))
        self._batches = 0
        self._steps = 0
        self._waited_s = 0.0
        self._tokens = [0, 0]

    @property
    def steps(self) -> int:
        """Number of optimizer steps in the window."""
        return self._steps

    def add(self, read: StepNumbers, encoded: EncodedBatch) -> None:
        """Add one micro-batch.

        Args:
            read: What it contributed to the loss.
            encoded: The micro-batch.
        """
        for name, value in {**read.sums, "loss": read.loss}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._counts = self._counts + read.counts
        if read.weights_M:
            self._weights_M += read.weights_M
        self._tokens[0] += encoded.real_tokens
        self._tokens[1] += encoded.computed_tokens

    def add_signals(self, answers: Sequence[AnswerSlots], signals: Signals, encoded: EncodedBatch) -> None:
        """Add the answers to one micro-batch, as they came and as they lie over the student's units.

        Args:
            answers: One entry per teacher.
            signals: The same as tensors.
            encoded: The micro-batch on the host.
        """
        self._batches += 1
        covered_MN, seen_N = signals.on_host.covered_MN.numpy(), encoded.find_seen()
        for m, slots in enumerate(answers):
            answered_B = slots.answered_B
            asked_N = np.repeat(answered_B, encoded.counts_B)
            self._of_teachers[:, m] += (
                slots.latency_s,
                answered_B.sum(),
                slots.forwarded,
                (asked_N & seen_N).sum(),
                covered_MN[m].sum(),
                slots.lost,
            )

    def end_step(self, waited_s: float) -> None:
        """Close an optimizer step, before which the student waited so long for answers."""
        self._steps += 1
        self._waited_s += waited_s

    def flush(self) -> dict[str, float]:
        """Return the window's values over all ranks and begin a new one; all ranks must call."""
        soft_names = [f"soft/{kind}" for kind in self._kinds]
        names = ["loss", "hard", "temperature", *self._extra, *soft_names]
        local = [self._sums.get(name, 0.0) for name in names]
        local += [self._counts.hard, self._counts.soft, self._counts.uncovered, self._waited_s, *self._tokens]
        m = len(self._teachers)
        weights = self._weights_M.tolist()
        # One reduction for all of it: a rank of small models would spend its time in many small ones.
        total = reduce_sum([*local, self._batches, *weights, *self._of_teachers.ravel().tolist()])
        steps = max(1, self._steps)
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        self._reset()
        sums = dict(zip(names, total, strict=False))
        hard, soft, uncovered, waited_s, real, computed, batches, *rest = total[len(names) :]
        values = {"train/loss": sums["loss"] / steps}
        if hard:
            values["train/hard"] = sums["hard"] / hard
        values |= {f"train/{name}": sums[name] / steps for name in self._extra}
        if m and soft:
            values |= {f"train/{name}": sums[name] / soft for name in soft_names}
            values["train/uncovered"] = uncovered / soft
            if sums["temperature"]:
                values["train/temperature"] = sums["temperature"] / max(1.0, soft - uncovered)
        values["train/padding_efficiency"] = real / max(1.0, computed)
        if m:
            values["train/wait_s"] = waited_s / steps / ranks
            of_teachers = np.asarray(rest).reshape(-1, m).T.tolist()
            for name, (weight, *measured) in zip(self._teachers, of_teachers, strict=True):
                values[f"teacher/{name}/weight"] = weight / max(1.0, soft - uncovered)
                values |= {
                    f"teacher/{name}/{key}": value
                    for key, value in _average(
                        dict(zip(_TEACHER_ROWS, measured, strict=True)), batches
                    ).items()
                }
        return values


def _average(measured: Mapping[str, float], batches: float) -> dict[str, float]:
    """Average the sums of one teacher over the window; what has no denominator in it is left out."""
    values = {"latency_s": measured["latency_s"] / max(1.0, batches)}
    if measured["answered"]:
        values["store_hit_rate"] = 1.0 - measured["forwarded"] / measured["answered"]
    if measured["asked_units"]:
        values["coverage"] = measured["covered_units"] / measured["asked_units"]
    if measured["lost"]:  # share of the window's batches, over all ranks
        values["lost"] = measured["lost"] / max(1.0, batches)
    return values
