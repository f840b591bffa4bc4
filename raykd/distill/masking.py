"""Choose the tokens of a text that are masked, as a pure function of the text.

Decision record: the choice depends on the text's key and a seed, not on a generator's state. So teacher and student, in
whatever process, hide the same places, and an answer can be stored. The module is in this room because tokenizers,
tasks and students all use its roles of tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

ROLES = ("pad", "unk", "cls", "sep", "mask")
"""Roles for which every tokenizer of a masked language model has a token; ids 0 to 4 in a union of vocabularies."""


def mask_positions(
    ids_L: Sequence[int] | NDArray[np.int64],
    text_key: str | bytes,
    epoch_seed: int,
    share: float = 0.15,
    *,
    special_ids: Iterable[int] = range(len(ROLES)),
) -> NDArray[np.int64]:
    """Choose which of the L tokens to hide: ``round(share * n)`` of the n that are no specials, at least one.

    A pure function: the same text key, seed and specials' places give the same positions in every process, and
    with the member's ids the same as with the union's.

    Args:
        ids_L: The text's tokens.
        text_key: Names the text: itself, or a hash of it.
        epoch_seed: A new one each epoch hides other places.
        share: Share of tokens to hide; 0.15 is BERT's (arXiv:1810.04805).
        special_ids: Ids of `ROLES` in the vocabulary of ``ids_L``.

    Returns:
        Positions, rising; empty where there is nothing to hide.

    Raises:
        ValueError: The share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is above 0 and at most 1, got {share}")
    places = np.flatnonzero(~np.isin(np.asarray(ids_L, dtype=np.int64), list(special_ids)))
    if not len(places):
        return places
    key = text_key.encode("utf-8", "surrogatepass") if isinstance(text_key, str) else text_key
    seed = hashlib.sha256(f"mask {epoch_seed} ".encode() + key).digest()[:8]
    order = np.argsort(_hash_places(int.from_bytes(seed, "little"), places), kind="stable")
    return np.sort(places[order[: max(1, round(share * len(places)))]])


def replace_tokens(
    ids_H: NDArray[np.int64],
    places_H: NDArray[np.int64],
    text_key: str,
    epoch_seed: int,
    mask_id: int,
    random_ids: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return what stands at the H places that are to be guessed, as BERT was trained (arXiv:1810.04805).

    80 of 100 become the mask token, 10 a random one, 10 stay: a model that is trained further sees no mask token then.

    Args:
        ids_H: The tokens that stand there.
        places_H: Their places in the text.
        text_key: Names the text.
        epoch_seed: A new one draws anew.
        mask_id: The mask token.
        random_ids: The tokens that a random one is chosen from.
    """
    key = f"replace {epoch_seed} ".encode() + text_key.encode("utf-8", "surrogatepass")
    seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "little")
    drawn_H = _hash_places(seed, places_H)
    kind_H = drawn_H % np.uint64(10)
    chosen_H = random_ids[((drawn_H // np.uint64(10)) % np.uint64(len(random_ids))).astype(np.int64)]
    replaced: NDArray[np.int64] = np.select([kind_H < 8, kind_H == 8], [mask_id, chosen_H], ids_H)
    return replaced


def _hash_places(seed: int, places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash places with splitmix64, so that the numbers do not depend on how many places there are."""
    with np.errstate(over="ignore"):
        mixed = np.uint64(seed) + places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        scrambled: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return scrambled
