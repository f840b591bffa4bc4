"""`Aligner`: trains a discriminator over languages or domains with the student, on what the student's head reads.

Decision record: the features are the inputs of the student's last layer, found by a hook, so every architecture with a
linear head has them, read where the task reads its outputs (`TaskBase.locate_features`). Sentence vectors are what a
student of them gives, so they are features themselves. The discriminator is a part of the model that the engine trains,
and of no student, as the projections of feature terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raykd import models
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.data.selection.groups import code_aligned
from raykd.devices import copy_to_device
from raykd.distill.adversarial.alignment import DISCRIMINATOR, Alignment
from raykd.distill.shares import ObjectiveResult
from raykd.errors import ModelError
from raykd.networks.heads import use_seed
from raykd.pretrained.structure import is_in_encoder

if TYPE_CHECKING:
    from raykd.student.adversarial.passes import MicroBatch
    from raykd.text.encoding import ModelOutputs
    from raykd.text.padding import Padding

SUM = "alignment"
"""Its loss among the sums of a result."""


class Aligner:
    """Aligns the features of one student.

    Args:
        alignment: How.
        config: The run.
        student: The model that is trained, which gets the discriminator as a part.
        rows: The training rows.
        padding: How the student's batches are padded.

    Raises:
        ConfigError: All rows have one value.
        ModelError: The student's head is not found.
    """

    def __init__(
        self, alignment: Alignment, config: RunConfig, student: models.TextModel, rows: Rows, padding: Padding
    ) -> None:
        names, codes_B = code_aligned(rows, alignment.column)
        if padding.shapes != "longest":
            raise ModelError(
                "train.alignment reads features where a batch runs in one pass",
                got=f"passes of {padding.shapes} length",
                wanted="a model that answers alike beside longer texts",
            )
        self._alignment, self._batch = alignment, config.train.batch_size
        self._codes_B, self._task = codes_B, config.task
        self._head = None if config.task.vectors else find_head(student.model)
        self._features: torch.Tensor | None = None
        width = getattr(student.model, "width", 0) if self._head is None else self._head.in_features
        with use_seed(config.seed):
            self._discriminator = nn.Sequential(
                nn.Linear(width, alignment.hidden),
                nn.ReLU(),
                nn.Linear(alignment.hidden, len(names)),
            )
        student.model.add_module(DISCRIMINATOR, self._discriminator)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep what the head reads in the forward pass of the body."""

        def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._features = inputs[0]

        hook = None if self._head is None else self._head.register_forward_pre_hook(keep)
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()

    def add(
        self, result: ObjectiveResult, micro: MicroBatch, outputs: ModelOutputs, progress: float
    ) -> ObjectiveResult:
        """Return the result of the last forward pass with its share of the discriminator's loss.

        The loss is the mean over the rows of a step, and of a row the mean over its words, pairs or texts.

        Args:
            result: Of the objective.
            micro: What it is of.
            outputs: Of the student.
            progress: Step / total steps, in [0, 1].
        """
        encoded, features = micro.encoded, outputs.logits if self._head is None else self._features
        assert features is not None
        self._features = None
        row_F, sequence_F, token_F = self._task.locate_features(encoded)
        if token_F is None and features.ndim == 3:
            features = pick_last(features, encoded.inputs.get("attention_mask"))
        features_FD = features[sequence_F] if token_F is None else features[sequence_F, token_F]
        first: Any = self._discriminator[0]
        logits_FK = self._discriminator(
            reverse_gradient(features_FD.to(first.weight.dtype), self._alignment.weight.value_at(progress))
        )
        codes_B = copy_to_device(torch.from_numpy(self._codes_B[micro.rows]), row_F.device)
        losses_F = nn.functional.cross_entropy(
            logits_FK.float(), codes_B[row_F], ignore_index=-1, reduction="none"
        )
        counts_B = torch.zeros_like(codes_B).index_add_(0, row_F, torch.ones_like(row_F))
        loss = (losses_F / counts_B[row_F]).sum() / self._batch
        return replace(result, loss=result.loss + loss, sums=result.sums | {SUM: loss.detach()})


def pick_last(features_SLD: torch.Tensor, mask_SL: torch.Tensor | None) -> torch.Tensor:
    """Return the features of each text's last token, ``[S, D]``: a decoder's head reads all, and this one answers."""
    if mask_SL is None:
        return features_SLD[:, -1]
    last_S = (mask_SL * torch.arange(1, mask_SL.shape[1] + 1, device=mask_SL.device)).argmax(dim=1)
    return features_SLD[torch.arange(len(last_S), device=last_S.device), last_S]


def find_head(model: Any) -> nn.Linear:
    """Return the last layer of a classifier.

    Raises:
        ModelError: It cannot be told from the rest.
    """
    outputs = int(model.config.num_labels)
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == outputs
        and not (is_in_encoder(model, name) or name.startswith(DISCRIMINATOR))
    ]
    if not found:
        raise ModelError(
            "train.alignment does not find what this student's head reads",
            got=type(model).__name__,
            wanted=f"a linear layer with {outputs} outputs behind the encoder",
            next_step="leave train.alignment out, or choose another student",
        )
    return found[-1]


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, weight: float) -> torch.Tensor:
        ctx.weight = weight
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.weight * gradients[0], None


def reverse_gradient(features: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the features; their gradient is multiplied by minus the weight."""
    reversed_features: torch.Tensor = _Reverse.apply(features, weight)  # type: ignore[no-untyped-call]
    return reversed_features
