"""Find what a masked language model puts in the place of words.

Decision record: only the output at the masked place is multiplied by the vocabulary, because the logits of whole texts
would be the largest tensor by far. A token is a word if its text is one word and the tokenizer makes that token of it,
so pieces inside words are left out whatever the tokenizer's marks are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raykd.errors import ModelError
from raykd.models.lm import Headless
from raykd.models.loading import load_model
from raykd.text.words import find_word_spans, is_lexical, is_unspaced

if TYPE_CHECKING:
    from raykd.text.tokens import Tokenizer

log = logging.getLogger("raykd.data")
AT_ONCE = 4096
"""Tokens in a forward pass, padding included."""
LOOKED_AT = 4
"""So many times `top_k` tokens are looked at for words."""


def predict_words(
    folder: Path, texts: Sequence[str], places: Sequence[tuple[int, int, int]], top_k: int
) -> list[tuple[str, ...]]:
    """Return the most probable words at each place, the most probable first; never the word that stands there.

    Args:
        folder: The masked language model's.
        texts: The texts.
        places: The text, and begin and end of a word in it, in characters. The word is masked alone.
        top_k: Words for a place, at most; () where the text is cut off before it.

    Raises:
        ModelError: It is no masked language model.
    """
    loaded = load_model(folder, head="masked_lm", dtype=torch.float32)
    tokenizer: Any = loaded.tokenizer
    mask = tokenizer.mask_token
    if mask is None:
        raise ModelError(
            f"{folder} cannot replace words: its tokenizer has no mask", wanted="a masked language model"
        )
    longest = min(n for n in (512, loaded.max_length, tokenizer.model_max_length) if n)
    masked = [f"{texts[at][:begin]}{mask}{texts[at][end:]}" for at, begin, end in places]
    encoded = [tokenizer(text, truncation=True, max_length=longest)["input_ids"] for text in masked]
    usable = [i for i, ids in enumerate(encoded) if ids.count(tokenizer.mask_token_id) == 1]
    log.info("replacing words: %d places in %d texts by %s", len(usable), len(texts), folder)
    found: list[tuple[str, ...]] = [()] * len(places)
    network, words = Headless(loaded.model.eval()), _WordNames(loaded.tokenizer)
    order = sorted(usable, key=lambda i: (len(encoded[i]), i))
    while order:
        picked = order[: max(1, AT_ONCE // len(encoded[order[0]]))]
        picked = picked[: max(1, AT_ONCE // len(encoded[picked[-1]]))]
        order = order[len(picked) :]
        for i, ids in zip(
            picked, _rank(network, tokenizer, [encoded[i] for i in picked], top_k), strict=True
        ):
            at, begin, end = places[i]
            own = texts[at][begin:end].casefold()
            names = dict.fromkeys(word for word in map(words.find, ids) if word and word.casefold() != own)
            found[i] = tuple(names)[:top_k]
    return found


@torch.no_grad()
def _rank(network: Headless, tokenizer: Any, encoded: Sequence[list[int]], top_k: int) -> list[list[int]]:
    """Return the most probable tokens at the mask of each sequence."""
    batch = tokenizer.pad({"input_ids": list(encoded)}, return_tensors="pt")
    place_S = (batch["input_ids"] == tokenizer.mask_token_id).int().argmax(dim=1)
    hidden_SLD = network(**batch).hidden
    logits_SV = network.head.logits(hidden_SLD[torch.arange(len(place_S)), place_S])
    ids: list[list[int]] = logits_SV.topk(min(LOOKED_AT * top_k, logits_SV.shape[1])).indices.tolist()
    return ids


class _WordNames:
    """The words that tokens are."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer: Any = tokenizer
        self._known: dict[int, str] = {}

    def find(self, token: int) -> str:
        """Return the word that a token is; "" where it is a piece, a sign or a special token."""
        if token not in self._known:
            self._known[token] = self._name(token)
        return self._known[token]

    def _name(self, token: int) -> str:
        word = str(self._tokenizer.decode([token])).strip()
        if token in self._tokenizer.all_special_ids or not is_lexical(word):
            return ""
        if find_word_spans(word).tolist() != [[0, len(word)]]:
            return ""
        # Behind a blank, because many tokenizers have other tokens for the rest of a word.
        text = word if is_unspaced(word[0]) else f" {word}"
        return word if self._tokenizer(text, add_special_tokens=False)["input_ids"] == [token] else ""
