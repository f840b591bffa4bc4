"""The self-test of a model: a row's answer must not depend on the rows beside it.

Decision record: whether a model's answers survive padding cannot be read from its configuration. MobileBERT, FNet,
ConvBERT and others mix padding into every token; a checkpoint may name a pad id that its head does not look for. So
some of the run's own rows, short and long, are answered alone, together, in another order and twice, and compared
with the row alone, which is what plain transformers gives. Ways to batch are tried from the fastest to the safest:
padding as the configuration says, on the other side, sequences of equal length together, each sequence alone. A model
whose answer to one row differs between two calls is refused by name: it draws at random in evaluation mode.

Models of half precision are tested in float32 where they fit (`WIDENED`): what mixes padding in is the architecture,
and rounding would hide it.

The finding is kept by content (weights, tokenizer, task, precision, device, versions of torch and transformers), so it
is paid once: `raykd.models.findings`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.distill.signals import TextBatch
from raykd.errors import ModelError
from raykd.tasks import EncodedRows, TaskBase
from raykd.text.padding import RIGHT, Padding, Shapes, Side

if TYPE_CHECKING:
    from raykd.models.textmodel import TextModel

log = logging.getLogger("raykd.models")

TOLERANCE = {"float32": 1e-5, "float64": 1e-5, "bfloat16": 2e-2, "float16": 2e-2}
"""Largest difference of two probabilities that counts as none, by the precision of the weights."""
WORK = 5e10
"""Multiplications that a self-test costs at most, about: a second or two of a base-sized model on two cores."""
LEAST = 32
"""Tokens of the longest row of a test at least, where the rows have them, however large the model is."""
WIDENED = 4 * 10**9
"""Bytes of float32 weights up to which a model of half precision is tested in float32."""
PROBED_ROWS = 64
"""Rows among which those of the test are chosen."""
FAILURES = (RuntimeError, ValueError, IndexError, KeyError, TypeError, AttributeError)
"""What models raise for inputs that they were not made for."""
PROBED_UNITS = 64
"""Units of a row that are compared at most; a language model's distributions are as wide as its vocabulary."""


@dataclass(frozen=True)
class PaddingFinding:
    """How a model's rows may share a forward pass. Written by `find_padding`; kept as JSON.

    Attributes:
        side: Where padding stands.
        shapes: Which sequences share a forward pass.
        difference: Largest difference between a row's probabilities alone and beside others, that way.
        padded: The same with padding as the configuration says; larger than the tolerance where that was given up.
        tokens: Lengths of the shortest and the longest sequence of the test.
    """

    side: Side
    shapes: Shapes
    difference: float
    padded: float
    tokens: tuple[int, int]

    def of(self, padding: Padding) -> Padding:
        """Return the padding of a model with what was found."""
        return replace(padding, side=self.side, shapes=self.shapes)

    @property
    def is_conclusive(self) -> bool:
        """Whether sequences of several lengths were compared, so that the finding holds for all rows."""
        return self.tokens[0] < self.tokens[1]

    def describe(self) -> str:
        """Return one line for people: how rows are batched and how far answers differ."""
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

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @staticmethod
    def from_json(values: Any) -> PaddingFinding | None:
        """Return the finding that `to_json` wrote; None for anything else."""
        try:
            found = PaddingFinding(**{**values, "tokens": tuple(int(n) for n in values["tokens"])})
            known = found.side in ("right", "left") and found.shapes in ("longest", "equal", "single")
            return found if known and found.difference >= 0.0 and len(found.tokens) == 2 else None
        except (TypeError, KeyError, ValueError):
            return None


def find_padding(model: TextModel, task: TaskBase, batch: TextBatch, *, module: Any = None) -> PaddingFinding:
    """Find the fastest way to batch rows with which a row's answer is that of the row alone.

    Args:
        model: In any mode; tested in evaluation mode and given back in the mode that it was in.
        task: With the model's own `max_length`.
        batch: Rows of the run, short and long; some are chosen. Shorter ones are cut from them where all have one
            length.
        module: What the task asks where that is not the model itself (`raykd.models.lm.Headless`).

    Raises:
        ModelError: The model answers the same row differently when it is asked twice, or fails at a row.
    """
    network: Any = model.model
    asked = network if module is None else module
    with _evaluating(network), _in_float32(network), torch.no_grad():
        try:
            rows = _Rows.of(model, task, batch, shorter=True)
            alone = rows.alone(asked)
        except ModelError:  # a single letter may be too short for a model (Canine): the run's own rows decide
            rows = _Rows.of(model, task, batch)
            alone = rows.alone(asked)
        declared = model.padding
        if not all(np.isfinite(answer).all() for answer in alone):  # told by name where the answer is wanted
            return PaddingFinding(declared.side, declared.shapes, float("inf"), float("inf"), (0, 0))
        again = _apart(
            rows.answer(asked, [len(rows) - 1], RIGHT)[0], alone[-1]
        )  # hashing begins with long rows
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
        for padding in _candidates(declared):
            gap = rows.gap(asked, alone, padding)
            padded = gap if padded is None else padded
            if gap <= limit or padding.shapes == "single":
                return PaddingFinding(padding.side, padding.shapes, gap, padded, rows.extremes)
    raise AssertionError("each sequence alone is the last way")


def _candidates(declared: Padding) -> Iterator[Padding]:
    """Yield the ways to batch, the fastest first."""
    if declared.shapes == "longest":
        yield declared
        yield replace(declared, side="left" if declared.side == "right" else "right")
    yield replace(declared, side="right", shapes="equal")
    yield replace(declared, side="right", shapes="single")


@dataclass(frozen=True)
class _Rows:
    """The rows of a test, shortest first, encoded for the model."""

    task: TaskBase
    encoded: EncodedRows
    given: Padding

    @staticmethod
    def of(model: TextModel, task: TaskBase, batch: TextBatch, *, shorter: bool = False) -> _Rows:
        """Choose a short, a middle and a long row that cost no more than `WORK` together.

        Args:
            shorter: Begin with a row that is cut from the shortest: what is found holds for rows that are not among
                the chosen, and padding may reach the first token of short rows only.
        """
        step = max(1, len(batch) // PROBED_ROWS)
        some = batch.take(range(0, len(batch), step)[:PROBED_ROWS])
        room = max(LEAST, WORK / _body_parameters(model.model) / 5)  # alone, together and in another order
        lengths_B = task.encode(model.tokenizer, some).lengths_B
        order = np.argsort(lengths_B, kind="stable")
        fitting = order[lengths_B[order] <= room]
        if len(fitting) and lengths_B[fitting[0]] < lengths_B[fitting[-1]]:
            chosen = fitting[sorted({0, len(fitting) // 2, len(fitting) - 1})]
            probe = some.take(chosen.tolist())
            least = _beginning(probe.take([0]), max(1, len(probe.texts[0])))
            if shorter and 0 < task.encode(model.tokenizer, least).lengths_B[0] < lengths_B[chosen[0]]:
                probe = TextBatch.concat([least, probe])
        else:
            whole = some.take([int(order[0])])
            probe = TextBatch.concat([_beginning(whole, 4), _beginning(whole, 2), whole])
        encoded = task.encode(model.tokenizer, probe)
        order = np.argsort(encoded.lengths_B, kind="stable")
        return _Rows(task, task.encode(model.tokenizer, probe.take(order.tolist())), model.padding)

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def extremes(self) -> tuple[int, int]:
        """Tokens of the shortest and the longest row."""
        lengths_B = self.encoded.lengths_B
        return int(lengths_B.min()), int(lengths_B.max())

    def alone(self, asked: Any) -> list[NDArray[np.float64]]:
        """Return each row's probabilities without any other row.

        Raises:
            ModelError: The model fails at a row.
        """
        try:
            return [self.answer(asked, [i], RIGHT)[0] for i in range(len(self))]
        except FAILURES as error:
            raise failed_at_row(error, self.extremes[1], "a row of the run") from None

    def answer(self, asked: Any, picked: Sequence[int], padding: Padding) -> list[NDArray[np.float64]]:
        """Return the probabilities ``[n, C]`` of some units of each picked row."""
        inputs = replace(padding, inputs=self.given.inputs, token_types=self.given.token_types)
        batch = self.task.collate(self.encoded, picked, inputs)
        units = self.task.gather(batch.run(asked), batch)
        counts = [int(n) for n in batch.counts_B]
        found = []
        for part_ND in units.split(counts):
            some_ND = part_ND[:: max(1, len(part_ND) // PROBED_UNITS)]
            logits_NC = asked.head.logits(some_ND) if self.task.language else some_ND
            found.append(logits_NC.double().softmax(dim=-1).cpu().numpy())
        return found

    def gap(self, asked: Any, alone: Sequence[NDArray[np.float64]], padding: Padding) -> float:
        """Return the largest difference between rows together and alone; infinite where the model fails."""
        last = len(self) - 1
        try:
            worst = 0.0
            for picked in ([*range(len(self))], [last // 2, 0, 0]):
                together = self.answer(asked, picked, padding)
                worst = max(
                    [worst, *(_apart(one, alone[i]) for one, i in zip(together, picked, strict=True))]
                )
            return worst
        except FAILURES as error:
            # Heads that look for the last token refuse several rows where nothing says what padding is.
            log.debug("rows cannot be batched with %s: %s", padding, error)
            return float("inf")


def failed_at_row(error: Exception, tokens: int, where: str = "a row") -> ModelError:
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


def not_finite(where: str) -> ModelError:
    """Return the error of a model whose answers are no numbers.

    Args:
        where: The model, for the message.
    """
    return ModelError(
        f"{where} answers with NaN or infinite logits",
        got="no probability in its answer to a row",
        wanted="finite logits",
        next_step="its weights are broken, or overflowed where they were saved: copy or download the model again",
    )


def _apart(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the largest difference of two answers; choices that one of them lacks have probability 0."""
    width = min(one.shape[-1], other.shape[-1])
    inside = np.abs(one[..., :width] - other[..., :width])
    beyond = [abs(part[..., width:]) for part in (one, other) if part.shape[-1] > width]
    differences = [float(part.max()) for part in [inside, *beyond] if part.size]
    worst = max(differences, default=0.0)
    return worst if np.isfinite(worst) else float("inf")


def _beginning(batch: TextBatch, share: int) -> TextBatch:
    """Return the rows with the first ``1 / share`` of their texts, at least a character or a word."""
    texts, words, pairs = [], [], []
    for i, text in enumerate(batch.texts):
        cut = max(1, len(text) // share)
        if batch.words is not None and batch.words[i]:
            kept = batch.words[i][: max(1, len(batch.words[i]) // share)]
            cut = kept[-1][1]
            words.append(kept)
        elif batch.words is not None:
            words.append(())
        texts.append(text[:cut])
        if batch.pairs is not None:
            pairs.append(batch.pairs[i][: max(1, len(batch.pairs[i]) // share)])
    golds = None if batch.golds is None else ((),) * len(batch)
    return replace(
        batch,
        texts=tuple(texts),
        words=None if batch.words is None else tuple(words),
        pairs=None if batch.pairs is None else tuple(pairs),
        golds=golds,
    )


def _body_parameters(network: Any) -> int:
    """Return the weights that every token is multiplied with: all but the table of embeddings."""
    total = sum(parameter.numel() for parameter in network.parameters())
    with suppress(AttributeError, NotImplementedError):
        total -= network.get_input_embeddings().weight.numel()
    return max(1, total)


@contextmanager
def _in_float32(network: Any) -> Iterator[None]:
    """The weights as float32 and back, which loses nothing; left alone where they would not fit."""
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


@contextmanager
def _evaluating(network: Any) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
