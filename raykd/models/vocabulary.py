"""Compare two vocabularies: whether they are the same, and which ids stand for the same strings.

Decision record: vocabularies are compared by content, because sizes prove nothing: two models of one family pad their
heads differently, and two tokenizers of one size need not share a string. Two tokens are the same if their canonical
keys are equal (`raykd.tokenizers.canonical`). Special tokens match by role first (a decoder like BERT ends with `sep`),
then by string. The `unk` of both match by role, although a text that one tokenizer does not know may be known to the
other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ModelError
from raykd.models.identity import describe_tokenizer
from raykd.text.alignment import NOWHERE
from raykd.tokenizers.canonical import CanonicalVocabulary, list_canonical_tokens, toggle_blank

if TYPE_CHECKING:
    from raykd.text.tokens import Tokenizer

ROLES = ("eos", "bos", "pad", "unk", "mask", "sep", "cls")
_INSTEAD = {"eos": "sep", "bos": "cls"}


@dataclass(frozen=True)
class VocabularyOverlap:
    """The tokens that two vocabularies share. Made by `compute_overlap`.

    Attributes:
        ids_T: For each id of the teacher, the student's id of the same string, or -1. No student id occurs twice.
        teacher_share: Matched tokens over all tokens of the teacher's vocabulary.
    """

    ids_T: NDArray[np.int32]
    teacher_share: float


def is_same_tokenizer(a: Tokenizer, b: Tokenizer) -> bool:
    """Return whether both give every text the same ids and end it with the same id, by their serialised content.

    Padding and the names of the model's inputs do not count. Different contents may still be equivalent; then this is
    False, and `compute_overlap` matches every token.

    Raises:
        ModelError: One of them has no serialised form.
    """
    if a is b:
        return True
    if type(a) is type(b) and len(a) != len(b):
        return False
    ends = [map_special_tokens(tokenizer).get("eos") for tokenizer in (a, b)]
    return _describe_ids(a) == _describe_ids(b) and ends[0] == ends[1]


def _describe_ids(tokenizer: Tokenizer) -> dict[str, object]:
    """Return the part of a tokenizer's serialised content that decides the ids of ordinary text."""
    content = describe_tokenizer(tokenizer)
    return {key: value for key, value in content.items() if key not in ("specials", "inputs", "pad")}


def count_token_ids(tokenizer: Tokenizer) -> int:
    """Return the highest id that the tokenizer can give, plus 1; a head may have more rows."""
    if hasattr(tokenizer, "get_vocab"):
        return int(max(tokenizer.get_vocab().values(), default=-1)) + 1
    return len(tokenizer)


def check_padding(tokenizer: Tokenizer, rows_of_logits: int) -> int:
    """Return how many columns of a head's logits to keep *before* the softmax; the rest is padding.

    Args:
        tokenizer: The model's.
        rows_of_logits: Rows of its output head.

    Raises:
        ModelError: The head has fewer rows than the tokenizer has ids.
    """
    size = count_token_ids(tokenizer)
    if rows_of_logits < size:
        raise ModelError(
            "the model's output head does not fit its tokenizer",
            got=f"{rows_of_logits} rows, {size} token ids",
            wanted="at least a row for each id",
            next_step="resize the head (resize_token_embeddings), or give the tokenizer the model was trained with",
        )
    return size


def map_special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Return ids of the special tokens by role; ``sep`` stands in for a missing ``eos``, ``cls`` for ``bos``."""
    found = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ROLES}
    for role, instead in _INSTEAD.items():
        if found[role] is None:
            found[role] = found[instead]
    return {role: int(i) for role, i in found.items() if i is not None}


def compute_overlap(teacher: Tokenizer, student: Tokenizer) -> VocabularyOverlap:
    """Match the tokens of two vocabularies one to one.

    If several tokens of one tokenizer have one key, those with equal spelling in both are matched first, then by id.
    Between a tokenizer that marks blanks and one that marks continued words, a character that is always a token of its
    own (``,``) matches the other's token without a blank before it, or else the one with a blank.

    Raises:
        ModelError: As `raykd.tokenizers.canonical.detect_marking`.
    """
    T, S = list_canonical_tokens(teacher), list_canonical_tokens(student)
    ids_T = np.full(T.size, NOWHERE, dtype=np.int32)
    roles_T, roles_S = map_special_tokens(teacher), map_special_tokens(student)
    for role in ROLES:
        i, j = roles_T.get(role, NOWHERE), roles_S.get(role, NOWHERE)
        if NOWHERE not in (i, j) and ids_T[i] == NOWHERE and j not in ids_T:
            ids_T[i] = j
    _match(ids_T, T, S, T.keys)
    if T.marking.style != S.marking.style:
        words = T.marking if T.marking.style == "word" else S.marking
        # A key that cannot be toggled becomes b"". It keeps its old value, with which it has been matched already.
        _match(ids_T, T, S, [toggle_blank(key, words) or key for key in T.keys])
    count = int((ids_T != NOWHERE).sum())
    return VocabularyOverlap(ids_T, count / max(1, len(T.ids)))


def _match(
    ids_T: NDArray[np.int32], T: CanonicalVocabulary, S: CanonicalVocabulary, keys: list[bytes]
) -> None:
    """Match the teacher's unmatched tokens with the student's unmatched tokens of the same key, in place.

    Args:
        ids_T: The matches so far, for each id of the teacher.
        T: The teacher's vocabulary.
        S: The student's vocabulary.
        keys: A key for each of the teacher's tokens.
    """
    mapped = ids_T.tolist()
    taken = set(mapped)
    waiting = [n for n, i in enumerate(T.ids) if mapped[i] == NOWHERE]
    free = [n for n, j in enumerate(S.ids) if j not in taken]
    keys_T, keys_S = [keys[n] for n in waiting], [S.keys[n] for n in free]
    several = _find_repeated(keys_T) | _find_repeated(keys_S)
    single = {key: S.ids[n] for key, n in zip(keys_S, free, strict=True) if key not in several}
    ids_T[[T.ids[n] for n in waiting]] = [single.get(key, NOWHERE) for key in keys_T]
    if several:
        spelt = {(key, S.tokens[n]): S.ids[n] for key, n in zip(keys_S, free, strict=True) if key in several}
        later = [(T.ids[n], key) for key, n in zip(keys_T, waiting, strict=True) if key in several]
        spellings = dict(zip(T.ids, T.tokens, strict=True))
        for i, key in later:
            ids_T[i] = spelt.pop((key, spellings[i]), NOWHERE)
        left: dict[bytes, list[int]] = {}
        for (key, _), j in spelt.items():
            left.setdefault(key, []).append(j)
        for i, key in later:
            if ids_T[i] == NOWHERE and left.get(key):
                ids_T[i] = left[key].pop(0)


def _find_repeated(keys: list[bytes]) -> set[bytes]:
    return {key for key, count in Counter(keys).items() if count > 1}
