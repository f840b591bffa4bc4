"""Model masked language: tokens of a text are hidden, and the unit is a hidden token.

Decision record: which tokens are hidden is a function of the text and of its tokenisation (`raykd.distill.masking`),
so a teacher and a student that cut a text alike hide the same places without telling each other, and answers can be
stored. It is decided before a text is cut at the limit, so that models with other limits still hide the same. A hidden
token is always replaced by the mask token: a teacher is asked about what it cannot see. Tokens that stand for nothing
(unknown ones) are never hidden, because their label would say nothing. What a fixed mask loses against one drawn anew
in each epoch is bought back by `views`: several maskings of a text, each a sequence of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from raykd.distill.masking import ROLES, mask_positions, replace_tokens
from raykd.errors import ConfigError
from raykd.head import Head
from raykd.tasks.base import SystemAnswers
from raykd.tasks.forms import RowForm
from raykd.tasks.kinds.language import LanguageTask, compute_row_seeds, count_vocabulary
from raykd.tasks.registry import register_task
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedRows
from raykd.text.ragged import compute_starts
from raykd.text.tokens import Encoded, Tokenizer, call_tokenizer, has_languages, has_offsets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from raykd.distill.objective import Objective


@register_task
class MaskedLM(LanguageTask):
    """Masked tokens of a text, predicted by an encoder; N = masked tokens of the batch."""

    form: ClassVar[RowForm] = "plain"
    head: ClassVar[Head] = "masked_lm"
    union_vocabulary: ClassVar[bool] = True
    metric_names: ClassVar[tuple[str, ...]] = ("nll", "perplexity", "accuracy")
    kind: Literal["masked_lm"] = "masked_lm"
    max_length: int = Field(128, ge=3)
    """Longest text in tokens, special tokens included."""
    share: float = Field(0.15, gt=0.0, le=1.0)
    """Share of a text's tokens that is hidden, at least one token (BERT's 0.15, arXiv:1810.04805)."""
    views: int = Field(1, ge=1)
    """Maskings per text; each is a pass over it, and all are in one batch."""

    replacement: Literal["mask", "mixed"] = "mask"
    """What stands for a hidden token: the mask token; or, mixed, in 80 of 100 cases the mask token, in 10 a random one,
    in 10 itself (BERT's). Mixed is for training without teachers, which are asked about what they cannot see."""

    @model_validator(mode="after")
    def _writes_nothing(self) -> MaskedLM:
        idle = ("written", "max_new_tokens", "beams", "generation")
        fields = type(self).model_fields
        given = [name for name in idle if getattr(self, name) != fields[name].default]
        if given:
            raise ValueError(f"{given[0]} plays no part: a masked language model writes nothing")
        return self

    def check(self, labels: Sequence[str], objective: Objective) -> None:
        """Refuse teachers where a hidden token may be seen, beside what all language tasks refuse."""
        super().check(labels, objective)
        if self.replacement == "mixed" and not objective.plain:
            raise ValueError("task.replacement: mixed is for training without teachers; leave it out")

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Return the tokens of B texts, each `views` times with other places hidden.

        Raises:
            ConfigError: The tokenizer has no mask token, or does not say where its tokens stand.
        """
        roles = _find_role_ids(tokenizer)
        others = np.setdiff1d(np.arange(count_vocabulary(tokenizer)), list(roles.values()))
        fields: dict[str, list[NDArray[np.int64]]] = {}
        # Each list begins with an empty array, so that no text at all can be concatenated too.
        labels, offsets = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        places, seen = [np.empty((0, 2), np.int64)], [np.empty(0, bool)]
        units, lengths, long_B = [], [], []
        for text, cut in zip(batch.texts, _tokenize_texts(tokenizer, batch, self.max_length), strict=True):
            units.append(0)
            for view in range(self.views):
                hidden = mask_positions(cut.whole, text, view, self.share, special_ids=roles.values())
                seen.append(hidden < cut.kept)
                hidden = hidden[seen[-1]]
                shown = cut.inputs["input_ids"].copy()
                shown[hidden] = (
                    roles["mask"]
                    if self.replacement == "mask"
                    else replace_tokens(shown[hidden], hidden, text, view, roles["mask"], others)
                )
                for name, values in cut.inputs.items():
                    fields.setdefault(name, []).append(shown if name == "input_ids" else values)
                labels.append(cut.whole[hidden])
                places.append(np.stack([np.full_like(hidden, view), hidden], axis=1))
                # Each view counts on from the one before it, so that the offsets of a row never fall.
                offsets.append(view * (len(text) + 1) + cut.starts[hidden])
                units[-1] += len(hidden)
            lengths.append(self.views * len(cut.inputs["input_ids"]))
            long_B.append(len(cut.inputs["input_ids"]) < len(cut.whole))
        return EncodedRows(
            fields=fields,
            pad_values={name: roles["pad"] if name == "input_ids" else 0 for name in fields},
            lengths_B=np.asarray(lengths, dtype=np.int64),
            labels_N=np.concatenate(labels),
            starts_B1=compute_starts(np.asarray(units, dtype=np.int64)),
            sequences_B1=np.arange(len(batch) + 1, dtype=np.int64) * self.views,
            places_N2=np.concatenate(places),
            extra={
                "offsets_N": np.concatenate(offsets),
                "seeds_B": compute_row_seeds(batch),
                "vocabulary": np.asarray(count_vocabulary(tokenizer)),
                # All places that would be hidden, so that coverage counts what the limit cut off.
                "places_W2": np.where(np.concatenate(seen)[:, None], 0, -1).repeat(2, axis=1),
            },
            long_B=np.asarray(long_B, dtype=bool),
        )

    def build_lengths_key(self) -> object:
        """Return what decides which places are hidden."""
        return [self.share, self.views, *([] if self.replacement == "mask" else [self.replacement])]

    @property
    def settings(self) -> dict[str, str | int]:
        """Nothing, because a saved masked language model is asked like any other of its kind."""
        return {}

    @property
    def prompt_tokens(self) -> int:
        """0, because nothing is written."""
        return 0

    def compute_metrics(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> dict[str, float]:
        """Return NLL (nats per hidden token), perplexity, and the share of hidden tokens guessed right, where known."""
        found = super().compute_metrics(answers, rows, labels)
        if answers.hits_B is not None and answers.tokens_B is not None:
            found["accuracy"] = float(answers.hits_B.sum()) / max(int(answers.tokens_B.sum()), 1)
        return found


@dataclass(frozen=True)
class _TokenizedText:
    """A text's tokens.

    Attributes:
        whole: Ids before the limit.
        starts: The first character of each of `whole`.
        kept: How many of `whole`, counted from the first, are within the limit.
        inputs: The model's inputs, within the limit.
    """

    whole: NDArray[np.int64]
    starts: NDArray[np.int64]
    kept: int
    inputs: dict[str, NDArray[np.int64]]


def _tokenize_texts(tokenizer: Tokenizer, batch: TextBatch, limit: int) -> list[_TokenizedText]:
    """Tokenise each text without the limit, and the texts over the limit once more with it."""
    texts, languages = list(batch.texts), list(batch.languages)
    whole = _tokenize_from_start(tokenizer, texts, languages)
    long = [i for i, ids in enumerate(whole["input_ids"]) if len(ids) > limit]
    short = (
        _tokenize_from_start(tokenizer, [texts[i] for i in long], [languages[i] for i in long], limit)
        if long
        else whole
    )
    rows = {i: (short, at) for at, i in enumerate(long)}
    found = []
    for i, ids in enumerate(whole["input_ids"]):
        source, at = rows.get(i, (whole, i))
        inner = np.flatnonzero(np.asarray(source["special_tokens_mask"][at]) == 0)
        found.append(
            _TokenizedText(
                whole=np.asarray(ids, dtype=np.int64),
                starts=np.asarray(whole["offset_mapping"][i], dtype=np.int64).reshape(-1, 2)[:, 0],
                kept=int(inner[-1]) + 1 if len(inner) else 0,
                inputs={
                    name: np.asarray(source[name][at], dtype=np.int64)
                    for name in ("input_ids", "attention_mask", "token_type_ids")
                    if name in source
                },
            )
        )
    return found


def _tokenize_from_start(
    tokenizer: Tokenizer, texts: list[str], languages: list[str], limit: int | None = None
) -> Encoded:
    """Tokenise texts; those over the limit lose their end, because places count from a text's beginning."""
    # Without a limit a text may be longer than the model: it is cut afterwards, so there is nothing to warn of.
    options = {"verbose": False} if limit is None else {"truncation": True, "max_length": limit}
    own = cast("PreTrainedTokenizerBase", tokenizer)
    side = getattr(tokenizer, "truncation_side", "right")
    if side == "left":
        own.truncation_side = "right"
    try:
        return call_tokenizer(
            tokenizer,
            texts,
            languages=languages,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            **options,
        )
    finally:
        if side == "left":
            own.truncation_side = side


def _find_role_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the ids of the special tokens that the tokenizer has by role, a mask and padding among them.

    Raises:
        ConfigError: There is no mask token, or the tokenizer does not say where its tokens stand.
    """
    found = {role: getattr(tokenizer, f"{role}_token_id", None) for role in (*ROLES, "bos", "eos")}
    roles = {role: int(i) for role, i in found.items() if i is not None}
    if "mask" not in roles or not (has_languages(tokenizer) or has_offsets(tokenizer)):
        raise ConfigError(
            "this tokenizer is not one of a masked language model",
            got=f"{type(tokenizer).__name__}, tokens for {', '.join(roles) or 'nothing'}",
            wanted="a fast tokenizer with a mask token",
            next_step="choose a model of BERT's kind",
        )
    return {"pad": 0} | roles
