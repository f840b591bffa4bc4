"""Put a text into the template of a language model that is read as a classifier.

Decision record: a template is filled by the places that it names and never by `str.format`, so that braces in a text or
in the rest of the template mean nothing. Where each part stands in the filled template is returned with it, because a
text is cut and a template is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

TEXT, PAIR, LABEL = "text", "text_pair", "label"
ANY = ""
"""The name of a template that serves every language."""
_PLACE = re.compile(rf"\{{({PAIR}|{TEXT}|{LABEL})\}}")


@dataclass(frozen=True)
class Filled:
    """A template with its places filled. Made by `LabelPhrase.fill`.

    Attributes:
        whole: The string.
        spans: By place, where it begins and ends in the string, in characters.
    """

    whole: str
    spans: Mapping[str, tuple[int, int]]

    def find_span(self, place: str) -> tuple[int, int]:
        """Return where a part stands, with the blanks before it: tokenizers join a blank to the word behind it."""
        begin, end = self.spans[place]
        return len(self.whole[:begin].rstrip()), end

    @property
    def prompt(self) -> str:
        """What stands before the word and its blanks: what a causal model reads."""
        return self.whole[: self.find_span(LABEL)[0]]


@dataclass(frozen=True)
class LabelPhrase:
    """Template and words of one language. Made by `raykd.config.kinds.label_words.LabelWords`.

    Attributes:
        template: With the places ``{text}`` and ``{label}``, and ``{text_pair}`` for pairs.
        words: By label of the teacher, the words that stand for it.
        calibration_texts: Texts over which the template's prior is measured; () measures none.
    """

    template: str
    words: Mapping[str, tuple[str, ...]]
    calibration_texts: tuple[str, ...] = ()

    @property
    def has_pair(self) -> bool:
        """Whether the template has a place for a second text."""
        return "{" + PAIR + "}" in self.template

    def fill(self, text: str, pair: str | None, word: str) -> Filled:
        """Fill the template.

        Args:
            text: The first text.
            pair: The second text, for a template with a place for it.
            word: What stands in the label's place.
        """
        values = {TEXT: text, PAIR: pair or "", LABEL: word}
        whole, spans = "", {}
        for i, part in enumerate(_PLACE.split(self.template)):
            filled = values[part] if i % 2 else part
            if i % 2:
                spans[part] = (len(whole), len(whole) + len(filled))
            whole += filled
        return Filled(whole, spans)


def check_template(template: str) -> None:
    """Refuse a template that lacks a place, or has one twice.

    Raises:
        ValueError: Names the place.
    """
    found = _PLACE.findall(template)
    for place in (TEXT, LABEL):
        if place not in found:
            raise ValueError(
                f'the template has no {{{place}}}: got "{template}", wanted "{{text}} It was {{label}}."'
            )
    if "}{" + LABEL in template or "{" + LABEL + "}{" in template:
        raise ValueError(
            f'the template has nothing between a text and {{label}}: got "{template}"; write a blank or a sign'
        )
    twice = sorted({place for place in found if found.count(place) > 1})
    if twice:
        raise ValueError(f'the template has {{{twice[0]}}} twice: got "{template}"')
