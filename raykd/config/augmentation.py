"""Define the union `Augmentation`: how changed copies of a training text are made, which teachers alone teach.

Decision record: copies are rows that are made when the data is read, not changes of a batch while training. So all that
holds of rows holds of them: their tokens are made once, an epoch sees each once, and a resumed run, a second worker and
a trial of a sweep see the same ones. A copy is a function of the text, its number and the seed alone: neither the order
of the rows nor how many are drawn changes it. More copies stand for more epochs: `copies: 12` with `epochs: 1` shows
twelve different fragments of a text, where `epochs: 12` shows one of them twelve times.

A teacher may be asked about the whole text although the student sees a copy (`targets: of_the_text`). A teacher that is
right about sentences and unsure about fragments then teaches what it knows of the sentence on the fragment, and its
student can be better on fragments than it is itself. It also costs no further answer.
"""

from __future__ import annotations

from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raykd.spec import Spec


class AugmentationBase(Spec):
    """What all kinds share."""

    kind: str
    copies: int = Field(4, ge=1)
    """Changed copies of each training text, all different draws. They have no gold label, so teachers alone teach them;
    those that equal their text or one another are left out."""
    targets: Literal["of_the_text", "of_the_copy"] = "of_the_text"
    """What teachers are asked about where the student sees a copy: the text that it was made of, whose answers are
    there already, or the copy."""
    seed: int = 0
    """Of the draws."""

    def make_copy(self, text: str, number: int) -> str:
        """Return a changed copy of a text; may equal the text.

        Args:
            text: Not empty.
            number: Which copy.
        """
        return self.change(text, Random(f"{self.kind} {self.seed} {number} {text}"))

    def change(self, text: str, random: Random) -> str:
        """Return the text, changed by draws of `random` alone."""
        raise NotImplementedError


class Fragments(AugmentationBase):
    """A few words in a row, from a random one on: for texts that will be shorter than those to learn from."""

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


Augmentation = Annotated[Fragments | Spelling, Field(discriminator="kind")]
