"""Byte-pair tokenizers: the same in every process, and a text comes back as it was."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raykd.errors import ModelError
from raykd.models import DecoderStudent, EncoderDecoderStudent, load_tokenizer
from raykd.models.identity import describe_tokenizer
from raykd.tokenizers.bytepair import BYTES, SMALLEST, SPECIALS, train_bytepair

TEXTS = [
    "The virus spreads quickly; the virus isn't gone.",
    "By 20 January 2020, 6,174 people had symptoms.",
    "L’homme d'État n'a pas été prévenu : c'est l'été.",
    "Les symptômes apparaissent, l'homme est prévenu…",
    "截至 2020 年 1 月 20 日，已有 6,174 人出现症状。",
    "病毒的传播速度很快，病毒没有消失。",
]
STRANGE = ["  two  blanks ", "a </s><s> b", "😀\t\n x", "▁ <0x41>", "日本語かな ภาษาไทย", "", "\u200d\0é"]


def test_every_text_comes_back_even_of_characters_never_seen() -> None:
    tokenizer = train_bytepair(TEXTS[::2], vocab_size=700, max_length=None, closed=True)
    for text in TEXTS + STRANGE:
        ids = tokenizer([text])["input_ids"][0]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert ids[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in ids


def test_the_vocabulary_is_the_same_in_every_process() -> None:
    script = (
        "import hashlib\nfrom raykd.tokenizers.bytepair import train_bytepair\n"
        f"t = train_bytepair({TEXTS!r}, vocab_size=620, max_length=None, closed=False)\n"
        "print(hashlib.sha256(t.backend_tokenizer.to_str().encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    tokenizer = train_bytepair(reversed(TEXTS), vocab_size=620, max_length=None, closed=False)
    assert hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest() == other


def test_ties_at_the_edge_of_the_alphabet_are_broken_by_the_character() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(300))  # each once, and there is room for 20
    tokenizer = train_bytepair(
        [text], vocab_size=2 * (len(SPECIALS) + 256 + 20), max_length=None, closed=True
    )
    assert tokenizer.convert_ids_to_tokens(range(len(SPECIALS) + 256, len(tokenizer))) == list(text[:20])


def test_pieces_begin_where_their_characters_do() -> None:
    tokenizer = train_bytepair(TEXTS, vocab_size=900, max_length=None, closed=True)
    for text in TEXTS:
        offsets = tokenizer([text], return_offsets_mapping=True)["offset_mapping"][0][:-1]
        assert [start for start, _ in offsets[1:]] == [end for _, end in offsets[:-1]]
        assert (offsets[0][0], offsets[-1][1]) == (0, len(text))


def test_what_stands_around_a_text_and_how_large_the_vocabulary_is() -> None:
    sources = EncoderDecoderStudent(vocab_size=640, max_positions=32).fit_tokenizer(TEXTS)
    prompts = DecoderStudent(vocab_size=640, max_positions=32).fit_tokenizer(TEXTS)
    assert (sources.pad_token_id, sources.bos_token_id, sources.eos_token_id) == (0, 1, 2)
    assert sources.convert_ids_to_tokens([3, 4, 259]) == ["<unk>", BYTES[0], BYTES[255]]
    assert len(sources) <= 640 and sources.model_max_length == 32
    assert sources(["a"])["input_ids"][0][-1] == 2 and prompts(["a"])["input_ids"][0][0] == 1
    assert prompts([""])["input_ids"] == [[1]] and sources([""])["input_ids"] == [[2]]
    ids = sources(["a"])["input_ids"][0][:-1] + sources(["b"])["input_ids"][0]
    assert sources(["a"], ["b"])["input_ids"][0] == ids
    with pytest.raises(ModelError, match="hold nothing"):
        train_bytepair(["", ""], vocab_size=SMALLEST, max_length=None, closed=True)


def test_saved_and_loaded_it_is_the_same_tokenizer(tmp_path: Path) -> None:
    before = train_bytepair(TEXTS, vocab_size=640, max_length=48, closed=True)
    before.save_pretrained(str(tmp_path))
    after: Any = load_tokenizer(tmp_path)
    assert after(TEXTS + STRANGE)["input_ids"] == before(TEXTS + STRANGE)["input_ids"]
    assert describe_tokenizer(after) == describe_tokenizer(before)
    assert after.model_max_length == 48 and after.eos_token_id == 2
    for text in TEXTS + STRANGE:
        assert after.decode(after([text])["input_ids"][0], skip_special_tokens=True) == text
