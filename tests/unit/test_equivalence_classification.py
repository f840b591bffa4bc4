"""A classifier that plain transformers made answers in raykd as it does there, and one that raykd saved answers there.

The reference is AutoModel and AutoTokenizer on one row at a time, without padding. One tokenizer family runs with every
change, all of them nightly.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raykd import models
from raykd.prediction.predictor import Predictor, build_unlabelled_rows
from raykd.tasks import Classification
from raykd.teachers.teacher import Teacher
from tests.fakes import logits_of, model_spec, text_batch
from tests.made_models import (
    ARCHITECTURES,
    FAMILIES,
    POSITIONS,
    made_pairs,
    made_texts,
    plain_probabilities,
    save_classifier,
)

TOLERANCE = 1e-5
SPREAD = 0.05
"""Probabilities of different rows must differ by this, so that the answer to another row would be seen."""
CI = "wordpiece"
CHOSEN = [
    pytest.param(family, pairs, id=f"{family}-{'pairs' if pairs else 'texts'}", marks=() if family == CI else pytest.mark.nightly)
    for family in FAMILIES
    for pairs in (False, True)
]  # fmt: skip
STUDENTS = {
    "bert": models.TransformerStudent(layers=1, hidden=16, heads=2, vocab_size=300, max_positions=POSITIONS),
    "distilbert": models.TransformerStudent(
        architecture="distilbert", layers=1, hidden=16, heads=2, vocab_size=300, max_positions=POSITIONS
    ),
    "lstm": models.LSTMStudent(embedding=12, hidden=8, vocab_size=300),
    "lstm_last": models.LSTMStudent(embedding=12, hidden=8, pooling="last", vocab_size=300),
    "linear": models.LinearStudent(buckets=2**12),
}


def held_out(pairs: bool) -> tuple[list[str], list[str] | None, list[int]]:
    """Rows that no model was trained on."""
    if pairs:
        return made_pairs(40, 7)
    texts, labels = made_texts(40, 7)
    return texts, None, labels


def predicted(directory: Path, texts: list[str], pairs: list[str] | None) -> np.ndarray:
    """``[N, C]`` of `raykd predict`, all rows in one call, classes in the model's order."""
    loaded = models.load_model(directory)
    answers = list(Predictor.of(loaded).predict(build_unlabelled_rows("text", texts, pairs)))
    return np.asarray([[answer["probabilities"][label] for label in loaded.labels] for answer in answers])


def taught(
    directory: Path, labels: tuple[str, ...], texts: list[str], pairs: list[str] | None, max_length: int
) -> np.ndarray:
    """``[N, C]`` of a teacher's logits at temperature 1, all rows in one batch."""
    spec = model_spec(
        "t",
        str(directory),
        labels,
        Classification(max_length=max_length),
        max_length=max_length,
        dtype="float32",
    )
    batch = replace(text_batch(texts), pairs=None if pairs is None else tuple(pairs))
    logits_NC = torch.from_numpy(np.array(logits_of(Teacher(spec).answer(batch))))
    return logits_NC.double().softmax(-1).numpy()


def accuracy(probabilities_NC: np.ndarray, labels: list[int]) -> float:
    return float((probabilities_NC.argmax(-1) == np.asarray(labels)).mean())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    """Folders of trained models, made when they are asked for."""
    root = tmp_path_factory.mktemp("made")

    class Made(dict[tuple[str, bool], Path]):
        def __missing__(self, key: tuple[str, bool]) -> Path:
            self[key] = save_classifier(root / f"{key[0]}-{key[1]}", key[0], pairs=key[1])
            return self[key]

    return Made()


@pytest.mark.parametrize(("family", "pairs"), CHOSEN)
def test_a_plain_model_scores_in_raykd_what_it_scores_there(
    made: dict[tuple[str, bool], Path], family: str, pairs: bool
) -> None:
    directory = made[family, pairs]
    texts, second, labels = held_out(pairs)
    plain_NC = plain_probabilities(directory, texts, second)
    assert np.ptp(plain_NC[:, 0]) > SPREAD
    predicted_NC = predicted(directory, texts, second)
    np.testing.assert_allclose(predicted_NC, plain_NC, atol=TOLERANCE)
    assert accuracy(predicted_NC, labels) == accuracy(plain_NC, labels)
    names = models.load_model(directory).labels
    taught_NC = taught(directory, names, texts, second, POSITIONS)
    np.testing.assert_allclose(taught_NC, plain_NC, atol=TOLERANCE)
    swapped_NC = taught(directory, names[::-1], texts, second, POSITIONS)
    np.testing.assert_allclose(swapped_NC[:, ::-1], plain_NC, atol=TOLERANCE)


@pytest.mark.parametrize(("family", "pairs"), CHOSEN)
def test_a_text_is_cut_where_plain_transformers_cuts_it(
    made: dict[tuple[str, bool], Path], family: str, pairs: bool
) -> None:
    directory = made[family, pairs]
    texts, second, _ = held_out(pairs)
    names = models.load_model(directory).labels
    taught_NC = taught(directory, names, texts, second, 12)
    np.testing.assert_allclose(taught_NC, plain_probabilities(directory, texts, second, 12), atol=TOLERANCE)


@pytest.mark.parametrize(("family", "pairs"), CHOSEN)
def test_a_plain_model_that_raykd_saves_again_answers_the_same_in_plain_transformers(
    made: dict[tuple[str, bool], Path], family: str, pairs: bool, tmp_path: Path
) -> None:
    texts, second, _ = held_out(pairs)
    student = models.PretrainedStudent(path=str(made[family, pairs]))
    tokenizer = student.fit_tokenizer([])
    labels = models.load_model(made[family, pairs]).labels
    built = models.TextModel(
        student.build(tokenizer, labels, 0).eval(), tokenizer, labels, kind="pretrained", max_length=POSITIONS
    )
    saved = models.save_model(built, tmp_path / "student")
    plain_NC = plain_probabilities(saved, texts, second)
    np.testing.assert_allclose(
        plain_NC, plain_probabilities(made[family, pairs], texts, second), atol=TOLERANCE
    )
    np.testing.assert_allclose(predicted(saved, texts, second), plain_NC, atol=TOLERANCE)


@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_answers_in_plain_transformers_as_in_raykd(name: str, pairs: bool, tmp_path: Path) -> None:
    student, labels = STUDENTS[name], ("negative", "positive")
    texts, second, _ = held_out(pairs)
    tokenizer = student.fit_tokenizer(texts + (second or []))
    model = student.build(tokenizer, labels, 0).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # New weights, and a linear student's zeros, say almost the same of every text.
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.4)
    saved = models.save_model(
        models.TextModel(model, tokenizer, labels, kind=student.kind, max_length=POSITIONS), tmp_path / name
    )
    models.register()
    hashing = models.load_tokenizer(saved) if name == "linear" else None  # transformers has no such tokenizer
    plain_NC = plain_probabilities(saved, texts, second, tokenizer=hashing)
    assert np.ptp(plain_NC[:, 0]) > SPREAD
    np.testing.assert_allclose(predicted(saved, texts, second), plain_NC, atol=TOLERANCE)
    np.testing.assert_allclose(taught(saved, labels, texts, second, POSITIONS), plain_NC, atol=TOLERANCE)


def test_each_family_has_an_architecture_of_its_own() -> None:
    assert len(set(ARCHITECTURES[family] for family in FAMILIES)) == len(FAMILIES)
