"""Trimmed vocabularies: what is kept, and that a student with fewer rows says what its checkpoint said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from raykd.errors import ModelError
from raykd.head import Head
from raykd.models import (
    DecoderStudent,
    EncoderDecoderStudent,
    LinearStudent,
    LSTMStudent,
    PretrainedStudent,
    TextModel,
    TransformerStudent,
    load_model,
    save_model,
)
from raykd.models.bases import inspect_base
from raykd.models.textmodel import count_parameters
from raykd.tokenizers.trimming import check_trimmable, compute_unknown_share, list_kept_ids, trim_tokenizer

LABELS = ("bad", "good")
SEEN = [
    "the teacher was a delight to listen to, really",
    "une très bonne soirée, vraiment délicieuse",
    "很好的电影，我喜欢",
]
UNSEEN = [
    "the worst meal of my whole life, never again",
    "un repas décevant, hélas, et trop cher",
    "服务太慢了，不会再来",
    "terrible battery, screen and keyboard: I returned it",
]
CORPUS = [*SEEN, *UNSEEN] * 8
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def train_unigram(folder: Path) -> Any:
    """XLM-R's kind: blanks are written as ▁, and characters that it does not have are unknown."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=260, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return wrap(tokenizer)


def train_bytes(folder: Path) -> Any:
    """RoBERTa's and GPT-2's kind: pieces of bytes, so nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=520,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return wrap(tokenizer)


def wrap(tokenizer: Tokenizer) -> Any:
    names = ("bos", "pad", "eos", "unk", "mask")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="<s>",
        sep_token="</s>",
        **{f"{n}_token": t for n, t in zip(names, SPECIAL, strict=True)},
    )


SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip


def foreign(name: str, head: Head, folder: Path) -> TextModel:
    """A checkpoint of a class of transformers with a tokenizer of another kind than raykd's own."""
    tokenizer = (train_unigram if name in ("xlm-roberta", "t5") else train_bytes)(folder)
    size = len(tokenizer) + 3  # tables are often longer than their tokenizer
    if name == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=2
        )
    elif name == "t5":
        config = transformers.T5Config(
            vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=1,
            eos_token_id=2, decoder_start_token_id=1, tie_word_embeddings=False,
        )  # fmt: skip
    else:
        config = transformers.AutoConfig.for_model(name, vocab_size=size, **SMALL)
    if head == "classification":
        config.num_labels, config.id2label = 2, dict(enumerate(LABELS))
    kinds = {
        "classification": transformers.AutoModelForSequenceClassification,
        "masked_lm": transformers.AutoModelForMaskedLM,
        "causal_lm": transformers.AutoModelForCausalLM,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
    }
    torch.manual_seed(0)
    model = kinds[head].from_config(config).eval()
    labels = LABELS if head == "classification" else ()
    return TextModel(model, tokenizer, labels, kind="teacher", task=head, max_length=32)


def own(student: Any, head: Head) -> TextModel:
    tokenizer = student.fit_tokenizer(CORPUS)
    labels = LABELS if head == "classification" else ()
    model = student.build(tokenizer, labels, 0, head=head).eval()
    return TextModel(model, tokenizer, labels, kind=student.kind, task=head, max_length=32)


CASES: list[tuple[str, Head]] = [
    ("bert", "classification"),
    ("bert", "masked_lm"),
    ("lstm", "classification"),
    ("llama", "causal_lm"),
    ("encoder_decoder", "seq2seq"),
    ("xlm-roberta", "classification"),
    ("xlm-roberta", "masked_lm"),
    ("roberta", "classification"),
    ("gpt2", "causal_lm"),
    ("t5", "seq2seq"),
]


def make_checkpoint(name: str, head: Head, folder: Path) -> TextModel:
    students = {
        "bert": TransformerStudent(layers=2, hidden=16, heads=2, vocab_size=400, max_positions=64),
        "lstm": LSTMStudent(embedding=12, hidden=8, vocab_size=400),
        "llama": DecoderStudent(layers=2, hidden=16, heads=2, vocab_size=700, max_positions=64),
        "encoder_decoder": EncoderDecoderStudent(
            layers=2, hidden=16, heads=2, vocab_size=700, max_positions=64
        ),
    }
    made = own(students[name], head) if name in students else foreign(name, head, folder)
    return load_model(save_model(made, folder / "whole"), head=head)


def read_logits(text_model: TextModel, texts: list[str]) -> torch.Tensor:
    inputs = text_model.tokenizer(texts, padding=True, return_tensors="pt")
    inputs = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask")}
    if text_model.task == "seq2seq":
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        return text_model.model(**inputs).logits


@pytest.mark.parametrize(("name", "head"), CASES)
def test_a_trimmed_student_answers_as_its_checkpoint(name: str, head: Head, tmp_path: Path) -> None:
    whole = make_checkpoint(name, head, tmp_path)
    student = PretrainedStudent(path=str(tmp_path / "whole"), vocabulary="trimmed")
    tokenizer: Any = student.fit_tokenizer(SEEN)
    labels = LABELS if head == "classification" else ()
    model = student.build(tokenizer, labels, 0, head).eval()
    small = TextModel(model, tokenizer, labels, kind="pretrained", task=head, max_length=32)
    again = load_model(save_model(small, tmp_path / "small"), head=head)
    plain = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "small"))

    ids = list_kept_ids(tokenizer, whole.tokenizer)
    assert None not in ids and len(ids) == len(tokenizer) < len(whole.tokenizer)
    for text in SEEN:
        cut = whole.tokenizer(text)["input_ids"]
        assert [ids[i] for i in tokenizer(text)["input_ids"]] == cut
        assert tokenizer(text)["input_ids"] == again.tokenizer(text)["input_ids"] == plain(text)["input_ids"]
    wanted, got = read_logits(whole, SEEN), read_logits(small, SEEN)
    if head != "classification":
        wanted = wanted[..., ids]
    assert (wanted - got).abs().max() <= 1e-6
    assert torch.equal(got, read_logits(again, SEEN))
    assert again.model.get_input_embeddings().weight.shape[0] == again.model.config.vocab_size == len(ids)
    for role in ("pad", "bos", "eos", "decoder_start"):
        old = getattr(whole.model.config, f"{role}_token_id", None)
        if old is not None:
            assert ids[getattr(again.model.config, f"{role}_token_id")] == old, role


@pytest.mark.parametrize(("name", "head"), CASES)
def test_the_inspection_counts_the_parameters_of_a_trimmed_student(
    name: str, head: Head, tmp_path: Path
) -> None:
    make_checkpoint(name, head, tmp_path)
    student = PretrainedStudent(path=str(tmp_path / "whole"), vocabulary="trimmed")
    labels = LABELS if head == "classification" else ()
    tokenizer: Any = student.fit_tokenizer(SEEN)
    looked = inspect_base(
        tmp_path / "whole", labels, head, student=PretrainedStudent(path="whole", vocabulary="trimmed")
    )
    built = count_parameters(student.build(tokenizer, labels, 0, head))
    assert looked.count_parameters(len(tokenizer)) == built < looked.count_parameters(None)


@pytest.mark.parametrize("name", ["bert", "llama", "xlm-roberta", "roberta"])
def test_other_texts_fall_back_to_smaller_pieces(name: str, tmp_path: Path) -> None:
    head: Head = "causal_lm" if name == "llama" else "classification"
    whole: Any = make_checkpoint(name, head, tmp_path).tokenizer
    trimmed: Any = trim_tokenizer(whole, SEEN)
    english = UNSEEN[0]
    assert len(trimmed(english)["input_ids"]) > len(whole(english)["input_ids"])
    assert compute_unknown_share(trimmed, trimmed([english])["input_ids"]) == 0.0
    spelt = "".join(trimmed.tokenize(english)).replace("##", "")
    assert spelt == "".join(whole.tokenize(english)).replace("##", "")
    unknown = compute_unknown_share(trimmed, trimmed(["电池"], add_special_tokens=False)["input_ids"])
    assert (unknown > 0) == (name in ("bert", "xlm-roberta"))  # the others write bytes


@pytest.mark.parametrize("name", ["bert", "llama", "xlm-roberta", "roberta"])
def test_a_limit_keeps_the_most_frequent_pieces(name: str, tmp_path: Path) -> None:
    head: Head = "causal_lm" if name == "llama" else "classification"
    whole: Any = make_checkpoint(name, head, tmp_path).tokenizer
    texts = [*SEEN, *UNSEEN, *["delight"] * 50]
    full = trim_tokenizer(whole, texts)
    limit = len(full) - 6
    trimmed: Any = trim_tokenizer(whole, texts, limit)
    assert limit - 10 < len(trimmed) <= limit
    assert set(trimmed.get_vocab()) < set(full.get_vocab())
    pieces = trimmed.tokenize("delight")
    assert pieces == whole.tokenize("delight")
    with pytest.raises(ModelError, match="no room"):
        trim_tokenizer(whole, texts, 4)


def test_a_byte_pair_piece_brings_what_it_is_merged_from() -> None:
    merges = [("a", "b"), ("c", "d"), ("ab", "cd"), ("b", "c"), ("e", "f"), ("ef", "e")]
    pieces = [*SPECIAL, *"abcdefg", *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    whole = wrap(tokenizer)
    trimmed: Any = trim_tokenizer(whole, ["abcd abcd"])
    assert set(trimmed.get_vocab()) == {*SPECIAL, *"abcdefg", "ab", "cd", "abcd"}
    assert trimmed.tokenize("abcd bc efe") == ["abcd", "b", "c", "e", "f", "e"]


def test_ids_that_a_configuration_names_are_kept(tmp_path: Path) -> None:
    whole: Any = make_checkpoint("bert", "classification", tmp_path).tokenizer
    piece = whole.get_vocab()["never"]
    assert "never" not in trim_tokenizer(whole, SEEN).get_vocab()
    assert "never" in trim_tokenizer(whole, SEEN, named=[piece]).get_vocab()


def test_markers_get_rows_of_their_own(tmp_path: Path) -> None:
    whole = make_checkpoint("bert", "classification", tmp_path)
    student = PretrainedStudent(path=str(tmp_path / "whole"), vocabulary="trimmed")
    tokenizer: Any = student.fit_tokenizer(SEEN)
    count = len(tokenizer)
    tokenizer.add_tokens(["<e1>", "never"])  # the second is a piece that was left out
    model = student.build(tokenizer, LABELS, 0)
    table, old = model.get_input_embeddings().weight, whole.model.get_input_embeddings().weight
    assert table.shape[0] == count + 2 == len(tokenizer)
    assert torch.equal(table[count + 1], old[whole.tokenizer.get_vocab()["never"]])
    assert not (table[count] == old).all(dim=1).any()
    assert torch.equal(table, student.build(tokenizer, LABELS, 0).get_input_embeddings().weight)
    assert not torch.equal(
        table[count], student.build(tokenizer, LABELS, 1).get_input_embeddings().weight[count]
    )


def test_other_vocabularies_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be trimmed(.|\n)*HashedNgrams"):
        check_trimmable(LinearStudent(buckets=64).fit_tokenizer([]), "here")
    words = wrap(
        Tokenizer(models.WordLevel({t: i for i, t in enumerate([*SPECIAL, "a"])}, unk_token="<unk>"))
    )
    with pytest.raises(ModelError, match="WordLevel"):
        check_trimmable(words, "here")
    with pytest.raises(ValidationError, match="vocab_size plays no part"):
        PretrainedStudent(path="x", vocab_size=200)


def test_a_padding_that_would_move_positions_is_refused(tmp_path: Path) -> None:
    made = foreign("roberta", "classification", tmp_path)
    pad = made.tokenizer.get_vocab().get("Ġmeal", 400)  # type: ignore[attr-defined]
    config = transformers.RobertaConfig(
        **{
            **SMALL,
            "id2label": dict(enumerate(LABELS)),
            "vocab_size": 523,
            "pad_token_id": pad,
            "max_position_embeddings": 600,
        }
    )
    model = transformers.RobertaForSequenceClassification(config)
    save_model(TextModel(model, made.tokenizer, LABELS, kind="teacher", max_length=32), tmp_path / "whole")
    student = PretrainedStudent(path=str(tmp_path / "whole"), vocabulary="trimmed")
    with pytest.raises(ModelError, match="positions depend on it"):
        student.build(student.fit_tokenizer(SEEN), LABELS, 0)


def test_every_process_trims_alike(tmp_path: Path) -> None:
    make_checkpoint("bert", "classification", tmp_path)
    code = (
        "from raykd.models import PretrainedStudent\n"
        f"t = PretrainedStudent(path={str(tmp_path / 'whole')!r}, vocabulary='trimmed', vocab_size=220)\n"
        f"print(sorted(t.fit_tokenizer({CORPUS!r}).get_vocab().items()))"
    )
    shown = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert shown[0] == shown[1] != b""
