"""Train on one micro-batch: forward, objective, backward, once or at several places around its texts.

Decision record: each pass is a micro-batch to DeepSpeed, so reduction and ZeRO need to know nothing of adversarial
training. What is added to the embedded tokens is a tensor of its own beside the model's parameters; its gradient comes
with theirs from the same backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from raykd.devices import read_generators, set_generators
from raykd.distill.adversarial.perturbations import Adversarial
from raykd.distill.shares import Counts, ObjectiveResult, average_results
from raykd.errors import ModelError
from raykd.student.meter import list_numbers
from raykd.student.nonfinite import guard_loss
from raykd.timeline import step_part

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from raykd.distill.signals import Signals
    from raykd.student.engine import Engine
    from raykd.student.matching.features import States
    from raykd.student.task_trainer import TaskTrainer
    from raykd.tasks import EncodedBatch


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch, ready for the forward pass.

    Attributes:
        encoded: The rows in the student's tokens, on the device.
        signals: The teachers' answers for its units; None in plain training.
        rows: Which of the training rows it holds.
        counts: Its units.
        states: The teachers' states for it; None where no feature term has weight.
    """

    encoded: EncodedBatch
    signals: Signals | None
    rows: NDArray[np.int64]
    counts: Counts
    states: States | None = None


class Perturbation:
    """Moves the embedded tokens of one model's micro-batches.

    Attributes:
        shares: Of the passes over a micro-batch.

    Args:
        kind: How they are moved.
        model: The model that is trained.

    Raises:
        ModelError: It has no embedding layer.
    """

    def __init__(self, kind: Adversarial, model: nn.Module) -> None:
        self._kind, self.shares = kind, kind.shares
        self._layers = find_embeddings(model)
        self._added: list[torch.Tensor] = []
        self._call = 0

    def list_passes(
        self, mask_SL: torch.Tensor | None, device: torch.device, number: int = 0
    ) -> Iterator[float]:
        """Yield the share of each pass; the caller runs forward and backward for each.

        Args:
            mask_SL: Which tokens of the micro-batch are no padding; None where nothing is padded.
            device: Of the model.
            number: Of the micro-batch in its step, whose seed is `torch.initial_seed`.
        """
        state = read_generators(device)
        # Draws of its own, so that dropout is that of a plain run, and other ones for each micro-batch.
        generator = torch.Generator(device).manual_seed(torch.initial_seed() ^ (number + 1))

        def add(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            if not isinstance(output, torch.Tensor):
                raise self._make_error(f"which returns a {type(output).__name__}")
            if self._call == len(self._added):
                real_SL = mask_SL if mask_SL is not None and mask_SL.shape == output.shape[:2] else None
                real_SL = torch.ones_like(output[..., 0]) if real_SL is None else real_SL
                self._added.append(self._kind.begin(output.detach(), real_SL, generator).requires_grad_())
            self._call += 1
            return output + self._added[self._call - 1].to(output.dtype)

        hooks = [layer.register_forward_hook(add) for layer in self._layers]
        try:
            for passed, share in enumerate(self.shares):
                if passed:
                    set_generators(state, device)
                    self._added = [self._move(added) for added in self._added]
                self._call = 0
                yield share
                if not self._added:
                    raise self._make_error("which was not called")
        finally:
            for hook in hooks:
                hook.remove()
            self._added = []

    def _make_error(self, got: str) -> ModelError:
        return ModelError(
            "train.adversarial: the student does not embed its tokens by the layer that it names",
            got=f"{type(self._layers[0]).__name__}, {got}",
            wanted="one layer that gives each token its vector, as in BERT",
            next_step="leave train.adversarial out, or choose another student",
        )

    def _move(self, added: torch.Tensor) -> torch.Tensor:
        gradient = torch.zeros_like(added) if added.grad is None else added.grad
        return self._kind.move(added.detach(), gradient).requires_grad_()


def find_embeddings(model: Any) -> list[nn.Module]:
    """Return the layers of a model that give each token its vector; those of T5's encoder and decoder share weights.

    Raises:
        ModelError: There is none.
    """
    try:
        layer = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        layer = None
    if not isinstance(layer, nn.Module):
        raise ModelError(
            "train.adversarial moves the vectors of tokens, and this student has none",
            got=type(model).__name__,
            wanted="a student with an embedding layer (transformer, lstm, most checkpoints)",
            next_step="leave train.adversarial out, or choose another student",
        )
    weight = getattr(layer, "weight", None)
    shared = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight is weight]
    return [*shared] or [layer]


def train_micro_batch(
    engine: Engine,
    trainer: TaskTrainer,
    micro: MicroBatch,
    progress: float,
    totals: Counts,
    earlier: Sequence[ObjectiveResult],
    *,
    is_last: bool,
) -> tuple[ObjectiveResult, bool, list[float]]:
    """Run all passes over a micro-batch.

    Args:
        engine: It trains the model.
        trainer: Of the task.
        micro: The micro-batch.
        progress: Step / total steps, in [0, 1].
        totals: Units of the optimizer step over all ranks and micro-batches.
        earlier: Results of the step's micro-batches before this one.
        is_last: Whether it is the step's last.

    Returns:
        What it contributed; and whether the optimizer step was made and the numbers of all results, as `Engine.step`
        returns them.
    """
    moved, mask = trainer.perturbation, micro.encoded.inputs.get("attention_mask")
    shares: Sequence[float] = (1.0,) if moved is None else moved.shares
    passes = iter(shares) if moved is None else moved.list_passes(mask, trainer.device, len(earlier))
    results: list[ObjectiveResult] = []
    for number, share in enumerate(passes):
        with step_part("forward"):
            outputs, features = trainer.forward(engine, micro)
        with step_part("objective"):
            result = trainer.evaluate(engine, outputs, micro, progress, totals, features)
            if trainer.aligner is not None:
                result = trainer.aligner.add(result, micro, outputs, progress)
            results.append(result)
        with step_part("backward"):
            loss = guard_loss(results[-1])
            engine.backward(loss if moved is None else loss * share)
        wanted: Sequence[torch.Tensor] = ()
        if number == len(shares) - 1:
            result = average_results(results, shares)
            wanted = list_numbers([*earlier, result]) if is_last else ()
        with step_part("update"):
            applied, read = engine.step(wanted)
    return result, applied, read
