"""Common strings and common places of tokenizers of three kinds, against slow references and by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from raykd.errors import ModelError
from raykd.models.vocabulary import (
    check_padding,
    compute_overlap,
    count_token_ids,
    is_same_tokenizer,
    map_special_tokens,
)
from raykd.text.alignment import NOWHERE, align_units, find_start_offsets
from raykd.tokenizers.bytepair import train_bytepair
from raykd.tokenizers.canonical import (
    BEGINS,
    DEAD,
    SPECIAL,
    WITHIN,
    detect_marking,
    find_comparable_offsets,
    list_canonical_tokens,
)
from raykd.tokenizers.ngrams import HashedNgrams
from raykd.tokenizers.wordpiece import train_wordpiece

SENTENCES = (
    "The cat sat on the mat, and the dog ran to the park.",
    "Hello world, how are you today? I am fine (thanks).",
    "我们喜欢猫。今天天气很好，我们去公园。",
    "你好，世界！这是一个测试。",
    "L'été est là, déjà : le chat dort sur le tapis.",
    "Où est la gare ? Elle est près du marché.",
)


def _flat(rows: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    empty = np.zeros(0, dtype=np.int64)
    return np.concatenate([empty, *rows]), np.asarray([len(row) for row in rows], dtype=np.int64)


def align(
    teacher_rows: Sequence[NDArray[np.int64]],
    student_rows: Sequence[NDArray[np.int64]],
) -> NDArray[np.int64]:
    """`align_units` of one array of offsets a row."""
    return align_units(*_flat(teacher_rows), *_flat(student_rows))


def wrapped(backend: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    end = names.get("eos_token") or names["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, backend.token_to_id(end))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@cache
def byte_level(size: int = 330) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 3, trainer)
    return wrapped(backend, eos_token="<|end|>", unk_token="<|end|>")


@cache
def unigram() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=160, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False
    )
    backend.train_from_iterator(SENTENCES * 3, trainer)
    return wrapped(backend, eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


@cache
def wordpiece(lowercase: bool = False) -> PreTrainedTokenizerFast:
    return train_wordpiece(
        SENTENCES * 3, vocab_size=260, lowercase=lowercase, max_length=None, token_types=True
    )


@cache
def characters() -> PreTrainedTokenizerFast:
    return train_bytepair(SENTENCES * 3, vocab_size=600, max_length=None, closed=True)


def spelled(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """SentencePiece's byte-pair tokenizer, which falls back on bytes, with this vocabulary."""
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens(["</s>", "<unk>"])
    return wrapped(backend, eos_token="</s>", unk_token="<unk>")


def bert(*words: str, **names: str) -> PreTrainedTokenizerFast:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(
        models.WordPiece({t: i for i, t in enumerate([*specials, *words])}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(specials)
    names = names or {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return wrapped(backend, **names)


KINDS = {"byte-level": byte_level, "metaspace": unigram, "wordpiece": wordpiece, "characters": characters}


def starts(tokenizer: PreTrainedTokenizerFast, text: str) -> np.ndarray:
    row = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    return find_start_offsets(row["offset_mapping"], text, row["special_tokens_mask"])


def target(tokenizer: PreTrainedTokenizerFast, text: str) -> np.ndarray:
    """Offsets of the units: all tokens but a leading special."""
    found = starts(tokenizer, text)
    return found[1:] if tokenizer.cls_token else found


# --- the same tokenizer, padded heads


def test_the_same_tokenizer_is_told_by_content_and_not_by_size_or_padding() -> None:
    first, second = bert("cat", "dog"), bert("cat", "dog")
    assert is_same_tokenizer(first, second)
    second.pad_token, second.model_input_names = "[MASK]", ["input_ids"]
    first("cat", truncation=True, max_length=4)
    assert is_same_tokenizer(first, second)
    assert not is_same_tokenizer(first, bert("dog", "cat"))
    assert not is_same_tokenizer(wordpiece(), wordpiece(lowercase=True))
    assert not is_same_tokenizer(wordpiece(), byte_level())


def test_a_tokenizer_that_ends_otherwise_is_another_one() -> None:
    other = bert("cat", unk_token="[UNK]", sep_token="[SEP]", eos_token="[SEP]")
    assert is_same_tokenizer(bert("cat"), other)
    assert not is_same_tokenizer(bert("cat"), bert("cat", unk_token="[UNK]", eos_token="[MASK]"))


def test_a_padded_head_is_cut_to_what_the_tokenizer_can_give() -> None:
    tokenizer = bert("cat", "dog")
    assert count_token_ids(tokenizer) == 7 == check_padding(tokenizer, 64) == check_padding(tokenizer, 7)
    assert count_token_ids(HashedNgrams(buckets=99)) == 99
    with pytest.raises(ModelError, match="6 rows, 7 token ids"):
        check_padding(tokenizer, 6)


# --- canonical tokens


def test_canonical_keys_by_hand() -> None:
    def keyed(tokenizer: Any, *tokens: str) -> list[bytes]:
        keys = list_canonical_tokens(tokenizer).by_id()
        return [keys[tokenizer.convert_tokens_to_ids(token)] for token in tokens]

    words = bert("the", "##the", "中", "##中", ",", "##,", "Été")
    assert keyed(words, "the", "##the", "中", "##中", ",", "##,", "Été", "[SEP]") == [
        BEGINS + b"the", WITHIN + b"the", WITHIN + "中".encode(), DEAD + "中".encode(), WITHIN + b",", DEAD + b",",
        BEGINS + "Été".encode(), SPECIAL + b"[SEP]",
    ]  # fmt: skip
    assert keyed(byte_level(), "Ġ", "Ċ", "a", "ä") == [
        BEGINS,
        WITHIN + b"\n",
        WITHIN + b"a",
        WITHIN + b"\xe4",
    ]
    pieces = spelled({"<unk>": 0, "</s>": 1, "<0xE4>": 2, "▁the": 3, "the": 4, "▁▁": 5})
    assert keyed(pieces, "<0xE4>", "▁the", "the", "▁▁", "</s>") == [
        WITHIN + b"\xe4", BEGINS + b"the", WITHIN + b"the", BEGINS + b" ", SPECIAL + b"</s>",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "characters"])
@given(text=st.lists(st.sampled_from(" ".join(SENTENCES).split()), min_size=1, max_size=8).map(" ".join))
@settings(max_examples=25, deadline=None)
def test_the_keys_of_a_texts_tokens_spell_the_text(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    keys = list_canonical_tokens(tokenizer).by_id()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    spelt = b"".join((b" " if keys[i][:1] == BEGINS else b"") + keys[i][1:] for i in ids)
    assert spelt.decode() == (" " if detect_marking(tokenizer).first else "") + text


def test_how_words_are_marked_is_tried_out() -> None:
    assert [(detect_marking(KINDS[k]()).style, detect_marking(KINDS[k]()).marker, detect_marking(KINDS[k]()).first) for k in KINDS] == [
        ("blank", "Ġ", False), ("blank", "▁", True), ("word", "##", True), ("blank", " ", False)
    ]  # fmt: skip
    assert detect_marking(wordpiece()).stands_alone("中") and not detect_marking(wordpiece()).stands_alone(
        "é"
    )
    suffixed = Tokenizer(models.BPE(vocab={"a</w>": 0, "</s>": 1}, merges=[], end_of_word_suffix="</w>"))
    suffixed.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match="marks neither blanks nor continued words"):
        detect_marking(wrapped(suffixed, eos_token="</s>"))
    with pytest.raises(ModelError, match="no vocabulary to compare"):
        detect_marking(HashedNgrams())


# --- common strings


@pytest.mark.parametrize("teacher", KINDS)
@pytest.mark.parametrize("student", KINDS)
def test_mapped_tokens_have_one_key_and_no_student_id_is_hit_twice(teacher: str, student: str) -> None:
    a, b = KINDS[teacher](), KINDS[student]()
    found = compute_overlap(a, b)
    keys_a, keys_b, named = (
        list_canonical_tokens(a).by_id(),
        list_canonical_tokens(b).by_id(),
        set(map_special_tokens(a).values()),
    )
    hit = found.ids_T[found.ids_T >= 0]
    assert found.ids_T.dtype == np.int32 and len(found.ids_T) == count_token_ids(a)
    assert len(set(hit.tolist())) == len(hit)
    assert found.teacher_share == len(hit) / len(keys_a)
    for i in np.flatnonzero(found.ids_T >= 0):
        key_a, key_b = keys_a[int(i)], keys_b[int(found.ids_T[i])]
        assert (
            int(i) in named
            or key_a == key_b
            or (key_a[1:] == key_b[1:] and detect_marking(a).style != detect_marking(b).style)
        )
    # Nothing that could have been mapped was left out.
    left_b = {key for i, key in keys_b.items() if i not in set(hit.tolist())}
    assert not left_b & {keys_a[i] for i in keys_a if found.ids_T[i] < 0}
    assert found.ids_T[map_special_tokens(a)["eos"]] == map_special_tokens(b)["eos"]
    if teacher == student:
        np.testing.assert_array_equal(found.ids_T, np.arange(count_token_ids(a)))


def test_a_map_by_hand() -> None:
    teacher = bert("the", "The", "##s", ",", "(", "zebra", "中", "##,")
    student = spelled({t: i for i, t in enumerate(
        ["<unk>", "</s>", "▁The", "s", "▁s", "<0x2C>", ",", "▁(", "中", "▁the", "the", "[UNK]"]
    )})  # fmt: skip
    named = student.convert_ids_to_tokens
    mapped = [None if j < 0 else named(int(j)) for j in compute_overlap(teacher, student).ids_T]
    #        [PAD] [UNK]  [CLS]  [SEP]   [MASK]   the     The    ##s  ,    (    zebra  中   ##,
    assert mapped == [None, "<unk>", None, "</s>", None, "▁the", "▁The", "s", ",", "▁(", None, "中", None]


def test_tokens_of_one_key_are_told_apart_by_their_spelling() -> None:
    teacher = spelled({"<unk>": 0, "</s>": 1, "<0x41>": 2, "A": 3})
    student = spelled({"<unk>": 0, "</s>": 1, "A": 2, "<0x41>": 3})
    assert compute_overlap(teacher, student).ids_T.tolist() == [0, 1, 3, 2]
    to_bytes = compute_overlap(teacher, byte_level()).ids_T
    assert to_bytes[3] == byte_level().convert_tokens_to_ids("A") and to_bytes[2] == -1


# --- common places


def test_offsets_by_hand() -> None:
    text = "Hi  中🙂\nthe"
    #                    H    i    Ġ    Ġ中.. 中  |--- 🙂 ---|  Ċ  the
    assert target(byte_level(258), "Hi")[-3:].tolist() == [0, 1, 2]
    found = target(byte_level(), text)
    tokens = byte_level().tokenize(text)
    assert len(found) == len(tokens) + 1 and found[-1] == len(text)
    own = found[found > NOWHERE].tolist()
    assert own == sorted(set(own)) and not set(own) & {2, 3, 6}  # never a blank's own place
    assert {0, 4, 5, 7} <= set(own)
    assert target(unigram(), "a a").tolist()[-1] == 3


def test_a_token_that_begins_inside_a_character_begins_nowhere() -> None:
    # Three tokens of two characters: ab|cd|ef as bytes, of which the second reaches into the second character.
    offsets = [(0, 1), (0, 2), (1, 2), (0, 0)]
    assert find_start_offsets(offsets, "中国", [0, 0, 0, 1]).tolist() == [0, NOWHERE, NOWHERE, 2]


def test_the_end_begins_at_the_texts_length_unless_the_row_is_truncated() -> None:
    assert find_start_offsets([(0, 0), (0, 2), (0, 0), (0, 0)], "ab  ", [1, 0, 1, 1]).tolist() == [
        -1,
        0,
        4,
        -1,
    ]
    assert find_start_offsets([(0, 0), (0, 2), (0, 0)], "ab cd", [1, 0, 1]).tolist() == [-1, 0, -1]
    assert find_start_offsets([(0, 0), (0, 0)], "", [1, 1]).tolist() == [-1, 0]
    assert find_start_offsets([(0, 0), (0, 2)], "ab", [1, 0], ends=False).tolist() == [-1, 0]
    assert find_start_offsets([(0, 2), (2, 3), (0, 0)], "ab ", [0, 0, 1]).tolist() == [0, -1, 3]
    assert find_start_offsets(np.zeros((0, 2)), "", np.zeros(0)).tolist() == []


@given(st.text(alphabet="ab ,.é中国🙂\n\u3000", max_size=30))
@settings(max_examples=60, deadline=None)
def test_offsets_increase_and_never_name_a_blank(text: str) -> None:
    for kind in KINDS.values():
        own = [o for o in target(kind(), text).tolist() if o > NOWHERE]
        assert own == sorted(set(own))
        assert all(o == len(text) or not text[o].isspace() for o in own)
        assert all(text[:o].strip() or o == len(text) - len(text.lstrip()) or o == len(text) for o in own[:1])


rows = st.lists(st.lists(st.integers(-1, 12), max_size=8).map(lambda r: [o for i, o in enumerate(r) if o < 0 or o not in r[:i]]), min_size=1, max_size=5)  # fmt: skip


@given(rows, rows)
@settings(max_examples=150, deadline=None)
def test_alignment_is_that_of_a_dictionary(teacher: list[list[int]], student: list[list[int]]) -> None:
    teacher, student = teacher[: len(student)], student[: len(teacher)]
    base, wanted = 0, []
    for a, b in zip(teacher, student, strict=True):
        place = {offset: i for i, offset in enumerate(a) if offset >= 0}
        for offset in b:
            i = place.get(offset, -1) if offset >= 0 else -1
            wanted.append(i + base if i >= 0 else -1)
        base += len(a)
    arrays = ([np.asarray(r, dtype=np.int64) for r in side] for side in (teacher, student))
    assert align(*arrays).tolist() == wanted


def test_misfitting_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rows of a teacher, 1 of the student"):
        align([np.zeros(1, np.int64)] * 2, [np.zeros(1, np.int64)])


def test_where_the_beginning_of_a_word_means_the_same() -> None:
    text = "The cat (a 猫) ran, then x."

    def at(*stretches: str) -> np.ndarray:
        return np.asarray([text.index(s) for s in stretches] + [len(text), NOWHERE])

    offsets = at("The", "cat", "he cat", "(a", "a 猫", ")", "ran", ", then", "then", ".")
    blank, meta, words = detect_marking(byte_level()), detect_marking(unigram()), detect_marking(wordpiece())
    same = [True] * 11 + [False]
    assert find_comparable_offsets(text, offsets, words, words).tolist() == same
    assert find_comparable_offsets(text, offsets, blank, meta).tolist() == [False, *same[1:]]
    # After a bracket or a Chinese character without a blank WordPiece begins what the others do not.
    hidden = [True, True, True, True, False, False, True, True, True, True, True, False]
    assert find_comparable_offsets(text, offsets, meta, words).tolist() == hidden
    assert find_comparable_offsets(text, offsets, words, blank).tolist() == [False, *hidden[1:]]
    assert find_comparable_offsets("", np.asarray([0]), blank, words).tolist() == [True]
