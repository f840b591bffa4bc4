"""Translate texts and translate them back, with the writer of all language models (`raykd.prediction.writing`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raykd.models.loading import load_model
from raykd.prediction.generation_settings import count_places
from raykd.prediction.writing import Draws, generate_texts

Text = tuple[str, str]
"""A text and its language."""


@dataclass(frozen=True)
class Variety:
    """How the copies of a text come to differ.

    Attributes:
        copies: Of each text.
        beams: Of the search, where nothing is drawn.
        temperature: At which tokens are drawn; None draws none.
        seed: Of the draws.
    """

    copies: int
    beams: int
    temperature: float | None
    seed: int


class Translator:
    """An encoder-decoder that translates.

    Args:
        folder: Its directory.
        prefix: What all sources begin with.
        codes: Codes of its tokenizer for languages.
        max_tokens: Longest text that is read or written; less where it has fewer places or was trained on less.

    Raises:
        ModelError: It is no encoder-decoder.
    """

    def __init__(self, folder: Path, prefix: str, codes: Mapping[str, str], max_tokens: int) -> None:
        loaded = load_model(folder, head="seq2seq", dtype=torch.float32)
        self._model = loaded.model
        self._tokenizer = loaded.tokenizer
        self._prefix, self._codes = prefix, codes
        read, written = count_places(self._model.config)
        self._read = min(n for n in (max_tokens, read, loaded.max_length) if n)
        self._written = min(n for n in (max_tokens, written) if n)

    def translate(self, texts: Sequence[Text], languages: Sequence[str], **search: Any) -> list[str]:
        """Return the translations of B texts, as `generate_texts` does.

        Args:
            texts: B texts.
            languages: The language that each is translated into.
            **search: Settings of `generate_texts`.

        Raises:
            ConfigError: The tokenizer has no code for a language.
        """
        return generate_texts(
            self._model,
            self._tokenizer,
            [self._prefix + text for text, _ in texts],
            languages=[self._codes.get(name, name) for name in languages],
            source_languages=[self._codes.get(name, name) for _, name in texts],
            max_input_tokens=self._read,
            max_new_tokens=self._written,
            **search,
        )


def translate_back(
    texts: Sequence[Text], there: Translator, back: Translator, pivot: str, variety: Variety
) -> list[tuple[str, ...]]:
    """Return the copies of each text.

    The texts in the pivot language differ: they are the best of a beam search, or drawn. Each is translated back once.

    Args:
        texts: The texts.
        there: Translates into the pivot language.
        back: Translates from it.
        pivot: The language between.
        variety: How copies differ.
    """
    count, seed, drawn = variety.copies, variety.seed, variety.temperature
    several = [one for one in texts for _ in range(count)]
    between, languages = [pivot] * len(several), [language for _, language in several]
    if drawn is None:
        found = there.translate(texts, between[: len(texts)], beams=variety.beams, alternatives=count)
        copies = back.translate(list(zip(found, between, strict=True)), languages, beams=variety.beams)
    else:
        keys = [f"{seed} {at % count} {text}" for at, (text, _) in enumerate(several)]
        found = there.translate(several, between, draws=Draws(drawn, keys))
        draws = Draws(drawn, [f"back {key}" for key in keys])
        copies = back.translate(list(zip(found, between, strict=True)), languages, draws=draws)
    return [tuple(copies[at : at + count]) for at in range(0, len(copies), count)]
