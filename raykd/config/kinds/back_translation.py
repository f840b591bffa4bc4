"""Copies of texts that were translated and translated back.

Decision record: texts are written by `generate_texts`, as teachers write them, so a model is told its language and its
limits the same way everywhere. A copy is a function of its text, its number and the seed even where tokens are drawn:
draws are noise that follows from these, and not from what shares a batch. What was written is cached in portions, so
that an interrupted `raykd check` goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Literal

from pydantic import Field, model_validator

from raykd.cache import load_or_compute
from raykd.config.kinds.copies import AugmentationBase, Passage
from raykd.errors import RaykdError, prefix_errors

_PORTION = 128
"""Texts that are cached together."""


class BackTranslation(AugmentationBase):
    """Texts translated into a pivot language and back (arXiv:1511.06709; for distillation arXiv:1904.12848).

    Models are encoder-decoders: Marian, T5, BART, mBART, NLLB, M2M-100, or students of `raykd train`.
    """

    kind: Literal["back_translation"] = "back_translation"
    pivot: str
    """The language between, by a name that a multilingual model knows."""
    path: str
    """The model that translates into it: a folder or a hub name."""
    revision: str | None = None
    """Branch, tag or commit of a hub name."""
    back: str | None = None
    """The model that translates back; None takes `path`, a multilingual model."""
    back_revision: str | None = None
    """Branch, tag or commit of its hub name."""
    prefix: str = ""
    """What sources begin with, where a model reads its language there: `translate English to French: ` (T5), `>>fra<< `
    (OPUS-MT of several languages)."""
    back_prefix: str = ""
    """The same on the way back."""
    language_codes: dict[str, str] = {}
    """Codes of multilingual tokenizers (`zho_Hant`) for languages whose names do not say which one is meant."""
    languages: tuple[str, ...] | None = None
    """Languages of the rows that have copies; None takes all."""
    temperature: float | None = Field(None, gt=0.0)
    """Tokens are drawn at this temperature, both ways (arXiv:1808.09381). None: the copies are the best translations of
    the most likely texts in the pivot language, by beam search."""
    beams: int = Field(4, ge=1)
    """Of the search; not read with a temperature."""
    max_tokens: int = Field(128, ge=1)
    """Longest text that is read or written, in tokens, or as many as a model has places for. What is longer loses its
    end."""
    targets: Literal["of_the_text", "of_the_copy"] = "of_the_copy"
    """What teachers are asked about: the copy, because a translation may say something else; or the text that it was
    made of."""

    @model_validator(mode="after")
    def _enough_beams(self) -> BackTranslation:
        if self.temperature is None and self.beams < self.copies:
            raise ValueError(
                f"{self.beams} beams cannot give {self.copies} copies; raise beams, lower copies, or set a temperature"
            )
        return self

    def make_all(self, passages: Sequence[Passage]) -> list[list[Passage]]:
        """See `AugmentationBase`; cached by content, because a check and a run both read the data."""
        spoken = self.languages
        keys = [(one.text, one.language) for one in passages if spoken is None or one.language in spoken]
        with prefix_errors("data.augment: back_translation", RaykdError):
            written = self._write(tuple(dict.fromkeys(keys)))
        return [
            [Passage(text, one.language) for text in written.get((one.text, one.language), ())]
            for one in passages
        ]

    def _write(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, ...]]:
        """Return the copies of texts in their languages."""
        from rich.console import Console

        from raykd.prediction.back_translation import Translator, Variety, translate_back
        from raykd.pretrained.hub import resolve_model
        from raykd.pretrained.stamp import LIBRARIES, stamp_model
        from raykd.timeline.progress import show_progress

        folder = resolve_model(self.path, revision=self.revision)
        other = folder if self.back is None else resolve_model(self.back, revision=self.back_revision)
        variety = Variety(self.copies, self.beams, self.temperature, self.seed)
        places = {"path", "revision", "back", "back_revision", "languages", "targets"}
        settings = self.model_dump(exclude=places)

        @cache
        def load() -> tuple[Translator, Translator]:
            there = Translator(folder, self.prefix, self.language_codes, self.max_tokens)
            return there, Translator(other, self.back_prefix, self.language_codes, self.max_tokens)

        def describe(own: Sequence[tuple[str, str]]) -> object:
            return stamp_model(folder), stamp_model(other), settings, own

        written = 0

        def write(own: Sequence[tuple[str, str]]) -> list[tuple[str, ...]]:
            nonlocal written
            written += len(own)
            return translate_back(own, *load(), self.pivot, variety)

        found: dict[tuple[str, str], tuple[str, ...]] = {}
        with show_progress(Console(stderr=True), f"back-translation by way of {self.pivot}") as report:
            for begin in range(0, len(keys), _PORTION):
                own = keys[begin : begin + _PORTION]
                copies = load_or_compute(
                    "back_translations",
                    partial(describe, own),
                    list[tuple[str, ...]],
                    partial(write, own),
                    *LIBRARIES,
                )
                found |= zip(own, copies, strict=True)
                report(len(found), len(keys), len(found) - written)
        return found
