"""Pad sequences of several lengths to the tensors of a forward pass, as one model wants it.

Decision record: padding is decided here alone, from the model and its tokenizer together, because neither knows
enough. A head that looks for a text's last token compares with the *model's* pad id; some heads read the last place
and want padding before the text; some tokenizers forget the mask; some models take none. What cannot be read from a
configuration is found by `raykd.prediction.selftest`, which compares a row alone with the same row beside others.

Some models mix padding into their answers whatever is done (MobileBERT, FNet, ConvBERT). For those `shapes` is
"equal": a batch is still one object for the rest of raykd, but its forward pass is run in parts of equal length
(`run_sub_batches`), so that serving, validation and training are right alike. "single" runs each sequence alone.

A model that sums bags of ids needs no padding: on a CPU its answers are computed of sequences that stand one behind the
other (`Padding.answering`), since filling and masking a block cost more than the sums. Training pads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal, Protocol, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.errors import ModelError
from raykd.text.ragged import Ragged
from raykd.text.tokens import ADAPTER_IDS, MODEL_INPUTS, list_adapters

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from raykd.text.tokens import Tokenizer

Side = Literal["right", "left"]
Shapes = Literal["longest", "equal", "single"]
"""Which sequences share a forward pass: any, padded to the longest; those of one length; each runs alone."""

ENOUGH_ROWS = 8
"""Rows of a pass from which more rows make it hardly cheaper a row."""
MUCH_SHORTER = 0.85
"""Share of the longest row's length below which a row begins a pass of its own."""


TARGETS = ("labels", "decoder_input_ids")
"""Inputs of an encoder-decoder that are as long as its targets."""
BAG_STARTS = "bag_starts"
"""Where each sequence begins among joined ids: an input of a model that sums bags of ids."""


@dataclass(frozen=True)
class Padding:
    """How the sequences of one model are padded. Made by `read_padding`, refined by the self-test.

    Attributes:
        pad_id: The id that fills `input_ids`; None takes what the tokenizer pads with.
        side: Where padding stands.
        inputs: The inputs that the model's forward takes; None is all.
        token_types: Rows of the model's table of token types; None where it has none or does not say.
        shapes: Which sequences may share a forward pass.
        buckets: Lengths to which a batch is padded, ascending; what is longer than all of them keeps its own.
            () is the longest sequence's length. A GPU that compiles for each shape wants few of them.
        target_buckets: The same for the targets of an encoder-decoder.
        sequences: Number of sequences to which a batch is filled with copies of its last one; 0 fills nothing.
        much_shorter: Share of the longest row's length below which a row begins a pass of its own (`split_passes`); 0
            for a model that computes nothing for a padded token.
        joined: Whether sequences stand one behind the other and nothing is padded.
    """

    pad_id: int | None = None
    side: Side = "right"
    inputs: frozenset[str] | None = None
    token_types: int | None = None
    shapes: Shapes = "longest"
    buckets: tuple[int, ...] = ()
    target_buckets: tuple[int, ...] = ()
    sequences: int = 0
    much_shorter: float = MUCH_SHORTER
    joined: bool = False

    def width(self, longest: int, name: str = "input_ids") -> int:
        """Return the length to which an input is padded whose longest sequence has ``longest`` tokens."""
        buckets = self.target_buckets if name in TARGETS else self.buckets
        return next((bucket for bucket in buckets if bucket >= longest), max(1, longest))

    def join(self, other: Padding) -> Padding:
        """Return how sequences are padded that two models read: with the inputs of both, and apart where one wants it.

        Raises:
            ModelError: They are padded at other ends, or with other ids.
        """
        if (self.side, self.pad_id) != (other.side, other.pad_id):
            raise ModelError(
                "two models cannot read the same batches",
                got=f"padding at the {self.side} with id {self.pad_id}, at the {other.side} with id {other.pad_id}",
                wanted="models that are padded alike",
            )
        named, types = (self.inputs, other.inputs), (self.token_types, other.token_types)
        return replace(
            self,
            inputs=None if None in named else frozenset().union(*named),  # type: ignore[arg-type]
            token_types=None if None in types else max(types),  # type: ignore[type-var]
            shapes=max(self.shapes, other.shapes, key=get_args(Shapes).index),
            much_shorter=max(self.much_shorter, other.much_shorter),
        )

    def takes(self, name: str) -> bool:
        """Return whether the model is given this input.

        A table of one token type holds nothing to tell apart, and a tokenizer of another family would index beyond it.
        """
        if name == "token_type_ids" and self.token_types is not None and self.token_types < 2:
            return False
        return self.inputs is None or name in self.inputs

    def answering(self, device: torch.device) -> Padding:
        """Return how sequences are put together where no gradient is wanted: joined, if the model takes them so."""
        joins = device.type == "cpu" and self.inputs is not None and BAG_STARTS in self.inputs
        return replace(self, joined=True) if joins else self


RIGHT = Padding()
"""Padding behind each sequence with the tokenizer's own pad id, and every input that there is."""


def read_padding(model: object, tokenizer: Tokenizer) -> Padding:
    """Return how a model's sequences are padded, as its configuration and its forward's signature say.

    Args:
        model: A model of transformers, or one that looks like it.
        tokenizer: Its tokenizer.
    """
    config: object = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    own = getattr(text, "pad_token_id", None)
    table = _count_embedding_rows(model)
    if not isinstance(own, int) or own < 0 or (table is not None and own >= table):
        own = getattr(tokenizer, "pad_token_id", None)
    # XLNet's head reads the last place; with padding there it would read padding.
    reads_last = getattr(text, "summary_type", None) == "last" and hasattr(model, "sequence_summary")
    # BigBird computes another attention for short inputs.
    sparse = getattr(text, "attention_type", None) == "block_sparse"
    return Padding(
        pad_id=own,
        side="left" if reads_last else "right",
        inputs=_list_model_inputs(model, tokenizer),
        token_types=getattr(text, "type_vocab_size", None),
        shapes="equal" if sparse else "longest",
        much_shorter=getattr(model, "much_shorter", MUCH_SHORTER),
    )


def _count_embedding_rows(model: object) -> int | None:
    """Return the rows of the model's embedding table; None where it cannot be told."""
    try:
        table = cast("PreTrainedModel", model).get_input_embeddings()
        return int(cast("nn.Embedding", table).num_embeddings)
    except (AttributeError, NotImplementedError, TypeError):
        return None


def _list_model_inputs(model: object, tokenizer: Tokenizer) -> frozenset[str] | None:
    """Return the names of the inputs of a model's forward; None where its signature does not name them."""
    try:
        names = set(inspect.signature(type(cast("nn.Module", model)).forward).parameters)
    except (AttributeError, TypeError, ValueError):
        return None
    names |= {ADAPTER_IDS} if list_adapters(tokenizer) else set()
    return frozenset(names) if "input_ids" in names else None


@dataclass(frozen=True)
class SubBatch:
    """Sequences of a batch that share a forward pass without any padding.

    Attributes:
        sequences: Their places in the batch.
        widths: The length of each input, by name.
    """

    sequences: torch.Tensor
    widths: Mapping[str, int]


class Sequences(Protocol):
    """Tokens that are not padded yet, such as `Tokens` and `EncodedRows`."""

    @property
    def fields(self) -> Mapping[str, Sequence[NDArray[np.int64]]]:
        """For each input of a model one array a sequence."""
        ...

    @property
    def pad_values(self) -> Mapping[str, int]:
        """What the tokenizer pads each input with."""
        ...


def pad_sequences(
    rows: Sequences, picked: Sequence[int] | NDArray[np.int64], padding: Padding = RIGHT
) -> dict[str, torch.Tensor]:
    """Return the picked sequences as int64 tensors ``[S, L]``, input by input, L the padded length of that input."""
    inputs: dict[str, torch.Tensor] = {}
    for name, values in rows.fields.items():
        if not padding.takes(name):
            continue
        chosen = values.take(picked) if isinstance(values, Ragged) else Ragged.of([values[i] for i in picked])
        lengths = chosen.counts_S
        width = padding.width(int(lengths.max(initial=1)), name)
        place = np.arange(width)
        # Targets of an encoder-decoder always end with their padding.
        left = padding.side == "left" and name in MODEL_INPUTS
        filled = place >= width - lengths[:, None] if left else place < lengths[:, None]
        value = (
            padding.pad_id if name == "input_ids" and padding.pad_id is not None else rows.pad_values[name]
        )
        block = np.full(filled.shape, value, dtype=np.int64)
        block[filled] = chosen.values
        inputs[name] = torch.from_numpy(block)
        if name == "input_ids" and "attention_mask" not in rows.fields and padding.takes("attention_mask"):
            # Some tokenizers forget the mask; a model that takes one would read padding without it.
            inputs["attention_mask"] = torch.from_numpy(filled.astype(np.int64))
    return inputs


def join_sequences(rows: Sequences, picked: Sequence[int] | NDArray[np.int64]) -> dict[str, torch.Tensor]:
    """Return the ids of the picked sequences, one behind the other, and where each begins."""
    chosen = Ragged.of(rows.fields["input_ids"]).take(picked)
    return {
        "input_ids": torch.from_numpy(chosen.values),
        BAG_STARTS: torch.from_numpy(chosen.starts_S1[:-1]),
    }


def split_batch(
    fields: Mapping[str, Sequence[NDArray[np.int64]]], picked: Sequence[int], shapes: Shapes
) -> tuple[SubBatch, ...] | None:
    """Return the parts of a batch that run apart; None where all sequences share one pass."""
    if shapes == "longest":
        return None
    groups: dict[tuple[int, ...], list[int]] = {}
    for at, i in enumerate(picked):
        key = tuple(len(values[i]) for values in fields.values())
        groups.setdefault((*key, at) if shapes == "single" else key, []).append(at)
    return tuple(
        SubBatch(torch.as_tensor(members), dict(zip(fields, key, strict=False)))
        for key, members in groups.items()
    )


def drop_copies(outputs: object, sequences: int) -> object:
    """Return the outputs for the first sequences of a batch, without those of copies that fill it."""
    return SimpleNamespace(**{name: value[:sequences] for name, value in select_outputs(outputs).items()})


def select_outputs(outputs: object) -> dict[str, torch.Tensor]:
    """Return the outputs of a model that tasks read, by name."""
    found = {name: getattr(outputs, name, None) for name in _OUTPUTS}
    return {name: value for name, value in found.items() if value is not None}


_OUTPUTS = ("logits", "start_logits", "end_logits", "hidden", "transitions")
"""Outputs that tasks read; those with more than one value a sequence are padded to the longest part."""


def run_sub_batches(
    run: Callable[..., object], inputs: Mapping[str, torch.Tensor], parts: Sequence[SubBatch]
) -> object:
    """Run a batch part by part and return the outputs as one forward pass would give them; gradients flow.

    Args:
        run: The model, called with keyword arguments.
        inputs: Padded on the right, ``[S, L]``.
        parts: Rows of each part, and the width that they are cut to.
    """
    outputs = []
    for part in parts:
        own = {}
        for name, value in inputs.items():
            width = part.widths.get(name, part.widths["input_ids"])
            own[name] = value[part.sequences.to(value.device), :width]
        outputs.append(run(**own))
    order = torch.cat([part.sequences for part in parts]).argsort()
    found = {
        name: _stitch([getattr(out, name) for out in outputs], order)
        for name in _OUTPUTS
        if getattr(outputs[0], name, None) is not None
    }
    return SimpleNamespace(**found)


def _stitch(values: Sequence[torch.Tensor], order: torch.Tensor) -> torch.Tensor:
    """Return the parts of one output in the batch's order, places beyond a part's length filled with 0."""
    widest = max(value.shape[1] for value in values)
    wide = []
    for value in values:
        missing = widest - value.shape[1]
        tail = value.new_zeros((value.shape[0], missing, *value.shape[2:]))
        wide.append(torch.cat([value, tail], dim=1) if missing else value)
    return torch.cat(wide)[order.to(wide[0].device)]


def split_passes(
    lengths_B: NDArray[np.int64],
    max_tokens: int,
    *,
    much_shorter: float = MUCH_SHORTER,
    adapters_B: NDArray[np.int64] | None = None,
    joined: bool = False,
) -> list[list[int]]:
    """Return rows sorted by length and cut into forward passes that are padded little.

    A pass holds at most ``max_tokens`` padded tokens (one row always fits), and of `ENOUGH_ROWS` or more rows none
    that is shorter than ``much_shorter`` times the longest: a pass costs in proportion to its padded tokens, and
    hardly less a row where it has more rows than that. Its rows have one adapter, where rows have several: a model
    would run each adapter's rows by themselves. Joined rows keep their order, and a pass ends with the row in which
    ``max_tokens`` are reached.
    """
    if joined:
        begun_B = (np.cumsum(lengths_B) - lengths_B) // max_tokens
        edges = [*np.flatnonzero(np.diff(begun_B, prepend=-1)).tolist(), len(lengths_B)]
        return [list(range(begin, end)) for begin, end in pairwise(edges)]
    passes: list[list[int]] = []
    lengths, longest, rows = lengths_B.tolist(), 0, 0
    adapters_B = np.zeros_like(lengths_B) if adapters_B is None else adapters_B
    for i in np.lexsort((-lengths_B, adapters_B)).tolist():
        full = not passes or (rows + 1) * longest > max_tokens or adapters_B[i] != adapters_B[passes[-1][0]]
        if full or (rows >= ENOUGH_ROWS and lengths[i] < much_shorter * longest):
            passes.append([i])
            longest, rows = lengths[i], 1
        else:
            passes[-1].append(i)
            rows += 1
    return passes
