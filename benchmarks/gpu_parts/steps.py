"""Run a training loop's own steps a block at a time, and the steps of plain torch that it is compared with.

Decision record: a block goes through `TrainingLoop.advance`, as a run does, so whatever a run does between two steps
(asking teachers ahead, preparing batches) is in it. The block is ended by an exception that leaves after its last
step, because the loop itself only stops at evaluations. Loops have a million steps, so that curves, which a run logs
once in 200th of its length, are not in a block of a few.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.gpu_parts.worlds import TEMPERATURES, World
from raykd.answers.source import AnswerSlots, PendingBatch, SignalSource
from raykd.answers.vocabularies import TeacherVocabulary
from raykd.student.loop import TrainingLoop
from raykd.student.prefetch import StepWork
from raykd.teachers.source import ReadyBatch
from raykd.text.batch import TextBatch

TEMPERATURE = TEMPERATURES[-1]
ALPHA = 0.5
LEARNING_RATE, WEIGHT_DECAY, CLIPPING = 1e-3, 0.01, 1.0


def wait_for(device: torch.device) -> None:
    """Wait for all work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _BlockEndError(Exception):
    """Leaves `TrainingLoop.advance` after the last step of a block. Not an error."""


class Stepper:
    """Runs the steps of a loop in blocks, and calls back at each step's end.

    Attributes:
        loop: The loop.
        waited_s: How long the student waited for answers in the timed steps of the last block.
    """

    def __init__(self, loop: TrainingLoop) -> None:
        self.loop, self._step = loop, loop.step
        self._left = 0
        self.waited_s = 0.0
        self._after: Callable[[int], None] = lambda done: None
        loop.step = self._watched  # type: ignore[method-assign]

    def _watched(self, work: StepWork) -> None:
        self._step(work)
        self.waited_s += work.waited_s
        self._left -= 1
        self._after(self._left)
        if not self._left:
            raise _BlockEndError

    def run(self, steps: int, after: Callable[[int], None] = lambda left: None) -> None:
        """Run so many steps.

        Args:
            steps: How many.
            after: Called at the end of each with the number of steps that are left.
        """
        self._left, self._after = steps, after
        try:
            self.loop.advance()
        except _BlockEndError:
            return
        raise RuntimeError("the loop ended before the block did")

    def time_block(self, steps: int, skipped: int = 2) -> float:
        """Return seconds a step of a block, without its first steps, device included."""
        times: list[float] = []

        def note(left: int) -> None:
            if left in (steps, 0):
                wait_for(self.loop.device)
                times.append(time.perf_counter())
            if left == steps:
                self.waited_s = 0.0

        self.run(steps + skipped, note)
        return (times[1] - times[0]) / steps

    def close(self) -> None:
        """Free the engine."""
        self.loop.engine.close()


class StoredSource:
    """Answers each row from what another source said of it: what a store does, without its look-up."""

    def __init__(self, inner: SignalSource) -> None:
        self._inner = inner
        self._kept: dict[str, list[tuple[bytes | None, ...]]] = {}

    @property
    def teachers(self) -> tuple[str, ...]:
        """As of the other source."""
        return self._inner.teachers

    @property
    def teacher_languages(self) -> tuple[frozenset[str] | None, ...]:
        """As of the other source."""
        return self._inner.teacher_languages

    def vocabularies(self) -> list[TeacherVocabulary]:
        """As of the other source."""
        return self._inner.vocabularies()

    def fill(self, rows: TextBatch, at_once: int = 16) -> None:
        """Ask the other source about these rows."""
        for begin in range(0, len(rows), at_once):
            part = rows.take(range(begin, min(begin + at_once, len(rows))))
            answers = self._inner.submit(part).result()
            for i, name in enumerate(part.ids):
                self._kept[name] = [tuple([slots.bodies[i]]) for slots in answers]

    def submit(self, batch: TextBatch) -> PendingBatch:
        """Return what was kept."""
        slots = []
        for m, name in enumerate(self.teachers):
            slots.append(AnswerSlots(name, [self._kept[row][m][0] for row in batch.ids]))
        return cast("PendingBatch", ReadyBatch(slots))


def build_stepper(world: World, source: SignalSource | None, device: torch.device) -> Stepper:
    """Return the world's training loop, ready to step."""
    loop = TrainingLoop(world.config, world.prepared, world.build_student(), source, device=str(device))
    return Stepper(loop)


@dataclass
class Plain:
    """What a careful user writes in torch: autocast to bfloat16, fused AdamW, clipping without a look at the norm.

    Attributes:
        model: The student, float32.
        batches: Inputs on the device, by name, with labels for a classifier.
        loss: From the model and a batch.
        device: Of both.
    """

    model: nn.Module
    batches: Sequence[dict[str, torch.Tensor]]
    loss: Callable[[Any, dict[str, torch.Tensor]], torch.Tensor]
    device: torch.device

    def __post_init__(self) -> None:
        self.model.to(self.device).train()
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        self._turn: Iterator[dict[str, torch.Tensor]] = iter(())

    def step(self) -> None:
        """One optimizer step on the next batch, copied to the device as a data loader with pinned memory does."""
        batch = next(self._turn, None)
        if batch is None:
            self._turn = iter(self.batches)
            batch = next(self._turn)
        moved = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.loss(self.model, moved)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIPPING)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

    def time_block(self, steps: int, skipped: int = 2) -> float:
        """Return seconds a step of a block, without its first steps, device included."""
        for _ in range(skipped):
            self.step()
        wait_for(self.device)
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        wait_for(self.device)
        return (time.perf_counter() - begun) / steps


def collect_batches(world: World, count: int, device: torch.device) -> list[dict[str, torch.Tensor]]:
    """Return the batches that the world's loop would see, padded as it pads them, in memory that copies fast."""
    loop_rows, tokens, task = world.prepared.train, world.prepared.train_tokens, world.config.task
    size = world.config.train.batch_size
    found = []
    for number in range(count):
        picked = [(number * size + i) % len(loop_rows) for i in range(size)]
        encoded = task.collate(tokens, picked)
        batch = dict(encoded.inputs)
        if task.language:  # rows are equally long, and without a mask attention takes its fastest kernel
            batch = {"input_ids": batch["input_ids"]}
        else:
            batch["labels"] = encoded.labels_N
        pinned = device.type == "cuda"
        found.append({name: value.pin_memory() if pinned else value for name, value in batch.items()})
    return found


def compute_class_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of a classifier."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return F.cross_entropy(model(**inputs).logits.float(), batch["labels"])


def compute_language_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of a language model over all tokens but the first."""
    logits = model(**batch, use_cache=False).logits[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(logits, batch["input_ids"][:, 1:].flatten())


def make_dense_loss(teacher: nn.Module) -> Callable[[Any, dict[str, torch.Tensor]], torch.Tensor]:
    """Return what a plain loop with its teacher in the same process computes: cross-entropy and KL over all tokens."""

    def loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            target = teacher(**batch, use_cache=False).logits[:, :-1].flatten(0, 1)
            target = F.softmax(target.float() / TEMPERATURE, dim=-1)
        logits = model(**batch, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        hard = F.cross_entropy(logits, batch["input_ids"][:, 1:].flatten())
        soft = F.kl_div(F.log_softmax(logits / TEMPERATURE, dim=-1), target, reduction="batchmean")
        return ALPHA * hard + (1 - ALPHA) * TEMPERATURE**2 * soft

    return loss
