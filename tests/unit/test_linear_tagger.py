"""A linear tagger: n-grams of each word and of its neighbours, against sums by hand; padding, saving, learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raykd import models
from raykd.prediction.predictor import Predictor, build_unlabelled_rows
from raykd.tasks import TokenClassification
from raykd.text.batch import TextBatch

TAGS = ("O", "B-PER", "I-PER")
ROWS = [
    (["Mr", "Lee", "sang", "."], (0, 1, 0, 0)),
    (["we", "saw", "Mr", "Ana", "Roy"], (0, 0, 0, 1, 2)),
    (["Lee", "is", "a", "river"], (0, 0, 0, 0)),  # the same word as above, which its neighbours tell apart
]


def batch() -> TextBatch:
    texts, words = [], []
    for row, _ in ROWS:
        texts.append(" ".join(row))
        ends = np.cumsum([len(word) + 1 for word in row])
        words.append(tuple((int(e) - len(w) - 1, int(e) - 1) for w, e in zip(row, ends, strict=True)))
    return TextBatch(
        ids=("a", "b", "c"),
        texts=tuple(texts),
        languages=("en",) * 3,
        labels_B=np.full(3, -100),
        words=tuple(words),
        golds=tuple(tags for _, tags in ROWS),
    )


def build(seed: int = 0) -> tuple[Any, Any]:
    student = models.LinearStudent(buckets=512)
    tokenizer = student.fit_tokenizer(())
    model = student.build(tokenizer, TAGS, 0, "token_classification")
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.weights.weight[1:])
    return model, tokenizer


def test_logits_are_sums_over_a_word_and_its_neighbours() -> None:
    model, tokenizer = build()
    table, bias = model.weights.weight.detach().double(), model.bias.detach().double()
    task = TokenClassification(max_length=16)
    encoded = task.encode(tokenizer, batch())
    collated = task.collate(encoded, [0, 1, 2])
    with torch.no_grad():
        units = task.gather(collated.run(model), collated).double()
    expected = []
    for row, _ in ROWS:
        parts = []
        for word in row:
            ids = torch.from_numpy(tokenizer([word], truncation=False)["input_ids"][0])
            parts.append((table[ids].sum(0) / len(ids) ** 0.5).view(3, len(TAGS)))
        for at in range(len(row)):
            value = bias + parts[at][0]
            value = value + (parts[at - 1][1] if at else 0.0)
            expected.append(value + (parts[at + 1][2] if at + 1 < len(row) else 0.0))
    assert torch.allclose(units, torch.stack(expected), atol=1e-5)


def test_a_row_answers_alike_alone_and_among_longer_ones() -> None:
    model, tokenizer = build()
    task = TokenClassification(max_length=16)
    encoded = task.encode(tokenizer, batch())
    with torch.no_grad():
        together, alone = (
            task.gather(c.run(model), c) for c in (task.collate(encoded, [0, 1]), task.collate(encoded, [0]))
        )
    assert torch.allclose(together[: len(alone)], alone, atol=1e-6)


def test_words_beyond_the_limit_are_not_seen() -> None:
    _, tokenizer = build()
    encoded = TokenClassification(max_length=3).encode(tokenizer, batch())
    assert encoded.long_B is not None and encoded.long_B.all()
    assert encoded.places_N2 is not None
    assert (encoded.places_N2[:, 1] >= 0).tolist() == [True] * 3 + [False] + [True] * 3 + [False] * 2 + [
        True
    ] * 3 + [False]


def test_it_learns_what_neighbours_tell_and_a_saved_one_answers_alike(tmp_path: Path) -> None:
    student = models.LinearStudent(buckets=4096)
    tokenizer = student.fit_tokenizer(())
    model = student.build(tokenizer, TAGS, 0, "token_classification")
    task = TokenClassification(max_length=16)
    collated = task.collate(task.encode(tokenizer, batch()), [0, 1, 2])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(
            task.gather(collated.run(model), collated), collated.labels_N
        ).backward()
        optimizer.step()
    assert task.gather(collated.run(model), collated).argmax(-1).tolist() == collated.labels_N.tolist()
    folder = models.save_model(
        models.TextModel(model, tokenizer, TAGS, kind="linear", task="token_classification", max_length=16),
        tmp_path / "tagger",
    )
    predicted = Predictor.of(models.load_model(folder)).predict(
        build_unlabelled_rows("words", list(batch().texts), None)
    )
    entities = [[entity["text"] for entity in row["entities"]] for row in predicted]  # type: ignore[attr-defined, index]
    assert entities == [["Lee"], ["Ana Roy"], []]


@pytest.mark.parametrize("head", sorted(models.LinearStudent.tasks))
def test_every_head_of_a_linear_student_is_built(head: Any) -> None:
    student = models.LinearStudent(buckets=64)
    labels = () if head == "regression" else TAGS
    model = student.build(student.fit_tokenizer(()), labels, 0, head)
    assert models.count_parameters(model) in (65, 64 * 3 + 3, 64 * 9 + 3)
