"""Tokenizers without a Rust form: served where it can be, else refused by name before anything starts."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from raykd import models
from raykd.errors import ModelError
from raykd.models.identity import describe_tokenizer
from raykd.networks.heads import find_auto_class
from raykd.pretrained import tokenizers
from raykd.pretrained.tokenizers import check_placed, load_tokenizer
from raykd.text.prompts import encode_targets
from raykd.tokenizers.canonical import detect_marking
from tests.families import save, tiny
from tests.made_models import make_marian, spm_file

SOURCES = ["hello red world", "the good film", "a very bad meal", "hello good film", "the red meal"]
TARGETS = [
    "bonjour monde rouge",
    "le bon film",
    "un très mauvais repas",
    "bonjour bon film",
    "le repas rouge",
]


@pytest.fixture
def marian(tmp_path: Path) -> Path:
    return make_marian(tmp_path / "marian", SOURCES, TARGETS)


def test_marian_gives_the_ids_of_plain_transformers(marian: Path) -> None:
    from transformers import AutoTokenizer

    own, plain = load_tokenizer(marian), AutoTokenizer.from_pretrained(str(marian))
    texts = [*SOURCES, "", ">>fra<< hello", "hello</s>red", "ﬁlm  très"]
    for side in ("text", "text_target"):
        call: Any = own
        assert dict(call(**{side: texts})) == dict(plain(**{side: texts}))
    assert dict(own(texts, truncation=True, max_length=5)) == dict(
        plain(texts, truncation=True, max_length=5)
    )
    ids = plain(text_target=TARGETS[0])["input_ids"]
    assert own.decode(ids, skip_special_tokens=True) == plain.decode(ids, skip_special_tokens=True)  # type: ignore[attr-defined]


def test_places_of_marians_tokens_spell_the_text(marian: Path) -> None:
    own: Any = load_tokenizer(marian)
    texts = [*TARGETS, "  le  repas très", "ﬁlm 中"]
    encoded = own(text_target=texts, return_offsets_mapping=True, return_special_tokens_mask=True)
    for text, places, special in zip(
        texts, encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True
    ):
        spelt = [text[b:e] for (b, e), end in zip(places, special, strict=True) if not end]
        assert "".join(spelt).strip() == text.strip(), spelt
    texts = [TARGETS[2], ">>fra<< le film", "le</s>film", "le film</s>"]
    starts = [row.tolist() for row in encode_targets(own, texts, 64, as_target=True).starts]
    assert starts[0][0] == 0 and starts[0][-1] == len(TARGETS[2])
    assert starts[1][0] == 0 and starts[1][1] == len(">>fra<< ")
    assert len("le") in starts[2] and len("le</s>") in starts[2]
    assert starts[3][-1] == len("le film") and 3 in starts[3]


def test_marian_travels_and_keeps_its_name(marian: Path, tmp_path: Path) -> None:
    own: Any = load_tokenizer(marian)
    content = describe_tokenizer(own)
    body = pickle.dumps(own)
    own.save_pretrained(str(tmp_path / "saved"))
    shutil.rmtree(marian)
    again = pickle.loads(body)
    assert describe_tokenizer(again) == content == describe_tokenizer(load_tokenizer(tmp_path / "saved"))
    assert again(SOURCES)["input_ids"] == own(SOURCES)["input_ids"]
    mark = detect_marking(again)
    assert (mark.style, mark.marker, mark.first) == ("blank", "▁", True)


def test_m2m_100_has_places_behind_its_language_and_takes_another_one(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    from transformers import AutoTokenizer, M2M100Tokenizer

    model = sentencepiece.SentencePieceProcessor(
        model_file=str(spm_file(tmp_path / "spm.model", SOURCES + TARGETS))
    )
    pieces = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for i in range(3, model.get_piece_size()):
        pieces.setdefault(model.id_to_piece(i), len(pieces))
    (tmp_path / "vocab.json").write_text(json.dumps(pieces))
    made = M2M100Tokenizer(
        vocab_file=str(tmp_path / "vocab.json"),
        spm_file=str(tmp_path / "spm.model"),
        src_lang="en",
        tgt_lang="fr",
    )
    made.save_pretrained(str(tmp_path / "m2m"))
    own: Any = load_tokenizer(tmp_path / "m2m")
    plain = AutoTokenizer.from_pretrained(str(tmp_path / "m2m"))
    for language in ("fr", "de"):
        own.tgt_lang = plain.tgt_lang = language
        encoded = own(text_target=TARGETS, return_offsets_mapping=True)
        assert encoded["input_ids"] == plain(text_target=TARGETS)["input_ids"]
        for text, places in zip(TARGETS, encoded["offset_mapping"], strict=True):
            assert places[0] == places[-1] == (0, 0) and "".join(text[b:e] for b, e in places) == text
    assert (
        own.get_vocab()["__fr__"] == plain.lang_token_to_id["__fr__"] and detect_marking(own).style == "blank"
    )


def test_a_marian_model_is_inspected_loaded_and_named(marian: Path) -> None:
    looked = models.inspect_model(marian, "seq2seq")
    assert looked.positions.source == looked.positions.target == 24 and looked.tokenizer.special == (1, 1)
    assert models.load_model(marian, head="seq2seq").task == "seq2seq"
    saved = models.save_model(models.load_model(marian, head="seq2seq"), marian.parent / "saved")
    assert models.load_model(saved).task == "seq2seq"
    assert describe_tokenizer(load_tokenizer(saved)) == describe_tokenizer(load_tokenizer(marian))
    assert models.fingerprint(saved) == models.fingerprint(marian)


def test_a_sentencepiece_file_alone_is_a_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    folder.mkdir()
    spm_file(folder / "spiece.model", SOURCES + TARGETS)
    save(tiny("t5", find_auto_class("seq2seq"), vocab_size=200, decoder_start_token_id=0), folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.is_fast and len(tokenizer(SOURCES)["input_ids"]) == len(SOURCES)  # type: ignore[attr-defined]
    assert models.inspect_model(folder, "seq2seq").kind == "t5"


@pytest.mark.parametrize(
    ("name", "advice"), [("spiece.model", "save tokenizer.json"), ("source.spm", "pip install")]
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, advice: str
) -> None:
    monkeypatch.setattr(tokenizers, "is_installed", lambda package: False)
    (tmp_path / name).write_bytes(b"pieces")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]})
    )
    with pytest.raises(
        ModelError, match="the package sentencepiece that reads it is not installed"
    ) as caught:
        load_tokenizer(tmp_path)
    assert 'pip install "raykd[sentencepiece]"' in str(caught.value) and advice in str(caught.value)
    assert models.inspect_directory(tmp_path).has_tokenizer
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        load_tokenizer(tmp_path)
    assert "sentencepiece" not in caught.value.what


def test_characters_serve_whole_texts_and_nothing_that_needs_places(tmp_path: Path) -> None:
    from transformers import CanineTokenizer

    folder = save(tiny("canine", find_auto_class("classification")), tmp_path / "canine")
    CanineTokenizer().save_pretrained(str(folder))
    looked = models.inspect_model(folder, "classification")
    assert looked.labels == ("LABEL_0", "LABEL_1") and looked.positions.source == 24
    content = describe_tokenizer(load_tokenizer(folder))
    assert content["class"] == "CanineTokenizer" and models.fingerprint(folder)
    with pytest.raises(ModelError, match="does not say where its tokens stand"):
        check_placed(load_tokenizer(folder), "token_classification", "canine")


def test_a_masked_language_model_needs_a_mask(tmp_path: Path) -> None:
    student = models.TransformerStudent(layers=1, hidden=16, heads=2, vocab_size=120, max_positions=32)
    tokenizer: Any = student.fit_tokenizer(SOURCES)
    check_placed(tokenizer, "masked_lm", "here")
    tokenizer.mask_token = None
    with pytest.raises(ModelError, match="mask token"):
        check_placed(tokenizer, "masked_lm", "here")
