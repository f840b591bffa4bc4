"""What two vocabularies have in common: the same one, the same ids, the same strings.

Decision record: vocabularies are compared by content, because sizes prove nothing: two models of one family
pad their heads differently, and two tokenizers of one size need not share a string. Tokens of different
vocabularies are the same where their canonical keys are (`raykd.tokenizers.canonical`). Special tokens
match by role first (a decoder of BERT's kind ends with `sep`), then by string. The two `unk` are one role but not one
event: texts unknown to the one may be known to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ModelError
from raykd.models.identity import describe_tokenizer
from raykd.text.alignment import NOWHERE
from raykd.tokenizers.canonical import CanonicalVocabulary, list_canonical_tokens, toggle_blank

ROLES = ("eos", "bos", "pad", "unk", "mask", "sep", "cls")
_INSTEAD = {"eos": "sep", "bos": "cls"}


@dataclass(frozen=True)
class VocabularyOverlap:
    """What `overlap` found.

    ids_T: for each id of the teacher the student's id of the same string, or -1; int32. No student id twice.
    teacher_share, student_share: mapped tokens over all tokens of each vocabulary.
    """

    ids_T: NDArray[np.int32]
    teacher_share: float
    student_share: float


def same_tokenizer(a: Any, b: Any) -> bool:
    """Whether both give every text the same ids and end it with the same one, by their serialised content.

    Padding and the names of the model's inputs do not count. Two contents that differ may still be equivalent;
    then this is False, and `overlap` maps everything.

    Raises:
        ModelError: a tokenizer without a serialised form.
    """
    if a is b:
        return True
    if type(a) is type(b) and len(a) != len(b):
        return False
    return _decisive(a) == _decisive(b) and map_special_tokens(a).get("eos") == map_special_tokens(b).get(
        "eos"
    )


def _decisive(tokenizer: Any) -> dict[str, Any]:
    content = describe_tokenizer(tokenizer)
    return {key: value for key, value in content.items() if key not in ("specials", "inputs", "pad")}


def true_size(tokenizer: Any) -> int:
    """The highest id the tokenizer can give, plus 1; a head may have more rows."""
    if hasattr(tokenizer, "get_vocab"):
        return int(max(tokenizer.get_vocab().values(), default=-1)) + 1
    return len(tokenizer)


def check_padding(tokenizer: Any, rows_of_logits: int) -> int:
    """How many columns of a head's logits to keep *before* the softmax: `true_size`; the rest is padding.

    Raises:
        ModelError: the head has fewer rows than the tokenizer has ids.
    """
    size = true_size(tokenizer)
    if rows_of_logits < size:
        raise ModelError(
            "the model's output head does not fit its tokenizer",
            got=f"{rows_of_logits} rows, {size} token ids",
            wanted="at least a row for each id",
            next_step="resize the head (resize_token_embeddings), or give the tokenizer the model was trained with",
        )
    return size


def map_special_tokens(tokenizer: Any) -> dict[str, int]:
    """Ids of the special tokens by role; ``eos`` is ``sep`` and ``bos`` is ``cls`` where there is no other."""
    found = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ROLES}
    for role, instead in _INSTEAD.items():
        if found[role] is None:
            found[role] = found[instead]
    return {role: int(i) for role, i in found.items() if i is not None}


def overlap(teacher: Any, student: Any) -> VocabularyOverlap:
    """Teacher id -> student id of the same string, one to one, and how much of both vocabularies that is.

    Where several tokens of one tokenizer have one key, those spelt alike in both are matched first, then the
    lower id. Between a tokenizer that marks blanks and one that marks continued words, a sign that stands
    alone (``,``) matches the other's token without a blank before it, or failing that the one with.

    Raises:
        ModelError: as `raykd.tokenizers.canonical.marking`.
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
        # Keys that turn into nothing stay as they are: they have found what there is.
        _match(ids_T, T, S, [toggle_blank(key, words) or key for key in T.keys])
    count = int((ids_T != NOWHERE).sum())
    return VocabularyOverlap(ids_T, count / max(1, len(T.ids)), count / max(1, len(S.ids)))


def _match(
    ids_T: NDArray[np.int32], T: CanonicalVocabulary, S: CanonicalVocabulary, keys: list[bytes]
) -> None:
    """Maps the teacher's tokens that are not mapped yet to the student's of these keys that are still free."""
    mapped = ids_T.tolist()
    taken = set(mapped)
    waiting = [n for n, i in enumerate(T.ids) if mapped[i] == NOWHERE]
    free = [n for n, j in enumerate(S.ids) if j not in taken]
    keys_T, keys_S = [keys[n] for n in waiting], [S.keys[n] for n in free]
    several = _repeated(keys_T) | _repeated(keys_S)
    single = {key: S.ids[n] for key, n in zip(keys_S, free, strict=True)}
    for key in several:
        single.pop(key, None)
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


def _repeated(keys: list[bytes]) -> set[bytes]:
    if len(set(keys)) == len(keys):
        return set()
    seen: set[bytes] = set()
    several: set[bytes] = set()
    for key in keys:
        (several if key in seen else seen).add(key)
    return several
