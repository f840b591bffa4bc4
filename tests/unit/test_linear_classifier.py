"""Linear models answer alike by padded ids, as they are trained, and by ids that stand in one list."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raykd.networks.crf import add_crf
from raykd.networks.linear import LinearConfig, LinearForSequenceClassification, LinearForTokenClassification
from raykd.prediction.predictor import build_unlabelled_rows
from raykd.tasks import build_task
from raykd.text.padding import RIGHT, read_padding, split_passes
from raykd.tokenizers.ngrams import HashedNgrams

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
CPU = torch.device("cpu")


def _make(
    network: type[LinearForSequenceClassification], labels: tuple[str, ...]
) -> LinearForSequenceClassification:
    torch.manual_seed(1)
    config = LinearConfig(buckets=300, id2label=dict(enumerate(labels)))
    model = network(config).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.weights.weight)[0] = 0
        torch.nn.init.normal_(model.bias)
    return model


def test_a_classifier_gives_the_same_numbers_for_joined_ids() -> None:
    model, tokenizer = _make(LinearForSequenceClassification, ("a", "b", "c")), HashedNgrams(buckets=300)
    task = build_task({"kind": "classification", "max_length": 4})
    batch = build_unlabelled_rows("text", ["", "a", "Ada saw Paris and Rome", "", "x y"])
    rows = task.encode(tokenizer, batch)
    joined = read_padding(model, tokenizer).answering(CPU)
    assert joined.joined and not read_padding(model, tokenizer).answering(torch.device("cuda")).joined
    for picked in ([0, 1, 2, 3, 4], [4, 2, 0], [2, 3], [0]):
        padded, own = (task.collate(rows, picked, how) for how in (RIGHT, joined))
        assert own.real_tokens == own.computed_tokens == padded.real_tokens
        with torch.no_grad():
            wanted, found = (task.gather(one.run(model), one) for one in (padded, own))
        assert torch.equal(wanted, found) and torch.isfinite(found).all()
    assert torch.equal(found, model.bias[None])


@pytest.mark.parametrize("chain", [False, True])
def test_a_tagger_gives_the_same_numbers_for_joined_ids(chain: bool) -> None:
    model, tokenizer = _make(LinearForTokenClassification, TAGS), HashedNgrams(buckets=300)
    if chain:
        torch.nn.init.normal_(add_crf(model).crf.scores_XC)
    task = build_task({"kind": "token_classification", "max_length": 3})
    words = [["Ada", "saw", "Paris", "."], ["x"], ["y", "z", "y"], ["Ada"] * 9]
    batch = build_unlabelled_rows("words", [], tokens=words)
    rows, joined = task.encode(tokenizer, batch), read_padding(model, tokenizer).answering(CPU)
    for picked in ([0, 1, 2, 3], [3, 1, 0], [2]):
        padded, own = (task.collate(rows, picked, how) for how in (RIGHT, joined))
        wanted, found = (task.evaluate_batch(model, one) for one in (padded, own))
        assert np.abs(wanted.logits_NC - found.logits_NC)[wanted.covered_N].max() < 1e-5
        assert (wanted.covered_N == found.covered_N).all()
        chosen = task.choose(model, own)
        shown = [task.build_predictions(one, batch.take(picked), TAGS) for one in (found, chosen)]
        assert shown[0] == shown[1]
        if (
            chain
        ):  # each of 5 ** 3 rows of tags is compared in test_crf.py; here the two ways to find the best one
            tags = [one.logits_NC[found.covered_N].argmax(axis=1) for one in (found, chosen)]
            assert (tags[0] == tags[1]).all()
    assert not rows.places_N2[:, 0].min() >= 0, "no word was cut"


@pytest.mark.parametrize("network", [LinearForSequenceClassification, LinearForTokenClassification])
def test_a_table_is_read_only_while_its_module_runs(network: type[LinearForSequenceClassification]) -> None:
    """As ZeRO 3 has it: the weights are there from a module's first hook to its last."""
    model = _make(network, TAGS)
    weight = model.weights.weight
    starts = torch.tensor([0, 5])
    ids = torch.tensor([0, 3, 4, 0, 7, 0, 9])
    with torch.no_grad():
        wanted, whole = model(input_ids=ids, bag_starts=starts).logits, weight.data
        model.weights.register_forward_pre_hook(lambda *_: setattr(weight, "data", whole))
        model.weights.register_forward_hook(lambda *_: setattr(weight, "data", whole.new_empty(0)))
        weight.data = whole.new_empty(0)
        assert torch.equal(model(input_ids=ids, bag_starts=starts).logits, wanted)


def test_texts_of_all_lengths_share_a_pass() -> None:
    model = _make(LinearForSequenceClassification, TAGS)
    tokenizer = HashedNgrams(buckets=300)
    padding = read_padding(model, tokenizer)
    lengths = tokenizer([" ".join(map(str, range(n))) for n in range(1, 40)])["input_ids"].counts_S
    assert len(split_passes(lengths, 10**6, much_shorter=padding.much_shorter)) == 1
    assert len(split_passes(lengths, 10**6)) > 1
    passes = split_passes(lengths, 500, joined=True)
    assert [at for part in passes for at in part] == list(range(39))
    sums = [int(lengths[part].sum()) for part in passes]
    assert len(sums) > 3 and max(sums) < 500 + lengths.max() and min(sums[:-1]) > 500 - lengths.max()
