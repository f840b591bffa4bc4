"""What causal language models and encoder-decoders share: the unit is a token of the target text.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from raykd.answers.answer import Answer, join_answers
from raykd.answers.codec import encode_rows
from raykd.answers.compress import MOST_DRAWS, draw_tokens, draw_uniforms, keep_hidden, keep_top_k
from raykd.answers.servable import check_servable
from raykd.distill.chunks import choose_chunk_units
from raykd.distill.objective import Objective
from raykd.spec import Spec
from raykd.tasks.base import EncodedBatch, EncodedRows, SystemAnswers, TaskBase, compute_starts
from raykd.tasks.scores import generation
from raykd.tasks.signature import WRITTEN, Signature
from raykd.text.batch import TextBatch
from raykd.text.prompts import Prompts, Targets
from raykd.text.tokens import Tokenizer

if TYPE_CHECKING:
    pass


class TopKAnswers(Spec):
    """The k largest logits, and a log-sum-exp for each temperature that the student may use."""

    kind: Literal["top_k"] = "top_k"
    k: int = Field(64, ge=1)
    """Logits a token; what is left is one tail."""
    temperatures: tuple[float, ...] = Field((1.0, 1.5, 2.0, 3.0, 4.0), min_length=1)
    """Temperatures of the objective must be among them: others cannot be told from these."""

    @field_validator("temperatures")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0.0 or len(set(value)) != len(value):
            raise ValueError(f"temperatures must be positive and differ, got {list(value)}")
        return value

    def form(
        self, hidden_ND: torch.Tensor, logits_NV: torch.Tensor, seeds: object, common: dict[str, Any]
    ) -> Answer:
        """The answer for a chunk of units."""
        return keep_top_k(logits_NV, self.k, self.temperatures, **common)


class SampledAnswers(Spec):
    """Tokens drawn from the teacher (Anshumann et al., arXiv 2503.16870): unbiased, and smallest."""

    kind: Literal["sampled"] = "sampled"
    draws: int = Field(50, ge=1, le=MOST_DRAWS)
    """Draws a token, with replacement."""
    temperature: float = Field(1.0, gt=0.0)
    """What is drawn at; the objective's temperature must be this one."""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The only one."""
        return (self.temperature,)

    def form(
        self, hidden_ND: torch.Tensor, logits_NV: torch.Tensor, seeds: Any, common: dict[str, Any]
    ) -> Answer:
        """The answer for a chunk of units; ``seeds`` are their uniform numbers ``[N, draws]``."""
        return draw_tokens(logits_NV, seeds, self.temperature, **common)


class HiddenAnswers(Spec):
    """The last hidden state, the teacher's output head kept at the student's side: every logit, any temperature."""

    kind: Literal["hidden"] = "hidden"

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Any."""
        return ()

    def form(
        self, hidden_ND: torch.Tensor, logits_NV: torch.Tensor, seeds: object, common: dict[str, Any]
    ) -> Answer:
        """The answer for a chunk of units."""
        return keep_hidden(hidden_ND, logits_NV=logits_NV, **common)


_IDS = "prompts and targets with one begin and one end each, whatever letters a tokenizer knows"
"""How ids are made; another way is another answer."""
Answers = Annotated[TopKAnswers | SampledAnswers | HiddenAnswers, Field(discriminator="kind")]
"""How a teacher answers over a vocabulary."""
Generation = Literal["plain", "checkpoint"]
Written = Literal["chrf", "bleu", "rouge1", "rouge2", "rougeL", "exact_match"]


class LanguageTask(TaskBase):
    """Next-token prediction of a target; N = target tokens of the batch, the end token included."""

    metric_names: ClassVar[tuple[str, ...]] = ("nll", "perplexity", *generation.NAMES)
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
        """Refuses divergences, mixtures and temperatures that these answers cannot serve."""
        by_rank = any(term.divergence.kind == "universal_logit" for term in objective.terms)
        check_servable(
            objective, self.answers.kind, self.answers.temperatures, vocabulary="own" if by_rank else "same"
        )

    def counts(self, batch: TextBatch) -> NDArray[np.int64]:
        """Not a property of the text: each model counts its own tokens."""
        raise TypeError(
            "the units of a language model are its own tokens; they are known once rows are encoded"
        )

    def gather(self, outputs: Any, encoded: EncodedBatch) -> torch.Tensor:
        """``[S, L, D]`` hidden states at the places that predict each unit, ``[N, D]``."""
        assert encoded.places_N2 is not None
        hidden: torch.Tensor = outputs.hidden
        return hidden[encoded.places_N2[:, 0], encoded.places_N2[:, 1]]

    def answer(
        self, model: Any, encoded: EncodedBatch, columns: Sequence[Sequence[int]]
    ) -> list[bytes | None]:
        """A body a row, in the form of `answers`. ``model`` gives hidden states and has a ``head``."""
        hidden_ND, head = self.gather(encoded.run(model), encoded), model.head
        size = int(encoded.extra["vocabulary"])
        counts = encoded.counts_B
        offsets_N = _fill_offsets(encoded.extra["offsets_N"].cpu().numpy(), counts)
        draws = self.answers.draws if isinstance(self.answers, SampledAnswers) else 0
        drawn = [
            draw_uniforms(int(seed) & (2**64 - 1), int(units), draws)
            for seed, units in zip(encoded.extra["seeds_B"].tolist(), counts.tolist(), strict=True)
        ]
        uniforms_ND = np.concatenate(drawn) if drawn else np.empty((0, draws))
        parts, good = [], []
        step = choose_chunk_units(size)
        for begin in range(0, len(hidden_ND), step):
            here = slice(begin, begin + step)
            logits_NV = head.logits(hidden_ND[here])[:, :size].float()
            good.append(torch.isfinite(logits_NV).all(dim=1).cpu().numpy())
            common = {"gold_N": encoded.labels_N[here], "offsets_N": offsets_N[here]}
            parts.append(self.answers.form(hidden_ND[here], logits_NV, uniforms_ND[here], common))
        if not parts:
            return [b""] * len(counts)
        return encode_rows(join_answers(parts), counts, np.concatenate(good))

    @torch.no_grad()
    def say(self, model: Any, encoded: EncodedBatch) -> SystemAnswers:
        """Summed negative log-likelihood of each row's target (nats), its tokens, and how many are the likeliest."""
        hidden_ND, head = self.gather(encoded.run(model), encoded), model.head
        size = int(encoded.extra["vocabulary"])
        step, nll, hits = choose_chunk_units(size), [], []
        for begin in range(0, len(hidden_ND), step):
            logits_NV = head.logits(hidden_ND[begin : begin + step])[:, :size].float()
            gold_N = encoded.labels_N[begin : begin + step]
            nll.append(F.cross_entropy(logits_NV, gold_N, reduction="none"))
            hits.append(logits_NV.argmax(dim=1) == gold_N)
        nll_N = torch.cat(nll).double().cpu().numpy() if nll else np.empty(0)
        hit_N = torch.cat(hits).double().cpu().numpy() if hits else np.empty(0)
        row_N = np.repeat(np.arange(len(encoded.counts_B)), encoded.counts_B)
        return SystemAnswers(
            np.empty((0, 0), np.float32),
            np.zeros(len(encoded.counts_B), np.int64),
            np.empty(0, bool),
            nll_B=np.bincount(row_N, weights=nll_N, minlength=len(encoded.counts_B)).astype(np.float64),
            tokens_B=encoded.counts_B,
            hits_B=np.bincount(row_N, weights=hit_N, minlength=len(encoded.counts_B)).astype(np.int64),
        )

    def columns(
        self, own: Sequence[str], wanted: Sequence[str], label_map: Mapping[str, str], name: str
    ) -> tuple[tuple[int, ...], ...]:
        """There are no labels."""
        return ()

    def answer_key(self) -> object:
        """The form of the answers, and how long source and target may be."""
        return [self.kind, _IDS, self.answers.model_dump(mode="json"), self.lengths_key()]

    @property
    def settings(self) -> dict[str, Any]:
        """What a saved model needs to be asked as it was trained and judged, beside `max_length`."""
        names = ("max_target_length", "max_new_tokens", "beams", "generation")
        found = {name: getattr(self, name, None) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    @property
    @abstractmethod
    def prompt_tokens(self) -> int:
        """Tokens of a source or prompt that generation reads, at most."""

    @abstractmethod
    def lengths_key(self) -> object:
        """What cuts a text, beside `max_length`."""

    @classmethod
    def signature(cls, labels: Sequence[str]) -> Signature:
        """A text; what is written after it, or from it."""
        return WRITTEN

    @property
    def target_positions(self) -> int:
        """Places that a decoder of its own needs for the longest target; 0 where the target stands in the text."""
        return 0

    def metrics(self, said: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> dict[str, float]:
        """NLL (nats a token of the model's own tokenizer), perplexity, and what is `written`."""
        assert said.nll_B is not None and said.tokens_B is not None
        total, tokens = float(said.nll_B.sum()), int(said.tokens_B.sum())
        found = {
            "nll": total / max(tokens, 1),
            "perplexity": generation.compute_perplexity(total, max(tokens, 1)),
        }
        if said.texts is not None and self.written:
            references = rows.pairs or ()
            found |= generation.compute_generation_metrics(
                said.texts, references, rows.languages[0], self.written
            )
        return found


@dataclass(frozen=True)
class _Units:
    """The units of encoded rows as `EncodedRows` holds them. Made by `build_target_units`."""

    labels_N: NDArray[np.int64]
    starts_B1: NDArray[np.int64]
    extra: dict[str, NDArray[Any]]
    long_B: NDArray[np.bool_]


def build_target_units(tokenizer: Tokenizer, batch: TextBatch, prompts: Prompts, targets: Targets) -> _Units:
    """What rows of prompts (or sources) and targets have in common, whatever model reads them."""
    counts_B = np.asarray([len(row) for row in targets.ids], dtype=np.int64)
    seen_W = np.concatenate(
        [np.empty(0, bool), *(np.arange(n) < kept for n, kept in zip(targets.whole_B, counts_B, strict=True))]
    )
    extra = {
        "offsets_N": np.concatenate([np.empty(0, np.int64), *targets.starts]),
        "seeds_B": compute_row_seeds(batch),
        "vocabulary": np.asarray(count_vocabulary(tokenizer)),
        # All tokens of the targets, so that coverage counts what a limit cut off.
        "places_W2": np.where(seen_W[:, None], 0, -1).repeat(2, axis=1),
        "held_B": prompts.held_B | targets.held_B,
    }
    return _Units(
        labels_N=np.concatenate([np.empty(0, np.int64), *targets.ids]),
        starts_B1=compute_starts(counts_B),
        extra=extra,
        long_B=prompts.long_B | targets.long_B,
    )


def _fill_offsets(starts_N: NDArray[np.int64], counts_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offsets as a body holds them: a token that begins no position has that of the one before it, and the first of
    equal ones is the one that counts."""
    rows = [np.maximum.accumulate(np.maximum(row, 0)) for row in np.split(starts_N, np.cumsum(counts_B)[:-1])]
    return np.concatenate([np.empty(0, np.int64), *rows])


def compute_row_seeds(batch: TextBatch) -> NDArray[np.int64]:
    """``[B]``: a number that follows from a row's texts alone, for answers that are drawn."""
    found = [
        hashlib.sha256(f"{len(text)} {text}{target}".encode("utf-8", "surrogatepass")).digest()[:8]
        for text, target in zip(batch.texts, batch.pairs or ("",) * len(batch), strict=True)
    ]
    return np.frombuffer(b"".join(found), dtype="<i8").astype(np.int64)


def count_vocabulary(tokenizer: Any) -> int:
    """The highest id that a tokenizer gives, plus 1; a head may have more rows, which are padding."""
    return len(tokenizer) if getattr(tokenizer, "by_language", False) else _find_highest_id(tokenizer) + 1


@lru_cache(maxsize=64)
def _find_highest_id(tokenizer: Any) -> int:
    return int(max(tokenizer.get_vocab().values(), default=-1))


def collate_language_rows(encoded: EncodedBatch, rows: EncodedRows, picked: Sequence[int]) -> EncodedBatch:
    """What a language model's batch carries beside tokens: offsets of its units, seeds of its rows, the vocabulary."""
    chosen = np.asarray(picked, dtype=np.int64)
    extra = {
        "offsets_N": torch.from_numpy(rows.extra["offsets_N"][rows.units(picked)]),
        "seeds_B": torch.from_numpy(rows.extra["seeds_B"][chosen]),
        "vocabulary": torch.as_tensor(rows.extra["vocabulary"]),
        "rows_B": torch.from_numpy(chosen),
    }
    return replace(encoded, extra={**encoded.extra, **extra})
