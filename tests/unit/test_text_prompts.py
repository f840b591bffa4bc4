"""Prompts, sources and targets as ids: one begin and one end each, the same wherever a model reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from raykd.errors import ConfigError
from raykd.tasks import CausalLM, MaskedLM, Seq2Seq
from raykd.text.batch import TextBatch
from raykd.text.prompts import encode_prompts, encode_sources, encode_targets
from tests.tokenizers import SPECIALS, byte_level, fast

TEXT = "say one : uno due tre"


def rows(prompts: list[str], targets: list[str]) -> TextBatch:
    names = tuple(map(str, range(len(prompts))))
    return TextBatch(
        names, tuple(prompts), ("en",) * len(names), np.zeros(len(names), np.int64), tuple(targets)
    )


def spelt(tokenizer: Any, ids: Any) -> str:
    return str(tokenizer.decode([int(i) for i in ids]))


@pytest.mark.parametrize(
    ("template", "begins"),
    [("$A", ""), ("<s> $A", "<s>"), ("$A </s>", ""), ("<s> $A </s>", "<s>")],
    ids=["none", "bos", "eos", "both"],
)
def test_a_prompt_is_open_and_begins_once(template: str, begins: str) -> None:
    tokenizer = byte_level([TEXT], template)
    ids = encode_prompts(tokenizer, ["uno", "<s>uno", "", "uno</s>due"])
    assert [spelt(tokenizer, row) for row in ids.ids] == [
        f"{begins}uno",
        "<s>uno",
        "<s>",
        f"{begins}uno</s>due",  # an end inside a prompt is the prompt's
    ]
    assert ids.held_B.tolist() == [False, bool(begins), False, False] and not ids.long_B.any()


def test_a_long_prompt_keeps_the_token_that_begins_a_text() -> None:
    for template, text in (("<s> $A", TEXT), ("$A", f"<s>{TEXT}")):
        tokenizer = byte_level([TEXT], template)
        whole = encode_prompts(tokenizer, [text]).ids[0].tolist()
        cut = encode_prompts(tokenizer, [text, "uno"], 4)
        assert cut.ids[0].tolist() == [whole[0], *whole[-3:]] and cut.long_B.tolist() == [True, False]
        assert spelt(tokenizer, cut.ids[0]).startswith("<s>")
    plain = byte_level([TEXT], "$A")
    assert (
        encode_prompts(plain, [TEXT], 3).ids[0].tolist() == encode_prompts(plain, [TEXT]).ids[0].tolist()[-3:]
    )


def test_a_tokenizer_that_leaves_out_what_it_does_not_know_begins_once_too() -> None:
    backend = Tokenizer(BPE({name: i for i, name in enumerate([*SPECIALS, *"你好吗的"])}, []))
    tokenizer = fast(backend, "<s> $A </s>")
    assert tokenizer("a")["input_ids"] == [0, 2]
    assert encode_prompts(tokenizer, ["你好"]).ids[0].tolist() == [0, 5, 6]
    assert encode_targets(tokenizer, ["吗"], 9, as_target=True).ids[0].tolist() == [0, 7, 2]


def test_an_empty_prompt_takes_what_there_is_to_begin_with() -> None:
    assert encode_prompts(byte_level([TEXT], "$A", bos_token=None), [""]).ids[0].tolist() == [2]
    with pytest.raises(ConfigError, match="empty prompt"):
        encode_prompts(byte_level([TEXT], "$A", bos_token=None, eos_token=None), [""])


@pytest.mark.parametrize("as_target", [False, True])
def test_a_target_ends_once(as_target: bool) -> None:
    tokenizer = byte_level([TEXT], "<s> $A </s>" if as_target else "<s> $A")
    first = "<s>" if as_target else ""
    found = encode_targets(
        tokenizer, ["uno", "uno</s>", "uno</s>\n", "uno</s>due", ""], 9, as_target=as_target
    )
    assert [spelt(tokenizer, row) for row in found.ids] == [
        *[f"{first}uno</s>"] * 3,
        f"{first}uno</s>due</s>",
        f"{first}</s>",
    ]
    assert found.held_B.tolist() == [False, True, True, False, False]
    # The end begins where the text ends, whatever stood there.
    assert [int(row[-1]) for row in found.starts] == [3, 3, 3, 10, 0]
    cut = encode_targets(tokenizer, ["uno due tre"], 2, as_target=as_target)
    assert cut.long_B.all() and cut.whole_B[0] > 2 == len(cut.ids[0]) and cut.last_B[0] == 2


def test_an_end_that_is_not_the_tokenizers_stays() -> None:
    tokenizer = byte_level([TEXT], "<s> $A </s>", split_special_tokens=True)  # "</s>" is text
    found = encode_targets(tokenizer, ["uno</s>"], 20, as_target=False)
    assert not found.held_B.any() and tokenizer.decode(found.ids[0][:-1]) == "uno</s>"


@pytest.mark.parametrize("side", ["right", "left"])
def test_sources_are_what_the_tokenizers_own_call_gives(side: str) -> None:
    tokenizer = byte_level([TEXT], "<s> $A </s>")
    tokenizer.truncation_side = side
    texts = [TEXT, "uno", ""]
    for limit in (4, 6, 100):
        wanted = tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
        found = encode_sources(tokenizer, texts, limit)
        assert [row.tolist() for row in found.ids] == wanted
        assert found.long_B.tolist() == [len(tokenizer(text)["input_ids"]) > limit for text in texts]
    assert spelt(tokenizer, encode_sources(tokenizer, ["<s>uno</s>"]).ids[0]) == "<s>uno</s>"


def test_training_and_writing_read_one_prompt_whatever_its_target() -> None:
    tokenizer = byte_level([TEXT], "<s> $A </s>")
    task = CausalLM(max_length=9, max_target_length=5)
    encoded = task.encode(tokenizer, rows([TEXT, TEXT, "uno"], ["uno", TEXT, "due"]))
    kept = [ids[:-n] for ids, n in zip(encoded.fields["input_ids"], encoded.counts_B, strict=True)]
    written = encode_prompts(tokenizer, [TEXT, TEXT, "uno"], task.prompt_tokens).ids
    assert [row.tolist() for row in kept] == [row.tolist() for row in written]
    assert encoded.long_B is not None and encoded.long_B.tolist() == [True, True, False]
    assert task.prompt_tokens == 4


@pytest.mark.parametrize(
    "task", [CausalLM(max_length=10, max_target_length=4), Seq2Seq(max_length=6, max_target_length=4)]
)
def test_cut_rows_are_counted_and_lower_the_coverage(task: Any) -> None:
    tokenizer = byte_level([TEXT], "<s> $A </s>")
    batch = rows(["uno", TEXT, "due", "due"], ["due", "due", TEXT, "uno</s>"])
    encoded = task.encode(tokenizer, batch)
    assert encoded.long_B is not None and encoded.long_B.tolist() == [False, True, True, False]
    whole = encode_targets(tokenizer, batch.pairs or (), 99, as_target=task.kind == "seq2seq").whole_B
    assert encoded.coverage == pytest.approx(np.minimum(whole, 4).sum() / whole.sum())
    assert encoded.extra["held_B"].tolist() == [False, False, False, True]
    assert len(task.encode(tokenizer, rows([], []))) == 0
    uncut = task.encode(tokenizer, rows(["uno"], ["due"]))
    assert uncut.coverage == 1.0


def test_hidden_tokens_that_are_cut_off_are_counted() -> None:
    tokenizer = byte_level([TEXT], "<s> $A </s>")
    task = MaskedLM(max_length=6, share=1.0)
    batch = TextBatch(("a", "b"), (TEXT, "uno"), ("en",) * 2, np.zeros(2, np.int64))
    encoded = task.encode(tokenizer, batch)
    whole = [len(ids) for ids in tokenizer(list(batch.texts), add_special_tokens=False)["input_ids"]]
    assert encoded.long_B is not None and encoded.long_B.tolist() == [True, False]
    assert encoded.coverage == pytest.approx((4 + whole[1]) / sum(whole))
    tokenizer.truncation_side = "left"  # a text is read from its beginning whatever the tokenizer would keep
    other = task.encode(tokenizer, batch)
    assert [row.tolist() for row in other.fields["input_ids"]] == [
        r.tolist() for r in encoded.fields["input_ids"]
    ]
    assert tokenizer.truncation_side == "left"
