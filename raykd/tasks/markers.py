"""Mark the two entities of a relation in a text, and cut a long text around them.

Decision record: models read entities as signs in the text, ``[E1] head [/E1]`` and ``[E2] tail [/E2]`` (Baldini Soares
et al., arXiv:1906.03158), so a relation is a text to every model and to a function that teaches. The head is read where
a classifier of plain transformers reads any text, mostly at the first token, because pooling at the markers needs a
head that plain transformers cannot load. An entity that is told by its text alone and stands several times is marked
where the two entities are closest; whole words count before parts of words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from raykd.text.tokens import Tokenizer, call_tokenizer, check_fast
from raykd.text.words import find_word_spans, is_unspaced

MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")
"""Begin and end of the head, begin and end of the tail."""
FORWARD, BACKWARD = "(e1,e2)", "(e2,e1)"
"""Ends of labels that say which entity comes first in the relation, as SemEval-2010 task 8 writes them."""
Span = tuple[int, int]
"""Begin and end of an entity, in characters (code points)."""
_EDGE_TOKENS = 2
"""Tokens that a text may have more of once it is cut inside a word."""


def is_marked(text: str) -> bool:
    """Return whether a text holds each marker once, each begin before its end."""
    places = [text.find(marker) for marker in MARKERS]
    once = all(text.count(marker) == 1 for marker in MARKERS)
    return once and places[0] < places[1] and places[2] < places[3]


def mark_spans(text: str, head: Span, tail: Span) -> str:
    """Return the text with markers around two spans, which may overlap.

    A blank parts a marker from its entity, except where the entity's script sets none.
    """
    marks: list[tuple[int, int, int, str]] = []
    for (begin, end), opening, closing in ((head, *MARKERS[:2]), (tail, *MARKERS[2:])):
        before = "" if is_unspaced(text[begin]) else " "
        behind = "" if is_unspaced(text[end - 1]) else " "
        # At one place ends come before begins; the longer span begins first and ends last.
        marks.append((begin, 1, -end, f"{opening}{before}"))
        marks.append((end, 0, -begin, f"{behind}{closing}"))
    parts, at = [], 0
    for place, _, _, sign in sorted(marks):
        parts += [text[at:place], sign]
        at = place
    return "".join([*parts, text[at:]])


def find_spans(text: str, entity: str) -> list[Span]:
    """Return where an entity stands in a text: as whole words if it does anywhere, else inside words."""
    words = find_word_spans(text)
    begins, ends = set(words[:, 0].tolist()), set(words[:, 1].tolist())
    found: list[Span] = []
    at = text.find(entity)
    while at >= 0:
        found.append((at, at + len(entity)))
        at = text.find(entity, at + 1)
    return [span for span in found if span[0] in begins and span[1] in ends] or found


def choose_closest(heads: Sequence[Span], tails: Sequence[Span]) -> tuple[Span, Span]:
    """Return the head and the tail with the fewest characters between them, apart where they can be."""
    pairs = [(head, tail) for head in heads for tail in tails]
    return min(pairs, key=lambda pair: (_overlap(*pair), _measure_gap(*pair)))


def _overlap(head: Span, tail: Span) -> bool:
    return head[0] < tail[1] and tail[0] < head[1]


def _measure_gap(head: Span, tail: Span) -> int:
    return max(head[0] - tail[1], tail[0] - head[1])


def split_direction(label: str) -> tuple[str, bool]:
    """Return a label's relation, and whether it leads from the tail to the head."""
    for ending in (FORWARD, BACKWARD):
        if label.endswith(ending) and label != ending:
            return label.removesuffix(ending), ending == BACKWARD
    return label, False


def cut_around_markers(tokenizer: Tokenizer, text: str, max_length: int) -> str:
    """Return the part of a marked text that a model has room for, the markers in its middle.

    The whole text comes back where the marked entities alone are too long.

    Args:
        tokenizer: The model's.
        text: A text that holds the markers.
        max_length: Tokens at most, special tokens included.
    """
    fast = check_fast(tokenizer)
    encoded = call_tokenizer(fast, [text], add_special_tokens=False, return_offsets_mapping=True)
    offsets = cast("Sequence[tuple[int, int]]", encoded["offset_mapping"][0])
    begin = min(text.index(marker) for marker in MARKERS)
    end = max(text.index(marker) + len(marker) for marker in MARKERS)
    inside = [i for i, (b, e) in enumerate(offsets) if e > begin and b < end]
    room = max_length - int(fast.num_special_tokens_to_add()) - _EDGE_TOKENS
    spare = room - (inside[-1] + 1 - inside[0])
    if spare < 0:
        return text
    first = max(0, inside[0] - spare // 2)
    last = min(len(offsets), first + room)
    first = max(0, last - room)
    return text[offsets[first][0] : offsets[last - 1][1]]
