"""The union `Augmentation`: how changed copies of training texts are made, for teachers to label.

Decision record:

- A copy is a function of its text (with its second text), its number and a seed, so all processes see the same copies,
  and a resumed run too. Copies are made when rows are read, and are rows like others: an epoch over four copies is four
  epochs of fresh draws.
- A copy has no gold label, since what was changed may have held it. Teachers are asked about the text that a copy was
  made of, or about the copy. The first lets a teacher that is right about sentences teach fragments of them: it
  answered the sentence, the student learns that answer on the fragment, and its student can be better on fragments
  than it is itself. It also costs no further answer.
- Kinds that replace words keep their number and order, so in tagging the answer to a word of the text is that to the
  word in its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raykd.cache import load_or_compute
from raykd.errors import DataError
from raykd.spec import Spec
from raykd.tasks.forms import RowForm
from raykd.text.batch import Spans
from raykd.text.words import find_word_spans, is_lexical


@dataclass(frozen=True)
class Passage:
    """A text that copies are made of, or a copy.

    Attributes:
        text: Not empty.
        language: Of the row.
        words: Begin and end of each word; None where words are not tagged.
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


class AugmentationBase(Spec):
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
    seed: int = 0
    """Of the draws."""

    def make_all(self, passages: Sequence[Passage]) -> list[list[Passage]]:
        """Return the copies of each passage; some may equal it."""
        return [
            [Passage(self.make_copy(one.text, number), one.language) for number in range(self.copies)]
            for one in passages
        ]

    def make_copy(self, text: str, number: int) -> str:
        """Return a changed copy of a text; may equal the text.

        Args:
            text: Not empty.
            number: Which copy.
        """
        return self.change(text, self.draw(text, number))

    def draw(self, text: str, number: int) -> Random:
        """Return the draws of a copy."""
        return Random(f"{self.kind} {self.seed} {number} {text}")

    def change(self, text: str, random: Random) -> str:
        """Return the text, changed by draws of `random` alone."""
        raise NotImplementedError


class Fragments(AugmentationBase):
    """A few words in a row, from a random one on: for texts that will be shorter than those to learn from."""

    reads_pairs: ClassVar[bool] = False
    kind: Literal["fragments"] = "fragments"
    max_characters: int = Field(20, ge=2)
    """As many whole words as fit; of a longer word (or of a text without blanks) a part, half of it at least."""

    def change(self, text: str, random: Random) -> str:
        """See `AugmentationBase`."""
        words = text.split()
        at = random.randrange(len(words))
        first, most = words[at], self.max_characters
        if len(first) > most:
            size = random.randint(most // 2, most)
            begin = random.randint(0, len(first) - size)
            return first[begin : begin + size]
        kept = [first]
        for word in words[at + 1 :]:
            if len(" ".join([*kept, word])) > most:
                break
            kept.append(word)
        return " ".join(kept)


class Spelling(AugmentationBase):
    """Typing errors: letters left out, doubled, swapped with the next, or replaced by another letter of the text."""

    kind: Literal["spelling"] = "spelling"
    rate: float = Field(0.1, gt=0.0, le=1.0)
    """Expected share of letters with an error."""

    _errors: ClassVar[tuple[str, ...]] = ("drop", "double", "swap", "replace")

    def change(self, text: str, random: Random) -> str:
        """See `AugmentationBase`."""
        letters = [sign for sign in text if sign.isalpha()]
        found: list[str] = []
        at = 0
        while at < len(text):
            sign = text[at]
            at += 1
            if not sign.isalpha() or random.random() >= self.rate:
                found.append(sign)
                continue
            error = random.choice(self._errors)
            if error == "swap" and at < len(text) and text[at].isalpha():
                found.append(text[at])
                at += 1
            if error == "replace":
                sign = random.choice(letters)
            if error != "drop":
                found += [sign, sign] if error == "double" else [sign]
        changed = "".join(found)
        return changed if changed.strip() else text


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

    def find_candidates(
        self, passages: Sequence[Passage], wanted: Sequence[tuple[int, int]]
    ) -> list[Sequence[str]]:
        """Return what may take the place of each wanted word, () where nothing may.

        Args:
            passages: The texts.
            wanted: The passage and the word, by their numbers.
        """
        raise NotImplementedError

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


Augmentation = Annotated[Fragments | Spelling | Lexicon | MaskedWords, Field(discriminator="kind")]


def check_augmentations(changes: Sequence[Augmentation], form: RowForm, languages: Sequence[str]) -> None:
    """Check that copies can be made of rows of this form, in these languages.

    Raises:
        ValueError: Names a kind that cannot, or a language that no row is in.
    """
    readable = form in ("text", "value", "labels")
    wrong = [c.kind for c in changes if not (readable or (form == "words" and c.keeps_words))]
    if wrong:
        wanted = "lexicon or masked_lm, which keep words in their places" if form == "words" else "none here"
        raise ValueError(
            f"data.augment: {wrong[0]} changes texts that have labels or a number; wanted {wanted}"
        )
    for change in changes:
        if isinstance(change, Lexicon) and (unknown := set(change.languages or ()) - set(languages)):
            raise ValueError(
                f"data.augment: lexicon.languages {sorted(unknown)} are not in data.languages {list(languages)}"
            )
