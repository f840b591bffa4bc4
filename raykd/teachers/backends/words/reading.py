"""`WordReading`: reads a language model at the words that name the labels, as a classification.

Decision record: a classification over a model with another head, so that batching, self-tests of padding, precision
and threads are those of any model (`raykd.teachers.backends.model`). The model gives hidden states, and its output head
is applied at the few places that are read. The normaliser is computed in the model's precision, the logits of the words
themselves in float32: of words of one token only these matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PrivateAttr

from raykd.distill.chunk_size import choose_chunk_units
from raykd.distill.signals import UNLABELLED
from raykd.errors import DataError
from raykd.tasks import Classification
from raykd.teachers.backends.words.tokens import WordPlan, plan_words, tokenize_template
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedBatch, EncodedRows, ModelOutputs, collate_rows
from raykd.text.label_phrases import ANY, LabelPhrase
from raykd.text.padding import RIGHT, Padding
from raykd.text.ragged import compute_starts, count_each
from raykd.text.tokens import Tokenizer

if TYPE_CHECKING:
    from raykd.models.lm import Headless, OutputHead
    from raykd.models.textmodel import TextModel


class WordReading(Classification):
    """One label per row, read at words. `plan` it for a tokenizer, then `bind` it to a model.

    `max_length` counts the tokens of a text; the template comes on top.
    """

    who: str
    """The teacher, for messages."""
    words_key: str
    """What tells one reading from another: templates, words, calibration."""
    length_normalise: bool
    masked: bool
    """Whether the model is a masked one; else a causal one."""
    positions: int | None
    """Most tokens that the model reads; None where its positions do not end."""
    _phrases: dict[str, LabelPhrase] = PrivateAttr(default_factory=dict)
    _plans: dict[str, WordPlan] = PrivateAttr(default_factory=dict)
    _priors: dict[str, NDArray[np.float32]] = PrivateAttr(default_factory=dict)
    _headless: Headless | None = PrivateAttr(None)

    def plan(self, phrases: Mapping[str, LabelPhrase], tokenizer: Tokenizer) -> WordReading:
        """Plan how the words of each language are read.

        Raises:
            ConfigError: As `plan_words`.
        """
        mask_id = int(getattr(tokenizer, "mask_token_id", 0)) if self.masked else None
        for language, phrase in phrases.items():
            key = f"teachers.{self.who}.words" + (f".{language}" if language else "")
            self._plans[language] = plan_words(tokenizer, phrase, mask_id, key)
            self._phrases[language] = phrase
        return self

    def count_template_tokens(self, tokenizer: Tokenizer) -> int:
        """Return the tokens of the longest template and word, without a text."""
        return max(
            len(pieces.before) + len(pieces.after) + len(filler)
            for language, phrase in self._phrases.items()
            for pieces in tokenize_template(tokenizer, phrase, [""], [""], self.masked, 0)
            for filler in self._plans[language].fillers
        )

    def bind(self, model: TextModel, headless: Headless) -> None:
        """Read this model, and measure the priors of its templates; a text of the calibration is read alone.

        Args:
            model: On its device, in the precision in which it answers.
            headless: The same model up to its output head.
        """
        self._headless = headless
        for language, phrase in self._phrases.items():
            texts = phrase.calibration_texts
            if not texts:
                continue
            batch = TextBatch(
                ids=texts,
                texts=texts,
                languages=(language,) * len(texts),
                labels_B=np.full(len(texts), UNLABELLED),
                pairs=texts if phrase.has_pair else None,
            )
            encoded = self.encode(model.tokenizer, batch)
            own = replace(RIGHT, inputs=model.padding.inputs)
            with torch.inference_mode():
                rows = [
                    self.evaluate_batch(headless, self.collate(encoded, [i], own).to(model.model.device))
                    for i in range(len(texts))
                ]
            logits_BC = torch.from_numpy(np.concatenate([row.logits_NC for row in rows]))
            self._priors[language] = logits_BC.softmax(dim=1).mean(dim=0).log().numpy()

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Return the sequences of B rows, one for each filler of the words of the row's language."""
        names = [self._find_phrase(language) for language in batch.languages]
        sequences: list[list[NDArray[np.int64]]] = [[] for _ in names]
        places: list[NDArray[np.int64]] = [np.empty((0, 2), np.int64)] * len(names)
        long_B = np.zeros(len(names), dtype=bool)
        for name in dict.fromkeys(names):
            picked = [i for i, own in enumerate(names) if own == name]
            plan, some = self._plans[name], batch.take(picked)
            room = None if self.positions is None else self.positions - max(map(len, plan.fillers))
            pieces = tokenize_template(
                tokenizer, self._phrases[name], some.texts, self._check_pairs(name, some), self.masked,
                self.max_length, room,
            )  # fmt: skip
            for i, own in zip(picked, pieces, strict=True):
                sequences[i] = [
                    np.asarray([*own.before, *filler, *own.after], dtype=np.int64) for filler in plan.fillers
                ]
                places[i] = plan.places_P2 + np.asarray([0, len(own.before)])
                long_B[i] = own.is_long
        counts_B, order = count_each(places), list(self._plans)
        return EncodedRows(
            fields={"input_ids": [ids for row in sequences for ids in row]},
            pad_values={"input_ids": tokenizer.pad_token_id or 0},
            lengths_B=np.asarray([sum(map(len, row)) for row in sequences], dtype=np.int64),
            labels_N=np.full(int(counts_B.sum()), UNLABELLED, dtype=np.int64),
            starts_B1=compute_starts(counts_B),
            sequences_B1=compute_starts(count_each(sequences)),
            places_N2=np.concatenate([np.empty((0, 2), np.int64), *places]),
            extra={"phrases_B": np.asarray([order.index(name) for name in names], dtype=np.int64)},
            long_B=long_B,
        )

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """Return the picked rows as a batch with one unit per row, for which outputs at several places are read."""
        encoded = collate_rows(rows, picked, padding)
        return replace(
            encoded,
            labels_N=torch.full((len(picked),), UNLABELLED),
            counts_B=np.ones(len(picked), dtype=np.int64),
            host={
                "phrases_B": rows.extra["phrases_B"][np.asarray(picked, dtype=np.int64)],
                "starts_B1": compute_starts(encoded.counts_B),
            },
        )

    def gather(self, outputs: ModelOutputs, encoded: EncodedBatch) -> torch.Tensor:
        """Return ``[B, C]``: the logarithm of each label's probability, less that of the template's prior."""
        assert encoded.places_N2 is not None
        assert self._headless is not None
        device, head = encoded.places_N2.device, self._headless.head
        hidden_PD = outputs.hidden[encoded.places_N2[:, 0], encoded.places_N2[:, 1]]
        phrases_B, starts_B1 = encoded.host["phrases_B"], encoded.host["starts_B1"]
        parts, order = [], []
        for number in np.unique(phrases_B).tolist():
            name = list(self._plans)[number]
            plan, rows = self._plans[name], np.flatnonzero(phrases_B == number)
            at = starts_B1[rows][:, None] + np.arange(len(plan.places_P2))
            logits_BC = self._score_labels(hidden_PD[torch.from_numpy(at).to(device)], head, plan)
            prior_C = self._priors.get(name)
            parts.append(logits_BC if prior_C is None else logits_BC - torch.from_numpy(prior_C).to(device))
            order.append(rows)
        return torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(order))).to(device)]

    def _score_labels(self, hidden_BPD: torch.Tensor, head: OutputHead, plan: WordPlan) -> torch.Tensor:
        """Return ``[B, C]``: the logarithm of the summed probabilities of each label's words."""
        device, flat_ND = hidden_BPD.device, hidden_BPD.flatten(0, 1)

        def move(array: NDArray[np.int64]) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        step = choose_chunk_units(len(head.weight_VD), device)
        wholes = [head.logits(some_ND).float().logsumexp(dim=1) for some_ND in flat_ND.split(step)]
        tokens_K = move(plan.tokens_K)
        bias_K = None if head.bias_V is None else head.bias_V[tokens_K].float()
        exact = replace(head, weight_VD=head.weight_VD[tokens_K].float(), bias_V=bias_K)
        logp_NK = exact.logits(flat_ND.float()) - torch.cat(wholes)[:, None]
        logp_BPK = logp_NK.unflatten(0, hidden_BPD.shape[:2])
        outputs_R, tokens_R, words_R = move(plan.reads_R3).unbind(dim=1)
        scores_BW = logp_BPK.new_zeros((len(logp_BPK), len(plan.lengths_W)))
        scores_BW = scores_BW.index_add(1, words_R, logp_BPK[:, outputs_R, tokens_R])
        if self.length_normalise:
            scores_BW = scores_BW / move(plan.lengths_W)
        # A last column that is no word, to fill labels with fewer words.
        padded_BW = torch.nn.functional.pad(scores_BW, (0, 1), value=-torch.inf)
        return padded_BW[:, move(plan.words_CW)].logsumexp(dim=2)

    def _find_phrase(self, language: str) -> str:
        """Return the name of the phrase for a language.

        Raises:
            DataError: There is none.
        """
        if language in self._plans or ANY in self._plans:
            return language if language in self._plans else ANY
        raise DataError(
            f"teacher {self.who} has no template for a row's language",
            got=language,
            wanted=f"one of {', '.join(self._plans)}",
            next_step=f"add it to teachers.{self.who}.template and words, or leave it out of its languages",
        )

    def _check_pairs(self, name: str, batch: TextBatch) -> Sequence[str] | None:
        """Return the second texts of rows whose template reads them.

        Raises:
            DataError: The template reads pairs and the rows are none, or the other way round.
        """
        reads = self._phrases[name].has_pair
        if reads == (batch.pairs is not None):
            return batch.pairs
        raise DataError(
            f"the template of teacher {self.who} reads {'two texts' if reads else 'one text'}, and the rows have "
            f"{'one' if reads else 'two'}",
            got=self._phrases[name].template,
            wanted="{text}" if reads else "{text} and {text_pair}",
            next_step=f"correct teachers.{self.who}.template, or data.columns.text_pair",
        )
