"""What kinds of changed copies of texts share (`raykd.config.augmentation` says why they are made)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Literal

from pydantic import Field

from raykd.spec import Spec
from raykd.text.batch import Spans
from raykd.text.words import find_word_spans


@dataclass(frozen=True)
class Passage:
    """A text that copies are made of, or a copy.

    Attributes:
        text: Not empty.
        language: Of the row.
        words: Begin and end of each word that may be changed; None where a copy may have other words.
    """

    text: str
    language: str = ""
    words: Spans | None = None

    def find_words(self) -> Spans:
        """Return begin and end of each word."""
        if self.words is not None:
            return self.words
        return tuple((begin, end) for begin, end in find_word_spans(self.text).tolist())

    def replace_words(self, replacements: Mapping[int, str]) -> Passage:
        """Return the passage with other words in the place of some, by their numbers."""
        parts: list[str] = []
        spans: list[tuple[int, int]] = []
        at = length = 0
        for number, (begin, end) in enumerate(self.find_words()):
            word = replacements.get(number, self.text[begin:end])
            parts += [self.text[at:begin], word]
            length += begin - at
            spans.append((length, length + len(word)))
            at, length = end, length + len(word)
        words = None if self.words is None else tuple(spans)
        return Passage("".join([*parts, self.text[at:]]), self.language, words)


class AugmentationBase(Spec, ABC):
    """What all kinds share."""

    reads_pairs: ClassVar[bool] = True
    """Whether it changes rows of two texts."""
    keeps_words: ClassVar[bool] = False
    """Whether a copy has as many words as its text, in the same order."""
    kind: str
    copies: int = Field(4, ge=1)
    """Changed copies of each training text, all different draws. They have no gold label, so teachers alone teach them;
    those that equal their text or one another are left out."""
    targets: Literal["of_the_text", "of_the_copy"] = "of_the_text"
    """What teachers are asked about where the student sees a copy: the text that it was made of, whose answers are
    there already, or the copy."""
    parts: Literal["all", "first"] = "all"
    """Which texts of a row are changed: all (question and context, query and candidates, both of a pair), or the first
    alone (the question, the query)."""
    seed: int = 0
    """Of the draws."""

    @abstractmethod
    def make_all(self, passages: Sequence[Passage]) -> list[list[Passage]]:
        """Return the copies of each passage: `copies` of them, of which some may equal it or be empty; or none."""

    def draw(self, text: str, number: int) -> Random:
        """Return the draws of a copy.

        Args:
            text: Not empty.
            number: Which copy.
        """
        return Random(f"{self.kind} {self.seed} {number} {text}")
