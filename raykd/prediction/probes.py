"""Choose the rows of a self-test, ask a model for them alone and together, and compare the answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.errors import ModelError
from raykd.tasks import EncodedRows, TaskBase
from raykd.text.batch import TextBatch
from raykd.text.padding import RIGHT, Padding

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from raykd.models.lm import Headless
    from raykd.models.textmodel import TextModel

log = logging.getLogger("raykd.models")

WORK = 5e10
"""Multiplications that a self-test costs at most, roughly: a second or two of a base-sized model on two cores."""
LEAST = 32
"""Tokens that the longest row of a test has at least, where the rows have them, however large the model is."""
PROBED_ROWS = 64
"""Rows among which those of the test are chosen."""
FAILURES = (RuntimeError, ValueError, IndexError, KeyError, TypeError, AttributeError)
"""What models raise for inputs that they were not made for."""
PROBED_UNITS = 64
"""Units of a row that are compared at most; a language model's distributions are as wide as its vocabulary."""


@dataclass(frozen=True)
class ProbeRows:
    """The rows of a test, shortest first, encoded for the model."""

    task: TaskBase
    encoded: EncodedRows
    given: Padding
    device: torch.device

    @staticmethod
    def of(model: TextModel, task: TaskBase, batch: TextBatch, *, shorter: bool = False) -> ProbeRows:
        """Choose a short, a middle and a long row that cost no more than `WORK` together.

        Args:
            model: The model that is tested.
            task: Its task.
            batch: Rows to choose from.
            shorter: Begin with a row that is cut from the shortest row. The finding must hold for rows that were not
                chosen too, and padding may reach the first token of short rows only.
        """
        task = task.with_labels(model.labels)  # a teacher's own, which need not be the run's
        step = max(1, len(batch) // PROBED_ROWS)
        some = batch.take(range(0, len(batch), step)[:PROBED_ROWS])
        # A row is asked about five times: alone, together and in another order.
        room = max(LEAST, WORK / _count_body_parameters(model.model) / 5)
        lengths_B = task.encode(model.tokenizer, some).lengths_B
        order = np.argsort(lengths_B, kind="stable")
        fitting = order[lengths_B[order] <= room]
        if len(fitting) and lengths_B[fitting[0]] < lengths_B[fitting[-1]]:
            chosen = fitting[sorted({0, len(fitting) // 2, len(fitting) - 1})]
            probe = some.take(chosen.tolist())
            least = _shorten_rows(probe.take([0]), max(1, len(probe.texts[0])))
            if shorter and 0 < task.encode(model.tokenizer, least).lengths_B[0] < lengths_B[chosen[0]]:
                probe = TextBatch.concat([least, probe])
        else:
            whole = some.take([int(order[0])])
            probe = TextBatch.concat([_shorten_rows(whole, 4), _shorten_rows(whole, 2), whole])
        encoded = task.encode(model.tokenizer, probe)
        order = np.argsort(encoded.lengths_B, kind="stable")
        ordered = task.encode(model.tokenizer, probe.take(order.tolist()))
        return ProbeRows(task, ordered, model.padding, model.model.device)

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def extremes(self) -> tuple[int, int]:
        """Tokens of the shortest and the longest row."""
        lengths_B = self.encoded.lengths_B
        return int(lengths_B.min()), int(lengths_B.max())

    def alone(self, asked: nn.Module) -> list[NDArray[np.float64]]:
        """Return each row's probabilities without any other row.

        Raises:
            ModelError: The model fails at a row.
        """
        try:
            return [self.answer(asked, [i], RIGHT)[0] for i in range(len(self))]
        except FAILURES as error:
            raise build_row_error(error, self.extremes[1], "a row of the run") from None

    def answer(self, asked: nn.Module, picked: Sequence[int], padding: Padding) -> list[NDArray[np.float64]]:
        """Return the probabilities ``[n, C]`` of some units of each picked row.

        Of numbers on a scale the inverse hyperbolic sine: differences of large ones count by their share.
        """
        inputs = replace(padding, inputs=self.given.inputs, token_types=self.given.token_types)
        batch = self.task.collate(self.encoded, picked, inputs).to(self.device)
        units = self.task.gather(batch.run(asked), batch)
        counts = [int(n) for n in batch.counts_B]
        found = []
        seen = np.split(batch.find_seen(), np.cumsum(counts)[:-1])
        for part_ND, seen_N in zip(units.split(counts), seen, strict=True):
            # A unit that a limit cut off is read nowhere: what stands in its place depends on the rows beside it.
            at = np.flatnonzero(seen_N).tolist()
            some_ND = part_ND[at[:: max(1, len(at) // PROBED_UNITS)]]
            logits_NC = cast("Headless", asked).head.logits(some_ND) if self.task.language else some_ND
            found.append(self.task.scale_answers(logits_NC.double()).cpu().numpy())
        return found

    def gap(self, asked: nn.Module, alone: Sequence[NDArray[np.float64]], padding: Padding) -> float:
        """Return the largest difference between rows together and alone; infinite where the model fails."""
        last = len(self) - 1
        try:
            return max(
                compute_largest_difference(together, alone[i])
                for picked in ([*range(len(self))], [last // 2, 0, 0])
                for together, i in zip(self.answer(asked, picked, padding), picked, strict=True)
            )
        except FAILURES as error:
            # Heads that look for the last token refuse several rows where nothing says what padding is.
            log.debug("rows cannot be batched with %s: %s", padding, error)
            return float("inf")


def build_row_error(error: Exception, tokens: int, where: str = "a row") -> ModelError:
    """Return the error of a model that raises at a row.

    Args:
        error: One of `FAILURES`.
        tokens: Of the longest row that it was given.
        where: The row, for the message.
    """
    return ModelError(
        f"the model fails at {where}",
        got=f"{type(error).__name__}: {str(error).strip()[:300]}; a row of {tokens} tokens at most",
        wanted="an answer to each row alone",
        next_step="compare its config.json (max_position_embeddings, vocab_size, type_vocab_size) with its tokenizer "
        "and with max_length; where plain transformers fails at the row as well, name another model",
    )


def compute_largest_difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the largest difference of two answers; choices that one of them lacks have probability 0."""
    width = min(one.shape[-1], other.shape[-1])
    inside = np.abs(one[..., :width] - other[..., :width])
    beyond = [abs(part[..., width:]) for part in (one, other) if part.shape[-1] > width]
    differences = [float(part.max()) for part in [inside, *beyond] if part.size]
    worst = max(differences, default=0.0)
    return worst if np.isfinite(worst) else float("inf")


def _shorten_rows(batch: TextBatch, share: int) -> TextBatch:
    """Return the rows with the first ``1 / share`` of their texts, at least a character or a word."""
    words = pairs = candidates = None
    ends = [max(1, len(text) // share) for text in batch.texts]
    if batch.words is not None:
        words = tuple(row[: max(1, len(row) // share)] for row in batch.words)
        ends = [row[-1][1] if row else end for row, end in zip(words, ends, strict=True)]
    if batch.pairs is not None:
        pairs = tuple(pair[: max(1, len(pair) // share)] for pair in batch.pairs)
    if batch.candidates is not None:
        candidates = tuple(
            tuple(text[: max(1, len(text) // share)] for text in own) for own in batch.candidates
        )
    return replace(
        batch,
        texts=tuple(text[:end] for text, end in zip(batch.texts, ends, strict=True)),
        words=words,
        pairs=pairs,
        candidates=candidates,
        golds=None if batch.golds is None else ((),) * len(batch),
    )


def _count_body_parameters(network: PreTrainedModel) -> int:
    """Return the weights that every token is multiplied with: all but the table of embeddings."""
    total: int = sum(parameter.numel() for parameter in network.parameters())
    with suppress(AttributeError, NotImplementedError):
        total -= cast("nn.Embedding", network.get_input_embeddings()).weight.numel()
    return max(1, total)
