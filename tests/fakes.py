"""Hand-written fakes and tiny worlds, injected where the real part would be slow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd import models
from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import decode_answers, encode_answer
from raykd.answers.source import AnswerSlots
from raykd.config import ModelTeacher
from raykd.distill.signals import UNLABELLED
from raykd.report.results import Predictions, Score, score_by_language
from raykd.tasks import Task
from raykd.tasks.scores.classification import compute_classification_metrics
from raykd.teachers.source import ReadyBatch, RoutedSource, TeacherRouter
from raykd.teachers.spec import TeacherSpec
from raykd.text.batch import TextBatch

LABELS = ("negative", "positive")
GOOD = ["good", "fine", "great", "lovely", "bright"]
BAD = ["bad", "poor", "awful", "ugly", "dull"]
FILLER = [
    "the",
    "room",
    "was",
    "food",
    "and",
    "place",
    "very",
    "quite",
    "today",
    "again",
    "here",
    "we",
    "said",
    "it",
]


def texts_and_labels(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Short texts whose label is which kind of word they hold; lengths vary."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        label = int(rng.integers(2))
        words = list(rng.choice(FILLER, size=int(rng.integers(3, 14))))
        words.insert(int(rng.integers(len(words))), str(rng.choice(GOOD if label else BAD)))
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


def model_spec(
    name: str,
    path: str,
    labels: tuple[str, ...],
    task: Task,
    languages: frozenset[str] | None = None,
    **settings: Any,
) -> TeacherSpec:
    """The spec of a saved model as a teacher; settings are keys of its configuration or of the spec."""
    keys = ModelTeacher.model_fields.keys()
    own = {key: settings.pop(key) for key in list(settings) if key in keys}
    spoken = "all" if languages is None else tuple(sorted(languages))
    return TeacherSpec(ModelTeacher(name=name, path=path, languages=spoken, **own), labels, task, **settings)


def text_batch(
    texts: Sequence[str], languages: Sequence[str] | None = None, labels: Sequence[int] | None = None
) -> TextBatch:
    """A batch with ids t0, t1, ..."""
    return TextBatch(
        ids=tuple(f"t{i}" for i in range(len(texts))),
        texts=tuple(texts),
        languages=tuple(languages) if languages is not None else ("en",) * len(texts),
        labels_B=np.asarray(labels if labels is not None else [UNLABELLED] * len(texts), dtype=np.int64),
    )


def save_transformer(
    directory: Path, *, labels: Sequence[str] = LABELS, seed: int = 0, hidden: int = 16, layers: int = 1
) -> Path:
    """A tiny untrained transformer with the tokenizer of the tiny world, saved as a user would find it."""
    spec = models.TransformerStudent(
        layers=layers, hidden=hidden, heads=2, dropout=0.0, vocab_size=200, max_positions=64
    )
    tokenizer = spec.fit_tokenizer(texts_and_labels(300)[0])
    built = models.TextModel(spec.build(tokenizer, labels, seed), tokenizer, tuple(labels), max_length=64)
    # Random heads answer almost alike for every text; a larger head makes answers differ.
    built.model.classifier.weight.data.mul_(20.0)
    models.save_model(built, directory)
    return directory


class FixedSource(RoutedSource):
    """A source that answers with a function of the text's length: deterministic, no model."""

    def __init__(
        self, teachers: Sequence[str], languages: Sequence[frozenset[str] | None], classes: int = 2
    ) -> None:
        self.router = TeacherRouter(tuple(teachers), tuple(languages))
        self.classes = classes
        self.submitted: list[TextBatch] = []

    def submit(self, batch: TextBatch) -> ReadyBatch:
        self.submitted.append(batch)
        asked_MB = self.router.route(batch)
        answers = []
        for m, name in enumerate(self.teachers):
            logits = [[np.sin(len(t) + m + c) * 3 for c in range(self.classes)] for t in batch.texts]
            answers.append(answer_slots(name, logits, asked_MB[m]))
        return ReadyBatch(answers)


def encode_logits(logits_NC: Any) -> list[bytes]:
    """The body of each row of a classifier's logits."""
    rows = np.asarray(logits_NC, dtype=np.float32)
    return [encode_answer(DenseAnswer(logits_NC=row[None], covered_N=np.ones(1, bool))) for row in rows]


def answer_slots(teacher: str, logits_NC: Any, asked_B: Any = None, **options: Any) -> AnswerSlots:
    """A classifier's answers to a batch; rows that were not asked for have none."""
    bodies = encode_logits(logits_NC)
    asked = [True] * len(bodies) if asked_B is None else np.asarray(asked_B).tolist()
    kept = [body if there else None for body, there in zip(bodies, asked, strict=True)]
    return AnswerSlots(teacher, kept, **options)


def logits_of(slots: AnswerSlots) -> NDArray[np.float32]:
    """``[N, C]``: a teacher's logits, 0 for a row without an answer."""
    answer, units_B = decode_answers(slots.bodies)
    assert isinstance(answer, DenseAnswer)
    logits_NC = np.zeros((len(slots), answer.logits_NC.shape[1]), dtype=np.float32)
    logits_NC[units_B > 0] = answer.logits_NC
    return logits_NC


def scored(p: Predictions) -> Score:
    """The score of a classifier whose rows are the units."""
    counted_N = p.covered_N & (p.labels_N != UNLABELLED)
    return score_by_language(
        p.languages,
        counted_N,
        lambda rows: compute_classification_metrics(p.logits_NC[rows], p.labels_N[rows]),
    )
