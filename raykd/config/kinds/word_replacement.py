"""Copies of texts with other words: from a word list, or by a masked language model."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from raykd.cache import load_or_compute
from raykd.config.kinds.copies import AugmentationBase, Passage
from raykd.errors import DataError
from raykd.text.words import is_lexical


class WordReplacement(AugmentationBase):
    """Base of kinds that replace words, each by one of its candidates."""

    keeps_words: ClassVar[bool] = True
    rate: float = Field(0.4, gt=0.0, le=1.0)
    """Probability with which a word that has candidates is replaced, by one of them at random."""

    def make_all(self, passages: Sequence[Passage]) -> list[list[Passage]]:
        """See `AugmentationBase`."""
        drawn = [[self._draw_words(one, number) for number in range(self.copies)] for one in passages]
        wanted = [
            (at, number)
            for at, copies in enumerate(drawn)
            for number in sorted({n for c in copies for n in c})
        ]
        found = dict(zip(wanted, self.find_candidates(passages, wanted), strict=True))
        return [
            [
                one.replace_words(
                    {n: own[int(place * len(own))] for n, place in copy.items() if (own := found[at, n])}
                )
                for copy in copies
            ]
            for at, (one, copies) in enumerate(zip(passages, drawn, strict=True))
        ]

    @abstractmethod
    def find_candidates(
        self, passages: Sequence[Passage], wanted: Sequence[tuple[int, int]]
    ) -> list[Sequence[str]]:
        """Return what may take the place of each wanted word, () where nothing may.

        Args:
            passages: The texts.
            wanted: The passage and the word, by their numbers.
        """

    def _draw_words(self, passage: Passage, number: int) -> dict[int, float]:
        """Return the words that a copy replaces, and where among their candidates the new ones are, in [0, 1)."""
        random, found = self.draw(passage.text, number), {}
        for at, (begin, end) in enumerate(passage.find_words()):
            drawn, place = (
                random.random(),
                random.random(),
            )  # both, so that no word changes the draws of others
            if drawn < self.rate and is_lexical(passage.text[begin:end]):
                found[at] = place
        return found


class Lexicon(WordReplacement):
    """Words replaced by those of a bilingual word list: code-switching (CoSDA-ML, arXiv:2006.06402)."""

    kind: Literal["lexicon"] = "lexicon"
    path: str
    """A word list in two columns, between tabs or blanks, as MUSE's: `house maison`. A word of several lines has as
    many candidates. Words are looked up regardless of their case."""
    languages: tuple[str, ...] | None = None
    """Languages of the rows whose words are looked up, those of the first column; None looks all up."""

    def find_candidates(
        self, passages: Sequence[Passage], wanted: Sequence[tuple[int, int]]
    ) -> list[Sequence[str]]:
        """See `WordReplacement`."""
        known, spoken = read_lexicon(self.path), self.languages
        words = [one.find_words() for one in passages]

        def look_up(at: int, number: int) -> Sequence[str]:
            begin, end = words[at][number]
            if spoken is not None and passages[at].language not in spoken:
                return ()
            return known.get(passages[at].text[begin:end].casefold(), ())

        return [look_up(*place) for place in wanted]


@lru_cache(maxsize=8)
def read_lexicon(path: str) -> Mapping[str, tuple[str, ...]]:
    """Return a word list by its first column, casefolded.

    Raises:
        DataError: The file cannot be read, or a line has no second column.
    """
    found: dict[str, list[str]] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "data.augment: a lexicon cannot be read",
            got=f"{path}: {error}",
            wanted="a word list in UTF-8: a word and its translation in each line",
        ) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = [part.strip() for part in (line.split("\t") if "\t" in line else line.split(None, 1))]
        if len(parts) != 2 or not all(parts):
            raise DataError(
                f"data.augment: line {number} of a lexicon is no pair of words",
                got=f"{path}: {line!r}",
                wanted="a word and its translation, between a tab or blanks",
            )
        own = found.setdefault(parts[0].casefold(), [])
        if parts[1] not in own:
            own.append(parts[1])
    return {word: tuple(others) for word, others in found.items()}


class MaskedWords(WordReplacement):
    """Words replaced by what a masked language model puts in their place (TinyBERT, arXiv:1909.10351).

    Each word is masked alone in its text; candidates are whole words. A word of several pieces is masked as one, where
    TinyBERT looks for its neighbours among word vectors.
    """

    kind: Literal["masked_lm"] = "masked_lm"
    path: str
    """The masked language model: a folder or a hub name."""
    revision: str | None = None
    """Branch, tag or commit of a hub name."""
    top_k: int = Field(15, ge=1)
    """The most probable words among which one is drawn."""
    targets: Literal["of_the_text", "of_the_copy"] = "of_the_copy"
    """What teachers are asked about: the copy, because another word may make another answer right; or the text that it
    was made of."""

    def find_candidates(
        self, passages: Sequence[Passage], wanted: Sequence[tuple[int, int]]
    ) -> list[Sequence[str]]:
        """Return the model's words; cached by content, because a check and a run both read the data."""
        from raykd.prediction.masked_words import predict_words
        from raykd.pretrained.hub import resolve_model
        from raykd.pretrained.stamp import stamp_model

        folder = resolve_model(self.path, revision=self.revision)
        words = [one.find_words() for one in passages]
        places = [(at, *words[at][number]) for at, number in wanted]
        texts = [one.text for one in passages]
        content = hashlib.sha256(json.dumps([texts, places]).encode("utf-8", "surrogatepass")).hexdigest()
        found = load_or_compute(
            "masked_words",
            lambda: (stamp_model(folder), self.top_k, content),
            list[tuple[str, ...]],
            lambda: predict_words(folder, texts, places, self.top_k),
            "torch",
            "transformers",
        )
        return [*found]
