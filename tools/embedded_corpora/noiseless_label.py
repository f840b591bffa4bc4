"""`noiseless_label`: what a text of the embedded corpus says, read from the text alone.

Decision record: the corpus claims a known Bayes accuracy, which holds only if the label before noise is a function
of the text. This is that function, written as a reader that knows the lexicon but not the writer; the writer
keeps no text whose reading differs from what it meant to say.

The rules: the writer's own opinion counts, nobody else's; "but" takes back what was said before it, and what
stands under "although" does not count; a negation in the same clause turns an opinion round, two turn it back.
"""

from __future__ import annotations

import re
from functools import cache

from tools.embedded_corpora.lexicon import load_lexicon


def noiseless_label(text: str, language: str) -> int:
    """0 (negative) or 1 (positive).

    Raises:
        ValueError: the text holds no opinion that counts, or several: it is not of this corpus.
    """
    reader = _reader(language)
    counted: list[int] = []
    for clause in reader.clauses.split(text.casefold()):
        begin = reader.connector.match(clause)
        connector = begin.group(1) if begin else None
        opinions, flips, reported = reader.read(clause if begin is None else clause[begin.end() :])
        if connector in reader.but:
            counted.clear()
        if reported or connector in reader.although or not opinions:
            continue
        if len(opinions) > 1:
            raise ValueError(f"two opinions in one clause: {clause!r}")
        counted.append(opinions[0] ^ (flips % 2))
    if len(counted) != 1:
        raise ValueError(f"{len(counted)} opinions count in {text!r}")
    return counted[0]


class _Reader:
    """The patterns of one language."""

    def __init__(self, language: str) -> None:
        lexicon = load_lexicon(language)
        self.kinds: dict[str, int | str] = {**lexicon.phrases, **lexicon.polarity}
        # Longest first: "anything but" before "but", a long opinion before the short one it begins with.
        alternatives = "|".join(re.escape(p) for p in sorted(self.kinds, key=len, reverse=True))
        edge = r"\b" if lexicon.gap else ""
        self.known = re.compile(f"{edge}(?:{alternatives}){edge}")
        self.clauses = re.compile(f"[{re.escape(lexicon.stop + lexicon.comma)}]")
        self.but, self.although = frozenset(lexicon.but), frozenset(lexicon.although)
        starts = "|".join(
            re.escape(w) for w in sorted((*lexicon.but, *lexicon.although), key=len, reverse=True)
        )
        self.connector = re.compile(rf"\s*({starts}){edge}")

    def read(self, clause: str) -> tuple[list[int], int, bool]:
        """Opinions, the number of flips, and whether somebody else speaks."""
        found = [self.kinds[phrase] for phrase in self.known.findall(clause)]
        opinions = [kind for kind in found if isinstance(kind, int)]
        return opinions, found.count("flip"), "reported" in found


@cache
def _reader(language: str) -> _Reader:
    return _Reader(language)
