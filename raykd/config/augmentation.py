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

from abc import abstractmethod
from collections.abc import Sequence
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raykd.config.kinds.back_translation import BackTranslation
from raykd.config.kinds.copies import AugmentationBase, Passage
from raykd.config.kinds.word_replacement import Lexicon, MaskedWords
from raykd.tasks.forms import RowForm


class TextChange(AugmentationBase):
    """Base of kinds that change a text by draws alone."""

    def make_all(self, passages: Sequence[Passage]) -> list[list[Passage]]:
        """See `AugmentationBase`."""
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

    @abstractmethod
    def change(self, text: str, random: Random) -> str:
        """Return the text, changed by draws of `random` alone."""


class Fragments(TextChange):
    """A few words in a row, from a random one on: for texts that will be shorter than those to learn from."""

    reads_pairs: ClassVar[bool] = False
    kind: Literal["fragments"] = "fragments"
    max_characters: int = Field(20, ge=2)
    """As many whole words as fit; of a longer word (or of a text without blanks) a part, half of it at least."""

    def change(self, text: str, random: Random) -> str:
        """See `TextChange`."""
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


class Spelling(TextChange):
    """Typing errors: letters left out, doubled, swapped with the next, or replaced by another letter of the text."""

    kind: Literal["spelling"] = "spelling"
    rate: float = Field(0.1, gt=0.0, le=1.0)
    """Expected share of letters with an error."""

    _errors: ClassVar[tuple[str, ...]] = ("drop", "double", "swap", "replace")

    def change(self, text: str, random: Random) -> str:
        """See `TextChange`."""
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


Augmentation = Annotated[
    Fragments | Spelling | Lexicon | MaskedWords | BackTranslation, Field(discriminator="kind")
]


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
        spoken = change.languages if isinstance(change, Lexicon | BackTranslation) else None
        if unknown := set(spoken or ()) - set(languages):
            raise ValueError(
                f"data.augment: {change.kind}.languages {sorted(unknown)} are not in data.languages {list(languages)}"
            )
