"""Copies that were translated and translated back: against transformers' own `generate`, drawn, refused, cached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BertConfig, BertForMaskedLM

from raykd.config import DataConfig
from raykd.config.kinds.back_translation import BackTranslation
from raykd.config.kinds.copies import Passage
from raykd.config.loading import load_run
from raykd.data.load import load_data
from raykd.data.rows import Rows
from raykd.data.selection.copies import make_copies
from raykd.errors import ModelError
from raykd.models.loading import load_model
from raykd.prediction import back_translation
from raykd.prediction.writing import Draws, generate_texts
from tests.made_models import made_texts, make_marian, make_tokenizer
from tests.unit import test_language_codes as multilingual
from tests.worlds import run_config

ENGLISH = ["hello red world", "the good film", "a very bad meal", "hello good film", "the red meal"]
FRENCH = ["bonjour monde rouge", "le bon film", "un très mauvais repas", "bonjour bon film", "le repas rouge"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two OPUS-MT folders, one for each way, with weights that write different texts."""
    folder = tmp_path_factory.mktemp("marian")
    own: dict[str, Any] = {"init_std": 1.0}
    return make_marian(folder / "there", ENGLISH, FRENCH, **own), make_marian(
        folder / "back", FRENCH, ENGLISH, **own
    )


def kind(models: tuple[Path, Path], **more: Any) -> BackTranslation:
    own = {"pivot": "fr", "path": str(models[0]), "back": str(models[1]), "copies": 2, "max_tokens": 20}
    return BackTranslation.model_validate({**own, **more})


def rows_of(texts: list[str], **more: Any) -> Rows:
    columns: dict[str, Any] = {"pairs": None, "languages": ("en",) * len(texts), **more}
    ids = tuple(f"r{i}" for i in range(len(texts)))
    return Rows(ids=ids, texts=tuple(texts), labels_B=np.zeros(len(texts), dtype=np.int64), **columns)


def translate(folder: Path, text: str, beams: int, count: int = 1) -> list[str]:
    """What plain transformers writes."""
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([text], return_tensors="pt", truncation=True, max_length=20)
    ids = model.generate(
        **inputs, max_new_tokens=20, num_beams=beams, num_return_sequences=count,
        do_sample=False,
    )  # fmt: skip
    return [str(one) for one in tokenizer.batch_decode(ids, skip_special_tokens=True)]


# what is written ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", ">>fra<< "])
def test_copies_are_the_texts_that_transformers_writes(models: tuple[Path, Path], prefix: str) -> None:
    found = kind(models, beams=3, copies=3, prefix=prefix).make_all([Passage(text, "en") for text in ENGLISH])
    for text, copies in zip(ENGLISH, found, strict=True):
        pivots = translate(models[0], prefix + text, 3, 3)
        assert [one.text for one in copies] == [translate(models[1], pivot, 3)[0] for pivot in pivots]
        assert {one.language for one in copies} == {"en"}
    assert len({one.text for copies in found for one in copies}) > 5


def test_a_multilingual_model_is_told_both_languages_on_both_ways(tmp_path: Path) -> None:
    tokenizer = multilingual.tokenizer_of("nllb")
    model = multilingual.model_of("nllb", tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    def plain(text: str, source: str, target: str) -> str:
        tokenizer.src_lang = source
        ids = model.generate(
            **tokenizer([text], return_tensors="pt", truncation=True, max_length=16), max_new_tokens=16,
            num_beams=2, do_sample=False,
            forced_bos_token_id=tokenizer.convert_tokens_to_ids(target),
        )  # fmt: skip
        return str(tokenizer.decode(ids[0], skip_special_tokens=True))

    own = BackTranslation(
        path=str(tmp_path),
        pivot="german",
        language_codes={"german": "deu_Latn"},
        copies=1,
        beams=2,
        max_tokens=16,
    )
    for language, code in (("en", "eng_Latn"), ("fr", "fra_Latn")):
        text = multilingual.SOURCES[0]
        ((copy,),) = own.make_all([Passage(text, language)])
        assert copy.text == plain(plain(text, code, "deu_Latn"), "deu_Latn", code)


def test_tokens_are_drawn_with_their_probabilities_and_each_text_by_itself(models: tuple[Path, Path]) -> None:
    loaded = load_model(models[0], head="seq2seq", dtype=torch.float32)
    model: Any = loaded.model
    inputs = loaded.tokenizer(["the good film"], return_tensors="pt")  # type: ignore[operator]
    start = torch.tensor([[model.config.decoder_start_token_id]])
    logits = model(**inputs, decoder_input_ids=start).logits[0, -1]
    count, temperature = 3000, 2.0
    seen: dict[str, int] = {}
    keys = [str(i) for i in range(count)]
    own: dict[str, Any] = {"max_new_tokens": 2, "batch_size": 1000}  # the second is forced to end the text
    texts = generate_texts(
        model, loaded.tokenizer, ["the good film"] * count, draws=Draws(temperature, keys), **own
    )
    for text in texts:
        seen[text] = seen.get(text, 0) + 1
    expected: dict[str, float] = {}
    decode: Any = loaded.tokenizer.decode  # type: ignore[attr-defined]
    for i, p in enumerate((logits / temperature).softmax(-1).tolist()):
        name = decode([i], skip_special_tokens=True)
        expected[name] = expected.get(name, 0.0) + p
    for text, p in expected.items():
        assert abs(seen.get(text, 0) - count * p) < 4 * (count * p * (1 - p)) ** 0.5 + 1
    assert len(seen) > 5
    longer: dict[str, Any] = {"max_new_tokens": 8, "draws": Draws(1.0, keys[:5])}
    together = generate_texts(model, loaded.tokenizer, ENGLISH, **longer)
    longer["draws"] = Draws(1.0, keys[4:5])
    assert generate_texts(model, loaded.tokenizer, ENGLISH[4:], **longer) == together[4:]


def test_drawn_copies_follow_from_text_number_and_seed(models: tuple[Path, Path]) -> None:
    passages = [Passage(text, "en") for text in ENGLISH]
    drawn = kind(models, temperature=1.0, copies=3)
    found = drawn.make_all(passages)
    assert drawn.make_all(passages[3:]) == found[3:]
    assert kind(models, temperature=1.0, copies=2).make_all(passages) == [copies[:2] for copies in found]
    assert kind(models, temperature=1.0, copies=3, seed=1).make_all(passages) != found


# rows -----------------------------------------------------------------------------------------------------------------


def test_unchanged_and_empty_copies_are_left_out_and_counted(
    models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"a": ("a", " ", "x"), "b": ("y", "y", ""), "c": ("z", "w", "c")}
    monkeypatch.setattr(
        back_translation, "translate_back", lambda texts, *_: [answers[text] for text, _ in texts]
    )
    left_out: dict[str, int] = {}
    copies = make_copies(rows_of(["a", "b", "c"]), [kind(models, copies=3, seed=77)], left_out)
    assert list(copies.texts) == ["x", "y", "z", "w"] and sum(left_out.values()) == 5
    assert set(copies.asked or ()) == {""}  # teachers are asked about the copies
    pairs = make_copies(rows_of(["a", "b"], pairs=("c", "c")), [kind(models, copies=3, seed=77)])
    assert list(zip(pairs.texts, pairs.pairs or (), strict=True)) == [
        ("a", "z"),
        ("x", "c"),
        ("y", "z"),
        ("y", "w"),
    ]
    some = kind(models, copies=3, seed=77, languages=["fr"])
    mixed = rows_of(["a", "b"], languages=("en", "fr"))
    left_out.clear()
    assert list(make_copies(mixed, [some], left_out).texts) == ["y"] and sum(left_out.values()) == 2


def test_what_was_written_before_an_interruption_is_not_written_again(
    models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def write(texts: list[tuple[str, str]], *_: object) -> list[tuple[str, ...]]:
        if len(asked) == 1:
            asked.append(0)
            raise KeyboardInterrupt
        asked.append(len(texts))
        return [(f"{text}!", f"{text}?") for text, _ in texts]

    monkeypatch.setattr(back_translation, "translate_back", write)
    passages = [Passage(f"text {i}", "en") for i in range(200)]
    with pytest.raises(KeyboardInterrupt):
        kind(models, seed=78).make_all(passages)
    found = kind(models, seed=78).make_all(passages)
    assert asked == [128, 0, 72] and [one.text for one in found[199]] == ["text 199!", "text 199?"]
    assert kind(models, seed=78).make_all(passages) == found and len(asked) == 3


# what is refused, and the run file -----------------------------------------------------------------------------------


def test_another_kind_of_model_is_refused_by_name(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("wordpiece", made_texts(300)[0])
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"data\.augment: back_translation: (.|\n)*masked_lm"):
        BackTranslation(path=str(tmp_path), pivot="fr").make_all([Passage("good", "en")])


@pytest.mark.parametrize(
    ("more", "form", "message"),
    [
        ({"copies": 5}, "text", "4 beams cannot give 5 copies"),
        ({"languages": ["eng"]}, "text", r"back_translation\.languages \['eng'\] are not in data\.languages"),
        ({}, "words", "back_translation does not keep tagged words in their places"),
    ],
)
def test_settings_that_cannot_be_are_refused(more: dict[str, Any], form: Any, message: str) -> None:
    source = {"kind": "files", "paths": ["a.jsonl"]}
    tree = {
        "train": source, "validation": source, "languages": ["en"],
        "labels": ["O", "B-PER", "I-PER"] if form == "words" else ["a", "b"],
        "augment": [{"kind": "back_translation", "path": "m", "pivot": "fr", **more}],
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        DataConfig.model_validate(tree).check(form)


def test_a_run_reads_copies_and_its_fingerprint_holds_no_folders(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    tree = run_config().model_dump(mode="json")
    prints = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for way, folder in zip(("there", "back"), models, strict=True):
            (tmp_path / name / way).symlink_to(folder)
        augment = {
            "kind": "back_translation",
            "path": "there",
            "back": "back",
            "pivot": "fr",
            "max_tokens": 12,
        }
        tree["data"]["augment"] = [augment]
        (tmp_path / name / "run.yaml").write_text(json.dumps(tree), encoding="utf-8")
        run = load_run(tmp_path / name / "run.yaml")
        (change,) = run.data.augment
        assert isinstance(change, BackTranslation) and Path(change.path) == models[0]
        prints.add(run.fingerprint())
    assert len(prints) == 1
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(ENGLISH)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "validation.jsonl").write_text(json.dumps({"text": "x", "label": "a"}), encoding="utf-8")
    sources = {name: {"kind": "files", "paths": [f"{name}.jsonl"]} for name in ("train", "validation")}
    data = DataConfig.model_validate(
        {**sources, "labels": ["a", "b"], "languages": ["en"], "augment": [kind(models, beams=3)]}
    )
    train = load_data(data, tmp_path).train
    assert len(train) > len(ENGLISH) and train.labelled.sum() == len(ENGLISH)
