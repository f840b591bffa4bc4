"""Cut the tokens of one vocabulary into the tokens of another tokenizer.

Decision record: byte-level BPE and SentencePiece are asked (`model.tokenize`), because their pieces follow from merges
or scores. WordPiece takes the longest piece that fits, for which canonical keys are enough; so does a tokenizer without
a Rust model, for want of better. A token of which any part is unknown is not cut at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raykd.tokenizers.canonical import (
    BEGINS,
    WITHIN,
    CanonicalVocabulary,
    WordMarking,
    find_backend,
    list_canonical_tokens,
    spell_key,
)

if TYPE_CHECKING:
    from raykd.text.tokens import Tokenizer

Cut = Callable[[bytes], tuple[int, ...]]
"""Returns the ids of the pieces of a canonical key; () where it cannot be cut."""


def make_cut(tokenizer: Tokenizer) -> Cut:
    """Return the function that cuts a canonical key as this tokenizer would cut its text.

    Raises:
        ModelError: As `raykd.tokenizers.canonical.detect_marking`.
    """
    vocabulary = list_canonical_tokens(tokenizer)
    backend = find_backend(tokenizer)
    if vocabulary.marking.style == "word" or not hasattr(backend.model, "tokenize"):
        return _Longest(vocabulary)
    unknown = getattr(tokenizer, "unk_token_id", None)
    by_key = dict(zip(vocabulary.keys, vocabulary.ids, strict=True))

    def cut(key: bytes) -> tuple[int, ...]:
        if key[:1] not in (BEGINS, WITHIN):
            return ()
        spelling = spell_key(key, vocabulary.marking)
        if (
            spelling is None
        ):  # bytes of a character; written one by one where the tokenizer falls back on bytes
            singles = [by_key.get(WITHIN + bytes([byte])) for byte in key[1:]]
            return () if None in singles else tuple(i for i in singles if i is not None)
        ids = tuple(piece.id for piece in backend.model.tokenize(spelling))
        return () if unknown in ids else ids

    return cut


class _Longest:
    """Cuts by the longest token that fits, from the left."""

    def __init__(self, vocabulary: CanonicalVocabulary) -> None:
        self.marking: WordMarking = vocabulary.marking
        # Of tokens with one key the earlier is preferred.
        self.ids = dict(reversed([*zip(vocabulary.keys, vocabulary.ids, strict=True)]))
        self.longest = max(map(len, vocabulary.keys), default=1)

    def __call__(self, key: bytes) -> tuple[int, ...]:
        where, rest, ids = key[:1], key[1:], list[int]()
        while rest and where in (BEGINS, WITHIN):
            found = next(
                (n for n in range(min(len(rest), self.longest), 0, -1) if where + rest[:n] in self.ids), 0
            )
            if not found and where == BEGINS:
                where = WITHIN  # a sign that is always a token of its own has no form that begins a word
                continue
            if not found:
                return ()
            ids.append(self.ids[where + rest[:found]])
            alone = self.marking.stands_alone(rest[:found].decode("utf-8", "replace")[:1])
            where, rest = BEGINS if alone else WITHIN, rest[found:]
            if rest[:1] == b" ":
                where, rest = BEGINS, rest[1:]
        return tuple(ids)
