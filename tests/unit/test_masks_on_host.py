"""A model is told whether a batch has padding, so that it need not ask the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from benchmarks.gpu_parts.counting import Operators
from raykd.compat.transformers_private import knowing_padding

SIZES: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 16}


def made(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "bert":
        config = BertConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, **SIZES
        )
        return BertModel(config).eval()
    return GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=16)).eval()


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_mask_is_not_read_back_and_the_output_stays(kind: str, padded: bool) -> None:
    model, ids = made(kind), torch.arange(12).view(2, 6)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 4:] = 0
    with torch.no_grad():
        with Operators() as before:
            expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
        with knowing_padding(padded), Operators() as after:
            got = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert before.reads >= 1 and after.reads == 0
    assert torch.equal(got, expected)


def test_outside_of_it_a_mask_is_looked_at_again() -> None:
    model, ids = made("bert"), torch.arange(12).view(2, 6)
    with torch.no_grad():
        with knowing_padding(True):
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
        with knowing_padding(None), Operators() as count:
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert count.reads == 1
