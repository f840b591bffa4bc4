"""The union of vocabularies: totality, order, the saved form; and masking as a pure function."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from raykd.distill.masking import ROLES, mask_positions
from raykd.errors import DataError, ModelError
from raykd.models.vocabulary import count_token_ids
from raykd.tasks import base as protocol
from raykd.tokenizers.canonical import SPECIAL, list_canonical_tokens
from raykd.tokenizers.union import FILE, UnionTokenizer
from raykd.tokenizers.wordpiece import train_wordpiece

TEXTS = {
    "en": ["The cat sat on the mat.", "Hello world, how are you?"],
    "zh": ["我们喜欢猫。今天天气很好。", "你好，世界！the cat"],
    "fr": ["L'été est là, déjà.", "Où est la gare ? the chat"],
}


@cache
def monolingual(language: str) -> PreTrainedTokenizerFast:
    return train_wordpiece(
        TEXTS[language] * 3, vocab_size=120, lowercase=False, max_length=64, token_types=True
    )


@cache
def roberta() -> PreTrainedTokenizerFast:
    """Byte-level, with other names for the roles and no token types."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    names = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS["fr"] * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    specials: dict[str, Any] = {f"{role}_token": token for role, token in names.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **specials
    )


@cache
def union(mixed: bool = False) -> UnionTokenizer:
    members = [monolingual("en"), monolingual("zh"), roberta() if mixed else monolingual("fr")]
    return UnionTokenizer(members, {"en": 0, "zh": 1, "fr": 2}, default="en")


@pytest.mark.parametrize("mixed", [False, True])
def test_maps_are_total_one_to_one_and_share_equal_strings(mixed: bool) -> None:
    tokenizer = union(mixed)
    key_of: dict[int, bytes] = {}
    id_of: dict[bytes, int] = {}
    for member, ids in zip(tokenizer.members, tokenizer.maps, strict=True):
        assert ids.min() >= 0 and len(ids) == count_token_ids(member) and len(set(ids.tolist())) == len(ids)
        for i, key in list_canonical_tokens(member).by_id().items():
            if key[:1] != SPECIAL:
                assert (
                    key_of.setdefault(int(ids[i]), key) == key
                    and id_of.setdefault(key, int(ids[i])) == ids[i]
                )
        assert [int(ids[getattr(member, f"{role}_token_id")]) for role in ROLES] == [0, 1, 2, 3, 4]
    reached = set(np.concatenate(tokenizer.maps).tolist())
    assert reached == set(range(len(tokenizer))) and count_token_ids(tokenizer) == len(tokenizer)
    assert len(tokenizer) < sum(map(len, tokenizer.maps)) - 2 * len(ROLES)


def test_texts_are_cut_by_their_languages_tokenizer() -> None:
    tokenizer = union(True)
    texts = ["the cat", "我们 the cat", "the chat", "the mat"]
    found = tokenizer(texts, languages=["en", "zh", "fr", None], truncation=True, max_length=6)
    for text, row, k in zip(texts, found["input_ids"], (0, 1, 2, 0), strict=True):
        own = tokenizer.members[k](text, truncation=True, max_length=6)["input_ids"]
        assert row == tokenizer.maps[k][own].tolist() and row[0] == 2 and row[-1] == 3 and len(row) <= 6
    assert sorted(found) == ["attention_mask", "input_ids"]
    assert found["input_ids"][0][1] == found["input_ids"][3][1]
    pairs = union()(["the", "你好"], ["cat", "猫"], languages=["en", "zh"], return_offsets_mapping=True)
    assert pairs["token_type_ids"][1] == [0, 0, 0, 0, 1, 1] and pairs["offset_mapping"][1][4] == (0, 1)


def test_without_languages_it_is_called_like_any_tokenizer() -> None:
    tokenizer: protocol.Tokenizer = union()
    found = tokenizer(["the cat", "the mat . . . ."], None, truncation=True, max_length=5)
    assert [len(row) for row in found["input_ids"]] == [len(row) for row in found["attention_mask"]]
    assert max(map(len, found["input_ids"])) == 5 and tokenizer.pad_token_id == 0


def test_a_language_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(DataError, match=r"de\n.*en, fr, zh"):
        union()(["x"], languages=["de"])
    alone = UnionTokenizer([monolingual("en")], {"en": 0})
    with pytest.raises(DataError, match="no language"):
        alone(["x"])


def test_members_that_cannot_be_joined_are_refused() -> None:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match="needs a pad token of its own"):
        UnionTokenizer([PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")], {"en": 0})
    for languages, default in (({"en": 1}, None), ({"en": 0}, "fr")):
        with pytest.raises(ValueError, match=r"en"):
            UnionTokenizer([monolingual("en")], languages, default=default)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_saved_union_is_the_same(mixed: bool, tmp_path: Path) -> None:
    first = union(mixed)
    first.save_pretrained(tmp_path)
    again = UnionTokenizer.from_pretrained(tmp_path)
    assert again.content() == first.content() and again.digest() == first.digest()
    for language, texts in TEXTS.items():
        spoken = {"languages": [language] * len(texts), "return_special_tokens_mask": True}
        assert again(texts, **spoken) == first(texts, **spoken)


def test_a_union_that_is_numbered_otherwise_or_broken_is_refused(tmp_path: Path) -> None:
    union().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    for broken in ({"digest": "0"}, {"format": 9}, {"union": [{"backend": {}}]}):
        (tmp_path / FILE).write_text(json.dumps({**saved, **broken}), encoding="utf-8")
        with pytest.raises(ModelError, match="cannot be read"):
            UnionTokenizer.from_pretrained(tmp_path)


# --- masking


@given(st.lists(st.integers(0, 30), max_size=60), st.text(max_size=8), st.integers(0, 5), st.floats(0.01, 1))
@settings(max_examples=100, deadline=None)
def test_masked_places_are_so_many_and_never_specials(
    ids: list[int], key: str, seed: int, share: float
) -> None:
    places = mask_positions(ids, key, seed, share)
    maskable = [i for i, token in enumerate(ids) if token > 4]
    assert len(places) == (max(1, round(share * len(maskable))) if maskable else 0)
    assert set(places.tolist()) <= set(maskable) and places.tolist() == sorted(set(places.tolist()))
    np.testing.assert_array_equal(
        places, mask_positions([t + 1 if t > 4 else t for t in ids], key.encode(), seed, share)
    )


def test_member_and_union_hide_the_same_places() -> None:
    for language, texts in TEXTS.items():
        k = union(True).languages[language]
        member = union(True).members[k]
        for text in texts:
            own = member(text)["input_ids"]
            theirs = mask_positions(
                own, text, 3, special_ids=[getattr(member, f"{r}_token_id") for r in ROLES]
            )
            np.testing.assert_array_equal(theirs, mask_positions(union(True).maps[k][own], text, 3))


def test_masking_is_even_over_places_texts_and_epochs() -> None:
    counts = np.zeros(40)
    for text in range(100):
        for epoch in range(10):
            counts[mask_positions(np.full(40, 9), f"text {text}", epoch)] += 1
    # Binomial(1000, 6 / 40): mean 150, deviation 11.3; the most extreme of 40 stays within four deviations.
    assert counts.sum() == 6000 and abs(counts - 150).max() < 45
    assert len({mask_positions(np.full(40, 9), "one text", epoch).tobytes() for epoch in range(10)}) == 10


def test_masking_is_the_same_in_another_process() -> None:
    code = "from raykd.distill.masking import mask_positions as m; print(m(range(5, 45), 'é中', 7).tolist())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == mask_positions(range(5, 45), "é中", 7).tolist()


def test_a_share_must_hide_something() -> None:
    with pytest.raises(ValueError, match="share"):
        mask_positions([9], "x", 0, 0.0)
