"""The union `Augmentation`: how changed copies of training texts are made, for teachers to label.

Decision record:

- A copy is a function of its text (with its second text), its number and a seed, so all processes see the same copies,
  and a resumed run too. Copies are made when rows are read, and are rows like others: an epoch over four copies is four
  epochs of fresh draws.
- A copy has no gold label, since what was changed may have held it. Teachers are asked about the text that a copy was
  made of, or about the copy. The first lets a teacher that is right about sentences teach fragments of them: it
  answered the sentence, the student learns that answer on the fragment, and its student can be better on fragments
  than it is itself. It also costs no further answer.
- Kinds that change word by word keep their number and order, so in tagging the answer to a word of the text is that to
  the word in its place; so it is in the context of a question, whose answers are words (`raykd.data.selection.copies`).
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
from raykd.text.words import find_word_spans


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

    keeps_words: ClassVar[bool] = True
    kind: Literal["spelling"] = "spelling"
    rate: float = Field(0.1, gt=0.0, le=1.0)
    """Expected share of letters with an error."""

    _errors: ClassVar[tuple[str, ...]] = ("drop", "double", "swap", "replace")

    def make_all(self, passages: Sequence[Passage]) -> list[list[Passage]]:
        """See `AugmentationBase`; where words have to stay, each is changed by itself."""
        plain = super().make_all([one for one in passages if one.words is None])
        rest = iter(plain)
        return [
            next(rest) if one.words is None else [self._change_words(one, n) for n in range(self.copies)]
            for one in passages
        ]

    def _change_words(self, passage: Passage, number: int) -> Passage:
        random, found = self.draw(passage.text, number), {}
        for place, (begin, end) in enumerate(passage.find_words()):
            word = passage.text[begin:end]
            changed = self.change(word, random)
            # A doubled sign of Chinese is two words.
            if len(find_word_spans(changed)) == len(find_word_spans(word)):
                found[place] = changed
        return passage.replace_words(found)

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
    for change in changes:
        if reason := _find_reason(change, form):
            raise ValueError(f"data.augment: {change.kind} {reason}")
    for change in changes:
        spoken = change.languages if isinstance(change, Lexicon | BackTranslation) else None
        if unknown := set(spoken or ()) - set(languages):
            raise ValueError(
                f"data.augment: {change.kind}.languages {sorted(unknown)} are not in data.languages {list(languages)}"
            )


def _find_reason(change: Augmentation, form: RowForm) -> str:
    """Return why a kind cannot change rows of this form; "" where it can."""
    if form in ("target", "source_target", "plain"):
        return (
            "changes texts that are to be learnt as they are written; leave it out of a language model's run"
        )
    if form == "words" and not change.keeps_words:
        return "does not keep tagged words in their places; wanted spelling, lexicon or masked_lm"
    if form == "marked" and not isinstance(change, Spelling | Lexicon):
        return "does not keep the markers of entities, or reads them as text; wanted spelling or lexicon"
    if change.parts == "first":
        return ""
    if form in ("answers", "candidates") and not change.reads_pairs:
        return "changes single texts; set parts: first to change the question or query alone"
    if form == "answers" and not change.keeps_words and change.targets == "of_the_text":
        return "does not keep the context's words in their places; set targets: of_the_copy, or parts: first"
    return ""
