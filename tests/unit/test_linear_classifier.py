"""Linear models answer alike with and without gradients, which they compute in two ways."""

from __future__ import annotations

import pytest
import torch

from raykd.networks.linear import LinearConfig, LinearForSequenceClassification, LinearForTokenClassification
from raykd.text.padding import read_padding, split_passes
from raykd.tokenizers.ngrams import HashedNgrams


def test_answers_without_gradients_are_the_same_numbers() -> None:
    torch.manual_seed(1)
    model = LinearForSequenceClassification(LinearConfig(buckets=50, num_labels=3)).eval()
    torch.nn.init.normal_(model.weights.weight)  # the row of padding too
    ids = torch.randint(1, 50, (6, 20))
    ids[torch.arange(20) >= torch.tensor([20, 1, 7, 0, 13, 20])[:, None]] = 0
    mask = (torch.arange(20) < torch.tensor([20, 1, 7, 0, 9, 20])[:, None]).long()
    for own in (None, mask):
        with torch.no_grad():
            without = model(input_ids=ids, attention_mask=own).logits
        assert torch.equal(without, model(input_ids=ids, attention_mask=own).logits.detach())
    assert torch.equal(without[3], model.bias)


def test_a_tagger_answers_without_gradients_as_with_them() -> None:
    torch.manual_seed(1)
    model = LinearForTokenClassification(LinearConfig(buckets=300, num_labels=5)).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.weights.weight)[0] = 0
        torch.nn.init.normal_(model.bias)
    words = [["Ada", "saw", "Paris", "."], [], ["x"], ["", "a b", "Ada"]]
    tokens = HashedNgrams(buckets=300).encode_words(words, 3)[0]
    width = max(map(len, tokens["input_ids"]))
    ids, mask = torch.zeros(2, 4, width, dtype=torch.long)
    for at, row in enumerate(tokens["input_ids"]):
        ids[at, : len(row)], mask[at, : len(row)] = torch.from_numpy(row), 1
    with torch.no_grad():
        without = model(input_ids=ids, attention_mask=mask).logits
    begins = mask.bool() & (ids == 0)
    assert int(begins.sum()) == 7
    assert torch.allclose(
        without[begins], model(input_ids=ids, attention_mask=mask).logits.detach()[begins], atol=1e-6
    )


@pytest.mark.parametrize("network", [LinearForSequenceClassification, LinearForTokenClassification])
def test_a_table_is_read_only_while_its_module_runs(network: type[LinearForSequenceClassification]) -> None:
    """As ZeRO 3 has it: the weights are there from a module's first hook to its last."""
    model = network(LinearConfig(buckets=50, num_labels=3)).eval()
    weight = model.weights.weight
    with torch.no_grad():
        torch.nn.init.normal_(weight)[0] = 0
        ids = torch.tensor([[0, 3, 4, 0, 7], [0, 9, 0, 0, 0]])
        wanted, whole = model(input_ids=ids).logits, weight.data
        model.weights.register_forward_pre_hook(lambda *_: setattr(weight, "data", whole))
        model.weights.register_forward_hook(lambda *_: setattr(weight, "data", whole.new_empty(0)))
        weight.data = whole.new_empty(0)
        assert torch.equal(model(input_ids=ids).logits, wanted)


def test_texts_of_all_lengths_share_a_pass() -> None:
    model = LinearForSequenceClassification(LinearConfig(buckets=5000, num_labels=3))
    tokenizer = HashedNgrams(buckets=5000)
    padding = read_padding(model, tokenizer)
    lengths = tokenizer([" ".join(map(str, range(n))) for n in range(1, 40)])["input_ids"].counts_S
    assert len(split_passes(lengths, 10**6, much_shorter=padding.much_shorter)) == 1
    assert len(split_passes(lengths, 10**6)) > 1
