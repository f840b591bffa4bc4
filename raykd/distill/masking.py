"""Which tokens of a text are masked: a pure function of the text.

Decision record: it is a function of the text's key and a seed, not of a generator's state: teacher and student, in
whatever process, hide the same places, and an answer can be stored. It is here because tokenizers, tasks and students
all name the same roles of tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

ROLES = ("pad", "unk", "cls", "sep", "mask")
"""What every tokenizer of a masked language model has a token for; their ids in a union of vocabularies are 0 to 4."""


def mask_positions(
    ids_L: Sequence[int] | NDArray[np.int64],
    text_key: str | bytes,
    epoch_seed: int,
    share: float = 0.15,
    *,
    special_ids: Iterable[int] = range(len(ROLES)),
) -> NDArray[np.int64]:
    """Which of the L tokens to hide, in order: ``round(share * n)`` of the n that are no specials, at least one.

    A pure function: the same text key, seed and specials' places give the same positions in every process, and
    with the member's ids the same as with the union's. Empty where there is nothing to hide.

    Args:
        text_key: what names the text: itself, or a hash of it.
        epoch_seed: another one each epoch hides other places.
        share: 0.15 is BERT's (arXiv:1810.04805).
        special_ids: of the vocabulary ``ids_L`` is in; those of `ROLES`.

    Raises:
        ValueError: a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is above 0 and at most 1, got {share}")
    places = np.flatnonzero(~np.isin(np.asarray(ids_L, dtype=np.int64), list(special_ids)))
    if not len(places):
        return places
    key = text_key.encode("utf-8", "surrogatepass") if isinstance(text_key, str) else text_key
    seed = hashlib.sha256(f"mask {epoch_seed} ".encode() + key).digest()[:8]
    order = np.argsort(_scrambled(int.from_bytes(seed, "little"), places), kind="stable")
    return np.sort(places[order[: max(1, round(share * len(places)))]])


def _scrambled(seed: int, places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """splitmix64's numbers of these places: independent of each other and of how many there are."""
    with np.errstate(over="ignore"):
        mixed = np.uint64(seed) + places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        scrambled: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return scrambled
