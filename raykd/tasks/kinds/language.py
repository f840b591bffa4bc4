"""Share what causal, sequence-to-sequence and masked language models have in common: a unit is a token.

Decision record: a model's units are the tokens of its *own* tokenisation of the target, the end token among them,
each named by the character at which it begins (`raykd.text.alignment`), because that is what two tokenisations of
one text have in common. A model is asked for the hidden states that its output head reads and never for logits, so
that nothing of the size of a vocabulary exists for a whole batch: a teacher turns them into one of the short forms of
`raykd.answers.answer` a chunk at a time, a student into its loss (`raykd.distill.chunks`). The target is text that
all models read, so it travels to the teachers; there is no other gold.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from raykd.answers.codec import encode_rows
from raykd.answers.compress import (
    TensorAnswer,
    draw_uniforms,
    find_finite_units,
)
from raykd.answers.servable import check_servable
from raykd.devices import copy_to_device, without_gradients
from raykd.distill.chunk_size import choose_chunk_units
from raykd.distill.objective import Objective
from raykd.tasks.answer_forms import Answers, Chunk, SampledAnswers, TopKAnswers
from raykd.tasks.base import Network, PendingRows, SystemAnswers, TaskBase
from raykd.tasks.scores import generation
from raykd.tasks.scores.intervals import RowShares
from raykd.tasks.signature import TRANSLATED, WRITTEN, Signature
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedBatch, EncodedRows, ModelOutputs, collate_rows
from raykd.text.padding import RIGHT, Padding
from raykd.text.prompts import Prompts, Targets
from raykd.text.ragged import compute_starts, count_each
from raykd.text.tokens import Tokenizer, has_languages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _OutputHead(Protocol):
    """Turns hidden states ``[N, D]`` into logits ``[N, V]``."""

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor: ...


class _LanguageNetwork(Protocol):
    """A model that returns hidden states and offers its output head (`raykd.models.lm.Headless`)."""

    @property
    def head(self) -> _OutputHead: ...


_IDS = "prompts and targets with one begin and one end each, whatever letters a tokenizer knows"
"""Names how ids are made; a part of the answers' key, because other ids are other answers."""
Generation = Literal["plain", "checkpoint"]
Written = Literal["chrf", "bleu", "rouge1", "rouge2", "rougeL", "exact_match"]


class LanguageTask(TaskBase):
    """Next-token prediction of a target; N = target tokens of the batch, the end token included."""

    metric_names: ClassVar[tuple[str, ...]] = ("nll", "perplexity", *generation.NAMES)
    labelled: ClassVar[bool] = False
    language: ClassVar[bool] = True
    answers: Answers = TopKAnswers()
    """What a teacher sends for each token."""
    written: tuple[Written, ...] = ()
    """Metrics of what is generated for the held-out rows; none generates nothing."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest generated text in tokens."""
    beams: int | None = Field(None, ge=1)
    """Beams of generation where it is measured; 1 is greedy. None is 1, or the checkpoint's (see `generation`)."""
    generation: Generation = "plain"
    """`plain`: the most likely text by the model's own probabilities; of a checkpoint's generation config only where
    texts begin and end and what must not be written. `checkpoint`: all that it says, also penalties, lengths and beams,
    of teachers and of pretrained students. Nothing is ever drawn at random."""

    @model_validator(mode="after")
    def _written_once(self) -> LanguageTask:
        if len(set(self.written)) != len(self.written):
            raise ValueError(f"written names a metric twice: {list(self.written)}")
        return self

    def check(self, labels: Sequence[str], objective: Objective) -> None:
        """Refuse divergences, mixtures and temperatures that these answers cannot serve."""
        by_rank = any(term.divergence.kind == "universal_logit" for term in objective.terms)
        check_servable(
            objective, self.answers.kind, self.answers.temperatures, vocabulary="own" if by_rank else "same"
        )

    def count_units(self, batch: TextBatch) -> NDArray[np.int64]:
        """Raise: the units are not a property of the text, each model counts its own tokens."""
        raise TypeError(
            "the units of a language model are its own tokens; they are known once rows are encoded"
        )

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """Return the picked rows as a batch that also holds its units' offsets, its rows' seeds and the vocabulary."""
        encoded = collate_rows(rows, picked, padding)
        host = {
            "offsets_N": rows.extra["offsets_N"][rows.find_units(picked)],
            "seeds_B": rows.extra["seeds_B"][np.asarray(picked, dtype=np.int64)],
            "vocabulary": rows.extra["vocabulary"],
        }
        return replace(encoded, host=host)

    def gather(self, outputs: ModelOutputs, encoded: EncodedBatch) -> torch.Tensor:
        """Return ``[N, D]``: of ``[S, L, D]`` hidden states those at the places that predict each unit."""
        assert encoded.places_N2 is not None
        return outputs.hidden[encoded.places_N2[:, 0], encoded.places_N2[:, 1]]

    def start_answers(
        self, model: Network, encoded: EncodedBatch, columns: Sequence[Sequence[int]]
    ) -> PendingRows:
        """Compute one body per row in the form of `answers`; see `TaskBase`. The model offers a ``head``."""
        uniforms_ND = copy_to_device(self._draw_uniforms(encoded), encoded.labels_N.device)
        parts: list[TensorAnswer] = []
        finite: list[torch.Tensor] = []
        wide = not isinstance(self.answers, SampledAnswers)  # draws need float64 of all logits
        for here, hidden_ND, logits_NV in self._compute_chunks(model, encoded, wide=wide):
            chunk = Chunk(hidden_ND, logits_NV, encoded.labels_N[here], uniforms_ND[here])
            parts.append(self.answers.compute_answer(chunk))
            finite.append(find_finite_units(logits_NV, parts[-1]))
        if not parts:
            return PendingRows((), lambda arrays: [b""] * len(encoded.counts_B))
        found = TensorAnswer.concat(parts)
        return PendingRows(
            (torch.cat(finite), *found.tensors.values()), partial(_encode_answer, encoded, found)
        )

    def _draw_uniforms(self, encoded: EncodedBatch) -> torch.Tensor:
        """Return the random numbers of each unit's draws, ``[N, draws]``; no column where nothing is drawn."""
        draws = self.answers.draws if isinstance(self.answers, SampledAnswers) else 0
        counts = encoded.counts_B
        drawn = [
            # numpy's generator takes no negative seed; the mask maps an int64 to its unsigned twin.
            draw_uniforms(int(seed) & (2**64 - 1), int(units), draws)
            for seed, units in zip(encoded.host["seeds_B"].tolist(), counts.tolist(), strict=True)
        ]
        return torch.from_numpy(np.concatenate(drawn) if drawn else np.empty((0, draws)))

    def _compute_chunks(
        self, model: Network, encoded: EncodedBatch, *, wide: bool = False
    ) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Yield some units at a time, their hidden states ``[n, D]`` and logits ``[n, V]``, in its precision."""
        hidden_ND, head = self.gather(encoded.run(model), encoded), cast("_LanguageNetwork", model).head
        size = int(encoded.host["vocabulary"])  # rows of the head beyond it are padding
        step = choose_chunk_units(size, hidden_ND.device, hidden_ND.dtype if wide else None)
        for begin in range(0, len(hidden_ND), step):
            here = slice(begin, begin + step)
            yield here, hidden_ND[here], head.logits(hidden_ND[here])[:, :size]

    @without_gradients
    def evaluate_batch(self, model: Network, encoded: EncodedBatch) -> SystemAnswers:
        """Return each row's summed negative log-likelihood (nats), its tokens, and how many are the likeliest."""
        counts = encoded.counts_B
        # Per unit, so that a row's sum does not depend on where a chunk ends; copied together, so that no chunk waits.
        nll, hits = [encoded.labels_N.new_empty(0).double()], [encoded.labels_N.new_empty(0).bool()]
        for here, _, logits_NV in self._compute_chunks(model, encoded):
            gold_N = encoded.labels_N[here]
            losses_N = torch.nn.functional.cross_entropy(logits_NV.float(), gold_N, reduction="none")
            nll.append(losses_N.double())
            hits.append(logits_NV.argmax(dim=1) == gold_N)
        nll_N, hit_N = torch.cat(nll).cpu().numpy(), torch.cat(hits).cpu().numpy()
        row_N = np.repeat(np.arange(len(counts)), counts)
        return SystemAnswers(
            np.empty((0, 0), np.float32),
            np.zeros(len(counts), np.int64),
            np.empty(0, bool),
            nll_B=np.bincount(row_N, weights=nll_N, minlength=len(counts)).astype(np.float64),
            tokens_B=counts,
            hits_B=np.bincount(row_N, weights=hit_N, minlength=len(counts)).astype(np.int64),
        )

    def build_answer_key(self) -> object:
        """Return the form of the answers, and how long source and target may be."""
        return [self.kind, _IDS, self.answers.model_dump(mode="json"), self.build_lengths_key()]

    @property
    def settings(self) -> dict[str, str | int]:
        """What a saved model needs to be asked as it was trained and judged, beside `max_length`."""
        names = ("max_target_length", "max_new_tokens", "beams", "generation")
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}

    @property
    @abstractmethod
    def prompt_tokens(self) -> int:
        """Tokens of a source or prompt that generation reads, at most."""

    @abstractmethod
    def build_lengths_key(self) -> object:
        """Return what cuts a text beside `max_length`, as JSON."""

    @classmethod
    def build_signature(cls, labels: Sequence[str]) -> Signature:
        """Return the columns: a text, for some tasks its languages; what is written after it, or from it."""
        return TRANSLATED if cls.marks_languages else WRITTEN

    @property
    def target_positions(self) -> int:
        """Places that a decoder of its own needs for the longest target; 0 where the target stands in the text."""
        return 0

    def compute_metrics(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> dict[str, float]:
        """Return NLL (nats per token of the model's own tokenizer), perplexity, and the metrics of `written`."""
        assert answers.nll_B is not None and answers.tokens_B is not None
        total, tokens = float(answers.nll_B.sum()), max(int(answers.tokens_B.sum()), 1)
        found = {"nll": total / tokens, "perplexity": generation.compute_perplexity(total, tokens)}
        if answers.texts is not None and self.written:
            found |= generation.compute_generation_metrics(
                answers.texts, rows.pairs or (), rows.languages[0], self.written
            )
        return found

    def compute_row_shares(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> RowShares:
        """Return NLL by row: its nats and its tokens."""
        assert answers.nll_B is not None and answers.tokens_B is not None
        return RowShares(answers.nll_B, answers.tokens_B.astype(np.float64))


def build_target_rows(
    tokenizer: Tokenizer,
    batch: TextBatch,
    prompts: Prompts,
    targets: Targets,
    *,
    fields: dict[str, list[NDArray[np.int64]]],
    pad_values: dict[str, int],
    first_B: NDArray[np.int64],
    lengths_B: NDArray[np.int64],
) -> EncodedRows:
    """Return rows of a prompt (or source) and a target as `EncodedRows`, whatever model reads them.

    Args:
        tokenizer: The model's.
        batch: The rows as text.
        prompts: Token ids of the prompts or sources.
        targets: Token ids of the targets, which are the units.
        fields: See `EncodedRows`.
        pad_values: See `EncodedRows`.
        first_B: The place at which the first unit of each row is read; the others follow it.
        lengths_B: Tokens per row.
    """
    counts_B = count_each(targets.ids)
    starts_B1 = compute_starts(counts_B)
    place_N = np.repeat(first_B - starts_B1[:-1], counts_B) + np.arange(starts_B1[-1])
    whole_B1 = compute_starts(targets.whole_B)
    seen_W = np.arange(whole_B1[-1]) - np.repeat(whole_B1[:-1] + counts_B, targets.whole_B) < 0
    return EncodedRows(
        fields=fields,
        pad_values=pad_values,
        lengths_B=lengths_B,
        labels_N=np.concatenate([np.empty(0, np.int64), *targets.ids]),
        starts_B1=starts_B1,
        places_N2=np.stack([np.zeros_like(place_N), place_N], axis=1),
        extra={
            "offsets_N": np.concatenate([np.empty(0, np.int64), *targets.starts]),
            "seeds_B": compute_row_seeds(batch),
            "vocabulary": np.asarray(count_vocabulary(tokenizer)),
            # All tokens of the targets, so that coverage counts what a limit cut off.
            "places_W2": np.where(seen_W[:, None], 0, -1).repeat(2, axis=1),
            "held_B": prompts.held_B | targets.held_B,
        },
        long_B=prompts.long_B | targets.long_B,
    )


def _encode_answer(
    encoded: EncodedBatch, found: TensorAnswer, arrays: Sequence[NDArray[Any]]
) -> list[bytes | None]:
    """Return the body of each row, from what was computed: whether a unit is finite, then the answer's numbers."""
    finite_N, *numbers = arrays
    offsets_N = fill_offsets(encoded.host["offsets_N"], encoded.counts_B)
    answer = found.build(offsets_N=offsets_N, **dict(zip(found.tensors, numbers, strict=True)))
    return encode_rows(answer, encoded.counts_B, finite_N)


def fill_offsets(starts_N: NDArray[np.int64], counts_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return offsets as a body holds them: never falling within a row (of equal offsets the first counts).

    A token that begins no position gets the offset of the token before it.
    """
    rows = [np.maximum.accumulate(np.maximum(row, 0)) for row in np.split(starts_N, np.cumsum(counts_B)[:-1])]
    return np.concatenate([np.empty(0, np.int64), *rows])


def compute_row_seeds(batch: TextBatch) -> NDArray[np.int64]:
    """Return ``[B]``: a number that follows from a row's texts alone, for answers that are drawn."""
    found = [
        hashlib.sha256(f"{len(text)} {text}{target}".encode("utf-8", "surrogatepass")).digest()[:8]
        for text, target in zip(batch.texts, batch.pairs or ("",) * len(batch), strict=True)
    ]
    return np.frombuffer(b"".join(found), dtype="<i8").astype(np.int64)


def count_vocabulary(tokenizer: Tokenizer) -> int:
    """Return the highest id that a tokenizer gives, plus 1; further rows of a head are padding."""
    own = cast("PreTrainedTokenizerBase", tokenizer)
    return len(own) if has_languages(tokenizer) else _find_highest_id(own) + 1


# Counting reads the whole vocabulary, which takes tens of milliseconds, and every chunk of rows asks for it.
@lru_cache(maxsize=64)
def _find_highest_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(max(tokenizer.get_vocab().values(), default=-1))
