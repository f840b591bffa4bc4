"""Test a model: a row's answer must not depend on the rows beside it.

Decision record: whether a model's answers survive padding cannot be read from its configuration. MobileBERT, FNet,
ConvBERT and others mix padding into every token; a checkpoint may name a pad id that its head does not look for. So
some of the run's own rows, short and long, are answered alone, together, in another order and twice, and compared
with the row alone, which is what plain transformers gives. Ways to batch are tried from the fastest to the safest:
padding as the configuration says, on the other side, sequences of equal length together, each sequence alone. A model
whose answer to one row differs between two calls is refused by name: it draws at random in evaluation mode.

Models of half precision are tested in float32 where they fit (`WIDENED`): what mixes padding in is the architecture,
and rounding would hide it. One row is then answered in the precision that serves, because some families cannot compute
in it, and some lose more there than a teacher should.

The finding is kept by content (weights, tokenizer, task, precision, device, versions of torch and transformers), so it
is paid once: `raykd.prediction.findings`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from raykd.errors import ModelError
from raykd.models.textmodel import use_evaluation_mode
from raykd.prediction.probes import FAILURES, ProbeRows, compute_largest_difference
from raykd.tasks import TaskBase
from raykd.text.batch import TextBatch
from raykd.text.padding import RIGHT, Padding, Shapes, Side

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from raykd.models.textmodel import TextModel

log = logging.getLogger("raykd.models")

TOLERANCE = {"float32": 1e-5, "float64": 1e-5, "bfloat16": 2e-2, "float16": 2e-2}
"""Largest difference of two probabilities that counts as none, by the precision of the weights."""
WIDENED = 4 * 10**9
"""Bytes of float32 weights up to which a model of half precision is tested in float32."""


@dataclass(frozen=True)
class PaddingFinding:
    """How a model's rows may share a forward pass. Made by `find_padding`, stored by `raykd.prediction.findings`.

    Attributes:
        side: Where padding stands.
        shapes: Which sequences share a forward pass.
        difference: Largest difference between a row's probabilities alone and beside others, that way.
        padded: The same difference with padding as the configuration says; where it exceeds the tolerance, that way was
            given up.
        tokens: Lengths of the shortest and the longest sequence of the test.
        rounding: Difference of a row's probabilities in half precision and in float32; 0 where the weights are
            float32, or too many to hold in both.
    """

    side: Side
    shapes: Shapes
    difference: Annotated[float, Field(ge=0.0)]
    padded: float
    tokens: tuple[int, int]
    rounding: Annotated[float, Field(ge=0.0)] = 0.0

    def of(self, padding: Padding) -> Padding:
        """Return a model's padding, changed to the side and shapes that were found."""
        return replace(padding, side=self.side, shapes=self.shapes)

    @property
    def is_conclusive(self) -> bool:
        """Whether sequences of several lengths were compared, so that the finding holds for all rows."""
        return self.tokens[0] < self.tokens[1]

    def describe(self) -> str:
        """Return one line for people: how rows are batched and how far answers differ."""
        coarse = self.rounding > TOLERANCE["bfloat16"]
        rounded = f"; half precision moves probabilities by up to {self.rounding:.2g} (serving.dtype: float32 does not)"
        return self._describe_batching() + (rounded if coarse else "")

    def _describe_batching(self) -> str:
        if self.shapes == "longest":
            side = "" if self.side == "right" else ", padded on the left"
            return f"answers do not depend on the texts beside them (differences up to {self.difference:.0e}{side})"
        how = "texts of equal length" if self.shapes == "equal" else "one text"
        why = f"padding changes this model's answers (by up to {self.padded:.2g})"
        if not np.isfinite(self.padded):
            why = "this model takes no texts of several lengths (does its configuration name a pad_token_id?)"
        elif self.padded == self.difference:
            why = "this model reads short and long inputs differently (its attention_type is block_sparse)"
        return f"{why}, so a forward pass holds {how}; differences up to {self.difference:.0e}"


def find_padding(
    model: TextModel, task: TaskBase, batch: TextBatch, *, module: nn.Module | None = None
) -> PaddingFinding:
    """Find the fastest way to batch rows that leaves each row's answer as it is alone.

    Args:
        model: The model; tested in evaluation mode and left in the mode that it was in.
        task: With the model's own `max_length`.
        batch: Rows of the run, short and long; some are chosen. Where all have one length, shorter rows are cut from
            them.
        module: What the task asks where that is not the model itself (`raykd.models.lm.Headless`).

    Raises:
        ModelError: The model answers the same row differently when it is asked twice, or fails at a row.
    """
    network: PreTrainedModel = model.model
    asked = network if module is None else module
    with use_evaluation_mode(network), _in_float32(network), torch.no_grad():
        try:
            rows = ProbeRows.of(model, task, batch, shorter=True)
            alone = rows.alone(asked)
        except ModelError:  # a single letter is too short for some models (Canine): the run's own rows decide
            rows = ProbeRows.of(model, task, batch)
            alone = rows.alone(asked)
        declared = model.padding
        # Not finite: refused by name where the answer is wanted, with the text at hand.
        if not all(np.isfinite(answer).all() for answer in alone):
            return PaddingFinding(declared.side, declared.shapes, float("inf"), float("inf"), (0, 0))
        # The longest row is asked twice, because models that hash (Reformer) do so for long inputs only.
        again = compute_largest_difference(rows.answer(asked, [len(rows) - 1], RIGHT)[0], alone[-1])
        limit = TOLERANCE.get(str(network.dtype).removeprefix("torch."), 1e-5)
        if not again <= limit:
            raise ModelError(
                "a model answers the same text differently when it is asked twice",
                got=f"probabilities that differ by {again:.2g}; {type(network).__name__}",
                wanted=f"equal answers in evaluation mode (to {limit:g})",
                next_step="choose another model: this one draws at random (hashing, dropout that stays on), so what "
                "it says cannot be stored or taught",
            )
        padded: float | None = None
        for padding in _list_candidates(declared):
            gap = rows.gap(asked, alone, padding)
            padded = gap if padded is None else padded
            if gap <= limit or padding.shapes == "single":
                found = PaddingFinding(padding.side, padding.shapes, gap, padded, rows.extremes)
                break
    # Outside of float32: the precision that serves is what rounds.
    return replace(found, rounding=_measure_rounding(network, asked, rows, alone[-1]))


def _measure_rounding(
    network: PreTrainedModel, asked: nn.Module, rows: ProbeRows, exact: NDArray[np.float64]
) -> float:
    """Return how far the longest row's answer in the model's own precision is from ``exact``, 0 in float32.

    Raises:
        ModelError: The model cannot compute in its precision.
    """
    if network.dtype == torch.float32:
        return 0.0
    precision = str(network.dtype).removeprefix("torch.")
    with use_evaluation_mode(network), torch.no_grad():
        try:
            own = rows.answer(asked, [len(rows) - 1], RIGHT)[0]
        except FAILURES as error:
            raise ModelError(
                f"the model cannot compute in {precision}",
                got=f"{type(error).__name__}: {str(error).strip()[:300]}",
                wanted="an answer to a row",
                next_step="set serving.dtype: float32",
            ) from None
    return compute_largest_difference(own, exact)


def _list_candidates(declared: Padding) -> Iterator[Padding]:
    """Yield the ways to batch, the fastest first."""
    if declared.shapes == "longest":
        yield declared
        yield replace(declared, side="left" if declared.side == "right" else "right")
    yield replace(declared, side="right", shapes="equal")
    yield replace(declared, side="right", shapes="single")


def build_nonfinite_error(where: str) -> ModelError:
    """Return the error of a model whose answers are no numbers."""
    return ModelError(
        f"{where} answers with NaN or infinite logits",
        got="no probability in its answer to a row",
        wanted="finite logits",
        next_step="its weights are broken, or overflowed where they were saved: copy or download the model again",
    )


@contextmanager
def _in_float32(network: PreTrainedModel) -> Iterator[None]:
    """Hold the weights as float32 inside the context, which loses nothing; leave them where they would not fit."""
    held = [*network.parameters(), *network.buffers()]
    half = [(tensor, tensor.dtype) for tensor in held if tensor.dtype in (torch.bfloat16, torch.float16)]
    if 4 * sum(tensor.numel() for tensor, _ in half) > WIDENED:
        half = []
    for tensor, _ in half:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in half:
            tensor.data = tensor.data.to(dtype)
