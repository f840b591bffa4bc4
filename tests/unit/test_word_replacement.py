"""Copies with other words: by a word list, by a masked language model; of pairs and of tagged words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from raykd.config import DataConfig, RunConfig
from raykd.config.augmentation import Fragments, Lexicon, MaskedWords, Spelling
from raykd.config.kinds.copies import Passage
from raykd.config.kinds.word_replacement import read_lexicon
from raykd.config.loading import load_run
from raykd.data.load import load_data
from raykd.data.rows import Rows
from raykd.data.selection.copies import make_copies
from raykd.distill.signals import UNLABELLED
from raykd.errors import ConfigError, DataError, ModelError
from raykd.prediction.masked_words import _WordNames, predict_words
from raykd.text.words import find_word_spans
from tests.made_models import made_texts, make_tokenizer
from tests.worlds import run_config

TEXT = "The cat sat, on the mat"


def write(folder: Path, text: str, name: str = "words.txt") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def rows_of(texts: list[str], **more: Any) -> Rows:
    columns: dict[str, Any] = {"pairs": None, "languages": ("en",) * len(texts), **more}
    ids = tuple(f"r{i}" for i in range(len(texts)))
    return Rows(ids=ids, texts=tuple(texts), labels_B=np.zeros(len(texts), dtype=np.int64), **columns)


# a word list ------------------------------------------------------------------------------------------------------


def test_words_of_the_list_are_replaced_and_all_else_stays(tmp_path: Path) -> None:
    path = write(tmp_path, "cat chat\nmat\ttapis de sol\nTHE\tle\n\nsat assis\n, virgule\n")
    lexicon = Lexicon(path=path, rate=1.0, copies=1)
    (copy,), (other,) = lexicon.make_all([Passage(TEXT, "en"), Passage(TEXT, "fr")])
    assert copy.text == other.text == "le chat assis, on le tapis de sol"
    (copy,), (other,) = Lexicon(path=path, rate=1.0, copies=1, languages=("fr",)).make_all(
        [Passage(TEXT, "en"), Passage(TEXT, "fr")]
    )
    assert copy.text == TEXT and other.text.startswith("le chat")


def test_as_many_words_as_the_rate_says_become_each_candidate_alike(tmp_path: Path) -> None:
    path = write(tmp_path, "a b\na c\na b\n")
    assert read_lexicon(path) == {"a": ("b", "c")}
    ((copy,),) = Lexicon(path=path, rate=0.3, copies=1).make_all([Passage("a " * 20000)])
    counts = {word: copy.text.split().count(word) for word in "abc"}
    for word, share in {"a": 0.7, "b": 0.15, "c": 0.15}.items():
        assert abs(counts[word] - 20000 * share) < 4 * (20000 * share * (1 - share)) ** 0.5
    again, other = Lexicon(path=path, rate=0.3, copies=2).make_all([Passage("x"), Passage("a " * 20000)])[1]
    assert again == copy != other


def test_a_list_without_effect_is_named(tmp_path: Path) -> None:
    """Languages that no row is in are refused; a list that changes no text is said to have no effect."""
    path = write(tmp_path, "cat chat\n")
    rows = [{"text": f"dog {i}", "label": "ab"[i % 2], "lang": "en"} for i in range(8)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    sources = {
        part: {"kind": "files", "paths": [write(tmp_path, lines.replace("dog", part), f"{part}.jsonl")]}
        for part in ("train", "validation")
    }
    tree = {**sources, "labels": ["a", "b"], "languages": ["en"]}
    augment: list[dict[str, Any]] = [{"kind": "lexicon", "path": path}, {"kind": "spelling", "rate": 0.9}]
    found = load_data(DataConfig.model_validate({**tree, "augment": augment}), tmp_path)
    assert [line for line in found.notes if "augment" in line] == [
        "data.augment: lexicon changed no text, so it has no effect"
    ]
    augment[0]["languages"] = ["EN"]
    with pytest.raises(ValueError, match=r"lexicon.languages \['EN'\] are not in data.languages"):
        DataConfig.model_validate({**tree, "augment": augment}).check("text")


def test_a_list_that_is_none_is_refused_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2"):
        read_lexicon(write(tmp_path, "cat chat\ndog\n"))
    with pytest.raises(DataError, match="cannot be read"):
        read_lexicon(str(tmp_path / "missing.txt"))


# pairs and tagged words -----------------------------------------------------------------------------------------


def test_of_a_pair_both_texts_are_changed_and_teachers_are_asked_about_the_pair(tmp_path: Path) -> None:
    path = write(tmp_path, "cat chat\n")
    rows = rows_of(["a cat", "a dog"], pairs=("cat and dog", "dog"))
    copies = make_copies(rows, [Lexicon(path=path, rate=1.0, copies=3), Spelling(copies=1, rate=0.5)])
    assert (copies.texts[0], (copies.pairs or ())[0]) == ("a chat", "chat and dog")
    assert [i for i in copies.ids if "lexicon" in i] == ["r0 lexicon 0"] and "r1 spelling 0" in list(
        copies.ids
    )
    joined = Rows.concat([rows, copies])
    asked = joined.take(range(len(joined))).as_asked()
    assert list(asked.texts[2:4]) == ["a cat", "a cat"] and list(asked.pairs or ())[2] == "cat and dog"
    assert list(asked.texts[:2]) == list(rows.texts) and asked.asked is None and asked.asked_pairs is None
    assert list(joined.select_asked().ids) == ["r0", "r1"]
    with pytest.raises(ConfigError, match="fragments changes single texts"):
        make_copies(rows, [Fragments()])


@pytest.mark.parametrize("mode", ["split", ""])
def test_tagged_words_keep_their_places(tmp_path: Path, mode: str) -> None:
    path = write(tmp_path, "paris\tNew York City\nin\tà\n")
    text = "She lives in Paris, today"
    spans = tuple((b, e) for b, e in find_word_spans(text).tolist())
    rows = rows_of([text], words=(spans,), golds=((0, 0, 0, 1, 0, 0),), modes=(mode,))
    copies = make_copies(rows, [Lexicon(path=path, rate=1.0, copies=1)])
    (copy,) = copies.texts
    assert copy == "She lives à New York City, today"
    own = [copy[b:e] for b, e in (copies.words or ())[0]]
    assert own == ["She", "lives", "à", "New York City", ",", "today"]
    assert list(copies.golds or ()) == [()] and copies.labels_B.tolist() == [UNLABELLED]
    joined = Rows.concat([rows, copies])
    asked = joined.take([1, 0]).as_asked()
    assert list(asked.texts) == [text, text] and list(asked.words or ()) == [spans, spans]
    of_copy = make_copies(rows, [Lexicon(path=path, rate=1.0, copies=1, targets="of_the_copy")])
    assert of_copy.take([0]).as_asked().texts == (copy,)


def test_a_run_of_tags_reads_copies_and_refuses_kinds_that_move_words(tmp_path: Path) -> None:
    row = {"tokens": ["Anna", "lives", "in", "Rome"], "tags": ["B-PER", "O", "O", "B-LOC"]}
    for name, first in (("train.jsonl", "Anna"), ("validation.jsonl", "Bob")):
        write(tmp_path, json.dumps({**row, "tokens": [first, *row["tokens"][1:]]}) + "\n", name)
    tree: dict[str, Any] = {
        "train": {"kind": "files", "paths": ["train.jsonl"]}, "languages": ["en"],
        "validation": {"kind": "files", "paths": ["validation.jsonl"]},
        "labels": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    }  # fmt: skip
    path = write(tmp_path, "rome roma\n")
    data = DataConfig.model_validate({**tree, "augment": [{"kind": "lexicon", "path": path, "rate": 1.0}]})
    data.check("words")
    train = load_data(data, tmp_path, "words").train
    assert list(train.texts) == ["Anna lives in Rome", "Anna lives in roma"]
    with pytest.raises(ValueError, match="fragments does not keep tagged words"):
        DataConfig.model_validate({**tree, "augment": [{"kind": "fragments"}]}).check("words")


# a masked language model -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT as plain transformers saves it, with a vocabulary learnt from made texts."""
    folder = tmp_path_factory.mktemp("masked")
    tokenizer = make_tokenizer("wordpiece", made_texts(300)[0])
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_candidates_are_the_models_most_probable_whole_words(masked_model: Path) -> None:
    tokenizer = make_tokenizer("wordpiece", made_texts(300)[0])
    plain: Any = AutoModelForMaskedLM.from_pretrained(masked_model).eval()
    texts = made_texts(5, 3)[0]
    places = [(at, b, e) for at, text in enumerate(texts) for b, e in find_word_spans(text).tolist()]
    found = predict_words(masked_model, texts, places, 3)
    whole = {i: token for token, i in tokenizer.get_vocab().items() if token.isalnum()}
    for (at, begin, end), words in zip(places, found, strict=True):
        masked = texts[at][:begin] + tokenizer.mask_token + texts[at][end:]
        encoded = tokenizer(masked, return_tensors="pt")
        place = encoded["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        order = plain(**encoded).logits[0, place].argsort(descending=True).tolist()
        own = texts[at][begin:end].casefold()
        expected = [whole[i] for i in order if i in whole and whole[i].casefold() != own]
        assert list(words) == expected[: len(words)] and len(words) >= min(
            3, sum(i in whole for i in order[:12]) - 1
        )
    assert len({words for words in found}) > 3


def test_copies_of_a_masked_model_are_made_once_and_follow_from_text_and_seed(
    masked_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = MaskedWords(path=str(masked_model), rate=0.5, copies=2, top_k=4)
    text = made_texts(3, 5)[0][0]
    first = make_copies(rows_of([text]), [kind])
    monkeypatch.setattr("raykd.prediction.masked_words.predict_words", None)  # read from the cache
    assert list(make_copies(rows_of([text]), [kind]).texts) == list(first.texts)
    assert set(first.asked or ()) == {""} and text not in first.texts
    assert all(len(find_word_spans(copy)) == len(find_word_spans(text)) for copy in first.texts)


@pytest.mark.parametrize("family", ["bytes", "unigram", "wordpiece"])
def test_pieces_of_words_signs_and_special_tokens_are_no_words(family: str) -> None:
    tokenizer = make_tokenizer(family, made_texts(300)[0])
    words = _WordNames(tokenizer)
    found = {word for i in range(len(tokenizer)) if (word := words.find(i))}
    assert found and not {"[MASK]", "<s>", "<mask>", ",", "##s"} & found
    alone = {
        word: tokenizer(f"x {word}", add_special_tokens=False)["input_ids"]
        for word in found
        if word.isascii()
    }
    before = len(tokenizer("x", add_special_tokens=False)["input_ids"])
    assert all(len(ids) == before + 1 for ids in alone.values())
    if family != "unigram":  # whose small vocabulary has few whole words
        assert {"good", "fine", "great"} & found and "ood" not in found


def test_what_is_no_masked_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        make_copies(rows_of([TEXT]), [MaskedWords(path=str(tmp_path))])


# the run file --------------------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_run_file_and_not_in_the_fingerprint(tmp_path: Path) -> None:
    tree = run_config().model_dump(mode="json")
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "cat chat\n")
        tree["data"]["augment"] = [{"kind": "lexicon", "path": "words.txt"}]
        (tmp_path / name / "run.yaml").write_text(json.dumps(tree), encoding="utf-8")
        found.append(load_run(tmp_path / name / "run.yaml"))
    paths = [change.path for run in found for change in run.data.augment if isinstance(change, Lexicon)]
    assert paths == [str(tmp_path / name / "words.txt") for name in ("one", "two")]
    assert found[0].fingerprint() == found[1].fingerprint()
    other = RunConfig.model_validate({**tree, "data": {**tree["data"], "augment": []}})
    assert other.fingerprint() != found[0].fingerprint()
