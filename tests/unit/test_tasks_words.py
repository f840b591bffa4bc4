"""Words of a text and the tokens that stand for them, against a slow reference over real tokenizers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from raykd.errors import DataError
from raykd.text import words

TEXTS = [
    "The quick brown fox doesn't jump; it costs 3.50 dollars.",
    "我爱北京天安门，2024年Python3很流行。",
    "混合 text 与中文, naïve café — “quoted”  double blank",
    "x",
    "𠮷野家 ate 😀 emojis and ﬁne ligatures ",
    "",
]


def trained(kind: str) -> Tokenizer:
    """A small tokenizer of one of the families that pretrained models use."""
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "<s>", "</s>"])
    elif kind in ("bytes", "bytes-trimmed"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=150, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>"
        )
    tokenizer.train_from_iterator(TEXTS, trainer)
    ids = [("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))]
    wrap = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=ids
    )
    trim = processors.ByteLevel(trim_offsets=kind.endswith("trimmed"))
    tokenizer.post_processor = processors.Sequence([trim, wrap]) if kind.startswith("bytes") else wrap
    return tokenizer


KINDS = ("wordpiece", "bytes", "bytes-trimmed", "metaspace")


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return trained(request.param)


def encoded(tokenizer: Tokenizer, texts: list[str], limit: int | None = None) -> tuple[list, list]:
    rows = [tokenizer.encode(text) for text in texts]
    for row in rows:
        if limit is not None:
            row.truncate(limit)
    return (
        [np.asarray(row.offsets, dtype=np.int64).reshape(-1, 2) for row in rows],
        [np.asarray(row.special_tokens_mask, dtype=np.int64) for row in rows],
    )


def slow_first_tokens(offsets: list, ignored: list, spans: list) -> list[int]:
    out = []
    for tokens, mask, row in zip(offsets, ignored, spans, strict=True):
        for begin, _ in row:
            holding = [
                i for i, (s, e) in enumerate(tokens) if s <= begin < e and not mask[i]
            ]  # a zero-width token holds nothing
            out.append(holding[0] if holding else -1)
    return out


def test_words_of_spaced_and_unspaced_scripts() -> None:
    def cut(text: str) -> list[str]:
        return [text[a:b] for a, b in words.find_word_spans(text)]

    assert cut("Hello, world 3.5!") == ["Hello", ",", "world", "3", ".", "5", "!"]
    assert cut("我爱Python3和「東京」。") == ["我", "爱", "Python3", "和", "「", "東", "京", "」", "。"]
    assert cut("コーヒー ๑๒ ลั") == ["コ", "ー", "ヒ", "ー", "๑๒", "ลั"]
    assert cut("cafe\u0301 soft\u00adhyphen \u200b \t x") == ["cafe\u0301", "soft\u00adhyphen", "x"]
    assert cut("𠮷野") == ["𠮷", "野"] and words.find_word_spans("𠮷野").tolist() == [[0, 1], [1, 2]]
    assert words.find_word_spans(" ").shape == (0, 2) and words.find_word_spans("a").dtype == np.int32
    assert words.split_words("我, you & 3", signs=False) == ["我", "you", "3"]


@given(st.text(max_size=40))
def test_words_are_in_order_and_leave_out_only_what_is_invisible(text: str) -> None:
    spans = words.find_word_spans(text)
    flat = spans.reshape(-1)
    assert (np.diff(flat) >= 0).all() and (spans[:, 1] > spans[:, 0]).all()
    inside = np.zeros(len(text), dtype=bool)
    for begin, end in spans:
        inside[begin:end] = True
    assert not any(c.isalnum() for c, covered in zip(text, inside, strict=True) if not covered)


def test_tokens_are_joined_by_the_scripts_that_meet() -> None:
    text, spans = words.join_tokens(["I", "'ve", "read", "北京", "在", "China", "，", "j", " k "])
    assert text == "I 've read北京在China ， j k"
    assert [text[a:b] for a, b in spans] == ["I", "'ve", "read", "北京", "在", "China", "，", "j", "k"]
    assert words.join_tokens([]) == ("", ())
    with pytest.raises(DataError, match="token 1 of 3 is empty"):
        words.join_tokens(["a", " ", "b"])


def test_first_tokens_hold_the_first_character_of_their_word(tokenizer: Tokenizer) -> None:
    spans = [words.find_word_spans(text) for text in TEXTS]
    for limit in (None, 6):
        offsets, special = encoded(tokenizer, TEXTS, limit)
        got = words.find_first_tokens(offsets, special, spans)
        assert got.tolist() == slow_first_tokens(offsets, special, spans)
        covered, units = int((got >= 0).sum()), sum(map(len, spans))
        assert len(got) == units and (covered == units if limit is None else 0 < covered < units)


def test_first_tokens_of_a_pair_look_at_the_second_text_alone(tokenizer: Tokenizer) -> None:
    row = tokenizer.encode("who is the quick fox", TEXTS[0])
    ignored = np.asarray([s != 1 for s in row.sequence_ids])
    spans = words.find_word_spans(TEXTS[0])
    got = words.find_first_tokens([np.asarray(row.offsets)], [ignored], [spans])
    assert (got > row.sequence_ids.index(1) - 1).all()
    alone = tokenizer.encode(TEXTS[0])
    single = words.find_first_tokens(
        [np.asarray(alone.offsets)], [np.asarray(alone.special_tokens_mask)], [spans]
    )
    shift = row.sequence_ids.index(1) - alone.sequence_ids.index(0)
    assert (got == single + shift).all()


def test_first_tokens_of_no_rows_and_unequal_rows() -> None:
    none = np.zeros((0, 2), dtype=np.int64)
    assert words.find_first_tokens([], [], []).tolist() == []
    assert words.find_first_tokens([none], [none[:, 0]], [np.asarray([[0, 1]])]).tolist() == [-1]
    with pytest.raises(ValueError, match="1 rows of tokens"):
        words.find_first_tokens([none], [], [])
